"""The data port: the door on a port of its own, with nothing of BentoML's in between. It speaks HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from digits.errors import SettingError
from serving.ports.connection import Connection, Connections
from serving.ports.streams import Streams
from serving.ports.tls import server_context
from serving.settings import Settings

NAME = "data"
BACKLOG = 2048  # connections that the kernel holds until they are accepted


class DataPort:
    """The listening socket."""

    def __init__(self, connections: Connections, settings: Settings) -> None:
        self._connections = connections
        self._tls = server_context(settings)
        self._socket = listening_socket(settings, shared=settings.workers > 1)
        self._server: asyncio.Server | None = None
        self._open: set[Any] = set()

    async def open(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._connections, NAME, known=self._open, http2=self._http2),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._tls,
        )

    def _http2(self, transport: asyncio.Transport, address: str) -> Streams:
        return Streams(self._connections, NAME, known=self._open, transport=transport, address=address)

    def close(self) -> None:
        """Takes no new connection; those there are go on."""
        if self._server is not None:
            self._server.close()


def listening_socket(settings: Settings, *, shared: bool) -> socket.socket:
    """A socket bound to the data plane's address; `shared` with those of other workers.

    Raises:
        SettingError: the address is not to be had.
    """
    family = socket.AF_INET6 if ":" in settings.data_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((settings.data_host, settings.data_port))
    except OSError as error:
        listener.close()
        raise SettingError(
            f"The data plane cannot listen on {settings.data_host}, port {settings.data_port}: {error.strerror}. "
            f"Set SAMEDIGIT_DATA_PORT to a free one."
        ) from error
    return listener
