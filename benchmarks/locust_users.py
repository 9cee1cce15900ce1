"""How many requests a second Locust's users reach on one core: ours, and its own FastHttpUser.

    python -m benchmarks.locust_users [--rounds N] [--json FILE]

Both ask the same server for the same images in a closed loop of 64 callers, the client on one core and the server on another.
In each round both take their turn, in random order. Ours checks every answer; FastHttpUser looks at the status alone. It speaks
no gRPC, so that is not compared.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.results import write_results
from benchmarks.serving_client import load_by_locust
from comparison.intervals import Interval, log_interval
from digits import mnist
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from digits.store import find_model
from loadtests.load_test import read_figures, run_locust, two_cores, url_of
from loadtests.protocols import PROTOCOLS, ProtocolName
from loadtests.server import FreshServer, fresh_server
from loadtests.wire import write_requests

RECIPE: Final = "torch-relu"
BACKEND: Final = "onnx"
ASKED: Final[tuple[ProtocolName, ...]] = ("predict", "v2-json", "v2-binary")
CALLERS: Final = 64
IMAGES: Final = 1000
SECONDS: Final = 2
GOAL: Final = 2.0  # times the rate of FastHttpUser


@dataclass(frozen=True, kw_only=True)
class Row:
    protocol: ProtocolName
    ours: float  # requests a second, the median of the rounds
    fast_http_user: float
    ratio: float  # the geometric mean over rounds
    interval: Interval | None  # 95 %, over rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--json", type=Path, default=Path("results/locust-users.json"))
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    try:
        rows = measure(arguments.rounds)
        document = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "rounds": arguments.rounds,
            "callers": CALLERS,
            "locust": version("locust"),
            "goal": GOAL,
            "rows": [asdict(row) for row in rows],
        }
        write_results(document, arguments.json)
    except SamedigitError as error:
        sys.exit(f"Error: {error}")
    table = Table(title=f"{machine()}; Locust {version('locust')}, {CALLERS} callers, {arguments.rounds} rounds")
    for column in ("protocol", "ours, /s", "FastHttpUser, /s", "times", "95 %"):
        table.add_column(column, justify="left" if column == "protocol" else "right")
    for row in rows:
        low, high = row.interval or (float("nan"),) * 2
        table.add_row(
            row.protocol, f"{row.ours:,.0f}", f"{row.fast_http_user:,.0f}", f"{row.ratio:.2f}", f"{low:.2f} to {high:.2f}"
        )  # fmt: skip
    Console().print(table)
    met = all(row.ratio >= GOAL for row in rows)
    print(f"Goal: at least {GOAL:g} times FastHttpUser's rate over each: {'met' if met else 'not met'}")


def measure(rounds: int) -> list[Row]:
    """Raises:
    LoadTestError: the server did not start, a client failed, or a request did.
    """
    server_core, client_core = two_cores()
    settings = {"SAMEDIGIT_MODELS": find_model(RECIPE).tag, "SAMEDIGIT_BACKENDS": BACKEND}
    turns = random.Random(1)
    rates: dict[ProtocolName, dict[str, list[float]]] = {protocol: {"ours": [], "theirs": []} for protocol in ASKED}
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_server(settings, core=server_core) as fresh,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("rounds", total=rounds * len(ASKED) * 2)
        files = {protocol: write_file(protocol, Path(folder, protocol)) for protocol in ASKED}
        for _ in range(rounds):
            for protocol, who in turns.sample(
                [(asked, who) for asked in ASKED for who in ("ours", "theirs")], 2 * len(ASKED)
            ):
                measured = of_ours if who == "ours" else of_theirs
                rates[protocol][who].append(measured(fresh, protocol, files[protocol], client_core))
                progress.advance(task)
    found = []
    for protocol, of in rates.items():
        ratios = np.divide(of["ours"], of["theirs"])
        found.append(
            Row(
                protocol=protocol,
                ours=float(np.median(of["ours"])),
                fast_http_user=float(np.median(of["theirs"])),
                ratio=float(np.exp(np.log(ratios).mean())),
                interval=log_interval(ratios),
            )
        )
    return found


def write_file(protocol: ProtocolName, file: Path) -> Path:
    """The requests, as `serving_locust` reads them: each after a line with its length."""
    path = PROTOCOLS[protocol].path(RECIPE, BACKEND)
    requests = write_requests(protocol, "127.0.0.1", path, mnist.test_images().images[:IMAGES])
    file.write_bytes(b"".join(b"%d\n%b" % (len(request), request) for request in requests.whole))
    return file


def of_ours(fresh: FreshServer, protocol: ProtocolName, file: Path, core: int | None) -> float:
    """Right answers and wrong digits a second: a model errs."""
    latencies = file.with_suffix(".csv")
    run_locust(
        url_of(fresh, protocol), BACKEND, protocol, users=CALLERS, duration=SECONDS, core=core, latencies=latencies
    )
    figures = read_figures(latencies, duration=SECONDS)
    if figures is None or figures.failures:
        raise LoadTestError(f"Of our users' requests over {protocol} some failed: {figures}")
    return figures.requests_per_second


def of_theirs(fresh: FreshServer, protocol: ProtocolName, file: Path, core: int | None) -> float:
    cores = None if core is None else [core]
    found = load_by_locust(url_of(fresh, protocol), file, connections=CALLERS, seconds=SECONDS, cores=cores)
    if found.failed:
        raise LoadTestError(f"Of FastHttpUser's requests over {protocol} {found.failed} failed.")
    return found.requests_per_second


if __name__ == "__main__":
    main()
