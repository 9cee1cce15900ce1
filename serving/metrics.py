"""What the server counts for Prometheus: per model, version and protocol, under names of its own and under Triton's.

A request costs one look-up and a few sums of whole numbers; families and text are made when somebody asks for them. With
several workers each keeps a snapshot of its numbers in a folder that they share, and whichever is asked adds them up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from serving.batching import Statistics
from serving.messages import Exchange

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
GONE: Final = 499  # the status under which a request counts whose client went away; nginx's word, never sent

SECONDS: Final = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0
)  # fmt: skip
BATCH_IMAGES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# A histogram of times is a list: one count for each bucket, one for what took longer, and the nanoseconds together. A series
# of requests is three of them on end: the whole time, the queue's and the model's.
BOUNDS_NS: Final = tuple(round(seconds * 1e9) for seconds in SECONDS)
SUM: Final = len(BOUNDS_NS) + 1
TIMES: Final = SUM + 1
QUEUE, QUEUE_SUM = TIMES, TIMES + SUM
RUN, RUN_SUM = 2 * TIMES, 2 * TIMES + SUM

MAX_SERIES: Final = 2000  # of requests in one worker: far more than routes, statuses and models make
MAX_DEAD: Final = 8  # snapshots of workers that are no more, before they are added up in one

Labels = tuple[str, ...]
Numbers = dict[str, dict[Labels, list[int]]]  # family -> labels -> what is added, place by place

log = logging.getLogger("samedigit")


class _Stored(Protocol):
    @property
    def version(self) -> str: ...


class _Score(Protocol):
    @property
    def accuracy(self) -> float: ...


class _Batcher(Protocol):
    statistics: Statistics

    @property
    def requests_waiting(self) -> int: ...
    @property
    def images_waiting(self) -> int: ...


class Served(Protocol):
    """What is asked of an open model."""

    @property
    def name(self) -> str: ...  # recipe.backend
    @property
    def model(self) -> _Stored: ...
    @property
    def backend(self) -> str: ...
    @property
    def device(self) -> object: ...
    @property
    def score(self) -> _Score: ...
    @property
    def batcher(self) -> _Batcher: ...


class Metrics:
    """The numbers of one worker. Belongs to one event loop: nothing is locked."""

    def __init__(self, folder: Path | None = None) -> None:
        """Args:
        folder: where the workers of one server keep their snapshots, empty when it starts; None: there is one worker.
        """
        self._requests: dict[tuple[str, int, str, str], list[int]] = {}  # by route, status, model and version
        self._shed: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        self._statistics: dict[
            tuple[str, str], list[Statistics]
        ] = {}  # of models that were closed, too: they still count
        self._snapshot = None if folder is None else folder / f"{os.getpid()}-{time.time_ns()}.json"
        self._failed_before = False

    def answered(self, exchange: Exchange, status: int) -> None:
        """Counts one answer, or with the status `GONE` a client that did not wait for it."""
        took = time.monotonic_ns() - exchange.began_ns
        try:
            series = self._requests[exchange.route, status, exchange.model, exchange.version]
        except KeyError:
            series = self._new_series(exchange.route, status, exchange.model, exchange.version)
        series[bisect_left(BOUNDS_NS, took)] += 1
        series[SUM] += took
        if ran := exchange.run_ns:
            waited = exchange.queue_ns
            series[QUEUE + bisect_left(BOUNDS_NS, waited)] += 1
            series[QUEUE_SUM] += waited
            series[RUN + bisect_left(BOUNDS_NS, ran)] += 1
            series[RUN_SUM] += ran

    def _new_series(self, route: str, status: int, model: str, version: str) -> list[int]:
        if len(self._requests) >= MAX_SERIES:  # models that come and go for months must not fill the memory
            model = version = "other"
        return self._requests.setdefault((route, status, model, version), [0] * (3 * TIMES))

    def unread(self, status: int) -> None:
        """Counts an answer to what could not be read as a request."""
        series = self._requests.get(("", status, "", "")) or self._new_series("", status, "", "")
        series[0] += 1

    def shed(self, reason: str) -> None:
        """Counts what was turned away for want of room or time, a request or a connection; `reason` is a word of ours."""
        self._shed[reason] = self._shed.get(reason, 0) + 1

    def connected(self, port: str) -> None:
        self._accepted[port] = self._accepted.get(port, 0) + 1
        self._connections[port] = self._connections.get(port, 0) + 1

    def disconnected(self, port: str) -> None:
        self._connections[port] -= 1

    def exposition(self, models: Iterable[Served], in_flight: int) -> bytes:
        """Everything in Prometheus's text format, of all workers together.

        Args:
            models: what is open.
            in_flight: requests admitted and not yet answered.
        """
        counters, gauges = self._counters(models), self._gauges(models, in_flight)
        self._write(counters, gauges)  # what was shown is never taken back, should this worker be killed now
        for their_counters, their_gauges in self._others():
            _add(counters, their_counters)
            _add(gauges, their_gauges)
        return _text([*_own(counters, gauges), *_about(models)]) + _text(_triton(counters)).replace(
            b" untyped\n", b" counter\n"
        )

    def write_snapshot(self, models: Iterable[Served], in_flight: int) -> None:
        """Keeps the numbers for whichever worker is asked, and those of models that may be closed. Due every second."""
        self._write(self._counters(models), self._gauges(models, in_flight))

    def _counters(self, models: Iterable[Served]) -> Numbers:
        for one in models:
            seen = self._statistics.setdefault((one.name, one.model.version), [])
            if not any(one.batcher.statistics is statistics for statistics in seen):  # opened anew, it counts from zero
                seen.append(one.batcher.statistics)
        counters: Numbers = {
            "requests": {
                (route, str(status), model, version): list(series)
                for (route, status, model, version), series in self._requests.items()
            },
            "shed": {(reason,): [count] for reason, count in self._shed.items()},
            "accepted": {(port,): [count] for port, count in self._accepted.items()},
        }
        for model, seen in self._statistics.items():
            for statistics in seen:
                _add(counters, {"inference": {model: _sums(statistics)}})
                _add(
                    counters, {"batches": {(*model, str(size)): [of.count] for size, of in statistics.batches.items()}}
                )
        return counters

    def _gauges(self, models: Iterable[Served], in_flight: int) -> Numbers:
        return {
            "in_flight": {(): [in_flight]},
            "connections": {(port,): [count] for port, count in self._connections.items()},
            "waiting": {
                (one.name, one.model.version): [one.batcher.requests_waiting, one.batcher.images_waiting]
                for one in models
            },
        }

    def _write(self, counters: Numbers, gauges: Numbers) -> None:
        if self._snapshot is None:
            return
        try:
            _write_snapshot(self._snapshot, os.getpid(), counters, gauges)
            self._failed_before = False
        except OSError as error:
            if not self._failed_before:  # and not each second again
                log.warning("The metrics of this worker cannot be kept for the others: %s", error)
            self._failed_before = True

    def _others(self) -> Iterator[tuple[Numbers, Numbers]]:
        """Counters and gauges of the other workers; of those that are no more, the counters."""
        if self._snapshot is None:
            return
        try:
            yield from _read_snapshots(self._snapshot)
        except OSError as error:
            log.warning("The metrics of the other workers cannot be read: %s", error)


def _sums(statistics: Statistics) -> list[int]:
    return [
        statistics.success.count,
        statistics.images,
        sum(of.count for of in statistics.batches.values()),
        statistics.success.ns,
        statistics.queue.ns,
        statistics.compute_input.ns,
        statistics.compute_infer.ns,
        statistics.compute_output.ns,
    ]


def _add(numbers: Numbers, further: Numbers) -> None:
    for family, series in further.items():
        into = numbers.setdefault(family, {})
        for labels, values in series.items():
            had = into.get(labels)
            into[labels] = values if had is None else [a + b for a, b in zip(had, values, strict=True)]


def _write_snapshot(path: Path, pid: int, counters: Numbers, gauges: Numbers) -> None:
    document = {
        "pid": pid,
        "counters": {family: list(series.items()) for family, series in counters.items()},
        "gauges": {family: list(series.items()) for family, series in gauges.items()},
    }
    beside = path.with_suffix(".new")
    beside.write_bytes(orjson.dumps(document))
    os.replace(beside, path)


def _read_snapshots(own: Path) -> list[tuple[Numbers, Numbers]]:
    with (own.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that nobody reads while the dead are added up
        found: list[tuple[Numbers, Numbers]] = []
        dead: Numbers = {}
        dead_paths = []
        for path in own.parent.glob("*.json"):
            if path == own:
                continue
            document = orjson.loads(path.read_bytes())
            if _lives(document["pid"]):
                found.append((_numbers(document["counters"]), _numbers(document["gauges"])))
            else:
                _add(dead, _numbers(document["counters"]))
                dead_paths.append(path)
        if len(dead_paths) > MAX_DEAD:
            _write_snapshot(dead_paths[0], 0, dead, {})
            for path in dead_paths[1:]:
                path.unlink()
    return [*found, (dead, {})]


def _numbers(document: dict[str, list[Any]]) -> Numbers:
    return {family: {tuple(labels): values for labels, values in series} for family, series in document.items()}


def _lives(pid: int) -> bool:
    if pid in (
        0,
        os.getpid(),
    ):  # 0: the sum of some that do not; our own, in a file that is not ours: one before us had it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _protocol(route: str) -> str:
    if route.startswith("/v2"):
        return "v2"
    if route.startswith("/inference."):
        return "grpc"
    return "predict" if route.startswith(("/predict", "/echo", "/models")) else "other"


def _outcome(status: int) -> str:
    if status < 400:
        return "success"
    if status == GONE:
        return "gone"
    if status in (429, 503):
        return "shed"
    return "refused" if status < 500 else "failed"


def _reason(status: int) -> str:
    """Triton's word for why an inference failed."""
    return {"shed": "REJECTED", "gone": "CANCELED", "failed": "BACKEND"}.get(_outcome(status), "OTHER")


def _own(counters: Numbers, gauges: Numbers) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "samedigit_requests",
        "Requests answered",
        labels=("protocol", "route", "model", "version", "outcome", "status"),
    )
    durations: dict[Labels, list[int]] = {}
    inferences: dict[Labels, list[int]] = {}
    for (route, status, model, version), series in counters["requests"].items():
        protocol, outcome = _protocol(route), _outcome(int(status))
        requests.add_metric([protocol, route or "other", model, version, outcome, status], sum(series[:SUM]))
        _add({"": durations}, {"": {(protocol, model, version, outcome): series[:TIMES]}})
        if sum(series[RUN:RUN_SUM]):
            _add({"": inferences}, {"": {(protocol, model, version): series[TIMES:]}})
    yield requests
    yield _seconds(
        "samedigit_request_duration_seconds",
        "From a request's head to its answer",
        ("protocol", "model", "version", "outcome"),
        durations,
    )
    names = ("protocol", "model", "version")
    queued = {key: series[:TIMES] for key, series in inferences.items()}
    yield _seconds("samedigit_queue_duration_seconds", "What a request waited for its model", names, queued)
    ran = {key: series[TIMES:] for key, series in inferences.items()}
    yield _seconds("samedigit_compute_duration_seconds", "How long the batch of a request ran", names, ran)
    yield _batch_images(counters)
    shed = CounterMetricFamily(
        "samedigit_shed", "Requests and connections turned away for want of room or time", labels=["reason"]
    )
    accepted = CounterMetricFamily("samedigit_connections_accepted", "Connections that were opened", labels=["port"])
    for family, numbers in ((shed, counters["shed"]), (accepted, counters["accepted"])):
        for (label,), (count,) in numbers.items():
            family.add_metric([label], count)
        yield family
    connections = GaugeMetricFamily("samedigit_connections", "Connections that are open", labels=["port"])
    for (port,), (count,) in gauges["connections"].items():
        connections.add_metric([port], count)
    yield connections
    yield GaugeMetricFamily(
        "samedigit_requests_in_flight", "Requests admitted and not yet answered", value=gauges["in_flight"][()][0]
    )
    waiting = GaugeMetricFamily(
        "samedigit_queued_images", "Images that wait for their model", labels=["model", "version"]
    )
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Requests that wait for their model", labels=["model", "version"]
    )
    for (model, version), (requests_waiting, images_waiting) in gauges["waiting"].items():
        waiting.add_metric([model, version], images_waiting)
        pending.add_metric([model, version], requests_waiting)
    yield waiting
    yield pending


def _seconds(name: str, documentation: str, labels: tuple[str, ...], series: dict[Labels, list[int]]) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, histogram in series.items():
        _add_histogram(family, values, SECONDS, histogram[:SUM], histogram[SUM] / 1e9)
    return family


def _batch_images(counters: Numbers) -> Metric:
    family = HistogramMetricFamily("samedigit_batch_images", "Images that ran together", labels=["model", "version"])
    histograms: dict[Labels, list[int]] = {}
    for (model, version, size), (batches,) in counters.get("batches", {}).items():
        histogram = histograms.setdefault((model, version), [0] * (len(BATCH_IMAGES) + 2))
        histogram[bisect_left(BATCH_IMAGES, int(size))] += batches
        histogram[-1] += batches * int(size)
    for labels, histogram in histograms.items():
        _add_histogram(family, labels, BATCH_IMAGES, histogram[:-1], histogram[-1])
    return family


def _add_histogram(
    family: HistogramMetricFamily, labels: Labels, bounds: tuple[float, ...], counts: list[int], total: float
) -> None:
    upper = [*(f"{float(bound):g}" for bound in bounds), "+Inf"]
    family.add_metric(labels, list(zip(upper, accumulate(counts), strict=True)), total)


def _about(models: Iterable[Served]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "samedigit_model_info", "1 for each open model", labels=["model", "version", "backend", "device"]
    )
    accuracy = GaugeMetricFamily(
        "samedigit_model_accuracy_ratio",
        "The model's stored accuracy: the share of MNIST's test images that its file got right",
        labels=["model", "version"],
    )
    for one in models:
        info.add_metric([one.name, one.model.version, one.backend, str(one.device)], 1)
        accuracy.add_metric([one.name, one.model.version], one.score.accuracy)
    yield info
    yield accuracy


TRITON: Final = (  # in the order of `_sums`, with what a value is divided by
    ("nv_inference_request_success", "Successful inference requests", 1),
    ("nv_inference_count", "Images that were classified", 1),
    ("nv_inference_exec_count", "Batches that ran", 1),
    ("nv_inference_request_duration_us", "Time of requests together, from the queue to the answer", 1000),
    ("nv_inference_queue_duration_us", "Time that requests waited for their model together", 1000),
    ("nv_inference_compute_input_duration_us", "Time in which requests' images were joined together", 1000),
    ("nv_inference_compute_infer_duration_us", "Time that requests' batches ran together", 1000),
    ("nv_inference_compute_output_duration_us", "Time in which requests' answers were written together", 1000),
)


def _triton(counters: Numbers) -> Iterator[Metric]:
    for place, (name, documentation, divisor) in enumerate(TRITON):
        family = UnknownMetricFamily(name, documentation, labels=["model", "version"])
        for (model, version), sums in counters.get("inference", {}).items():
            family.add_metric([model, version], sums[place] // divisor)
        yield family
    failures: dict[tuple[str, ...], int] = {}
    for (route, status, model, version), series in counters["requests"].items():
        if model and int(status) >= 400 and (route.endswith("/infer") or route.startswith("/predict")):
            key = (model, version, _reason(int(status)))
            failures[key] = failures.get(key, 0) + sum(series[:SUM])
    family = UnknownMetricFamily(
        "nv_inference_request_failure", "Inference requests that failed", labels=["model", "version", "reason"]
    )
    for labels, count in failures.items():
        family.add_metric(labels, count)
    yield family


@dataclass(frozen=True, eq=False)
class _Families:
    """What a registry of prometheus_client collects."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(list(families)))
    return generate_latest(registry)
