"""What an open scenario left in a folder of results: the highest rate at which the latency stays within a bound, and how sure.

Each round gives a figure of its own: a p99 can only grow with the rate, so the p99s of a round are brought into that order
(isotonic regression of their logarithms), and where they cross the bound is read between the two nearest rates. The rounds'
figures then have a mean and a t interval, of their logarithms. What the client could not ask is no limit of the server's.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from comparison.intervals import CONFIDENCE, Interval, log_interval
from comparison.reading import of_this_version, read_json, row_of
from comparison.words import join
from digits.contract import BACKENDS, Backend
from digits.errors import ResultsMissing
from loadtests.open_test import COLUMNS, RESULTS_FILE, Peak, Point, percentiles
from loadtests.protocols import PROTOCOLS, ProtocolName

CLIENT_LIMITS: Final = 0.9  # a client that computes for a larger share of its time is what limits the rate,
LATE_SHARE: Final = 0.25  # and so is one of which one request in a hundred is late by this share of the bound
ENDLESS_MS: Final = 5000.0  # of a p99 of which more failed: as long as the client waits for an answer
TAIL: Final = 10  # a percentile is told where as many requests as this were slower
_AGAIN: Final = "Run it again: samedigit loadtest --scenario open"

Floats = npt.NDArray[np.float64]
End = Literal["between", "above", "below", "unknown"]


@dataclass(frozen=True)
class Crossing:
    """Where a round's p99 crosses a bound.

    `above`: nowhere that was measured, or where the client was the limit: it is higher than `rate`. `below`: it is lower than
    `rate`, the lowest that was measured. `unknown`: there already the client was the limit.
    """

    rate: float
    end: End


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The highest rate at which the p99 stays within a bound, over the rounds."""

    bound_ms: float
    rates: tuple[float, ...]  # of the rounds, in their order; requests a second
    at_least: bool  # the client was the limit, or nothing higher was measured, in a round or more
    at_most: bool  # in a round or more it was not met at the lowest rate that was measured

    @property
    def rate(self) -> float:
        """The geometric mean over the rounds."""
        return math.exp(float(np.mean(np.log(self.rates))))

    @property
    def interval(self) -> Interval | None:
        """95 %, of the mean, over rounds; None where the rates are no more than limits, or there was one round."""
        if self.at_least or self.at_most:
            return None
        return log_interval(self.rates)

    @property
    def is_known(self) -> bool:
        return not (self.at_least or self.at_most)


@dataclass(frozen=True, kw_only=True)
class Level:
    """A share of the peak, over the rounds. A failed request counts as slower than all others."""

    share: float
    rate: float
    requests: int
    p50_ms: float | None  # of all rounds' requests together; None: so many failed, or too few were slower to tell
    p99_ms: float | None
    p999_ms: float | None
    rounds_p99_ms: tuple[float | None, ...]
    mean_p99_ms: float | None  # geometric, over the rounds; None: of some round it is not known
    p99_interval: Interval | None  # 95 %, of that mean
    failures: int
    late_p99_ms: float  # of the client itself; the worst round's
    client_busy: float  # the same


Name = TypeVar("Name", Backend, ProtocolName)


@dataclass(frozen=True, kw_only=True)
class Ratio(Generic[Name]):
    """How much more of one model is carried through one backend, or over one protocol, than through another."""

    first: Name  # which carries more
    second: Name
    ratio: float
    interval: Interval | None  # so wide that all pairs hold together with 95 %

    @property
    def is_shown(self) -> bool:
        return self.interval is not None and self.interval[0] > 1


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """One model through one backend over one protocol."""

    peak: Peak
    points: tuple[Point, ...]
    folder: Path

    @property
    def peak_is_clients(self) -> bool:
        return self.peak.client_busy > CLIENT_LIMITS

    @property
    def failures(self) -> int:
        return self.peak.failures + sum(point.failures for point in self.points)

    def answer(self, bound_ms: float) -> Answer:
        rounds: dict[int, list[Point]] = {}
        for point in self.points:
            rounds.setdefault(point.round, []).append(point)
        crossings = [crossing(points, bound_ms) for _, points in sorted(rounds.items())]
        return Answer(
            bound_ms=bound_ms,
            rates=tuple(one.rate for one in crossings),
            at_least=any(one.end in ("above", "unknown") for one in crossings),
            at_most=any(one.end in ("below", "unknown") for one in crossings),
        )

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """By rate. Raises ResultsMissing: the latencies are not there."""
        latencies = self._latencies()
        found = []
        for share in sorted({point.share for point in self.points}):
            points = [point for point in self.points if point.share == share]
            latency_ms, failed = latencies[share]
            if len(latency_ms) != sum(point.requests for point in points):
                raise ResultsMissing(f"{self.folder / self.peak.latencies} is not of this load test. {_AGAIN}")
            p50, p99, p999 = percentiles(latency_ms, failed, (50, 99, 99.9))
            slower = [round(len(latency_ms) * (1 - percent / 100), 6) for percent in (50, 99, 99.9)]
            p99s = tuple(point.p99_ms for point in points)
            known = [p99_ms for p99_ms in p99s if p99_ms is not None]
            found.append(
                Level(
                    share=share,
                    rate=points[0].rate,
                    requests=len(latency_ms),
                    p50_ms=p50 if slower[0] >= TAIL else None,
                    p99_ms=p99 if slower[1] >= TAIL else None,
                    p999_ms=p999 if slower[2] >= TAIL else None,
                    rounds_p99_ms=p99s,
                    mean_p99_ms=float(np.exp(np.log(known).mean())) if len(known) == len(p99s) else None,
                    p99_interval=log_interval(known) if len(known) == len(p99s) else None,
                    failures=sum(point.failures for point in points),
                    late_p99_ms=max(point.late_p99_ms for point in points),
                    client_busy=max(point.client_busy for point in points),
                )
            )
        return tuple(found)

    def _latencies(self) -> dict[float, tuple[Floats, npt.NDArray[np.bool_]]]:
        """By share: of every request its latency in ms, and whether it failed."""
        path = self.folder / self.peak.latencies
        try:
            with path.open(newline="") as file:
                rows = csv.reader(file)
                if tuple(next(rows, ())) != COLUMNS:
                    raise ValueError(f"expected the header {','.join(COLUMNS)}")
                of_share: dict[float, list[tuple[float, bool]]] = {}
                for _, of, _, _, latency_ms, outcome in rows:
                    of_share.setdefault(float(of), []).append((float(latency_ms), outcome == "failed"))
        except (OSError, ValueError) as error:
            raise ResultsMissing(f"{path} cannot be read: {error}. {_AGAIN}") from error
        found = {point.share: (np.zeros(0), np.zeros(0, bool)) for point in self.points}
        for share, pairs in of_share.items():
            found[share] = np.array([ms for ms, _ in pairs]), np.array([failed for _, failed in pairs])
        return found


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The results of an open scenario."""

    made_at: str  # ISO 8601, UTC
    machine: str
    pinning: str
    seconds: float  # of each measurement
    rounds: int
    bounds_ms: tuple[float, ...]
    versions: dict[str, str]  # package -> version
    arrived: tuple[Arrived, ...]

    @property
    def protocols(self) -> tuple[ProtocolName, ...]:
        return tuple(name for name in PROTOCOLS if any(one.peak.protocol == name for one in self.arrived))

    @property
    def models(self) -> tuple[str, ...]:
        """recipe:version, each once."""
        return tuple(dict.fromkeys(one.peak.model for one in self.arrived))

    def of(self, model: str, protocol: ProtocolName) -> tuple[Arrived, ...]:
        """Of each backend, in the order of BACKENDS."""
        found = [one for one in self.arrived if (one.peak.model, one.peak.protocol) == (model, protocol)]
        return tuple(sorted(found, key=lambda one: BACKENDS.index(one.peak.backend)))

    def ratios(self, model: str, protocol: ProtocolName, bound_ms: float) -> tuple[Ratio[Backend], ...]:
        """Of the backend that carries most to each other one, where neither rate is no more than a limit."""
        return _ratios({one.peak.backend: one.answer(bound_ms) for one in self.of(model, protocol)})

    def ratios_of_protocols(self, model: str, backend: Backend, bound_ms: float) -> tuple[Ratio[ProtocolName], ...]:
        """Of the protocol that carries most through this backend to each other one, as `ratios`."""
        found = [one for one in self.arrived if (one.peak.model, one.peak.backend) == (model, backend)]
        return _ratios({one.peak.protocol: one.answer(bound_ms) for one in found})


def _ratios(answers: Mapping[Name, Answer]) -> tuple[Ratio[Name], ...]:
    """Paired by round: whatever is compared takes turns in each."""
    known = {name: answer for name, answer in answers.items() if answer.is_known}
    if len(known) < 2 or any(answer.at_least for answer in answers.values()):
        return ()  # which of them carries most is not known
    pairs = len(list(combinations(known, 2)))
    best = max(known, key=lambda name: known[name].rate)
    return tuple(
        Ratio(
            first=best,
            second=name,
            ratio=known[best].rate / answer.rate,
            interval=log_interval(np.divide(known[best].rates, answer.rates), error=(1 - CONFIDENCE) / pairs),
        )
        for name, answer in known.items()
        if name != best
    )


def crossing(points: Sequence[Point], bound_ms: float) -> Crossing:
    """Where the p99 of one round's points, at least one, crosses the bound."""
    points = sorted(points, key=lambda point: point.rate)
    p99_ms = np.array([ENDLESS_MS if point.p99_ms is None else max(point.p99_ms, 1e-3) for point in points])
    logs = isotonic_regression(np.log(p99_ms)).x
    bound = math.log(bound_ms)
    beyond = next((i for i, log in enumerate(logs) if log > bound), None)
    if beyond is None:
        return Crossing(points[-1].rate, "above")
    limited = points[beyond].client_busy > CLIENT_LIMITS or points[beyond].late_p99_ms > LATE_SHARE * bound_ms
    if beyond == 0:
        return Crossing(points[0].rate, "unknown" if limited else "below")
    (low, high), (log_low, log_high) = (points[beyond - 1].rate, points[beyond].rate), logs[beyond - 1 : beyond + 1]
    if limited:
        return Crossing(low, "above")
    return Crossing(low + (high - low) * float((bound - log_low) / (log_high - log_low)), "between")


def read_rates(folder: Path) -> Rates | None:
    """The results of the open scenario in `folder`; None if there are none.

    Raises:
        ResultsMissing: they cannot be read.
    """
    path = folder / RESULTS_FILE
    data = read_json(path, _AGAIN)
    if data is None:
        return None
    with of_this_version(path, _AGAIN):
        points = [row_of(Point, one) for one in data["points"]]
        arrived = []
        for one in data["peaks"]:
            peak = row_of(Peak, one)
            of_it = tuple(
                point
                for point in points
                if (point.model, point.backend, point.protocol) == (peak.model, peak.backend, peak.protocol)
            )
            arrived.append(Arrived(peak=peak, points=of_it, folder=folder))
        top: dict[str, Any] = {
            field.name: data[field.name] for field in fields(Rates) if field.name not in ("arrived", "bounds_ms")
        }
        return Rates(arrived=tuple(arrived), bounds_ms=tuple(data["bounds_ms"]), **top)


def in_words(answer: Answer) -> str:
    """The rate, whole requests a second: 5,300; at least 5,300; below 900; or that the client was too slow to tell."""
    if answer.at_least and answer.at_most:
        return "not known"
    number = f"{answer.rate:,.0f}"
    return f"at least {number}" if answer.at_least else f"below {number}" if answer.at_most else number


def summarise_rates(rates: Rates, bound_ms: float) -> list[str]:
    """For each protocol a sentence or two: which backend carries most within the bound, and which are shown to carry less."""
    found = []
    for protocol in rates.protocols:
        said: list[str] = []
        unknown: list[str] = []
        for model in rates.models:
            of_model = rates.of(model, protocol)
            name = model.partition(":")[0]
            if len(of_model) < 2:
                continue
            ratios = rates.ratios(model, protocol, bound_ms)
            if not ratios:
                unknown.append(name)
                continue
            answers = {one.peak.backend: one.answer(bound_ms) for one in of_model}
            best = ratios[0].first
            shown = [one for one in ratios if one.is_shown]
            words = f"for {name} {best} carries {in_words(answers[best])} requests a second"
            if shown:
                less = join(f"{one.second} ({one.ratio:.2f} times)" for one in shown)
                words += f", which is shown to be more than {less}"
            if unshown := [one.second for one in ratios if not one.is_shown]:
                words += f"{',' if shown else ', but'} not shown to be more than {join(unshown)}"
            if limits := [f"{backend} ({in_words(it)})" for backend, it in answers.items() if not it.is_known]:
                words += f", and not compared with {join(limits)}"
            said.append(words)
        if unknown:
            said.append(
                f"for {join(unknown)} it is not known which carries most, since the client was too slow to tell, or the rates "
                "that were tried do not reach far enough"
            )
        if said:
            found.append(f"With 99 of 100 answered within {bound_ms:g} ms, over {protocol}: {'; '.join(said)}.")
    return found
