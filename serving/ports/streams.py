"""One client's HTTP/2 connection to the data port: its streams to the door, each a request, and their answers back.

A `Connection` (connection.py) becomes one where the client's first bytes are HTTP/2's preface, or TLS has agreed on it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from serving.errors import Kind, RequestError, malformed
from serving.messages import STATUS, Answer, Conversation, Exchange, Head, Headers, refusal, too_long
from serving.ports.connection import LINGER_BYTES, Connections
from serving.ports.http1 import LocalError
from serving.ports.http2 import (
    Body,
    Event,
    Grown,
    Machine,
    Piece,
    Refused,
    Request,
    Reset,
    State,
    Stream,
)
from serving.ports.http2_heads import header_block

GRPC: Final = b"application/grpc"
_CALL_HEADERS: Final = header_block(200, ((b"content-type", GRPC),))
_CALL_TRAILERS: Final = header_block(None, ((b"grpc-status", b"0"),))
MESSAGE_PREFIX: Final = (
    5  # bytes before each message of gRPC: whether it is compressed, and its length in the last four
)
UNSENT_MESSAGES: Final = (
    65_536  # bytes of a streaming call's answers that its client has not taken, before it is read on
)

log = logging.getLogger("samedigit")


class _Unread:
    """What came of a streaming call, and was not given out."""

    __slots__ = ("data", "is_last")

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_last = False


class Streams(asyncio.Protocol):
    """A connection whose streams are answered as soon as they can be, in any order."""

    def __init__(
        self,
        connections: Connections,
        port: str,
        *,
        known: set[Streams],
        transport: asyncio.Transport,
        address: str,
    ) -> None:
        self._connections = connections
        self._port = port
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._machine = Machine(connections.http2_limits, self._loop.time())
        self._transport: asyncio.Transport | None = transport
        self._address = address
        self._tls = transport.get_extra_info("ssl_object") is not None
        self._exchanges: dict[int, Exchange] = {}  # by stream: admitted, and not yet answered
        self._unread: dict[int, _Unread] = {}  # of calls that stream
        self.unsent_bytes = 0  # of answers that the client's windows have no room for, as counted
        self._can_write = True
        self._cannot_write_since = 0.0
        self._reads = True
        self._half_closed = False
        self._dropped_bytes = 0
        self._proceeding = False
        self._flushes = False
        known.add(self)
        if connections.draining:
            self._machine.last(self._loop.time())
        self._flush()

    # From the transport

    def connection_lost(self, error: Exception | None) -> None:
        self._known.discard(self)
        if self._transport is None:
            return
        self._transport = None
        self._count_unsent(0)
        self._connections.leave(self, self._address, self._port, counted=True)
        self._unread.clear()
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            self._connections.door.leave(exchange)

    def data_received(self, data: bytes) -> None:
        if self._half_closed:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self.abort()
            return
        now = self._loop.time()
        self._machine.receive(data, now)
        self._proceed(now)

    def eof_received(self) -> bool:
        now = self._loop.time()
        for event in self._machine.receive_end(now):
            self._take(event, now)
        self._flush()
        self._settle(now)
        return self._transport is not None and not self._tls and self._machine.state is not State.CLOSED

    def pause_writing(self) -> None:
        self._can_write = False
        self._cannot_write_since = self._loop.time()
        self._settle(self._cannot_write_since)

    def resume_writing(self) -> None:
        self._can_write = True
        self._proceed(self._loop.time())

    # From the machine to the door, and back

    def _proceed(self, now: float) -> None:
        """Takes from the machine what it has found, until it needs more bytes, or the client has to read first."""
        if self._proceeding or self._transport is None:
            return
        self._proceeding = True
        machine = self._machine
        try:
            while self._can_write:
                event = machine.next_event(now)
                if event is None:
                    break
                self._take(event, now)
            if self._unread:
                self._go_on()
        finally:
            self._proceeding = False
        if machine.out or machine.unsent_bytes != self.unsent_bytes:
            self._flush()
        if machine.state is not State.OPEN or not (self._reads and self._can_write):
            self._settle(now)

    def _take(self, event: Event, now: float) -> None:
        door = self._connections.door
        stream = event.stream
        if isinstance(event, Request):
            head = stream.head
            exchange = Exchange(head, address=self._address, port=self._port, reply=self._reply)
            exchange.stream_number = stream.number
            exchange.is_call = _is_call(head)
            self._exchanges[stream.number] = exchange
            try:
                door.admit(exchange, foreign=False)
            except RequestError as error:
                door.refuse(exchange, error)
                return
            if exchange.streams:
                exchange.stream = Conversation(self, stream.number)
                self._unread[stream.number] = _Unread()
                door.handle(exchange)
            if stream.number in self._exchanges:
                self._machine.accept(stream, streams=exchange.streams)
        elif isinstance(event, Body):
            exchange = self._exchanges[stream.number]
            exchange.body = event.data
            if stream.head.length is None and not self._grow(exchange, stream):
                return
            door.handle(exchange)
        elif isinstance(event, Piece):
            unread = self._unread.get(stream.number)
            if unread is not None:
                unread.data += event.data
                unread.is_last = event.last
                self._give_out(stream)
        elif isinstance(event, Grown):
            self._grow(self._exchanges[stream.number], stream)
        elif isinstance(event, Refused):
            known = self._exchanges.get(stream.number)
            if known is not None:
                door.refuse(known, event.error)
                return
            door.metrics.unread(STATUS[event.error.kind])
            if _is_call(stream.head):
                headers = door.refusal_of_call(event.error).headers
                self._machine.respond(stream, header_block(200, headers), b"", None, now)
            else:
                self._write(stream, refusal(event.error), door.header_lines({}), now)
        elif isinstance(event, Reset):
            self._unread.pop(stream.number, None)
            gone = self._exchanges.pop(stream.number, None)
            if gone is not None:
                door.leave(gone)

    def _grow(self, exchange: Exchange, stream: Stream) -> bool:
        """Sees that a body whose length nobody said has room, as much as has come of it."""
        try:
            self._connections.door.grow(exchange, stream.received)
        except RequestError as error:
            self._connections.door.refuse(exchange, error)
            return False
        return True

    def _reply(self, exchange: Exchange, answer: Answer) -> None:
        if self._exchanges.pop(exchange.stream_number, None) is not exchange or self._transport is None:
            return
        stream = self._machine.streams[exchange.stream_number]
        now = self._loop.time()
        if exchange.is_call:
            if exchange.streams:
                self._unread.pop(stream.number, None)
            if stream.answered:
                self._machine.end(stream, _trailers(answer.headers), now)
            elif answer.body:
                self._machine.respond(stream, _CALL_HEADERS, answer.body, _CALL_TRAILERS, now)
            else:
                self._machine.respond(stream, header_block(200, answer.headers), b"", None, now)
        else:
            self._write(stream, answer, self._connections.door.header_lines(exchange.head.headers), now)
        if self._exchanges and not self._proceeding and not self._machine.has_much:
            if not self._flushes:
                self._flushes = True
                self._loop.call_soon(self._flush_soon)
            return
        self._flush_later()

    def _flush_soon(self) -> None:
        self._flushes = False
        self._flush_later()

    def _write(self, stream: Stream, answer: Answer, lines: bytes, now: float) -> None:
        try:
            self._machine.answer(stream, answer, now, date=self._connections.date, extra=lines)
        except LocalError:
            log.exception("An answer could not be written")
            self._machine.answer(
                stream,
                refusal(RequestError(Kind.FAILED, "The server failed; its log says why.")),
                now,
                date=self._connections.date,
            )

    # Calls that stream

    def _go_on(self) -> None:
        """Gives out what waited for answers to be taken, which may be by now."""
        for number in list(self._unread):
            if number in self._unread:
                self._give_out(self._machine.streams[number])

    def _give_out(self, stream: Stream) -> None:
        """Hands over the messages that came whole, as long as what answers takes them and its answers are taken."""
        number = stream.number
        exchange, unread = self._exchanges[number], self._unread[number]
        call = exchange.stream
        assert call is not None
        limit = self._connections.limits.body_bytes
        try:
            self._connections.door.grow(exchange, len(unread.data))
            while (
                len(unread.data) >= MESSAGE_PREFIX
                and not call.paused
                and len(stream.unsent) - stream.sent < UNSENT_MESSAGES
            ):
                end = MESSAGE_PREFIX + int.from_bytes(unread.data[1:MESSAGE_PREFIX], "big")
                if end > limit:
                    raise too_long(limit)
                if end > len(unread.data):
                    break
                message = bytes(unread.data[:end])
                del unread.data[:end]
                call.received(message)
                if number not in self._unread:  # it was ended
                    return
            else:
                if len(unread.data) >= MESSAGE_PREFIX:
                    return  # the client's window closes, until `resume` or until it has taken answers
            if not unread.is_last:
                self._machine.took(stream)
            elif unread.data:
                raise malformed("A message was expected, got only the beginning of one.")
            else:
                del self._unread[number]
                call.half_closed()
        except RequestError as error:
            self._connections.door.refuse(exchange, error)

    def send(self, number: int, message: bytes) -> None:
        stream = self._machine.streams.get(number)
        if stream is None or number not in self._exchanges:
            return
        if not stream.answered:
            self._machine.begin(stream, _CALL_HEADERS)
        self._machine.send(stream, message, self._loop.time())
        self._flush_later()

    def end(self, number: int, headers: Headers) -> None:
        exchange = self._exchanges.get(number)
        if exchange is not None:
            self._connections.door.finish(exchange, Answer(200, b"", headers))

    def resume(self, number: int) -> None:
        stream = self._machine.streams.get(number)
        if stream is not None and number in self._unread:
            self._give_out(stream)
            self._flush_later()

    def _flush_later(self) -> None:
        if self._proceeding:  # thousands of requests may have come in one piece: then more than once
            if self._machine.has_much:
                self._flush()
            return
        self._flush()
        if self._machine.state is not State.OPEN or not (self._reads and self._can_write):
            self._settle(self._loop.time())

    def _flush(self) -> None:
        if self._transport is None:
            return
        machine = self._machine
        if machine.unsent_bytes != self.unsent_bytes:
            self._count_unsent(machine.unsent_bytes)
        if written := machine.take():
            self._transport.write(written)

    def _count_unsent(self, size: int) -> None:
        more, self.unsent_bytes = size - self.unsent_bytes, size
        self._connections.count_unsent(more)

    def _settle(self, now: float) -> None:
        """Lets the transport follow the machine: closed, half closed, or not read for a while."""
        transport, machine = self._transport, self._machine
        if transport is None:
            return
        if machine.state is State.OPEN:
            if self._can_write is not self._reads:
                self._reads = self._can_write
                if self._reads:
                    transport.resume_reading()
                else:
                    transport.pause_reading()
            return
        if machine.closes(now):
            transport.close()
        elif machine.state is State.LINGERING and not self._half_closed:
            self._half_closed = True
            self._known.discard(self)
            if not self._reads:
                self._reads = True
                transport.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()

    # From the port

    @property
    def under_way(self) -> bool:
        """Whether a request is being read or answered."""
        return bool(self._machine.streams)

    def check(self, now: float) -> None:
        """Ends what has been idle, half sent or not read for too long."""
        if self._transport is None:
            return
        machine = self._machine
        if not self._can_write and now - self._cannot_write_since > self._connections.limits.idle_seconds:
            self.abort()
            return
        for event in machine.overdue(now):
            self._take(event, now)
        self._flush()
        self._settle(now)
        if machine.closes(now):
            self._transport.abort()

    def give_up(self) -> None:
        """Ends the connection of a client that leaves too much of its answers untaken."""
        now = self._loop.time()
        for event in self._machine.give_up(now):
            self._take(event, now)
        self._flush()
        self._settle(now)

    def finish(self) -> None:
        """Takes no new stream, and closes once those there are have their answers."""
        now = self._loop.time()
        self._machine.last(now)
        self._flush()
        self._settle(now)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _is_call(head: Head) -> bool:
    return head.headers.get(b"content-type", b"").startswith(GRPC)


def _trailers(headers: Headers) -> bytes:
    """The header block behind a call's messages."""
    return header_block(None, tuple((name, value) for name, value in headers if name != b"content-type"))
