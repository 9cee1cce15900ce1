"""A request and its answer, whatever carried the bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

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


class Request(NamedTuple):
    method: str
    path: str  # decoded, without the query
    headers: Mapping[bytes, bytes]  # names in lower case
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Headers = JSON


Reply = Callable[[Answer], None]  # called once, on the event loop's thread


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


def wrong_method(request: Request, right: str) -> RequestError:
    return RequestError(Kind.WRONG_METHOD, f"{request.path} takes {right}, got {request.method}.", allow=right)


def too_long(limit: int) -> RequestError:
    # It closes, since otherwise the server would read on, to find where the next request begins.
    return RequestError(Kind.TOO_LARGE, f"The body is longer than {limit} bytes. Send fewer images.", closes=True)
