"""What hangs together on a picture, and which of it is one digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from digits.errors import PictureError
from digits.picture.found import Box
from digits.picture.ink import LEAST_CONTRAST, Greys, Mask, otsu

MOST_DIGITS: Final = 64  # in one picture


@dataclass(frozen=True)
class Parts:
    """What hangs together on a picture, each part with its box and its ink, in no order."""

    labels: npt.NDArray[np.intp]  # [height, width]: 0 for paper, 1 for the first part
    boxes: npt.NDArray[np.intp]  # [parts, 4]: left, top, right, bottom
    ink: npt.NDArray[np.int64]  # [parts]: the sum of it

    @property
    def free(self) -> Mask:
        """Which do not touch the picture's border: [parts]."""
        return _is_free(self.boxes, self.labels.shape)

    @property
    def sides(self) -> npt.NDArray[np.intp]:
        """The longer side of each: [parts]."""
        sides: npt.NDArray[np.intp] = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)
        return sides


def parts_of(ink: Greys) -> Parts:
    """What is as dark as ink is, in parts that each hang together.

    Where that touches the border all over, it is lines and edges beside the ink: then what is darker than those, and then what
    is left without straight lines from border to border, counts in its place, as soon as something of it stands free.

    Raises:
        PictureError: there is nothing.
    """
    threshold = max(LEAST_CONTRAST, otsu(ink))
    found = _parts(ink, ink >= threshold)
    if len(found.boxes) == 0:
        raise PictureError(
            "The picture is blank: nothing on it stands out from its paper. Send one with a digit on it."
        )
    least = LEAST_SIDE * min(ink.shape)
    if (found.free & (found.sides >= least)).any():
        return found
    darker = max(threshold + 1, otsu(ink[ink >= threshold]))
    for inked in (ink >= darker, without_lines(ink >= threshold), without_lines(ink >= darker)):
        otherwise = _parts(ink, inked)
        if (otherwise.free & (otherwise.sides >= least)).any():
            return otherwise
    return found


LEAST_SIDE: Final = 0.1  # of the picture's shorter side: what a digit among lines has at the least


def _parts(ink: Greys, inked: Mask) -> Parts:
    labels, boxes = connected(inked)
    sums = np.bincount(labels[inked], ink[inked], len(boxes) + 1)[1:]
    return Parts(labels, boxes, sums.astype(np.int64))


def without_lines(inked: Mask) -> Mask:
    """Without what lies in a row or a column that is nearly all ink, where it is thin across: the pen's strokes stay."""
    kept = inked.copy()
    for mask, left in ((inked, kept), (inked.T, kept.T)):
        full = mask.mean(axis=1) >= LINE
        thin = np.zeros(mask.shape, np.bool_)
        edges = np.flatnonzero(np.diff(full.astype(np.int8), prepend=0, append=0))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start > THICK * min(mask.shape):
                continue
            above = mask[max(0, start - 2)] if start > 0 else np.zeros(mask.shape[1], np.bool_)
            below = mask[min(len(mask) - 1, end + 1)] if end < len(mask) else above & False
            thin[max(0, start - 1) : end + 1] = ~(above & below)
        left &= ~thin
    return kept


LINE: Final = 0.7  # of a row that is inked where a line runs through it
THICK: Final = 0.05  # of the picture's shorter side: the thickest line


def connected(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """What hangs together in `mask`, over sides or corners.

    Runs of pixels in a row are the nodes of a graph, in which those of neighbouring rows that touch are joined; each takes the
    lowest number that it can reach (Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm").

    Returns:
        labels [height, width], 0 outside the mask, from 1 on in the order of the rows; and
        boxes [parts, 4]: left, top, right, bottom.
    """
    width = mask.shape[1] + 2  # paper at both ends, so that no run goes on in the next row
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8).ravel(), prepend=0)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    if len(starts) == 0:
        return np.zeros(mask.shape, np.intp), np.zeros((0, 4), np.intp)
    first, last = np.searchsorted(ends, starts + width), np.searchsorted(starts, ends + width, "right")
    counts = last - first
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    lowest = np.arange(len(starts))
    while True:
        one, other = lowest[above], lowest[below]
        apart = one != other
        if not apart.any():
            break
        above, below, one, other = above[apart], below[apart], one[apart], other[apart]
        np.minimum.at(lowest, np.maximum(one, other), np.minimum(one, other))
        while (lowest != (further := lowest[lowest])).any():
            lowest = further
    _, part = np.unique(lowest, return_inverse=True)
    rows, lefts = starts // width, starts % width - 1
    rights = lefts + ends - starts
    boxes = np.empty((part.max() + 1, 4), np.intp)
    boxes[:, :2], boxes[:, 2:] = max(mask.shape), 0
    np.minimum.at(boxes[:, 0], part, lefts)
    np.minimum.at(boxes[:, 1], part, rows)
    np.maximum.at(boxes[:, 2], part, rights)
    np.maximum.at(boxes[:, 3], part, rows + 1)
    labels = np.zeros(mask.shape, np.intp)
    labels[mask] = np.repeat(part + 1, ends - starts)
    return labels, boxes


def of_one_digit(parts: Parts) -> npt.NDArray[np.intp]:
    """The numbers of those parts that make up the one digit."""
    free, ink = parts.free, parts.ink
    main = int(ink.argmax())
    if not free[main]:
        # What stands free of the border is rather the digit than a larger thing at it, unless it is a speck.
        candidates = free & (parts.sides >= LEAST_SIDE * min(parts.labels.shape)) & (ink >= INNER * ink[main])
        if candidates.any():
            main = int(np.where(candidates, ink, -1).argmax())
    allowed = free if free[main] else np.ones(len(ink), np.bool_)
    worth = allowed & (ink >= HAT * ink[main])
    chosen = np.zeros(len(ink), np.bool_)
    chosen[main] = True
    left, top, right, bottom = parts.boxes.T
    while True:
        box = around(parts.boxes[chosen])
        reach = CLOSE * max(box.right - box.left, box.bottom - box.top)
        across = np.maximum(left - box.right, box.left - right)
        along = np.maximum(top - box.bottom, box.top - bottom)
        joined = chosen | worth & (np.maximum(across, along) <= reach)
        if (joined == chosen).all():
            return np.flatnonzero(chosen)
        chosen = joined


INNER: Final = 0.01  # of the ink at the border that a part inside has at the least to be the digit
HAT: Final = 0.03  # of the digit's ink that a part of it has at the least
CLOSE: Final = 0.2  # of the digit's longer side: how far a part of it may lie from it


def of_each_digit(parts: Parts) -> list[npt.NDArray[np.intp]]:
    """The numbers of the parts of every digit, in reading order.

    A digit is what lies above each other: a five and its hat. What is much smaller than the others is a speck, what holds
    others in its box a frame.

    Raises:
        PictureError: there are more than 64.
    """
    heights = parts.boxes[:, 3] - parts.boxes[:, 1]
    allowed = ~_frames(parts)
    if (parts.free & allowed & (parts.sides >= LEAST_SIDE * min(parts.labels.shape))).any():
        allowed &= parts.free
    if not allowed.any():
        allowed[:] = True
    tall = heights * allowed
    usual = float(np.median(tall[tall >= 0.4 * tall.max()]))
    least = HAT * np.median(parts.ink[tall >= 0.4 * usual])
    worth = np.flatnonzero(allowed & (parts.sides >= SPECK * usual) & (parts.ink >= least))
    worth = worth[np.argsort(-heights[worth], kind="stable")][: 4 * MOST_DIGITS]
    groups: list[list[int]] = []
    for number in worth.tolist():
        group = next(
            (group for group in groups if _stacked(parts.boxes[number], around(parts.boxes[group]), usual)), None
        )
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    digits = [np.array(group) for group in groups]
    digits = [group for group in digits if height_of(parts, group) >= DIGIT * usual]
    if len(digits) > MOST_DIGITS:
        raise PictureError(
            f"Expected at most {MOST_DIGITS} digits on a picture, and there are {len(digits)} things. Send a part of it."
        )
    return _in_reading_order(parts, digits)


SPECK: Final = 0.15  # of the usual digit's height: what a part of one has at the least
DIGIT: Final = 0.4  # of it, that a digit has


def height_of(parts: Parts, group: npt.NDArray[np.intp]) -> int:
    box = around(parts.boxes[group])
    return box.bottom - box.top


def _frames(parts: Parts) -> Mask:
    """Which parts are boxes around others, or a grid of them: each has the middle of two others in its box, or of a large one,
    and little of its box is ink: [parts]."""
    left, top, right, bottom = parts.boxes.T
    column, row = (left + right) / 2, (top + bottom) / 2
    frames = np.zeros(len(left), np.bool_)
    for number in np.argsort(-parts.sides, kind="stable")[: 4 * MOST_DIGITS]:
        inside = (column > left[number]) & (column < right[number]) & (row > top[number]) & (row < bottom[number])
        inside[number] = False
        inside &= parts.sides >= 0.3 * min(right[number] - left[number], bottom[number] - top[number])
        if inside.any():
            box = parts.labels[top[number] : bottom[number], left[number] : right[number]] == number + 1
            frames[number] = box[:, [0, -1]].mean() > 0.8 or box[[0, -1]].mean() > 0.8 or bool(inside.sum() > 1)
    return frames


def _stacked(box: npt.NDArray[np.intp], other: Box, usual: float) -> bool:
    """Whether two things are of one digit: most of the narrower lies above or below the other, close to it, and both
    together are no higher than a digit is."""
    left, top, right, bottom = map(int, box)
    shared = min(right, other.right) - max(left, other.left)
    gap = max(top, other.top) - min(bottom, other.bottom)
    height = max(bottom, other.bottom) - min(top, other.top)
    return shared >= 0.5 * min(right - left, other.right - other.left) and gap <= 0.25 * usual and height <= 1.6 * usual


def _in_reading_order(parts: Parts, digits: list[npt.NDArray[np.intp]]) -> list[npt.NDArray[np.intp]]:
    """By lines from above, each from the left. What overlaps a line's first by half of its height is in that line."""
    boxes = {number: around(parts.boxes[group]) for number, group in enumerate(digits)}
    left, order = sorted(boxes, key=lambda number: boxes[number].top), []
    while left:
        first = boxes[left[0]]
        line = [
            number
            for number in left
            if min(first.bottom, boxes[number].bottom) - max(first.top, boxes[number].top)
            >= 0.4 * min(first.bottom - first.top, boxes[number].bottom - boxes[number].top)
        ]
        order += sorted(line, key=lambda number: boxes[number].left)
        left = [number for number in left if number not in line]
    return [digits[number] for number in order]


def split(digit: Greys, usual: float) -> list[slice]:
    """The columns of each digit of some that touch: cut where they are least high, close to equal widths."""
    height, width = digit.shape
    count = min(round(width / max(1.0, TOUCHING * usual)), width // 8)
    if count < 2 or width < WIDER * height:
        return [slice(0, width)]
    inked = digit > 0
    high = np.where(inked.any(axis=0), height - inked.argmax(axis=0) - inked[::-1].argmax(axis=0), 0)
    cuts = [0]
    for number in range(1, count):
        middle, around = number * width / count, 0.25 * width / count
        places = np.arange(round(middle - around), round(middle + around) + 1)
        cuts.append(int(places[(high[places] + abs(places - middle)).argmin()]))
    return [slice(*ends) for ends in zip(cuts, [*cuts[1:], width], strict=True)]


TOUCHING: Final = 0.95  # of the usual height: the width of each of some that touch
WIDER: Final = 1.5  # times as wide as high, and more: digits that touch


def around(boxes: npt.NDArray[np.intp]) -> Box:
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return Box(left, top, right, bottom)


def _is_free(boxes: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Mask:
    """Which of `boxes` do not touch the picture's border."""
    left, top, right, bottom = boxes.T
    free: Mask = (left > 0) & (top > 0) & (right < shape[1]) & (bottom < shape[0])
    return free
