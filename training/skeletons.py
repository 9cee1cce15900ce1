"""Skeletons of digits, as people write them and typefaces have them, all over the world: the one table of `SKELETONS`.

A skeleton is a few strokes, and a stroke the points that a pen passes: two are a straight line, more a smooth curve (a
Catmull-Rom spline). Where a pen turns sharply, one stroke ends and another begins. Points are (x, y) in a box whose upper
left is (0, 0) and lower right (1, 1); (x, y, dx, dy) is a point anywhere from (x - dx, y - dy) to (x + dx, y + dy), the
same one wherever the skeleton names it again.

What all digits vary in, such as slant, width and pen, is not here but in `training/drawn.py`. None of these was taken from a
typeface's file or from anyone's handwriting.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

Point = tuple[float, ...]  # (x, y) or (x, y, dx, dy)
Stroke = tuple[Point, ...]
Skeleton = tuple[Stroke, ...]


def oval(x: float, y: float, across: float, down: float, first: float = -90, last: float = 270) -> Stroke:
    """An arc of an ellipse about (x, y) with these half axes, in degrees clockwise from the right; at first the whole of it."""
    steps = math.ceil(abs(last - first) / 45)
    angles = [math.radians(first + (last - first) * step / steps) for step in range(steps + 1)]
    return tuple((round(x + across * math.cos(one), 3), round(y + down * math.sin(one), 3)) for one in angles)


def lines(*points: Point) -> Skeleton:
    """Straight from point to point."""
    return tuple(itertools.pairwise(points))


def _upside_down(skeleton: Skeleton) -> Skeleton:
    return tuple(tuple((1 - x, 1 - y, *spread) for x, y, *spread in stroke) for stroke in skeleton)


_RING: Final = oval(0.5, 0.5, 0.5, 0.5)

_STEM: Final[Skeleton] = (((0.55, 0), (0.55, 1)),)
_FLAG: Final[Skeleton] = (((0.2, 0.26, 0.15, 0.1), (0.55, 0)),)
_LEVEL_FLAG: Final[Skeleton] = (((0.22, 0.13, 0.08, 0.05), (0.55, 0)),)
_CURVED_FLAG: Final[Skeleton] = (((0.12, 0.22, 0.08, 0.06), (0.4, 0.16), (0.55, 0)),)
_FOOT: Final[Skeleton] = (((0.15, 1, 0.12, 0), (0.95, 1, 0.12, 0)),)

_ARCH: Final[Stroke] = ((0.02, 0.28, 0.05, 0.06), (0.14, 0.08), (0.48, 0), (0.86, 0.09), (0.95, 0.29, 0.05, 0.04))
_LOW_LEFT: Final[Point] = (0, 1)

_UPPER_BOW: Final[Stroke] = ((0.04, 0.15, 0.05, 0.06), (0.22, 0.03), (0.52, 0), (0.86, 0.08), (0.92, 0.26))
_PAST_IT: Final[Point] = (0.74, 0.42)
_WAIST: Final[Point] = (0.42, 0.47, 0.14, 0.04)
_LOWER_BOW: Final[Stroke] = ((0.78, 0.53), (1, 0.73), (0.87, 0.93), (0.5, 1), (0.16, 0.96), (0, 0.84, 0.05, 0.06))

_CLOSED_TOP: Final[Point] = (0.7, 0, 0.05, 0)
_BAR_LEFT: Final[Point] = (0, 0.69, 0, 0.08)
_BAR_RIGHT: Final[Point] = (1, 0.69, 0.08, 0.03)
_STEM_FOOT: Final[Point] = (0.7, 1, 0.04, 0)

_NECK: Final[Point] = (0.1, 0.44, 0.04, 0.04)
_BELLY: Final[Stroke] = (_NECK, (0.5, 0.36), (0.88, 0.46), (1, 0.68), (0.86, 0.92), (0.45, 1), (0.14, 0.96), (0, 0.85))

_BOWL: Final = oval(0.5, 0.69, 0.5, 0.31, 215, 575)
_CURVED_STEM: Final[Stroke] = ((0.85, 0.03, 0.12, 0.03), (0.45, 0.12), (0.14, 0.4), (0, 0.7), (0.15, 0.93), (0.5, 1))
_HOOKED_STEM: Final[Stroke] = ((0.93, 0.18, 0.04, 0.06), (0.82, 0.05), (0.5, 0), (0.14, 0.18), (0, 0.6), (0.13, 0.91))
_ROUND: Final[Stroke] = ((0.87, 0.92), (1, 0.7), (0.86, 0.48), (0.5, 0.4), (0.16, 0.5), (0.01, 0.7))  # and up again
_SIXES: Final[dict[str, Skeleton]] = {
    "curved stem": ((*_CURVED_STEM, *_ROUND),),
    "hooked stem": ((*_HOOKED_STEM, (0.5, 1), *_ROUND),),
    "straight stem": (((0.72, 0, 0.12, 0), _BOWL[0]), _BOWL),
    "angular": lines((0.95, 0, 0.08, 0), (0, 0), (0, 1), (1, 1), (1, 0.48), (0, 0.48)),
}

SKELETONS: Final[dict[int, dict[str, Skeleton]]] = {
    0: {
        "round": (_RING,),
        "narrow": (oval(0.5, 0.5, 0.32, 0.5),),
        "not quite closed": (
            (
                *((0.62, 0.02, 0.08, 0.03), (0.2, 0.1), (0, 0.5), (0.18, 0.9)),
                *((0.5, 1), (0.84, 0.88), (1, 0.48), (0.82, 0.13), (0.5, 0.02, 0.14, 0.03)),
            ),
        ),
        "slashed": (_RING, ((0.84, 0.14, 0.03, 0.03), (0.16, 0.86, 0.03, 0.03))),
        "slashed beyond": (_RING, ((1.02, -0.02, 0.05, 0.05), (-0.02, 1.02, 0.05, 0.05))),
        "dotted": (_RING, ((0.5, 0.46), (0.5, 0.54))),
        "angular": lines((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)),
    },
    1: {
        "bare": _STEM,
        "flag": (*_FLAG, *_STEM),
        "level flag": (*_LEVEL_FLAG, *_STEM),
        "curved flag": (*_CURVED_FLAG, *_STEM),
        "long upstroke": (((0, 0.45, 0.06, 0.12), (0.6, 0)), ((0.6, 0), (0.6, 1))),
        "flag and foot": (*_FLAG, *_STEM, *_FOOT),
        "level flag and foot": (*_LEVEL_FLAG, *_STEM, *_FOOT),
        "curved flag and foot": (*_CURVED_FLAG, *_STEM, *_FOOT),
        "foot": (*_STEM, *_FOOT),
    },
    2: {
        "flat foot": ((*_ARCH, (0.78, 0.54), (0.4, 0.78), _LOW_LEFT), (_LOW_LEFT, (1, 1, 0.05, 0.02))),
        "straight neck": ((*_ARCH, (0.84, 0.48)), ((0.84, 0.48), _LOW_LEFT), (_LOW_LEFT, (1, 1, 0.05, 0.02))),
        "curved neck": ((*_ARCH, (0.78, 0.52), (0.3, 0.74), (0.06, 0.88), _LOW_LEFT), (_LOW_LEFT, (1, 1, 0.04, 0))),
        "raised foot": ((*_ARCH, (0.78, 0.54), (0.4, 0.78), _LOW_LEFT), *lines(_LOW_LEFT, (1, 1), (1, 0.84, 0, 0.05))),
        "wavy foot": (
            (*_ARCH, (0.74, 0.58), (0.4, 0.82), _LOW_LEFT),
            (_LOW_LEFT, (0.25, 0.9), (0.65, 0.99), (1, 0.88, 0.04, 0.05)),
        ),
        "loop": (
            (
                *(*_ARCH, (0.76, 0.55), (0.45, 0.83)),
                *((0.16, 1), (0, 0.94), (0.1, 0.82), (0.4, 0.86), (0.7, 0.98), (1, 0.92)),
            ),
        ),
        "angular": lines((0, 0), (1, 0), (1, 0.5), (0, 0.5), (0, 1), (1, 1)),
    },
    3: {
        "round": ((*_UPPER_BOW, _PAST_IT, _WAIST), (_WAIST, *_LOWER_BOW)),
        "flat-topped": (
            *lines((0, 0, 0.04, 0.03), (0.92, 0), (0.42, 0.4, 0.08, 0.03)),
            ((0.42, 0.4, 0.08, 0.03), (0.8, 0.46), *_LOWER_BOW[1:]),
        ),
        "looped waist": ((*_UPPER_BOW, (0.78, 0.42), (0.4, 0.53), (0.3, 0.46), (0.44, 0.42), *_LOWER_BOW),),
        "long tail": (
            (*_UPPER_BOW, _PAST_IT, _WAIST),
            (_WAIST, (0.72, 0.5), (0.92, 0.64), (0.84, 0.84), (0.5, 0.97), (-0.15, 1, 0.1, 0.03)),
        ),
        "angular": (*lines((0, 0), (1, 0), (1, 1), (0, 1)), ((0.15, 0.48, 0.12, 0), (1, 0.48))),
    },
    4: {
        "closed": (*lines(_CLOSED_TOP, _BAR_LEFT, _BAR_RIGHT), (_CLOSED_TOP, _STEM_FOOT)),
        "closed, short arm": (*lines(_CLOSED_TOP, _BAR_LEFT, (0.74, 0.69, 0.03, 0.03)), (_CLOSED_TOP, _STEM_FOOT)),
        "closed, leaning": (
            *lines((0.92, 0, 0.08, 0), (0, 0.7, 0, 0.08), (0.98, 0.7, 0.1, 0.04)),
            ((0.92, 0, 0.08, 0), (0.58, 1, 0.05, 0)),
        ),
        "closed, low bar": (*lines(_CLOSED_TOP, (0, 0.79, 0, 0.03), (1, 0.79, 0.06, 0)), (_CLOSED_TOP, _STEM_FOOT)),
        "closed, foot": (
            *(*lines(_CLOSED_TOP, _BAR_LEFT, _BAR_RIGHT), (_CLOSED_TOP, (0.7, 1))),
            ((0.42, 1, 0.05, 0), (0.98, 1, 0.05, 0)),
        ),
        "closed, hollow back": (
            ((0.66, 0), (0.36, 0.4), _BAR_LEFT),
            *((_BAR_LEFT, _BAR_RIGHT), ((0.66, 0), (0.7, 0.3), (0.68, 1))),
        ),
        "open": (
            *lines((0.24, 0.03, 0.14, 0.04), (0, 0.6, 0.05, 0.06), (1, 0.6, 0.06, 0.05)),
            ((0.76, 0.2, 0.06, 0.14), (0.7, 1, 0.06, 0)),
        ),
        "open, upright": (
            *lines((0.06, 0.02, 0.05, 0.03), (0, 0.55, 0.03, 0.05), (0.94, 0.55, 0.1, 0.03)),
            ((0.76, 0, 0.1, 0.06), (0.74, 1, 0.08, 0)),
        ),
        "open, round": (
            ((0.08, 0.02, 0.06, 0.03), (0.02, 0.3), (0.12, 0.52), (0.5, 0.58), (0.86, 0.46)),
            ((0.9, 0, 0.06, 0.04), (0.86, 0.46), (0.8, 1, 0.08, 0)),
        ),
        "crossed": (
            *lines((0.5, 0, 0.1, 0), (0, 0.7, 0, 0.1), (1, 0.7, 0.1, 0.07)),
            ((0.7, 0.4, 0.06, 0.12), (0.64, 1, 0.06, 0)),
        ),
    },
    5: {
        "one line": (*lines((0.9, 0, 0.06, 0.02), (0.18, 0, 0.04, 0), _NECK), _BELLY),
        "separate hat": (((0.18, 0.05), _NECK), _BELLY, ((0.22, 0.02, 0.08, 0.04), (1, -0.02, 0.08, 0.04))),
        "leaning": (*lines((1, 0, 0.06, 0.03), (0.34, 0, 0.05, 0), (0.16, 0.42)), ((0.16, 0.42), *_BELLY[1:])),
        "flat belly": (
            *lines((0.94, 0, 0.05, 0), (0.08, 0), (0.05, 0.42), (0.5, 0.42)),
            ((0.5, 0.42), (0.87, 0.5), (1, 0.71), (0.87, 0.92), (0.5, 1), (0, 0.99, 0.05, 0.02)),
        ),
        "no corners": (
            (
                *((0.96, 0, 0.05, 0.03), (0.4, 0.02), (0.16, 0.16), (0.24, 0.36), (0.66, 0.46)),
                *((0.95, 0.68), (0.82, 0.92), (0.4, 1), (0, 0.92, 0.05, 0.05)),
            ),
        ),
        "angular": lines((1, 0), (0, 0), (0, 0.48), (1, 0.48), (1, 1), (0, 1)),
    },
    6: {
        **_SIXES,
        "small bowl": (
            (
                *((0.6, 0, 0.15, 0), (0.24, 0.32), (0.02, 0.7), (0.16, 0.96), (0.46, 1)),
                *((0.74, 0.88), (0.78, 0.68), (0.54, 0.58), (0.24, 0.68), (0.14, 0.84, 0.06, 0.04)),
            ),
        ),
    },
    7: {
        "bare": lines((0, 0, 0.03, 0.03), (1, 0), (0.38, 1, 0.16, 0)),
        "curved stem": (((0, 0), (1, 0)), ((1, 0), (0.66, 0.38), (0.46, 0.68), (0.38, 1, 0.06, 0))),
        "serif": lines((0, 0.18, 0.02, 0.05), (0, 0), (1, 0), (0.4, 1, 0.14, 0)),
        "barred": (
            *lines((0, 0, 0.03, 0.03), (1, 0), (0.38, 1, 0.14, 0)),
            ((0.25, 0.5, 0.06, 0.05), (0.95, 0.48, 0.08, 0.05)),
        ),
        "serif and bar": (
            *lines((0, 0.18, 0.02, 0.05), (0, 0), (1, 0), (0.4, 1, 0.1, 0)),
            ((0.25, 0.5, 0.06, 0.05), (0.95, 0.48, 0.08, 0.05)),
        ),
        "wavy top": (
            ((-0.1, 0.08, 0.02, 0.04), (0.2, 0), (0.64, 0.08), (1.05, 0)),
            ((1.05, 0), (0.58, 0.5), (0.42, 1, 0.12, 0)),
        ),
        "angular": lines((-0.1, 0), (1.1, 0), (1.1, 1)),  # narrower it would be a one with a level flag
    },
    8: {
        "two rings": (oval(0.5, 0.25, 0.42, 0.25, 90, 450), oval(0.5, 0.75, 0.5, 0.25)),
        "small head": (oval(0.5, 0.21, 0.34, 0.21, 90, 450), oval(0.5, 0.71, 0.5, 0.29)),
        "one stroke": (
            (
                *((0.86, 0.13), (0.5, 0), (0.13, 0.1), (0.1, 0.3), (0.5, 0.5), (0.93, 0.72), (0.85, 0.93)),
                *((0.5, 1), (0.13, 0.93), (0.07, 0.72), (0.5, 0.5), (0.9, 0.3), (0.86, 0.13)),
            ),
        ),
        "not quite closed": (
            (
                *((0.8, 0.08, 0.06, 0.04), (0.45, 0), (0.13, 0.12), (0.16, 0.31), (0.5, 0.5), (0.9, 0.72)),
                *((0.82, 0.93), (0.5, 1), (0.16, 0.93), (0.1, 0.73), (0.5, 0.5), (0.84, 0.3), (0.98, 0.06, 0.06, 0.05)),
            ),
        ),
        "angular": (*lines((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)), ((0, 0.48), (1, 0.48))),
    },
    9: {
        **{name: _upside_down(six) for name, six in _SIXES.items()},
        "upright stem": (oval(0.48, 0.3, 0.48, 0.3, 0, 360), ((0.98, 0, 0.02, 0.06), (0.94, 1, 0.06, 0))),
        "tail": (
            oval(0.5, 0.3, 0.48, 0.3, 0, 360),
            ((0.98, 0.3), (0.97, 0.7), (0.82, 0.95), (0.45, 1), (0.06, 0.92, 0.06, 0.05)),
        ),
        "open bowl": (
            ((0.92, 0.16), (0.58, 0.01), (0.14, 0.14), (0.05, 0.4), (0.36, 0.54), (0.78, 0.42), (0.98, 0.08)),
            ((0.98, 0.08), (0.86, 1, 0.1, 0)),
        ),
    },
}
