"""The limits of the HTTP machine in tests that need no settings of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from serving.ports.http1 import Http1Limits, limits_of
from serving.settings import Settings

DEFAULT: Final[Http1Limits] = limits_of(Settings())
# So small that a few hundred bytes are beyond each.
NARROW: Final[Http1Limits] = replace(
    DEFAULT, head_bytes=600, target_bytes=80, headers=10, body_bytes=300, chunks=20, discard_bytes=100
)
