"""The pictures of a study, made of `figures`. They take the tables of `report`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import matplotlib.image
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from comparison.figures import BACKEND_COLOURS, INK, PAGE, SOFT, STYLE, new_figure, round_ticks, to_svg
from digits.contract import Framework, Images

# What trained a model has, in every picture, the colour of the backend that is its own.
FRAMEWORK_BACKENDS: Final[dict[Framework, str]] = {"numpy": "numpy", "torch": "torch", "keras": "tensorflow"}

FURTHEST: Final = 3.0  # points below the best mean that the axis of accuracies reaches; it would squeeze the rest
FEWEST: Final = 10  # images in a bin of a reliability curve that is drawn

Row = Mapping[str, Any]


def colour_of(framework: Framework) -> str:
    return BACKEND_COLOURS[FRAMEWORK_BACKENDS[framework]]


def accuracies(rows: Sequence[Row], *, name: str) -> str:
    """A line for each recipe: a dot for each run, the mean with its intervals under them, and the published figure."""
    with rc_context(STYLE):
        figure, axes = new_figure(440, 60 + 36 * len(rows))
        for place, row in enumerate(rows):
            colour = colour_of(row["framework"])
            runs = [100 * accuracy for accuracy in row["by_seed"].values()]
            axes.plot(runs, [place - 0.17] * len(runs), "o", color=colour, markersize=6, alpha=0.55, markeredgewidth=0)
            if row["reported"] is not None:
                axes.plot(100 * row["reported"], place - 0.17, "x", color=INK, markersize=7, markeredgewidth=1.6)
            for covers, width in (("over_both", 1.4), ("over_seeds", 5)):
                if row["mean"][covers] is not None:
                    bounds = [100 * bound for bound in row["mean"][covers]]
                    axes.plot(bounds, [place + 0.2] * 2, color=colour, linewidth=width, solid_capstyle="butt")
            axes.plot(
                100 * row["mean"]["value"], place + 0.2, "D", color=INK, markersize=5, markeredgecolor=PAGE, zorder=3
            )
        best = 100 * max(row["mean"]["value"] for row in rows)
        low, high = axes.get_xlim()
        low, high = max(low, best - FURTHEST), min(high, best + 1)
        axes.set_xlim(low, high)
        for place, row in enumerate(rows):
            if 100 * row["mean"]["value"] < low:
                text = f"\u2190 {100 * row['mean']['value']:.2f}"
                axes.text(low + 0.02 * (high - low), place + 0.2, text, color=INK, va="center")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
        axes.set_yticklabels([row["recipe"] for row in rows], color=INK)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
        axes.set_xlabel("accuracy on the test images, %")
        return to_svg(figure, name, "Accuracy of every run, with the mean of each recipe and its intervals")


def learning_curve(recipe: str, curves: Mapping[str, Row], *, name: str) -> str:
    """Held-out accuracy and training loss of `recipe` by epoch, mean and standard deviation over seeds, over the others'."""
    with rc_context(STYLE):
        figure = Figure(figsize=(370 / 72, 330 / 72), dpi=72)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for other, curve in curves.items():
            if other != recipe:
                _means(upper, lower, curve["points"], SOFT, linewidth=1, alpha=0.35)
        own = curves[recipe]
        colour = colour_of(own["framework"])
        _means(upper, lower, own["points"], colour, linewidth=1.8, marker="o", markersize=3)
        epochs = [point["epoch"] for point in own["points"]]
        for axes, quantity, unit in ((upper, "held_out_accuracy", 100), (lower, "loss", 1)):
            if any(point[f"{quantity}_deviation"] is None for point in own["points"]):
                continue  # one seed
            means = np.array([unit * point[quantity] for point in own["points"]])
            deviations = np.array([unit * point[f"{quantity}_deviation"] for point in own["points"]])
            low = np.maximum(means - deviations, means / 100)  # the loss is drawn by its logarithm
            axes.fill_between(epochs, low, means + deviations, color=colour, alpha=0.25, linewidth=0)
        upper.set_ylabel("held-out\naccuracy, %")
        lower.set_ylabel("training loss,\nnats (log.)")
        lower.set_yscale("log")
        lower.yaxis.set_major_locator(FixedLocator(round_ticks(lower.get_ylim())))
        lower.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        lower.yaxis.set_minor_locator(NullLocator())
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        longest = max(len(curve["points"]) for curve in curves.values())
        lower.set_xlim(0.8 - 0.02 * longest, 1.02 * longest + 0.2)
        figure.align_ylabels()
        return to_svg(figure, name, f"Held-out accuracy and training loss of {recipe} by epoch, over its seeds")


def _means(upper: Axes, lower: Axes, points: Sequence[Row], colour: str, **style: Any) -> None:
    epochs = [point["epoch"] for point in points]
    upper.plot(epochs, [100 * point["held_out_accuracy"] for point in points], color=colour, **style)
    lower.plot(epochs, [point["loss"] for point in points], color=colour, **style)


def reliability(row: Row, *, name: str) -> str:
    """Accuracy against confidence: solid as trained, dashed at the fitted temperature, if there is one."""
    with rc_context({**STYLE, "font.size": 10, "axes.labelsize": 10}):
        figure, axes = new_figure(200, 190)
        axes.plot((0, 100), (0, 100), color=SOFT, linewidth=0.8)
        colour = colour_of(row["framework"])
        for curve, dashes in ((row["reliability"], (None, None)), (row["reliability_after"], (4, 2))):
            if curve is not None:
                drawn = [part for part in curve if part["images"] >= FEWEST]
                axes.plot(
                    [100 * part["confidence"] for part in drawn],
                    [100 * part["accuracy"] for part in drawn],
                    color=colour,
                    dashes=dashes,
                    marker="o",
                    markersize=2.5,
                )
        axes.set(xlim=(0, 103), ylim=(0, 103), xlabel="confidence, %", ylabel="right, %")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator((0, 25, 50, 75, 100)))
        return to_svg(figure, name, f"How often {row['recipe']} is right, against how sure it is")


def components(rows: Sequence[Row], *, name: str) -> str:
    """A dot for each thing that is drawn, with its interval."""
    with rc_context(STYLE):
        figure, axes = new_figure(440, 74 + 30 * len(rows))
        draw_components(axes, rows)
        axes.tick_params(axis="y", labelcolor=INK)
        return to_svg(figure, name, "Standard deviation of accuracy by what is drawn anew")


def draw_components(axes: Axes, rows: Sequence[Row]) -> None:
    """Rows with `name`, `deviation` and its `interval`, in [0, 1]."""
    for place, row in enumerate(rows):
        axes.plot([100 * bound for bound in row["interval"]], [place] * 2, color=BACKEND_COLOURS["numpy"], linewidth=2)
        axes.plot(100 * row["deviation"], place, "o", color=BACKEND_COLOURS["torch"], markersize=7)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("standard deviation of accuracy, points\n(line: 95 % interval)")


def rounding(rows: Sequence[Row], *, name: str) -> str:
    """For each recipe how far whole trainings with everything given end apart."""
    with rc_context(STYLE):
        figure = Figure(figsize=(880 / 72, panel_rows(rows) * 190 / 72), dpi=72)
        draw_rounding(figure, rows)
        return to_svg(figure, name, "Of 10,000 test images those answered differently, by epoch, for each recipe")


PANELS: Final = 3  # beside each other
PRECISION_COLOURS: Final = {"float32": INK, "float64": BACKEND_COLOURS["onnx"]}  # no framework's
PAIR_LINES: Final[dict[str, tuple[str, Literal["-", ":"]]]] = {
    "frameworks": ("two frameworks", "-"),
    "itself": ("NumPy from itself", ":"),
}


def panel_rows(rows: Sequence[Row]) -> int:
    return math.ceil(len({row["recipe"] for row in rows}) / PANELS)


def draw_rounding(figure: Figure, rows: Sequence[Row]) -> None:
    """A panel a recipe. Rows with `recipe`, `precision`, and pairs in `frameworks` and `itself` with `digits` by epoch."""
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    panels = figure.subplots(panel_rows(rows), PANELS, sharey=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place >= len(recipes):
            axes.set_axis_off()
            continue
        for row in (row for row in rows if row["recipe"] == recipes[place]):
            for kind, (_, line) in PAIR_LINES.items():
                for pair in row[kind]:
                    epochs = range(1, len(pair["digits"]) + 1)
                    colour = PRECISION_COLOURS[row["precision"]]
                    above = 3 if row["precision"] == "float64" else 2  # where both lie on 0
                    axes.plot(epochs, pair["digits"], line, color=colour, linewidth=1.3, zorder=above)
        axes.set_yscale("symlog", linthresh=1, linscale=0.5)
        axes.set_ylim(-0.3, 2000)
        axes.yaxis.set_major_locator(FixedLocator([0, 1, 10, 100, 1000]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(recipes[place], fontsize="medium")
        if place + PANELS >= len(recipes):
            axes.set_xlabel("epoch")
        if place % PANELS == 0:
            axes.set_ylabel("of 10,000 answers, apart")
    lines = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.3, label=f"{precision}: {what}")
        for precision, colour in PRECISION_COLOURS.items()
        for what, line in PAIR_LINES.values()
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)


def digit_png(image: Images) -> bytes:
    """One image, uint8 [28, 28], as a PNG in dark ink on white."""
    out = io.BytesIO()
    matplotlib.image.imsave(out, 255 - image, cmap="gray", vmin=0, vmax=255, format="png", metadata={"Software": ""})
    return out.getvalue()
