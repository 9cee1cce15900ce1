"""What to choose when: sentences computed from the tables of a study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from comparison.words import join

Row = Mapping[str, Any]


def advise(
    comparisons: Sequence[Row],
    costs: Sequence[Row],
    tracks: Sequence[Row],
    usabilities: Sequence[Row],
    time_to_accuracy: Row | None = None,
) -> list[str]:
    """One sentence for each thing that a reader may choose by; nothing where there is only one framework to choose.

    Args:
        comparisons: the rows of pairs, with `first`, `second`, `verdict` and `differs_in`.
        costs: a row per recipe, with `framework`, `mathematics`, alike for recipes that differ in their framework alone,
            `fastest_epoch_seconds`, `import_seconds` and `peak_memory_mb`.
        tracks: rows with `framework`, `track` and `epoch_seconds`; empty where they were not measured.
        usabilities: a row per framework, with `logical_lines`.
        time_to_accuracy: `target` and `rows` with `framework`, `track`, `seeds`, `reached`, `seconds` (the median) and its
            `interval`; None where it was not measured.
    """
    frameworks = list(dict.fromkeys(row["framework"] for row in costs))
    if len(frameworks) < 2:
        return []
    shared = _shared(costs, frameworks)
    framework_of = {row["recipe"]: row["framework"] for row in costs}
    across = [row for row in comparisons if framework_of[row["first"]] != framework_of[row["second"]]]
    found = [
        *_by_accuracy(across),
        _by_defaults(across),
        _least(
            "What trains an epoch soonest in its readable form (plain code, no fast path)",
            shared,
            frameworks,
            "fastest_epoch_seconds",
            "s",
            2,
        ),
        *_by_track(tracks),
        _by_time_to(time_to_accuracy),
        _least(
            "What starts soonest, from a fresh process to the imported trainer",
            shared,
            frameworks,
            "import_seconds",
            "s",
            1,
        ),
        _least("What holds least memory while it trains", shared, frameworks, "peak_memory_mb", "MB", 0),
        _by_lines([row for row in usabilities if row["framework"] in frameworks]),
    ]
    return [sentence for sentence in found if sentence]


def _shared(costs: Sequence[Row], frameworks: Sequence[str]) -> list[Row]:
    """The recipes whose mathematics every framework has: over others, frameworks would be compared by what they were given."""
    having: dict[str, set[str]] = {}
    for row in costs:
        having.setdefault(row["mathematics"], set()).add(row["framework"])
    return [row for row in costs if having[row["mathematics"]] == {*frameworks}]


def _by_accuracy(pairs: Sequence[Row]) -> list[str]:
    """By pairs of one mathematics, of those in two frameworks: no other pair says something of the frameworks.

    A pair that is not decided is no reason for anything, and is said to be none.
    """
    same = [row for row in pairs if not row["differs_in"]]
    if not same:
        return []
    different = [row for row in same if row["verdict"] == "different"]
    open_ones = [row for row in same if row["verdict"] == "undecided"]
    compared = f"{len(same)} pair{'s' if len(same) > 1 else ''} of one recipe written in two frameworks"
    if different:
        said = f"By accuracy, of {compared}, shown to differ: {_named(different)}. Ask why before choosing by it."
    elif not open_ones:
        return [
            f"By accuracy, there is nothing to choose between frameworks: all of {compared} are shown to be equivalent."
        ]
    else:
        said = f"By accuracy, of {compared}, none is shown to differ."
    if open_ones:
        said += (
            f" Not decided {'is' if len(open_ones) == 1 else 'are'} {_named(open_ones)}: no reason to choose, and none to "
            "take the frameworks for equal; more seeds would say."
        )
    return [said]


def _by_defaults(pairs: Sequence[Row]) -> str:
    """What came of pairs that differ in more than the framework, which is no reason to choose one."""
    others = [row for row in pairs if row["differs_in"]]
    if not others:
        return ""
    of_verdict = {
        verdict: [row for row in others if row["verdict"] == verdict]
        for verdict in ("equivalent", "different", "undecided")
    }
    said = f"{len(of_verdict['equivalent'])} of {len(others)} are shown to be equivalent"
    if different := of_verdict["different"]:
        told = join(what for row in different for what in row["differs_in"])
        said += f"; shown to differ: {_named(different)}, which differ in {told}"
    if open_ones := of_verdict["undecided"]:
        said += f"; not decided: {_named(open_ones)}"
    return (
        f"Of pairs of one network that differ in more than their frameworks, such as where weights start, {said}. "
        "What differs there is a setting to make, and no framework to choose."
    )


def _named(pairs: Sequence[Row]) -> str:
    return join(f"{row['first']} with {row['second']}" for row in pairs)


def _by_track(tracks: Sequence[Row]) -> list[str]:
    if not tracks:
        return []
    ranked = sorted(tracks, key=lambda row: float(row["epoch_seconds"]))
    best = ranked[0]
    others = join(f"{row['framework']} ({row['track']}) {row['epoch_seconds']:.2f} s" for row in ranked[1:])
    return [
        f"With every fast path used (best effort), on the same network: {best['framework']} ({best['track']}) with "
        f"{best['epoch_seconds']:.2f} s an epoch, after {best['paid_once_seconds']:.1f} s paid once; then {others}."
    ]


def _by_time_to(measured: Row | None) -> str:
    """Of those that got there from every seed; an order of medians, of which the intervals say how sure it is."""
    if measured is None:
        return ""
    there = [row for row in measured["rows"] if row["reached"] == row["seeds"]]
    ranked = sorted(there, key=lambda row: float(row["seconds"]))

    def text(row: Row) -> str:
        bounds = row["interval"]
        covers = f" ({bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else ""
        return f"{row['framework']} ({row['track']}) {row['seconds']:.1f} s{covers}"

    if not ranked:
        return ""
    return (
        f"From the start of the program to {100 * measured['target']:g} % of held-out training images right, imports and "
        f"compiling included, of what got there from all of {ranked[0]['seeds']} seeds, the median with its 95 % interval: "
        f"{join(map(text, ranked))}."
    )


def _by_lines(usabilities: Sequence[Row]) -> str:
    ranked = sorted(usabilities, key=lambda row: int(row["logical_lines"]))
    listed = join(f"{row['framework']} {row['logical_lines']}" for row in ranked)
    return f"What takes least writing, in logical lines (statements) of our trainers: {listed}."


def _least(question: str, shared: Sequence[Row], frameworks: Sequence[str], key: str, unit: str, decimals: int) -> str:
    """Frameworks by the median over the recipes that all have, the least first; nothing where there is none."""
    if not shared:
        return ""

    def median(framework: str) -> float:
        return statistics.median(float(row[key]) for row in shared if row["framework"] == framework)

    def text(number: float) -> str:
        return f"{number:,.{decimals}f} {unit}"

    networks = len({row["mathematics"] for row in shared})
    over = "the one recipe" if networks == 1 else f"the {networks} recipes"
    ranked = [f"{framework} {text(median(framework))}" for framework in sorted(frameworks, key=median)]
    return f"{question}, median over {over} that all have, timed while other runs went on beside: {join(ranked)}."
