"""docs/drawn.png: the digits that a program draws to train on, three of each skeleton.

python -m comparison.drawn_picture docs/drawn.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from digits.contract import SIDE
from training.drawn import draw
from training.skeletons import SKELETONS

DRAWS: Final = 3  # of each skeleton
GAP: Final = 6  # pixels between one skeleton and the next


def picture(draws: int = DRAWS) -> Figure:
    """A row for each digit; in it its skeletons, each with so many draws."""
    across = max(map(len, SKELETONS.values()))
    strips = np.zeros((len(SKELETONS), SIDE, across * (draws * SIDE + GAP)), np.uint8)
    for strip, (digit, skeletons) in zip(strips, SKELETONS.items(), strict=True):
        for number, skeleton in enumerate(skeletons.values()):
            images = draw(skeleton, np.random.default_rng([digit, number]))[:draws]
            left = number * (draws * SIDE + GAP)
            strip[:, left : left + draws * SIDE] = np.hstack(list(images))
    whole = np.pad(strips, ((0, 0), (GAP // 2, GAP // 2), (0, 0))).reshape(-1, strips.shape[2])
    figure = Figure(figsize=(12, 12 * whole.shape[0] / whole.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(255 - whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it; the name's end says the format")
    picture().savefig(parser.parse_args().picture, dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
