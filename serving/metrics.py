"""What the door counts for Prometheus, beside what BentoML counts of its own port. All of it is at /metrics there."""

from __future__ import annotations

from typing import Final

from prometheus_client import Histogram

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
ROOTS: Final = ("predict", "v2", "echo", "models")


class Metrics:
    def __init__(self) -> None:
        self._seconds = Histogram(
            "samedigit_request_duration_seconds",
            "From a request that was read whole to its answer, by path and HTTP status",
            ("endpoint", "http_response_code"),
            buckets=SECONDS,
        )
        self._series: dict[tuple[str, int], Histogram] = {}

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Counts one answer. Paths that were refused count under their first part, or clients could invent endless ones."""
        if status >= 400:
            root = path[1:].partition("/")[0]
            path = f"/{root}" if root in ROOTS else "other"
        series = self._series.get((path, status))
        if series is None:
            series = self._series[path, status] = self._seconds.labels(path, str(status))
        series.observe(seconds)
