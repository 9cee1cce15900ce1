"""Pictures are read one after the other, in a process beside the event loop: one takes as long as a thousand small requests.

What waits for its turn is bounded; whose client goes away, or which waits too long, is not read. In a thread, NumPy and Pillow
would keep everybody else from Python's lock for a third of a second (benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import orjson

from digits.contract import SIDE
from digits.picture.found import Box, Found
from serving.errors import Kind, RequestError
from serving.messages import Exchange
from serving.picture_process import LENGTHS
from serving.settings import PREFIX, Settings

ROOT: Final = Path(__file__).parent.parent  # where the rooms are
READ_SECONDS: Final = 20  # that one picture may take; then its process is killed
FAILED: Final = "The server failed; its log says why."

Read = Callable[[Sequence[Found] | RequestError], None]

log = logging.getLogger("samedigit")


class _Waiting(NamedTuple):
    exchange: Exchange
    many: bool
    arrived_ns: int
    done: Read


class Pictures:
    """Belongs to one event loop. The process is started for the first picture, or by `warm`."""

    def __init__(self, settings: Settings) -> None:
        self._max_images = settings.max_images
        self._max_pixels = settings.max_pixels
        self._max_waiting = settings.max_pictures
        self._deadline_ns = settings.deadline_ms * 1_000_000
        self._waiting: deque[_Waiting] = deque()
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None  # while pictures are read

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
            done: is called once, later, with the digits that were found or an error; not at all once the client is gone.
                Must not raise.
            many: every digit, in reading order; else one.

        Raises:
            RequestError: BUSY.
        """
        self.check_room()
        self._waiting.append(_Waiting(exchange, many, time.monotonic_ns(), done))
        self._work()

    def warm(self) -> None:
        """Starts the process, since a picture may be expected."""
        self._work()

    async def close(self) -> None:
        """Ends the process; what still waits is not read."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end_process()

    def _work(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read_all())

    async def _read_all(self) -> None:
        try:
            if self._process is None:
                with contextlib.suppress(OSError):  # the first picture will say so
                    await self._start()
            while self._waiting:
                one = self._waiting.popleft()
                if one.exchange.gone:
                    continue
                outcome = await self._read(one)
                if not one.exchange.gone:
                    one.done(outcome)
        finally:
            self._task = None

    async def _read(self, one: _Waiting) -> Sequence[Found] | RequestError:
        began = time.monotonic_ns()
        waited_ns = began - one.arrived_ns
        if waited_ns > self._deadline_ns:
            return RequestError(
                Kind.EXPIRED,
                f"The request expired after {waited_ns // 1000} us, before its picture was read.",
                retry_after_seconds=1,
            )
        body, one.exchange.body = one.exchange.body, b""
        asked = {
            "bytes": len(body),
            "content_type": one.exchange.head.headers.get(b"content-type", b"").decode("latin-1"),
            "many": one.many,
            "max_pixels": self._max_pixels,
            "max_images": self._max_images,
        }
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._ask(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE), body)
        except RequestError as error:
            return error
        except TimeoutError:
            await self._end_process()
            return RequestError(
                Kind.TOO_LARGE, f"The picture could not be read within {READ_SECONDS} s. Send a smaller one."
            )
        except (OSError, asyncio.IncompleteReadError, ValueError):
            log.exception("The process that reads pictures failed at one of %d bytes", len(body))
            await self._end_process()
            return RequestError(Kind.FAILED, FAILED)
        finally:
            one.exchange.picture_ns = time.monotonic_ns() - began

    async def _ask(self, head: bytes, body: bytes) -> list[Found]:
        if self._process is not None and self._process.returncode is not None:  # killed, as for want of memory
            self._process = None
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(head)
        process.stdin.write(body)
        await process.stdin.drain()
        document_bytes, images_bytes = LENGTHS.unpack(await process.stdout.readexactly(LENGTHS.size))
        answer = orjson.loads(await process.stdout.readexactly(document_bytes))
        if "error" in answer:
            raise RequestError(Kind[answer["kind"]], answer["error"])
        images = np.frombuffer(await process.stdout.readexactly(images_bytes), np.uint8).reshape(-1, SIDE, SIDE)
        return [Found(image, Box(*box)) for image, box in zip(images, answer["boxes"], strict=True)]

    async def _start(self) -> Process:
        command = [sys.executable, "-m", "serving.picture_process", str(self._max_pixels)]
        # Without keys: what reads anybody's files should know nothing.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            cwd=ROOT,
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
        )
        return self._process

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
