"""How far a measured accuracy can be trusted."""

from __future__ import annotations

from scipy.stats import binomtest

from digits.card import Card

Interval = tuple[float, float]


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
