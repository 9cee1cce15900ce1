"""How latency grows with load and workers: measured here, beside a model of it; and what autoscaling does to a burst.

    python -m benchmarks.capacity [--seconds N] [--real-time] [--json FILE]

Requests arrive by themselves (Poisson) at shares of what a server carries; latencies count from the moment at which each was to
be sent. A worker has a core to itself; the client sleeps between arrivals, on what core is left. With two workers on two cores
it has none, which is why what they are asked for takes long. The model knows of the server two numbers, what it carries and how
long it takes for one; what it then says is held against what was measured. The picture is written beside the JSON file.

--real-time, as root, puts server and client before everything else that the machine does: other work is not in the figures, and
waits. The system leaves it a twentieth of each second, so at 90 % and in a closed loop there are stalls of some 50 ms.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import queueing
from benchmarks.overload import CLOSED_CONNECTIONS, CONNECTIONS, RECIPE, WARM_UP_SECONDS, write_requests
from benchmarks.overload_client import Arrivals, Outcome, offer
from benchmarks.queueing import Moment, Service
from benchmarks.results import write_results
from benchmarks.serving_servers import ours, started
from digits import mnist
from digits.contract import Backend
from digits.errors import SamedigitError
from digits.machine import machine
from digits.store import find_model
from loadtests.server import free_ports, on_cores
from runtimes.backends import open_runtime
from runtimes.device import CPU

SERVER_PRIORITY, CLIENT_PRIORITY = 10, 20  # in real time: an arrival does not wait for a worker
SHARES: Final = (0.2, 0.4, 0.6, 0.8, 0.9)
WAITING: Final = 64
MODEL_SECONDS: Final = 30.0  # of the model's time
CALM, PEAK = 0.35, 3.0  # of a burst, in pods
BURST: Final = (120.0, 480.0)  # seconds, of 1,200
BURST_SECONDS: Final = 1200.0
CONNECTION_SECONDS: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    recipe: str
    backend: Backend
    images: int  # in a request
    workers: int
    batch: int  # requests that run together

    @property
    def settings(self) -> dict[str, str]:
        batch = {} if self.batch > 1 else {"SAMEDIGIT_MAX_BATCH": "1"}
        return {"SAMEDIGIT_WORKERS": str(self.workers), "SAMEDIGIT_MAX_WAITING": str(WAITING), **batch}


SLOW: Final = Case(
    name="torch-conv, 16 images a request, one by one",
    recipe="torch-conv",
    backend="onnx",
    images=16,
    workers=1,
    batch=1,
)
CASES: Final = (
    Case(
        name="ONNX, 64 images a request, in batches of 256",
        recipe=RECIPE,
        backend="onnx",
        images=64,
        workers=1,
        batch=4,
    ),
    Case(name="TensorFlow, one by one", recipe=RECIPE, backend="tensorflow", images=1, workers=1, batch=1),
    SLOW,
    replace(SLOW, name=f"{SLOW.name}, two workers", workers=2),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A share of what a server carries: what was measured, and what the model says of it."""

    case: str
    share: float
    rate: float
    p50_ms: float
    p99_ms: float
    late_p99_ms: float  # by how much the client itself was late, which is in the latencies
    shed: float
    model_p50_ms: float
    model_p99_ms: float
    model_shed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=6, help="of each measurement (default 6)")
    parser.add_argument(
        "--real-time", action="store_true", help="before everything else that the machine does; needs root"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("results/capacity.json"), help="default: results/capacity.json"
    )
    arguments = parser.parse_args()
    if arguments.seconds < 1:
        parser.error("--seconds must be at least 1")
    try:
        document = run(seconds=arguments.seconds, real_time=arguments.real_time)
        write_results(document, arguments.json)
        plot(document, arguments.json.with_suffix(".svg"))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SamedigitError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    show(document)


def run(*, seconds: int, real_time: bool = False, cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """Every case that the machine has cores for, and the bursts. The result is what the JSON file holds.

    Raises:
        SamedigitError: no model, or the server did not start.
        PermissionError: real time is for root.
    """
    cores = sorted(os.sched_getaffinity(0))
    if real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(SERVER_PRIORITY))  # and of what is started here
    models = {recipe: find_model(recipe) for recipe in sorted({case.recipe for case in cases})}
    images = mnist.test_images().images[:4096]
    points: list[Point] = []
    services: dict[str, Service] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for case in [case for case in cases if case.workers <= len(cores)]:
            server_cores, client_cores = cores[: case.workers], cores[case.workers :] or None
            model = models[case.recipe]
            digits = open_runtime("onnx", model.path("onnx"), device=CPU).predict(images).argmax(axis=1)
            requests, endings = write_requests(f"{case.recipe}.{case.backend}", images, digits, batch=case.images)
            port, data_port = free_ports(2)
            start = ours(model, case.backend, (port, data_port), **case.settings)
            with (
                on_cores(client_cores),
                started({case.name: start}, cores=server_cores, progress=progress) as servers,
            ):
                servers[case.name].wake()
                load = Arrivals(
                    port=data_port, requests=requests, endings=endings, rate=None, seconds=seconds,
                    connections=CLOSED_CONNECTIONS * case.workers, cores=client_cores, sleeps=True,
                    priority=CLIENT_PRIORITY if real_time else None,
                )  # fmt: skip
                step = progress.add_task(case.name, total=2 + len(SHARES))
                offer(replace(load, seconds=WARM_UP_SECONDS))
                carried = offer(load)
                rate = len(carried.accepted_ms) / carried.seconds
                progress.advance(step)
                alone = offer(replace(load, connections=1))
                progress.advance(step)
                service = services[case.name] = fitted(case, rate, float(np.median(alone.accepted_ms)) / 1000)
                for share in SHARES:
                    outcome = offer(replace(load, rate=share * rate, connections=CONNECTIONS))
                    points.append(_point(case, share, share * rate, outcome, service))
                    progress.advance(step)
                progress.remove_task(step)
        if real_time:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        step = progress.add_task("bursts", total=2)
        service = services[cases[1].name]
        bursts = {}
        for name, kept in (("a proxy chooses for each request", None), ("connections stay", CONNECTION_SECONDS)):
            bursts[name] = [
                asdict(one)
                for one in queueing.burst(
                    service, lambda at: service.rate * rate_in_pods(at), seconds=BURST_SECONDS, connection_seconds=kept
                )
            ]
            progress.advance(step)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "models": [model.tag for model in models.values()],
        "services": {name: asdict(service) for name, service in services.items()},
        "points": [asdict(point) for point in points],
        "pod_rate": service.rate,
        "bursts": bursts,
    }


def fitted(case: Case, rate: float, alone: float) -> Service:
    """A worker that carries its part of `rate`, and takes `alone` seconds for one request.

    In a closed loop every batch is full, or has all that there are, so that n / rate is what it takes for n.
    """
    per_request = case.workers / rate
    if case.batch == 1:
        return Service(turn=0.0, each=per_request, batch=1, waiting=WAITING)
    number = min(CLOSED_CONNECTIONS, case.batch)
    together = per_request * number
    each = max(0.0, (together - alone) / (number - 1))
    return Service(turn=max(0.0, together - each * number), each=each, batch=case.batch, waiting=WAITING)


def rate_in_pods(at: float) -> float:
    return PEAK if BURST[0] <= at < BURST[1] else CALM


def _point(case: Case, share: float, rate: float, outcome: Outcome, service: Service) -> Point:
    modelled, refused = queueing.latencies(service, rate=rate, workers=case.workers, seconds=MODEL_SECONDS)
    p50, p99 = np.percentile(outcome.accepted_ms, (50, 99)).tolist()
    shed, accepted = len(outcome.shed_ms), len(outcome.accepted_ms)
    model_p50, model_p99 = (1000 * np.percentile(modelled, (50, 99))).tolist()
    return Point(
        case=case.name,
        share=share,
        rate=rate,
        p50_ms=p50,
        p99_ms=p99,
        late_p99_ms=float(np.percentile(outcome.late_ms, 99)),
        shed=shed / (shed + accepted),
        model_p50_ms=model_p50,
        model_p99_ms=model_p99,
        model_shed=refused / (refused + len(modelled)),
    )


def show(document: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title=document["machine"])
    for title in (
        "case",
        "of what it carries",
        "requests/s",
        "p50, ms",
        "model",
        "p99, ms",
        "model",
        "shed",
        "model",
        "client late, p99",
    ):
        table.add_column(title, justify="left" if title == "case" else "right")
    for one in document["points"]:
        table.add_row(
            one["case"], f"{one['share']:.0%}", f"{one['rate']:,.0f}", f"{one['p50_ms']:.2f}", f"{one['model_p50_ms']:.2f}",
            f"{one['p99_ms']:.2f}", f"{one['model_p99_ms']:.2f}", f"{one['shed']:.2%}", f"{one['model_shed']:.2%}",
            f"{one['late_p99_ms']:.2f}",
        )  # fmt: skip
    console.print(table)
    for name, moments in document["bursts"].items():
        said = [Moment(**one) for one in moments]
        lost = sum(one.shed * one.offered for one in said) / sum(one.offered for one in said)
        slow = sum(not one.p99 < 0.01 for one in said) * queueing.PERIOD
        most = max(one.pods for one in said)
        console.print(f"burst, {name}: {lost:.2%} shed, {slow:.0f} s with a p99 above 10 ms, at most {most} pods")


def plot(document: dict[str, Any], path: Path) -> None:
    """Writes latency against load, and the bursts, as an SVG picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    across, bursts = figure.subplots(2, 2)
    for axes, key in zip(across, ("p50", "p99"), strict=True):
        for number, case in enumerate(document["services"]):
            points = [one for one in document["points"] if one["case"] == case]
            shares = [100 * one["share"] for one in points]
            axes.plot(shares, [one[f"model_{key}_ms"] for one in points], color=f"C{number}", label=f"{case}: model")
            axes.plot(shares, [one[f"{key}_ms"] for one in points], "o", color=f"C{number}", label="measured")
        axes.set(xlabel="load, % of what the server carries", ylabel="latency, ms", title=key, yscale="log")
        _plain(axes.yaxis)
        axes.grid(alpha=0.3)
    figure.legend(*across[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    for axes, (name, moments) in zip(bursts, document["bursts"].items(), strict=True):
        minutes = [one["at"] / 60 for one in moments]
        axes.step(
            minutes, [one["offered"] / document["pod_rate"] for one in moments], where="post", label="load, in pods"
        )
        axes.step(minutes, [one["pods"] for one in moments], where="post", label="pods")
        axes.step(minutes, [100 * one["shed"] for one in moments], where="post", label="shed, %", color="C3")
        axes.set(xlabel="minutes", title=f"a burst; {name}")
        twin = axes.twinx()
        twin.plot(minutes, [1000 * one["p99"] if math.isfinite(one["p99"]) else None for one in moments], "k.", ms=3)
        twin.set(ylabel="p99, ms (dots)", yscale="log")
        _plain(twin.yaxis)
        axes.grid(alpha=0.3)
    bursts[0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def _plain(axis: Any) -> None:
    """1, 2, 5 and 10 in place of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()
