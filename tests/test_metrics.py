"""What the server counts, and how it says so to Prometheus."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pytest
from exchanges import INFER, exchange, inference
from prometheus_client.parser import text_string_to_metric_families

from digits.contract import Images, Probabilities
from serving.batching import Batcher, Counted, Statistics
from serving.exposition import GONE, SECONDS
from serving.metrics import MAX_DEAD, MAX_SERIES, Metrics
from serving.settings import read_settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Stored:
    version: str = "abc"


@dataclass
class Score:
    accuracy: float = 0.9757


@dataclass
class Queue:
    statistics: Statistics = field(default_factory=Statistics)
    requests_waiting: int = 0
    images_waiting: int = 0


@dataclass
class Model:
    """As much of an open model as the metrics ask for."""

    batcher: Queue = field(default_factory=Queue)
    model: Stored = field(default_factory=Stored)
    name: str = "torch-relu.onnx"
    backend: str = "onnx"
    device: str = "cpu"
    score: Score = field(default_factory=Score)


def statistics(requests: int, batches: Mapping[int, int]) -> Statistics:
    """Of requests that waited 3 us, whose batches were joined in 1 us, ran 5 us and were written in 2 us."""
    return Statistics(
        success=Counted(requests, requests * 11_000),
        queue=Counted(requests, requests * 3000),
        compute_input=Counted(requests, requests * 1000),
        compute_infer=Counted(requests, requests * 5000),
        compute_output=Counted(requests, requests * 2000),
        batches={size: Counted(count, count * 5000) for size, count in batches.items()},
        images=sum(size * count for size, count in batches.items()),
    )


def samples(metrics: Metrics, models: list[Model] | None = None, in_flight: int = 0) -> Samples:
    """What a scraper reads. The parser adds `_total` to every counter's name; Prometheus does not."""
    text = metrics.exposition(models or [], in_flight).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            assert (name, frozenset(sample.labels.items())) not in found
            found[name, frozenset(sample.labels.items())] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def labels_of(found: Samples, name: str) -> list[dict[str, str]]:
    return [dict(labels) for sample, labels in found if sample == name]


def test_requests_count_by_protocol_route_model_version_outcome_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 400, 503, 500, GONE):
        metrics.answered(inference(), status)
    metrics.answered(exchange(route="/predict/{backend}"), 429)
    metrics.answered(exchange(route="/inference.GRPCInferenceService/ModelInfer"), 200)
    metrics.answered(exchange(route="/grpc.health.v1.Health/Check"), 200)
    metrics.answered(exchange(route="/metrics"), 200)
    metrics.answered(exchange(route="/classify"), 415)
    found = samples(metrics)
    counted = {
        (
            labels["protocol"],
            labels["route"],
            labels["model"],
            labels["version"],
            labels["outcome"],
            labels["status"],
        ): (value(found, "samedigit_requests_total", **labels))
        for labels in labels_of(found, "samedigit_requests_total")
    }
    assert counted == {
        ("v2", INFER, "torch-relu.onnx", "abc", "success", "200"): 2,
        ("v2", INFER, "torch-relu.onnx", "abc", "refused", "400"): 1,
        ("v2", INFER, "torch-relu.onnx", "abc", "shed", "503"): 1,
        ("v2", INFER, "torch-relu.onnx", "abc", "failed", "500"): 1,
        ("v2", INFER, "torch-relu.onnx", "abc", "gone", "499"): 1,
        ("predict", "/predict/{backend}", "", "", "shed", "429"): 1,
        ("grpc", "/inference.GRPCInferenceService/ModelInfer", "", "", "success", "200"): 1,
        ("grpc", "/grpc.health.v1.Health/Check", "", "", "success", "200"): 1,
        ("other", "/metrics", "", "", "success", "200"): 1,
        ("picture", "/classify", "", "", "refused", "415"): 1,
    }


def test_latency_queue_and_compute_time_are_histograms_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 10**12)
    metrics = Metrics()
    metrics.answered(inference(took_ns=400_000_000, queue_ns=30_000_000, run_ns=40_000), 200)
    metrics.answered(inference(took_ns=3_000_000_000, queue_ns=50_000, run_ns=11_000_000_000), 200)
    found = samples(metrics)

    def buckets(name: str, **labels: str) -> list[float]:
        """How many fell between each bound and the one before."""
        upper = [*(str(second) for second in SECONDS), "+Inf"]
        total = [value(found, f"{name}_bucket", le=le, **labels) for le in upper]
        return [now - before for now, before in zip(total, [0, *total], strict=False)]

    model = {"protocol": "v2", "model": "torch-relu.onnx", "version": "abc"}
    latency = buckets("samedigit_request_duration_seconds", **model, outcome="success")
    assert latency[SECONDS.index(0.5)] == 1
    assert latency[SECONDS.index(5.0)] == 1
    assert sum(latency) == 2
    queue = buckets("samedigit_queue_duration_seconds", **model)
    assert queue[SECONDS.index(0.05)] == 1
    assert queue[0] == 1  # 50 us is within the bucket of 50 us
    assert sum(queue) == 2
    compute = buckets("samedigit_compute_duration_seconds", **model)
    assert compute[0] == 1
    assert compute[-1] == 1  # longer than the last bound
    assert sum(compute) == 2
    assert value(found, "samedigit_queue_duration_seconds_sum", **model) == pytest.approx(0.03005)
    assert value(found, "samedigit_compute_duration_seconds_sum", **model) == pytest.approx(11.00004)
    assert value(found, "samedigit_request_duration_seconds_sum", **model, outcome="success") == pytest.approx(3.4)


def test_the_time_to_read_a_picture_is_a_histogram_of_its_own() -> None:
    metrics = Metrics()
    metrics.answered(exchange(), 200)  # without a picture
    for picture_ns in (4_000_000, 90_000_000):
        asked = exchange(route="/classify")
        asked.picture_ns = picture_ns
        metrics.answered(asked, 200)
    found = samples(metrics)
    name = "samedigit_picture_duration_seconds"
    assert value(found, f"{name}_count") == 2
    assert value(found, f"{name}_sum") == pytest.approx(0.094)
    assert [value(found, f"{name}_bucket", le=le) for le in ("0.002", "0.005", "0.05", "0.1")] == [0, 1, 1, 2]


def test_what_was_refused_before_a_model_ran_has_no_queue_nor_compute_time() -> None:
    metrics = Metrics()
    metrics.answered(exchange(), 400)
    found = samples(metrics)
    assert not labels_of(found, "samedigit_queue_duration_seconds_count")
    assert not labels_of(found, "samedigit_compute_duration_seconds_count")


def test_the_batchers_statistics_are_there_under_tritons_names() -> None:
    metrics = Metrics()
    for status in (400, 429, 503, 500, GONE, 200):
        metrics.answered(inference(), status)
    no_inference = inference()
    no_inference.route = "/v2/models/{model}/config"
    metrics.answered(no_inference, 500)
    for method in ("ModelInfer", "ModelStreamInfer"):
        called = inference()
        called.route = f"/inference.GRPCInferenceService/{method}"
        metrics.answered(called, 503)
    queue = Queue(statistics(7, {1: 3, 4: 1}), requests_waiting=2, images_waiting=9)
    found = samples(metrics, [Model(queue)])
    model = {"model": "torch-relu.onnx", "version": "abc"}
    assert {
        name: value(found, f"nv_inference_{name}", **model)
        for name in (
            "request_success", "count", "exec_count", "request_duration_us", "queue_duration_us",
            "compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us", "pending_request_count",
        )
    } == {
        "request_success": 7,
        "count": 7,  # images
        "exec_count": 4,  # batches
        "request_duration_us": 77,
        "queue_duration_us": 21,
        "compute_input_duration_us": 7,
        "compute_infer_duration_us": 35,
        "compute_output_duration_us": 14,
        "pending_request_count": 2,
    }  # fmt: skip
    assert {
        labels["reason"]: value(found, "nv_inference_request_failure", **labels)
        for labels in labels_of(found, "nv_inference_request_failure")
    } == {"OTHER": 1, "REJECTED": 4, "BACKEND": 1, "CANCELED": 1}


def test_tritons_counters_are_typed_as_counters() -> None:
    metrics = Metrics()
    lines = metrics.exposition([Model()], 0).decode().splitlines()
    assert "# TYPE nv_inference_request_success counter" in lines
    assert "# TYPE nv_inference_pending_request_count gauge" in lines


def test_batch_sizes_are_a_histogram() -> None:
    queue = Queue(statistics(7, {1: 3, 3: 1, 4: 2, 2000: 1}))
    found = samples(Metrics(), [Model(queue)])
    model = {"model": "torch-relu.onnx", "version": "abc"}

    def up_to(le: str) -> float:
        return value(found, "samedigit_batch_images_bucket", le=le, **model)

    assert [up_to(le) for le in ("1", "2", "4", "1024", "+Inf")] == [3, 3, 6, 6, 7]
    assert value(found, "samedigit_batch_images_sum", **model) == 3 + 3 + 8 + 2000


def test_a_model_says_what_it_is_how_good_it_is_and_what_waits_for_it() -> None:
    found = samples(Metrics(), [Model(Queue(requests_waiting=2, images_waiting=9))])
    model = {"model": "torch-relu.onnx", "version": "abc"}
    assert value(found, "samedigit_model_info", **model, backend="onnx", device="cpu") == 1
    assert value(found, "samedigit_model_accuracy_ratio", **model) == 0.9757
    assert value(found, "samedigit_queued_images", **model) == 9


def test_a_label_is_escaped() -> None:
    odd = 'a "b\\c\n'
    found = samples(Metrics(), [Model(device=odd)])
    assert [labels["device"] for labels in labels_of(found, "samedigit_model_info")] == [odd]


def test_a_batcher_says_what_waits_in_it() -> None:
    class Runtime:
        def predict(self, images: Images) -> Probabilities:
            return np.full((len(images), 10), 0.1, np.float32)

    async def waiting() -> tuple[list[int], list[int]]:
        batcher = Batcher(Runtime(), read_settings({}))
        for size in (2, 3):
            batcher.submit(np.zeros((size, 28, 28), np.uint8), lambda outcome: None, exchange=exchange())
        before = [batcher.requests_waiting, batcher.images_waiting]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return before, [batcher.requests_waiting, batcher.images_waiting]

    assert asyncio.run(waiting()) == ([2, 5], [0, 0])


def test_connections_sheds_and_requests_in_flight_are_counted() -> None:
    metrics = Metrics()
    for port in ("data", "data", "api"):
        metrics.connected(port)
    metrics.disconnected("data")
    for reason in ("queue", "queue", "connections"):
        metrics.shed(reason)
    found = samples(metrics, in_flight=3)
    assert value(found, "samedigit_connections", port="data") == 1
    assert value(found, "samedigit_connections", port="api") == 1
    assert value(found, "samedigit_connections_accepted_total", port="data") == 2
    assert value(found, "samedigit_shed_total", reason="queue") == 2
    assert value(found, "samedigit_shed_total", reason="connections") == 1
    assert value(found, "samedigit_requests_in_flight") == 3


def test_the_process_says_what_it_takes() -> None:
    found = samples(Metrics())
    before = value(found, "process_cpu_seconds_total")
    assert before == pytest.approx(time.process_time(), abs=0.5)
    with Path("/proc/self/status").open() as lines:
        [resident] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")]
    assert value(found, "process_resident_memory_bytes") == pytest.approx(resident, rel=0.2)


def test_what_the_workers_take_is_added_up_and_of_one_that_is_no_more_its_cpu_time_alone(tmp_path: Path) -> None:
    before = Metrics(tmp_path)  # its snapshot bears our own pid and is not ours: of one that is no more
    before.write_snapshot([], 0)
    found = samples(Metrics(tmp_path))
    assert value(found, "process_cpu_seconds_total") == pytest.approx(2 * time.process_time(), abs=0.5)
    alone = value(samples(Metrics()), "process_resident_memory_bytes")
    assert value(found, "process_resident_memory_bytes") == pytest.approx(alone, rel=0.2)


def test_no_label_holds_what_a_client_wrote() -> None:
    metrics = Metrics()
    for number in range(50):
        secret = f"secret-{number}"
        came = exchange(method=secret, path=f"/{secret}", route="", headers={b"user-agent": secret.encode()})
        metrics.answered(came, 404)
        metrics.answered(exchange(path=f"/v2/models/{secret}/infer"), 404)
    text = metrics.exposition([], 0)
    assert b"secret" not in text
    found = samples(metrics)
    assert len(labels_of(found, "samedigit_requests_total")) == 2
    assert value(
        found,
        "samedigit_requests_total",
        protocol="other", route="other", model="", version="", outcome="refused", status="404",
    ) == 50  # fmt: skip


def test_models_without_end_make_no_series_without_end() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 100):
        metrics.answered(inference(version=str(number), run_ns=0), 200)
    found = samples(metrics)
    series = labels_of(found, "samedigit_requests_total")
    assert len(series) == MAX_SERIES + 1
    assert sum(value(found, "samedigit_requests_total", **labels) for labels in series) == MAX_SERIES + 100
    assert {"other"} == {labels["model"] for labels in series} - {"torch-relu.onnx"}


def test_a_model_that_is_closed_or_opened_again_still_counts() -> None:
    metrics = Metrics()
    model = {"model": "torch-relu.onnx", "version": "abc"}
    for opened in range(5):
        queue = Queue(statistics(7, {1: 3, 4: 1}))
        assert value(samples(metrics, [Model(queue)]), "nv_inference_count", **model) == 7 * (opened + 1)
    found = samples(metrics, [])
    assert value(found, "nv_inference_count", **model) == 35
    assert value(found, "samedigit_batch_images_count", **model) == 20
    assert not labels_of(found, "samedigit_model_info")
    assert not labels_of(found, "nv_inference_pending_request_count")


WORKER = """
import sys
import time
from pathlib import Path
from exchanges import inference
from serving.metrics import Metrics

metrics = Metrics(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    metrics.answered(inference(), 200)
metrics.connected("data")
metrics.shed("queue")
metrics.write_snapshot([], 5)
print("ready", flush=True)
sys.stdin.read()
"""
SUCCESS = {
    "protocol": "v2", "route": INFER, "model": "torch-relu.onnx", "version": "abc", "outcome": "success", "status": "200",
}  # fmt: skip


def start_worker(folder: Path, requests: int) -> subprocess.Popen[str]:
    tests = Path(__file__).parent
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(requests)],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def kill(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.communicate()


def test_whichever_worker_is_asked_tells_of_all_and_counts_the_dead_ones_on(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for _ in range(3):
        metrics.answered(inference(), 200)
    metrics.connected("data")
    workers = [start_worker(tmp_path, 10), start_worker(tmp_path, 20)]
    try:
        found = samples(metrics, in_flight=1)
        assert value(found, "samedigit_requests_total", **SUCCESS) == 33
        assert value(found, "samedigit_shed_total", reason="queue") == 2
        assert value(found, "samedigit_connections", port="data") == 3
        assert value(found, "samedigit_requests_in_flight") == 11
        kill(workers[0])
        found = samples(metrics, in_flight=1)
        assert value(found, "samedigit_requests_total", **SUCCESS) == 33
        assert value(found, "samedigit_connections", port="data") == 2
        assert value(found, "samedigit_requests_in_flight") == 6
    finally:
        for worker in workers:
            kill(worker)


def test_what_a_worker_has_shown_is_not_taken_back_when_it_dies(tmp_path: Path) -> None:
    shown = Metrics(tmp_path)
    shown.write_snapshot([], 0)
    shown.answered(inference(), 200)
    samples(shown)  # and no snapshot after that
    assert value(samples(Metrics(tmp_path)), "samedigit_requests_total", **SUCCESS) == 1


def test_the_snapshots_of_dead_workers_are_added_up_in_one(tmp_path: Path) -> None:
    for _ in range(MAX_DEAD + 1):
        before = Metrics(tmp_path)  # its snapshot bears our own pid and is not ours: of one that is no more
        before.answered(inference(), 200)
        before.write_snapshot([Model(Queue(statistics(7, {1: 7})))], 4)
    metrics = Metrics(tmp_path)
    for _ in range(3):
        found = samples(metrics)
        assert value(found, "samedigit_requests_total", **SUCCESS) == MAX_DEAD + 1
        assert value(found, "nv_inference_count", model="torch-relu.onnx", version="abc") == 7 * (MAX_DEAD + 1)
        assert value(found, "samedigit_requests_in_flight") == 0
        assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_folder_that_is_gone_costs_the_other_workers_numbers_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    metrics = Metrics(folder)
    metrics.answered(inference(), 200)
    folder.rmdir()
    for _ in range(3):
        metrics.write_snapshot([], 0)
    assert [record.message[:50] for record in caplog.records] == ["The metrics of this worker cannot be kept for the "]
    assert value(samples(metrics), "samedigit_requests_total", **SUCCESS) == 1


def test_a_snapshot_that_is_none_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1-1.json").write_bytes(b"{")
    metrics = Metrics(tmp_path)
    metrics.answered(inference(), 200)
    assert value(samples(metrics), "samedigit_requests_total", **SUCCESS) == 1


def test_a_snapshot_appears_whole(tmp_path: Path) -> None:
    """It is written beside and renamed, so that nobody reads half of one."""
    metrics = Metrics(tmp_path)
    metrics.write_snapshot([], 0)
    [path] = tmp_path.glob("*.json")
    inode = path.stat().st_ino
    metrics.write_snapshot([], 0)
    assert path.stat().st_ino != inode
    assert orjson.loads(path.read_bytes())["pid"] == os.getpid()


def test_where_the_system_does_not_say_what_memory_it_is_the_metrics_do_not_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.metrics.MEMORY", tmp_path / "none")
    assert not labels_of(samples(Metrics()), "process_resident_memory_bytes")
