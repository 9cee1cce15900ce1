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
    """The listening socket; with a port for gRPC, two. Both speak the same."""

    def __init__(self, connections: Connections, settings: Settings) -> None:
        self._connections = connections
        self._tls = server_context(settings)
        self._sockets = listening_sockets(settings, shared=settings.workers > 1)
        self._servers: list[asyncio.Server] = []
        self._open: set[Any] = set()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            server = await loop.create_server(
                lambda: Connection(self._connections, NAME, known=self._open, http2=self._http2),
                sock=listener,
                backlog=BACKLOG,
                ssl=self._tls,
            )
            self._servers.append(server)

    def _http2(self, transport: asyncio.Transport, address: str) -> Streams:
        return Streams(self._connections, NAME, known=self._open, transport=transport, address=address)

    def close(self) -> None:
        """Takes no new connection; those there are go on."""
        for server in self._servers:
            server.close()


def listening_sockets(settings: Settings, *, shared: bool) -> list[socket.socket]:
    """Sockets bound to the data plane's address and its ports; `shared` with those of other workers.

    Raises:
        SettingError: one is not to be had.
    """
    sockets: list[socket.socket] = []
    for port, variable in ((settings.data_port, "SAMEDIGIT_DATA_PORT"), (settings.grpc_port, "SAMEDIGIT_GRPC_PORT")):
        if port is None:
            continue
        try:
            sockets.append(bound_socket(settings.data_host, port, shared=shared))
        except OSError as error:
            for one in sockets:
                one.close()
            raise SettingError(
                f"The data plane cannot listen on {settings.data_host}, port {port}: {error.strerror}. "
                f"Set {variable} to a free one."
            ) from error
    return sockets


def bound_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket at an IP address and a port, which does not listen yet; `shared` with those of other processes.

    Raises:
        OSError: it is not to be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
