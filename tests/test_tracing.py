"""Traces: which exporter the environment names, and the spans that an answered exchange becomes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conftest import require
from exchanges import INFER, exchange, inference
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from digits.errors import NotInstalled, SettingError
from serving import tracing
from serving.messages import Exchange
from serving.settings import read_settings
from serving.tracing import MAX_TEXT, Tracer, open_tracer, read_exporters

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01".encode()
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def spans_of(*answers: tuple[Exchange, int], https: bool = False) -> dict[str, ReadableSpan]:
    """The spans by name, each with a name of its own."""
    exporter = InMemorySpanExporter()
    tracer = Tracer([exporter], https=https)
    for came, status in answers:
        tracer.answered(came, status)
    tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert len(spans) == len(exporter.get_finished_spans())
    return spans


def parent_of(span: ReadableSpan) -> tuple[str, str] | None:
    return None if span.parent is None else (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}")


def identity(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_the_door_the_queue_and_the_model_are_spans_within_one_another() -> None:
    came = inference(took_ns=400_000_000, queue_ns=100_000_000, run_ns=200_000_000)
    before = time.time_ns()
    spans = spans_of((came, 200))
    after = time.time_ns()
    assert set(spans) == {f"POST {INFER}", "queue", "model"}
    door, queue, model = spans[f"POST {INFER}"], spans["queue"], spans["model"]
    assert door.kind is SpanKind.SERVER
    assert parent_of(door) is None
    assert parent_of(queue) == parent_of(model) == identity(door)
    (began, ended), (queued, dequeued), (ran, done) = times(door), times(queue), times(model)
    assert began < queued < dequeued == ran < done == ended
    assert dequeued - queued == 100_000_000
    assert done - ran == 200_000_000
    assert ended - began >= 400_000_000
    assert before - 1_000_000 <= ended <= after + 1_000_000  # since the epoch, though exchanges keep monotonic times


def test_a_span_within_begins_no_earlier_than_the_door() -> None:
    spans = spans_of((inference(took_ns=1000, queue_ns=10**12, run_ns=10**12), 200))
    began, _ = times(spans[f"POST {INFER}"])
    assert times(spans["queue"])[0] == times(spans["model"])[0] == began


def test_what_expired_in_the_queue_has_no_span_of_a_model() -> None:
    came = inference(queue_ns=100_000, run_ns=0)
    assert set(spans_of((came, 503))) == {f"POST {INFER}", "queue"}


def test_what_no_model_answered_is_the_doors_span_alone() -> None:
    assert set(spans_of((exchange(method="GET", route="/models"), 200))) == {"GET /models"}


def test_a_span_tells_the_protocols_version() -> None:
    versions = set()
    for stream_number in (0, 1):
        came = inference()
        came.stream_number = stream_number
        [span] = [span for span in spans_of((came, 200)).values() if span.kind is SpanKind.SERVER]
        versions.add((span.attributes or {})["network.protocol.version"])
    assert versions == {"1.1", "2"}


def test_a_call_of_grpc_is_named_by_its_service_and_method() -> None:
    came = exchange(route="/inference.GRPCInferenceService/ModelInfer")
    came.is_call = True
    [(name, span)] = spans_of((came, 200)).items()
    assert name == "inference.GRPCInferenceService/ModelInfer"
    attributes = span.attributes or {}
    assert [attributes[f"rpc.{one}"] for one in ("system", "service", "method")] == [
        "grpc",
        "inference.GRPCInferenceService",
        "ModelInfer",
    ]
    unknown = exchange(route="")
    unknown.is_call = True
    assert set(spans_of((unknown, 501))) == {"POST"}


def test_the_doors_span_says_what_was_asked_and_what_came_of_it() -> None:
    came = inference(images=3, headers={b"user-agent": b"curl/8"})
    [span] = [span for span in spans_of((came, 200), https=True).values() if span.kind is SpanKind.SERVER]
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": INFER,
        "http.response.status_code": 200,
        "url.path": "/v2/models/torch-relu.onnx/infer",
        "url.scheme": "https",
        "client.address": "192.0.2.7",
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
        "samedigit.model": "torch-relu.onnx",
        "samedigit.version": "abc",
        "samedigit.images": 3,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("status", "failed"), [(200, False), (404, False), (499, False), (500, True), (503, True)])
def test_a_failure_of_the_server_is_an_error_and_a_clients_is_not(status: int, failed: bool) -> None:
    [span] = spans_of((exchange(), status)).values()
    assert (span.status.status_code is StatusCode.ERROR) == failed
    assert (span.attributes or {}).get("error.type") == (str(status) if failed else None)


def test_no_name_holds_what_a_client_wrote_and_an_attribute_little_of_it() -> None:
    long = "x" * 3000
    came = exchange(method="SECRET", path=long, route="", headers={b"user-agent": long.encode()})
    [(name, span)] = spans_of((came, 404)).items()
    assert name == "HTTP"
    attributes = span.attributes or {}
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["url.path"] == attributes["user_agent.original"] == long[:MAX_TEXT]


def test_the_clients_traceparent_is_the_parent_and_its_state_goes_on() -> None:
    came = exchange(headers={b"traceparent": SAMPLED, b"tracestate": b"vendor=1"})
    [span] = spans_of((came, 200)).values()
    assert parent_of(span) == (TRACE, PARENT)
    context = span.get_span_context()
    assert context is not None
    assert context.trace_state.get("vendor") == "1"
    assert identity(span)[0] == TRACE


def test_what_the_client_does_not_sample_is_not_sampled() -> None:
    assert spans_of((inference(headers={b"traceparent": SAMPLED[:-1] + b"0"}), 200)) == {}


@pytest.mark.parametrize(
    "malformed",
    [b"", b"00", SAMPLED + b"-1", SAMPLED.replace(b"4", b"G"), b"ff" + SAMPLED[2:], b"00-" + b"0" * 32 + SAMPLED[35:],
     SAMPLED + b", " + SAMPLED, b"\xff" * 55],
)  # fmt: skip
def test_a_malformed_traceparent_is_no_parent(malformed: bytes) -> None:
    [span] = spans_of((exchange(headers={b"traceparent": malformed, b"tracestate": b"vendor=1"}), 200)).values()
    assert parent_of(span) is None
    assert identity(span)[0] != TRACE


def test_an_answer_says_its_traces_id() -> None:
    tracer = Tracer([InMemorySpanExporter()], https=False)
    assert tracer.answered(exchange(headers={b"traceparent": SAMPLED}), 200) == TRACE
    own = tracer.answered(exchange(), 200)
    assert len(own) == 32
    assert own not in (TRACE, "0" * 32)
    tracer.close()


def test_two_requests_without_a_parent_are_two_traces() -> None:
    tracer = Tracer([InMemorySpanExporter()], https=False)
    assert tracer.answered(exchange(), 200) != tracer.answered(exchange(), 200)
    tracer.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_EXPORTER": "none", **ENDPOINT},
        {"OTEL_SDK_DISABLED": "true", **ENDPOINT},
        {"OTEL_SERVICE_NAME": "digits"},
    ],
)
def test_without_an_exporter_there_is_no_tracer(environment: Mapping[str, str]) -> None:
    assert read_exporters(environment) == ()
    assert open_tracer(read_settings({}), environment) is None


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        (ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console"}, ("console",)),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ("otlp", "console")),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ("otlp",)),
        (
            {
                **ENDPOINT,
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",  # for metrics and logs, then
            },
            ("otlp",),
        ),
    ],
)
def test_the_environment_names_the_exporters(
    environment: Mapping[str, str], exporters: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_is_installed", lambda: True)
    assert read_exporters(environment) == exporters


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER takes otlp, console, both with a comma, or none; got 'zipkin'.",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "none,otlp"},
            "OTEL_TRACES_EXPORTER takes otlp, console, both with a comma, or none; got 'none,otlp'.",
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL takes http/protobuf here; got 'grpc'.",
        ),
    ],
)
def test_an_exporter_that_there_is_not_stops_the_start_with_a_sentence(
    environment: Mapping[str, str], sentence: str
) -> None:
    with pytest.raises(SettingError) as raised:
        read_exporters(environment)
    assert str(raised.value) == sentence


def test_an_endpoint_without_the_exporters_package_stops_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "PACKAGE", "opentelemetry.exporter.no_such.thing")
    with pytest.raises(NotInstalled, match=r"pip install 'samedigit\[tracing\]'"):
        open_tracer(read_settings({}), ENDPOINT)
    assert read_exporters({"OTEL_TRACES_EXPORTER": "console"}) == ("console",)


def test_a_variable_that_makes_no_sense_stops_the_start_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(SettingError, match=r"^One of OpenTelemetry's variables makes no sense: max_queue_size"):
        open_tracer(read_settings({}), {"OTEL_TRACES_EXPORTER": "console"})


def test_what_clients_write_does_not_come_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tracer = open_tracer(read_settings({}), {"OTEL_TRACES_EXPORTER": "console"})
    assert tracer is not None
    caplog.set_level(logging.DEBUG, "samedigit")
    states = (b"SECRET", b"a=1,a=1,SECRET=;", b",".join(b"secret%d=1" % n for n in range(40)), b"x" * 9000)
    for state in states:
        headers = {b"traceparent": SAMPLED[:-1] + b"0", b"tracestate": state}
        tracer.answered(exchange(headers=headers), 200)
    tracer.close()
    assert caplog.records == []


def test_a_collector_that_does_not_answer_does_not_hold_the_exit() -> None:
    answers = threading.Event()

    class Stuck(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            answers.wait(20)
            return super().export(spans)

    tracer = Tracer([Stuck()], https=False)
    tracer.answered(exchange(), 200)
    began = time.monotonic()
    tracer.close(0.01)
    assert time.monotonic() - began < 10
    answers.set()


class Collector(HTTPServer):
    """Takes OTLP over HTTP and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, str, bytes]] = []  # path, content type, body


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_gets_the_spans_by_the_time_the_server_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    require("opentelemetry.exporter", "opentelemetry.proto")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with collector() as server:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        for name, value in environment.items():  # the SDK reads the process's own
            monkeypatch.setenv(name, value)
        tracer = open_tracer(read_settings({}), environment)
        assert tracer is not None
        tracer.answered(inference(headers={b"traceparent": SAMPLED}), 200)
        tracer.close()
    [(path, content_type, body)] = server.received
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    [resource_spans] = ExportTraceServiceRequest.FromString(body).resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
    assert resource["service.name"] == "samedigit"
    [scope_spans] = resource_spans.scope_spans
    spans = {span.name: span for span in scope_spans.spans}
    assert set(spans) == {f"POST {INFER}", "queue", "model"}
    door = spans[f"POST {INFER}"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert door.parent_span_id.hex() == PARENT
    assert {spans["queue"].parent_span_id, spans["model"].parent_span_id} == {door.span_id}


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
    [span] = spans_of((exchange(), 200)).values()
    assert span.resource.attributes["service.name"] == "digits"


def test_the_environment_says_how_many_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert spans_of((inference(), 200)) == {}
