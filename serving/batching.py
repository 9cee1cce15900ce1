"""Batching: what waits for one model runs together, the moment that model is free.

A short batch runs on the event loop's own thread. Requests that come meanwhile stay in their sockets; the loop then reads all
of them before it calls the next `_run`, so a batch is whatever came while the last one ran. There is no timer: a request that
comes alone runs at once. For such batches threads and waiting windows were tried and cost more than they gave
(benchmarks/README.md).

A long batch (pace.py) would keep everybody else from the loop, so it runs in a thread: one for each model that has such
batches, and one batch of a model at a time. What comes meanwhile waits, as it would on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from digits.contract import SIDE, Images, Probabilities
from runtimes.backends import Runtime
from serving.errors import Kind, RequestError
from serving.messages import Exchange
from serving.pace import Pace
from serving.settings import Settings

SMALL: Final = 4  # images a request in the mean: larger ones come in many reads, and are let in before they are counted
PATIENCE_NS: Final = 20_000_000  # more than `max_waiting` small ones may wait if they will have run by then,
SOON_NS: Final = 1_000_000  # large ones if by then, and so may small ones after a refusal,
CALM_NS: Final = 1_000_000_000  # for so long
FEW_WAITING: Final = 8  # instead of `max_waiting`, of a crowd
FEW_SMALL: Final = 16  # the same of small ones, of which a larger batch carries more

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


class _Ran(NamedTuple):
    """A batch that has run; times of the monotonic clock."""

    batch: list[_Waiting]
    began: int
    joined: int
    predicted: int
    probabilities: Probabilities  # [N, 10]


class Batcher:
    """Runs one model on whatever waits for it. Belongs to one event loop; `submit` is called on its thread.

    Args:
        pace: the runtime's; None: whatever waits runs together, up to `max_batch`, and every batch is short.
    """

    def __init__(self, runtime: Runtime, settings: Settings, pace: Pace | None = None) -> None:
        self.statistics = Statistics()
        self._runtime = runtime
        most = max(settings.max_batch, settings.max_images)
        self._max_batch = settings.max_batch if pace is None else pace.batch
        self._piece = most if pace is None else pace.piece
        self._short = most if pace is None else pace.short
        self._max_queue = settings.max_queue
        self._deadline_ns = settings.deadline_ms * 1_000_000
        self._waiting: deque[_Waiting] = deque()
        self._images_waiting = 0
        self._max_waiting = settings.max_waiting
        self._crowd_left = 0  # requests in a row that have still to find room, until it is no longer crowded
        self._refused_ns = 0  # the last refusal for want of room
        self._run_ns = [0] * (1 + most.bit_length())  # of batches, by bits of their size
        if pace is not None:
            for size, ns in pace.times_ns.items():
                self._run_ns[size.bit_length()] = ns
        self._joined: Images | None = None  # [max_batch, 28, 28]
        self._thread: ThreadPoolExecutor | None = None  # for long batches; it ends once the batcher is gone
        self._in_thread = False  # whether a batch is there now
        self._free_ns = 0  # when that is expected to be done

    @property
    def requests_waiting(self) -> int:
        return len(self._waiting)

    @property
    def images_waiting(self) -> int:
        return self._images_waiting

    def check_room(self) -> None:
        """Whether one more request may wait: asked before its body is read.

        `max_waiting` may wait however long they take; more of one image or a few only if they will have run within 20 ms, so
        that a moment in which the machine was gone is waited for, and else within 1 ms. Who has to be refused is one of a
        crowd, for which a long queue does nothing but make everybody wait: from then on only a few may, until `max_waiting`
        in a row found room or a second has refused nobody, and for that second there is no 20 ms. This keeps the time that an
        accepted request takes near to what it is without, and callers who each await their answer are not refused while they
        are no more than `max_waiting` (benchmarks/README.md).

        Raises:
            RequestError: BUSY.
        """
        if self._waiting and self._is_full():
            self._crowd_left = self._max_waiting
            self._refused_ns = time.monotonic_ns()
            self.statistics.failure.add(0)
            raise RequestError(
                Kind.BUSY, "Too many requests wait for this model (SAMEDIGIT_MAX_WAITING).", retry_after_seconds=1
            )
        if self._crowd_left:
            self._crowd_left -= 1

    def _is_full(self) -> bool:
        waiting = len(self._waiting)
        are_small = self._images_waiting <= SMALL * waiting
        most, patience_ns = self._max_waiting, SOON_NS
        if time.monotonic_ns() - self._refused_ns >= CALM_NS:
            patience_ns = PATIENCE_NS if are_small else SOON_NS
        elif self._crowd_left:
            most = min(most, FEW_SMALL if are_small else FEW_WAITING)
        return waiting >= most and self._expected_ns() > patience_ns

    def submit(self, images: Images, done: Done, *, exchange: Exchange, timeout_us: int = 0) -> None:
        """Queues `images` `[N, 28, 28]`; `done` is called once, later, with their probabilities `[N, 10]` or an error.

        Args:
            images: a request is answered whole, however many it has.
            done: must not raise.
            exchange: what they came with; once its client is gone `done` is not called, and what has not begun is not run.
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
        if self._in_thread:
            return  # its end calls this again
        began = time.monotonic_ns()
        batch, images = self._next_batch(began)
        loop = asyncio.get_running_loop()
        if images > self._short:
            self._in_thread = True
            self._free_ns = began + self._batch_ns(images)
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "model")
            self._thread.submit(self._run_in_thread, batch, began, loop)
            return
        if self._waiting:
            loop.call_soon(self._run)  # after the loop has read what came
        if not batch:
            return
        try:
            ran = self._predict(batch, began)
        except Exception as error:
            self._fail(batch, error)
        else:
            self._answer(ran)

    def _run_in_thread(self, batch: list[_Waiting], began: int, loop: asyncio.AbstractEventLoop) -> None:
        outcome: _Ran | BaseException
        try:
            outcome = self._predict(batch, began)
        except BaseException as error:  # nothing may end the thread: the loop waits for it
            outcome = error
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(self._leave_thread, batch, outcome)

    def _leave_thread(self, batch: list[_Waiting], outcome: _Ran | BaseException) -> None:
        self._in_thread = False
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        if isinstance(outcome, _Ran):
            self._answer(outcome)
        else:
            self._fail(batch, outcome)

    def _predict(self, batch: list[_Waiting], began: int) -> _Ran:
        """Runs the model on a batch; on the loop or in a thread, one batch at a time."""
        images = batch[0].images if len(batch) == 1 else self._join(batch)
        joined = time.monotonic_ns()
        if len(images) <= self._piece:
            probabilities = self._runtime.predict(images)
        else:  # beyond that the runtime's own arrays outgrow the processor's caches
            starts = range(0, len(images), self._piece)
            probabilities = np.concatenate(
                [self._runtime.predict(images[start : start + self._piece]) for start in starts]
            )
        return _Ran(batch, began, joined, time.monotonic_ns(), probabilities)

    def _fail(self, batch: list[_Waiting], cause: BaseException) -> None:
        log.error("A batch of %d requests failed", len(batch), exc_info=cause)
        error = RequestError(Kind.FAILED, "The model failed; the server's log says why.")
        for waiting in batch:
            self.statistics.failure.add(time.monotonic_ns() - waiting.arrived_ns)
            if not waiting.exchange.gone:
                waiting.done(error)

    def _answer(self, ran: _Ran) -> None:
        batch, began, joined, predicted, probabilities = ran
        run_ns = predicted - joined
        bits = len(probabilities).bit_length()
        before = self._run_ns[bits]
        self._run_ns[bits] = (4 * before + run_ns) // 5 if before else run_ns
        start = 0
        for waiting in batch:
            stop = start + len(waiting.images)
            waiting.exchange.queue_ns = began - waiting.arrived_ns
            waiting.exchange.run_ns = run_ns
            if not waiting.exchange.gone:
                waiting.done(probabilities[start:stop])
            start = stop
        self._count(batch, len(probabilities), began, joined, predicted)

    def _expected_ns(self) -> int:
        """How long what waits will take, by the batches that it makes, after what runs now."""
        full, rest = divmod(self._images_waiting, self._max_batch)
        running = max(0, self._free_ns - time.monotonic_ns()) if self._in_thread else 0
        return running + full * self._batch_ns(self._max_batch) + (self._batch_ns(rest) if rest else 0)

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

    def _next_batch(self, now: int) -> tuple[list[_Waiting], int]:
        """Takes what has waited longest, up to `max_batch` images, and refuses what has waited too long.

        Returns:
            the batch, and how many images it has.
        """
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
        return batch, size

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
