"""OpenTelemetry traces, where the environment names an exporter: the door, the queue and the model as spans.

Spans are made of an exchange that was answered, with the times it kept, so that a server without an exporter pays nothing.
Names and attributes are those of OpenTelemetry's conventions for HTTP; its SDK reads the rest of its `OTEL_*` variables.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from threading import Thread
from typing import Final, Literal, cast

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from digits.errors import NotInstalled, SettingError
from serving.messages import Exchange
from serving.settings import Settings

ExporterName = Literal["otlp", "console"]

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # the first one counts
PACKAGE: Final = "opentelemetry.exporter.otlp.proto.http"
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}  # any other is _OTHER
MAX_TEXT: Final = 1024  # characters of what a client wrote
CLOSE_SECONDS: Final = 3


class Tracer:
    """Makes spans of answered exchanges. `answered` is called on the event loop's thread; another one sends them.

    Args:
        exporters: where spans go, in batches.
        https: whether the ports speak TLS.

    Raises:
        ValueError: an `OTEL_*` variable that makes no sense.
    """

    def __init__(self, exporters: list[SpanExporter], *, https: bool) -> None:
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # neither variable names it
            resource = resource.merge(Resource({SERVICE_NAME: "samedigit"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("samedigit")
        self._propagator = TraceContextTextMapPropagator()
        self._scheme = "https" if https else "http"

    def answered(self, exchange: Exchange, status: int) -> str:
        """Makes the spans of one answer: the door's, and within it the queue's and the model's where a model ran.

        The model's time is taken to end with the answer, and the queue's to end where the model's begins.

        Returns:
            the trace's id, 32 hexadecimal digits, for the access log.
        """
        now = time.monotonic_ns()
        to_epoch = time.time_ns() - now
        head = exchange.head
        method = head.method if head.method in METHODS else "_OTHER"
        name = f"{method if method in METHODS else 'HTTP'} {exchange.route}".rstrip()
        if exchange.is_call and exchange.route:
            name = exchange.route[1:]  # as OpenTelemetry's conventions name calls: SERVICE/METHOD
        span = self._tracer.start_span(
            name,
            self._parent(head.headers),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "url.scheme": self._scheme,
                "url.path": head.path[:MAX_TEXT],
                "client.address": exchange.address,
                "network.protocol.version": "2" if exchange.stream_number else "1.0" if head.http_1_0 else "1.1",
            },
            start_time=exchange.began_ns + to_epoch,
        )
        if span.is_recording():  # what is not sampled costs no more
            span.set_attribute("http.response.status_code", status)
            if exchange.route:
                span.set_attribute("http.route", exchange.route)
            if exchange.is_call and exchange.route:
                service, _, called = name.partition("/")
                span.set_attributes({"rpc.system": "grpc", "rpc.service": service, "rpc.method": called})
            if agent := head.headers.get(b"user-agent"):
                span.set_attribute("user_agent.original", agent.decode("latin-1")[:MAX_TEXT])
            if exchange.model:
                span.set_attribute("samedigit.model", exchange.model)
                span.set_attribute("samedigit.version", exchange.version)
            if exchange.images:
                span.set_attribute("samedigit.images", exchange.images)
            if status >= 500:  # the server's fault; a client's is none of a server's span
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
            if exchange.picture_ns:
                span.set_attribute("samedigit.picture_ms", exchange.picture_ns / 1e6)
            if exchange.queue_ns or exchange.run_ns:
                within = set_span_in_context(span)
                ran_from = max(exchange.began_ns, now - exchange.run_ns)
                queued_from = max(exchange.began_ns, ran_from - exchange.queue_ns)
                queue = self._tracer.start_span("queue", within, start_time=queued_from + to_epoch)
                queue.end(ran_from + to_epoch)
                if exchange.run_ns:
                    model = self._tracer.start_span("model", within, start_time=ran_from + to_epoch)
                    model.end(now + to_epoch)
        span.end(now + to_epoch)
        return f"{span.get_span_context().trace_id:032x}"

    def _parent(self, headers: Mapping[bytes, bytes]) -> Context | None:
        """What the client's `traceparent` says, if it is one. None: what is current, which is nothing."""
        parent = headers.get(b"traceparent")
        if parent is None:
            return None
        carrier = {"traceparent": parent.decode("latin-1")}
        if state := headers.get(b"tracestate"):
            carrier["tracestate"] = state.decode("latin-1")
        return self._propagator.extract(carrier, Context())

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Sends what has not been sent. Blocks until that is done, but not for longer than `seconds`."""
        # A collector that is away would otherwise hold the exit for half a minute.
        closing = Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(seconds)


def read_exporters(environment: Mapping[str, str] = os.environ) -> tuple[ExporterName, ...]:
    """Which exporters OpenTelemetry's variables name; none, unless one is named or an endpoint given.

    Raises:
        SettingError: one that there is not, or a protocol that is not spoken.
        NotInstalled: its package is missing.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    has_endpoint = any(environment.get(name, "").strip() for name in ENDPOINTS)
    text = environment.get("OTEL_TRACES_EXPORTER", "").strip() or ("otlp" if has_endpoint else "none")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in ("otlp", "console", "none") or (name == "none" and len(names) > 1):
            raise SettingError(f"OTEL_TRACES_EXPORTER takes otlp, console, both with a comma, or none; got {text!r}.")
    if names == ("none",):
        return ()
    if "otlp" in names:
        for variable in PROTOCOLS:
            protocol = environment.get(variable, "").strip()
            if protocol not in ("", "http/protobuf"):
                raise SettingError(f"{variable} takes http/protobuf here; got {protocol!r}.")
            if protocol:
                break
        if not _is_installed():
            raise NotInstalled(
                "OpenTelemetry's environment names an OTLP exporter, which is not installed: pip install 'samedigit[tracing]'. "
                "Or set OTEL_TRACES_EXPORTER=none."
            )
    return cast("tuple[ExporterName, ...]", names)


def open_tracer(settings: Settings, environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """A tracer for the exporters that the environment names; None where it names none.

    Starts a thread, so it is called in the process that serves. `read_exporters` finds mistakes before that.

    Raises:
        SettingError: a variable that makes no sense.
        NotInstalled: an exporter's package is missing.
    """
    names = read_exporters(environment)
    if not names:
        return None
    # They warn of what clients wrote, in the clients' words, once for each request.
    for name in ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        exporters = [_otlp() if name == "otlp" else ConsoleSpanExporter() for name in names]
        return Tracer(exporters, https=settings.tls_certificate is not None)
    except ValueError as error:
        raise SettingError(f"One of OpenTelemetry's variables makes no sense: {error}") from error


def _is_installed() -> bool:
    try:
        return find_spec(PACKAGE) is not None
    except ModuleNotFoundError:  # of a package that it is in
        return False


def _otlp() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
