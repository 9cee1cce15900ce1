"""Filters over whole arrays of images: Gaussian blur, and Canny's edges."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits.contract import SIDE

Floats = npt.NDArray[np.float32]  # [N, 28, 28]
Mask = npt.NDArray[np.bool_]  # [N, 28, 28]

TRUNCATE: Final = 4.0  # a Gaussian ends at so many of its standard deviations


def gaussian(images: npt.NDArray[Any], sigma: float) -> Floats:
    """Blurs each image of `images`, `[N, 28, 28]`, with a Gaussian of `sigma` pixels; beyond its edge an image goes on as
    the edge is."""
    within = np.clip(np.arange(SIDE)[:, None] + _offsets(sigma), 0, SIDE - 1)  # [28, taps]
    blur = np.zeros((SIDE, SIDE), np.float32)
    np.add.at(blur, (np.arange(SIDE)[:, None], within), _taps(sigma))
    return _both_ways(images, blur)


def _gaussian_inside(images: npt.NDArray[Any], sigma: float) -> Floats:
    """The same, but over what lies inside the image alone."""
    distance = np.arange(SIDE)[:, None] - np.arange(SIDE)
    blur = np.where(abs(distance) <= _offsets(sigma)[-1], np.exp(-(distance**2) / (2 * sigma**2)), 0)
    return _both_ways(images, (blur / blur.sum(axis=1, keepdims=True)).astype(np.float32))


def _both_ways(images: npt.NDArray[Any], blur: npt.NDArray[np.float32]) -> Floats:
    """A separable filter is a matrix for the rows and the same for the columns."""
    blurred: Floats = blur @ images.astype(np.float32) @ blur.T
    return blurred


def _offsets(sigma: float) -> npt.NDArray[np.int_]:
    radius = int(TRUNCATE * sigma + 0.5)
    return np.arange(-radius, radius + 1)


def _taps(sigma: float) -> npt.NDArray[np.float32]:
    taps = np.exp(-(_offsets(sigma) ** 2) / (2 * sigma**2))
    return np.asarray(taps / taps.sum(), np.float32)


def canny(images: npt.NDArray[Any], *, sigma: float, low: float, high: float) -> Mask:
    """The edges of each image, one pixel wide (Canny 1986, "A computational approach to edge detection").

    Blur; the gradient by Sobel's filters; of that, what is largest along its own direction; of that, what is above `high`,
    or above `low` and hangs together with what is above `high`.

    Args:
        images: [N, 28, 28], in [0, 1].
        sigma: of the blur, in pixels.
        low, high: of the gradient's length, in units where Sobel's filter has the weights 1, 2, 1.
    """
    smooth = _gaussian_inside(images, sigma)
    smoothed_rows = smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]  # [N, 26, 28]
    smoothed_columns = smooth[:, :, :-2] + 2 * smooth[:, :, 1:-1] + smooth[:, :, 2:]  # [N, 28, 26]
    down = smoothed_columns[:, 2:] - smoothed_columns[:, :-2]  # [N, 26, 26]: an edge needs neighbours on all sides
    right = smoothed_rows[:, :, 2:] - smoothed_rows[:, :, :-2]
    length = np.zeros(smooth.shape, np.float32)
    length[:, 1:-1, 1:-1] = np.hypot(down, right)

    kept = np.zeros(smooth.shape, np.bool_)
    kept[:, 1:-1, 1:-1] = _is_largest_along(length, down, right)
    weak = kept & (length >= low)
    return _connected(weak & (length >= high), weak)


def _is_largest_along(length: Floats, down: Floats, right: Floats) -> Mask:
    """Whether a length is at least those one step to both sides along the gradient, between whose pixels one interpolates."""

    def beside(rows: int, columns: int) -> Floats:
        return length[:, 1 + rows : SIDE - 1 + rows, 1 + columns : SIDE - 1 + columns]

    here = beside(0, 0)
    steep = abs(down) >= abs(right)
    same = (down >= 0) == (right >= 0)  # the gradient points down right or up left
    larger = np.maximum(np.maximum(abs(down), abs(right)), np.float32(1e-12))
    towards_diagonal = np.minimum(abs(down), abs(right)) / larger
    largest = np.ones(here.shape, np.bool_)
    for side in (-1, 1):
        straight = np.where(steep, beside(side, 0), beside(0, side))
        crossing = np.where(steep, beside(side, -side), beside(-side, side))
        diagonal = np.where(same, beside(side, side), crossing)
        largest &= here >= straight + towards_diagonal * (diagonal - straight)
    return largest


def _connected(strong: Mask, weak: Mask) -> Mask:
    """What of `weak` hangs together, over sides or corners, with what is `strong`."""
    found = strong.copy()
    growing = np.arange(len(found))
    while len(growing):
        before = found[growing]
        wide = before.copy()
        wide[:, 1:] |= before[:, :-1]
        wide[:, :-1] |= before[:, 1:]
        grown = wide.copy()
        grown[:, :, 1:] |= wide[:, :, :-1]
        grown[:, :, :-1] |= wide[:, :, 1:]
        grown &= weak[growing]
        found[growing] = grown
        growing = growing[(grown != before).any(axis=(1, 2))]
    return found
