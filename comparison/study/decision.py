"""What came of `decide` as files: decision.json, and a page in Markdown with its pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from comparison import page
from comparison.study import plots
from comparison.study.contrasts import PILOT, Apart, Between, Component, Confirmed, Decided, Same
from comparison.study.decide import Decision
from comparison.study.statistics import POWER
from comparison.words import FRAMEWORK_NAMES, NO_WRITERS, format_range, join
from digits.errors import ReportError

DECISION: Final = "decision.json"
PAGE: Final = "decision.md"
COMPONENTS: Final = "components.png"
ROUNDING: Final = "rounding.png"

SHOWN_AS: Final = {"different": "different", "equivalent": "equivalent", "undecided": "not decided"}


def write_decision(decision: Decision, folder: Path) -> Path:
    """Writes the files, and returns the page.

    Raises:
        ReportError: one cannot be written.
    """
    page.write(json.dumps(to_data(decision), indent=1, allow_nan=False) + "\n", folder / DECISION)
    target = folder / PAGE
    page.write(markdown(decision), target)
    try:
        for name, picture in pictures(decision).items():
            picture.savefig(folder / name, dpi=144)
    except OSError as error:
        raise ReportError(f"A picture cannot be written to {folder}: {error.strerror}.") from error
    return target


def to_data(decision: Decision) -> dict[str, Any]:
    """Plain data. Accuracies and differences of them are in [0, 1] and [-1, 1]."""
    with_verdicts = {
        name: [asdict(row) | {"verdict": row.verdict, "within_margin": row.within_margin} for row in rows]
        for name, rows in (("frameworks", decision.frameworks), ("defaults", decision.defaults))
    }
    said = {"answer": decision.answer, "sentence": decision.sentence, "rounding": decision.rounding}
    return {**said, **asdict(decision), **with_verdicts}


def markdown(decision: Decision) -> str:
    margin = _points(decision.defaults[0].found.margin)
    return f"""# Is it the framework, or its defaults?

**{decision.sentence}**

Accuracies are of MNIST's 10,000 test images; a *point* is a hundredth of all of them. *Different* (not 0, however small) and
*equivalent* (closer than {margin} points, the margin) are shown: in 95 of 100 such studies not one of these verdicts, on
frameworks and on defaults, is wrong. *Not decided* says neither. An interval after a difference covers other seeds (of random
numbers) and other test images, and is so wide that all of both tables (*together*) hold at once in 95 of 100 such studies. The
first figure of the sentence above is the farthest that an interval of the next table reaches, rounded up; the second is of the
defaults asked of here, not of all that there are. Single trainings lie farther apart than such means. Each has a process of its
own, on one thread.

## The same mathematics

The same starting weights, batches, augmented images and dropout masks, handed to NumPy, torch and Keras. Where Keras's epsilon
stands in another place, it is translated (`training/given/keras_given.py`).

Accuracy of {decision.recipe} in float32, the numbers of 32 bits that models are trained in:

{_between(decision.frameworks)}
{_of_rounding(decision)}
## The defaults

What frameworks do if nobody says otherwise, one at a time, in NumPy: {decision.recipe}, both sides from the same numbers and
with the same batches. Accuracy is the mean over the last five epochs, as that of one epoch jumps. Adam is the rule that moves
the weights, and adds epsilon to what it divides by; L2 pulls weights towards 0; fan_in is how many inputs a layer has.

{_defaults(decision.defaults)}

The plan, by {PILOT} seeds that count for nothing else: {_plan(decision)}

The same pairs inside the other two frameworks, with few seeds; the interval is of each difference alone. *In keeping*:
it has values in common with NumPy's, so it does not contradict it. What L2 means in torch cannot be asked of Keras.

{_confirmed(decision.confirmed)}

## Where the spread of accuracy comes from

Two trainings of {decision.recipe} that differ in one thing alone: how far apart the accuracies after their last epochs are, as
a standard deviation: how far one training typically lies from the mean of many. *Test images*: what as many others would
change. The parts of training do not add up: whatever differs, be it the last bit, it takes another path, and ends
somewhere else among what all of them together spread. {_writers(decision)}

{_components(decision.components)}

![Standard deviation of accuracy by what is drawn anew]({COMPONENTS})

*{decision.trainings} trainings, {decision.seconds / 3600:.1f} hours of them; {"; ".join(decision.machines)};
{", ".join(f"{package} {version}" for package, version in decision.versions.items())}. Made by `samedigit study --decide`.*
"""


def _plan(decision: Decision) -> str:
    planned = decision.plan
    needed = (
        "one of the defaults lies so near to the margin that no number of seeds decides it"
        if planned.needed is None
        else f"a verdict on every default takes {planned.needed} seeds (and comes in {100 * POWER:.0f} of 100 such studies)"
    )
    more = f"{planned.trainings} trainings more, about {planned.seconds / 60:.0f} minutes"
    return f"{needed}; {planned.seeds} seeds it was, {more}."


def _between(rows: Sequence[Between]) -> str:
    return _table(
        ("frameworks", "seeds", "first minus second, points", "together", "verdict"),
        [
            (
                f"{FRAMEWORK_NAMES[row.first]} and {FRAMEWORK_NAMES[row.second]}",
                str(row.seeds),
                _signed(row.difference),
                f"{_signed(row.together[0])} to {_signed(row.together[1])}",
                _verdict(row),
            )
            for row in rows
        ],
    )


def _verdict(row: Between | Decided) -> str:
    closer = row.verdict == "different" and row.within_margin
    return SHOWN_AS[row.verdict] + (", but closer than the margin" if closer else "")


def _of_rounding(decision: Decision) -> str:
    if decision.rounding is None:
        return ""
    return f"""
{decision.rounding}

Where the two are alike, there is nothing of the framework in it. The table has the least and the most of three pairs for one
whole training of each recipe: every two frameworks; and NumPy as it is, with its starting weights moved up, and down. Float64
rounds some hundred million times finer than float32, so it takes longer to part, if it does.

{_same(decision.same)}

![Answers apart by epoch, frameworks and NumPy from itself]({ROUNDING})

*Of 10,000 test images, how many are answered differently after each epoch of these trainings, pair by pair. Up to 1 the axis is
linear, above that logarithmic.*
"""


def _same(rows: Sequence[Same]) -> str:
    header = (
        "recipe",
        "precision",
        "answers apart: frameworks",
        "NumPy from itself",
        "accuracy apart, points: frameworks",
        "NumPy from itself",
        "first epoch with answers apart: frameworks",
        "NumPy from itself",
    )
    lines = []
    for row in rows:
        pairs = (row.frameworks, row.itself)
        apart = [_from_to([pair.digits[-1] for pair in of], str) for of in pairs]
        accuracy = [_from_to([abs(pair.accuracy) for pair in of], _points) for of in pairs]
        first = [_from_to([_first_apart(pair) for pair in of], _epoch) for of in pairs]
        lines.append((row.recipe, row.precision, *apart, *accuracy, *first))
    return _table(header, lines)


def _first_apart(pair: Apart) -> float:
    """The first epoch after which two answers differ; infinite where none do."""
    return next((epoch for epoch, digits in enumerate(pair.digits, start=1) if digits), math.inf)


def _epoch(number: float) -> str:
    return "none" if number == math.inf else str(number)


def _from_to(values: Sequence[float], show: Callable[[Any], str]) -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def _defaults(rows: Sequence[Decided]) -> str:
    header = ("default", "first", "second", "seeds", "first minus second, points", "together", "verdict")
    return _table(
        header,
        [
            (
                row.name,
                row.first_is,
                row.second_is,
                str(row.seeds),
                _signed(row.found.difference.value),
                f"{_signed(row.together[0])} to {_signed(row.together[1])}",
                _verdict(row) + _more(row),
            )
            for row in rows
        ],
    )


def _confirmed(rows: Sequence[Confirmed]) -> str:
    header = ("default", "in", "seeds", "first minus second, points", "95 %", "with NumPy's")
    return _table(
        header,
        [
            (
                row.name,
                row.framework,
                str(row.seeds),
                _signed(row.difference),
                f"{_signed(row.interval[0])} to {_signed(row.interval[1])}",
                "in keeping" if row.agrees else "**contradicts**",
            )
            for row in rows
        ],
    )


def _more(row: Decided) -> str:
    if row.verdict != "undecided":
        return ""
    return f"; takes about {row.seeds_needed} seeds" if row.seeds_needed else "; at the margin, which no seeds decide"


def _writers(decision: Decision) -> str:
    found = decision.by_writers
    if found is None:
        return NO_WRITERS
    said = (
        "*Writers*: what as many other people would change, each with all of their images; it holds what other images of "
        "the same people would. With people drawn in place of images, the intervals of the tables above are "
        f"{format_range(found.wider)} times as wide, and "
    )
    return said + (
        f"another verdict comes out on {join(found.changed)}." if found.changed else "each verdict is the same."
    )


def _components(rows: Sequence[Component]) -> str:
    header = ("drawn anew", "how many", "standard deviation, points", "95 % interval")
    return _table(
        header,
        [
            (
                row.name,
                f"{row.pairs:,}",
                _points(row.deviation),
                f"{_points(row.interval[0])} to {_points(row.interval[1])}",
            )
            for row in rows
        ],
    )


def pictures(decision: Decision) -> dict[str, Figure]:
    """By the names of their files."""
    tables, found = to_data(decision), {}
    with rc_context(
        {"font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        found[COMPONENTS] = Figure(figsize=(6.4, 0.6 + 0.36 * len(decision.components)), layout="constrained")
        axes = found[COMPONENTS].subplots()
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        plots.draw_components(axes, tables["components"])
        if decision.same:
            height = 0.5 + 2.2 * plots.panel_rows(tables["same"])
            found[ROUNDING] = Figure(figsize=(10, height), layout="constrained")
            plots.draw_rounding(found[ROUNDING], tables["same"])
    return found


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _signed(fraction: float) -> str:
    """Never -0.00."""
    return f"{round(100 * fraction, 2) + 0:+.2f}"
