"""The numbers that `metrics.py` keeps, in Prometheus's text format: families of our own, and Triton's.

Names that begin with `nv_` are Triton's and mean what they mean there, so that dashboards made for it work. The text is
written here, in a tenth of the time that prometheus_client's takes: requests wait for a scrape of many models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple, Protocol

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

TRITON: Final = (  # in the order of `metrics._of_model`, with what a value is divided by
    ("nv_inference_request_success", "Inference requests that were answered.", 1),
    ("nv_inference_count", "Images that were classified.", 1),
    ("nv_inference_exec_count", "Batches that ran.", 1),
    ("nv_inference_request_duration_us", "Requests' time together, from the queue to the answer.", 1000),
    ("nv_inference_queue_duration_us", "Requests' time together that they waited for their model.", 1000),
    ("nv_inference_compute_input_duration_us", "Requests' time together in which images were joined.", 1000),
    ("nv_inference_compute_infer_duration_us", "Requests' time together in which batches ran.", 1000),
    ("nv_inference_compute_output_duration_us", "Requests' time together in which answers were written.", 1000),
)
ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

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


class Family(NamedTuple):
    """Series of one name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    says: str
    labels: tuple[str, ...]
    series: Iterable[tuple[Labels, int | float]]  # the labels' values, and the series' own
    histograms: Iterable[Histogram] = ()  # or these


class Histogram(NamedTuple):
    labels: Labels
    bounds: tuple[float, ...]
    counts: list[int]  # between each bound and the one before, and above the last
    total: float


def text(counters: Numbers, gauges: Numbers, models: Sequence[Served]) -> bytes:
    """Everything, as it is sent."""
    lines: list[str] = []
    for family in (*_own(counters, gauges), *_process(counters, gauges), *_about(models), *_triton(counters, gauges)):
        lines += (f"# HELP {family.name} {family.says}\n", f"# TYPE {family.name} {family.kind}\n")
        for values, value in family.series:
            labels = _labels(family.labels, values)
            lines.append(f"{family.name}{{{labels}}} {value}\n" if labels else f"{family.name} {value}\n")
        for histogram in family.histograms:
            labels = _labels(family.labels, histogram.labels)
            braced = f"{{{labels}}}" if labels else ""
            before = f'{family.name}_bucket{{{labels}{"," if labels else ""}le="'
            counts = [*accumulate(histogram.counts)]
            lines += [f'{before}{bound}"}} {count}\n' for bound, count in zip(histogram.bounds, counts, strict=False)]
            lines += (
                f'{before}+Inf"}} {counts[-1]}\n',
                f"{family.name}_sum{braced} {histogram.total}\n",
                f"{family.name}_count{braced} {counts[-1]}\n",
            )
    return "".join(lines).encode()


def _labels(names: tuple[str, ...], values: Labels) -> str:
    return ",".join(f'{name}="{value.translate(ESCAPED)}"' for name, value in zip(names, values, strict=True))


def add(numbers: Numbers, further: Numbers) -> None:
    for family, series in further.items():
        into = numbers.setdefault(family, {})
        for labels, values in series.items():
            had = into.get(labels)
            into[labels] = values if had is None else [a + b for a, b in zip(had, values, strict=True)]


def _protocol(route: str) -> str:
    if route.startswith("/v2"):
        return "v2"
    if route.startswith(("/inference.", "/grpc.")):
        return "grpc"
    if route in ("/classify", "/compare"):
        return "picture"
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


def _own(counters: Numbers, gauges: Numbers) -> Iterator[Family]:
    requests: list[tuple[Labels, int]] = []
    durations: dict[Labels, list[int]] = {}
    inferences: dict[Labels, list[int]] = {}
    for (route, status, model, version), series in counters["requests"].items():
        protocol, outcome = _protocol(route), _outcome(int(status))
        requests.append(((protocol, route or "other", model, version, outcome, status), sum(series[:SUM])))
        add({"": durations}, {"": {(protocol, model, version, outcome): series[:TIMES]}})
        if sum(series[RUN:RUN_SUM]):
            add({"": inferences}, {"": {(protocol, model, version): series[TIMES:]}})
    yield Family(
        "samedigit_requests_total",
        "counter",
        "Requests answered.",
        ("protocol", "route", "model", "version", "outcome", "status"),
        requests,
    )
    yield _seconds(
        "samedigit_request_duration_seconds",
        "From a request's head to its answer.",
        ("protocol", "model", "version", "outcome"),
        durations,
    )
    labels = ("protocol", "model", "version")
    yield _seconds(
        "samedigit_queue_duration_seconds",
        "What a request waited for its model.",
        labels,
        {values: series[:TIMES] for values, series in inferences.items()},
    )
    yield _seconds(
        "samedigit_compute_duration_seconds",
        "How long the batch of a request ran.",
        labels,
        {values: series[TIMES:] for values, series in inferences.items()},
    )
    yield _seconds(
        "samedigit_picture_duration_seconds",
        "What it took to read a picture and find its digits.",
        (),
        counters["pictures"],
    )
    yield _batch_images(counters)
    yield Family(
        "samedigit_shed_total",
        "counter",
        "Requests and connections turned away for want of room or time.",
        ("reason",),
        _firsts(counters["shed"]),
    )
    yield Family(
        "samedigit_connections_accepted_total",
        "counter",
        "Connections that were opened.",
        ("port",),
        _firsts(counters["accepted"]),
    )
    yield Family(
        "samedigit_connections", "gauge", "Connections that are open.", ("port",), _firsts(gauges["connections"])
    )
    yield Family(
        "samedigit_requests_in_flight",
        "gauge",
        "Requests admitted and not yet answered.",
        (),
        _firsts(gauges["in_flight"]),
    )
    yield Family(
        "samedigit_queued_images",
        "gauge",
        "Images that wait for their model.",
        ("model", "version"),
        [(model, images) for model, (_, images) in gauges["waiting"].items()],
    )


def _process(counters: Numbers, gauges: Numbers) -> Iterator[Family]:
    """Under the names that Prometheus's clients give them."""
    yield Family(
        "process_cpu_seconds_total",
        "counter",
        "CPU time of all workers.",
        (),
        [((), counters["cpu"][()][0] / 1e9)],
    )
    yield Family(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of all workers; what they share counts for each.",
        (),
        _firsts(gauges["memory"]),
    )


def _firsts(series: dict[Labels, list[int]]) -> list[tuple[Labels, int]]:
    return [(labels, value) for labels, (value,) in series.items()]


def _seconds(name: str, says: str, labels: tuple[str, ...], series: dict[Labels, list[int]]) -> Family:
    histograms = [Histogram(values, SECONDS, times[:SUM], times[SUM] / 1e9) for values, times in series.items()]
    return Family(name, "histogram", says, labels, (), histograms)


def _batch_images(counters: Numbers) -> Family:
    counts: dict[Labels, list[int]] = {}
    images: dict[Labels, int] = {}
    for (model, version, size), (batches,) in counters.get("batches", {}).items():
        of_model = counts.setdefault((model, version), [0] * (len(BATCH_IMAGES) + 1))
        of_model[bisect_left(BATCH_IMAGES, int(size))] += batches
        images[model, version] = images.get((model, version), 0) + batches * int(size)
    return Family(
        "samedigit_batch_images",
        "histogram",
        "Images that ran together.",
        ("model", "version"),
        (),
        [Histogram(labels, BATCH_IMAGES, of_model, images[labels]) for labels, of_model in counts.items()],
    )


def _about(models: Sequence[Served]) -> Iterator[Family]:
    yield Family(
        "samedigit_model_info",
        "gauge",
        "1 for each open model.",
        ("model", "version", "backend", "device"),
        [((one.name, one.model.version, one.backend, str(one.device)), 1) for one in models],
    )
    yield Family(
        "samedigit_model_accuracy_ratio",
        "gauge",
        "The model's stored accuracy: the share of MNIST's test images that its file got right.",
        ("model", "version"),
        [((one.name, one.model.version), one.score.accuracy) for one in models],
    )


def _triton(counters: Numbers, gauges: Numbers) -> Iterator[Family]:
    labels = ("model", "version")
    for place, (name, says, divisor) in enumerate(TRITON):
        series = [(model, sums[place] // divisor) for model, sums in counters.get("inference", {}).items()]
        yield Family(name, "counter", says, labels, series)
    failures: dict[Labels, int] = {}
    for (route, status, model, version), times in counters["requests"].items():
        if (
            model
            and int(status) >= 400
            and (route.endswith(("/infer", "/ModelInfer", "/ModelStreamInfer")) or route.startswith("/predict"))
        ):
            values = (model, version, _reason(int(status)))
            failures[values] = failures.get(values, 0) + sum(times[:SUM])
    yield Family(
        "nv_inference_request_failure",
        "counter",
        "Inference requests that failed.",
        (*labels, "reason"),
        failures.items(),
    )
    yield Family(
        "nv_inference_pending_request_count",
        "gauge",
        "Requests that wait for their model.",
        labels,
        [(model, requests) for model, (requests, _) in gauges["waiting"].items()],
    )
