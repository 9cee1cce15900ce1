"""The server under MLPerf Inference's load generator: its four scenarios, its rules on length and early stopping.

    pip install '.[mlperf]'
    python -m benchmarks.mlperf [MODEL] [--backend onnx] [--protocol v2-binary] [--rate N] [--bound-ms N]

    SingleStream   one query at a time, of one image; its latency at p90
    MultiStream    one query at a time, of eight images, each asked over a connection of its own; its latency at p99
    Server         queries arrive by themselves (Poisson), of one image; whether p99 stays within the bound at a rate
    Offline        all images at once; images a second

Its load generator (`mlcommons-loadgen`), and no more: the model is none of the benchmark's, and a figure from here is no
submission. Its Python interface costs about 0.1 ms a query, which is in every latency. Queries go over connections of our own,
every answer is checked, and a run with a wrong or a missing one is refused.
"""

from __future__ import annotations

import argparse
import queue
import re
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.results import write_results
from digits import mnist
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from digits.store import find_model
from loadtests.client import connect
from loadtests.load_test import two_cores, url_of
from loadtests.protocols import PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.server import fresh_server, on_cores
from loadtests.wire import connection_of, digit, exchange, write_requests

ScenarioName = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: Final[tuple[ScenarioName, ...]] = get_args(ScenarioName)
CONNECTIONS: Final = 16  # of Server and Offline; MultiStream has one for each of its eight images
SAMPLES_PER_QUERY: Final = 8
SECONDS: Final = 10.0  # MLPerf asks for 600 of a submission
# The fewest queries with which its rule of early stopping can hold a percentile at 99 % confidence.
FEWEST: Final[dict[ScenarioName, int]] = {"SingleStream": 64, "MultiStream": 662, "Server": 459, "Offline": 1}
# What a query may take: queries are made beforehand, and where they are answered sooner a run ends too soon to be valid.
SOONEST_MS: Final[dict[ScenarioName, float]] = {"SingleStream": 0.05, "MultiStream": 0.2}
MORE: Final = 1.5  # than a first run gave, so that the second is long enough
RIGHT_AT_LEAST: Final = 0.9  # of the answers; a model that errs more is not the one that was asked for


@dataclass(frozen=True, kw_only=True)
class Outcome:
    scenario: ScenarioName
    is_valid: bool  # by the load generator's own rules, for this length
    figure: (
        float  # SingleStream and MultiStream: ms at its percentile; Server: queries a second; Offline: images a second
    )
    unit: str
    early_stopping: bool  # whether its rule is satisfied
    queries: int
    right: float  # share of the answers, in [0, 1]
    summary: dict[str, str]  # all that it says


class Asking:
    """The system under test, as the load generator calls it: puts every image to a server over `connections`."""

    def __init__(self, url: str, protocol: ProtocolName, path: str, *, connections: int) -> None:
        """Connects.

        Raises:
            OSError: the server cannot be reached.
        """
        test = mnist.test_images()
        self._labels = test.labels.tolist()
        self._requests = write_requests(protocol, urlsplit(url).netloc, path, test.images)
        self._protocol = protocol
        self._waiting: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()  # id and image
        self.answered = self.right = 0
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._sockets = [connect(url)[1] for _ in range(connections)]
        self._threads = [threading.Thread(target=self._ask, args=(one,), daemon=True) for one in self._sockets]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._requests)

    def issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._waiting.put((sample.id, sample.index))

    def close(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _ask(self, connection: socket.socket) -> None:
        import mlperf_loadgen

        wire = connection_of(self._requests)
        connection.sendall(wire.greeting)
        while (sample := self._waiting.get()) is not None:
            number, image = sample
            said = None
            try:
                answer: bytes | None = exchange(connection, wire, image)
            except (OSError, WrongAnswer) as error:
                answer, self.failure = None, str(error)
            # It must be told of each query, or it waits for ever; what failed makes the run void, below.
            mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(number, 0, 0)])
            if answer is not None:
                try:
                    said = digit(self._protocol, answer)
                except WrongAnswer as error:
                    self.failure = str(error)
            with self._lock:
                self.answered += 1
                self.right += said == self._labels[image]


def run_scenario(
    scenario: ScenarioName, *, url: str, protocol: ProtocolName, path: str, seconds: float, rate: float, bound_ms: float
) -> Outcome:
    """Runs one scenario.

    Args:
        rate: queries a second of Server, and what is expected of Offline.
        bound_ms: of Server's p99.

    Raises:
        LoadTestError: an answer was missing or was no prediction, or too many digits were wrong.
        OSError: the server cannot be reached.
    """
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * seconds)
    settings.min_query_count = FEWEST[scenario]
    settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    settings.single_stream_expected_latency_ns = round(1e6 * SOONEST_MS["SingleStream"])
    settings.multi_stream_expected_latency_ns = round(1e6 * SOONEST_MS["MultiStream"])
    settings.server_target_qps = rate
    settings.server_target_latency_ns = round(1e6 * bound_ms)
    settings.server_target_latency_percentile = 0.99
    settings.offline_expected_qps = rate
    connections = {"SingleStream": 1, "MultiStream": SAMPLES_PER_QUERY}.get(scenario, CONNECTIONS)
    asking = Asking(url, protocol, path, connections=connections)
    with TemporaryDirectory() as folder:
        logs = mlperf_loadgen.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = False
        system = mlperf_loadgen.ConstructSUT(asking.issue, lambda: None)
        library = mlperf_loadgen.ConstructQSL(len(asking), len(asking), lambda _: None, lambda _: None)
        try:
            mlperf_loadgen.StartTestWithLogSettings(system, library, settings, logs)
        finally:
            mlperf_loadgen.DestroyQSL(library)
            mlperf_loadgen.DestroySUT(system)
            asking.close()
        summary = Path(folder, "mlperf_log_summary.txt").read_text()
    if asking.failure is not None or not asking.answered:
        raise LoadTestError(f"{scenario}: a query had no right answer: {asking.failure or 'none was asked'}")
    right = asking.right / asking.answered
    if right < RIGHT_AT_LEAST:
        raise LoadTestError(f"{scenario}: only {100 * right:.1f} % of the digits were right.")
    return read_summary(scenario, summary, answered=asking.answered, right=right)


def read_summary(scenario: ScenarioName, text: str, *, answered: int, right: float) -> Outcome:
    """What the load generator's summary of a run says. Raises LoadTestError: it has not what such a summary has."""
    said = {key.strip(): value.strip() for key, value in re.findall(r"^([^:\n]+?)\s*:\s*(.+)$", text, re.MULTILINE)}
    names: dict[ScenarioName, tuple[str, float, str]] = {
        # What early stopping holds with 99 % confidence, and not what the sample happened to give.
        "SingleStream": ("* Early stopping 90.0th percentile estimate", 1e-6, "ms at p90"),
        "MultiStream": ("* Early stopping 99.0th percentile estimate", 1e-6, "ms at p99, of 8"),
        "Server": ("Completed samples per second", 1.0, "queries a second"),
        "Offline": ("Samples per second", 1.0, "images a second"),
    }
    key, scale, unit = names[scenario]
    found = said.get(key)
    if found is None or "Result is" not in said:
        raise LoadTestError(f"{scenario}: the load generator's summary has no {key!r}. It says:\n{text[:2000]}")
    return Outcome(
        scenario=scenario,
        is_valid=said["Result is"] == "VALID",
        figure=scale * float(found),
        unit=unit,
        early_stopping=said.get("Early stopping satisfied") == "Yes",
        queries=answered // (SAMPLES_PER_QUERY if scenario == "MultiStream" else 1),
        right=right,
        summary=said,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="torch-relu", help="default: torch-relu")
    parser.add_argument("--backend", default="onnx", help="default: onnx")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="v2-binary", help="default: v2-binary")
    parser.add_argument("--rate", type=float, default=1000.0, help="queries a second of Server (default 1000)")
    parser.add_argument("--bound-ms", type=float, default=10.0, help="of Server's p99 (default 10)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at least, of each; a submission's are 600")
    parser.add_argument("--json", type=Path, default=Path("results/mlperf.json"), help="default: results/mlperf.json")
    arguments = parser.parse_args()
    protocol: ProtocolName = arguments.protocol
    server_core, client_core = two_cores()
    try:
        model = find_model(arguments.model)
        settings = {"SAMEDIGIT_MODELS": model.tag, "SAMEDIGIT_BACKENDS": arguments.backend}
        path = PROTOCOLS[protocol].path(model.recipe, arguments.backend)
        with (
            fresh_server(settings, core=server_core) as fresh,
            on_cores(None if client_core is None else [client_core]),
        ):
            run = partial(
                run_scenario, url=url_of(fresh, protocol), protocol=protocol, path=path, bound_ms=arguments.bound_ms
            )
            outcomes = [run(scenario, seconds=arguments.seconds, rate=arguments.rate) for scenario in SCENARIOS[:-1]]
            # Offline is one query, whose size must be known beforehand: as many images as take that long.
            first = run("Offline", seconds=1.0, rate=arguments.rate)
            outcomes.append(run("Offline", seconds=arguments.seconds, rate=MORE * first.figure))
        document = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "what": f"{model.tag} through {arguments.backend} over {protocol}",
            "loadgen": version("mlcommons-loadgen"),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        write_results(document, arguments.json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        print(f"Error: {error.name} is not installed: pip install '.[mlperf]'", file=sys.stderr)
        raise SystemExit(3) from error
    except (SamedigitError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    show(document)


def show(document: dict[str, Any]) -> None:
    title = (
        f"{document['what']}; mlcommons-loadgen {document['loadgen']}, which is no submission; {document['machine']}"
    )
    table = Table(title=title)
    for column in ("scenario", "valid", "figure", "", "queries", "right, %", "early stopping"):
        table.add_column(column, justify="right" if column in ("figure", "queries", "right, %") else "left")
    for one in document["outcomes"]:
        table.add_row(
            one["scenario"], "yes" if one["is_valid"] else "no", f"{one['figure']:,.3f}", one["unit"],
            f"{one['queries']:,}", f"{100 * one['right']:.2f}", "satisfied" if one["early_stopping"] else "not",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
