"""A picture of what a stored model gets wrong: `python -m comparison.pictures.mistakes MODEL docs/mistakes.png`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from digits import mnist
from digits.errors import KindMissing
from digits.kinds.table import KINDS
from digits.mnist import LabelledImages
from digits.store import find_model
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
from training.evaluate import quickest

SHOWN: Final = 14  # mistakes of each kind: those that it was surest of
DOTS_PER_INCH: Final = 100
STYLE: Final[dict[Any, Any]] = {"font.family": "DejaVu Sans", "font.size": 8}


def draw(name: str, target: Path, *, fonts: Sequence[Path] = ()) -> None:
    """Draws, of MNIST's test images and of each kind that can be had here, the mistakes that the model was surest of.

    Raises:
        SamedigitError: there is no such model, or it cannot be opened; or MNIST cannot be had.
    """
    model = find_model(name)
    backend = quickest(model.card.backends)
    runtime = open_runtime(backend, model.path(backend), device=CPU)
    test_images = mnist.test_images()
    sets = [("MNIST's test images", test_images)]
    for kind in KINDS:
        try:
            sets.append((kind.name, kind.digits(test_images, fonts=fonts).digits))
        except KindMissing as error:
            print(f"{kind.name} {error}")
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 0.72 * len(sets)), dpi=DOTS_PER_INCH, layout="constrained")
        cells = figure.subplots(len(sets), SHOWN + 1, squeeze=False, width_ratios=[3, *[1] * SHOWN])
        for axes in cells.reshape(-1):
            axes.set_axis_off()
        for (title, *row), (what, digits) in zip(cells, sets, strict=True):
            probabilities = predict_all(runtime, digits.images)
            wrong = _surest_mistakes(probabilities, digits)
            number = int((probabilities.argmax(axis=1) != digits.labels).sum())
            title.text(0, 0.5, f"{what}\n{number:,} of {len(digits.labels):,} wrong", va="center")
            for axes, index in zip(row, wrong, strict=False):
                axes.imshow(digits.images[index], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axes.set_title(f"{digits.labels[index]} as {probabilities[index].argmax()}", pad=2)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target)


def _surest_mistakes(probabilities: Any, digits: LabelledImages) -> list[int]:
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != digits.labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    return [int(index) for index in surest[:SHOWN]]


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]), fonts=[Path(folder) for folder in sys.argv[3:]])
