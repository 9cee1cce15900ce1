"""One worker's server, put together from its settings: models, door, connections, the data port. BentoML is not in it."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from serving.access_log import open_access_log
from serving.door import Door
from serving.metrics import Metrics
from serving.models import ServedModels
from serving.ports.connection import Connections
from serving.ports.data_port import DataPort
from serving.settings import Settings
from serving.tracing import open_tracer
from serving.workers import run_folder

log = logging.getLogger("samedigit")


class Server:
    """From `open`, which takes seconds, over `begin`, on the event loop, to `end`.

    Raises:
        SamedigitError: a model, a file or a port that is needed is not to be had.
    """

    def __init__(self, settings: Settings, *, document: Callable[[], dict[str, Any]] | None = None) -> None:
        self._settings = settings
        self._document = document
        self.models = ServedModels(settings)
        self._metrics = Metrics(_metrics_folder() if settings.workers > 1 else None)
        self._tracer = open_tracer(settings)
        self._access_log = open_access_log(settings)
        self._drained_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Opens the models, and takes the data port."""
        _allow_connections(self._settings.max_connections)
        self.models.open()
        self.door = Door(
            self.models,
            metrics=self._metrics,
            tracer=self._tracer,
            access_log=self._access_log,
            document=self._document,
        )
        self.connections = Connections(self.door, self._settings)
        self._data_port = DataPort(self.connections, self._settings)

    async def begin(self) -> None:
        """Listens on the data port, and looks after what needs it each second."""
        await self._data_port.open()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.models.keep_up()), loop.create_task(self._each_second())]
        self.connections.begin()
        self._drain_when_terminated(loop)

    def drain(self) -> None:
        """Not ready any more, no new connection, and the last answer on those there are. More than once does no harm."""
        if self._drained_at is None:
            self._drained_at = asyncio.get_running_loop().time()
            self.models.drain()
            self._data_port.close()
            self.door.drain()
            self.connections.drain()

    async def end(self) -> None:
        """Waits for what was accepted, within the grace that began with `drain`, and cuts off what is left."""
        self.drain()
        assert self._drained_at is not None
        left = self._drained_at + self._settings.grace_seconds - asyncio.get_running_loop().time()
        await self.connections.end(max(0.0, left))
        for task in self._tasks:
            task.cancel()
        await self.door.close()
        self.door.write_snapshot()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        if self._access_log is not None:
            await asyncio.to_thread(self._access_log.close)

    async def _each_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.door.write_snapshot()
            self.door.tell()
            if self._access_log is not None:
                self._access_log.flush()

    def _drain_when_terminated(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drains at the first SIGTERM or SIGINT, before whoever has handled it so far does: uvicorn is slow to tell us."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)

            def handle(number: int, frame: FrameType | None, before: Any = before) -> None:
                loop.call_soon_threadsafe(self.drain)
                if callable(before):
                    before(number, frame)

            signal.signal(number, handle)


def _metrics_folder() -> Path:
    """Where workers keep their counts for each other."""
    folder = run_folder() / "metrics"
    folder.mkdir(exist_ok=True)
    return folder


def _allow_connections(number: int) -> None:
    """Lets this process open as many files as it may have connections, as far as the system lets it."""
    needed = number + 256  # models, libraries and pipes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning("The system allows %d open files; SAMEDIGIT_MAX_CONNECTIONS of %d needs %d.", hard, number, needed)
