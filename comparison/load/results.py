"""What a load test left in its folder, and which stored model each of its runs is of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from comparison.intervals import wilson
from comparison.reading import of_this_version, read_json, row_of
from comparison.words import ECHO
from digits.card import Score
from digits.contract import BACKENDS, Backend, Framework
from digits.errors import ResultsMissing
from digits.store import StoredModel
from loadtests.load_test import RESULTS_FILE, Run
from loadtests.protocols import PROTOCOLS, ProtocolName

COLUMNS: Final = ["sent_s", "latency_ms", "outcome"]  # of each run's CSV file

Latencies = npt.NDArray[np.float64]  # [requests], ms


@dataclass(frozen=True, kw_only=True)
class Results:
    folder: Path
    made_at: str  # ISO 8601, UTC
    machine: str
    pinning: str
    duration_seconds: float  # of each run, as asked for
    versions: dict[str, str]  # package -> version
    runs: tuple[Run, ...]

    def latencies(self, run: Run) -> Latencies:
        """The latency of every request of `run`, failed ones too, in ms, in ascending order.

        Raises:
            ResultsMissing: the file is missing, or does not hold the requests of this run.
        """
        path = self.folder / run.latencies
        try:
            with path.open(newline="") as file:
                rows = csv.reader(file)
                header = next(rows, None)
                if header != COLUMNS:
                    raise ValueError(f"expected the header {','.join(COLUMNS)}, got {header}")
                latencies = np.sort(np.array([float(latency_ms) for _, latency_ms, _ in rows], np.float64))
        except OSError as error:
            raise ResultsMissing(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
        except ValueError as error:
            raise ResultsMissing(f"{path} is not a list of latencies: {error}. {_AGAIN}") from error
        if len(latencies) != run.requests:
            raise ResultsMissing(
                f"{path} has {len(latencies)} requests, but {RESULTS_FILE} says {run.requests}: they are not of one "
                f"load test. {_AGAIN}"
            )
        return latencies


_AGAIN: Final = "Run the load test again: samedigit loadtest"


def read_results(folder: Path) -> Results:
    """The results that a load test wrote into `folder`.

    Raises:
        ResultsMissing: there are none, or they cannot be read.
    """
    path = folder / RESULTS_FILE
    data = read_json(path, _AGAIN)
    if data is None:
        raise ResultsMissing(
            f"There are no load-test results in {folder}: expected {RESULTS_FILE} there. Run first: samedigit loadtest"
        )
    with of_this_version(path, _AGAIN):
        runs = tuple(row_of(Run, run) for run in data["runs"])
        top: dict[str, Any] = {field.name: data[field.name] for field in fields(Results) if field.name not in _NOT_TOP}
    unknown = {run.protocol for run in runs} - PROTOCOLS.keys()
    if unknown:
        raise ResultsMissing(
            f"{path} has runs over {', '.join(map(str, unknown))}: it was written by another version of Samedigit. {_AGAIN}"
        )
    if not runs:
        raise ResultsMissing(f"{path} holds no runs. {_AGAIN}")
    return Results(folder=folder, runs=runs, **top)


_NOT_TOP: Final = ("folder", "runs")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Where the mean latency of a run went, in ms."""

    latency_ms: float
    model_ms: float  # the runtime
    queue_ms: float  # waiting for it

    @property
    def door_ms(self) -> float:
        """All the rest: HTTP and parsing on both sides, and the way between them."""
        return self.latency_ms - self.queue_ms - self.model_ms


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The runs against one server over one protocol: with one caller, and with as many as the load test had at most."""

    protocol: ProtocolName
    one: Run | None
    many: Run | None

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for run in (self.one, self.many) if run is not None)

    @property
    def share(self) -> Share | None:
        """Of one caller's latency. None where it was not measured, there was no model, or a request failed."""
        run = self.one
        if run is None or run.model_ms is None or run.queue_ms is None or run.failures:
            return None
        return Share(latency_ms=run.mean_ms, model_ms=run.model_ms, queue_ms=run.queue_ms)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one server was asked, over each protocol."""

    measured: tuple[Measured, ...]  # in the order of PROTOCOLS

    def over(self, protocol: ProtocolName) -> Measured:
        """Without runs, if it was not asked over this protocol."""
        missing = Measured(protocol=protocol, one=None, many=None)
        return next((measured for measured in self.measured if measured.protocol == protocol), missing)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for measured in self.measured for run in measured.runs)

    @property
    def failures(self) -> int:
        return sum(run.failures for run in self.runs)

    @property
    def first_failure(self) -> str | None:
        return next((run.first_failure for run in self.runs if run.first_failure), None)


@dataclass(frozen=True, kw_only=True)
class Served(Target):
    """A stored model through one backend."""

    model: StoredModel
    backend: Backend

    @property
    def score(self) -> Score:
        """The stored one, of this backend's file."""
        return self.model.card.scores[self.backend]

    @property
    def accuracy_over_requests(self) -> float | None:
        """In [0, 1], of the answers of all runs; None where every request failed."""
        answers = sum(run.requests - run.failures for run in self.runs)
        return sum(run.correct for run in self.runs) / answers if answers else None


@dataclass(frozen=True)
class Comparison:
    """Load-test results joined with the models they are of."""

    results: Results
    models: tuple[StoredModel, ...]
    served: tuple[Served, ...]  # by model, in the order of `models`, then by backend
    echo: Target | None  # the door without a model
    skipped: tuple[str, ...]  # models in the results that are not among `models`: recipe:version

    @property
    def protocols(self) -> tuple[ProtocolName, ...]:
        """Those over which a model was asked."""
        return tuple(name for name in PROTOCOLS if any(served.over(name).runs for served in self.served))

    @property
    def finest(self) -> ProtocolName:
        """The one of `protocols` that costs least, and so shows most of the models behind it."""
        return self.protocols[-1]

    @property
    def users(self) -> int | None:
        """How many callers the busier runs had; None if no run had more than one."""
        return max((run.users for served in self.served for run in served.runs if run.users > 1), default=None)

    @property
    def tested(self) -> tuple[StoredModel, ...]:
        """The models that the load test ran."""
        return tuple(model for model in self.models if self.of_model(model))

    def door_ms(self, protocol: ProtocolName) -> float | None:
        """The mean latency of one caller whose request is answered without a model."""
        run = self.echo.over(protocol).one if self.echo is not None else None
        return run.mean_ms if run else None

    def mean_share(self, protocol: ProtocolName, backend: Backend) -> Share | None:
        """The mean of the shares of every model that was asked through `backend` over `protocol`."""
        served = [served for served in self.served if served.backend == backend]
        shares = [share for each in served if (share := each.over(protocol).share) is not None]
        if not shares:
            return None
        return Share(
            latency_ms=fmean(share.latency_ms for share in shares),
            model_ms=fmean(share.model_ms for share in shares),
            queue_ms=fmean(share.queue_ms for share in shares),
        )

    def of_model(self, model: StoredModel) -> tuple[Served, ...]:
        return tuple(served for served in self.served if served.model.tag == model.tag)


def compare(results: Results, models: Sequence[StoredModel]) -> Comparison:
    """Joins runs and models by `recipe:version`.

    Raises:
        ResultsMissing: not one of the runs is of one of `models`.
    """
    served = []
    for model in models:
        for backend in BACKENDS:
            runs = [run for run in results.runs if run.model == model.tag and run.backend == backend]
            if runs:
                served.append(Served(model=model, backend=backend, measured=_measured(runs)))
    tested = dict.fromkeys(run.model for run in results.runs if run.backend != ECHO)
    if not served:
        there = ", ".join(model.tag for model in models) or "no model"
        raise ResultsMissing(
            f"The load test in {results.folder} is of {', '.join(tested) or 'no model'}, but stored now is {there}: "
            f"its models were deleted, or trained again since. {_AGAIN}"
        )
    echo = [run for run in results.runs if run.backend == ECHO]
    return Comparison(
        results=results,
        models=tuple(models),
        served=tuple(served),
        echo=Target(measured=_measured(echo)) if echo else None,
        skipped=tuple(tag for tag in tested if tag not in {model.tag for model in models}),
    )


def _measured(runs: Sequence[Run]) -> tuple[Measured, ...]:
    measured = []
    for protocol in PROTOCOLS:
        over = [run for run in runs if run.protocol == protocol]
        one = next((run for run in over if run.users == 1), None)
        many = max((run for run in over if run.users > 1), key=lambda run: run.users, default=None)
        if over:
            measured.append(Measured(protocol=protocol, one=one, many=many))
    return tuple(measured)


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One model through one backend over one protocol. Accuracies are in [0, 1]; None stands for what was not measured."""

    model: str  # recipe:version
    recipe: str
    framework: Framework
    backend: Backend
    protocol: ProtocolName
    accuracy: float  # stored, of this backend's file
    low: float  # of the 95 % interval of `accuracy`
    high: float
    accuracy_over_requests: float | None  # of all protocols
    p50_ms: float | None  # one caller
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float | None  # the next three add up to it, which are None if a request failed
    model_ms: float | None
    queue_ms: float | None
    door_ms: float | None
    users: int | None
    requests_per_second: float | None  # with that many callers
    images_per_batch: float | None  # mean, with that many callers
    failures: int
    size_bytes: int


def summary_table(results: Path, models: Sequence[StoredModel]) -> list[SummaryRow]:
    """One row per model, backend and protocol of the load test in the folder `results`.

    Raises:
        ResultsMissing: no results, or none of these models.
    """
    served = compare(read_results(results), models).served
    return [_row(each, measured) for each in served for measured in each.measured]


def _row(served: Served, measured: Measured) -> SummaryRow:
    model, one, many, score, share = served.model, measured.one, measured.many, served.score, measured.share
    low, high = wilson(score.correct, score.total)
    return SummaryRow(
        model=model.tag,
        recipe=model.recipe,
        framework=model.card.framework,
        backend=served.backend,
        protocol=measured.protocol,
        accuracy=score.accuracy,
        low=low,
        high=high,
        accuracy_over_requests=served.accuracy_over_requests,
        p50_ms=one.p50_ms if one else None,
        p95_ms=one.p95_ms if one else None,
        p99_ms=one.p99_ms if one else None,
        mean_ms=one.mean_ms if one else None,
        model_ms=share.model_ms if share else None,
        queue_ms=share.queue_ms if share else None,
        door_ms=share.door_ms if share else None,
        users=many.users if many else None,
        requests_per_second=many.requests_per_second if many else None,
        images_per_batch=many.images_per_batch if many else None,
        failures=sum(run.failures for run in measured.runs),
        size_bytes=model.card.bytes[served.backend],
    )
