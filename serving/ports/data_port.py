"""The data plane: the door on a port of its own, without BentoML's stack in between.

HTTP/1.1, parsed by llhttp, answered from the protocol's callbacks: no task, no scope and no middleware for a request. What
that gives over uvicorn and an ASGI callable is in benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import urllib.parse
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

import httptools

from digits.errors import SettingError
from serving.door import Door
from serving.errors import Kind, RequestError
from serving.messages import Answer, Request, refusal, too_long
from serving.settings import Settings

KEEP_ALIVE_SECONDS: Final = 75  # without a request
REQUEST_SECONDS: Final = 30  # from a request's first byte to its last
LINGER_SECONDS: Final = 5  # for a client to read why the rest of its request was not
CLOSING_SECONDS: Final = 3  # for requests under way when the server is stopped
MAX_HEAD_BYTES: Final = 65536  # of a request's line and headers, or of its trailers
MAX_PIPELINED: Final = 16  # requests read ahead from one connection

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}

log = logging.getLogger("samedigit")


class DataPort:
    """The listening socket and its connections."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self.door = door
        self.max_body_bytes = settings.max_body_bytes
        self.connections: set[Connection] = set()
        self.date = _date()
        self._socket = listening_socket(settings, shared=settings.workers > 1)
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self, loop), sock=self._socket, backlog=2048)
        self._watch = loop.create_task(self._watch_connections())

    async def close(self) -> None:
        """Takes no new connection, and waits a while for requests under way."""
        if self._server is not None and self._watch is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.finish()
            deadline = asyncio.get_running_loop().time() + CLOSING_SECONDS
            while self.connections and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            self._watch.cancel()
            for connection in list(self.connections):
                connection.abort()

    async def _watch_connections(self) -> None:
        """Each second: the date of the answers, and an end to what takes too long. One timer for all connections."""
        while True:
            await asyncio.sleep(1)
            self.date = _date()
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                connection.check(now)


class Connection(asyncio.Protocol):
    """One client's connection. Requests are answered in the order in which they came, one at a time."""

    def __init__(self, port: DataPort, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._since = loop.time()  # when the present state began: idle, reading a request, or lingering
        self._unread_bytes = 0  # that came since the last piece of a body: headers, or what stands between chunks
        self._reading = False  # a request has begun and is not whole
        self._answering = False  # a request is with the door
        self._refused = False  # the rest of what comes is not read
        self._last = False  # close once the present request is answered
        self._ended = False  # the client sends no more; close once all is answered
        self._only_head = False  # of the answer: a HEAD request is with the door
        self._can_write = True
        self._waiting: deque[tuple[Request, bool]] = deque()  # pipelined, and whether to keep the connection after

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not say that it is one
        self._port.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._port.connections.discard(self)
        self._waiting.clear()
        self._refused = True

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # What a callback below raised; the parser wraps it.
            cause = error.__context__
            if not isinstance(cause, RequestError):
                log.error("A request could not be read", exc_info=cause)
                cause = RequestError(Kind.FAILED, "The server failed; its log says why.")
            self._refuse(cause)
        except httptools.HttpParserUpgrade:
            self._refused = True  # it was answered like any other, and is the last
        except httptools.HttpParserError as error:
            self._refuse(RequestError(Kind.MALFORMED, f"This is not an HTTP/1.1 request: {error}."))
        else:
            if self._reading and self._unread_bytes > MAX_HEAD_BYTES:
                self._refuse(RequestError(Kind.HEAD_TOO_LARGE, f"The headers are longer than {MAX_HEAD_BYTES} bytes."))

    def eof_received(self) -> bool:
        self._ended = True
        return self._answering or bool(self._waiting)  # a client that has closed its side still gets its answers

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._next()

    # From the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._reading = True
        self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._unread_bytes = 0
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._port.max_body_bytes:
            raise too_long(self._port.max_body_bytes)
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and not self._answering:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._port.max_body_bytes:
            raise too_long(self._port.max_body_bytes)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        self._reading = False
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self._parser.get_method().decode("latin-1"), _path(self._url), self._headers, body)
        keep = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        if self._parser.get_http_version() == "1.0":  # whose clients must be told that the connection stays
            keep = False
        if self._answering or self._waiting or not self._can_write:
            self._waiting.append((request, keep))
            if len(self._waiting) == MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._answer(request, keep)

    # To the door and back

    def _answer(self, request: Request, keep: bool) -> None:
        self._answering = True
        self._last = self._last or not keep
        self._only_head = request.method == "HEAD"
        self._port.door.handle(request, self._write)

    def _write(self, answer: Answer) -> None:
        self._answering = False
        if self._transport.is_closing():
            return
        last = self._last or (self._ended and not self._waiting)
        head = [_STATUS_LINES[answer.status], self._port.date, b"content-length: %d\r\n" % len(answer.body)]
        head += [b"%s: %s\r\n" % header for header in answer.headers]
        if last:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        if not self._only_head:
            head.append(answer.body)
        self._transport.write(b"".join(head))
        self._since = self._loop.time()
        if last:
            self._transport.close()
        elif self._waiting:
            self._loop.call_soon(self._next)  # not at once: thousands may have come in one piece

    def _next(self) -> None:
        if self._waiting and not self._answering and self._can_write:
            if len(self._waiting) == MAX_PIPELINED:
                self._transport.resume_reading()
            self._answer(*self._waiting.popleft())

    def _refuse(self, error: RequestError) -> None:
        """Answers what cannot be read to its end. Then nothing more is read, but the client has time to read the answer."""
        self._refused = True
        if self._transport.is_closing():
            return
        if self._waiting:  # what came before it on this connection is answered first
            request, _ = self._waiting.pop()
            self._waiting.append((request, False))
            return
        if self._answering:
            self._last = True
            return
        answer = refusal(error)
        headers = b"".join(b"%s: %s\r\n" % header for header in answer.headers if header[0] != b"connection")
        self._transport.write(
            b"%s%scontent-length: %d\r\nconnection: close\r\n%s\r\n%s"
            % (_STATUS_LINES[answer.status], self._port.date, len(answer.body), headers, answer.body)
        )
        self._since = self._loop.time()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # From the port

    def check(self, now: float) -> None:
        """Closes what has been idle, half sent or refused for too long."""
        if self._answering:
            return
        seconds = now - self._since
        if self._refused:
            if seconds > LINGER_SECONDS:
                self._transport.abort()
        elif self._reading:
            if seconds > REQUEST_SECONDS:
                self._refuse(RequestError(Kind.SLOW, f"The request was not whole after {REQUEST_SECONDS} s."))
        elif seconds > KEEP_ALIVE_SECONDS:
            self._transport.abort()  # close() would wait for a client that does not read

    def finish(self) -> None:
        """Closes the connection, once the request under way is answered."""
        if self._answering or self._reading:
            self._last = True
        else:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


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


def _path(url: bytes) -> str:
    if not url.startswith(b"/"):  # an absolute URL, as proxies are sent
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError as error:
            raise RequestError(Kind.MALFORMED, f"This is not a path: {url[:100].decode('latin-1')!r}.") from error
    path = url.partition(b"?")[0].decode("latin-1")
    return urllib.parse.unquote(path) if "%" in path else path


def _date() -> bytes:
    return b"date: %s\r\n" % formatdate(usegmt=True).encode()
