"""What to choose a framework by: sentences and a table, computed from the tables of a study."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparison.words import join

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Price:
    """What each framework takes in one respect, in which less is better."""

    of: str
    takes: dict[str, str]  # a figure with its unit, by framework; those that were measured
    least: str  # the framework that takes least
    sure: str  # how sure that is


def advise(comparisons: Sequence[Row], costs: Sequence[Row]) -> list[str]:
    """What accuracy says of the choice; nothing where there is only one framework to choose.

    Args:
        comparisons: the rows of pairs, with `first`, `second`, `verdict` and `differs_in`.
        costs: a row per recipe, with `recipe` and `framework`.
    """
    framework_of = {row["recipe"]: row["framework"] for row in costs}
    across = [row for row in comparisons if framework_of[row["first"]] != framework_of[row["second"]]]
    return [sentence for sentence in (_by_accuracy(across), _by_defaults(across)) if sentence]


def prices(
    costs: Sequence[Row], best_effort: Row | None, time_to_accuracy: Row | None, usabilities: Sequence[Row]
) -> list[Price]:
    """A row for each thing that a reader may choose by, besides accuracy; none where there is one framework to choose.

    Args:
        costs: a row per recipe, with `framework`, `work`, alike for recipes with the same to compute in an epoch,
            `fastest_epoch_seconds`, `import_seconds` and `peak_memory_mb`.
        best_effort: `rounds` and `rows` with `framework`, `epoch_seconds` and `paid_once_seconds`; None where it was not
            measured.
        time_to_accuracy: `target` and `rows` with `framework`, `track`, `seeds`, `reached`, `seconds` (the median) and its
            `interval`; None where it was not measured.
        usabilities: a row per framework, with `logical_lines` and `installed_mb`.
    """
    frameworks = list(dict.fromkeys(row["framework"] for row in costs))
    if len(frameworks) < 2:
        return []
    shared = _shared(costs, frameworks)
    of_all = [row for row in usabilities if row["framework"] in frameworks]
    found = [
        _time_to(time_to_accuracy),
        _over_networks("an epoch, as plain code", shared, frameworks, "fastest_epoch_seconds", lambda s: f"{s:.2f} s"),
        _fast_path(best_effort),
        _over_networks("importing the trainer", shared, frameworks, "import_seconds", lambda s: f"{s:.1f} s"),
        _over_networks("memory while it trains", shared, frameworks, "peak_memory_mb", lambda mb: f"{mb:,.0f} MB"),
        _counted("on disk, without what it needs", of_all, "installed_mb", " MB"),
        _counted("statements in our trainer", of_all, "logical_lines", ""),
    ]
    return [price for price in found if price is not None]


def _shared(costs: Sequence[Row], frameworks: Sequence[str]) -> list[Row]:
    """The recipes whose work every framework has: over others, frameworks would be compared by what they were given."""
    having: dict[str, set[str]] = {}
    for row in costs:
        having.setdefault(row["work"], set()).add(row["framework"])
    return [row for row in costs if having[row["work"]] == {*frameworks}]


def _by_accuracy(pairs: Sequence[Row]) -> str:
    """By pairs of one mathematics, of those in two frameworks: no other pair says something of the frameworks.

    A pair that is not decided is no reason for anything, and is said to be none.
    """
    same = [row for row in pairs if not row["differs_in"]]
    if not same:
        return ""
    different = [row for row in same if row["verdict"] == "different"]
    open_ones = [row for row in same if row["verdict"] == "undecided"]
    compared = f"{len(same)} pair{'s' if len(same) > 1 else ''} of one recipe written in two frameworks"
    if different:
        said = f"By accuracy, of {compared}, shown to differ: {_named(different)}. Ask why before choosing by it."
    elif not open_ones:
        return (
            f"By accuracy, there is nothing to choose between frameworks: all of {compared} are shown to be equivalent."
        )
    else:
        said = f"By accuracy, of {compared}, none is shown to differ."
    if open_ones:
        said += (
            f" Not decided {'is' if len(open_ones) == 1 else 'are'} {_named(open_ones)}: no reason to choose, and none to "
            "take the frameworks for equal; more seeds would say."
        )
    return said


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


def _time_to(measured: Row | None) -> Price | None:
    """Of each framework its sooner form, of those that got there from every seed."""
    if measured is None:
        return None
    there = [row for row in measured["rows"] if row["reached"] == row["seeds"]]
    best = _best_of_each(there, "seconds")
    if len(best) < 2:
        return None

    def text(row: Row) -> str:
        bounds = row["interval"]
        return f"{row['seconds']:.1f} s" + (f" ({bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else "")

    first, *others = best
    if any(row["interval"] is None for row in best):
        sure = f"medians of {first['seeds']} seeds: too few for an interval"
    elif all(first["interval"][1] < row["interval"][0] for row in others):
        sure = f"medians of {first['seeds']} seeds; its 95 % interval lies below every other"
    else:
        sure = f"medians of {first['seeds']} seeds; 95 % intervals overlap: not decided"
    return Price(
        of=f"from the start to {100 * measured['target']:g} % of held-out images right, compiling included",
        takes={row["framework"]: text(row) for row in best},
        least=first["framework"],
        sure=sure,
    )


def _fast_path(measured: Row | None) -> Price | None:
    """Of each framework its faster form."""
    if measured is None:
        return None
    best = _best_of_each(measured["rows"], "epoch_seconds")
    return Price(
        of="an epoch on its fastest path, and what that takes once",
        takes={
            row["framework"]: f"{row['epoch_seconds']:.2f} s, {row['paid_once_seconds']:.1f} s once" for row in best
        },
        least=best[0]["framework"],
        sure=f"medians of {measured['rounds']} rounds side by side, of an epoch alone",
    )


def _best_of_each(rows: Sequence[Row], key: str) -> list[Row]:
    """The least row of each framework, the least first."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: float(row[key])):
        best.setdefault(row["framework"], row)
    return [*best.values()]


def _over_networks(
    of: str, shared: Sequence[Row], frameworks: Sequence[str], key: str, text: Callable[[float], str]
) -> Price | None:
    """By the median over the networks that all have, and in how many of these the same framework is least."""
    if not shared:
        return None
    of_network: dict[str, dict[str, list[float]]] = {}
    for row in shared:
        of_network.setdefault(row["work"], {}).setdefault(row["framework"], []).append(float(row[key]))
    # Of each network first: a framework with two recipes of one would count that twice.
    of_each = [{name: statistics.median(them) for name, them in found.items()} for found in of_network.values()]
    takes = {name: statistics.median(one[name] for one in of_each) for name in frameworks}
    least = min(frameworks, key=takes.__getitem__)
    won = sum(min(one, key=one.__getitem__) == least for one in of_each)
    return Price(
        of=of,
        takes={framework: text(takes[framework]) for framework in frameworks},
        least=least,
        sure=f"least in {won} of the {len(of_each)} networks that all have"
        if len(of_each) > 1
        else "of the one network that all have",
    )


def _counted(of: str, usabilities: Sequence[Row], key: str, unit: str) -> Price | None:
    known = {row["framework"]: row[key] for row in usabilities if row[key] is not None}
    if not known:
        return None
    return Price(
        of=of,
        takes={framework: f"{number:,.0f}{unit}" for framework, number in known.items()},
        least=min(known, key=known.__getitem__),
        sure="counted, not estimated",
    )
