"""Batching: what waits for one model runs together, the moment that model is free.

A model runs on the event loop's own thread. Requests that come meanwhile stay in their sockets; the loop then reads all of
them before it calls the next `_run`, so a batch is whatever came while the last one ran. There is no timer: a request that
comes alone runs at once. Threads and waiting windows were tried and cost more than they gave (benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from digits.contract import SIDE, Images, Probabilities
from runtimes.backends import Runtime
from serving.errors import Kind, RequestError
from serving.messages import Exchange
from serving.settings import Settings

SOON_NS: Final = 1_000_000
FEW_WAITING: Final = 8  # while it is crowded,
CALM_BATCHES: Final = 100  # which ends after so many in a row that refused nobody,
CALM_NS: Final = 1_000_000_000  # or after that time

Done = Callable[[Probabilities | RequestError], None]

log = logging.getLogger("samedigit")


@dataclass
class Counted:
    """How many, and how long they took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass
class Statistics:
    """Of one model since it was opened. Times are those that each request saw: of its batch, not of its share of it."""

    success: Counted = field(default_factory=Counted)  # from the queue to the answer
    failure: Counted = field(default_factory=Counted)
    queue: Counted = field(default_factory=Counted)  # until its batch began
    compute_input: Counted = field(default_factory=Counted)  # joining the batch's images
    compute_infer: Counted = field(default_factory=Counted)  # the runtime
    compute_output: Counted = field(default_factory=Counted)  # writing the batch's answers
    batches: dict[int, Counted] = field(default_factory=dict)  # images in a batch -> batches, time in the runtime
    images: int = 0
    last_ns: int = 0  # end of the last batch, since the epoch


class _Waiting(NamedTuple):
    images: Images
    arrived_ns: int
    expires_ns: int
    exchange: Exchange
    done: Done


class Batcher:
    """Runs one model on whatever waits for it. Belongs to one event loop; `submit` is called on its thread."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self.statistics = Statistics()
        self._runtime = runtime
        self._max_batch = settings.max_batch
        self._max_queue = settings.max_queue
        self._deadline_ns = settings.deadline_ms * 1_000_000
        self._waiting: deque[_Waiting] = deque()
        self._images_waiting = 0
        self._max_waiting = settings.max_waiting
        self._crowded_batches = 0  # that are still to refuse nobody
        self._refused_ns = 0  # the last refusal for want of room
        self._run_ns = [0] * (
            1 + max(settings.max_batch, settings.max_images).bit_length()
        )  # of batches, by bits of their size
        self._joined: Images | None = None  # [max_batch, 28, 28]

    @property
    def requests_waiting(self) -> int:
        return len(self._waiting)

    @property
    def images_waiting(self) -> int:
        return self._images_waiting

    def check_room(self) -> None:
        """Whether one more request may wait: asked before its body is read.

        `max_waiting` may wait however long they take; more only if they will have run soon. Who has to be refused is one of a
        crowd, for which a long queue does nothing but make everybody wait: from then on only a few may. This keeps the time
        that an accepted request takes near to what it is without, and callers who each await their answer are not refused
        while they are no more than `max_waiting` (benchmarks/README.md).

        Raises:
            RequestError: BUSY.
        """
        waiting = len(self._waiting)
        many = waiting >= self._max_waiting or (waiting >= FEW_WAITING and self._is_crowded())
        if many and self._expected_ns() > SOON_NS:
            self._crowded_batches = CALM_BATCHES
            self._refused_ns = time.monotonic_ns()
            self.statistics.failure.add(0)
            raise RequestError(
                Kind.BUSY, "Too many requests wait for this model (SAMEDIGIT_MAX_WAITING).", retry_after_seconds=1
            )

    def _is_crowded(self) -> bool:
        return self._crowded_batches > 0 and time.monotonic_ns() - self._refused_ns < CALM_NS

    def submit(self, images: Images, done: Done, *, exchange: Exchange, timeout_us: int = 0) -> None:
        """Queues `images` `[N, 28, 28]`; `done` is called once, later, with their probabilities `[N, 10]` or an error.

        Args:
            images: at most `max_batch` run together, but a request is never divided.
            done: must not raise.
            exchange: what they came with; once its client is gone they are not run, and `done` is not called.
            timeout_us: how long they may wait; 0, or longer than the server's own deadline: that.

        Raises:
            RequestError: 503, the queue is full.
        """
        if self._waiting and self._images_waiting + len(images) > self._max_queue:
            self.statistics.failure.add(0)
            raise RequestError(
                Kind.BUSY,
                f"The queue is full: {self._images_waiting} images wait for this model. Try again.",
                retry_after_seconds=1,
            )
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        now = time.monotonic_ns()
        limit_ns = min(timeout_us * 1000, self._deadline_ns) if timeout_us else self._deadline_ns
        self._waiting.append(_Waiting(images, now, now + limit_ns, exchange, done))
        self._images_waiting += len(images)

    def _run(self) -> None:
        began = time.monotonic_ns()
        batch = self._next_batch(began)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)  # after the loop has read what came
        if not batch:
            return
        if self._crowded_batches:
            self._crowded_batches -= 1
        try:
            images = batch[0].images if len(batch) == 1 else self._join(batch)
            joined = time.monotonic_ns()
            probabilities = self._runtime.predict(images)
            predicted = time.monotonic_ns()
        except Exception:
            log.exception("A batch of %d requests failed", len(batch))
            error = RequestError(Kind.FAILED, "The model failed; the server's log says why.")
            for waiting in batch:
                self.statistics.failure.add(time.monotonic_ns() - waiting.arrived_ns)
                waiting.done(error)
            return
        run_ns = predicted - joined
        bits = len(images).bit_length()
        before = self._run_ns[bits]
        self._run_ns[bits] = (4 * before + run_ns) // 5 if before else run_ns
        start = 0
        for waiting in batch:
            stop = start + len(waiting.images)
            waiting.exchange.queue_ns = began - waiting.arrived_ns
            waiting.exchange.run_ns = run_ns
            waiting.done(probabilities[start:stop])
            start = stop
        self._count(batch, len(images), began, joined, predicted)

    def _expected_ns(self) -> int:
        """How long what waits will take, by the batches that it makes."""
        full, rest = divmod(self._images_waiting, self._max_batch)
        return full * self._batch_ns(self._max_batch) + (self._batch_ns(rest) if rest else 0)

    def _batch_ns(self, images: int) -> int:
        """How long a batch takes, by recent ones of about that size; what is not known yet is taken to be as fast as a smaller.

        No more than in proportion to a smaller one, so that a figure that was once too high does not stay.
        """
        known, bits = self._run_ns, images.bit_length()
        smaller = next((size for size in range(bits - 1, 0, -1) if known[size]), 0)
        if not known[bits]:
            return known[smaller]
        return min(known[bits], known[smaller] << (bits - smaller)) if smaller else known[bits]

    def _join(self, batch: list[_Waiting]) -> Images:
        """The batch's images one after the other, in the one array that every batch uses: a new one costs page faults."""
        if self._joined is None:
            self._joined = np.empty((self._max_batch, SIDE, SIDE), np.uint8)
        number = sum(len(waiting.images) for waiting in batch)
        return np.concatenate([waiting.images for waiting in batch], out=self._joined[:number])

    def _next_batch(self, now: int) -> list[_Waiting]:
        """Takes what has waited longest, up to `max_batch` images, and refuses what has waited too long."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.exchange.gone:
                self._waiting.popleft()
                self._images_waiting -= len(waiting.images)
                continue
            if batch and size + len(waiting.images) > self._max_batch:
                break
            self._waiting.popleft()
            self._images_waiting -= len(waiting.images)
            if now > waiting.expires_ns:
                waited = now - waiting.arrived_ns
                self.statistics.failure.add(waited)
                waiting.done(
                    RequestError(
                        Kind.EXPIRED,
                        f"The request expired after {waited // 1000} us in the queue.",
                        retry_after_seconds=1,
                    )
                )
            else:
                batch.append(waiting)
                size += len(waiting.images)
        return batch

    def _count(self, batch: list[_Waiting], images: int, began: int, joined: int, predicted: int) -> None:
        ended = time.monotonic_ns()
        requests = len(batch)
        waited = requests * began - sum(waiting.arrived_ns for waiting in batch)
        statistics = self.statistics
        statistics.success.add(waited + requests * (ended - began), requests)
        statistics.queue.add(waited, requests)
        statistics.compute_input.add(requests * (joined - began), requests)
        statistics.compute_infer.add(requests * (predicted - joined), requests)
        statistics.compute_output.add(requests * (ended - predicted), requests)
        statistics.batches.setdefault(images, Counted()).add(predicted - joined)
        statistics.images += images
        statistics.last_ns = time.time_ns()
