"""A picture of one digit brought to 28 by 28 as MNIST's were: into a box of 20 by 20, its centre of mass in the middle."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits.contract import SIDE, Images

BOX: Final = 20  # pixels: the longer side of a digit


def boxed(picture: npt.NDArray[Any]) -> Images:
    """The digit of `picture`, `[height, width]`, of any real type, where 0 is background.

    What is 0 around it is cut off; the rest is scaled, keeping its shape, until its longer side is 20 pixels,
    by cubic convolution (Keys 1981) over the width of two new pixels to each side, or of two old ones where it grows; made as
    bright that its brightest pixel is 255, as those of MNIST are; and moved by whole
    pixels until its centre of mass is as near to the middle as the box stays inside.

    Returns:
        uint8 [28, 28].

    Raises:
        ValueError: the picture is empty, or of a single grey that is 0.
    """
    inked_rows, inked_columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    if len(inked_rows) == 0:
        raise ValueError("expected a picture with ink, and all of it is 0")
    digit = picture[inked_rows[0] : inked_rows[-1] + 1, inked_columns[0] : inked_columns[-1] + 1].astype(np.float64)
    height, width = (max(1, round(side * BOX / max(digit.shape))) for side in digit.shape)
    scaled = _resampling(digit.shape[0], height) @ digit @ _resampling(digit.shape[1], width).T
    greys = np.clip(scaled * (255 / scaled.max()), 0, 255)
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = _place(greys.sum(axis=1)), _place(greys.sum(axis=0))
    image[top : top + height, left : left + width] = np.rint(greys)
    return image


def _resampling(old: int, new: int) -> npt.NDArray[np.float64]:
    """The weights, [new, old], with which a line of `new` pixels is made of one of `old`."""
    ratio = old / new
    centres = (np.arange(new) + 0.5) * ratio - 0.5
    away = abs(centres[:, None] - np.arange(old)) / max(1, ratio)
    weights = np.select(
        [away < 1, away < 2],
        [1 - 2.5 * away**2 + 1.5 * away**3, 2 - 4 * away + 2.5 * away**2 - 0.5 * away**3],
    )
    resampling: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return resampling


def _place(ink: npt.NDArray[np.float64]) -> int:
    """Where along a side to put a line of pixels, so that the centre of `ink` comes to the middle."""
    centre = float((ink * np.arange(len(ink))).sum() / ink.sum())
    return min(max(round((SIDE - 1) / 2 - centre), 0), SIDE - len(ink))
