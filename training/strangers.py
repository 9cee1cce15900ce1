"""What is no digit, drawn by a program, to train on beside digits: so that a network learns what it is not to be sure of.

Letters, signs, scribbles and blots, with the same pens as drawn digits. The same seed gives the same bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from digits.contract import CLASSES, SIDE, Images
from digits.kinds.boxed import boxed
from digits.mnist import LabelledImages
from training.drawn import BLOCK, FINE, draw
from training.skeletons import Skeleton, Stroke, lines, oval
from training.targets import STRANGER

_STEM: Final[Stroke] = ((0, 0), (0, 1))
_BOW: Final[Stroke] = ((0, 0), (0.6, 0), (1, 0.26), (0.6, 0.52), (0, 0.52))
_ARCH: Final[Stroke] = ((0, 0.3, 0, 0.05), (0.45, 0), (0.92, 0.15), (1, 0.4), (1, 1))
_POINTED: Final = lines((0, 0), (0.5, 1), (1, 0))
_ZIGZAG: Final = lines((0, 0), (0.25, 1), (0.5, 0.2, 0.03, 0.15), (0.75, 1), (1, 0))
_CROSS: Final[Skeleton] = (((0, 0), (1, 1)), ((1, 0), (0, 1)))

# Letters that no hand writes like a digit, in the ways of `skeletons`, and signs.
LETTERS: Final[dict[str, Skeleton]] = {
    "A": (*lines((0, 1), (0.5, 0), (1, 1)), ((0.2, 0.62, 0, 0.08), (0.8, 0.62, 0, 0.08))),
    "C": (oval(0.55, 0.5, 0.5, 0.5, -45, -315),),
    "E": (*lines((1, 0), (0, 0), (0, 1), (1, 1)), ((0, 0.5), (0.8, 0.5, 0.15, 0))),
    "F": (*lines((1, 0), (0, 0), (0, 1)), ((0, 0.48), (0.8, 0.48, 0.15, 0))),
    "H": (_STEM, ((1, 0), (1, 1)), ((0, 0.5, 0, 0.08), (1, 0.5, 0, 0.08))),
    "K": (_STEM, ((1, 0), (0, 0.6)), ((0.3, 0.4), (1, 1))),
    "L": lines((0, 0), (0, 1), (1, 1)),
    "M": lines((0, 1), (0, 0), (0.5, 0.65, 0, 0.3), (1, 0), (1, 1)),
    "N": lines((0, 1), (0, 0), (1, 1), (1, 0)),
    "P": (_STEM, _BOW),
    "R": (_STEM, _BOW, ((0.45, 0.52), (1, 1))),
    "U": (((0, 0), (0, 0.62), (0.15, 0.93), (0.5, 1), (0.85, 0.93), (1, 0.62), (1, 0)),),
    "V": _POINTED,
    "W": _ZIGZAG,
    "X": _CROSS,
    "Y": (((0, 0), (0.5, 0.5)), ((1, 0), (0.5, 0.5)), ((0.5, 0.5), (0.5, 1))),
    "a": (
        ((0.08, 0.15), (0.45, 0), (0.88, 0.16), (0.94, 0.5), (0.96, 1)),
        ((0.92, 0.42), (0.35, 0.46), (0.02, 0.74), (0.35, 1), (0.94, 0.8)),
    ),
    "a of one bow": (oval(0.48, 0.5, 0.48, 0.5), ((0.96, 0), (1, 1))),
    "d": (oval(0.45, 0.68, 0.45, 0.32), ((0.92, 0), (0.94, 1))),
    "e": (((0.02, 0.48), (0.98, 0.48)), oval(0.5, 0.5, 0.48, 0.5, -3, -315)),
    "e of one line": (((0.05, 0.6), (0.6, 0.5), (0.95, 0.25), (0.6, 0), (0.1, 0.3), (0.12, 0.8), (0.5, 1), (1, 0.85)),),
    "f": (((1, 0.08), (0.75, 0), (0.5, 0.2), (0.48, 1)), ((0.1, 0.36), (0.9, 0.36))),
    "h": (_STEM, ((0, 0.6), (0.45, 0.4), (0.92, 0.5), (1, 0.7), (1, 1))),
    "j": (((0.7, 0.28), (0.7, 0.82), (0.5, 1), (0.1, 0.95)), ((0.7, 0), (0.7, 0.05))),
    "k": (_STEM, ((0.9, 0.32), (0, 0.7)), ((0.35, 0.56), (1, 1))),
    "m": (_STEM, ((0, 0.3), (0.25, 0), (0.46, 0.2), (0.5, 1)), ((0.5, 0.3), (0.75, 0), (0.96, 0.2), (1, 1))),
    "n": (_STEM, _ARCH),
    "p": (_STEM, oval(0.5, 0.3, 0.5, 0.3)),
    "r": (_STEM, ((0, 0.38), (0.4, 0.06), (1, 0.05, 0, 0.05))),
    "t": (((0.45, 0), (0.45, 0.8), (0.65, 1), (1, 0.92)), ((0, 0.28), (1, 0.28))),
    "u": (((0, 0), (0, 0.62), (0.3, 1), (0.75, 0.95), (1, 0.6)), ((1, 0), (1, 1))),
    "y": (((0, 0), (0.52, 0.6)), ((1, 0), (0.2, 1, 0.15, 0))),
    "and": (((1, 1), (0.2, 0.3), (0.35, 0), (0.65, 0.12), (0.5, 0.4), (0.02, 0.75), (0.35, 1), (0.75, 0.85), (1, 0.5)),),
    "number": (((0.35, 0), (0.25, 1)), ((0.75, 0), (0.65, 1)), ((0, 0.32), (1, 0.32)), ((0, 0.68), (1, 0.68))),
    "plus": (((0.5, 0), (0.5, 1)), ((0, 0.5), (1, 0.5))),
    "question": (((0.05, 0.25), (0.3, 0), (0.8, 0.05), (0.95, 0.3), (0.5, 0.52), (0.5, 0.74)), ((0.5, 0.95), (0.5, 1))),
    "per cent": (oval(0.2, 0.22, 0.2, 0.22), oval(0.8, 0.78, 0.2, 0.22), ((0.9, 0), (0.1, 1))),
    "star": (*_CROSS, ((0.5, 0), (0.5, 1))),
    "triangle": lines((0, 1), (0.5, 0, 0.4, 0), (1, 1), (0, 1)),
    "tick": lines((0, 0.6), (0.35, 1), (1, 0)),
}  # fmt: skip
STROKES: Final = (1, 2, 3)  # of a scribble
PASSED: Final = (4, 12)  # points by each, from and below
CELLS: Final = (3, 6, 12, 24)  # across a blot, of the noises that make it


def drawn_strangers(count: int, *, seed: int) -> LabelledImages:
    """Of ten blocks six of letters or signs, three of scribbles and one of blots; all with the label STRANGER.

    Args:
        count: of images; a smaller one gives the first of these.
        seed: the recipe's.
    """
    images = np.empty((count, SIDE, SIDE), np.uint8)
    for block, first in enumerate(range(0, count, BLOCK)):
        random = np.random.default_rng([seed, CLASSES, block])  # digits have [seed, digit, ...]
        made = blots(random) if block % 10 == 9 else draw(_skeleton(block, random), random)
        images[first : first + BLOCK] = made[: count - first]
    return LabelledImages(images=images, labels=np.full(count, STRANGER, np.uint8))


def _skeleton(block: int, random: np.random.Generator) -> Skeleton:
    if block % 10 in (2, 5, 8):
        return scribble(random)
    names = list(LETTERS)
    return LETTERS[names[int(random.integers(len(names)))]]


def scribble(random: np.random.Generator) -> Skeleton:
    """A few curves that go where chance leads them."""
    return tuple(_walk(random) for _ in range(random.choice(STROKES)))


def _walk(random: np.random.Generator) -> Stroke:
    points = np.cumsum(random.normal(0, 1, (int(random.integers(*PASSED)), 2)), axis=0)
    points = (points - points.min(axis=0)) / np.ptp(points)
    return tuple((float(x), float(y), 0.05, 0.05) for x, y in points)


def blots(random: np.random.Generator) -> Images:
    """Noise of several scales, of which what is above some grey is ink: uint8 [BLOCK, 28, 28]."""
    made = []
    for _ in range(BLOCK):
        noises = [np.kron(random.normal(0, 1, (cells, cells)), np.ones((FINE // cells,) * 2)) for cells in CELLS]
        field = np.sum(noises, axis=0)
        for axis in (0, 1) * 4:  # no cell keeps its edges
            field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / 4
        least = np.quantile(field, random.uniform(0.4, 0.9))
        made.append(boxed(np.clip((field - least) / (field.max() - least), 0, 1)))
    return np.array(made)
