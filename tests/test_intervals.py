"""How far a measured accuracy can be trusted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from test_report import made_up_model

from comparison.intervals import card_interval, log_interval, median_interval, overlap, wilson


@pytest.mark.parametrize(("correct", "total"), [(9786, 10_000), (0, 10), (10, 10), (1, 1)])
def test_wilson_is_wilsons_interval(correct: int, total: int) -> None:
    z, share = 1.959963984540054, correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    assert wilson(correct, total) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_a_card_has_the_interval_of_its_mean_accuracy() -> None:
    assert card_interval(made_up_model("torch-relu", "torch", 9786).card) == wilson(9786, 10_000)


def test_intervals_overlap() -> None:
    assert overlap((0.1, 0.3), (0.3, 0.4))
    assert overlap((0.3, 0.4), (0.1, 0.3))
    assert overlap((0.0, 1.0), (0.4, 0.5))
    assert not overlap((0.1, 0.2), (0.3, 0.4))


@pytest.mark.parametrize("values", [[2.0, 3.0, 5.0, 4.0], [0.9, 1.1], [7.0, 7.0, 7.0]])
def test_the_interval_of_a_mean_of_logarithms_is_students(values: list[float]) -> None:
    logs = np.log(values)
    for error in (0.05, 0.002):
        half = stats.t.isf(error / 2, len(values) - 1) * stats.sem(logs)
        expected = (math.exp(logs.mean() - half), math.exp(logs.mean() + half))
        assert log_interval(values, error=error) == pytest.approx(expected)
    assert log_interval(values) == log_interval(values, error=0.05)


def test_one_value_has_no_interval_of_a_mean() -> None:
    assert log_interval([5.0]) is None
    assert log_interval([]) is None


@pytest.mark.parametrize(("number", "rank"), [(1, None), (5, None), (6, 1), (8, 1), (9, 2), (20, 6), (30, 10)])
def test_the_interval_of_a_median_lies_between_two_of_the_values(number: int, rank: int | None) -> None:
    """With the rank-th least and the rank-th largest, by the table that stands in books on order statistics."""
    values = np.random.default_rng(1).permutation(np.arange(1.0, number + 1)).tolist()
    assert median_interval(values) == (None if rank is None else (rank, number + 1 - rank))
