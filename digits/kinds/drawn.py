"""MNIST's images as if drawn otherwise: with another pen, elsewhere, turned, smaller, partly hidden, paler.

Each takes images uint8 `[N, 28, 28]` and a generator, and gives new images of that shape and type.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from digits.contract import SIDE, Images
from digits.kinds.boxed import BOX
from digits.sampling import Floats, affine_points, sample

FINE: Final = 2  # a pen's tip is drawn in halves of a pixel
THICKER: Final = 2  # halves of a pixel on each side of a stroke
THINNER: Final = 1
MOVED: Final = 3  # pixels, at most, along each axis
TURNED: Final = 30  # degrees, at most, to each side
SHRUNK: Final = (0.6, 0.8)
HIDDEN: Final = 6  # the side of the square, in pixels
DIMMED: Final = 0.4
IMAGES_AT_ONCE: Final = 250  # enlarged: 3 MB as float32


def thicker(images: Images, random: np.random.Generator) -> Images:
    """Every stroke wider by a pixel on each side."""
    return _pen(images, THICKER)


def thinner(images: Images, random: np.random.Generator) -> Images:
    """Every stroke narrower by half a pixel on each side; what is thinner than that is lost."""
    return 255 - _pen(255 - images, THINNER)


def _pen(images: Images, radius: int) -> Images:
    """The brightest within a disc around each half of a pixel, and of these the mean (a greyscale dilation)."""
    reach = range(-radius, radius + 1)
    disc = [(down, right) for down in reach for right in reach if down**2 + right**2 <= radius**2 + 1]
    line = (np.arange(FINE * SIDE, dtype=np.float32) + 0.5) / FINE - 0.5
    inside = np.clip(line, 0, SIDE - 1)  # beyond the outermost pixels it goes on as there
    changed = np.empty_like(images)
    for first in range(0, len(images), IMAGES_AT_ONCE):
        part = images[first : first + IMAGES_AT_ONCE]
        shape = (len(part), FINE * SIDE, FINE * SIDE)
        fine = sample(part, np.broadcast_to(inside[:, None], shape), np.broadcast_to(inside, shape))
        framed = np.pad(fine.astype(np.uint8), ((0, 0), (radius, radius), (radius, radius)))
        widened = np.zeros(shape, np.uint8)
        for down, right in disc:
            top, left = radius + down, radius + right
            np.maximum(widened, framed[:, top : top + shape[1], left : left + shape[2]], out=widened)
        means = widened.reshape(len(part), SIDE, FINE, SIDE, FINE).mean(axis=(2, 4), dtype=np.float32)
        changed[first : first + len(part)] = np.rint(means)
    return changed


def moved(images: Images, random: np.random.Generator) -> Images:
    """Moved by up to 3 whole pixels along each axis."""
    shifts = random.integers(-MOVED, MOVED + 1, (len(images), 2)).astype(np.float32)
    return _mapped(images, _all(images, 0), _all(images, 1), shifts)


def turned(images: Images, random: np.random.Generator) -> Images:
    """Turned by up to 30 degrees."""
    degrees = random.uniform(-TURNED, TURNED, len(images)).astype(np.float32)
    return _mapped(images, degrees, _all(images, 1), _all(images, 0, 2))


def smaller(images: Images, random: np.random.Generator) -> Images:
    """Shrunk to between 0.6 and 0.8 of its size."""
    scales = random.uniform(*SHRUNK, len(images)).astype(np.float32)
    return _mapped(images, _all(images, 0), scales, _all(images, 0, 2))


def _all(images: Images, number: float, *more: int) -> Floats:
    return np.full((len(images), *more), number, np.float32)


def _mapped(images: Images, degrees: Floats, scales: Floats, shifts: Floats) -> Images:
    cosine, sine = np.cos(np.deg2rad(degrees)) / scales, np.sin(np.deg2rad(degrees)) / scales
    matrices = np.array([[cosine, sine], [-sine, cosine]], np.float32).transpose(2, 0, 1)  # [N, 2, 2]
    pixels: Images = np.rint(sample(images, *affine_points(matrices, shifts))).astype(np.uint8)
    return pixels


def partly_hidden(images: Images, random: np.random.Generator) -> Images:
    """A square of 6 by 6 pixels, anywhere within the box of 20 by 20 in which a digit stands, is background."""
    margin = (SIDE - BOX) // 2
    top, left = random.integers(margin, SIDE - margin - HIDDEN + 1, (2, len(images), 1))
    line = np.arange(SIDE)
    rows, columns = ((line >= first) & (line < first + HIDDEN) for first in (top, left))  # [N, 28] each
    return np.where(rows[:, :, None] & columns[:, None, :], np.uint8(0), images)


def dimmed(images: Images, random: np.random.Generator) -> Images:
    """Every grey at 0.4 of what it was."""
    pixels: Images = np.rint(images * np.float32(DIMMED)).astype(np.uint8)
    return pixels
