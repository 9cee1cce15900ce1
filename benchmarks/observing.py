"""What counting, logging and tracing one answer costs the event loop, in microseconds: python -m benchmarks.observing

Each figure is the best of many short runs, so that a busy machine shows in few of them. What they cost in requests per second
is in `benchmarks.serving`.
"""

from __future__ import annotations

import os
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving.access_log import AccessLog
from serving.messages import Exchange, Head
from serving.metrics import Metrics
from serving.tracing import Tracer

CALLS: Final = 200
RUNS: Final = 200


class Discarding(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def main() -> None:
    headers = {b"host": b"localhost:8000", b"user-agent": b"python-httpx/0.28.1", b"content-type": b"application/json"}
    path = "/v2/models/torch-relu.onnx/infer"
    head = Head("POST", path.encode(), path, "", headers, False, 1000, True, False)
    answered = Exchange(head, address="192.0.2.7", port="data", reply=lambda exchange, answer: None)
    answered.route, answered.model, answered.version = "/v2/models/{model}/infer", "torch-relu.onnx", "zrr3dzqhs2uaqaav"
    answered.images, answered.queue_ns, answered.run_ns = 1, 30_000, 20_000
    answered.began_ns = time.monotonic_ns() - 200_000

    with tempfile.TemporaryDirectory() as folder:
        metrics = Metrics()
        show("metrics", lambda: metrics.answered(answered, 200))
        for name, sample in (("access log", 1.0), ("access log, one in a hundred", 0.01)):
            access_log = AccessLog(Path(folder) / "log", sample)
            show(name, lambda log=access_log: log.answered(answered, 200, 120), after=access_log.flush)  # type: ignore[misc]
            access_log.close()
        for name, ratio in (("traces", "1"), ("traces, none sampled", "0")):
            os.environ.update(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=ratio)
            tracer = Tracer([Discarding()], https=False)
            show(name, lambda tracer=tracer: tracer.answered(answered, 200))  # type: ignore[misc]
            tracer.close()


def show(name: str, call: Callable[[], object], *, after: Callable[[], object] = lambda: None) -> None:
    seconds = []
    for _ in range(RUNS):
        seconds.append(timeit.timeit(call, number=CALLS) / CALLS)
        after()
    print(f"{name:30} {min(seconds) * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
