"""Bilinear sampling: what images hold between their pixels, with zeros outside of them.

A pixel's centre has whole coordinates, rows downwards and columns to the right, so that an image of 28 by 28 reaches from
-0.5 to 27.5 and its centre is (13.5, 13.5).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BLOCK_POINTS: Final = 32 * 28 * 28  # sampled at once: an array of them takes 100 kB, so that a dozen stay in the cache


def sample(images: npt.NDArray[Any], rows: Floats, columns: Floats) -> Floats:
    """What each image holds at its points.

    Args:
        images: [N, height, width], of any real type; at most 4,000 by 4,000 pixels.
        rows: float32, [N, ...]: the points' rows, in pixels.
        columns: float32, of the same shape: their columns.

    Returns:
        float32, of the shape of `rows`. At whole coordinates the pixel itself, to the last bit; outside zero, to which
        the outermost pixels fall off over the width of one pixel.
    """
    sampled = np.empty(rows.shape, np.float32)
    count, height, width = images.shape
    block = max(1, BLOCK_POINTS // max(1, rows[0].size if count else 1))
    for first in range(0, count, block):
        part = slice(first, first + block)
        framed = np.zeros((len(images[part]), height + 3, width + 3), np.float32)  # zeros before, and twice after
        framed[:, 1:-2, 1:-2] = images[part]
        _sample_block(framed, rows[part], columns[part], out=sampled[part])
    return sampled


def _sample_block(framed: Floats, rows: Floats, columns: Floats, *, out: Floats) -> None:
    count, height, width = framed.shape
    down = np.clip(rows, -1, height - 3)  # further away there are zeros too
    right = np.clip(columns, -1, width - 3)
    down += 1
    right += 1
    top, left = np.floor(down), np.floor(right)
    down -= top  # how far below the upper one of its two rows of pixels a point is, in [0, 1)
    right -= left
    top *= width
    top += left
    place = top.astype(np.intp)
    place += (np.arange(count) * (height * width)).reshape(-1, *[1] * (rows.ndim - 1))
    pixels = framed.reshape(-1)
    upper = _between(pixels, place, right)
    place += width
    lower = _between(pixels, place, right)
    lower -= upper
    lower *= down
    np.add(upper, lower, out=out)


def _between(pixels: Floats, place: npt.NDArray[np.intp], right: Floats) -> Floats:
    here = pixels.take(place, mode="clip")  # every place is inside; "clip" spares the look at each
    there = pixels[1:].take(place, mode="clip")
    there -= here
    there *= right
    here += there
    return here


def affine_points(matrices: Floats, shifts: Floats, *, side: int = 28) -> tuple[Floats, Floats]:
    """The points at which to sample, so that each image is mapped affinely about its centre.

    The result's pixel at p is taken from `matrix @ (p - centre) + centre + shift`: the map from the new image to the old
    one, the inverse of what happens to what is drawn.

    Args:
        matrices: float32 [N, 2, 2], of (row, column).
        shifts: float32 [N, 2], (row, column) in pixels.
        side: of old and new images, in pixels.

    Returns:
        rows and columns, float32 [N, side, side]. The identity gives whole numbers exactly.
    """
    centre = np.float32((side - 1) / 2)
    line = np.arange(side, dtype=np.float32) - centre
    points = []
    for axis in (0, 1):
        along = matrices[:, axis, 0, None, None] * line[:, None] + (
            shifts[:, axis, None, None] + centre
        )  # [N, side, 1]
        points.append(along + matrices[:, axis, 1, None, None] * line)  # [N, side, side]
    return points[0], points[1]
