"""What `python -m benchmarks.serving` left in a folder of results: this server beside others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from comparison.reading import of_this_version, read_json, row_of

SERVING_FILE: Final = "serving.json"
US: Final = "samedigit"  # what its own measurements begin with


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Medians of several rounds; None where a case has no such figure."""

    server: str
    case: str
    connections: int | None
    requests_per_second: float | None
    p50_ms: float | None
    p99_ms: float | None
    seconds: float | None  # from start to ready
    megabytes: float | None
    cpu_us_per_request: float | None
    failed: int

    @property
    def is_ours(self) -> bool:
        return self.server.startswith(US)


@dataclass(frozen=True, kw_only=True)
class Goal:
    case: str
    goal: str
    unit: str  # of `ours` and `theirs`
    ours: float
    against: str
    theirs: float
    ratio: float
    limit: float
    at_least: bool  # whether the ratio must be at least the limit, or at most
    met: bool


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    made_at: str  # ISO 8601, UTC
    machine: str
    pinning: str
    client: str
    versions: dict[str, str]  # package -> version
    measurements: tuple[Measurement, ...]
    goals: tuple[Goal, ...]

    @property
    def by_case(self) -> dict[str, list[Measurement]]:
        cases: dict[str, list[Measurement]] = {}
        for measurement in self.measurements:
            cases.setdefault(measurement.case, []).append(measurement)
        return cases


_AGAIN: Final = "Run it again: python -m benchmarks.serving"


def read_benchmark(folder: Path) -> Benchmark | None:
    """The benchmark's results in `folder`; None if there are none.

    Raises:
        ResultsMissing: they cannot be read.
    """
    path = folder / SERVING_FILE
    data = read_json(path, _AGAIN)
    if data is None:
        return None
    with of_this_version(path, _AGAIN):
        return Benchmark(
            **{name: data[name] for name in ("made_at", "machine", "pinning", "client", "versions")},
            measurements=tuple(row_of(Measurement, one) for one in data["measurements"]),
            goals=tuple(row_of(Goal, one) for one in data["goals"]),
        )
