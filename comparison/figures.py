"""What every picture of the reports shares: colours, style, and SVG to stand inside HTML.

Text stays text, and colours come from the page's CSS variables. Widths are CSS pixels at the size at which a picture reads
well; each is small enough for a telephone.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from comparison.words import ECHO
from digits.contract import Framework

# One colour and one kind of line per backend, everywhere and in this order. The colours stay apart for readers with
# protanopia, deuteranopia and tritanopia (simulated after Machado 2009: CIELAB distances of 14 and more). A page is
# light or dark as its reader wants, so pictures name the colour, and the page gives it.
BACKEND_COLOURS: Final = {
    "numpy": "#005a9e",
    "torch": "#d55e00",
    "tensorflow": "#c77cb5",
    "onnx": "#00a37a",
    ECHO: "#6b7280",
}
BACKEND_COLOURS_ON_DARK: Final = {
    "numpy": "#4a9eea",
    "torch": "#ff8c42",
    "tensorflow": "#f0a6dd",
    "onnx": "#2ec99a",
    ECHO: "#9aa3ad",
}
BACKEND_DASHES: Final[dict[str, tuple[float, ...]]] = {  # lengths in pixels; () is a solid line
    "numpy": (),
    "torch": (7, 2),
    "tensorflow": (3, 2),
    "onnx": (8, 2, 2, 2),
    ECHO: (1.5, 2.5),
}
MARKERS: Final[dict[Framework, str]] = {"numpy": "o", "torch": "s", "keras": "D"}  # by what trained the model

# Stand-ins that the page replaces by its own.
INK, SOFT, GRID, PAGE = "#010101", "#020202", "#030303", "#040404"
VARIABLES: Final = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--grid)",
    PAGE: "var(--page)",
    **{colour: f"var(--{backend})" for backend, colour in BACKEND_COLOURS.items()},
}
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than what a page shows: nothing gets clipped
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.scale_dashes": False,
    "figure.constrained_layout.use": True,
}
MOST_TICKS: Final = 8


def new_figure(width: int, height: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # SVG counts 72 units an inch: a unit is a pixel
    return figure, figure.subplots()


def round_ticks(limits: tuple[float, float]) -> list[float]:
    """Round numbers within the limits: as many as there is room for."""
    low, high = limits
    ticks: list[float] = []
    for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), np.arange(1, 10, 0.5)):
        finer = [digit * 10.0**power for power in range(-3, 6) for digit in digits]
        finer = [ms for ms in finer if low <= ms <= high]
        if len(finer) > MOST_TICKS:
            break
        ticks = finer
    return ticks


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that fills the width it gets, its ids made unique by `name`."""
    out = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # the same picture, the same bytes
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    body = re.sub(
        r"<style.*?</style>", "", svg[svg.index(">") + 1 :], flags=re.DOTALL
    )  # it would hold for the whole page
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for stand_in, variable in VARIABLES.items():
        body = body.replace(stand_in, variable)
    return f'<svg role="img" aria-label="{label}" {view_box[0]} xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
