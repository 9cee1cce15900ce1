"""The limits of the HTTP machines in tests that need no settings of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from serving.ports import http2
from serving.ports.http1 import Http1Limits, limits_of
from serving.settings import Settings

DEFAULT: Final[Http1Limits] = limits_of(Settings())
# So small that a few hundred bytes are beyond each.
NARROW: Final[Http1Limits] = replace(
    DEFAULT, head_bytes=600, target_bytes=80, headers=10, body_bytes=300, chunks=20, discard_bytes=100
)
DEFAULT2: Final[http2.Http2Limits] = http2.limits_of(Settings())
NARROW2: Final[http2.Http2Limits] = replace(
    DEFAULT2,
    head_bytes=600,
    target_bytes=80,
    headers=10,
    body_bytes=300,
    discard_bytes=100,
    streams=3,
    resets=3,
    control_frames=20,
    unsent_bytes=200,
    continuations=3,
)
