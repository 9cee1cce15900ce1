"""docs/drawn.png: what a program draws to train on, three of each skeleton: the digits, and below them what is none.

python -m comparison.pictures.drawn docs/drawn.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from digits.contract import SIDE, Images
from training.drawn import draw
from training.skeletons import SKELETONS, Skeleton
from training.strangers import LETTERS, blots, scribble

DRAWS: Final = 3  # of each skeleton
GAP: Final = 6  # pixels between one skeleton and the next


def picture(draws: int = DRAWS) -> Figure:
    """A row for each digit, in it its skeletons, each with so many draws; then letters and signs, scribbles, and blots."""
    across = max(map(len, SKELETONS.values()))
    random = np.random.default_rng(1)
    letters = [_drawn(skeleton) for skeleton in LETTERS.values()]
    rows = [
        *([_drawn(skeleton) for skeleton in skeletons.values()] for skeletons in SKELETONS.values()),
        *(letters[first : first + across] for first in range(0, len(letters), across)),
        [_drawn(scribble(random)) for _ in range(across)],
        [blots(random) for _ in range(across)],
    ]
    strips = np.zeros((len(rows), SIDE, across * (draws * SIDE + GAP)), np.uint8)
    for strip, row in zip(strips, rows, strict=True):
        for number, images in enumerate(row):
            left = number * (draws * SIDE + GAP)
            strip[:, left : left + draws * SIDE] = np.hstack(list(images[:draws]))
    whole = np.pad(strips, ((0, 0), (GAP // 2, GAP // 2), (0, 0))).reshape(-1, strips.shape[2])
    figure = Figure(figsize=(12, 12 * whole.shape[0] / whole.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(255 - whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.axhline(len(SKELETONS) * (SIDE + GAP) - 0.5, color="black", linewidth=0.8)
    axes.set_axis_off()
    return figure


def _drawn(skeleton: Skeleton) -> Images:
    return draw(skeleton, np.random.default_rng(len(skeleton)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it; the name's end says the format")
    picture().savefig(parser.parse_args().picture, dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
