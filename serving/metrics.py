"""What the server counts for Prometheus: per model, version and protocol, under names of its own and under Triton's.

A request costs one look-up and a few sums of whole numbers; families and text are made when somebody asks for them. With
several workers each keeps a snapshot of its numbers in a folder that they share, and whichever is asked adds them up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from serving.batching import Statistics
from serving.exposition import BOUNDS_NS, QUEUE, QUEUE_SUM, RUN, RUN_SUM, SUM, TIMES, Labels, Numbers, Served, add, text
from serving.messages import Exchange

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES: Final = 500  # of requests in one worker: far more than routes, statuses and models make
MEMORY: Final = Path("/proc/self/statm")  # Linux's: pages of this process
MAX_DEAD: Final = 8  # snapshots of workers that are no more, before they are added up in one

log = logging.getLogger("samedigit")


class Metrics:
    """The numbers of one worker. Belongs to one event loop: nothing is locked.

    Args:
        folder: where the workers of one server keep their snapshots, empty when it starts; None: there is one worker.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._requests: dict[tuple[str, int, str, str], list[int]] = {}  # by route, status, model and version
        self._pictures = [0] * TIMES
        self._shed: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self._connections: dict[str, int] = {}
        self._statistics: dict[tuple[str, str], list[Statistics]] = {}  # of each model's last two openings
        self._earlier: Numbers = {}  # the sums of those before
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
        if read := exchange.picture_ns:
            self._pictures[bisect_left(BOUNDS_NS, read)] += 1
            self._pictures[SUM] += read

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

    def exposition(self, models: Sequence[Served], in_flight: int) -> bytes:
        """Everything in Prometheus's text format, of all workers together.

        Args:
            models: what is open.
            in_flight: requests admitted and not yet answered.
        """
        counters, gauges = self._counters(models), self._gauges(models, in_flight)
        self._write(counters, gauges)  # what was shown is never taken back, should this worker be killed now
        for their_counters, their_gauges in self._others():
            add(counters, their_counters)
            add(gauges, their_gauges)
        return text(counters, gauges, models)

    def write_snapshot(self, models: Sequence[Served], in_flight: int) -> None:
        """Keeps the numbers for whichever worker is asked, and those of models that may be closed. Due every second."""
        self._write(self._counters(models), self._gauges(models, in_flight))

    def _counters(self, models: Sequence[Served]) -> Numbers:
        for one in models:
            seen = self._statistics.setdefault((one.name, one.model.version), [])
            if not any(one.batcher.statistics is statistics for statistics in seen):  # opened anew, it counts from zero
                seen.append(one.batcher.statistics)
            if len(seen) > 2:  # the last but one may still answer what was under way
                add(self._earlier, _of_model((one.name, one.model.version), seen.pop(0)))
        counters: Numbers = {
            "requests": {
                (route, str(status), model, version): series
                for (route, status, model, version), series in self._requests.items()
            },
            "pictures": {(): self._pictures},
            "shed": {(reason,): [count] for reason, count in self._shed.items()},
            "accepted": {(port,): [count] for port, count in self._accepted.items()},
            "cpu": {(): [time.process_time_ns()]},
        }
        add(counters, self._earlier)
        for model, seen in self._statistics.items():
            for statistics in seen:
                add(counters, _of_model(model, statistics))
        return counters

    def _gauges(self, models: Sequence[Served], in_flight: int) -> Numbers:
        return {
            "in_flight": {(): [in_flight]},
            "memory": _resident_bytes(),
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
        except (OSError, ValueError) as error:
            log.warning("The metrics of the other workers cannot be read: %s", error)


def _resident_bytes() -> dict[Labels, list[int]]:
    """What this process holds of the machine's memory, shared pages too; no series where the system does not say."""
    try:
        return {(): [int(MEMORY.read_bytes().split()[1]) * resource.getpagesize()]}
    except OSError:
        return {}


def _of_model(model: tuple[str, str], statistics: Statistics) -> Numbers:
    sums = [
        statistics.success.count,
        statistics.images,
        sum(of.count for of in statistics.batches.values()),
        statistics.success.ns,
        statistics.queue.ns,
        statistics.compute_input.ns,
        statistics.compute_infer.ns,
        statistics.compute_output.ns,
    ]
    batches: dict[Labels, list[int]] = {(*model, str(size)): [of.count] for size, of in statistics.batches.items()}
    return {"inference": {model: sums}, "batches": batches}


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
                add(dead, _numbers(document["counters"]))
                dead_paths.append(path)
        if len(dead_paths) > MAX_DEAD:
            _write_snapshot(dead_paths[0], 0, dead, {})
            for path in dead_paths[1:]:
                path.unlink()
    return [*found, (dead, {})]


def _numbers(document: dict[str, list[Any]]) -> Numbers:
    return {family: {tuple(labels): values for labels, values in series} for family, series in document.items()}


def _lives(pid: int) -> bool:
    if pid in (0, os.getpid()):  # 0: a sum of some that do not. Our own, in a file not ours: one before us had it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
