"""The digits of a picture: 28 by 28, light on dark, boxed and centred as MNIST's were."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from digits.errors import PictureError
from digits.kinds.boxed import BOX, boxed
from digits.picture.file import Picture
from digits.picture.found import Box, Found
from digits.picture.ink import Greys, Mask, largest, standing_out
from digits.picture.parts import MOST_DIGITS, Parts, around, height_of, of_each_digit, of_one_digit, parts_of, split


def find_digit(picture: Picture) -> Found:
    """The one digit of a picture: what has the most ink of all that stands free of the border, and what lies close to it.

    Raises:
        PictureError: nothing stands out from the paper.
    """
    ink = standing_out(picture.greys)
    parts = parts_of(ink)
    chosen = of_one_digit(parts)
    box = around(parts.boxes[chosen])
    return _found(*cut_out(ink, parts, chosen, box), box, picture)


def find_digits(picture: Picture) -> list[Found]:
    """Every digit of a picture, in reading order: lines from above, each from the left. Of some that touch, each.

    Raises:
        PictureError: nothing stands out from the paper, or there are more than 64 things on it.
    """
    ink = standing_out(picture.greys)
    parts = parts_of(ink)
    digits = of_each_digit(parts)
    usual = float(np.median([height_of(parts, group) for group in digits]))
    found = []
    for chosen in digits:
        box = around(parts.boxes[chosen])
        digit, own = cut_out(ink, parts, chosen, box)
        for columns in split(digit, usual):
            rows = np.flatnonzero(own[:, columns].any(axis=1))
            inside = np.s_[rows[0] : rows[-1] + 1, columns]
            start, stop, _ = columns.indices(digit.shape[1])
            part = Box(box.left + start, box.top + int(rows[0]), box.left + stop, box.top + int(rows[-1]) + 1)
            found.append(_found(digit[inside], own[inside], part, picture))
    if len(found) > MOST_DIGITS:
        raise PictureError(
            f"Expected at most {MOST_DIGITS} digits on a picture, and there are {len(found)}. Send a part of it."
        )
    return found


def cut_out(ink: Greys, parts: Parts, chosen: npt.NDArray[np.intp], box: Box) -> tuple[Greys, Mask]:
    """The ink of these parts alone, with the grey of its edges; and where it is inked."""
    inside = np.s_[box.top : box.bottom, box.left : box.right]
    own = np.isin(parts.labels[inside], chosen + 1)
    edged = largest(own.astype(np.uint8), 3).astype(np.bool_)
    digit = np.where(edged, ink[inside], 0)
    usual = max(1.0, float(np.percentile(digit[own], 80)))
    return np.clip(digit * (255 / usual), 0, 255).astype(np.uint8), own


def thick_enough(digit: Greys, own: Mask) -> Greys:
    """`digit`, its strokes made as wide as MNIST's thin ones are where they are thinner, as a mouse's are.

    A stroke's width is twice its area by its outline's length. What is thin is brought to some eighty pixels, in which no line
    is lost, and drawn with a round pen.
    """
    side = max(digit.shape)
    padded = np.pad(own, 1)
    outline = sum(int((np.diff(padded.astype(np.int8), axis=axis) != 0).sum()) for axis in (0, 1))
    width = 2 * own.sum() / outline * BOX / side  # as many pixels as it will have
    if width >= THIN or side <= BOX:
        return digit
    factor = max(1, side // FINE)
    shape = [-(-length // factor) * factor for length in digit.shape]
    even = np.pad(
        np.where(own, digit, 0), [(0, whole - length) for whole, length in zip(shape, digit.shape, strict=True)]
    )
    small = even.reshape(shape[0] // factor, factor, shape[1] // factor, factor).max(axis=(1, 3))
    radius = (THIN - width) / 2 * max(small.shape) / BOX - (factor - 1) / (2 * factor)
    return _drawn_round(small, max(0.0, radius))


THIN: Final = 2.0  # pixels of 20: strokes that are thinner are made so
FINE: Final = 80  # pixels at the least, of the longer side, on which they are


def _drawn_round(digit: Greys, radius: float) -> Greys:
    """The largest of the disc of `radius` pixels around each, with room for it at the border."""
    reach = int(np.ceil(radius))
    padded = np.pad(digit, 2 * reach)
    height, width = (side + 2 * reach for side in digit.shape)
    thick = np.zeros((height, width), np.uint8)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down**2 + right**2 <= radius**2 + 0.25:
                moved = padded[reach + down : reach + down + height, reach + right : reach + right + width]
                np.maximum(thick, moved, out=thick)
    return thick


def _found(digit: Greys, own: Mask, box: Box, picture: Picture) -> Found:
    across, along = (full / side for full, side in zip(picture.size, picture.greys.shape[::-1], strict=True))
    seen = Box(int(box.left * across), int(box.top * along), round(box.right * across), round(box.bottom * along))
    return Found(boxed(thick_enough(digit, own)), seen)
