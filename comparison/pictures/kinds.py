"""A picture of every kind of digits that is not MNIST's: `python -m comparison.pictures.kinds docs/kinds.png`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from digits import mnist
from digits.contract import Images
from digits.errors import KindMissing
from digits.kinds.table import KINDS, Kind
from digits.mnist import LabelledImages

ACROSS: Final = 4  # kinds beside each other
SHOWN: Final = (0, 1, 2, 3, 4, 5)  # digits of each
ENOUGH: Final = 60  # test images, to have each of these among them: each picture is drawn, encoded and decoded
DOTS_PER_INCH: Final = 100
STYLE: Final[dict[Any, Any]] = {"font.family": "DejaVu Sans", "font.size": 9}


def draw(target: Path, *, fonts: Sequence[Path] = ()) -> None:
    """Draws some digits of each kind that can be had here, the changed ones beside the test images that they were.

    Raises:
        DataError: MNIST cannot be had.
    """
    strips = [("MNIST's test images", _first_of_each(mnist.test_images())), *_strips(fonts)]
    down = -(-len(strips) // ACROSS)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.1 * ACROSS, 0.62 * down), dpi=DOTS_PER_INCH, layout="constrained")
        cells = figure.subplots(down, ACROSS).reshape(-1)
        for axes in cells:
            axes.set_axis_off()
        for axes, (name, images) in zip(cells, strips, strict=False):
            axes.imshow(np.hstack(list(images)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(name, loc="left", pad=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target)


def _strips(fonts: Sequence[Path]) -> Iterator[tuple[str, Images]]:
    test_images = mnist.test_images()
    some = LabelledImages(images=test_images.images[:ENOUGH], labels=test_images.labels[:ENOUGH])
    for kind in KINDS:
        try:
            digits = kind.digits(some if kind.group == "pictures" else test_images, fonts=fonts).digits
        except KindMissing as error:
            print(f"{kind.name} {error}")
            continue
        yield kind.name, _shown(kind, digits, test_images)


def _shown(kind: Kind, digits: LabelledImages, test_images: LabelledImages) -> Images:
    """The same test images of each kind that is made of them; of another one of each digit, from all over it."""
    if kind.needs_nothing:
        return digits.images[_first(test_images)]
    scattered = np.random.default_rng(1).permutation(len(digits.labels))
    chosen = LabelledImages(images=digits.images[scattered], labels=digits.labels[scattered])
    return _first_of_each(chosen)


def _first_of_each(digits: LabelledImages) -> Images:
    return digits.images[_first(digits)]


def _first(digits: LabelledImages) -> list[int]:
    return [int(np.argmax(digits.labels == digit)) for digit in SHOWN]


if __name__ == "__main__":
    draw(Path(sys.argv[1]), fonts=[Path(folder) for folder in sys.argv[2:]])
