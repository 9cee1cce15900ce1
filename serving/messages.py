"""A request and its answer, whatever carried the bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from digits.errors import RequestError

Headers = tuple[tuple[bytes, bytes], ...]
JSON: Final[Headers] = ((b"content-type", b"application/json"),)


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
    return Answer(error.status, orjson.dumps({"error": str(error)}), JSON + error.headers)


def wrong_method(request: Request, right: str) -> RequestError:
    allow = ((b"allow", right.encode()),)
    return RequestError(405, f"{request.path} takes {right}, got {request.method}.", headers=allow)


def too_long(limit: int) -> RequestError:
    # Without `connection: close` the server would read on, to find where the next request begins.
    close = ((b"connection", b"close"),)
    return RequestError(413, f"The body is longer than {limit} bytes. Send fewer images.", headers=close)
