"""One client's connection, whichever port it came to: bytes to the HTTP machine, what it finds to the door, and back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, Protocol, cast

from serving.door import Door
from serving.errors import Kind, RequestError
from serving.messages import STATUS, Answer, Exchange, Head
from serving.ports import http2
from serving.ports.http1 import Http1Limits, LocalError, Machine, State, limits_of
from serving.settings import Settings

CLOSING_SECONDS: Final = 0.5  # for clients to read their last answers when the server ends
LINGER_BYTES: Final = 32 * 1024 * 1024  # that are taken from a client after its last answer, so that it can read that
TURNED_AWAY: Final = 64  # connections over the limit that are told so; more are cut off without a word

Foreign = Callable[[Exchange], None]  # answers what is not the door's

log = logging.getLogger("samedigit")

# Enum's own look-up takes as long as the rest of a step.
_IDLE: Final = State.IDLE
_BODY: Final = State.BODY


class Open(Protocol):
    """A connection, as all of them are looked after."""

    @property
    def under_way(self) -> bool: ...
    @property
    def unsent_bytes(self) -> int: ...
    def check(self, now: float) -> None: ...
    def give_up(self) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...


class Http2(Protocol):
    """Goes on with a connection from `address` in HTTP/2."""

    def __call__(self, transport: asyncio.Transport, address: str) -> Http2Connection: ...


class Http2Connection(Open, Protocol):
    def data_received(self, data: bytes) -> None: ...


class Connections:
    """Every connection of this process, over both ports: counted, limited, looked after, and finished in the end."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self.door = door
        self.limits: Http1Limits = limits_of(settings)
        self.http2_limits = http2.limits_of(settings)
        self.max_unsent_bytes = settings.max_unsent_bytes
        self.unsent_bytes = 0  # of answers, for want of room in the windows of HTTP/2's clients
        self.date = _date()
        self.draining = False
        self._max = settings.max_connections
        self._max_per_address = settings.max_connections_per_address
        self.open: set[Open] = set()
        self._addresses: Counter[str] = Counter()
        self._turned_away = 0
        self._watch: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self.open)

    def begin(self) -> None:
        """Starts to look after connections; on the event loop that they belong to."""
        self._watch = asyncio.get_running_loop().create_task(self._look_after())

    def drain(self) -> None:
        """Every connection ends with the answer to what it has asked; one that has asked nothing ends now."""
        self.draining = True
        for connection in list(self.open):
            connection.finish()

    async def end(self, grace_seconds: float) -> None:
        """Drains, waits as long as it may for what is under way, then cuts off."""
        self.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        while any(connection.under_way for connection in self.open) and loop.time() < deadline:
            await asyncio.sleep(0.01)
        lingers_until = min(deadline, loop.time() + CLOSING_SECONDS)
        while self.open and loop.time() < lingers_until:
            await asyncio.sleep(0.01)
        if self._watch is not None:
            self._watch.cancel()
        for connection in list(self.open):
            connection.abort()

    def enter(self, connection: Connection, address: str, port: str) -> RequestError | None:
        """Counts a new connection; an error if there is no room for it."""
        full = len(self.open) - self._turned_away >= self._max
        if not full and self._addresses[address] < self._max_per_address:
            self._addresses[address] += 1
            self.open.add(connection)
            self.door.metrics.connected(port)
            return None
        self.door.metrics.shed("connections")
        whose = "" if full else f" from {address}"
        limit = self._max if full else self._max_per_address
        return RequestError(
            Kind.BUSY,
            f"{limit} connections{whose} are open, and no more may be. Try again later.",
            retry_after_seconds=1,
            closes=True,
        )

    def count_unsent(self, more: int) -> None:
        """Counts what HTTP/2's clients have not taken. Above the limit, who leaves the most is cut off, and nobody else."""
        self.unsent_bytes += more
        if more > 0 and self.unsent_bytes > self.max_unsent_bytes:
            asyncio.get_running_loop().call_soon(self._make_room)

    def _make_room(self) -> None:
        while self.unsent_bytes > self.max_unsent_bytes:
            self.door.metrics.shed("unsent")
            max(self.open, key=lambda connection: connection.unsent_bytes).give_up()

    def turn_away(self, connection: Connection) -> bool:
        """Whether a connection that found no room may stay to be told so."""
        if self._turned_away >= TURNED_AWAY:
            return False
        self._turned_away += 1
        self.open.add(connection)
        return True

    def hand_over(self, connection: Connection, to: Open) -> None:
        """What was one connection goes on as another, with its place."""
        self.open.discard(connection)
        self.open.add(to)

    def leave(self, connection: Open, address: str, port: str, *, counted: bool) -> None:
        self.open.discard(connection)
        if not counted:
            self._turned_away -= 1
            return
        self.door.metrics.disconnected(port)
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    async def _look_after(self) -> None:
        """Each second: the date of the answers, and an end to what takes too long. One timer for all connections."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            self.date = _date()
            self._check(loop.time())

    def _check(self, now: float) -> None:  # not in the task above, whose frame would keep the last one
        for connection in list(self.open):
            connection.check(now)


class Connection(asyncio.Protocol):
    """Requests are answered in the order in which they came, one at a time.

    A connection that is closed is in no cycle: nothing that it held waits for the garbage collector.
    """

    def __init__(
        self,
        connections: Connections,
        port: str,
        *,
        known: set[Any],
        foreign: Foreign | None = None,
        http2: Http2 | None = None,
    ) -> None:
        self._connections = connections
        self._port = port
        self._known = known  # those of this port
        self._foreign = foreign
        self._http2 = http2  # None: it is not spoken here
        self._loop = asyncio.get_running_loop()
        self._machine = Machine(connections.limits, self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None  # admitted, and not yet answered
        self._address = ""
        self._counted = False
        self._can_write = True
        self._tls = False
        self._wrote_at = 0.0
        self._reads = True
        self._half_closed = False  # the last answer was given; what comes is dropped
        self._dropped_bytes = 0
        self._proceeding = False

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not say that it is one
        self._known.add(self)
        self._tls = transport.get_extra_info("ssl_object") is not None
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        no_room = self._connections.enter(self, self._address, self._port)
        if no_room is None:
            self._counted = True
            if self._connections.draining:
                self._machine.last()
            if self._tls and _agreed(transport) == "h2":
                self._become_http2(b"")
        elif self._connections.turn_away(self):
            self._refuse(no_room, self._loop.time())
        else:
            self._transport.abort()
            self._transport = None

    def connection_lost(self, error: Exception | None) -> None:
        self._known.discard(self)
        if self._transport is None:
            return
        self._transport = None
        self._connections.leave(self, self._address, self._port, counted=self._counted)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._connections.door.leave(exchange)

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        if self._half_closed:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self.abort()
            return
        self._machine.receive(data, now)
        self._proceed(now)

    def eof_received(self) -> bool:
        now = self._loop.time()
        self._machine.receive_end(now)
        self._proceed(now)
        # Who has closed its side still gets its answers; but TLS has no half-closed connections.
        return self._transport is not None and not self._tls and not self._machine.closes(now)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._go_on()

    # From the machine to the door, and back

    def _proceed(self, now: float) -> None:
        """Takes from the machine what it has found, until it needs more bytes or an answer is awaited."""
        if self._transport is None or self._proceeding:
            return
        machine = self._machine
        door = self._connections.door
        self._proceeding = True
        try:
            while self._can_write and self._transport is not None:
                event = machine.next_event(now)
                if event is None:
                    break
                if isinstance(event, Head):
                    self._exchange = exchange = Exchange(
                        event, address=self._address, port=self._port, reply=self._reply
                    )
                    try:
                        door.admit(exchange, foreign=self._foreign is not None)
                    except RequestError as error:
                        door.refuse(exchange, error)
                        continue
                    go_on = machine.accept(now)
                    if go_on:
                        self._transport.write(go_on)
                elif self._exchange is not None:
                    self._exchange.body = event.data
                    if self._exchange.answers or self._foreign is None:
                        door.handle(self._exchange)
                    else:
                        self._foreign(self._exchange)
            if machine.state is _BODY:
                self._grow()
        except RequestError as error:
            if error.kind is Kind.VERSION and self._http2 is not None and (unread := machine.preface()):
                self._become_http2(unread)
            else:
                self._refuse(error, now)
        finally:
            self._proceeding = False
        self._settle(now)

    def _become_http2(self, unread: bytes) -> None:
        """Goes on as a connection of HTTP/2."""
        transport, self._transport = self._transport, None
        assert transport is not None
        assert self._http2 is not None
        self._known.discard(self)
        other = self._http2(transport, self._address)
        transport.set_protocol(cast(asyncio.Protocol, other))
        self._connections.hand_over(self, other)
        if unread:
            other.data_received(unread)

    def _grow(self) -> None:
        """Sees that a chunked body, as much as has come of it, has room."""
        exchange = self._exchange
        if exchange is not None and exchange.head.length is None:
            try:
                self._connections.door.grow(exchange, self._machine.body_bytes)
            except RequestError as error:
                self._connections.door.refuse(exchange, error)

    def _reply(self, exchange: Exchange, answer: Answer) -> None:
        if exchange is not self._exchange or self._transport is None:
            return
        self._exchange = None
        self._wrote_at = now = self._loop.time()
        lines = self._connections.door.header_lines(exchange.head.headers)
        try:
            self._transport.write(self._machine.answer(answer, now, date=self._connections.date, extra=lines))
        except LocalError:
            log.exception("An answer could not be written")
            self._transport.abort()
            return
        if not self._proceeding and self._machine.state is not _IDLE:
            self._settle(now)
            # Not at once: thousands of requests may have come in one piece, each of which would be answered from here.
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._proceed(self._loop.time())

    def _refuse(self, error: RequestError, now: float) -> None:
        """Answers what cannot be read to its end, or found no room. Then nothing more is read."""
        if self._exchange is not None:
            self._connections.door.refuse(self._exchange, error)
        elif self._transport is not None:
            self._connections.door.metrics.unread(STATUS[error.kind])
            self._wrote_at = now
            lines = self._connections.door.header_lines({})
            self._transport.write(self._machine.refuse(error, now, date=self._connections.date, extra=lines))
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Lets the transport follow the machine: closed, half closed, or not read for a while."""
        transport, machine = self._transport, self._machine
        if transport is None or (self._reads and (machine.state is _IDLE or machine.waits)):
            return
        if machine.closes(now):
            transport.close()
            return
        if machine.state is State.LINGERING and not self._half_closed:
            self._half_closed = True
            self._known.discard(self)  # nothing is waited for
            if transport.can_write_eof():
                transport.write_eof()
        if machine.paused is self._reads:
            self._reads = not self._reads
            if self._reads:
                transport.resume_reading()
            else:
                transport.pause_reading()

    # From the port

    unsent_bytes = 0  # HTTP/1.1 has no windows

    def give_up(self) -> None:
        self.abort()

    @property
    def under_way(self) -> bool:
        """Whether a request is being read or answered."""
        return self._machine.state not in (State.IDLE, State.LINGERING, State.CLOSED)

    def check(self, now: float) -> None:
        """Ends what has been idle, half sent or refused for too long."""
        if self._transport is None:
            return
        if self._machine.closes(now):
            # Whoever still reads its last answer has time for it; close() would wait for ever for a client that does not.
            waits = now - self._wrote_at < self._connections.limits.idle_seconds
            if not (waits and self._transport.get_write_buffer_size()):
                self._transport.abort()
            return
        late = self._machine.overdue(now)
        if late is not None:
            self._refuse(late, now)

    def finish(self) -> None:
        """Closes the connection, once the request under way is answered."""
        self._machine.last()
        self._settle(self._loop.time())

    def shutdown(self) -> None:
        """The same, as uvicorn asks for it."""
        self.finish()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _agreed(transport: asyncio.BaseTransport) -> str | None:
    """The protocol that TLS has agreed on."""
    agreed: str | None = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    return agreed


def _date() -> bytes:
    return b"date: %s\r\n" % formatdate(usegmt=True).encode()
