"""How far a measured accuracy can be trusted."""

from __future__ import annotations

import math

import pytest
from test_report import made_up_model

from comparison.intervals import card_interval, overlap, wilson


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
