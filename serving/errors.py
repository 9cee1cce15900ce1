"""What a server refuses, and why. An error has a kind; each protocol makes its own status of it."""

from __future__ import annotations

from enum import Enum, auto

from digits.errors import SamedigitError


class Kind(Enum):
    MALFORMED = auto()  # the request is not what it should be
    UNAUTHENTICATED = auto()  # it needs a key, and has none that is known
    FORBIDDEN = auto()  # what nobody may do here, or not with that key
    UNKNOWN = auto()  # nothing of that name
    WRONG_METHOD = auto()
    SLOW = auto()  # it did not come whole in time
    TOO_LARGE = auto()  # its body
    TARGET_TOO_LONG = auto()
    MEDIA_TYPE = auto()
    HEAD_TOO_LARGE = auto()
    TOO_OFTEN = auto()  # more than one client may ask
    FAILED = auto()  # the server's own fault
    UNSUPPORTED = auto()  # what this server does not do
    BUSY = auto()  # no room now
    EXPIRED = auto()  # it waited longer than it may
    VERSION = auto()  # of HTTP


class RequestError(SamedigitError):
    """A request that the server refuses; its text is for the client.

    Attributes:
        kind: what is wrong.
        retry_after_seconds: when to try again, where that helps.
        allow: the method that is right, where another came.
        closes: whether the connection ends with the answer, since nothing more can be read from it.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after_seconds: int | None = None,
        allow: str | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds
        self.allow = allow
        self.closes = closes


def malformed(message: str) -> RequestError:
    return RequestError(Kind.MALFORMED, message)
