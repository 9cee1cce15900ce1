"""How fast the server is beside its peers, in one run: ratios, and whether they meet the goals.

    python -m benchmarks.serving [--seconds N] [--json FILE] [--peers NAME ...]

The same ONNX model (the torch-relu that the store serves, and torch-conv where a slow one is asked) and the same images for
everybody. Servers have one worker, and one core; wrk (Locust's fast client, where wrk is missing), and for gRPC h2load, has
another. A measurement is a closed loop of one second in each of N rounds. A round measures every server, in a new random order,
so that what else the machine does hits all alike; compared are the medians of the rounds. Who is not measured sleeps (SIGSTOP),
since some poll.
Before each measurement 16 answers must be the model's own; in it, answers with an error status and requests without an answer
are counted, as failed.

The peers are FastAPI with pydantic, MLServer, bentoml as its quickstart has it, LitServe, and Triton's C++ server, which is
left out where it does not start. Each comes from its package in an environment of its own (`peers`), made at first use. An
empty bentoml service, bentoml's adaptive batching and grpcio's own server run in this project's environment.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import onnxruntime
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import serving_cases as cases
from benchmarks import serving_client
from benchmarks.results import write_results
from benchmarks.serving_cases import Measurement
from benchmarks.serving_costs import costs
from benchmarks.serving_servers import PEERS, locked_version
from digits.errors import SamedigitError
from digits.machine import machine
from loadtests.server import on_cores

NAMES: Final = {
    "bentoml": "bentoml, peer",
    "triton": "nvidia-pytriton",
}  # what versions are of, where the peer's name misleads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement, one a round (default 5)")
    parser.add_argument("--json", type=Path, default=Path("results/serving.json"), help="default: results/serving.json")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers, some of them asleep, are stopped
    if arguments.seconds < 1:
        parser.error("--seconds must be at least 1")
    try:
        document = run(seconds=arguments.seconds, peers=arguments.peers)
        write_results(document, arguments.json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SamedigitError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    _show(document)


def run(*, seconds: int, peers: Sequence[str]) -> dict[str, Any]:
    """Every case. The result is what the JSON file holds.

    Raises:
        SamedigitError: something is missing, a server did not start, or an answer was wrong.
    """
    client = serving_client.client()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bench = cases.prepare(rounds=seconds, progress=progress)
        cores = bench.cores
        parts: dict[str, Callable[[], list[Measurement]]] = {
            "one image a request, and 64": lambda: cases.through_onnx(bench, peers),
            "gRPC": lambda: cases.through_grpc(bench, peers),
            "batching": lambda: cases.batching(bench),
            "a slow model": lambda: cases.slow_model(bench, peers),
            "start and memory": lambda: cases.start_and_memory(bench),
            "two workers": lambda: cases.two_workers(bench),
            "what each guard costs": lambda: costs(bench),
        }
        measurements = []
        with on_cores(cores.client):  # this process asks servers whether they are ready: not from their core
            for i, (part, measure) in enumerate(parts.items(), 1):
                progress.console.print(f"{i} of {len(parts)}: {part}", highlight=False)
                measurements += measure()
    pinning = (
        f"servers on core {cores.server[0]}, client on core {cores.client[0]}"
        if cores.server and cores.client
        else "none"
    )
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "pinning": pinning,
        "client": client,
        "model": bench.model.tag,
        "versions": {
            **{package: version(package) for package in ("bentoml", "grpcio", "uvicorn", "numpy")},
            "onnxruntime": onnxruntime.__version__,
            **{NAMES.get(name, PEERS[name]): locked_version(name) for name in peers},
        },
        "measurements": [asdict(measurement) for measurement in measurements],
        "goals": [asdict(goal) for goal in cases.goals(measurements, cores)],
    }


def _show(document: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 170)
    columns = {
        "requests_per_second": "requests/s",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "cpu_us_per_request": "CPU, us/request",
        "seconds": "s",
        "megabytes": "MB",
        "failed": "failed",
    }
    table = Table(title=f"{document['machine']}; {document['client']}; {document['pinning']}")
    for title in ("case", "server"):
        table.add_column(title)
    for title in columns.values():
        table.add_column(title, justify="right")
    for one in document["measurements"]:
        table.add_row(one["case"], one["server"], *(_number(one[key]) for key in columns))
    console.print(table)
    for one in document["measurements"]:
        if one["failed"]:
            console.print(
                f"{one['case']}: {one['server']} failed {one['failed']:,} requests", style="red", highlight=False
            )
    table = Table(title="goals")
    for title in ("case", "goal", "against"):
        table.add_column(title)
    for title in ("ours", "theirs", "ratio", "of the rounds", ""):
        table.add_column(title, justify="right")
    for goal in document["goals"]:
        ours, theirs = (f"{_number(goal[key])} {goal['unit']}" for key in ("ours", "theirs"))
        met = "met" if goal["met"] else "NOT MET"
        rounds = "{:.2f} to {:.2f}".format(*goal["rounds"]) if goal["rounds"] else ""
        table.add_row(goal["case"], goal["goal"], goal["against"], ours, theirs, f"{goal['ratio']:.2f}", rounds, met)
    console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 or isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
