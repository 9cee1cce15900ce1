"""docs/picture.png: what each step from a picture to 28 by 28 does.

python -m comparison.pictures.steps docs/picture.png
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from digits import mnist
from digits.contract import Images
from digits.kinds import pictures
from digits.kinds.boxed import boxed
from digits.picture.file import decode
from digits.picture.finding import cut_out, find_digit, thick_enough
from digits.picture.ink import standing_out
from digits.picture.parts import around, of_one_digit, parts_of

SHOWN: Final = (  # of training images the number, what is made of it, and the seed of its random numbers
    (0, "photographed", pictures.photographed, 12),
    (7, "in shadow", pictures.in_shadow, 5),
    (10, "ruled paper", pictures.ruled, 4),
    (17, "mouse strokes", pictures.mouse, 2),
    (2, "coloured", pictures.coloured, 8),
)
STEPS: Final = (
    *(
        "the file",
        "one grey, where\nink and paper differ",
        "how it stands out\nfrom the paper there",
        "what hangs together",
    ),
    *("the digit alone,\nthick enough", "28 by 28"),
)
DOTS_PER_INCH: Final = 100
STYLE: Final[dict[Any, Any]] = {"font.family": "DejaVu Sans", "font.size": 9}


def draw(train_images: Images) -> Figure:
    """A row a picture, a column a step."""
    with rc_context(STYLE):
        figure = Figure(figsize=(1.75 * len(STEPS), 1.75 * len(SHOWN)), dpi=DOTS_PER_INCH, layout="constrained")
        for row, (number, name, make, seed) in zip(figure.subplots(len(SHOWN), len(STEPS)), SHOWN, strict=True):
            file = make(train_images[number], np.random.default_rng(seed))
            for axes, shown, title in zip(row, _steps(file), STEPS, strict=True):
                axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if len(shown) == 28 else None)
                axes.set_axis_off()
                if number == SHOWN[0][0]:
                    axes.set_title(title, pad=16)
            decoded = decode(file, max_pixels=pictures.MOST_PIXELS)
            left, top, right, bottom = find_digit(decoded).box
            row[0].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="#d55e00"))
            row[0].text(0, -6, name, va="bottom", weight="bold", fontsize=8)
    return figure


def _steps(file: bytes) -> list[npt.NDArray[np.uint8]]:
    """What there is after each step; as `find_digit` goes."""
    opened = Image.open(io.BytesIO(file)).convert("RGBA")
    seen = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened).convert("RGB")
    greys = decode(file, max_pixels=pictures.MOST_PIXELS).greys
    ink = standing_out(greys)
    parts = parts_of(ink)
    chosen = of_one_digit(parts)
    box = around(parts.boxes[chosen])
    alone = thick_enough(*cut_out(ink, parts, chosen, box))
    colours = np.asarray(colormaps["tab10"](parts.labels % 9), np.float64)[..., :3]
    apart = np.where(parts.labels[..., None] > 0, colours, 1) * 255
    return [np.asarray(seen), greys, ink, apart.astype(np.uint8), alone, boxed(alone)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="where to write it; the name's end says the format")
    draw(mnist.train_images().images).savefig(parser.parse_args().picture)


if __name__ == "__main__":
    main()
