"""What the server does when twice as much comes as it can carry.

    python -m benchmarks.overload [--seconds N] [--json FILE]

Requests arrive by themselves (Poisson), from a client process on a core of its own; the server, one worker, has another. For
each case: the rate the server carries (a closed loop), then arrivals at 80 % of it and at twice of it. Latencies count from
the moment at which a request was to be sent. Every accepted answer is checked; those shed (429 or 503, with Retry-After)
are apart. Meanwhile health and metrics are asked for ten times a second.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.overload_client import Arrivals, Outcome, offer
from benchmarks.results import write_results
from benchmarks.serving_servers import ours, started
from digits import mnist
from digits.contract import Backend, Images
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from digits.store import find_model
from loadtests.server import free_ports, on_cores
from runtimes.backends import open_runtime
from runtimes.device import CPU

RECIPE: Final = "torch-relu"
CLOSED_CONNECTIONS: Final = 16  # of the closed loop that finds what the server carries
CONNECTIONS: Final = 256  # of the open loop
PROBE_SECONDS: Final = 0.1
WARM_UP_SECONDS: Final = 2
SHED_MS: Final = 5.0  # the goal for the median of what is shed
P99_RATIO: Final = 2.0  # the goal for accepted requests at twice the rate, against those at 80 %


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    backend: Backend
    images: int  # in a request
    settings: dict[str, str] = field(default_factory=dict)


CASES: Final = (
    Case(name="ONNX, 64 images a request", backend="onnx", images=64),
    Case(
        name="TensorFlow, one image, unbatched", backend="tensorflow", images=1, settings={"SAMEDIGIT_MAX_BATCH": "1"}
    ),
    Case(name="TensorFlow, 64 images a request", backend="tensorflow", images=64),
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What health or metrics answered meanwhile."""

    asked: int
    failed: int
    p50_ms: float
    worst_ms: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    case: str
    load: str
    offered_per_second: float
    accepted_per_second: float
    p50_ms: float
    p99_ms: float
    shed: int
    shed_p50_ms: float | None
    shed_p99_ms: float | None
    wrong: int
    refused: int  # neither accepted nor shed
    lost: int
    client_busy: float
    client_late_p99_ms: float
    probes: dict[str, Probe]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement (default 10)")
    parser.add_argument(
        "--json", type=Path, default=Path("results/overload.json"), help="default: results/overload.json"
    )
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="only this one")
    arguments = parser.parse_args()
    if arguments.seconds < 1:
        parser.error("--seconds must be at least 1")
    try:
        cases = CASES if arguments.case is None else CASES[arguments.case : arguments.case + 1]
        document = run(cases, seconds=arguments.seconds)
        write_results(document, arguments.json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SamedigitError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    show(document)


def run(cases: tuple[Case, ...], *, seconds: int) -> dict[str, Any]:
    """Every case. The result is what the JSON file holds.

    Raises:
        SamedigitError: no model, or the server did not start.
    """
    cores = sorted(os.sched_getaffinity(0))
    server_cores, client_cores = ([cores[0]], [cores[-1]]) if len(cores) > 1 else (None, None)
    model = find_model(RECIPE)
    images = mnist.test_images().images[:4096]
    digits = open_runtime("onnx", model.path("onnx"), device=CPU).predict(images).argmax(axis=1)
    measurements = []
    with Progress(console=Console(stderr=True), transient=True) as progress, on_cores(client_cores):
        for case in cases:
            requests, endings = write_requests(f"{RECIPE}.{case.backend}", images, digits, batch=case.images)
            port, data_port = free_ports(2)
            start = ours(model, case.backend, (port, data_port), **case.settings)
            with started({case.name: start}, cores=server_cores, progress=progress) as servers:
                servers[case.name].wake()
                load = Arrivals(
                    port=data_port, requests=requests, endings=endings, rate=None, seconds=seconds,
                    connections=CLOSED_CONNECTIONS, cores=client_cores,
                )  # fmt: skip
                measurements += _measure(case, load, port, progress)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "pinning": f"server on core {cores[0]}, client on core {cores[-1]}" if len(cores) > 1 else "none",
        "model": model.tag,
        "measurements": [asdict(one) for one in measurements],
        "goals": goals(measurements),
    }


def _measure(case: Case, load: Arrivals, port: int, progress: Progress) -> list[Measurement]:
    """What a server carries, and then 80 % and twice of that; `port` is the API's, where the metrics are."""
    step = progress.add_task(case.name, total=4)
    offer(replace(load, seconds=WARM_UP_SECONDS))
    measurements: list[Measurement] = []
    for name, share in (("closed loop", None), ("80 %", 0.8), ("200 %", 2.0)):
        progress.advance(step)
        if share is not None:
            load = replace(load, rate=share * measurements[0].accepted_per_second, connections=CONNECTIONS)
        with probing(port, load.port) as probes:
            outcome = offer(load)
        measurements.append(measurement(case.name, name, load.rate, outcome, probes))
    progress.remove_task(step)
    return measurements


def write_requests(name: str, images: Images, digits: Any, *, batch: int) -> tuple[list[bytes], list[bytes]]:
    """Whole requests of `batch` raw images each, and how the right answer to each ends: with the raw digits.

    Images that are left over, too few for another request, are in none.
    """
    tensor = {
        "name": "images", "shape": [batch, 28, 28], "datatype": "UINT8", "parameters": {"binary_data_size": batch * 784},
    }  # fmt: skip
    output = {"name": "digits", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    requests, endings = [], []
    for start in range(0, len(images) - batch + 1, batch):
        body = head + images[start : start + batch].tobytes()
        lines = (
            f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        requests.append(lines.encode() + body)
        endings.append(digits[start : start + batch].astype("<i8").tobytes())
    return requests, endings


@contextmanager
def probing(port: int, data_port: int) -> Iterator[dict[str, list[float | None]]]:
    """Meanwhile asks for health and metrics again and again, each on a new connection. Milliseconds; None: no 200."""
    asked = {"/v2/health/live": data_port, "/metrics": port}
    answers: dict[str, list[float | None]] = {path: [] for path in asked}
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(PROBE_SECONDS):
            for path, where in asked.items():
                began = time.perf_counter()
                connection = http.client.HTTPConnection("127.0.0.1", where, timeout=5)
                try:
                    connection.request("GET", path)
                    response = connection.getresponse()
                    response.read()
                    well = response.status == 200
                except (OSError, http.client.HTTPException):
                    well = False
                finally:
                    connection.close()
                answers[path].append((time.perf_counter() - began) * 1000 if well else None)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def measurement(
    case: str, load: str, rate: float | None, outcome: Outcome, probes: dict[str, list[float | None]]
) -> Measurement:
    accepted = outcome.accepted_ms
    if len(accepted) == 0:
        raise LoadTestError(f"{case}, {load}: no request was accepted.")
    rejected = outcome.wrong + outcome.refused + outcome.lost
    answered = len(accepted) + len(outcome.shed_ms) + rejected
    shed = outcome.shed_ms if len(outcome.shed_ms) else None
    found = {}
    for path, answers in probes.items():
        well = [answer for answer in answers if answer is not None] or [float("nan")]
        found[path] = Probe(
            asked=len(answers), failed=sum(answer is None for answer in answers), p50_ms=statistics.median(well),
            worst_ms=max(well),
        )  # fmt: skip
    return Measurement(
        case=case,
        load=load,
        offered_per_second=rate or answered / outcome.seconds,
        accepted_per_second=len(accepted) / outcome.seconds,
        p50_ms=float(np.percentile(accepted, 50)),
        p99_ms=float(np.percentile(accepted, 99)),
        shed=len(outcome.shed_ms),
        shed_p50_ms=None if shed is None else float(np.percentile(shed, 50)),
        shed_p99_ms=None if shed is None else float(np.percentile(shed, 99)),
        wrong=outcome.wrong,
        refused=outcome.refused,
        lost=outcome.lost,
        client_busy=outcome.busy,
        client_late_p99_ms=float(np.percentile(outcome.late_ms, 99)),
        probes=found,
    )


def goals(measurements: list[Measurement]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    by_load = {(one.case, one.load): one for one in measurements}
    for case in dict.fromkeys(one.case for one in measurements):
        calm, twice = by_load[case, "80 %"], by_load[case, "200 %"]
        shed = twice.shed_p50_ms
        ratio = twice.p99_ms / calm.p99_ms
        bad = sum(one.wrong + one.refused + one.lost for one in (calm, twice))
        unanswered = sum(probe.failed for one in (calm, twice) for probe in one.probes.values())
        found += [
            {"case": case, "goal": f"shed within {SHED_MS:g} ms at the median", "value": shed,
             "met": shed is not None and shed <= SHED_MS},
            {"case": case, "goal": f"p99 of accepted at 200 % within {P99_RATIO:g}x of that at 80 %", "value": ratio,
             "met": ratio <= P99_RATIO},
            {"case": case, "goal": "none wrong, lost, or refused otherwise", "value": bad, "met": bad == 0},
            {"case": case, "goal": "health and metrics answer throughout", "value": unanswered, "met": unanswered == 0},
        ]  # fmt: skip
    return found


def show(document: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 190)
    table = Table(title=f"{document['machine']}; {document['pinning']}")
    for title in ("case", "load"):
        table.add_column(title)
    columns = (
        "offered/s", "accepted/s", "p50, ms", "p99, ms", "shed", "shed p50, ms", "shed p99, ms", "wrong, refused, lost",
        "client busy", "sent late p99, ms", "health p50, worst", "metrics p50, worst",
    )  # fmt: skip
    for title in columns:
        table.add_column(title, justify="right")
    for one in document["measurements"]:
        probes = [f"{probe['p50_ms']:.1f}, {probe['worst_ms']:.0f}" for probe in one["probes"].values()]
        shed = [f"{value:.2f}" if value is not None else "" for value in (one["shed_p50_ms"], one["shed_p99_ms"])]
        table.add_row(
            one["case"], one["load"], f"{one['offered_per_second']:,.0f}", f"{one['accepted_per_second']:,.0f}",
            f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", f"{one['shed']:,}", *shed,
            f"{one['wrong']}, {one['refused']}, {one['lost']}", f"{one['client_busy']:.0%}",
            f"{one['client_late_p99_ms']:.2f}", *probes,
        )  # fmt: skip
    console.print(table)
    for goal in document["goals"]:
        value = "none" if goal["value"] is None else f"{goal['value']:.3g}"
        console.print(
            f"{goal['case']}: {goal['goal']}: {value}, {'met' if goal['met'] else 'NOT MET'}", highlight=False
        )


if __name__ == "__main__":
    main()
