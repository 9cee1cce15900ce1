"""Requests that arrive by themselves: how the latency of each backend grows with their rate, in rounds of random order.

A model's backends are served side by side, each by a server of its own, of which all but one are stopped where they stand. For
each backend and protocol a closed loop finds the peak; then each round offers shares of it, in a random order, and then more
and more, until the latency leaves the last of the bounds. So what the machine does meanwhile meets all backends alike, and
what the rounds differ by is how sure the figures are.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from digits.contract import Backend
from digits.errors import LoadTestError
from digits.machine import machine
from digits.store import StoredModel
from loadtests.arrivals import FAILED, OUTCOMES, RIGHT, Client, Load, Sent, client
from loadtests.load_test import RESULTS_ADVICE, two_cores, url_of
from loadtests.protocols import PROTOCOLS, ProtocolName
from loadtests.scenarios import Closed, Open, Scenario, Times
from loadtests.server import FreshServer, fresh_server

RESULTS_FILE: Final = "open.json"
COLUMNS: Final = ("round", "share", "due_s", "late_ms", "latency_ms", "outcome")
SHARES: Final = (0.25, 0.5, 0.75, 0.9)  # of the peak, in every round
BEYOND: Final = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)  # after them, until the latency leaves the last of BOUNDS_MS
BOUNDS_MS: Final = (1.0, 10.0, 100.0)
WARM_UP_SECONDS: Final = 0.5
PEAK_SECONDS: Final = 0.5  # at least
SEED: Final = 1

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a closed loop got of one backend over one protocol, and what its server had taken by the end of all rounds."""

    model: str  # recipe:version
    recipe: str
    framework: str
    backend: Backend
    protocol: ProtocolName
    users: int
    requests_per_second: float  # of those that did not fail
    failures: int
    first_failure: str | None
    client_busy: float  # share of its time in which the client had something to do, in [0, 1]
    server_cpu_us: float  # CPU time of all of the server's processes for each answered request of the rounds
    server_memory_mb: float  # of all of them (PSS)
    start_to_ready_seconds: float
    latencies: str  # CSV with COLUMNS of every request of the rounds; relative to the results


@dataclass(frozen=True, kw_only=True)
class Point:
    """What became of one rate in one round. A request that failed counts as slower than all others."""

    model: str  # recipe:version
    backend: Backend
    protocol: ProtocolName
    round: int  # from 1
    share: float  # of the peak
    rate: float  # requests a second on average, as asked for
    requests: int
    failures: int
    correct: int
    first_failure: str | None
    p50_ms: float | None  # None: so many failed
    p99_ms: float | None
    late_p99_ms: float  # by how much the client itself was late with a request
    client_busy: float


def run_open_test(
    pairs: Sequence[tuple[StoredModel, Backend]],
    *,
    protocols: Sequence[ProtocolName],
    users: int,
    seconds: float,
    rounds: int,
    results: Path,
    on_step: OnStep = lambda step: None,
) -> list[Point]:
    """Measures each pair over each protocol, and writes `results/open.json` with the latencies beside it.

    Args:
        pairs: what to measure, at least one; those of a model are served, and take turns, together.
        protocols: over which, at least one.
        users: callers of the closed loop that finds the peak.
        seconds: of each measurement.
        rounds: how often each is repeated.
        results: a folder; what an earlier open test left there is replaced once this one is done.
        on_step: called with what begins, `open_steps(...)` times.

    Raises:
        LoadTestError: a server did not start, or could not be reached.
    """
    server_core, client_core = two_cores()
    chance = random.Random(SEED)
    try:
        results.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".open-", dir=results))
    except OSError as error:
        raise LoadTestError(
            f"The results cannot be written to {results}: {error.strerror}. {RESULTS_ADVICE}"
        ) from error
    try:
        (staging / "open").mkdir()
        peaks: list[Peak] = []
        points: list[Point] = []
        with client(None if client_core is None else [client_core]) as asking:
            for _, group in groupby(pairs, key=lambda pair: pair[0].tag):
                with ExitStack() as servers:
                    targets = []
                    for model, backend in group:
                        on_step(f"{model.recipe} through {backend}: starting")
                        settings = {"SAMEDIGIT_MODELS": model.tag, "SAMEDIGIT_BACKENDS": backend}
                        fresh = servers.enter_context(fresh_server(settings, core=server_core))
                        fresh.server.sleep()
                        targets += [Target(model, backend, protocol, fresh, asking, staging) for protocol in protocols]
                    for target in targets:
                        on_step(f"{target.name}: peak")
                        target.find_peak(users, seconds)
                    for number in range(1, rounds + 1):
                        for target in chance.sample(targets, len(targets)):
                            on_step(f"{target.name}: round {number} of {rounds}")
                            target.run_round(number, seconds, chance)
                    for target in targets:
                        points += target.points
                        peaks.append(target.peak())
        document = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "pinning": "none" if client_core is None else f"server on core {server_core}, client on core {client_core}",
            "seconds": seconds,
            "rounds": rounds,
            "bounds_ms": BOUNDS_MS,
            "versions": {package: version(package) for package in ("bentoml", "uvicorn", "numpy")},
            "peaks": [asdict(peak) for peak in peaks],
            "points": [asdict(point) for point in points],
        }
        (staging / RESULTS_FILE).write_text(json.dumps(document, indent=1))
        shutil.rmtree(results / "open", ignore_errors=True)
        os.rename(staging / "open", results / "open")
        os.replace(staging / RESULTS_FILE, results / RESULTS_FILE)
    except OSError as error:
        raise LoadTestError(f"The open scenario could not be measured: {error}. {RESULTS_ADVICE}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return points


def open_steps(pairs: int, protocols: int, rounds: int) -> int:
    """How often `run_open_test` calls `on_step`."""
    return pairs * (1 + protocols * (1 + rounds))


class Target:
    """One model through one backend over one protocol, on a server that sleeps whenever it is not asked."""

    def __init__(
        self,
        model: StoredModel,
        backend: Backend,
        protocol: ProtocolName,
        fresh: FreshServer,
        asking: Client,
        staging: Path,
    ) -> None:
        self.name = f"{model.recipe} through {backend}, {protocol}"
        self.points: list[Point] = []
        self._model, self._backend, self._protocol = model, backend, protocol
        self._fresh, self._asking = fresh, asking
        self._url = url_of(fresh, protocol)
        self._path = PROTOCOLS[protocol].path(model.recipe, backend)
        self._latencies = f"open/{model.recipe}.{backend}.{protocol}.csv"
        self._file = staging / self._latencies
        with self._file.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
        self._peak: Sent | None = None
        self._users = self._seed = self._answered = 0
        self._cpu_seconds = 0.0

    def find_peak(self, users: int, seconds: float) -> None:
        self._users = users
        self._ask(Closed(users), WARM_UP_SECONDS)
        self._peak = self._ask(Closed(users), max(seconds, PEAK_SECONDS))
        if not self._rate():
            raise LoadTestError(f"{self.name}: no request was answered; the first failure: {self._peak.first_failure}")

    def run_round(self, number: int, seconds: float, chance: random.Random) -> None:
        """Offers every share of the peak, and then more until the server has enough."""
        for share in chance.sample(SHARES, len(SHARES)):
            self._offer(number, share, seconds)
        for share in BEYOND:
            p99_ms = self._offer(number, share, seconds).p99_ms
            if p99_ms is None or p99_ms > BOUNDS_MS[-1]:
                break

    def peak(self) -> Peak:
        assert self._peak is not None, "find_peak comes first"
        return Peak(
            model=self._model.tag,
            recipe=self._model.recipe,
            framework=self._model.card.framework,
            backend=self._backend,
            protocol=self._protocol,
            users=self._users,
            requests_per_second=self._rate(),
            failures=int((self._peak.outcomes == FAILED).sum()),
            first_failure=self._peak.first_failure,
            client_busy=self._peak.busy,
            server_cpu_us=1e6 * self._cpu_seconds / max(1, self._answered),
            server_memory_mb=self._fresh.server.memory().proportional_bytes / 1e6,
            start_to_ready_seconds=self._fresh.server.ready_seconds,
            latencies=self._latencies,
        )

    def _rate(self) -> float:
        assert self._peak is not None, "find_peak comes first"
        return float((self._peak.outcomes != FAILED).sum()) / self._peak.seconds

    def _offer(self, number: int, share: float, seconds: float) -> Point:
        rate = share * self._rate()
        before = self._fresh.server.cpu_seconds()
        sent = self._ask(Open(rate), seconds)
        self._cpu_seconds += self._fresh.server.cpu_seconds() - before
        failed = sent.outcomes == FAILED
        self._answered += int((~failed).sum())
        with self._file.open("a", newline="") as file:
            rows = zip(
                sent.due_s.round(6).tolist(), sent.late_ms.round(4).tolist(), sent.latency_ms.round(4).tolist(),
                sent.outcomes.tolist(), strict=True,
            )  # fmt: skip
            csv.writer(file).writerows((number, share, *row, OUTCOMES[outcome]) for *row, outcome in rows)
        p50, p99 = percentiles(sent.latency_ms, failed, (50, 99))
        point = Point(
            model=self._model.tag,
            backend=self._backend,
            protocol=self._protocol,
            round=number,
            share=share,
            rate=rate,
            requests=len(sent.outcomes),
            failures=int(failed.sum()),
            correct=int((sent.outcomes == RIGHT).sum()),
            first_failure=sent.first_failure,
            p50_ms=p50,
            p99_ms=p99,
            late_p99_ms=float(np.percentile(sent.late_ms, 99)) if len(sent.late_ms) else 0.0,
            client_busy=sent.busy,
        )
        self.points.append(point)
        return point

    def _ask(self, scenario: Scenario, seconds: float) -> Sent:
        self._seed += 1
        load = Load(
            url=self._url, protocol=self._protocol, path=self._path, scenario=scenario, seconds=seconds, seed=self._seed
        )
        self._fresh.server.wake()
        try:
            return self._asking.offer(load)
        finally:
            self._fresh.server.sleep()


def percentiles(latency_ms: Times, failed: npt.NDArray[np.bool_], percents: Sequence[float]) -> list[float | None]:
    """Of latencies of which those that failed count as longer than all others; None where that makes one endless."""
    if not len(latency_ms):
        return [None] * len(percents)
    ordered = np.sort(np.where(failed, np.inf, latency_ms))
    # Not interpolated: between a time and none there is nothing.
    ranks = [max(0, int(np.ceil(round(percent * len(ordered) / 100, 6))) - 1) for percent in percents]
    return [float(ordered[rank]) if np.isfinite(ordered[rank]) else None for rank in ranks]
