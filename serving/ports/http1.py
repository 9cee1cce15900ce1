"""HTTP/1.1 as a machine that does no input or output: bytes and times go in, requests and the bytes of answers come out.

Strict by RFC 9110 and 9112: what can be read in two ways is refused, and after that nothing more is read from that
connection. One request is under way at a time; what is pipelined behind it waits unread.

A port feeds it (`receive`, `receive_end`), then asks `next_event` until that gives None:

    try:
        while event := machine.next_event(now):
            if isinstance(event, Body):
                ...                             # hand it on; `answer` may come at once or later
            else:                               # a Head: admitted (accept) or refused (answer)
                write(machine.accept(now))
    except RequestError as error:
        write(machine.refuse(error, now, date=date))

`overdue` and `closes` are asked once a second. After `answer`, `next_event` is to be asked again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from ipaddress import AddressValueError, IPv6Address
from itertools import islice
from typing import Final, NoReturn
from urllib.parse import unquote

from serving.errors import Kind, RequestError, malformed
from serving.messages import Answer, Head, Headers, refusal, too_long
from serving.settings import Settings

CACHED_HEAD_BYTES: Final = 2048  # longer heads are parsed each time
CACHED_HEADS: Final = 512
METHOD_BYTES: Final = 32
PAUSE_BYTES: Final = 65536  # read ahead while an answer is awaited
CHUNK_LINE_BYTES: Final = 256  # a chunk's size and extensions, with the end of the line
EMPTY_LINES: Final = 8  # before a request, as some old clients send after a body
TRICKLE_SECONDS: Final = 2  # of a body, before its rate is looked at
PIECES: Final = 64  # of a body, before they are put into one

PREFACE: Final = b"PRI * HTTP/2.0\r\n"  # of HTTP/2, as far as it looks like a request line
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it is part of a cache's key
class Http1Limits:
    head_bytes: int  # of a request's line and headers together; of trailers too
    target_bytes: int
    headers: int
    body_bytes: int
    chunks: int = 131_072  # of one body
    discard_bytes: int = 262_144  # of a body that nobody wants, read so that the connection can go on
    head_seconds: float  # from a request's first byte to the end of its head
    body_seconds: float  # from there to its last byte
    body_bytes_per_second: int  # at least, on average; 0: any
    idle_seconds: float
    linger_seconds: float = 5  # for a client to read the last answer


def limits_of(settings: Settings) -> Http1Limits:
    return Http1Limits(
        head_bytes=settings.max_head_bytes,
        target_bytes=settings.max_target_bytes,
        headers=settings.max_headers,
        body_bytes=settings.max_body_bytes,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        body_bytes_per_second=settings.min_body_bytes_per_second,
        idle_seconds=settings.idle_seconds,
    )


class LocalError(AssertionError):
    """The port asked for what cannot be in the machine's state: a mistake in the server."""


class State(Enum):
    __hash__ = object.__hash__  # Enum's own takes as long as the rest of a step
    IDLE = "idle"  # nothing of a request is here
    HEAD = "head"  # a part of a head is
    HEAD_READ = "head read"  # it was given out: accept or answer
    BODY = "body"  # accepted; not whole
    ANSWERING = "answering"  # the whole request was given out, its answer is awaited
    DISCARDING = "discarding"  # answered before its body was whole; the rest is dropped, and the connection goes on
    LINGERING = "lingering"  # the last answer was given; what comes is dropped, so that the client can read it
    CLOSED = "closed"


class Step(Enum):
    __hash__ = object.__hash__
    BEGAN = "a request's first byte came"
    EMPTY = "only empty lines came"
    READ = "a head was whole"
    ACCEPTED = "the body is wanted"
    WHOLE = "the body was whole"
    ANSWERED = "the whole request was answered"
    ANSWERED_EARLY = "it was answered before its body was whole"
    ANSWERED_LAST = "it was answered, and is the last"
    REFUSED = "what came cannot be read"
    DISCARDED = "the rest of a body was dropped"
    GIVEN_UP = "the rest of a body is too much to drop"
    CLOSED = "nothing more comes or goes"


class _Row(dict[Step, State]):
    def __missing__(self, step: Step) -> NoReturn:
        raise LocalError(f"In this state it cannot be that {step.value}.")


TABLE: Final = {
    State.IDLE: _Row({Step.BEGAN: State.HEAD, Step.REFUSED: State.LINGERING, Step.CLOSED: State.CLOSED}),
    State.HEAD: _Row(
        {
            Step.EMPTY: State.IDLE,
            Step.READ: State.HEAD_READ,
            Step.REFUSED: State.LINGERING,
            Step.CLOSED: State.CLOSED,
        }
    ),
    State.HEAD_READ: _Row(
        {
            Step.ACCEPTED: State.BODY,
            Step.ANSWERED: State.IDLE,
            Step.ANSWERED_EARLY: State.DISCARDING,
            Step.ANSWERED_LAST: State.LINGERING,
            Step.REFUSED: State.LINGERING,
            Step.CLOSED: State.CLOSED,
        }
    ),
    State.BODY: _Row(
        {
            Step.WHOLE: State.ANSWERING,
            Step.ANSWERED_EARLY: State.DISCARDING,
            Step.ANSWERED_LAST: State.LINGERING,
            Step.REFUSED: State.LINGERING,
            Step.CLOSED: State.CLOSED,
        }
    ),
    State.ANSWERING: _Row(
        {
            Step.ANSWERED: State.IDLE,
            Step.ANSWERED_LAST: State.LINGERING,
            Step.REFUSED: State.LINGERING,
            Step.CLOSED: State.CLOSED,
        }
    ),
    State.DISCARDING: _Row(
        {Step.DISCARDED: State.IDLE, Step.GIVEN_UP: State.LINGERING, Step.CLOSED: State.CLOSED},
    ),
    State.LINGERING: _Row({Step.CLOSED: State.CLOSED}),
    State.CLOSED: _Row({Step.CLOSED: State.CLOSED}),
}


@dataclass(slots=True)
class Body:
    """What came behind a head, whole."""

    data: bytes


class Machine:
    """One connection's HTTP/1.1, from the server's side. Times are seconds of any one clock that does not go back."""

    __slots__ = (
        "__weakref__",
        "_at",
        "_chunk_bytes",
        "_chunks",
        "_data",
        "_empty_lines",
        "_ended",
        "_gathering",
        "_head",
        "_last",
        "_left",
        "_limits",
        "_overhead",
        "_pieces",
        "_raw",
        "_received",
        "_searched",
        "_since",
        "_trailers",
        "state",
    )

    def __init__(self, limits: Http1Limits, now: float) -> None:
        self.state = State.IDLE
        self._limits = limits
        self._since = now  # when the state began; of BODY: when it was accepted
        self._data: bytes | bytearray = b""  # what came; IDLE: empty
        self._at = 0  # before it, it is read
        self._searched = 0  # before it, no end of a head is
        self._empty_lines = 0
        self._head = _NO_HEAD  # the last that was read,
        self._raw = b""  # and its bytes, if they are few
        self._last = False  # the next answer is
        self._ended = False  # the client sends no more
        self._gathering = False
        self._left = 0  # of the body; chunked: of the chunk
        self._pieces: list[bytes | bytearray] = []  # of the body; only the last may be a bytearray
        self._received = 0

    def _begin_body(self) -> None:
        """Makes ready to read a body that is not whole yet, or comes in chunks."""
        self._gathering = True
        self._left = self._head.length or 0
        self._pieces = []
        self._received = 0  # bytes of the body
        self._chunks = 0
        self._chunk_bytes = False  # whether a chunk's bytes, and the end of their line, are what comes next
        self._overhead = 0  # bytes of chunk extensions; then those of trailers
        self._trailers = -1  # their count; -1: the last chunk has not come

    @property
    def under_way(self) -> bool:
        """Whether a request was given out that is not answered."""
        return self.state in _UNDER_WAY

    @property
    def body_bytes(self) -> int:
        """Of the body that is being read, so far."""
        return self._received

    @property
    def paused(self) -> bool:
        """Whether the port should stop reading, since more has come than may wait for an answer."""
        return len(self._data) - self._at > PAUSE_BYTES and self.state in (State.HEAD_READ, State.ANSWERING)

    @property
    def waits(self) -> bool:
        """Whether a whole request is being answered, and nothing came behind it."""
        return self.state is _ANSWERING and not self._data

    # What comes

    def receive(self, data: bytes, now: float) -> None:
        if self.state is _IDLE:
            if data:
                self.state = TABLE[_IDLE][_BEGAN]
                self._since = now
                self._data = data
                self._at = self._searched = 0
        elif self.state is State.LINGERING or self.state is State.CLOSED:
            pass
        elif self._at == len(self._data):
            self._data = data
            self._at = self._searched = 0
        else:
            if isinstance(self._data, bytearray):
                del self._data[: self._at]
            else:
                self._data = bytearray(memoryview(self._data)[self._at :])
            self._searched = max(self._searched - self._at, 0)
            self._at = 0
            self._data += data

    def receive_end(self, now: float) -> None:
        """The client has closed its side. What it sent before is still answered."""
        self._ended = True
        if self.state is State.IDLE or self.state is State.LINGERING:
            self._close()

    def next_event(self, now: float) -> Head | Body | None:
        """What came next; None: more bytes are needed, or an answer is awaited.

        Raises:
            RequestError: what came is no request that can be read; `refuse` is to be called with it.
        """
        if self.state is _HEAD:
            raw = self._raw
            if raw and self._data.startswith(raw, self._at):  # a client repeats its head
                self._at += len(raw)
                self.state = TABLE[_HEAD][_READ]
                return self._head
            return self._read_head(now)
        if self.state is _BODY:
            data, at = self._data, self._at
            end = at + self._left
            if self._gathering or end > len(data):
                return self._read_parts()
            self.state = TABLE[_BODY][_WHOLE]
            body = data[at:end]
            if end == len(data):
                self._data = b""
                end = 0
            self._at = end
            return Body(body if type(body) is bytes else bytes(body))
        elif self.state is State.DISCARDING and self._discard(now):
            return self._read_head(now)
        return None

    def preface(self) -> bytes:
        """What came, if it begins with HTTP/2's preface where the first request was expected; else nothing."""
        begins = self._head is _NO_HEAD and self._data.startswith(PREFACE)
        return bytes(self._data) if begins else b""

    # The head

    def _read_head(self, now: float) -> Head | None:
        data, at, limits = self._data, self._at, self._limits
        if data[at] == 13 and (at := self._drop_empty_lines(now)) < 0:
            return None
        end = data.find(b"\r\n\r\n", max(at, self._searched - 3)) + 4
        if 4 <= end <= at + limits.head_bytes:
            raw = data[at:end] if isinstance(data, bytes) else bytes(data[at:end])
            if len(raw) <= CACHED_HEAD_BYTES:
                self._head = parse_head(raw, limits)
                self._raw = raw
            else:
                self._head = parse_head.__wrapped__(raw, limits)
                self._raw = b""
            self._at = end
            self.state = TABLE[_HEAD][_READ]
            return self._head
        # It is not whole, or too long. What is wrong with it is said as soon as its line is here.
        if data.find(b"\n", max(at, self._searched)) >= 0 or data.find(b"\n", at) < 0:
            _check_begun(bytes(data[at : at + limits.head_bytes]), limits)
        if len(data) - at > limits.head_bytes or end >= 4:
            raise RequestError(
                Kind.HEAD_TOO_LARGE, f"The headers are longer than {limits.head_bytes} bytes.", closes=True
            )
        self._searched = len(data)
        if self._ended:
            self._close()
        return None

    def _drop_empty_lines(self, now: float) -> int:
        """Where the request begins; -1 if only empty lines are here."""
        while self._data.startswith(b"\r\n", self._at):
            if self._empty_lines == EMPTY_LINES:
                raise _closing(f"A request was expected, got more than {EMPTY_LINES} empty lines.")
            self._at += 2
            self._empty_lines += 1
        if len(self._data) - self._at > 1 or (len(self._data) > self._at and self._data[self._at] != 13):
            return self._at
        if len(self._data) == self._at:
            self.state = TABLE[self.state][Step.EMPTY]
            self._since = now
            self._clear()
            if self._last:
                self._close()
        if self._ended:
            self._close()
        return -1

    # The body

    def accept(self, now: float) -> bytes:
        """The body will be read. Gives what is to be sent, which is nothing where the client does not wait for it."""
        self.state = TABLE[self.state][_ACCEPTED]
        self._since = now
        length = self._head.length
        if length is None or length > len(self._data) - self._at:
            self._begin_body()
            if self._head.expects_continue and self._at == len(self._data):
                return CONTINUE
        else:
            self._left = self._received = length
            self._gathering = False
        return b""

    def _read_parts(self) -> Body | None:
        if not self._read_body():
            return None
        pieces = self._pieces
        self._pieces = []
        self.state = TABLE[_BODY][_WHOLE]
        return Body(pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces))

    def _read_body(self) -> bool:
        """Takes what is here of the body. Whether it is whole."""
        if self._head.length is None:
            return self._read_chunks()
        data, at = self._data, self._at
        end = at + self._left
        if end <= len(data):
            self._take(data[at:end])
            self._left = 0
            self._consumed(end)
            return True
        if at < len(data):
            self._left = end - len(data)
            self._take(data[at:])
            self._clear()
        if self._ended:
            self._close()
        return False

    def _read_chunks(self) -> bool:
        data, limits = self._data, self._limits
        while True:
            at = self._at
            if self._chunk_bytes:
                if self._left:
                    taken = data[at : at + self._left]
                    if not taken:
                        break
                    self._left -= len(taken)
                    self._take(taken)
                    self._at = at = at + len(taken)
                if len(data) - at < 2:
                    break
                if not data.startswith(b"\r\n", at):
                    raise _closing("A chunk is longer than its size says, or does not end with CRLF.")
                self._at = at + 2
                self._chunk_bytes = False
            elif self._trailers >= 0:
                if (end := self._trailer_end()) < 0:
                    break
                if data[at:end] == b"\r\n":
                    self._consumed(end)
                    return True
                self._overhead += end - at
                self._trailers += 1
                if self._trailers > limits.headers:
                    raise RequestError(
                        Kind.HEAD_TOO_LARGE, f"There are more than {limits.headers} trailers.", closes=True
                    )
                _read_field(bytes(data[at : end - 1]))
                self._at = end
            else:
                end = data.find(b"\n", at, at + CHUNK_LINE_BYTES) + 1
                if end == 0:
                    if len(data) - at >= CHUNK_LINE_BYTES:
                        raise _closing(f"The line of a chunk's size is longer than {CHUNK_LINE_BYTES} bytes.")
                    break
                match = _CHUNK.fullmatch(data, at, end)
                if match is None:
                    raise _closing(f"This is not a chunk's size: {_shown(data[at:end])}.")
                size = int(match[1], 16)
                self._overhead += len(match[2])
                if self._overhead > limits.head_bytes:
                    raise _closing(f"The extensions of chunks are longer than {limits.head_bytes} bytes.")
                self._at = end
                if size == 0:
                    self._trailers = self._overhead = 0
                    continue
                self._chunks += 1
                if self._chunks > limits.chunks:
                    raise RequestError(
                        Kind.TOO_LARGE, f"The body has more than {limits.chunks} chunks. Send larger ones.", closes=True
                    )
                if self._received + size > limits.body_bytes:
                    raise too_long(limits.body_bytes)
                self._left = size
                self._chunk_bytes = True
        if self._at == len(data):
            self._clear()
        if self._ended:
            self._close()
        return False

    def _trailer_end(self) -> int:
        """Behind the line of a trailer, or of what ends them; -1 if it is not here."""
        end = self._data.find(b"\n", self._at) + 1
        if self._overhead + (end or len(self._data)) - self._at > self._limits.head_bytes:
            raise RequestError(
                Kind.HEAD_TOO_LARGE, f"The trailers are longer than {self._limits.head_bytes} bytes.", closes=True
            )
        return end or -1

    def _take(self, piece: bytes | bytearray) -> None:
        self._received += len(piece)
        if self.state is State.DISCARDING:
            return
        pieces = self._pieces
        if pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(piece)
            if len(pieces) == PIECES:
                self._pieces = [bytearray().join(pieces)]

    def _discard(self, now: float) -> bool:
        """Drops what is here of a body. Whether the next request has begun behind it."""
        try:
            whole = self._read_body()
            too_much = self._received > self._limits.discard_bytes
        except RequestError:  # it has its answer
            whole, too_much = False, True
        if self.state is State.CLOSED:
            return False
        if too_much:
            self.state = TABLE[State.DISCARDING][Step.GIVEN_UP]
            self._clear()
            self._since = now
        elif whole:
            self.state = TABLE[State.DISCARDING][Step.DISCARDED]
            self._since = now
            self._next_request()
        return self.state is _HEAD

    # Answers

    def answer(self, answer: Answer, now: float, *, date: bytes, extra: bytes = b"") -> bytes:
        """The bytes of the whole answer to the request that was given out.

        Args:
            date, extra: header lines, each with its CRLF.
        """
        head, state = self._head, self.state
        lines, closes, length = _lines_of(answer.status, answer.headers)
        unread = state is not _ANSWERING and (state is not State.HEAD_READ or head.length != 0)
        if (
            closes
            or self._last
            or not head.keeps
            or (self._ended and self._at == len(self._data))
            or (unread and self._is_too_much(head))
        ):
            return self._answer_last(answer, now, date + extra, unread)
        self._since = now
        self._empty_lines = 0
        if unread:
            self.state = TABLE[state][Step.ANSWERED_EARLY]
            if state is State.HEAD_READ or not self._gathering:
                self._begin_body()
            self._pieces = []
            self._received = 0
        else:
            self.state = TABLE[state][_ANSWERED]
            if self._data or self._ended:
                self._next_request()
        body = answer.body
        if head.method == "HEAD" or length is None or head.http_1_0:
            return _written(
                answer, date + extra + (b"connection: keep-alive\r\n" if head.http_1_0 else b""), head.method
            )
        return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (lines, date, extra, len(body), body)

    def _is_too_much(self, head: Head) -> bool:
        """Whether the rest of a body that nobody wants is not read."""
        if head.length is not None and head.length > self._limits.discard_bytes:
            return True
        # A client that waits for its 100 may send its body now or not: where its next request begins, nobody knows.
        return head.expects_continue and self.state is State.HEAD_READ

    def _answer_last(self, answer: Answer, now: float, lines: bytes, unread: bool) -> bytes:
        head = self._head
        self.state = TABLE[self.state][Step.ANSWERED_LAST]
        self._since = now
        self._pieces = []
        if self._ended or not (unread or head.keeps or self._at < len(self._data)):
            self._close()
        self._clear()
        return _written(answer, lines + b"connection: close\r\n", head.method)

    def refuse(self, error: RequestError, now: float, *, date: bytes, extra: bytes = b"") -> bytes:
        """The bytes of the answer to what could not be read, or did not come in time. It is the last."""
        method = self._head.method if self.under_way else ""
        self.state = TABLE[self.state][Step.REFUSED]
        self._since = now
        self._clear()
        self._pieces = []
        if self._ended:
            self._close()
        return _written(refusal(error), date + extra + b"connection: close\r\n", method)

    def _next_request(self) -> None:
        if self._at < len(self._data):
            self.state = TABLE[self.state][Step.BEGAN]
            self._searched = self._at
        else:
            self._clear()
            if self._ended or self._last:
                self._close()

    # Time

    def last(self) -> None:
        """The next answer is the last. A connection without a request can be closed at once."""
        self._last = True
        if self.state is State.IDLE:
            self._close()

    def overdue(self, now: float) -> RequestError | None:
        """What to refuse a request with that did not come in time."""
        seconds, limits = now - self._since, self._limits
        if self.state is State.HEAD:
            if seconds > limits.head_seconds:
                return RequestError(
                    Kind.SLOW, f"The headers were not whole after {limits.head_seconds} s.", closes=True
                )
        elif self.state is State.BODY:
            if seconds > limits.body_seconds:
                return RequestError(Kind.SLOW, f"The body was not whole after {limits.body_seconds} s.", closes=True)
            if seconds > TRICKLE_SECONDS and self._received < limits.body_bytes_per_second * seconds:
                return RequestError(
                    Kind.SLOW,
                    f"The body came with fewer than {limits.body_bytes_per_second} bytes a second.",
                    closes=True,
                )
        return None

    def closes(self, now: float) -> bool:
        """Whether the connection is to be closed now."""
        seconds = now - self._since
        match self.state:
            case State.CLOSED:
                return True
            case State.IDLE:
                return seconds > self._limits.idle_seconds
            case State.LINGERING:
                return seconds > self._limits.linger_seconds
            case State.DISCARDING:
                return seconds > self._limits.body_seconds
            case _:
                return False

    # What was read

    def _consumed(self, at: int) -> None:
        self._at = at
        if at == len(self._data):
            self._clear()

    def _clear(self) -> None:
        self._data = b""
        self._at = self._searched = 0

    def _close(self) -> None:
        self.state = TABLE[self.state][Step.CLOSED]
        self._clear()
        self._pieces = []


# What every request passes through, without looking it up in its class.
_IDLE, _HEAD, _BODY, _ANSWERING = State.IDLE, State.HEAD, State.BODY, State.ANSWERING
_BEGAN, _READ, _ACCEPTED, _WHOLE, _ANSWERED = Step.BEGAN, Step.READ, Step.ACCEPTED, Step.WHOLE, Step.ANSWERED
_NO_HEAD: Final = Head("", b"", "", "", {}, False, 0, True, False)
_UNDER_WAY: Final = (State.HEAD_READ, State.BODY, State.ANSWERING)


# Reading a head

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_METHOD: Final = re.compile(_TOKEN)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*+)\r")
_FIELDS: Final = re.compile(rb"\n(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*+)(?=\r\n)")  # the same of many lines
_PATH: Final = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*+(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=:@/]*+)*+")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]++)([^#]*+)", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:\[([^\]]*+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})++)(?::([0-9]{0,5}))?")
# No space around a semicolon or an equals sign, which the grammar calls bad: parsers differ in what they make of it.
_CHUNK: Final = re.compile(
    rb"([0-9A-Fa-f]{1,20})((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"(?:[\t !#-\[\]-~]|\\[\t -~])*+"))?+)*+)\r\n'
)

# Headers that say how to read the request: two of them are two ways to read it.
ONCE: Final = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"inference-header-content-length",
        b"transfer-encoding",
    }
)


@lru_cache(CACHED_HEADS)
def parse_head(raw: bytes, limits: Http1Limits) -> Head:
    """A request's head from its bytes, from the first of the request line to the empty line's last.

    Raises:
        RequestError: it is not one, or is longer than the limits allow.
    """
    method, target, version, headers = _read_lines(raw[:-2], limits)
    path, query = read_target(method, target)
    http_1_0 = version == b"1.0"
    host = headers.get(b"host")
    if host is None:
        if not http_1_0:
            raise _closing("A Host header was expected.")
    elif host and not is_host(host):  # it is empty where the client knows none
        raise _closing(f"This is not a host: {_shown(host)}.")
    length = _read_length(headers, http_1_0, limits)
    connection = headers.get(b"connection")
    if connection is None:
        keeps = not http_1_0
    else:
        options = {option.strip(b" \t") for option in connection.lower().split(b",")}
        keeps = b"close" not in options and (not http_1_0 or b"keep-alive" in options)
    expects = b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and not http_1_0
    return Head(method.decode(), target, path, query, headers, http_1_0, length, keeps, expects)


def _read_lines(raw: bytes, limits: Http1Limits) -> tuple[bytes, bytes, bytes, dict[bytes, bytes]]:
    """Method, target, version and headers. What is wrong is said of the first line that is wrong."""
    lines = raw.split(b"\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        _check_line_begun(lines[0], limits)
        raise _closing(f"A request line was expected, such as 'GET / HTTP/1.1', got {_shown(lines[0])}.")
    method, target, version = match.groups()
    if len(target) > limits.target_bytes or len(method) > METHOD_BYTES:
        _check_line_begun(lines[0], limits)
    if version != b"1.1" and version != b"1.0":
        raise RequestError(Kind.VERSION, f"HTTP/1.1 was expected, got HTTP/{version.decode()}.", closes=True)
    headers: dict[bytes, bytes] = {}
    fields = lines[1:-1]
    found: list[tuple[bytes, bytes]] = _FIELDS.findall(raw)
    # Where a line is no header, what is wrong with the first of them is said, and not before its turn.
    read = found if len(found) == len(fields) else map(_read_field, fields)
    for name, value in islice(read, limits.headers):
        name, value = name.lower(), value.strip(b" \t")
        if name not in headers:
            headers[name] = value
        elif name in ONCE:
            raise _closing(f"The header {name.decode()} was expected once, came twice.")
        else:
            headers[name] += b", " + value
    if len(fields) > limits.headers:
        raise RequestError(Kind.HEAD_TOO_LARGE, f"There are more than {limits.headers} headers.", closes=True)
    return method, target, version, headers


def _read_field(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of a header or trailer, as they came; its line ends with CR."""
    match = _FIELD.fullmatch(line)
    if match is None:
        if line[:1] in (b" ", b"\t"):
            raise _closing("A header was expected, got a line that begins with a space: put each header on one line.")
        raise _closing(f"A header was expected, such as 'Host: name', got {_shown(line)}.")
    return match[1], match[2]


def _check_begun(begun: bytes, limits: Http1Limits) -> None:
    """Raises what is wrong with a head that is not whole yet: the same as if it were."""
    if whole := begun.rfind(b"\n") + 1:
        _read_lines(begun[:whole], limits)
    else:
        _check_line_begun(begun, limits)


def _check_line_begun(line: bytes, limits: Http1Limits) -> None:
    """Raises what is wrong with a request line's method, or with its target's length."""
    method, _, rest = line.partition(b" ")
    if _METHOD.fullmatch(method[: METHOD_BYTES + 1]) is None:
        raise _closing("This is not HTTP: a request line was expected, such as 'GET / HTTP/1.1'.")
    if len(method) > METHOD_BYTES:
        raise RequestError(Kind.UNSUPPORTED, f"There is no method of more than {METHOD_BYTES} letters.", closes=True)
    if len(rest.partition(b" ")[0]) > limits.target_bytes:
        raise RequestError(
            Kind.TARGET_TOO_LONG, f"The path and query are longer than {limits.target_bytes} bytes.", closes=True
        )


def read_target(method: bytes, target: bytes) -> tuple[str, str]:
    """The decoded path, and the query as it came."""
    if method == b"CONNECT":
        raise RequestError(Kind.UNSUPPORTED, "This server is no proxy: it takes no CONNECT.", closes=True)
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
    elif target == b"*" and method == b"OPTIONS":
        return "*", ""
    else:
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not is_host(match[1]):
            raise _closing(f"A path was expected, such as /v2, got {_shown(target)}.")
        path, _, query = match[2].partition(b"?")
        path = path or b"/"
    if _PATH.fullmatch(path) is None or b"%00" in path or b"#" in query:
        raise _closing(f"This is not a path: {_shown(target)}. Write characters that do not belong there as %XX.")
    return unquote(path.decode()) if b"%" in path else path.decode(), query.decode()


def is_host(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 65535:
        return False
    if match[1] is None:
        return True
    try:
        IPv6Address(match[1].decode("latin-1"))
    except AddressValueError:
        return False
    return b"%" not in match[1]  # a zone is of the client's machine


def _read_length(headers: Mapping[bytes, bytes], http_1_0: bool, limits: Http1Limits) -> int | None:
    """The body's length in bytes; None: it comes in chunks."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        coding = coding.lower()
        if http_1_0:
            raise _closing("Transfer-Encoding is not for HTTP/1.0: send Content-Length.")
        if length is not None:
            raise _closing("Content-Length or Transfer-Encoding was expected, got both.")
        if coding == b"chunked":
            return None
        codings = [name.strip(b" \t") for name in coding.split(b",")]
        if codings[-1] != b"chunked" or b"chunked" in codings[:-1]:
            raise _closing(
                f"Transfer-Encoding takes 'chunked', got {_shown(coding)}: nobody knows where the body ends."
            )
        raise RequestError(Kind.UNSUPPORTED, f"Transfer-Encoding takes 'chunked', got {_shown(coding)}.", closes=True)
    if length is None:
        return 0
    return content_length(length, limits.body_bytes)


def content_length(text: bytes, most: int) -> int:
    """What a Content-Length says, in bytes. Raises RequestError if it is no number, or above `most`."""
    if not text.isdigit():
        raise _closing(f"Content-Length takes a whole number, got {_shown(text)}.")
    digits = text.lstrip(b"0")
    if len(digits) > 18 or int(digits or b"0") > most:
        raise too_long(most)
    return int(digits or b"0")


def _closing(message: str) -> RequestError:
    error = malformed(message)
    error.closes = True
    return error


def _shown(text: bytes | bytearray) -> str:
    return repr(bytes(text[:50]).decode("latin-1").rstrip("\r\n"))


# Writing an answer

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_BODILESS: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


@lru_cache(256)
def _lines_of(status: int, headers: Headers) -> tuple[bytes, bool, int | None]:
    """The lines of an answer that are its own; whether it closes the connection; -1, or the length that it says itself,
    or None where it has neither length nor body.

    Raises:
        LocalError: a header that would end its line, or a status that is no final one.
    """
    if status < 200 or status not in _STATUS_LINES:
        raise LocalError(f"{status} is no status of an answer.")
    lines, closes = [_STATUS_LINES[status]], False
    length = None if status in _BODILESS else -1
    for name, value in headers:
        if _FIELD.fullmatch(name + b":" + value + b"\r") is None:
            raise LocalError(f"This is not a header: {name!r}: {value!r}.")
        match name.lower():
            case b"connection":
                closes = closes or b"close" in value.lower()
            case b"content-length":
                length = None if status in _BODILESS else int(value)
            case b"date":
                pass
            case b"transfer-encoding":
                raise LocalError("An answer is sent whole, with its length.")
            case _:
                lines.append(name + b": " + value + b"\r\n")
    return b"".join(lines), closes, length


def _written(answer: Answer, further: bytes, method: str) -> bytes:
    """An answer in its general form, with further header lines."""
    lines, _, length = _lines_of(answer.status, answer.headers)
    if length is None:
        return b"%b%b\r\n" % (lines, further)
    if method == "HEAD":  # it says the length that it would have for GET
        said = len(answer.body) if length < 0 else length
        return b"%b%bcontent-length: %d\r\n\r\n" % (lines, further, said)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (lines, further, len(answer.body), answer.body)
