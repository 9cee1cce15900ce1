"""The pictures of the report on load, made of `figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.special import expit, logit

from comparison.figures import (
    BACKEND_COLOURS,
    BACKEND_DASHES,
    INK,
    MARKERS,
    MOST_TICKS,
    PAGE,
    SOFT,
    STYLE,
    new_figure,
    round_ticks,
    to_svg,
)
from comparison.intervals import card_interval
from comparison.kinds import Spread
from comparison.load.rates import Level
from comparison.load.results import Comparison, Latencies, Share
from comparison.load.serving_results import Measurement
from comparison.words import ECHO, format_ms
from digits.card import Epoch
from digits.store import StoredModel

SHARES: Final = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # ticks of the latency pictures
TAIL: Final = 10  # a curve ends where fewer requests than this were slower


def latency_distribution(latencies: dict[str, Latencies], *, limits: tuple[float, float], name: str) -> str:
    """The share of requests answered within a time, one line per backend.

    Args:
        latencies: backend -> ms, in ascending order.
        limits: of the time axis in ms, so that several pictures can share it.
        name: unlike that of any other picture in the page.
    """
    with rc_context(STYLE):
        figure, axes = new_figure(370, 270)
        for backend, latency_ms in latencies.items():
            if len(latency_ms) == 0:
                continue
            shares = _shares(len(latency_ms))
            axes.plot(
                np.quantile(latency_ms, shares),
                shares,
                color=BACKEND_COLOURS[backend],
                dashes=BACKEND_DASHES[backend] or (None, None),
            )
        axes.set_yscale("logit")
        axes.set_ylim(SHARES[0], SHARES[-1])
        axes.yaxis.set_major_locator(FixedLocator(SHARES))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axes.yaxis.set_minor_locator(NullLocator())
        _milliseconds(axes, limits)
        axes.set_xlabel("latency, ms (logarithmic)")
        axes.set_ylabel("answered within that time")
        return to_svg(figure, name, "Share of requests answered within a time, one line per backend")


def latency_limits(latencies: Sequence[Latencies]) -> tuple[float, float]:
    """A time axis in ms on which every one of these distributions fits as far as it is drawn."""
    drawn = [np.quantile(latency_ms, _shares(len(latency_ms))[[0, -1]]) for latency_ms in latencies if len(latency_ms)]
    low, high = np.min(drawn), np.max(drawn)
    return float(low) / 1.1, float(high) * 1.1


def _shares(requests: int) -> npt.NDArray[np.float64]:
    """Where a distribution of so many requests is drawn: from 1 %, close together at both ends."""
    last = min(SHARES[-1], max(0.5, 1 - TAIL / requests))
    shares: npt.NDArray[np.float64] = expit(np.linspace(logit(SHARES[0]), logit(last), 200))
    return shares


def latency_shares(shares: dict[str, Share], door_ms: float | None, *, limit_ms: float, name: str) -> str:
    """A bar for each backend, as long as one caller's mean latency: door, queue, model; below them the door alone.

    Args:
        shares: backend -> its share.
        door_ms: of the same request answered without a model.
        limit_ms: where the time axis ends, so that several pictures can share it.
        name: unlike that of any other picture in the page.
    """
    with rc_context(STYLE):
        rows = [*shares, *([ECHO] if door_ms else [])]
        figure, axes = new_figure(370, 62 + 30 * len(rows))
        for row, (backend, share) in enumerate(shares.items()):
            left = 0.0
            for width, colour, height in (
                (share.door_ms, BACKEND_COLOURS[ECHO], 0.62),
                (share.queue_ms, INK, 0.62),
                (share.model_ms, BACKEND_COLOURS[backend], 0.62),
            ):
                axes.barh(row, width, left=left, color=colour, height=height)
                left += width
            label = f"{format_ms(share.latency_ms)}, {100 * share.model_ms / share.latency_ms:.0f} % model"
            axes.text(share.latency_ms + 0.012 * limit_ms, row, label, va="center")
        if door_ms:
            row = len(shares)
            axes.barh(row, door_ms, color=BACKEND_COLOURS[ECHO], height=0.62)
            axes.text(door_ms + 0.012 * limit_ms, row, format_ms(door_ms), va="center")
        axes.set_yticks(range(len(rows)), ["door alone" if row == ECHO else row for row in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.55 * limit_ms)  # room for the labels
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("mean latency of one caller, ms")
        return to_svg(
            figure, name, "How much of each latency is the door, the queue and the model, one bar per backend"
        )


def latency_against_rate(levels: dict[str, tuple[Level, ...]], *, name: str) -> str:
    """How the p99 of requests that arrive by themselves grows with their rate, a line per backend, broken where there is none.

    Args:
        levels: backend -> what became of each rate, ascending; drawn are those that every round tried.
        name: unlike that of any other picture in the page.
    """
    with rc_context(STYLE):
        figure, axes = new_figure(370, 300)
        rounds = max(len(level.rounds_p99_ms) for found in levels.values() for level in found)
        levels = {
            backend: tuple(level for level in found if len(level.rounds_p99_ms) == rounds)
            for backend, found in levels.items()
        }
        for backend, found in levels.items():
            axes.plot(
                [level.rate for level in found],
                [math.nan if level.p99_ms is None else level.p99_ms for level in found],
                color=BACKEND_COLOURS[backend],
                dashes=BACKEND_DASHES[backend] or (None, None),
                marker="o",
                markersize=6,
                markeredgecolor=PAGE,
            )
        drawn = [level.p99_ms for found in levels.values() for level in found if level.p99_ms is not None]
        axes.set_yscale("log")
        axes.set_xscale("log")
        low, high = min(drawn, default=1) / 1.3, max(drawn, default=100) * 1.3
        axes.set_ylim(low, high)
        asked = [level.rate for found in levels.values() for level in found]
        axes.set_xlim(min(asked) / 1.1, max(asked) * 1.1)
        for axis, limits in ((axes.yaxis, axes.get_ylim()), (axes.xaxis, axes.get_xlim())):
            axis.set_major_locator(FixedLocator(_powers(limits)))
            axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,g}"))
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel("requests a second that arrive (logarithmic)")
        axes.set_ylabel("p99, ms (logarithmic)")
        return to_svg(figure, name, "The p99 of latency against the rate of requests, one line per backend")


def _powers(limits: tuple[float, float]) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone where that is too many, within the limits."""
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in range(-3, 7) for digit in digits]
        ticks = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
        if len(ticks) <= MOST_TICKS:
            break
    return ticks


def rates(measurements: Sequence[Measurement], *, name: str) -> str:
    """Requests per second of several servers under one load, a bar each, the highest first.

    Args:
        measurements: each with requests per second.
        name: unlike that of any other picture in the page.
    """
    with rc_context(STYLE):
        figure, axes = new_figure(370, 62 + 24 * len(measurements))
        found = sorted(((one.requests_per_second or 0.0, one) for one in measurements), key=lambda each: -each[0])
        for row, (rate, one) in enumerate(found):
            axes.barh(row, rate, color=INK if one.is_ours else BACKEND_COLOURS[ECHO], height=0.62)
            axes.text(rate + 0.01 * found[0][0], row, f"{rate:,.0f}", va="center")
        axes.set_yticks(range(len(found)), [one.server.replace(", ", ",\n", 1) for _, one in found])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.25 * found[0][0])  # room for the figures
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
        axes.set_xlabel("requests per second")
        return to_svg(figure, name, "Requests per second, one bar per server")


def accuracy_against_latency(comparison: Comparison, *, name: str) -> str:
    """Stored accuracy against the median latency of one caller, and beside that the interval of each model's accuracy.

    The intervals stand apart because models are about equally fast through one backend: they would lie on each other.
    """
    with rc_context(STYLE):
        ones = {
            (served.model.tag, served.backend): one.p50_ms
            for served in comparison.served
            if (one := served.over(comparison.finest).one) is not None
        }
        models = [model for model in comparison.tested if any(tag == model.tag for tag, _ in ones)]
        models.sort(key=lambda model: model.card.accuracy)  # so that the lines to the names do not cross
        figure = Figure(figsize=(480 / 72, max(320, 80 + 24 * len(models)) / 72), dpi=72)
        axes, strip = figure.subplots(1, 2, sharey=True, width_ratios=[1, 0.1 + 0.04 * len(models)])
        ends: dict[str, tuple[float, float]] = {}  # recipe -> the middle of its interval, in the strip
        for i, model in enumerate(models):
            marker = MARKERS[model.card.framework]
            points = sorted(
                (
                    ones[model.tag, served.backend],
                    100 * served.score.accuracy,
                    BACKEND_COLOURS[served.backend],
                )
                for served in comparison.of_model(model)
                if (model.tag, served.backend) in ones
            )
            axes.plot([ms for ms, _, _ in points], [height for _, height, _ in points], color=SOFT, linewidth=0.8)
            for ms, height, colour in points:
                axes.plot(ms, height, color=colour, marker=marker, markersize=8, markeredgecolor=PAGE)
            accuracy = 100 * model.card.accuracy
            low, high = (100 * bound for bound in card_interval(model.card))
            yerr = [[accuracy - low], [high - accuracy]]
            strip.errorbar(i, accuracy, yerr=yerr, color=INK, marker=marker, markersize=4, elinewidth=1.4, capsize=3)
            ends[model.recipe] = (i, accuracy)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        _milliseconds(axes, (low / 1.03, high * 1.03))
        axes.set_xlabel("median latency, ms (logarithmic)")
        axes.set_ylabel("stored accuracy, %")
        strip.set_xlim(-0.7, len(models) - 0.3)
        strip.xaxis.set_major_locator(NullLocator())
        strip.set_xlabel("95 %\ninterval")
        strip.spines["left"].set_visible(False)
        _label_right(figure, strip, ends)
        return to_svg(
            figure, name, "Accuracy of each model, with its interval, against its latency through each backend"
        )


def kinds_against_latency(points: Sequence[tuple[StoredModel, float, Spread]], *, name: str) -> str:
    """Accuracy on digits that are not MNIST's against the latency of each model, the old and the new ones together.

    Args:
        points: model, its median latency in ms through its quickest backend, and what it reads of the other kinds.
        name: unlike that of any other picture in the page.
    """
    with rc_context(STYLE):
        points = sorted(points, key=lambda point: point[2].mean)  # so that the lines to the names do not cross
        figure, axes = new_figure(480, max(320, 80 + 24 * len(points)))
        for model, ms, spread in points:
            marker = MARKERS[model.card.framework]
            heights = [100 * share for share in (spread.worst, spread.mean, model.card.accuracy)]
            axes.plot([ms] * 3, heights, color=SOFT, linewidth=0.8)
            axes.plot(ms, heights[0], color=SOFT, marker="_", markersize=8)
            axes.plot(ms, heights[2], color=SOFT, marker="_", markersize=8)
            axes.plot(ms, heights[1], color=INK, marker=marker, markersize=8, markeredgecolor=PAGE)
        axes.set_xscale("log")
        low, high = min(ms for _, ms, _ in points), max(ms for _, ms, _ in points)
        _milliseconds(axes, (low / 1.3, high * 1.3))
        axes.set_xlabel("median latency, ms (logarithmic)")
        axes.set_ylabel("accuracy, %")
        _label_right(figure, axes, {model.recipe: (ms, 100 * spread.mean) for model, ms, spread in points})
        label = "Accuracy of each model on digits that are not MNIST's against its latency"
        return to_svg(figure, name, label)


def _label_right(figure: Figure, axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Names each point in the right margin, one below the other where they would collide, with a line to the point."""
    low, high = axes.get_ylim()
    step = (high - low) / (figure.get_figheight() * 72) * 22  # a line of text and a little air
    heights = _spread([accuracy for _, accuracy in points.values()], step)
    axes.set_ylim(min(low, min(heights) - step / 2), max(high, max(heights) + step / 2))
    for (label, point), height in zip(points.items(), heights, strict=True):
        axes.annotate(
            label,
            xy=point,
            xytext=(1.15, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.6, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)},
        )


def _spread(heights: Sequence[float], step: float) -> list[float]:
    """The heights, moved as little as it takes to be `step` apart, in the same order."""
    order = np.argsort(heights, kind="stable")
    ascending = np.array(heights, np.float64)[order]
    # With the steps taken out, to be apart is to ascend: pools of neighbours that do not, take their mean.
    pools: list[list[float]] = []  # [sum, count]
    for i, height in enumerate(ascending):
        pools.append([height - i * step, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    means = [total / count for total, count in pools for _ in range(int(count))]
    spread = np.empty(len(ascending))
    spread[order] = np.array(means) + step * np.arange(len(ascending))
    return spread.tolist()


def training_curve(model: StoredModel, others: Sequence[StoredModel], *, name: str) -> str:
    """Held-out accuracy and training loss of `model` after each epoch, over those of `others` in the same frame."""
    with rc_context(STYLE):
        figure = Figure(figsize=(370 / 72, 330 / 72), dpi=72)
        accuracies, losses = figure.subplots(2, 1, sharex=True)
        for other in others:
            _curve(accuracies, losses, other.card.history, SOFT, highlighted=False)
        _curve(accuracies, losses, model.card.history, INK, highlighted=True)
        accuracies.set_ylabel("held-out\naccuracy, %")
        losses.set_ylabel("training loss,\nnats (log.)")
        losses.set_yscale("log")
        losses.yaxis.set_major_locator(FixedLocator(round_ticks(losses.get_ylim())))
        losses.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        losses.yaxis.set_minor_locator(NullLocator())
        losses.set_xlabel("epoch")
        longest = max(len(each.card.history) for each in (model, *others))
        step = -(-longest // MOST_TICKS)
        losses.xaxis.set_major_locator(FixedLocator(range(step, longest + 1, step)))
        losses.set_xlim(1 - 0.02 * longest - 0.2, longest + 0.02 * longest + 0.2)
        figure.align_ylabels()
        return to_svg(figure, name, f"Held-out accuracy and training loss of {model.recipe} by epoch")


def _curve(accuracies: Axes, losses: Axes, history: Sequence[Epoch], colour: str, *, highlighted: bool) -> None:
    epochs = range(1, len(history) + 1)
    marker = "o" if highlighted or len(history) == 1 else ""
    for axes, values in (
        (accuracies, [100 * epoch.held_out_accuracy for epoch in history]),
        (losses, [epoch.loss for epoch in history]),
    ):
        axes.plot(
            epochs,
            values,
            color=colour,
            marker=marker,
            markersize=3,
            linewidth=1.8 if highlighted else 1.2,
            alpha=1 if highlighted else 0.4,
        )


def _milliseconds(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(FixedLocator(round_ticks(limits)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
