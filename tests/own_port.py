"""A data port in this process, behind whose door a test stands itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import orjson
import uvloop
from servers import everything_from

from loadtests.server import free_ports
from serving.door import Door
from serving.errors import Kind, RequestError
from serving.messages import Answer, Conversation, Exchange, refusal
from serving.ports.connection import Connections
from serving.ports.data_port import DataPort
from serving.settings import read_settings


class Got(NamedTuple):
    """A request as the door got it."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes


class NoMetrics:
    def __init__(self) -> None:
        self.reasons: list[str] = []  # for which something was shed

    def connected(self, port: str) -> None: ...
    def disconnected(self, port: str) -> None: ...
    def shed(self, reason: str) -> None:
        self.reasons.append(reason)

    def unread(self, status: int) -> None: ...


class OwnDoor:
    """Answers at once what it was asked, but for /later, which waits until the test lets it be answered."""

    def __init__(self) -> None:
        self.metrics = NoMetrics()
        self.requests: list[Got] = []
        self.held: queue.Queue[Exchange] = queue.Queue()
        self.left: list[str] = []  # paths whose client went away
        self.room = 1 << 40  # for bodies whose length nobody said
        self.calls: dict[str, Conversation] = {}  # that stream, by path

    def admit(self, exchange: Exchange, *, foreign: bool) -> None:
        exchange.streams = exchange.is_call and exchange.head.path.startswith("/stream")
        if exchange.head.path == "/refused":
            raise RequestError(Kind.BUSY, "Not now.", retry_after_seconds=1)

    def header_lines(self, headers: Mapping[bytes, bytes]) -> bytes:
        return b""

    def grow(self, exchange: Exchange, size: int) -> None:
        if size > self.room:
            raise RequestError(Kind.BUSY, "No room.")

    def refusal_of_call(self, error: RequestError) -> Answer:
        return refusal_of_call(error)

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        self.finish(exchange, refusal_of_call(error) if exchange.is_call else refusal(error))

    def finish(self, exchange: Exchange, answer: Answer) -> None:
        if not exchange.answered and not exchange.gone:
            exchange.answered = True
            exchange.reply(exchange, answer)

    def leave(self, exchange: Exchange) -> None:
        exchange.gone = True
        self.left.append(exchange.head.path)

    def handle(self, exchange: Exchange) -> None:
        head = exchange.head
        self.requests.append(Got(head.method, head.path, head.headers, bytes(exchange.body)))
        if head.path.startswith("/later"):
            self.held.put(exchange)
        elif exchange.stream is not None:
            self.converse(exchange, exchange.stream)
        elif head.path.startswith("/large"):
            self.finish(exchange, Answer(200, bytes(int(head.path[7:] or 50_000_000))))
        elif exchange.is_call:
            self.finish(exchange, Answer(200, exchange.body.upper()))
        else:
            self.finish(exchange, said(exchange))

    def converse(self, exchange: Exchange, stream: Conversation) -> None:
        """Sends each message back in capital letters. After one that says end, or the last, comes the end."""
        self.calls[exchange.head.path] = stream
        end = ((b"content-type", b"application/grpc"), (b"grpc-status", b"0"))

        def received(message: bytes) -> None:
            stream.send(message.upper())
            if message.endswith(b"end"):
                stream.end(end)
            if message.endswith(b"pause"):
                stream.paused = True

        stream.received = received
        stream.half_closed = lambda: stream.end(end)


def refusal_of_call(error: RequestError) -> Answer:
    return Answer(
        503,
        b"",
        ((b"content-type", b"application/grpc"), (b"grpc-status", b"14"), (b"grpc-message", str(error).encode())),
    )


def said(exchange: Exchange) -> Answer:
    return Answer(200, orjson.dumps([exchange.head.method, exchange.head.path, len(exchange.body)]))


class Own:
    """A data port on a thread of its own."""

    def __init__(self, linger_seconds: float = 5, **settings: str) -> None:
        self.door = OwnDoor()
        (self.number,) = free_ports(1)
        self.loop = uvloop.new_event_loop()
        environment = {"SAMEDIGIT_DATA_PORT": str(self.number), "SAMEDIGIT_MAX_BODY_BYTES": "1000000", **settings}
        self.settings = read_settings(environment)
        self.linger_seconds = linger_seconds
        self.call(self.open())

    async def open(self) -> None:
        self.connections = Connections(cast(Door, self.door), self.settings)
        self.connections.limits = dataclasses.replace(self.connections.limits, linger_seconds=self.linger_seconds)
        self.port = DataPort(self.connections, self.settings)
        await self.port.open()
        self.connections.begin()

    def call(self, coroutine: Any) -> Any:
        if not self.loop.is_running():
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=30)

    def let(self) -> None:
        """Answers what has been held longest."""
        exchange = self.door.held.get(timeout=10)
        self.loop.call_soon_threadsafe(exchange.reply, exchange, said(exchange))

    async def end(self) -> None:
        self.port.close()
        await self.connections.end(self.settings.grace_seconds)

    def close(self) -> None:
        self.call(self.end())

    def stop(self) -> None:
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=10)
        self.loop.close()

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        """From any address of the loopback network."""
        return socket.create_connection(("127.0.0.1", self.number), timeout=20, source_address=(address, 0))

    def is_well(self) -> None:
        with self.connect() as connection:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert everything_from(connection).endswith(b'["GET","/x",0]')


@contextlib.contextmanager
def running(linger_seconds: float = 5, *, checks: bool = True, **settings: str) -> Iterator[Own]:
    """A port, which must be well in the end, if it speaks plain HTTP (`checks`) and was not closed."""
    found = Own(linger_seconds, **settings)
    try:
        yield found
        if checks and not found.connections.draining:
            found.is_well()
    finally:
        found.stop()
