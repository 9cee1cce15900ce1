"""A fair run: one fresh server per model and backend, the same load on each, server and client on cores of their own.

Each server is asked over every protocol, and over each twice, in a closed loop: with one caller, which gives the latency
that a caller sees, and with many, which gives the highest rate. (With many callers in a closed loop the latency is
callers / rate: mostly waiting.) What the server counts meanwhile says how much of a latency the model took.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from digits.contract import Backend
from digits.errors import LoadTestError
from digits.machine import machine
from digits.store import StoredModel
from loadtests.protocols import PROTOCOLS, ProtocolName
from loadtests.server import FreshServer, fresh_server, on_cores

RESULTS_FILE: Final = "loadtest.json"
WARM_UP_SECONDS: Final = 0.5

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model through one backend under one load."""

    model: str  # recipe:version
    recipe: str
    framework: str
    backend: str  # or "echo": the door without a model
    protocol: ProtocolName
    users: int
    requests: int  # sent after the warm-up, answered or failed
    failures: int
    first_failure: str | None
    correct: int
    seconds: float  # in which they were sent
    requests_per_second: float  # of those that did not fail
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    model_ms: float | None  # mean of what a request saw of the runtime; None: there was no model, or no answer
    queue_ms: float | None  # mean of what it waited for that
    images_per_batch: float | None  # mean
    client_busy: float  # share of the time in which Locust's process computed; at 1 it is what limits the rate
    start_to_ready_seconds: float
    server_memory_mb: float  # resident, of the worker
    latencies: str  # CSV with sent_s, latency_ms, outcome of each request; relative to the results


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the latencies of one measurement come to; the fields are those of `Run`."""

    requests: int
    failures: int
    correct: int
    seconds: float
    requests_per_second: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def run_load_test(
    pairs: Sequence[tuple[StoredModel, Backend]],
    *,
    protocols: Sequence[ProtocolName],
    users: int,
    duration: float,
    results: Path,
    on_step: OnStep = lambda step: None,
) -> list[Run]:
    """Measures each pair, and the door without a model, and writes `results/loadtest.json` with the latencies beside it.

    In random order, since what else the machine does would fall on the same ones otherwise.

    Args:
        pairs: what to measure, at least one.
        protocols: over which, at least one.
        users: callers of the second measurement; 1 leaves it out.
        duration: seconds of each measurement, after a warm-up.
        results: a folder; what an earlier load test left there is replaced once this one is done.
        on_step: called with what begins, `steps(...)` times.

    Raises:
        LoadTestError: a server did not start, or Locust failed.
    """
    server_core, client_core = two_cores()
    loads = [1] if users == 1 else [1, users]
    try:
        results.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".loadtest-", dir=results))
    except OSError as error:
        raise LoadTestError(
            f"The results cannot be written to {results}: {error.strerror}. {RESULTS_ADVICE}"
        ) from error
    try:
        (staging / "latencies").mkdir()
        measured: dict[tuple[int, int], Run] = {}
        turns = random.Random()
        for i, (model, backend) in turns.sample(list(enumerate(pairs)), len(pairs)):
            settings = {"SAMEDIGIT_MODELS": model.tag, "SAMEDIGIT_BACKENDS": backend}
            on_step(f"{model.recipe} through {backend}: starting")
            with fresh_server(settings, core=server_core) as fresh:
                targets: list[str] = [backend, "echo"] if i == 0 else [backend]
                asked = list(enumerate(product(targets, protocols, loads)))
                for j, (target, protocol, load) in turns.sample(asked, len(asked)):
                    on_step(f"{model.recipe} through {target}, {protocol}: {load} caller{'s' if load > 1 else ''}")
                    measured[i, j] = _measure(fresh, model, target, protocol, load, duration, client_core, staging)
        runs = [measured[place] for place in sorted(measured)]
        document = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "pinning": "none" if client_core is None else f"server on core {server_core}, client on core {client_core}",
            "duration_seconds": duration,
            "versions": {package: version(package) for package in ("bentoml", "locust", "uvicorn", "numpy")},
            "runs": [asdict(run) for run in runs],
        }
        (staging / RESULTS_FILE).write_text(json.dumps(document, indent=1))
        shutil.rmtree(results / "latencies", ignore_errors=True)
        os.rename(staging / "latencies", results / "latencies")
        os.replace(staging / RESULTS_FILE, results / RESULTS_FILE)
    except OSError as error:
        raise LoadTestError(f"The results could not be written to {results}: {error}. {RESULTS_ADVICE}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return runs


RESULTS_ADVICE: Final = "Free some space or fix its permissions, or give another folder: --results"


def steps(pairs: int, protocols: int, users: int) -> int:
    """How often `run_load_test` calls `on_step`."""
    runs = protocols * (1 if users == 1 else 2)
    return pairs * (1 + runs) + runs


def _measure(
    fresh: FreshServer,
    model: StoredModel,
    target: str,
    protocol: ProtocolName,
    users: int,
    duration: float,
    core: int | None,
    staging: Path,
) -> Run:
    latencies = f"latencies/{model.recipe}.{target}.{protocol}.{users}-user{'s' if users > 1 else ''}.csv"
    counts = run_locust(
        url_of(fresh, protocol),
        target,
        protocol,
        users=users,
        duration=duration,
        core=core,
        latencies=staging / latencies,
    )
    figures = read_figures(staging / latencies, duration=duration)
    if figures is None:
        raise LoadTestError(
            f"{model.tag} through {target} over {protocol}: not one request in {duration} s. Try a longer --duration."
        )
    counted = counts["models"].get(f"{model.recipe}.{target}")
    return Run(
        model=model.tag,
        recipe=model.recipe,
        framework=model.card.framework,
        backend=target,
        protocol=protocol,
        users=users,
        first_failure=counts["first_failure"],
        **asdict(figures),
        model_ms=counted["model_ns"] / counted["requests"] / 1e6 if counted else None,
        queue_ms=counted["queue_ns"] / counted["requests"] / 1e6 if counted else None,
        images_per_batch=counted["images"] / counted["batches"] if counted else None,
        client_busy=counts["cpu_seconds"] / duration,
        start_to_ready_seconds=fresh.server.ready_seconds,
        server_memory_mb=fresh.server.worker_bytes() / 1e6,
        latencies=latencies,
    )


def read_figures(latencies: Path, *, duration: float) -> Figures | None:
    """What the file of one measurement, of `duration` seconds, says; None if it has no request."""
    with open(latencies, newline="") as file:
        rows = [(float(row["latency_ms"]), row["outcome"]) for row in csv.DictReader(file)]
    if not rows:
        return None
    latency_ms = np.array([latency for latency, _ in rows])
    outcomes = [outcome for _, outcome in rows]
    failures = outcomes.count("failed")
    p50, p95, p99 = np.percentile(latency_ms, (50, 95, 99)).tolist()
    return Figures(
        requests=len(rows),
        failures=failures,
        correct=outcomes.count("right"),
        seconds=duration,
        requests_per_second=(len(rows) - failures) / duration,
        mean_ms=float(latency_ms.mean()),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )


def run_locust(
    url: str,
    target: str,
    protocol: ProtocolName,
    *,
    users: int,
    duration: float,
    core: int | None,
    latencies: Path,
) -> dict[str, Any]:
    """Runs Locust in a process of its own (it patches the whole process it is in), which writes `latencies`.

    Args:
        url: of the server.
        target: a backend, or "echo".
        users: callers at once.
        duration: seconds, after the warm-up.
        core: where Locust runs; None: anywhere.

    Returns:
        What server and client counted: see COUNTS in locustfile.py.

    Raises:
        LoadTestError: Locust failed, or measured nothing.
    """
    locustfile = "echofile.py" if target == "echo" else "locustfile.py"
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts.json")
        command = [
            sys.executable, "-m", "locust", "-f", str(Path(__file__).parent / locustfile), f"{target.title()}User",
            "--headless", "--only-summary", "--loglevel", "ERROR", "--exit-code-on-error", "0",
            "--host", url, "--protocol", protocol, "--users", str(users), "--spawn-rate", str(users),
        ]  # fmt: skip
        settings = {
            "SAMEDIGIT_LATENCIES": str(latencies.resolve()),
            "SAMEDIGIT_COUNTS": str(counts),
            "SAMEDIGIT_WARM_UP_SECONDS": str(WARM_UP_SECONDS),
            "SAMEDIGIT_DURATION_SECONDS": str(duration),
        }
        output = _client(command, core, timeout=60 + 2 * duration, settings=settings)
        if not latencies.exists() or not counts.exists():
            raise LoadTestError(f"Locust measured nothing. It printed:\n{output[-2000:]}")
        counted: dict[str, Any] = json.loads(counts.read_bytes())
        return counted


def url_of(fresh: FreshServer, protocol: ProtocolName) -> str:
    return fresh.data_url if PROTOCOLS[protocol].on_data_plane else fresh.url


def _client(command: Sequence[str], core: int | None, *, timeout: float, settings: dict[str, str]) -> str:
    """What a client prints, which runs on the core `core` if there is one.

    Raises:
        LoadTestError: it failed, or took too long.
    """
    with on_cores(None if core is None else [core]):
        client = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    try:
        output, _ = client.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        output = "it did not end in time"
    finally:
        client.kill()
        client.wait()
    if client.returncode != 0:
        raise LoadTestError(f"The client failed (exit {client.returncode}). It printed:\n{output[-2000:]}")
    return output


def two_cores() -> tuple[int | None, int | None]:
    """One core for the server and another for the client, where the machine has them and lets us choose."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)
