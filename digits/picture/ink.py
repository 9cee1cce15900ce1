"""What of a picture is ink: how much each pixel stands out from its paper."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Greys = npt.NDArray[np.uint8]  # [height, width]
Mask = npt.NDArray[np.bool_]  # [height, width]

LEAST_CONTRAST: Final = 24  # of 255: what differs less from the paper is paper


def standing_out(greys: Greys) -> Greys:
    """By how much each pixel stands out from the paper as ink does, from 0 to 255, all below the ink's threshold included.

    First as if the paper was one grey, that of the picture's border. Where that leaves more than a digit, from the paper as it
    is around each place.

    Raises:
        PictureError: nothing does.
    """
    flat = from_flat_paper(greys)
    if flat is not None:
        return flat
    return from_local_paper(greys)


def from_flat_paper(greys: Greys) -> Greys | None:
    """The distance from the grey of the border, to that side on which there is more; None where the paper is not one grey.

    It is not where what is left is no stroke: half of the picture, wider than a quarter of it at some place, or in a corner;
    but what touches all four sides may be so.
    """
    edge = np.concatenate([greys[0], greys[-1], greys[1:-1, 0], greys[1:-1, -1]])
    away = greys.astype(np.int16) - np.int16(np.median(edge))
    threshold = max(LEAST_CONTRAST, otsu(abs(away).astype(np.uint8)))
    lighter, darker = (int(away[away >= threshold].sum()), -int(away[away <= -threshold].sum()))
    ink = (away if lighter > darker else -away).clip(0).astype(np.uint8)
    threshold = max(LEAST_CONTRAST, otsu(ink))
    inked = ink >= threshold
    if not inked.any() or inked.all():
        return None
    apart = np.cumsum(_histogram(abs(away).astype(np.uint8)[~inked]))
    paper = int(np.searchsorted(apart, PLAIN * apart[-1]))
    if paper >= FLAT * ink[inked].mean():
        return None
    if min(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) >= threshold // 2:
        return ink  # cut out along its edges, or lines; a shadow has a straight edge, and leaves one side free
    if inked.mean() >= MOST_INK:
        return None
    thick = _opening(inked, max(3, round(WIDE * max(greys.shape))))
    cornered = _opening(inked, max(3, round(CORNER * max(greys.shape))))[[0, 0, -1, -1], [0, -1, 0, -1]]
    return None if thick.any() or cornered.any() else ink


def _opening(mask: Mask, side: int) -> Mask:
    """What is left of `mask` without all that is narrower than a square of `side` pixels; beyond the picture there is none."""
    padded = np.pad(mask.astype(np.uint8) * np.uint8(255), side)
    opened: Mask = closing(255 - padded, side)[side:-side, side:-side] < 128
    return opened


PLAIN: Final = 0.8  # of the paper's pixels are as plain as that; the others may be edges of strokes
MOST_INK: Final = 0.5  # of a picture, as a share
FLAT: Final = 0.3  # of the ink's contrast: by how much paper of one grey may differ from itself
WIDE: Final = 0.25  # of a picture's side: no stroke is as wide,
CORNER: Final = 0.15  # and none as wide as this lies in a corner, as each shadow does whose edge is straight


def from_local_paper(greys: Greys) -> Greys:
    """The distance from the paper as it is around each place, as a share of the lighter of both: a shadow dims them alike.

    The paper is what is left where all that is narrower than a quarter of the picture is filled with what is around it: the
    morphological closing for dark ink, the opening for light. (The differences are the bottom-hat and the top-hat; Soille 2003,
    "Morphological Image Analysis", 4.5.)
    """
    smooth = _blurred(greys)
    if _is_light(smooth):
        lighter, darker = smooth, 255 - closing(255 - smooth, _share(greys, WIDE))
    else:
        lighter, darker = closing(smooth, _share(greys, WIDE)), smooth
    ink: Greys = np.rint(255 * (1 - (darker + DARKEST) / (lighter + DARKEST))).astype(np.uint8)
    return ink


DARKEST: Final = np.float32(16)  # of 255: light that falls into any shadow, and keeps noise there from being ink


def _share(greys: Greys, share: float) -> int:
    return max(3, round(int(min(greys.shape)) * share))


def _is_light(greys: Greys) -> bool:
    """Whether ink is lighter than the paper: the median around each place is paper, and ink lies to one side of it.

    In half of a picture's side there is more paper than ink, also between the strokes of a digit, and beside a shadow, whose
    straight edge the median keeps where it is.
    """
    small = np.asarray(Image.fromarray(greys).reduce(-(-max(greys.shape) // POLARITY_SIDE)))
    half = min(small.shape) // 4
    # Beyond its border it goes on as in a mirror: a scanner's lid, dark beside the page, is no more there than inside.
    around = Image.fromarray(np.pad(small, half, mode="reflect") if half else small)
    usual = np.asarray(around.filter(ImageFilter.MedianFilter(2 * half + 1)))
    inside = slice(half, -half or None)
    away = small.astype(np.int64) - usual[inside, inside]
    inner = slice(half // 2, -(half // 2) or None)  # what lies at the border may be its edge
    away = away[inner, inner]
    return int((away * abs(away)).sum()) > 0


POLARITY_SIDE: Final = 40  # pixels: what is needed to see on which side of the paper's grey the ink is


def _blurred(greys: Greys) -> Greys:
    """Without the noise of single pixels: the mean over 3 by 3."""
    padded = np.pad(greys, 1, mode="edge").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    means: Greys = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)
    return means


def closing(greys: Greys, side: int) -> Greys:
    """The morphological closing with a square of `side` pixels; what is beyond the picture does not count."""
    return 255 - largest(255 - largest(greys, side), side)


def largest(greys: Greys, side: int) -> Greys:
    """The largest of the square of `side` pixels around each, an odd number, by doubling: each axis by itself."""
    half = side // 2
    for axis in (0, 1):
        reach = min(half, greys.shape[axis] - 1)
        widths = [(reach, reach) if number == axis else (0, 0) for number in (0, 1)]
        line = np.moveaxis(np.pad(greys, widths), axis, 0)
        width, done = 2 * reach + 1, 1
        while done < width:
            step = min(done, width - done)
            line = np.maximum(line[:-step], line[step:])
            done += step
        greys = np.moveaxis(line, 0, axis)
    return greys


def otsu(greys: Greys) -> int:
    """The grey from which on `greys` belong to the brighter of two classes, so chosen that the classes differ most.

    Otsu 1979, "A threshold selection method from gray-level histograms", equation 18.
    """
    counts = _histogram(greys)
    below = np.cumsum(counts)[:-1]
    mean = np.cumsum(counts * np.arange(256))
    total, whole = counts.sum(), mean[-1]
    between = (whole * below - total * mean[:-1]) ** 2 / np.maximum(below * (total - below), 1)
    return int(between.argmax().item()) + 1


def _histogram(greys: Greys) -> npt.NDArray[np.float64]:
    """How many pixels there are of each grey, [256]: by Pillow, some ten times as fast as `bincount`."""
    return np.array(Image.fromarray(greys.reshape(1, -1)).histogram(), np.float64)
