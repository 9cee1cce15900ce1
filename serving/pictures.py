"""Pictures are read one after the other, beside the event loop: a large one takes as long as a thousand small requests.

What waits for its turn is bounded; whose client goes away, or which waits too long, is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from digits.errors import PictureError
from digits.picture import Found, decode, find_digit, find_digits
from serving.errors import Kind, RequestError
from serving.messages import Exchange
from serving.protocols import classify
from serving.settings import Settings

NICE: Final = 10  # of the thread: where there is one core, small requests come first

Read = Callable[[Sequence[Found] | RequestError], None]

log = logging.getLogger("samedigit")


class _Waiting(NamedTuple):
    exchange: Exchange
    many: bool
    arrived_ns: int
    done: Read


class Pictures:
    """Belongs to one event loop; `submit` is called on its thread."""

    def __init__(self, settings: Settings) -> None:
        self._max_pixels = settings.max_pixels
        self._max_waiting = settings.max_pictures
        self._deadline_ns = settings.deadline_ms * 1_000_000
        self._waiting: deque[_Waiting] = deque()
        self._thread: ThreadPoolExecutor | None = None  # it ends once the door is gone
        self._reads = False  # whether a picture is there now

    def check_room(self) -> None:
        """Whether one more may wait: asked before its body is read, and once it is whole.

        Raises:
            RequestError: BUSY.
        """
        if len(self._waiting) < self._max_waiting:
            return
        self._waiting = deque(one for one in self._waiting if not one.exchange.gone)
        if len(self._waiting) >= self._max_waiting:
            raise RequestError(
                Kind.BUSY, "Too many pictures wait to be read (SAMEDIGIT_MAX_PICTURES).", retry_after_seconds=1
            )

    def submit(self, exchange: Exchange, done: Read, *, many: bool) -> None:
        """Queues the picture in the body of `exchange`, which is read and let go at its turn.

        Args:
            done: is called once, later, on the loop's thread, with the digits that were found or an error; not at all
                once the client is gone.
            many: every digit, in reading order; else one.

        Raises:
            RequestError: BUSY.
        """
        self.check_room()
        self._waiting.append(_Waiting(exchange, many, time.monotonic_ns(), done))
        if not self._reads:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            one = self._waiting.popleft()
            if one.exchange.gone:
                continue
            waited_ns = time.monotonic_ns() - one.arrived_ns
            if waited_ns > self._deadline_ns:
                one.done(
                    RequestError(
                        Kind.EXPIRED,
                        f"The picture waited {waited_ns // 1_000_000} ms to be read. Try again.",
                        retry_after_seconds=1,
                    )
                )
                continue
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "pictures", initializer=_step_back)
            body, one.exchange.body = one.exchange.body, b""
            self._reads = True
            self._thread.submit(self._run, one, body, asyncio.get_running_loop())
            return

    def _run(self, one: _Waiting, body: bytes, loop: asyncio.AbstractEventLoop) -> None:
        outcome: Sequence[Found] | RequestError
        began = time.monotonic_ns()
        headers = one.exchange.head.headers
        try:
            picture = decode(classify.read_picture(body, headers), max_pixels=self._max_pixels)
            outcome = find_digits(picture) if one.many else [find_digit(picture)]
        except RequestError as error:
            outcome = error
        except PictureError as error:
            outcome = classify.refused_picture(error, headers)
        except BaseException:  # nothing may end the thread: the loop waits for it
            log.exception("A picture of %d bytes could not be read", len(body))
            outcome = RequestError(Kind.FAILED, "The server failed; its log says why.")
        one.exchange.picture_ns = time.monotonic_ns() - began
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(self._leave, one, outcome)

    def _leave(self, one: _Waiting, outcome: Sequence[Found] | RequestError) -> None:
        self._reads = False
        self._next()
        if not one.exchange.gone:
            one.done(outcome)


def _step_back() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # on Linux, of this thread alone
