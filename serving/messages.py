"""A request and its answer, whatever carried the bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import orjson

from serving.errors import Kind, RequestError

Headers = tuple[tuple[bytes, bytes], ...]
JSON: Final[Headers] = ((b"content-type", b"application/json"),)

STATUS: Final = {
    Kind.MALFORMED: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.UNKNOWN: 404,
    Kind.WRONG_METHOD: 405,
    Kind.SLOW: 408,
    Kind.TOO_LARGE: 413,
    Kind.TARGET_TOO_LONG: 414,
    Kind.MEDIA_TYPE: 415,
    Kind.TOO_OFTEN: 429,
    Kind.HEAD_TOO_LARGE: 431,
    Kind.FAILED: 500,
    Kind.UNSUPPORTED: 501,
    Kind.BUSY: 503,
    Kind.EXPIRED: 503,
    Kind.VERSION: 505,
}


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Headers = JSON


Reply = Callable[["Exchange", Answer], None]  # called once, on the event loop's thread


class Head(NamedTuple):
    """A request without its body: what is known before that is read. Shared by requests whose heads are the same bytes."""

    method: str
    target: bytes  # as it came
    path: str  # decoded, without the query
    query: str  # as it came, without the question mark; empty if there is none
    headers: Mapping[bytes, bytes]  # names in lower case; what came twice is joined with ", "
    http_1_0: bool
    length: int | None  # of the body in bytes; None: chunked
    keeps: bool  # whether the client keeps the connection open
    expects_continue: bool


class Carrier(Protocol):
    """What a conversation is carried by: the connection. A stream that is no more is passed over in silence."""

    def send(self, number: int, message: bytes) -> None: ...
    def end(self, number: int, headers: Headers) -> None: ...
    def resume(self, number: int) -> None: ...


class Conversation:
    """A call that streams, between the connection that carries it and what answers it.

    A message has gRPC's five bytes before it. What answers it sets `received` and `half_closed` when it handles the exchange.
    """

    __slots__ = ("_carrier", "_number", "half_closed", "left", "paused", "received")

    received: Callable[[bytes], None]  # a message came
    half_closed: Callable[[], None]  # none comes any more
    left: Callable[[], None]  # the call has ended, or its client is gone: nothing more is sent

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self._number = number
        self.left = _nothing
        self.paused = (
            False  # set to True, no message is given out until `resume`; the client may send no more than its window
        )

    def send(self, message: bytes) -> None:
        self._carrier.send(self._number, message)

    def end(self, headers: Headers) -> None:
        """Ends the answer with gRPC's status, among `headers`. A call that is refused ends by its Answer in the same way."""
        self._carrier.end(self._number, headers)

    def resume(self) -> None:
        self.paused = False
        self._carrier.resume(self._number)


def _nothing() -> None:
    pass


class Exchange:
    """One request on its way through the server, from its admission to its answer.

    A port makes one for each head. Whoever the client is, it is answered once, or `gone` says that nobody waits any more.
    """

    route = ""  # the pattern that its path follows, such as /v2/models/{model}/infer; empty: none
    answers = ""  # the name of what answers that route
    parameters: Mapping[str, str] = MappingProxyType({})  # of the path
    body = b""
    key: str | None = None  # which key it came with: the first eight hexadecimal digits of its sha256
    held = False  # whether it holds a place among the requests under way
    reserved_bytes = 0  # of the room for bodies
    model = ""  # which answered, once that is known: recipe.backend,
    version = ""  # and its version
    images = 0
    picture_ns = 0  # what it took to find the digits in a picture,
    queue_ns = 0  # what it waited for its model,
    run_ns = 0  # and what that took
    stream_number = 0  # of HTTP/2
    is_call = False  # of gRPC, whose answers have a form of their own
    streams = False  # a call that is handled at once, and whose messages go both ways over `stream`; known once it is admitted
    stream: Conversation | None = None
    expires_ns = 0  # of the monotonic clock, when its client waits no more; 0: it does not say
    answered = False
    gone = False  # the client went away: what has not begun need not

    def __init__(self, head: Head, *, address: str, port: str, reply: Reply) -> None:
        self.head = head
        self.address = address  # of the client, without its port
        self.port = port  # api or data
        self.reply = reply
        self.refusal = refusal  # what is answered to it where it is refused
        self.began_ns = monotonic_ns()  # its head was read


def json_answer(document: Any) -> Answer:
    return Answer(200, orjson.dumps(document))


def refusal(error: RequestError) -> Answer:
    headers: Headers = JSON
    if error.retry_after_seconds is not None:
        headers += ((b"retry-after", b"%d" % error.retry_after_seconds),)
    if error.allow is not None:
        headers += ((b"allow", error.allow.encode()),)
    if error.kind is Kind.UNAUTHENTICATED:
        headers += ((b"www-authenticate", b"Bearer"),)
    if error.closes:
        headers += ((b"connection", b"close"),)
    return Answer(STATUS[error.kind], orjson.dumps({"error": str(error)}), headers)


def too_long(limit: int) -> RequestError:
    # It closes, since otherwise the server would read on, to find where the next request begins.
    return RequestError(
        Kind.TOO_LARGE, f"The body is longer than {limit} bytes. Send fewer images, or a smaller picture.", closes=True
    )
