"""Whether the server can be left running: half an hour of mixed traffic, and the memory of all its processes.

    python -m benchmarks.soak [--minutes N] [--json FILE]

Clients of every behaviour in `crowd` come side by side, each with a new connection every time: JSON, binary, /predict,
/classify, on both ports; REST over HTTP/2, gRPC with one message and with many; chunks, also of two bytes; pipelined,
half-closed, slow, idle; and bodies of 200 kB kept open for longer than a second and then dropped, requests cut off, streams
cancelled, answers never read, floods, garbage. Every answer to a good request is checked.

Each second the memory that would come back if the server's processes ended (USS) is added up. Compared are two medians, each
of a minute of samples: of the last minute, and of the second one. Medians of a minute, since what is under way at one moment
(a dozen bodies of 200 kB) goes up and down; the second minute, since the first one fills what is filled once: caches, pools,
the allocator's arenas. At the end it must be at most 2 % more.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.clients import Tally, Target, pictures_of
from benchmarks.crowd import Crowd, totals
from benchmarks.results import write_results
from digits import mnist
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from digits.store import find_model
from loadtests.server import Server, fresh_server
from runtimes.backends import open_runtime
from runtimes.device import CPU

RECIPE: Final = "torch-relu"
IMAGES: Final = 1000
PICTURES: Final = 100
ALLOWED_GROWTH: Final = 0.02
PAUSE_SECONDS: Final = 0.05  # between two visits of one client, on average
NUMBERS: Final = {  # of clients of each behaviour
    "asks in binary": 4,
    "asks in JSON": 3,
    "asks /predict": 2,
    "asks /classify": 1,
    "sends chunks": 2,
    "pipelines": 2,
    "half-closes": 2,
    "sends slowly": 5,
    "stays idle": 10,
    "scrapes": 1,
    "drops a body": 12,
    "drops a picture": 2,
    "drops tiny chunks": 4,
    "vanishes": 3,
    "never reads": 3,
    "talks garbage": 2,
    "asks wrongly": 2,
    "asks over HTTP/2": 2,
    "calls over gRPC": 3,
    "streams over gRPC": 2,
    "cancels streams": 2,
    "vanishes amid calls": 2,
    "leaves a call open": 4,
    "never opens its window": 2,
    "floods": 1,
    "talks garbage in frames": 1,
    "calls wrongly": 2,
}


@dataclass(frozen=True)
class Sample:
    second: float  # since the traffic began
    unique_bytes: int  # of all the server's processes (USS)
    resident_bytes: int  # RSS, which counts what they share in each
    connections: int  # of the server, in any state


@dataclass(frozen=True, kw_only=True)
class Verdict:
    before_bytes: float  # median of the window after the first minute
    after_bytes: float  # median of the last window
    growth: float  # of the latter over the former, as a share
    window_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="default 30")
    parser.add_argument("--json", type=Path, default=Path("results/soak.json"), help="default: results/soak.json")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error("--minutes must be more than 0")
    try:
        document = run(seconds=60 * arguments.minutes)
        write_results(document, arguments.json)
        plot(document["samples"], arguments.json.with_suffix(".svg"))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SamedigitError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    show(document)
    if not document["met"]:
        raise SystemExit(1)


def run(*, seconds: float) -> dict[str, Any]:
    """A server of its own under the whole crowd. The result is what the JSON file holds.

    Raises:
        SamedigitError: no model, or the server did not start or ended by itself.
    """
    model = find_model(RECIPE)
    images = mnist.test_images().images[:IMAGES]
    runtime = open_runtime("onnx", model.path("onnx"), device=CPU)
    settings = {"SAMEDIGIT_MODELS": model.tag, "SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_DEVICE": "cpu"}
    with (
        fresh_server(settings, core=None) as server,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        api_port, data_port = (int(url.rpartition(":")[2]) for url in (server.url, server.data_url))
        target = Target(
            api_port=api_port, data_port=data_port, model=f"{RECIPE}.onnx",
            images=images, digits=runtime.predict(images).argmax(axis=1),
            pictures=pictures_of(images[:PICTURES], runtime.predict),
        )  # fmt: skip
        step = progress.add_task("traffic", total=seconds)
        samples, tallies = soak(
            target, server.server, seconds=seconds,
            on_sample=lambda sample: progress.update(
                step, completed=sample.second, description=f"{sample.unique_bytes / 1e6:.1f} MB"
            ),
        )  # fmt: skip
    found = verdict(samples)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "seconds": seconds,
        "clients": NUMBERS,
        "tallies": totals(tallies),
        **asdict(found),
        "allowed_growth": ALLOWED_GROWTH,
        "met": found.growth <= ALLOWED_GROWTH and not any(tally.failed for tally in tallies.values()),
        "samples": [asdict(sample) for sample in samples],
    }


def soak(
    target: Target,
    server: Server,
    *,
    seconds: float,
    numbers: Mapping[str, int] = NUMBERS,
    on_sample: Callable[[Sample], None] = lambda sample: None,
) -> tuple[list[Sample], dict[str, Tally]]:
    """Traffic for so long, and a sample each second.

    Raises:
        LoadTestError: the server has ended.
    """
    crowd = Crowd(target, numbers, pause_seconds=PAUSE_SECONDS)

    async def whole() -> list[Sample]:
        samples = []
        traffic = asyncio.create_task(crowd.run())
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            samples.append(await asyncio.to_thread(sample, server, now))
            on_sample(samples[-1])
            await asyncio.sleep(max(0, began + now + 1 - time.monotonic()))
        crowd.stop()
        await traffic
        return samples

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole()), crowd.tallies


def sample(server: Server, second: float) -> Sample:
    memory = server.memory()
    connections = server.connections()
    if server.process.poll() is not None:
        raise LoadTestError("The server has ended.")
    return Sample(second, memory.unique_bytes, memory.resident_bytes, connections)


def verdict(samples: list[Sample]) -> Verdict:
    """Compares the last minute with the second one; in a run of less than four minutes the last quarter with the second."""
    seconds = samples[-1].second
    window = min(60, seconds / 4)
    before = [one.unique_bytes for one in samples if window <= one.second < 2 * window]
    after = [one.unique_bytes for one in samples if one.second >= seconds - window]
    first, last = statistics.median(before), statistics.median(after)
    return Verdict(before_bytes=first, after_bytes=last, growth=last / first - 1, window_seconds=window)


def plot(samples: list[dict[str, Any]], file: Path) -> None:
    """Memory over time, as SVG; nothing where Matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    minutes = [one["second"] / 60 for one in samples]
    for key, label in (("unique_bytes", "unique (USS)"), ("resident_bytes", "resident (RSS)")):
        axes.plot(minutes, [one[key] / 1e6 for one in samples], label=label, linewidth=1)
    axes.set(xlabel="minutes", ylabel="MB, all processes", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(file)


def show(document: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{document['machine']}; {document['seconds'] / 60:g} minutes")
    table.add_column("clients that")
    for title in ("visits", "right", "shed", "refused", "failed"):
        table.add_column(title, justify="right")
    for name, tally in document["tallies"].items():
        table.add_row(name, *(f"{tally[key]:,}" for key in ("visits", "right", "shed", "refused", "failed")))
    console.print(table)
    for tally in document["tallies"].values():
        for fault in tally["faults"]:
            console.print(fault, style="red", highlight=False, markup=False)
    window = document["window_seconds"]
    console.print(
        f"Unique memory of all processes, medians of {window:.0f} s: {document['before_bytes'] / 1e6:.1f} MB after the first "
        f"{window:.0f} s, {document['after_bytes'] / 1e6:.1f} MB at the end: {document['growth']:+.2%}, "
        f"{'met' if document['met'] else 'NOT MET'}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
