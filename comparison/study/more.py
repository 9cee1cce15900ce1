"""How many seeds more it takes until no pair of a study is left undecided, and which of them fit into a time.

The number follows from how far seeds spread, and not from the difference between two recipes: a number that was chosen by the
difference, tested together with what it was chosen by, would call more equal recipes different than promised (7 % where 5 %
are, simulated, after ten seeds). For the same reason a pair does not stop at the first verdict, but at one that is far surer
than asked (the rule of Haybittle 1971 and Peto 1976 for looks before the last), or once it has the seeds that its spread asks
for: stopping at the first verdict calls up to 10 % of equal recipes different, this 5 to 6 % (simulated, standard deviations of
0.17 to 0.5 points).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from comparison.study.statistics import Answers, Comparison, seeds_by_spread
from training.study import Run

SURE: Final = 0.001  # corrected p of a verdict at which a pair gets no more seeds


@dataclass(frozen=True, kw_only=True)
class More:
    """The plan, printed before the first of these runs begins."""

    seeds: dict[str, int]  # recipe -> how many it is to have, of those that get more
    runs: int
    seconds: float
    undecided: int  # pairs
    unsure: int  # pairs with a verdict, and fewer seeds than their spread asks for
    without: tuple[tuple[str, str], ...]  # of both, those that get none: too long, or no number of seeds is enough


def more_seeds(
    comparisons: Sequence[Comparison],
    answers: Mapping[str, Answers],
    runs: Sequence[Run],
    *,
    most_seconds: float,
    jobs: int,
) -> More:
    """For each pair that is not sure the seeds that a verdict takes in 90 of 100 studies of equal recipes; the soonest first.

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
    needed: dict[tuple[str, str], int | None] = {}
    unsure = 0
    for row in comparisons:
        if row.corrected is None or row.corrected_equivalent is None or row.identical:
            continue
        seeds = seeds_by_spread(answers[row.first], answers[row.second], tested=len(comparisons))
        if row.verdict != "undecided":
            if min(row.corrected, row.corrected_equivalent) <= SURE or (seeds is not None and seeds <= row.seeds):
                continue
            unsure += 1
        needed[row.first, row.second] = seeds

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
        undecided=len(needed) - unsure,
        unsure=unsure,
        without=tuple(pair for pair, seeds in needed.items() if seeds is None or pair in waiting),
    )
