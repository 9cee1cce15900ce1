"""The pixels that every protocol takes: lists of integers to bytes, and what is wrong with those that are none."""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

from digits.contract import SIDE

EXPECTED: Final = f"Expected N x {SIDE} x {SIDE} integers from 0 to 255"


def join_pixels(images: list[Any]) -> bytearray | None:
    """Every pixel in order, or None where something is wrong.

    `bytearray` takes nothing but integers from 0 to 255, in half the time of `bytes` and a quarter of that of `np.array`,
    which guesses a type: among strings, one long one would make every entry as long.
    """
    try:
        rows = list(chain.from_iterable(images))
        # len refuses a number, from which bytearray would make as many zeros.
        if set(map(len, images)) != {SIDE} or set(map(len, rows)) != {SIDE}:
            return None
        return bytearray().join(map(bytearray, rows))
    except (TypeError, ValueError):
        return None


def has_booleans(body: bytes | bytearray) -> bool:
    """Whether a true or false comes anywhere in JSON, which `bytearray` would take for 1 and 0.

    A single byte is found many times as fast, and most requests have neither r nor f.
    """
    return (b"r" in body and b"true" in body) or (b"f" in body and b"false" in body)


def first_fault(images: list[Any]) -> str:
    """The first thing that is wrong, and where; empty if nothing is."""
    for i, image in enumerate(images):
        if not isinstance(image, list) or len(image) != SIDE:
            return f"image {i} is {_entries(image)}"
        for j, row in enumerate(image):
            if not isinstance(row, list) or len(row) != SIDE:
                one = len(images) == SIDE and isinstance(row, int | float)
                hint = ". For one image, send a list with that image in it" if one else ""
                return f"row {j} of image {i} is {_entries(row)}{hint}"
            for k, pixel in enumerate(row):
                if type(pixel) is not int or not 0 <= pixel <= 255:
                    fraction = isinstance(pixel, float) and 0 <= pixel <= 1
                    hint = "; pixels from 0 to 1 must be multiplied by 255 and rounded" if fraction else ""
                    return f"pixel {k} of row {j} of image {i} is {kind_of(pixel)}{hint}"
    return ""


def _entries(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:20]!r}" + ("..." if len(value) > 20 else "")
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f"the number {value}"
