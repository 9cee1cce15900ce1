"""HTTP/2 as a machine that does no input or output: bytes and times go in, requests and the bytes of answers come out.

Strict by RFC 9113 and RFC 7541. A mistake in one request ends its stream alone; one that leaves it unclear how to read on ends
the connection. Whatever costs the server more than its client is counted, and too much of it ends the connection too.

A port feeds it (`receive`), then asks `next_event` until that gives None:

    while event := machine.next_event(now):
        match event:
            case Request(stream): ...       # admitted (accept) or refused (answer) before the next event is asked for
            case Refused(stream, error): ...    # to be answered with that; it may have been given out already
            case Grown(stream): ...         # `stream.received` bytes of a body of unknown length are here
            case Body(stream, data): ...    # whole; answer may come at once or later
            case Piece(stream, data, last): ...     # of a body that was accepted to be streamed
            case Reset(stream): ...         # nobody waits for it any more
    write(machine.take())

`take` gives what is to be written after anything was called. `overdue` and `closes` are asked once a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from typing import Final, NoReturn

from serving.errors import Kind, RequestError
from serving.messages import Answer, Head, too_long
from serving.ports.hpack import Broken, Decoder, Field
from serving.ports.http1 import TRICKLE_SECONDS, LocalError
from serving.ports.http2_heads import Malformed, answer_block, check_field, head_of_refused, read_head
from serving.settings import Settings

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES: Final = 16_384  # the longest that is taken: what every client may send
DEFAULT_WINDOW: Final = 65_535  # of a connection and of a stream, before anything was said
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1
PSEUDO_HEADERS: Final = 4
CACHED_BLOCKS: Final = 16  # of one connection
CACHED_HEAD_BYTES: Final = 4096  # of a block and its fields; longer ones are read each time
REMEMBERED: Final = 256  # streams that we reset, of which more may be on its way


@dataclass(frozen=True, kw_only=True, eq=False)
class Http2Limits:
    head_bytes: int  # of a header block, as it comes; and of its fields
    target_bytes: int
    headers: int
    body_bytes: int
    data_frames: int = 131_072  # of one body
    discard_bytes: int = 262_144  # of a body that nobody wants, read so that its client can read the answer
    head_seconds: float  # from a header block's first frame to its last; for the preface too
    body_seconds: float  # from there to the body's last byte
    body_bytes_per_second: int  # at least, on average; of answers too, once they are slow; 0: any
    idle_seconds: float  # without a stream; for a client to take an answer, or give a sign of life
    linger_seconds: float = 5  # for a client to read the last frames
    streams: int  # at once
    resets: int  # a second: streams that the client cancels, or makes us reset
    control_frames: int  # a second: frames that ask for nothing
    unsent_bytes: int = (
        4_194_304  # of answers that the client's windows have no room for, before new streams are refused
    )
    continuations: int = 32  # of one header block
    window: int = 1_048_576  # of a stream, that its client may send before more is granted
    connection_window: int = 16_777_216


def limits_of(settings: Settings) -> Http2Limits:
    return Http2Limits(
        head_bytes=settings.max_head_bytes,
        target_bytes=settings.max_target_bytes,
        headers=settings.max_headers,
        body_bytes=settings.max_body_bytes,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        body_bytes_per_second=settings.min_body_bytes_per_second,
        idle_seconds=settings.idle_seconds,
        streams=settings.max_streams,
        resets=settings.max_resets,
        control_frames=settings.max_control_frames,
    )


class Frame(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or a connection ends: RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class State(Enum):
    """Of a connection."""

    PREFACE = "preface"  # the client's is not whole
    SETTINGS = "settings"  # its first frame has to be SETTINGS
    OPEN = "open"
    HEADERS = "headers"  # a header block is not whole: nothing may come between its frames
    LINGERING = "lingering"  # the last frame was written; what comes is dropped
    CLOSED = "closed"


class Side(Enum):
    """Of a stream that is not idle: RFC 9113, 5.1."""

    __hash__ = object.__hash__
    OPEN = "open"
    HALF_CLOSED_REMOTE = "half-closed (remote)"  # the whole request came
    HALF_CLOSED_LOCAL = "half-closed (local)"  # it was answered before its end came, and is dropped
    CLOSED = "closed"


class Step(Enum):
    __hash__ = object.__hash__
    CAME = "the end of the request came"
    SENT = "the end of the answer was sent"
    RESET = "either side reset it"


class _Row(dict[Step, Side]):
    def __missing__(self, step: Step) -> NoReturn:
        raise LocalError(f"On such a stream it cannot be that {step.value}.")


TABLE: Final = {
    Side.OPEN: _Row({Step.CAME: Side.HALF_CLOSED_REMOTE, Step.SENT: Side.HALF_CLOSED_LOCAL, Step.RESET: Side.CLOSED}),
    Side.HALF_CLOSED_REMOTE: _Row({Step.SENT: Side.CLOSED, Step.RESET: Side.CLOSED}),
    Side.HALF_CLOSED_LOCAL: _Row({Step.CAME: Side.CLOSED, Step.RESET: Side.CLOSED}),
    Side.CLOSED: _Row(),
}


class Stream:
    """One request and its answer. Only the machine changes it."""

    streams = False  # its body is given out in pieces, as they come
    answered = False
    received = 0  # bytes of the body
    frames = 0  # in which it came; streamed, since its window was last opened
    gathered: bytearray | None = None  # of the body, if it comes in more than one frame
    wanted = True  # its body: nobody has answered it yet
    unsent = b""  # of the answer's body, from `sent` on
    sent = 0
    sent_since = 0.0  # when that began to wait
    goes_on = False  # more of the answer will be given
    trailers: bytes | None = None  # a header block behind the answer's body

    def __init__(self, number: int, head: Head, side: Side, *, window: int, granted: int, now: float) -> None:
        self.number = number
        self.head = head
        self.side = side
        self.window = window  # that the client has granted us; may be negative
        self.granted = granted  # that we have granted it, and it has not used
        self.since = now  # its head was read; then, it was answered

    @property
    def awaited(self) -> bool:
        """Whether its answer, or more of it, is to be given."""
        return not self.answered or self.goes_on


@dataclass(slots=True)
class Request:
    stream: Stream


@dataclass(slots=True)
class Refused:
    stream: Stream
    error: RequestError


@dataclass(slots=True)
class Grown:
    stream: Stream


@dataclass(slots=True)
class Body:
    stream: Stream
    data: bytes


@dataclass(slots=True)
class Piece:
    stream: Stream
    data: bytes
    last: bool


@dataclass(slots=True)
class Reset:
    stream: Stream


Event = Request | Refused | Grown | Body | Piece | Reset


class _ConnectionError(Exception):
    """The client has made a mistake after which nothing more can be read from it, or too much of something."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class _StreamError(Exception):
    """The same of one stream. Nobody is told more than the code."""

    def __init__(self, code: Code) -> None:
        self.code = code


_FRAME: Final = Struct(">BHBBL")  # length in two parts, type, flags, stream
_LONG: Final = Struct(">L")
_SETTING: Final = Struct(">HL")
_END_STREAM: Final = 0x1
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20

_OPEN, _CLOSED_STATE = State.OPEN, State.CLOSED
_SIDE_OPEN, _REMOTE, _LOCAL, _GONE = Side.OPEN, Side.HALF_CLOSED_REMOTE, Side.HALF_CLOSED_LOCAL, Side.CLOSED


class Machine:
    """One connection's HTTP/2, from the server's side. Times are seconds of any one clock that does not go back."""

    def __init__(self, limits: Http2Limits, now: float) -> None:
        self.state = State.PREFACE
        self.streams: dict[int, Stream] = {}  # that are not closed
        self.error = ""  # why the connection ended, if that is the client's fault
        self.unsent_bytes = 0  # of answers, for want of room in the client's windows
        self._limits = limits
        self._since = now  # when the state began, or when the last stream ended
        self._heard = now  # when something last came
        self._data: bytes = b""  # what came; before `_at` it is read
        self._at = 0
        self.out: list[bytes] = []  # what `take` gives
        self._events: deque[Event] = deque()
        self._last_stream = 0  # the highest that the client has opened
        self._ignored_from = MAX_STREAM  # streams above it are not read: we have said so
        self._reset_by_us: dict[int, None] = {}  # the last of them, in order
        # Header blocks
        self._decoder = Decoder()
        self._heads: dict[bytes, Head] = {}  # blocks that did not change the decoder's table, of requests with a body
        self._heads_alone: dict[bytes, Head] = {}  # and without
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._block_stream = 0
        self._block_ends = False  # whether its stream ends with it
        self._shrink = b""  # what our next header block has to begin with
        self._shrunk = False  # whether it was said
        # Windows
        self._window = DEFAULT_WINDOW  # that the client has granted us for the connection
        self._granted = limits.connection_window
        self._stream_window = DEFAULT_WINDOW  # that its streams begin with
        self._max_frame = FRAME_BYTES
        self._waiting: dict[int, Stream] = {}  # streams whose answers do not fit into their windows
        # What a client may do so often in a second
        self._second = now
        self._controls = 0
        self._resets = 0
        # The end
        self._draining = False
        self._goaway_sent = False  # the last one
        self._drain_since = 0.0
        self._client_leaves = False
        self._client_ended = False  # it sends no more
        self._pinged = now  # when we have asked for a sign of life
        self._partial_since: float | None = None  # when the frame began that is not whole
        self._greet()

    # What comes

    def receive(self, data: bytes, now: float) -> None:
        if self.state is State.LINGERING or self.state is _CLOSED_STATE:
            return
        self._heard = now
        if self._at == len(self._data):
            self._data = data
        else:
            self._data = self._data[self._at :] + data
        self._at = 0

    def next_event(self, now: float) -> Event | None:
        """What came next; None: more bytes are needed. What is wrong with the connection ends it: see `state` and `error`."""
        if self._events:
            return self._events.popleft()
        try:
            while self.state is _OPEN or self.state is State.HEADERS or self._begin(now):
                data, at = self._data, self._at
                if len(data) - at < 9:
                    if data:
                        self._await_rest(now)
                    return None
                high, low, kind, flags, number = _FRAME.unpack_from(data, at)
                length = high << 16 | low
                if length > FRAME_BYTES:
                    raise _ConnectionError(Code.FRAME_SIZE_ERROR, f"A frame is longer than {FRAME_BYTES} bytes.")
                end = at + 9 + length
                if end > len(data):
                    self._await_rest(now)
                    return None
                self._at = end
                self._partial_since = None
                number &= 0x7FFFFFFF
                payload = data[at + 9 : end]
                try:
                    if self.state is not _OPEN:
                        event = self._read_unless_open(kind, flags, number, payload, now)
                    elif kind == 0:
                        event = self._read_data(flags, number, payload, now)
                    elif kind == 1:
                        event = self._read_headers(flags, number, payload, now)
                    else:
                        event = self._read_control(kind, flags, number, payload, now)
                except _StreamError as error:
                    event = self._reset(number, error.code, now)
                if event is not None:
                    return event
        except _ConnectionError as error:
            self._fail(error.code, str(error), now)
        return self._events.popleft() if self._events else None

    def _await_rest(self, now: float) -> None:
        if self._at == len(self._data):
            self._data = b""
            self._at = 0
        elif self._partial_since is None:
            self._partial_since = now

    def _begin(self, now: float) -> bool:
        """Reads the client's preface. Whether frames can be read."""
        if self.state is State.SETTINGS:
            return True
        if self.state is not State.PREFACE:
            return False
        begun = self._data[: len(PREFACE)]
        if not PREFACE.startswith(begun):
            raise _ConnectionError(Code.PROTOCOL_ERROR, "The preface of HTTP/2 was expected.")
        if len(begun) < len(PREFACE):
            return False
        self._at = len(PREFACE)
        self.state = State.SETTINGS
        return True

    def _read_unless_open(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> Event | None:
        """Where only one type of frame may come."""
        if self.state is State.HEADERS:
            if kind != Frame.CONTINUATION or number != self._block_stream:
                raise _protocol("A header block goes on with CONTINUATION, and nothing comes between.")
            return self._continue(flags, payload, now)
        if kind != Frame.SETTINGS or flags & _ACK:
            raise _protocol("The first frame has to be SETTINGS.")
        self.state = _OPEN
        self._since = now
        return self._read_control(kind, flags, number, payload, now)

    # Header blocks

    def _read_headers(self, flags: int, number: int, payload: bytes, now: float) -> Event | None:
        if flags & (_PADDED | _PRIORITY):
            if flags & _PADDED:
                payload = _unpadded(payload)
            if flags & _PRIORITY:
                if len(payload) < 5:
                    raise _ConnectionError(Code.FRAME_SIZE_ERROR, "HEADERS are too short for their priority.")
                payload = payload[5:]
        if not number & 1:
            raise _protocol("A client opens streams with odd numbers.")
        if flags & _END_HEADERS:
            ends = flags & _END_STREAM != 0
            head = (self._heads_alone if ends else self._heads).get(payload)
            if head is not None and self._last_stream < number <= self._ignored_from:  # a client repeats its head
                self._last_stream = number
                return self._open(number, head, ends, now)
            return self._read_block(number, payload, ends, now)
        self.state = State.HEADERS
        self._since = now
        self._block = [payload]
        self._block_bytes = len(payload)
        self._block_stream = number
        self._block_ends = flags & _END_STREAM != 0
        self._check_block()
        return None

    def _continue(self, flags: int, payload: bytes, now: float) -> Event | None:
        self._block.append(payload)
        self._block_bytes += len(payload)
        self._check_block()
        if not flags & _END_HEADERS:
            return None
        block, self._block = b"".join(self._block), []
        self.state = _OPEN
        self._since = now
        return self._read_block(self._block_stream, block, self._block_ends, now)

    def _check_block(self) -> None:
        if self._block_bytes > self._limits.head_bytes:
            raise _calm(f"A header block is longer than {self._limits.head_bytes} bytes.")
        if len(self._block) > 1 + self._limits.continuations:
            raise _calm(f"A header block has more than {self._limits.continuations} CONTINUATION frames.")

    def _read_block(self, number: int, block: bytes, ends: bool, now: float) -> Event | None:
        stream = self.streams.get(number)
        if stream is not None:
            return self._read_trailers(stream, block, ends, now)
        if number <= self._last_stream:
            self._decode(block)
            if number in self._reset_by_us:
                self._count(now)
                return None
            raise _ConnectionError(Code.STREAM_CLOSED, f"HEADERS came on stream {number}, which is closed.")
        limits = self._limits
        self._last_stream = number
        if len(block) > limits.head_bytes:
            raise _calm(f"A header block is longer than {limits.head_bytes} bytes.")
        version = self._decoder.version
        fields, whole = self._decode(block)
        if number > self._ignored_from:
            self._count(now)
            return None
        try:
            head = read_head(fields, ends, limits, whole=whole)
        except Malformed:
            return self._reset(number, Code.PROTOCOL_ERROR, now)
        except RequestError as error:
            opened = self._open(number, head_of_refused(fields), ends, now)
            return Refused(opened.stream, error) if isinstance(opened, Request) else opened
        size = len(block) + sum(len(name) + len(value) for name, value in fields)
        if self._decoder.version == version and size <= CACHED_HEAD_BYTES:
            heads = self._heads_alone if ends else self._heads
            if len(heads) >= CACHED_BLOCKS:
                heads.clear()
            heads[block] = head
        return self._open(number, head, ends, now)

    def _open(self, number: int, head: Head, ends: bool, now: float) -> Event | None:
        """A new stream, if there is room for it."""
        limits = self._limits
        if len(self.streams) >= limits.streams or self.unsent_bytes > limits.unsent_bytes:
            return self._reset(number, Code.REFUSED_STREAM, now)
        self._controls -= 16  # who asks may also say something
        side = _REMOTE if ends else _SIDE_OPEN
        stream = Stream(number, head, side, window=self._stream_window, granted=limits.window, now=now)
        self.streams[number] = stream
        return Request(stream)

    def _decode(self, block: bytes) -> tuple[list[Field], bool]:
        """The fields of a block, and whether they are all."""
        decoder, limits = self._decoder, self._limits
        version = decoder.version
        try:
            found = decoder.decode(block, max_bytes=limits.head_bytes, max_fields=limits.headers + PSEUDO_HEADERS)
        except Broken as error:
            raise _ConnectionError(Code.COMPRESSION_ERROR, f"A header block cannot be read. {error}") from None
        if decoder.version != version:
            self._heads.clear()
            self._heads_alone.clear()
        return found

    def _read_trailers(self, stream: Stream, block: bytes, ends: bool, now: float) -> Event | None:
        fields, _ = self._decode(block)
        if stream.side is not _SIDE_OPEN and stream.side is not _LOCAL:
            raise _StreamError(Code.STREAM_CLOSED)  # behind its end
        if not ends:
            raise _StreamError(Code.PROTOCOL_ERROR)
        try:
            for name, value in fields:
                check_field(name, value)  # no name with a colon, as a request's own have
        except Malformed:
            raise _StreamError(Code.PROTOCOL_ERROR) from None
        return self._ended(stream, b"", now)

    # Bodies

    def _read_data(self, flags: int, number: int, payload: bytes, now: float) -> Event | None:
        if not number:
            raise _protocol("DATA belong to a stream.")
        # The connection's window is always opened again: what comes is taken at once, and whether it has room, its stream says.
        self._granted -= len(payload)
        if self._granted < self._limits.connection_window >> 1:
            self.out.append(_window_update(0, self._limits.connection_window - self._granted))
            self._granted = self._limits.connection_window
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last_stream or not number & 1:
                raise _protocol(f"DATA came on stream {number}, which is idle.")
            if number > self._ignored_from or number in self._reset_by_us:
                self._count(now)
                return None
            raise _ConnectionError(Code.STREAM_CLOSED, f"DATA came on stream {number}, which is closed.")
        if stream.side is not _SIDE_OPEN and stream.side is not _LOCAL:
            raise _StreamError(Code.STREAM_CLOSED)  # behind its end
        stream.granted -= len(payload)
        if stream.granted < 0:
            raise _StreamError(Code.FLOW_CONTROL_ERROR)
        if flags & _PADDED:
            payload = _unpadded(payload)
        ends = flags & _END_STREAM
        if not payload and not ends:
            self._count(now)
            return None
        stream.received += len(payload)
        length = stream.head.length
        if length is not None and stream.received > length:
            raise _StreamError(Code.PROTOCOL_ERROR)
        if ends:
            return self._ended(stream, payload, now)
        stream.frames += 1
        if not stream.wanted:
            self._discard(stream, now)
            return None
        if stream.streams:
            if stream.frames > self._limits.data_frames:
                raise _StreamError(Code.ENHANCE_YOUR_CALM)
            return Piece(stream, payload, False)
        if stream.received > self._limits.body_bytes:
            return Refused(stream, too_long(self._limits.body_bytes))
        if stream.frames > self._limits.data_frames:
            most = self._limits.data_frames
            return Refused(
                stream, RequestError(Kind.TOO_LARGE, f"The body has more than {most} frames. Send larger ones.")
            )
        self._grant(stream)
        if stream.gathered is None:
            stream.gathered = bytearray(payload)
        else:
            stream.gathered += payload
        return Grown(stream) if length is None else None

    def _ended(self, stream: Stream, payload: bytes, now: float) -> Event | None:
        """The request's last bytes came."""
        length = stream.head.length
        if length is not None and stream.received < length:
            raise _StreamError(Code.PROTOCOL_ERROR)
        if stream.side is _SIDE_OPEN:
            stream.side = TABLE[_SIDE_OPEN][_CAME]
        else:
            self._advance(stream, _CAME, now)
        if not stream.wanted:
            return None
        if stream.streams:
            return Piece(stream, payload, True)
        if stream.received > self._limits.body_bytes:
            return Refused(stream, too_long(self._limits.body_bytes))
        if stream.gathered is not None:
            payload = bytes(stream.gathered) + payload
            stream.gathered = None
        return Body(stream, payload)

    def _discard(self, stream: Stream, now: float) -> None:
        """Drops what came of a body that nobody wants; too much of it, and the client is told to stop."""
        if stream.received <= self._limits.discard_bytes and stream.frames <= self._limits.data_frames:
            self._grant(stream)
        elif stream.side is _LOCAL:
            self.out.append(_rst_stream(stream.number, Code.NO_ERROR))
            self._forget(stream, now, by_us=True)

    def _grant(self, stream: Stream) -> None:
        if stream.granted < self._limits.window >> 1:
            self.out.append(_window_update(stream.number, self._limits.window - stream.granted))
            stream.granted = self._limits.window
            if stream.streams:
                stream.frames = 0

    # Frames that ask for nothing

    def _read_control(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> Event | None:
        self._count(now)
        match kind:
            case Frame.WINDOW_UPDATE:
                self._read_window_update(number, payload, now)
            case Frame.RST_STREAM:
                return self._read_rst_stream(number, payload, now)
            case Frame.SETTINGS:
                self._read_settings(flags, number, payload, now)
            case Frame.PING:
                if number:
                    raise _protocol("PING belongs to no stream.")
                if len(payload) != 8:
                    raise _ConnectionError(Code.FRAME_SIZE_ERROR, "PING has 8 bytes.")
                if flags & _ACK:
                    if self._draining and payload == _DRAIN_PING:
                        self._say_last(now)
                else:
                    self.out.append(_frame(Frame.PING, _ACK, 0, payload))
            case Frame.GOAWAY:
                if number:
                    raise _protocol("GOAWAY belongs to no stream.")
                if len(payload) < 8:
                    raise _ConnectionError(Code.FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes.")
                self._client_leaves = True
                self._end_if_done(now)
            case Frame.PRIORITY:
                if not number:
                    raise _protocol("PRIORITY belongs to a stream.")
                if len(payload) != 5:
                    if number in self.streams:
                        raise _StreamError(Code.FRAME_SIZE_ERROR)
                    raise _ConnectionError(
                        Code.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes."
                    )  # no stream that could be reset
            case Frame.PUSH_PROMISE:
                raise _protocol("A client promises nothing.")
            case Frame.CONTINUATION:
                raise _protocol("CONTINUATION goes on with nothing.")
        return None

    def _read_window_update(self, number: int, payload: bytes, now: float) -> None:
        if len(payload) != 4:
            raise _ConnectionError(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes.")
        more = _LONG.unpack(payload)[0] & 0x7FFFFFFF
        if not number:
            if not more:
                raise _protocol("A window grows by 1 at least.")
            was_shut = self._window <= 0
            self._window += more
            if self._window > MAX_WINDOW:
                raise _ConnectionError(Code.FLOW_CONTROL_ERROR, "The connection's window is too large.")
            if was_shut:  # otherwise what waits, waits for its stream's own
                self._send_waiting(now)
            return
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last_stream or not number & 1:
                raise _protocol(f"WINDOW_UPDATE came on stream {number}, which is idle.")
            return  # it may have been on its way when the stream was closed
        if not more:
            raise _StreamError(Code.PROTOCOL_ERROR)
        stream.window += more
        if stream.window > MAX_WINDOW:
            raise _StreamError(Code.FLOW_CONTROL_ERROR)
        if number in self._waiting:
            self._send_stream(stream, now)

    def _read_rst_stream(self, number: int, payload: bytes, now: float) -> Event | None:
        if len(payload) != 4:
            raise _ConnectionError(Code.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes.")
        if number > self._last_stream or not number & 1:
            raise _protocol(f"RST_STREAM came on stream {number}, which is idle.")
        stream = self.streams.get(number)
        if stream is None:
            return None
        self._count_reset(now)
        self._forget(stream, now)
        return Reset(stream) if stream.awaited else None

    def _read_settings(self, flags: int, number: int, payload: bytes, now: float) -> None:
        if number:
            raise _protocol("SETTINGS belong to no stream.")
        if flags & _ACK:
            if payload:
                raise _ConnectionError(Code.FRAME_SIZE_ERROR, "An acknowledgement of SETTINGS is empty.")
            return
        if len(payload) % 6:
            raise _ConnectionError(Code.FRAME_SIZE_ERROR, "A setting has 6 bytes.")
        values = dict(_SETTING.iter_unpack(payload))  # of one that comes twice, the last counts
        if values.get(Setting.ENABLE_PUSH, 0) > 1:
            raise _protocol("SETTINGS_ENABLE_PUSH takes 0 or 1.")
        if not FRAME_BYTES <= values.get(Setting.MAX_FRAME_SIZE, FRAME_BYTES) < 2**24:
            raise _protocol(f"SETTINGS_MAX_FRAME_SIZE takes {FRAME_BYTES} to {2**24 - 1}.")
        window = values.get(Setting.INITIAL_WINDOW_SIZE, self._stream_window)
        if window > MAX_WINDOW:
            raise _ConnectionError(Code.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE takes up to {MAX_WINDOW}.")
        self._max_frame = min(values.get(Setting.MAX_FRAME_SIZE, self._max_frame), 4 * FRAME_BYTES)
        # We put nothing into the client's table. If it wants a smaller one than there is, that must be said (7541, 4.2).
        if values.get(Setting.HEADER_TABLE_SIZE, 4096) < 4096 and not self._shrunk:
            self._shrunk = True
            self._shrink = b"\x20"
        more = window - self._stream_window
        self._stream_window = window
        if more:
            for stream in self.streams.values():
                stream.window += more
                if stream.window > MAX_WINDOW:
                    raise _ConnectionError(Code.FLOW_CONTROL_ERROR, "A stream's window became too large.")
        self.out.append(_SETTINGS_ACK)
        if more > 0:
            self._send_waiting(now)

    # What may be done so often in a second

    def _count(self, now: float) -> None:
        """Counts a frame that asks for nothing."""
        if now - self._second >= 1:
            self._second = now
            self._controls = self._resets = 0
        self._controls += 1
        if self._controls > self._limits.control_frames:
            raise _calm(f"More than {self._limits.control_frames} frames a second ask for nothing.")

    def _count_reset(self, now: float) -> None:
        if now - self._second >= 1:
            self._second = now
            self._controls = self._resets = 0
        self._resets += 1
        if self._resets > self._limits.resets:
            raise _calm(f"More than {self._limits.resets} streams a second were reset.")

    # Requests

    def accept(self, stream: Stream, *, streams: bool = False) -> None:
        """The body will be read: whole, or (`streams`) given out in pieces as they come."""
        if streams:
            stream.streams = True
        if stream.side is _REMOTE:
            self._events.append(Piece(stream, b"", True) if streams else Body(stream, b""))
        elif stream.head.expects_continue:
            self.out.append(_frame(Frame.HEADERS, _END_HEADERS, stream.number, self._shrink + _CONTINUE))
            self._shrink = b""

    def took(self, stream: Stream) -> None:
        """The pieces of a streamed body that were given out are done with: its client may send more."""
        if stream.side is _SIDE_OPEN:
            self._grant(stream)

    # Answers

    def answer(self, stream: Stream, answer: Answer, now: float, *, date: bytes, extra: bytes = b"") -> None:
        """Answers the request of `stream`, whole.

        Args:
            date, extra: header lines, each with its CRLF.
        """
        body = answer.body
        block, has_body = answer_block(answer.status, answer.headers, date, extra)
        if has_body:
            digits = b"%d" % len(body)
            block = b"%b\x0f\x0d%c%b" % (block, len(digits), digits)
        if stream.head.method == "HEAD" or not has_body:
            body = b""
        self.respond(stream, block, body, None, now)

    def respond(self, stream: Stream, block: bytes, body: bytes, trailers: bytes | None, now: float) -> None:
        """The same from header blocks as `header_block` makes them; with `trailers`, if not None, behind the body."""
        stream.answered = True
        stream.wanted = False
        stream.gathered = None
        if self._shrink:
            block = self._shrink + block
            self._shrink = b""
        size = len(body)
        number = stream.number
        if 0 < size <= self._max_frame and size <= self._window and size <= stream.window and len(block) <= FRAME_BYTES:
            self._window -= size
            self.out += (
                _pack(len(block) >> 16, len(block) & 0xFFFF, 1, _END_HEADERS, number),
                block,
                _pack(size >> 16, size & 0xFFFF, 0, trailers is None, number),
                body,
            )
            if trailers is not None:
                self.out.append(_frame(1, _END_HEADERS | _END_STREAM, number, trailers))
            self._sent_all(stream, now)
            return
        ends = not body and trailers is None
        self._write_headers(number, block, ends=ends)
        if ends:
            self._sent_all(stream, now)
        else:
            self._queue(stream, body, trailers, now)

    def begin(self, stream: Stream, block: bytes) -> None:
        """Sends the headers of an answer that is streamed; `send` and `end` follow."""
        stream.answered = stream.goes_on = True
        self._write_headers(stream.number, self._shrink + block, ends=False)
        self._shrink = b""

    def send(self, stream: Stream, data: bytes, now: float) -> None:
        if stream.number in self.streams:
            self._queue(stream, data, None, now)

    def end(self, stream: Stream, trailers: bytes, now: float) -> None:
        if stream.number in self.streams:
            stream.wanted = stream.goes_on = False
            self._queue(stream, b"", trailers, now)

    def _write_headers(self, number: int, block: bytes, *, ends: bool) -> None:
        flags = _END_STREAM if ends else 0
        if len(block) <= FRAME_BYTES:
            self.out.append(_frame(Frame.HEADERS, flags | _END_HEADERS, number, block))
            return
        kind = Frame.HEADERS
        for start in range(0, len(block), FRAME_BYTES):
            piece = block[start : start + FRAME_BYTES]
            last = start + FRAME_BYTES >= len(block)
            self.out.append(_frame(kind, flags | (_END_HEADERS if last else 0), number, piece))
            kind, flags = Frame.CONTINUATION, 0

    def _queue(self, stream: Stream, data: bytes, trailers: bytes | None, now: float) -> None:
        """Sends as much as the windows have room for. What is left waits."""
        if stream.number not in self._waiting:
            self._waiting[stream.number] = stream
            stream.sent_since = now
            stream.unsent, stream.sent = data, 0
        else:
            stream.unsent = stream.unsent[stream.sent :] + data
            stream.sent = 0
        self.unsent_bytes += len(data)
        stream.trailers = trailers
        self._send_stream(stream, now)
        if self._client_ended and stream.number in self._waiting:  # it grants no more
            self.cancel(stream, now)

    def _send_stream(self, stream: Stream, now: float) -> None:
        """As much of one answer as there is room for."""
        while stream.number in self._waiting and self._send_frame(stream, now):
            pass

    def _send_waiting(self, now: float) -> None:
        """A frame of each stream in turn, as long as there is room."""
        waiting = self._waiting
        moved = True
        while waiting and moved:
            moved = False
            for stream in list(waiting.values()):
                moved = self._send_frame(stream, now) or moved

    def _send_frame(self, stream: Stream, now: float) -> bool:
        left = len(stream.unsent) - stream.sent
        size = min(left, self._max_frame, self._window, stream.window)
        if left and size <= 0:
            return False
        number = stream.number
        ends = size == left
        if left:
            piece = stream.unsent[stream.sent : stream.sent + size]
            stream.sent += size
            stream.window -= size
            self._window -= size
            self.unsent_bytes -= size
            if size >= 1024:
                self._controls -= 2  # with which its client may grant us more
            last = ends and not stream.goes_on and stream.trailers is None
            self.out.append(_frame(Frame.DATA, _END_STREAM if last else 0, number, piece))
        if ends:
            del self._waiting[number]
            stream.unsent, stream.sent = b"", 0
            if stream.goes_on:
                return True
            if stream.trailers is not None:
                self._write_headers(number, stream.trailers, ends=True)
            self._sent_all(stream, now)
        return True

    def _sent_all(self, stream: Stream, now: float) -> None:
        """The answer's end was sent. What still comes of the request is dropped, if it is not too much."""
        side = stream.side
        if side is _REMOTE:
            stream.side = TABLE[_REMOTE][_SENT]
            del self.streams[stream.number]
            if not self.streams:
                self._since = now
                if self._goaway_sent or self._client_leaves or self._client_ended:
                    self._end_if_done(now)
            return
        self._advance(stream, Step.SENT, now)
        stream.since = now
        length = stream.head.length
        if stream.received > self._limits.discard_bytes or (length or 0) > self._limits.discard_bytes:
            self.out.append(_rst_stream(stream.number, Code.NO_ERROR))
            self._forget(stream, now, by_us=True)

    # The ends of streams

    def _advance(self, stream: Stream, step: Step, now: float) -> None:
        stream.side = TABLE[stream.side][step]
        if stream.side is _GONE:
            self._forget(stream, now)

    def _forget(self, stream: Stream, now: float, *, by_us: bool = False) -> None:
        stream.side = _GONE
        stream.gathered = None
        del self.streams[stream.number]
        if self._waiting.pop(stream.number, None) is not None:
            self.unsent_bytes -= len(stream.unsent) - stream.sent
            stream.unsent = b""
        if by_us:
            self._remember(stream.number)
        if not self.streams:
            self._since = now
            self._end_if_done(now)

    def _remember(self, number: int) -> None:
        self._reset_by_us[number] = None
        if len(self._reset_by_us) > REMEMBERED:
            del self._reset_by_us[next(iter(self._reset_by_us))]

    def _reset(self, number: int, code: Code, now: float) -> Event | None:
        """Resets a stream, for which the client is to blame."""
        self.out.append(_rst_stream(number, code))
        self._count_reset(now)
        stream = self.streams.get(number)
        if stream is None:
            self._remember(number)
            return None
        self._forget(stream, now, by_us=True)
        return Reset(stream) if stream.awaited else None

    def cancel(self, stream: Stream, now: float, code: Code = Code.CANCEL) -> None:
        """Gives a stream up, answered or not."""
        if stream.number in self.streams:
            self.out.append(_rst_stream(stream.number, code))
            self._forget(stream, now, by_us=True)

    # The end of the connection

    def give_up(self, now: float) -> list[Event]:
        """Ends the connection of a client that leaves too much of its answers untaken."""
        self._fail(Code.ENHANCE_YOUR_CALM, "Too much of the answers was not taken.", now)
        events = list(self._events)
        self._events.clear()
        return events

    def receive_end(self, now: float) -> list[Event]:
        """The client has closed its side. What it asked before is still answered, as far as it has room; the rest is not."""
        self._client_ended = True
        events: list[Event] = []
        for stream in list(self.streams.values()):
            if stream.side is not _REMOTE or stream.number in self._waiting:
                if stream.awaited:
                    events.append(Reset(stream))
                self._forget(stream, now)
        self._end_if_done(now)
        return events

    def last(self, now: float) -> None:
        """No new stream is wanted. Those there are, and those on their way, are still answered."""
        if self._draining or self.state is State.LINGERING or self.state is _CLOSED_STATE:
            return
        self._draining = True
        self._drain_since = now
        if self.state in (State.PREFACE, State.SETTINGS):
            self._say_last(now)
        else:
            self.out += (_goaway(MAX_STREAM, Code.NO_ERROR), _frame(Frame.PING, 0, 0, _DRAIN_PING))

    def _say_last(self, now: float) -> None:
        if not self._goaway_sent:
            self._goaway_sent = True
            self._ignored_from = self._last_stream
            self.out.append(_goaway(self._last_stream, Code.NO_ERROR))
            self._end_if_done(now)

    def _end_if_done(self, now: float) -> None:
        if not self.streams and (self._goaway_sent or self._client_leaves or self._client_ended):
            if not self._goaway_sent:
                self._goaway_sent = True
                self.out.append(_goaway(self._last_stream, Code.NO_ERROR))
            self._close(State.CLOSED if self._client_ended else State.LINGERING, now)

    def _fail(self, code: Code, message: str, now: float) -> None:
        """Ends the connection. Whoever waits for an answer gets none."""
        self.error = message
        self._goaway_sent = True
        self.out.append(_goaway(self._last_stream, code, message.encode()))
        self._close(State.LINGERING, now)
        for stream in list(self.streams.values()):
            if stream.awaited:
                self._events.append(Reset(stream))
            stream.side = _GONE
        self.streams.clear()
        self._waiting.clear()
        self.unsent_bytes = 0

    def _close(self, state: State, now: float) -> None:
        if self.state is not _CLOSED_STATE:
            self.state = state
            self._since = now
            self._data = b""
            self._at = 0
            self._partial_since = None
            self._block = []

    # Time

    def overdue(self, now: float) -> list[Event]:
        """Ends what takes too long. Gives the requests that are to be refused, or for which nobody waits."""
        limits = self._limits
        if self.state is State.LINGERING or self.state is _CLOSED_STATE:
            return []
        block_since = self._since if self.state is not _OPEN else None
        if block_since is not None and now - block_since > limits.head_seconds:
            self._fail(Code.ENHANCE_YOUR_CALM, f"The headers were not whole after {limits.head_seconds} s.", now)
        elif self._partial_since is not None and now - self._partial_since > self._partial_seconds():
            self._fail(Code.ENHANCE_YOUR_CALM, "A frame took too long.", now)
        elif self.streams:
            if now - self._heard > limits.idle_seconds:
                if self._pinged <= self._heard:
                    self._pinged = now
                    self.out.append(_frame(Frame.PING, 0, 0, _LIFE_PING))
                elif now - self._pinged > limits.linger_seconds:
                    self._fail(Code.NO_ERROR, "No sign of life came.", now)
            for stream in list(self.streams.values()):
                self._check_stream(stream, now)
        elif now - self._since > limits.idle_seconds:
            self._say_last(now)
        if self._draining and now - self._drain_since > 1:
            self._say_last(now)
        events = list(self._events)
        self._events.clear()
        return events

    def _partial_seconds(self) -> float:
        data, at = self._data, self._at
        is_data = len(data) - at >= 9 and data[at + 3] == Frame.DATA
        return self._limits.body_seconds if is_data else self._limits.head_seconds

    def _check_stream(self, stream: Stream, now: float) -> None:
        limits = self._limits
        seconds = now - stream.since
        if stream.number in self._waiting:
            waits = now - stream.sent_since
            if waits > limits.idle_seconds and stream.sent < limits.body_bytes_per_second * waits:
                if stream.awaited:
                    self._events.append(Reset(stream))
                self.cancel(stream, now)
        elif stream.side is _LOCAL:
            if seconds > limits.body_seconds:
                self.cancel(stream, now, Code.NO_ERROR)
        elif stream.side is _SIDE_OPEN and not stream.streams and not stream.answered:
            received = stream.received + self._partial_bytes(stream.number)
            if seconds > limits.body_seconds:
                text = f"The body was not whole after {limits.body_seconds} s."
            elif seconds > TRICKLE_SECONDS and received < limits.body_bytes_per_second * seconds:
                text = f"The body came with fewer than {limits.body_bytes_per_second} bytes a second."
            else:
                return
            self._events.append(Refused(stream, RequestError(Kind.SLOW, text)))

    def _partial_bytes(self, number: int) -> int:
        """Of DATA on a stream, in a frame that is not whole."""
        data, at = self._data, self._at
        if len(data) - at < 9 or data[at + 3] != Frame.DATA or _LONG.unpack_from(data, at + 5)[0] != number:
            return 0
        return len(data) - at - 9

    def closes(self, now: float) -> bool:
        """Whether the connection is to be closed now."""
        if self.state is State.LINGERING:
            return now - self._since > self._limits.linger_seconds
        return self.state is _CLOSED_STATE

    # What goes out

    @property
    def has_much(self) -> bool:
        """Whether `take` should be called before more is done."""
        return len(self.out) > 256

    def take(self) -> bytes:
        """The bytes to be written; they are given once."""
        out = self.out
        if not out:
            return b""
        taken = b"".join(out)
        out.clear()
        return taken

    def _greet(self) -> None:
        limits = self._limits
        settings = (
            (Setting.MAX_CONCURRENT_STREAMS, limits.streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.window),
            (Setting.MAX_HEADER_LIST_SIZE, limits.head_bytes),
        )
        self.out.append(_frame(Frame.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings)))
        self.out.append(_window_update(0, limits.connection_window - DEFAULT_WINDOW))


# What every request passes through, without looking it up in its class.
_CAME, _SENT = Step.CAME, Step.SENT


# Frames

_pack: Final = _FRAME.pack


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return _pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def _rst_stream(number: int, code: Code) -> bytes:
    return _frame(Frame.RST_STREAM, 0, number, _LONG.pack(code))


def _window_update(number: int, more: int) -> bytes:
    return _frame(Frame.WINDOW_UPDATE, 0, number, _LONG.pack(more))


def _goaway(last: int, code: Code, message: bytes = b"") -> bytes:
    return _frame(Frame.GOAWAY, 0, 0, _LONG.pack(last) + _LONG.pack(code) + message)


_SETTINGS_ACK: Final = _frame(Frame.SETTINGS, _ACK, 0, b"")
_DRAIN_PING: Final = b"draining"
_LIFE_PING: Final = b"alive?  "
_CONTINUE: Final = b"\x08\x03100"  # :status, a literal


def _unpadded(payload: bytes) -> bytes:
    if not payload:
        raise _ConnectionError(Code.FRAME_SIZE_ERROR, "A padded frame says how much of it is padding.")
    padding = payload[0]
    if padding >= len(payload):
        raise _protocol("A frame is shorter than its padding.")
    return payload[1 : len(payload) - padding]


def _protocol(message: str) -> _ConnectionError:
    return _ConnectionError(Code.PROTOCOL_ERROR, message)


def _calm(message: str) -> _ConnectionError:
    return _ConnectionError(Code.ENHANCE_YOUR_CALM, message)
