"""What a call of gRPC is, whatever carried its bytes: its headers, the form of its messages, and its statuses.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from time import monotonic_ns
from typing import Final
from urllib.parse import quote_from_bytes

from serving.errors import Kind, RequestError, malformed
from serving.messages import STATUS, Answer, Exchange, Head, Headers


class Code(IntEnum):
    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


CODES: Final = {
    Kind.MALFORMED: Code.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: Code.UNAUTHENTICATED,
    Kind.FORBIDDEN: Code.PERMISSION_DENIED,
    Kind.UNKNOWN: Code.NOT_FOUND,
    Kind.WRONG_METHOD: Code.UNIMPLEMENTED,
    Kind.SLOW: Code.DEADLINE_EXCEEDED,
    Kind.TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Kind.TARGET_TOO_LONG: Code.RESOURCE_EXHAUSTED,
    Kind.MEDIA_TYPE: Code.UNIMPLEMENTED,
    Kind.HEAD_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Kind.TOO_OFTEN: Code.RESOURCE_EXHAUSTED,
    Kind.FAILED: Code.INTERNAL,
    Kind.UNSUPPORTED: Code.UNIMPLEMENTED,
    Kind.BUSY: Code.UNAVAILABLE,
    Kind.EXPIRED: Code.DEADLINE_EXCEEDED,
    Kind.VERSION: Code.UNIMPLEMENTED,
}
PREFIX: Final = 5  # bytes before a message: whether it is compressed, and its length in the last four
HEADERS: Final[Headers] = ((b"content-type", b"application/grpc"),)
OK: Final[Headers] = ((b"grpc-status", b"0"),)

_TYPE: Final = re.compile(rb"application/grpc(\+proto)?[ \t]*(;.*)?", re.IGNORECASE)
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_NS: Final = {
    b"H": 3_600_000_000_000,
    b"M": 60_000_000_000,
    b"S": 1_000_000_000,
    b"m": 1_000_000,
    b"u": 1000,
    b"n": 1,
}
_PRINTABLE: Final = bytes(set(range(0x20, 0x7F)) - {0x25})  # all that stands in grpc-message as it is


def check(head: Head) -> None:
    """Sees that a call can be read.

    Raises:
        RequestError: its method, type or compression is not spoken here.
    """
    if head.method != "POST":
        raise RequestError(Kind.WRONG_METHOD, f"A call is a POST, got {head.method[:20]}.", allow="POST")
    content_type = head.headers[b"content-type"]
    if content_type != b"application/grpc" and not _TYPE.fullmatch(content_type):
        came = content_type[:100].decode("latin-1")
        raise RequestError(Kind.MEDIA_TYPE, f"Expected the content type application/grpc, got {came}.")
    if head.headers.get(b"grpc-encoding", b"identity") != b"identity":
        raise _compressed()


def expires_ns(headers: Mapping[bytes, bytes], began_ns: int) -> int:
    """When a call's client waits no more, of the monotonic clock; 0: it does not say.

    Args:
        began_ns: its head was read.

    Raises:
        RequestError: MALFORMED, its grpc-timeout is none.
    """
    timeout = headers.get(b"grpc-timeout")
    if timeout is None:
        return 0
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        came = timeout[:20].decode("latin-1")
        raise malformed(f"grpc-timeout takes up to eight digits and one of HMSmun; got {came!r}.")
    return began_ns + int(found[1]) * _NS[found[2]]


def timeout_us(exchange: Exchange, asked_us: int) -> int:
    """How long a call may wait in a queue, by its deadline and by what its message asks for; 0: the server's own.

    At least a microsecond, so that it is the queue that says it is too late.
    """
    if not exchange.expires_ns:
        return asked_us
    left_us = max(1, (exchange.expires_ns - monotonic_ns()) // 1000)
    return min(left_us, asked_us) if asked_us else left_us


def message_of(body: bytes) -> bytes:
    """The one message of a call that does not stream.

    Raises:
        RequestError: it is compressed; there is none, more than one, or part of one.
    """
    if len(body) < PREFIX:
        raise RequestError(
            Kind.UNSUPPORTED, f"One message was expected, with {PREFIX} bytes before it; got {len(body)}."
        )
    if body[0]:
        raise _compressed()
    length = int.from_bytes(body[1:PREFIX], "big")
    if length != len(body) - PREFIX:
        raise RequestError(
            Kind.UNSUPPORTED, f"One message was expected; it is said to have {length} bytes, {len(body) - PREFIX} came."
        )
    return body[PREFIX:]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(PREFIX, "big") + message  # which is shorter than 2**32: not compressed


def answered(message: bytes) -> Answer:
    return Answer(200, framed(message), HEADERS)


def refusal(error: RequestError) -> Answer:
    """A call's answer without a message. Its status is what the same refusal has in REST: HTTP's own is always 200."""
    headers = HEADERS + status(CODES[error.kind], str(error))
    if error.retry_after_seconds is not None:
        headers += ((b"grpc-retry-pushback-ms", b"%d" % (1000 * error.retry_after_seconds)),)
    if error.kind is Kind.MEDIA_TYPE:
        headers += ((b"grpc-accept-encoding", b"identity"),)
    return Answer(STATUS[error.kind], b"", headers)


def status(code: Code, message: str) -> Headers:
    return (b"grpc-status", b"%d" % code), (b"grpc-message", _quoted(message))


@lru_cache(256)
def _quoted(message: str) -> bytes:
    return quote_from_bytes(message.strip().encode("utf-8", "replace"), _PRINTABLE).encode()


def _compressed() -> RequestError:
    return RequestError(Kind.MEDIA_TYPE, "The body must not be compressed; send it as it is.")
