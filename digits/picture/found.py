"""What is found on a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from digits.contract import Images


class Box(NamedTuple):
    """Where a digit is: pixels of the picture as a person sees it, the last row and column not included."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Found:
    image: Images  # [28, 28]
    box: Box
