"""The fifteen corruptions of MNIST-C (Mu and Gilmer 2019, "MNIST-C: A Robustness Benchmark for Computer Vision", arXiv
1906.02337), at the severity of each that the benchmark is of.

Written anew, in NumPy: the random numbers are others, what they are drawn from is the same. Two things are nearer than they
look and not the same: ImageMagick's motion blur, whose angle is a whole number of degrees here, and rounding to whole greys,
which is to the nearest.

Each takes images uint8 `[N, 28, 28]` and a generator, and gives new images of that shape and type. Greys are in [0, 1] within.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits.contract import PIXELS, SIDE, Images
from digits.kinds.filters import canny, gaussian
from digits.sampling import affine_points, sample

Floats = npt.NDArray[np.float32]  # [N, 28, 28]
Change = Callable[[Images, np.random.Generator], Images]

PHOTONS: Final = 3  # that a white pixel receives on average: shot noise
IMPULSES: Final = 0.17  # the share of pixels that become black or white
GLASS_SIGMA, GLASS_ROUNDS = 0.7, 2
MOTION_RADIUS, MOTION_SIGMA, MOTION_DEGREES = 10, 3.0, 45  # pixels, pixels, to both sides
SHEAR: Final = 0.4  # radians
SHRUNK: Final = 0.7  # of the side
ROTATION: Final = 0.4  # radians, to one side or the other
BRIGHTER: Final = 0.5
MOVED: Final = 3  # pixels, along both axes
STRIPE: Final = 7  # pixels at the left and at the right
FOG: Final = 3.0  # its brightness
FOG_SIDE, FOG_DECAY = 256, 1.4**2  # of its map: the side in pixels, and from one step's heights to those of half a step
SPATTER_MEAN, SPATTER_DEVIATION, SPATTER_SIGMA, SPATTER_LIMIT = 0.65, 0.3, 1.0, 0.65
MUD_SIGMA, MUD_LIMIT, MUD = 1.5, 0.8, 63 / 255
LINE_WIDTH: Final = 2.3  # pixels above and below its middle at which a line ends
ZIGZAG: Final = 2.0  # a quarter of a zigzag's length, and its height, in pixels
CANNY_SIGMA, CANNY_LOW, CANNY_HIGH = 1.0, 0.1, 0.2


def _greys(images: Images) -> Floats:
    return images.astype(np.float32) / np.float32(255)


def _pixels(greys: npt.NDArray[Any]) -> Images:
    pixels: Images = np.rint(np.clip(greys, 0, 1) * 255).astype(np.uint8)
    return pixels


def _signs(random: np.random.Generator, *shape: int) -> Floats:
    return random.choice(np.array([-1, 1], np.float32), shape)


def shot_noise(images: Images, random: np.random.Generator) -> Images:
    """As of few photons: Poisson numbers whose mean is the grey."""
    return _pixels(random.poisson(_greys(images) * PHOTONS) / PHOTONS)


def impulse_noise(images: Images, random: np.random.Generator) -> Images:
    """Some pixels become black or white, whatever they were."""
    drawn = random.random(images.shape, np.float32)
    changed = images.copy()
    changed[drawn < IMPULSES] = 255
    changed[drawn < IMPULSES / 2] = 0
    return changed


def glass_blur(images: Images, random: np.random.Generator) -> Images:
    """As through frosted glass: blurred, neighbours exchanged at random, and blurred again."""
    blurred = (gaussian(_greys(images), GLASS_SIGMA) * 255).astype(np.uint8)
    pixels = np.ascontiguousarray(blurred.reshape(len(images), PIXELS).T)  # [784, N]
    each = np.arange(len(images))
    for _ in range(GLASS_ROUNDS):
        for row in range(SIDE - 1, 1, -1):
            for column in range(SIDE - 1, 1, -1):
                here = row * SIDE + column
                up, left = random.integers(0, 2, (2, len(images)))
                there = here - random.integers(0, 2, len(images)) * (up * SIDE + left)  # half of them stay
                taken = pixels[there, each]
                pixels[there, each] = pixels[here]
                pixels[here] = taken
    return _pixels(gaussian(_greys(pixels.T.reshape(images.shape)), GLASS_SIGMA))


def motion_blur(images: Images, random: np.random.Generator) -> Images:
    """Smeared to one side, in a direction up to 45 degrees from the horizontal, by half a Gaussian."""
    degrees = random.integers(-MOTION_DEGREES, MOTION_DEGREES + 1, len(images))
    steps = np.arange(2 * MOTION_RADIUS + 1)
    weights = np.exp(-(steps**2) / (2 * MOTION_SIGMA**2)).astype(np.float32)
    weights /= weights.sum()
    margin = len(steps)
    blurred = np.empty(images.shape, np.float32)
    for angle in np.unique(degrees):
        chosen = degrees == angle
        framed = np.pad(_greys(images[chosen]), ((0, 0), (margin, margin), (margin, margin)))
        total = np.zeros((len(framed), SIDE, SIDE), np.float32)
        for step, weight in zip(steps, weights, strict=True):
            top = margin + round(step * np.sin(np.deg2rad(angle)))
            left = margin + round(step * np.cos(np.deg2rad(angle)))
            total += weight * framed[:, top : top + SIDE, left : left + SIDE]
        blurred[chosen] = total
    return _pixels(blurred)


def _mapped(images: Images, matrices: Floats, shifts: Floats) -> Images:
    """Affinely about the centre: `matrices` [N, 2, 2] and `shifts` [N, 2] lead from the new image to the old one."""
    return _pixels(sample(_greys(images), *affine_points(matrices, shifts)))


def shear(images: Images, random: np.random.Generator) -> Images:
    """Slanted to one side or the other; the columns are turned, not moved, which makes the digit higher by 1 / cos."""
    matrices = np.zeros((len(images), 2, 2), np.float32)
    matrices[:, 0, 0] = np.cos(SHEAR)
    matrices[:, 1, 0] = np.sin(SHEAR) * _signs(random, len(images))
    matrices[:, 1, 1] = 1
    return _mapped(images, matrices, np.zeros((len(images), 2), np.float32))


def scale(images: Images, random: np.random.Generator) -> Images:
    """Shrunk to 0.7 of its size."""
    matrices = np.broadcast_to(np.eye(2, dtype=np.float32) / np.float32(SHRUNK), (len(images), 2, 2))
    return _mapped(images, matrices, np.zeros((len(images), 2), np.float32))


def rotate(images: Images, random: np.random.Generator) -> Images:
    """Turned by 0.4 radians, 23 degrees, to one side or the other."""
    sine = np.sin(ROTATION) * _signs(random, len(images))
    matrices = np.full((len(images), 2, 2), np.cos(ROTATION), np.float32)
    matrices[:, 0, 1], matrices[:, 1, 0] = sine, -sine
    return _mapped(images, matrices, np.zeros((len(images), 2), np.float32))


def brightness(images: Images, random: np.random.Generator) -> Images:
    """Brighter by half the range of greys, background and all."""
    return _pixels(_greys(images) + BRIGHTER)


def translate(images: Images, random: np.random.Generator) -> Images:
    """Moved by 3 pixels up or down, and by 3 to the left or right."""
    matrices = np.broadcast_to(np.eye(2, dtype=np.float32), (len(images), 2, 2))
    return _mapped(images, matrices, MOVED * _signs(random, len(images), 2))


def stripe(images: Images, random: np.random.Generator) -> Images:
    """The left and the right quarter as in a negative."""
    changed = images.copy()
    changed[:, :, :STRIPE] = 255 - changed[:, :, :STRIPE]
    changed[:, :, -STRIPE:] = 255 - changed[:, :, -STRIPE:]
    return changed


def fog(images: Images, random: np.random.Generator) -> Images:
    """Behind a bright fog of plasma fractals, which takes three quarters of the contrast."""
    greys = _greys(images)
    brightest = greys.max(axis=(1, 2), keepdims=True)
    return _pixels((greys + FOG * _clouds(len(images), random)) * brightest / (brightest + FOG))


MAPS_AT_ONCE: Final = 64  # 17 MB
CORNERS: Final = 8  # of each map


def _clouds(count: int, random: np.random.Generator) -> Floats:
    """The corners of `count` plasma fractals, in [0, 1] over the whole of each: float32 [count, 28, 28].

    A map goes on at its other side where it ends, and upside down, mirrored and transposed it is as likely: around its corner
    there are eight. Those of one map are alike where they meet.
    """
    clouds = np.empty((-(-count // CORNERS), CORNERS, SIDE, SIDE), np.float32)
    onwards = np.arange(SIDE)
    for first in range(0, len(clouds), MAPS_AT_ONCE):
        part = clouds[first : first + MAPS_AT_ONCE]
        heights = _plasma(len(part), random)
        for corner, (down, right) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
            seen = heights[:, down * onwards[:, None], right * onwards]
            part[:, corner] = seen
            part[:, corner + 4] = seen.transpose(0, 2, 1)
    return clouds.reshape(-1, SIDE, SIDE)[:count]


def _plasma(count: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Maps of heights by diamonds and squares (Fournier, Fussell and Carpenter 1982): float32 [count, 256, 256]."""
    heights = np.zeros((count, FOG_SIDE, FOG_SIDE), np.float32)
    step, reach = FOG_SIDE, np.float32(1)

    def drawn(total: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return total / 4 + reach * (2 * random.random(total.shape, np.float32) - 1)

    def beside(points: npt.NDArray[np.float32], by: int, axis: int) -> npt.NDArray[np.float32]:
        return points + np.roll(points, by, axis)

    while step > 1:
        half = step // 2
        corners = heights[:, ::step, ::step]
        middles = drawn(beside(beside(corners, -1, 1), -1, 2))
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = drawn(beside(corners, -1, 2) + beside(middles, 1, 1))
        heights[:, half::step, ::step] = drawn(beside(corners, -1, 1) + beside(middles, 1, 2))
        step, reach = half, reach / np.float32(FOG_DECAY)
    heights -= heights.min(axis=(1, 2), keepdims=True)
    heights /= heights.max(axis=(1, 2), keepdims=True)
    return heights


def spatter(images: Images, random: np.random.Generator) -> Images:
    """Spots of dark grey mud, over the digit and beside it."""
    liquid = gaussian(
        random.normal(SPATTER_MEAN, SPATTER_DEVIATION, images.shape).astype(np.float32),
        SPATTER_SIGMA,
    )
    spots = gaussian(liquid > SPATTER_LIMIT, MUD_SIGMA)
    spots[spots < MUD_LIMIT] = 0
    return _pixels(_greys(images) * (1 - spots) + MUD * spots)


def dotted_line(images: Images, random: np.random.Generator) -> Images:
    """With a dotted line from the left side to the right."""
    first, last = random.integers(0, SIDE - 1, (2, len(images))).astype(np.float32)
    line = _line(np.zeros_like(first), first, np.full_like(first, SIDE - 1), last)
    line *= np.arange(SIDE) // 2 % 2  # two columns without it, and two with it
    return _pixels(_greys(images) + line)


def zigzag(images: Images, random: np.random.Generator) -> Images:
    """With a zigzag line from the left to the right."""
    start, end = 2.0, SIDE - 3.0  # columns
    row = random.integers(0, SIDE - 1, len(images)).astype(np.float32)
    slope = random.integers(-5, 5, len(images)).astype(np.float32) / np.float32(end - start)
    cosine = 1 / np.sqrt(1 + slope**2)
    sine = slope * cosine
    whole = (end - start) / cosine  # along the straight line, in pixels

    def turn(along: Floats, aside: Floats) -> tuple[Floats, Floats]:
        return start + along * cosine - aside * sine, row + along * sine + aside * cosine  # column, row

    changed = _greys(images)
    zero = np.zeros_like(row)
    before = turn(zero, zero)
    for corner in range(int(whole.max(initial=0) // (2 * ZIGZAG)) + 2):
        along = np.minimum((2 * corner + 1) * ZIGZAG, whole).astype(np.float32)
        aside = np.where(along < whole, (-1) ** corner * ZIGZAG, 0).astype(np.float32)
        after = turn(along, aside)
        changed += _line(*before, *after)
        np.clip(changed, 0, 1, out=changed)
        before = after
    return _pixels(changed)


def _line(left: Floats, top: Floats, right: Floats, bottom: Floats) -> Floats:
    """A line from (left, top) to (right, bottom), each [N], in pixels; as bright as it is near: float32 [N, 28, 28].

    Nothing where it has no length from left to right.
    """
    length = right - left
    slope = (bottom - top) / np.where(length > 0, length, 1)
    columns = np.arange(SIDE, dtype=np.float32)
    middle = top[:, None] + slope[:, None] * (columns - left[:, None])  # [N, 28]: its row in each column
    distance = abs(columns[:, None] - middle[:, None, :])  # [N, 28, 28]
    drawn = (columns >= np.floor(left)[:, None]) & (columns < np.ceil(right)[:, None]) & (length > 0)[:, None]
    near = (distance < LINE_WIDTH) & drawn[:, None, :]
    line = np.zeros(distance.shape, np.float32)
    line[near] = np.maximum(0, 1 + np.log(1 - distance[near] / np.float32(LINE_WIDTH)))
    return line


def canny_edges(images: Images, random: np.random.Generator) -> Images:
    """The edges alone, white on black."""
    return canny(_greys(images), sigma=CANNY_SIGMA, low=CANNY_LOW, high=CANNY_HIGH).astype(np.uint8) * np.uint8(255)
