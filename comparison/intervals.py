"""How far a measured figure can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.stats import binomtest

from digits.card import Card

Interval = tuple[float, float]
CONFIDENCE: Final = 0.95


def wilson(correct: int, total: int) -> Interval:
    """The 95 % Wilson interval, in [0, 1], of an accuracy of `correct` in `total`, which is at least 1.

    It is about which images happened to be in the test set, and says nothing of what another seed would have given.
    """
    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def card_interval(card: Card) -> Interval:
    """The interval of the model's accuracy, that is of the mean over its backends."""
    total = next(iter(card.scores.values())).total
    return wilson(round(card.accuracy * total), total)


def overlap(first: Interval, second: Interval) -> bool:
    return first[0] <= second[1] and second[0] <= first[1]


def log_interval(
    values: Sequence[float] | npt.NDArray[np.float64], *, error: float = 1 - CONFIDENCE
) -> Interval | None:
    """Student's t interval of the mean of the logarithms, as a factor; None of fewer than two values."""
    if len(values) < 2:
        return None
    logs = np.log(np.asarray(values, np.float64))
    half = float(stats.t.ppf(1 - error / 2, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(float(logs.mean()) - half), math.exp(float(logs.mean()) + half)


def median_interval(values: Sequence[float]) -> Interval | None:
    """At least 95 %, between two of the values: by how many can lie below a median (Thompson 1936). None: too few values."""
    ordered = np.sort(values)
    number = len(ordered)
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, number, 0.5))
    # The median lies between the rank-th smallest and largest unless fewer than `rank` lie on one side.
    if rank < 1:
        return None
    return float(ordered[rank - 1]), float(ordered[number - rank])
