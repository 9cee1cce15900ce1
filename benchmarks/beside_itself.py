"""The server beside itself as it was at another commit: has it become slower?

    python -m benchmarks.beside_itself COMMIT [--starts N] [--json FILE]

Both trees run in this environment, each by `bentoml serve` with every backend, one worker and the same model, which the older
tree trains and stores; the one that is not asked sleeps. Both are asked for a second in turn, so that the machine's clock hits
both alike, three times; the median of these gives a ratio, now / before. Then both are started anew: where a process happens to
lie in memory makes several percent. Shown is the mean over the starts, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import serving_client
from benchmarks.results import write_results
from benchmarks.serving_cases import (
    BATCHED,
    BINARY_16,
    JSON_1,
    JSON_16,
    MANY,
    MANY_16,
    RECIPE,
    Bench,
    Cell,
    Measurement,
    measure,
    prepare,
)
from benchmarks.serving_servers import by_bentoml, ours, started
from comparison.intervals import log_interval
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from loadtests.server import Start, free_ports, on_cores
from serving.start import ROOT

BEFORE: Final = "before"
NOW: Final = "now"
BACKENDS: Final = "numpy,onnx,torch,tensorflow"
ROUNDS: Final = 3  # of a start, a second each
API: Final = "JSON, 16 connections, API port"
BINARY_1: Final = "v2 binary, one connection"
# Of a round: what is compared, and what it is called.
FIGURES: Final = {"requests_per_second": "requests/s", "cpu_us_per_request": "CPU time", "p50_ms": "p50"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="of the server as it was before")
    parser.add_argument("--starts", type=int, default=8, help="of both servers, at least 2 (default 8)")
    parser.add_argument("--json", type=Path, default=Path("results/beside_itself.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.starts < 2:  # of one there is no interval
        parser.error("--starts must be at least 2")
    try:
        document = run(arguments.commit, starts=arguments.starts)
        write_results(document, arguments.json)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SamedigitError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    _show(document)


def run(commit: str, *, starts: int) -> dict[str, Any]:
    """Every case. The result is what the JSON file holds.

    Raises:
        SamedigitError: the commit is none, its model cannot be had, a server did not start, or an answer was wrong.
    """
    with tempfile.TemporaryDirectory(prefix="samedigit-before-") as folder:
        tree, store = Path(folder, "tree"), Path(folder, "store")
        tree.mkdir()
        archive = Path(folder, "tree.tar")
        _do(["git", "-C", str(ROOT), "archive", f"--output={archive}", commit], f"{commit} cannot be taken out of git")
        _do(["tar", "-xf", str(archive), "-C", str(tree)], "its tree cannot be unpacked")
        os.environ["BENTOML_HOME"] = str(store)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            step = progress.add_task(f"{RECIPE}: trained by the older tree", total=None)
            train = [sys.executable, "-m", "samedigit", "train", RECIPE]
            _do(train, f"{RECIPE} cannot be trained by {commit}", {**os.environ, "PYTHONPATH": str(tree)}, tree)
            progress.remove_task(step)
            bench = prepare(rounds=ROUNDS, progress=progress)
            step = progress.add_task("starts", total=starts)
            measured = []
            with on_cores(bench.cores.client):
                for _ in range(starts):
                    measured.append(_measured(bench, tree))
                    progress.advance(step)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "before": commit,
        "starts": starts,
        "cases": [_case(case, [one[case] for one in measured]) for case in measured[0]],
    }


def _do(
    command: Sequence[str], wrong: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode != 0:
        raise LoadTestError(f"{wrong}: {(done.stdout + done.stderr).strip()[-2000:]}")


def _measured(bench: Bench, tree: Path) -> dict[str, dict[str, Measurement]]:
    """Of one start: by case, each server's."""
    ports = free_ports(4)
    api = {NOW: ports[0], BEFORE: ports[2]}
    data = {NOW: ports[1], BEFORE: ports[3]}
    now, before = (
        by_bentoml(ours(bench.model, BACKENDS, (api[name], data[name])), api[name]) for name in (NOW, BEFORE)
    )
    starts = {NOW: now, BEFORE: _from(before, tree)}

    def binary(backend: str, batch: int = 1) -> serving_client.Question:
        path = f"/v2/models/{RECIPE}.{backend}/infer"
        return serving_client.v2_binary(path, bench.images, bench.digits, batch=batch)

    as_json = serving_client.v2_json(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits)
    asked = [
        (JSON_16, 16, data, as_json),
        (JSON_1, 1, data, as_json),
        (API, 16, api, as_json),
        (BINARY_16, 16, data, binary("onnx")),
        (BINARY_1, 1, data, binary("onnx")),
        (MANY_16, 16, data, binary("onnx", MANY)),
        *((case, 64, data, binary(backend)) for backend, case in BATCHED.items()),
    ]
    found = {}
    with started(starts, cores=bench.cores.server, progress=bench.progress) as servers:
        for case, connections, port, question in asked:
            cells = [
                Cell(server=name, label=name, case=case, port=port[name], question=question, connections=connections)
                for name in servers
            ]
            found[case] = {one.server: one for one in measure(bench, cells, servers)}
    return found


def _case(case: str, starts: Sequence[dict[str, Measurement]]) -> dict[str, Any]:
    if failed := sum(one.failed for of_start in starts for one in of_start.values()):
        raise LoadTestError(f"{case}: {failed} requests were refused or not answered.")
    medians = {
        name: {figure: statistics.median(getattr(one[name], figure) for one in starts) for figure in FIGURES}
        for name in (BEFORE, NOW)
    }
    ratios = {
        figure: [getattr(one[NOW], figure) / getattr(one[BEFORE], figure) for one in starts] for figure in FIGURES
    }
    return {
        "case": case,
        "medians": medians,
        "ratios": {
            figure: {"mean": statistics.geometric_mean(each), "interval": log_interval(each), "starts": each}
            for figure, each in ratios.items()
        },
    }


def _from(start: Start, tree: Path) -> Start:
    """The same start, of the rooms in `tree`."""
    command = [str(tree) if part == str(ROOT) else part for part in start.command]
    return replace(start, command=command, environment={**start.environment, "PYTHONPATH": str(tree)})


def _show(document: dict[str, Any]) -> None:
    table = Table(title=f"Now and at {document['before']}: {document['starts']} starts, {ROUNDS} seconds of each case")
    for column in ("case", *(f"{name}, before, now" for name in ("requests/s", "CPU us")), *FIGURES.values()):
        table.add_column(column, justify="left" if column == "case" else "right")
    for one in document["cases"]:
        medians = one["medians"]
        table.add_row(
            one["case"],
            *(
                f"{medians[BEFORE][figure]:,.{digits}f}, {medians[NOW][figure]:,.{digits}f}"
                for figure, digits in (("requests_per_second", 0), ("cpu_us_per_request", 1))
            ),
            *(_ratio(one["ratios"][figure]) for figure in FIGURES),
        )
    console = Console()
    console.print(table)
    console.print(f"Ratios: now / before. {document['machine']}.", highlight=False)


def _ratio(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['mean']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
