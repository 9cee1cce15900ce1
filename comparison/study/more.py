"""How many seeds more it takes until no pair of a study is left undecided, and which of them fit into a time.

The number follows from how far seeds spread, and not from the difference between two recipes: a number that was chosen by the
difference, tested together with what it was chosen by, would call more equal recipes different than promised (7 % where 5 %
are, simulated, after ten seeds; chosen by the spread 5.0 to 5.6 %).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comparison.study.statistics import Answers, Comparison, seeds_by_spread
from training.study import Run


@dataclass(frozen=True, kw_only=True)
class More:
    """The plan, printed before the first of these runs begins."""

    seeds: dict[str, int]  # recipe -> how many it is to have, of those that get more
    runs: int
    seconds: float
    undecided: int  # pairs
    without: tuple[tuple[str, str], ...]  # undecided pairs that get none: too long, or no number of seeds is enough


def more_seeds(
    comparisons: Sequence[Comparison],
    answers: Mapping[str, Answers],
    runs: Sequence[Run],
    *,
    most_seconds: float,
    jobs: int,
) -> More:
    """For each undecided pair the seeds that a verdict takes with 90 % power if its recipes are equal; the soonest first.

    Args:
        comparisons: a table of pairs, whose correction the number allows for.
        runs: that are there, for how long one takes.
        most_seconds: that all of them together may take.
        jobs: runs at once.
    """
    seconds_of = {
        name: statistics.median(run.train_seconds + run.import_seconds for run in runs if run.name == name) / jobs
        for name in answers
    }
    has = {name: len(of_recipe.seeds) for name, of_recipe in answers.items()}
    open_ones = [row for row in comparisons if row.verdict == "undecided" and row.corrected is not None]
    open_ones = [row for row in open_ones if not row.identical]
    needed = {
        (row.first, row.second): seeds_by_spread(answers[row.first], answers[row.second], tested=len(comparisons))
        for row in open_ones
    }

    def takes(plan: Mapping[str, int]) -> float:
        return sum((seeds - has[name]) * seconds_of[name] for name, seeds in plan.items())

    def with_pair(plan: Mapping[str, int], pair: tuple[str, str], seeds: int) -> dict[str, int]:
        return {**plan, **{name: max(seeds, plan.get(name, has[name])) for name in pair}}

    plan: dict[str, int] = {}
    waiting = {pair: seeds for pair, seeds in needed.items() if seeds is not None}
    while waiting:
        pair = min(waiting, key=lambda one: takes(with_pair(plan, one, waiting[one])))
        larger = with_pair(plan, pair, waiting[pair])
        if takes(larger) > most_seconds:
            break
        plan = larger
        del waiting[pair]
    plan = {name: seeds for name, seeds in plan.items() if seeds > has[name]}
    return More(
        seeds=plan,
        runs=sum(seeds - has[name] for name, seeds in plan.items()),
        seconds=takes(plan),
        undecided=len(open_ones),
        without=tuple(pair for pair, seeds in needed.items() if seeds is None or pair in waiting),
    )
