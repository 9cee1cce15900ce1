"""Digits drawn by a program, to train on beside MNIST's: in shapes that MNIST's writers do not make.

Each is a skeleton of `training/skeletons.py` with random numbers of its own: where its points lie, how it is bent, how wide
it is and how it slants, and with what pen it was drawn. The pen's tip is an ellipse, as a broad nib's, or a disc. Then it is
brought to 28 by 28 as MNIST's were. The same seed gives the same bytes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits.contract import CLASSES, SIDE, Images
from digits.kinds.boxed import boxed
from digits.mnist import LabelledImages
from digits.sampling import Floats
from training.skeletons import SKELETONS, Skeleton, Stroke

BLOCK: Final = 16  # images of one skeleton drawn at once: an array of their fine pixels takes 150 kB
FINE: Final = 48  # pixels along a side of what is drawn before it is brought to 28 by 28
LONGER: Final = 36  # of these, along the longer side of a skeleton
PIECES: Final = 4  # straight ones for a curve from point to point

WIDTH: Final = (0.5, 0.95)  # of a digit whose height is 1, so far as its skeleton fills the box
SLANT: Final = (-0.15, 0.3)  # the tangent of the angle by which it leans to the right
PEN: Final = (0.05, 0.25)  # the pen's width, of the digit's longer side; its logarithm is uniform
FLATTEST: Final = 0.25  # of an elliptical tip, the shorter axis by the longer; a half of the pens have a round one
ANGLE: Final = (-50.0, 10.0)  # degrees, of the longer axis: at 0 what goes down is thick, and what goes across thin
CUT: Final = 0.4  # of the pens end a stroke flat, as most typefaces do, the others round
WAVES: Final = 4  # by which a skeleton is bent
BEND: Final = 0.012  # of the box: a wave's highest displacement, times its length in boxes
WAVELENGTHS: Final = (0.4, 3.0)  # in boxes; the logarithm is uniform


@dataclass(frozen=True)
class _Path:
    """A skeleton as arrays: `vertices = curve @ points`, and straight pieces between pairs of them."""

    points: Floats  # [P, 2]
    spread: Floats  # [P, 2]
    curve: Floats  # [V, P]
    pieces: npt.NDArray[np.intp]  # [S, 2], from vertex to vertex
    ends: npt.NDArray[np.bool_]  # [S, 2], whether a stroke ends there, and no other begins or ends


def drawn_digits(count: int, *, seed: int) -> LabelledImages:
    """Digits from 0 to 9 in turn, each in all its skeletons in turn.

    Args:
        count: of images; a smaller one gives the first of these.
        seed: the recipe's.
    """
    labels = np.arange(count) % CLASSES
    turns = np.arange(count) // CLASSES  # how often the digit was drawn before
    images = np.empty((count, SIDE, SIDE), np.uint8)
    for digit, skeletons in SKELETONS.items():
        for number, skeleton in enumerate(skeletons.values()):
            places = np.flatnonzero((labels == digit) & (turns % len(skeletons) == number))
            for block, first in enumerate(range(0, len(places), BLOCK)):
                part = places[first : first + BLOCK]
                random = np.random.default_rng([seed, digit, number, block])
                images[part] = draw(skeleton, random)[: len(part)]
    return LabelledImages(images=images, labels=labels.astype(np.uint8))


def draw(skeleton: Skeleton, random: np.random.Generator) -> Images:
    """A block of digits of one skeleton: uint8 [BLOCK, 28, 28]."""

    def uniform(low: float, high: float, *more: int) -> Floats:
        return random.uniform(low, high, (BLOCK, *more)).astype(np.float32)

    path = _path(skeleton)
    points = path.points + path.spread * uniform(-1, 1, *path.points.shape)
    vertices = np.asarray(path.curve @ points, np.float32)  # [n, V, 2]
    vertices = vertices + _bent(vertices, uniform)
    vertices[:, :, 0] *= uniform(*WIDTH, 1)
    vertices[:, :, 0] -= uniform(*SLANT, 1) * vertices[:, :, 1]
    low, high = vertices.min(axis=1, keepdims=True), vertices.max(axis=1, keepdims=True)
    scale = LONGER / (high - low).max(axis=2, keepdims=True)
    vertices = (vertices - (low + high) / 2) * scale + (FINE - 1) / 2

    longer = LONGER / 2 * np.exp(uniform(math.log(PEN[0]), math.log(PEN[1])))  # half axes, in fine pixels
    round_tip = uniform(0, 1) < 0.5
    shorter = np.maximum(np.where(round_tip, longer, longer * uniform(FLATTEST, 1)), np.float32(0.5))
    angle = np.radians(uniform(*ANGLE))
    axes = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    axes /= np.stack([longer, shorter], axis=1)[:, :, None]  # [n, 2, 2]: what makes the tip a disc of radius 1
    away = _distance(path, vertices, axes, flat=uniform(0, 1) < CUT)  # [n, 48, 48]
    ink = np.clip((1 - away) * np.sqrt(longer * shorter)[:, None, None] + np.float32(0.5), 0, 1)
    return np.array([boxed(np.rint(255 * one)) for one in ink])


def _bent(vertices: Floats, uniform: Any) -> Floats:
    """Displacements by a few plane waves, the longer the stronger: [n, V, 2]."""
    total: Floats = np.zeros_like(vertices)
    for _ in range(WAVES):
        length = np.exp(uniform(math.log(WAVELENGTHS[0]), math.log(WAVELENGTHS[1]), 1))
        across, along = uniform(0, 2 * math.pi, 1), uniform(0, 2 * math.pi, 1)
        phase = vertices[:, :, 0] * np.cos(across) + vertices[:, :, 1] * np.sin(across)  # [n, V]
        wave = BEND * length * np.sin(2 * math.pi * (phase / length + uniform(0, 1, 1)))
        total += np.stack([wave * np.cos(along), wave * np.sin(along)], axis=2)
    return total


def _distance(path: _Path, vertices: Floats, axes: Floats, *, flat: npt.NDArray[np.bool_]) -> Floats:
    """Of each fine pixel from the nearest stroke, in half axes of the pen: [n, 48, 48].

    Args:
        path: whose vertices these are.
        vertices: [n, V, 2], (x, y) in fine pixels.
        axes: [n, 2, 2], from fine pixels to half axes.
        flat: [n], whether the pen ends a stroke flat: what lies beyond its end does not belong to it.
    """
    line = np.arange(FINE, dtype=np.float32)
    right, down = (
        axes[:, axis, 0, None, None] * line + axes[:, axis, 1, None, None] * line[:, None] for axis in (0, 1)
    )  # [n, 48, 48] each
    vertices = np.einsum("nij,nvj->nvi", axes, vertices)
    nearest = np.full_like(right, np.inf)  # squared
    beyond = np.where(flat, np.float32(np.inf), np.float32(0))[:, None, None]
    for (start, stop), ends in zip(path.pieces, path.ends, strict=True):
        first = vertices[:, start, :, None, None]  # [n, 2, 1, 1]
        step = vertices[:, stop, :, None, None] - first
        x, y = right - first[:, 0], down - first[:, 1]
        share = x * step[:, 0]
        share += y * step[:, 1]
        share /= np.maximum((step**2).sum(axis=1), np.float32(1e-12))
        inside = np.clip(share, 0, 1)
        x -= inside * step[:, 0]
        y -= inside * step[:, 1]
        x *= x
        y *= y
        x += y
        if ends[0]:
            np.copyto(x, np.inf, where=(share < 0) & (beyond > 0))
        if ends[1]:
            np.copyto(x, np.inf, where=(share > 1) & (beyond > 0))
        np.minimum(nearest, x, out=nearest)
    return np.sqrt(nearest)


@functools.cache
def _path(skeleton: Skeleton) -> _Path:
    named = list(dict.fromkeys(point for stroke in skeleton for point in stroke))
    curves, pieces, ends, count = [], [], [], 0
    last = [point for stroke in skeleton for point in (stroke[0], stroke[-1])]
    for stroke in skeleton:
        curve = _curve(stroke) @ np.array([[point == one for one in named] for point in stroke], np.float64)
        free = [last.count(stroke[0]) == 1, last.count(stroke[-1]) == 1]
        for piece in range(len(curve) - 1):
            pieces.append((count + piece, count + piece + 1))
            ends.append((free[0] and piece == 0, free[1] and piece == len(curve) - 2))
        curves.append(curve)
        count += len(curve)
    points = np.array([(*point, 0, 0)[:4] for point in named], np.float32)
    weights: Floats = np.concatenate(curves).astype(np.float32)
    return _Path(points[:, :2], points[:, 2:], weights, np.array(pieces), np.array(ends))


def _curve(stroke: Stroke) -> npt.NDArray[np.float64]:
    """The weights, [V, P], of a stroke's points in each vertex: a straight line for two, else a Catmull-Rom spline.

    Catmull and Rom 1974, uniform: from b to c, between a and d,
    b + t (c - a) / 2 + t² (a - 5/2 b + 2 c - d / 2) + t³ (3 (b - c) + d - a) / 2. A stroke that ends where it began is a
    ring; else the point before the first is as far from it as the second, and opposite, and at the end alike.
    """
    count = len(stroke)
    if count == 2:
        return np.eye(2)
    every = np.eye(count)
    if stroke[0] == stroke[-1]:
        before, after = every[-2], every[1]
    else:
        before, after = 2 * every[0] - every[1], 2 * every[-1] - every[-2]
    framed = np.concatenate([before[None], every, after[None]])
    vertices = []
    for a, b, c, d in zip(framed, framed[1:], framed[2:], framed[3:], strict=False):
        for t in np.arange(PIECES) / PIECES:
            vertices.append(
                b + t * (c - a) / 2 + t**2 * (a - 5 / 2 * b + 2 * c - d / 2) + t**3 * (3 * (b - c) + d - a) / 2
            )
    return np.array([*vertices, every[-1]])
