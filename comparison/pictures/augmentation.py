"""docs/augmentation.png: what each kind of augmentation makes of one digit.

python -m comparison.pictures.augmentation docs/augmentation.png
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from digits import mnist
from digits.contract import Images
from training.augmentation import (
    Affine,
    Augmentation,
    Blots,
    Blur,
    Contrast,
    Elastic,
    Fog,
    Impulses,
    Lines,
    Motion,
    Noise,
    Occlusion,
    Outline,
    Stripes,
    Thickness,
    augment,
)

DRAWS: Final = 12  # of each kind
DIGIT: Final = 0  # the first training image, a five
SHOWN: Final[tuple[Augmentation, ...]] = (
    Affine(rotation=10, shift=1, scale=0.1, shear=8, probability=1),
    Affine(rotation=25, shift=5, scale=0.4, shear=15, probability=1),
    Elastic(sigma=4, alpha=16, probability=1),
    Thickness(thinner=0.9, thicker=1.2, probability=1),
    Outline(probability=1),
    Blur(deviation=1.2, probability=1),
    Motion(length=8, probability=1),
    Contrast(background=0.7, least=0.25, probability=1),
    Fog(density=2.5, probability=1),
    Blots(size=1.2, share=0.2, probability=1),
    Lines(most=3, width=2, amplitude=3, probability=1),
    Stripes(width=9, probability=1),
    Occlusion(side=10, probability=1),
    Noise(deviation=0.35, probability=1),
    Impulses(share=0.3, probability=1),
)


def words(augmentation: Augmentation) -> str:
    """The kind, and below it its numbers."""
    fields = dataclasses.asdict(augmentation)
    del fields["probability"]
    return "\n".join([type(augmentation).__name__, ", ".join(f"{name} {value:g}" for name, value in fields.items())])


def draw(image: Images) -> Figure:
    """A row of draws for each kind, [28, 28] the image itself at the left."""
    same = np.repeat(image[None], DRAWS, axis=0)
    rows = {words(each): augment((each,), same, seed=1, epoch=0) for each in SHOWN}
    together = (SHOWN[0], *(dataclasses.replace(each, probability=0.15) for each in SHOWN[1:]))
    rows["Together\neach but the first with probability 0.15"] = augment(together, same, seed=2, epoch=0)
    figure = Figure(figsize=(10, 0.56 * len(rows)))
    for place, (name, images) in enumerate(rows.items()):
        bottom = 1 - (place + 1) / len(rows)
        axes = figure.add_axes((0.32, bottom + 0.003, 0.67, 1 / len(rows) - 0.006))
        framed = np.pad(np.concatenate([image[None], images]), ((0, 0), (1, 1), (1, 1)), constant_values=255)
        axes.imshow(255 - np.hstack(list(framed)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        title, _, numbers = name.partition("\n")
        figure.text(0.01, bottom + 0.62 / len(rows), title, va="center", fontsize=10, weight="bold")
        figure.text(0.01, bottom + 0.28 / len(rows), numbers, va="center", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it; the name's end says the format")
    draw(mnist.train_images().images[DIGIT]).savefig(parser.parse_args().picture, dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
