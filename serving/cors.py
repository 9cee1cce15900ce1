"""What browsers are told: whose pages may ask (CORS), and what not to make of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from serving.errors import Kind, RequestError
from serving.messages import Answer

# For the door's JSON. No browser may take it for a page or a script, no cache may keep what was asked with a key. There is
# nothing in it to frame or to refer from; and Strict-Transport-Security speaks for all ports of a host, so not from here.
SECURITY_LINES: Final = b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n"

METHODS: Final = b"GET, POST"
HEADERS: Final = b"authorization, x-api-key, content-type, inference-header-content-length, traceparent, tracestate"
EXPOSED: Final = b"inference-header-content-length, retry-after"
MAX_AGE: Final = b"600"  # seconds that a browser need not ask again


class Cors:
    """Whose pages may ask: exact origins, or all with "*". With none, nothing is said and no preflight is answered."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._lines = {} if self._any else {origin.encode(): _lines(origin.encode()) for origin in origins}
        # What an answer says to everybody else. Caches must know that the answer is another for another origin.
        self._others = _lines(b"*") if self._any else b"vary: origin\r\n" if origins else b""

    def lines(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The header lines of an answer to a request with these headers, errors too: "name: value\\r\\n...", or nothing."""
        if not self._lines:
            return self._others
        return self._lines.get(headers.get(b"origin", b""), self._others)

    def preflight(self, method: str, headers: Mapping[bytes, bytes]) -> Answer | None:
        """The answer to a browser that asks whether it may ask; None if the request is something else.

        It comes without a key, so before keys are looked at. `lines` belong to this answer too.

        Raises:
            RequestError: forbidden: pages of that origin may not ask.
        """
        if method != "OPTIONS" or not (self._any or self._lines):
            return None
        if b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        if not self._any and headers[b"origin"] not in self._lines:
            raise RequestError(
                Kind.FORBIDDEN, "Pages of this origin may not ask: SAMEDIGIT_CORS_ORIGINS does not name it."
            )
        return Answer(  # 200: an answer of 204 may have no content-length
            200,
            b"",
            (
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", HEADERS),
                (b"access-control-max-age", MAX_AGE),
            ),
        )


def _lines(origin: bytes) -> bytes:
    lines = b"access-control-allow-origin: %s\r\naccess-control-expose-headers: %s\r\n" % (origin, EXPOSED)
    return lines if origin == b"*" else lines + b"vary: origin\r\n"
