"""The numbers that `metrics.py` keeps, in Prometheus's text format: families of our own, and Triton's.

Names beginning with `nv_` are those of Triton, of its meaning, so that dashboards made for it work.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from serving.batching import Statistics

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

Labels = tuple[str, ...]
Numbers = dict[str, dict[Labels, list[int]]]  # family -> labels -> what is added, place by place


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


def text(counters: Numbers, gauges: Numbers, models: Sequence[Served]) -> bytes:
    """Everything, as it is sent."""
    triton = _text(_triton(counters))
    # Triton's counters lack the _total that prometheus_client gives every counter.
    return _text([*_own(counters, gauges), *_about(models)]) + triton.replace(b" untyped\n", b" counter\n")


def add(numbers: Numbers, further: Numbers) -> None:
    for family, series in further.items():
        into = numbers.setdefault(family, {})
        for labels, values in series.items():
            had = into.get(labels)
            into[labels] = values if had is None else [a + b for a, b in zip(had, values, strict=True)]


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
        add({"": durations}, {"": {(protocol, model, version, outcome): series[:TIMES]}})
        if sum(series[RUN:RUN_SUM]):
            add({"": inferences}, {"": {(protocol, model, version): series[TIMES:]}})
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


def _about(models: Sequence[Served]) -> Iterator[Metric]:
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


TRITON: Final = (  # in the order of `metrics._of_model`, with what a value is divided by
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
