"""The pictures of the page of costs, made of `figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, MaxNLocator

from comparison.cost.numbers import Smaller
from comparison.cost.starts import Starts
from comparison.figures import BACKEND_COLOURS, INK, PAGE, STYLE, new_figure, to_svg
from digits.contract import BACKENDS
from loadtests.open_test import Peak
from loadtests.protocols import PROTOCOLS

BAR: Final = 0.8  # of the height that a backend has, shared by its protocols


def cpu(peaks: Sequence[Peak], *, name: str) -> str:
    """CPU seconds for a million predictions: for each backend a bar for each protocol."""
    backends = [backend for backend in BACKENDS if any(peak.backend == backend for peak in peaks)]
    protocols = [protocol for protocol in PROTOCOLS if any(peak.protocol == protocol for peak in peaks)]
    height = BAR / len(protocols)
    with rc_context(STYLE):
        figure, axes = new_figure(370, 56 + (12 + 15 * len(protocols)) * len(backends))
        for peak in peaks:
            row = backends.index(peak.backend) + (protocols.index(peak.protocol) + 0.5) * height - BAR / 2
            axes.barh(row, peak.server_cpu_us, height=0.9 * height, color=BACKEND_COLOURS[peak.backend])
            axes.annotate(
                f"{peak.protocol} {peak.server_cpu_us:,.0f}",
                (peak.server_cpu_us, row), (4, 0), textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axes.set_yticks(range(len(backends)), backends)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.5 * max(peak.server_cpu_us for peak in peaks))  # room for the labels
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,.0f}"))
        axes.set_xlabel("CPU seconds for a million predictions")
        return to_svg(figure, name, "CPU seconds for a million predictions, by backend and protocol")


def starts(rows: Sequence[Starts], *, name: str) -> str:
    """Seconds to the first right answer over any protocol: a dot for files warm, a ring for cold."""
    backends = [backend for backend in BACKENDS if any(one.backend == backend for one in rows)]
    with rc_context(STYLE):
        figure, axes = new_figure(370, 56 + 30 * len(backends))
        for one in rows:
            first = min(one.medians, key=lambda protocol: one.medians[protocol])
            place, colour = backends.index(one.backend), BACKEND_COLOURS[one.backend]
            interval = one.intervals[first]
            if interval is not None:
                axes.plot(interval, [place] * 2, color=colour, linewidth=2)
            axes.plot(
                one.medians[first], place, "o", markersize=8, markeredgewidth=1.6, markeredgecolor=colour,
                markerfacecolor=colour if one.files == "warm" else PAGE,
            )  # fmt: skip
        axes.set_yticks(range(len(backends)), backends)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(backends) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds to the first right answer")
        return to_svg(
            figure, name, "Seconds from a start to the first right answer, by backend, with files warm and cold"
        )


def numbers(rows: Sequence[Smaller], *, name: str) -> str:
    """What each form reads more or less than the original, against its time for one image."""
    with rc_context(STYLE):
        figure, axes = new_figure(370, 250)
        axes.axhline(0, color=INK, linewidth=0.8)
        for place, one in enumerate(sorted(rows[1:], key=lambda each: each.ratios[1])):
            assert one.paired is not None, "only an original has none"
            bounds = [100 * bound for bound in one.paired.interval]
            axes.plot([one.ratios[1]] * 2, bounds, color=BACKEND_COLOURS["onnx"], linewidth=2)
            if (times := one.intervals[1]) is not None:
                axes.plot(times, [100 * one.paired.difference] * 2, color=BACKEND_COLOURS["onnx"], linewidth=2)
            axes.plot(one.ratios[1], 100 * one.paired.difference, "o", color=BACKEND_COLOURS["onnx"], markersize=7)
            # Forms are often about as fast: neighbours are named above and below their lines, and each a line farther away.
            away, is_above = 4 + 13 * (place // 2), place % 2 == 0
            axes.annotate(
                one.numbers, (one.ratios[1], bounds[1] if is_above else bounds[0]), (0, away if is_above else -away),
                textcoords="offset points", ha="center", va="bottom" if is_above else "top",
            )  # fmt: skip
        axes.plot(1, 0, "D", color=INK, markersize=7)
        axes.margins(0.25)
        axes.set_xlabel("time for one image, times float32's")
        axes.set_ylabel("accuracy against float32's, points")
        return to_svg(figure, name, "Accuracy against time of each form of smaller numbers")
