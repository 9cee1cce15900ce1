"""A/A tests: runs of one recipe, split at random into two groups, as if they were of two recipes.

Nothing differs between the groups but chance, so whatever share of the splits is called different is the rate of false
findings of the comparison as it stands, on real runs and not on simulated ones. `samedigit study` promises LEVEL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from comparison.intervals import Interval
from comparison.study.statistics import LEVEL, MARGIN, Answers, compare_pairs

SIZES: Final = (3, 5, 10, 20)  # runs in each group
SPLITS: Final = 1000  # random ones of each size


@dataclass(frozen=True, kw_only=True)
class Size:
    """What came of the splits into two groups of so many runs. Splits share runs, so the interval of a rate is too narrow."""

    runs: int  # in each group
    splits: int
    different: int  # splits called different
    equivalent: int
    level: float = LEVEL

    @property
    def rate(self) -> float:
        """Of false findings, in [0, 1]."""
        return self.different / self.splits

    @property
    def interval(self) -> Interval:
        """Of the rate, 95 % (Clopper and Pearson 1934), as if the splits were independent of each other."""
        found = binomtest(self.different, self.splits).proportion_ci(0.95)
        return float(found.low), float(found.high)

    @property
    def keeps_its_promise(self) -> bool:
        """Whether the rate is not shown to be above what is promised."""
        return self.interval[0] <= self.level

    @property
    def decides(self) -> float:
        """The share of splits with a verdict, in [0, 1]: at these sizes a rightful one is "equivalent"."""
        return (self.equivalent + self.different) / self.splits


def split_at_random(
    answers: Answers, *, sizes: Sequence[int] = SIZES, splits: int = SPLITS, margin: float = MARGIN, seed: int = 1
) -> list[Size]:
    """Of each size that the runs suffice for, what the comparison of two groups says, in so many random splits.

    Raises:
        ValueError: a size below 2, of which nothing can be said.
    """
    if any(size < 2 for size in sizes):
        raise ValueError(f"expected groups of two runs or more, got {sizes}")
    random = np.random.default_rng(seed)
    found = []
    for size in sizes:
        if 2 * size > len(answers.seeds):
            continue
        verdicts = []
        for _ in range(splits):
            drawn = random.permutation(len(answers.seeds))
            groups = {name: _group(answers, drawn[part], name) for name, part in _parts(size).items()}
            (compared,) = compare_pairs(groups, [("first", "second")], margin=margin)
            verdicts.append(compared.verdict)
        found.append(
            Size(
                runs=size,
                splits=splits,
                different=verdicts.count("different"),
                equivalent=verdicts.count("equivalent"),
            )
        )
    return found


def fewest(sizes: Sequence[Size], *, decided: float = 0.5) -> int | None:
    """The fewest runs in a group at which, here and above, the promise is kept and so many of the splits are decided."""
    enough = None
    for size in sorted(sizes, key=lambda each: -each.runs):
        if not (size.keeps_its_promise and size.decides >= decided):
            break
        enough = size.runs
    return enough


def _parts(size: int) -> dict[str, slice]:
    return {"first": slice(0, size), "second": slice(size, 2 * size)}


def _group(answers: Answers, places: npt.NDArray[np.int64], name: str) -> Answers:
    return replace(
        answers,
        recipe=name,
        seeds=tuple(range(1, len(places) + 1)),
        digits=answers.digits[places],
        correct=answers.correct[places],
        histories=tuple(answers.histories[place] for place in places),
    )
