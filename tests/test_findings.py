"""What a study's numbers say, word for word: each sentence of numbers that were made up for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparison.intervals import Interval
from comparison.study.findings import finding_of_writers, findings
from comparison.study.statistics import Accuracy, Agreement, Comparison, Mean, Reproduction

MEAN = Mean(value=0.97, over_seeds=(0.96, 0.98), over_images=(0.966, 0.974), over_both=(0.955, 0.985))
PAIR = Comparison(
    first="a", second="b", seeds=10, identical=False, difference=replace(MEAN, value=0.0), mcnemar=(), margin=0.0025,
    p_seeds=1.0, p_equivalent_seeds=1.0, p_both=1.0, p_equivalent_both=1.0, together=(-0.01, 0.01), seeds_needed=None,
    corrected=1.0, corrected_equivalent=1.0,
)  # fmt: skip


def accuracy(recipe: str, value: float, *, seeds: int = 10, deviation: float | None = 0.001) -> Accuracy:
    mean = replace(MEAN, value=value, over_both=(value - 0.01, value + 0.01) if deviation is not None else None)
    return Accuracy(recipe=recipe, seeds=seeds, mean=mean, deviation=deviation, lowest=0.9, highest=1.0)


def pair(
    first: str, second: str, points: float, together: Interval = (-0.01, 0.01), /, **more: float | None
) -> Comparison:
    changed = {"together": together, "difference": replace(MEAN, value=points / 100), **more}
    return replace(PAIR, first=first, second=second, **changed)  # type: ignore[arg-type]


def said(
    *,
    accuracies: tuple[Accuracy, ...] = (),
    pairs: tuple[Comparison, ...] = (),
    reproductions: tuple[Reproduction, ...] = (),
    agreements: tuple[Agreement, ...] = (),
    wrong: tuple[int, ...] = (),
) -> list[str]:
    return findings(accuracies, pairs, reproductions, agreements, wrong)


def test_nothing_is_said_of_nothing() -> None:
    assert said() == []
    assert said(wrong=(1, 2)) == []


def test_accuracies_from_the_least_to_the_largest() -> None:
    one = accuracy("a", 0.97)
    assert said(accuracies=(one,))[0] == (
        "The mean accuracy on the test images is 97.00 % (a, 10 seeds; 95 % interval over seeds and test images 96.00 to "
        "98.00)."
    )
    single = accuracy("c", 0.99, seeds=1, deviation=None)
    assert said(accuracies=(one, single, accuracy("b", 0.95)))[0] == (
        "The mean accuracies on the test images lie between 95.00 % (b, 10 seeds; 95 % interval over seeds and test images "
        "94.00 to 96.00) and 99.00 % (c, 1 seed; 95 % interval over test images alone 96.60 to 97.40). Which recipes between "
        "them differ, this order does not say; the comparisons do."
    )


def test_how_far_single_runs_lie_apart() -> None:
    """t with 9 degrees of freedom is 2.2622, with 4 it is 2.7764."""
    wide, narrow = accuracy("a", 0.97, deviation=0.002), accuracy("b", 0.97, seeds=5)
    assert said(accuracies=(wide,))[1] == (
        "From seed to seed, a run typically lies 0.20 points (a) from the mean of its recipe (the standard deviation). Chance "
        "alone therefore sets two single runs of one recipe apart by up to 0.64 points (a) in 95 of 100 cases: a smaller "
        "difference between single runs says nothing."
    )
    single, other = (accuracy(name, 0.97, seeds=1, deviation=None) for name in "cd")
    assert said(accuracies=(wide, narrow, single))[1] == (
        "From seed to seed, a run typically lies 0.10 (b) to 0.20 points (a) from the mean of its recipe (the standard "
        "deviation). Chance alone therefore sets two single runs of one recipe apart by up to 0.39 points (b) and 0.64 points "
        "(a) in 95 of 100 cases: a smaller difference between single runs says nothing. c was trained from one seed only: how "
        "accuracy differs from seed to seed is unknown there, so no difference to another recipe can be shown, no equivalence, "
        "and no reproduction."
    )
    assert said(accuracies=(single, other))[1].startswith(
        "c and d were trained from one seed only: how accuracy differs"
    )


def test_differences_are_named_the_largest_first_and_the_better_recipe_first() -> None:
    shown = {"corrected": 0.01}
    four = (
        pair("a", "b", 0.3, (0.001, 0.005), **shown), pair("c", "d", -0.9, (-0.012, -0.006), **shown),
        pair("e", "f", 0.1, (0.0001, 0.0019), corrected_equivalent=0.01, **shown), pair("g", "h", 0.5, (0.003, 0.007), **shown),
    )  # fmt: skip
    scope = "4 pairs were compared, over seeds and test images; in 95 of 100 such studies not one verdict is wrong"
    assert said(pairs=four)[0] == (
        f"Shown to be different in accuracy: 4 pairs ({scope}). The largest: d over c by 0.90 points (95 % interval 0.60 to "
        "1.20); g over h by 0.50 points (95 % interval 0.30 to 0.70); a over b by 0.30 points (95 % interval 0.10 to 0.50). Of "
        "these, 1 pair is also shown to be closer than 0.25 points: real, but small."
    )
    small = replace(four[0], corrected_equivalent=0.05, together=None)
    assert said(pairs=(small, four[2]))[0] == (
        f"Shown to be different in accuracy: 2 pairs ({scope.replace('4', '2')}). a over b by 0.30 points (95 % interval 96.60 "
        "to 97.40); e over f by 0.10 points (95 % interval 0.01 to 0.19). Of these, 2 pairs are also shown to be closer than "
        "0.25 points: real, but small."
    )
    alone = scope.replace("4 pairs were", "1 pair was")
    assert said(pairs=(replace(PAIR, seeds_needed=9),))[0] == f"No difference in accuracy is shown ({alone})."
    assert said(pairs=(replace(PAIR, corrected=None),)) == []


def test_equivalent_pairs_are_named_the_nearest_first() -> None:
    shown = {"corrected_equivalent": 0.05}
    three = (pair("a", "b", -0.2, **shown), pair("c", "d", 0.1, **shown), pair("e", "f", 0.0, **shown))
    assert said(pairs=three)[1] == (
        "Shown to be equivalent, that is closer than 0.25 points: 3 pairs, namely e and f; c and d; a and b."
    )
    assert said(pairs=(*three, pair("g", "h", 0.15, **shown)))[1] == (
        "Shown to be equivalent, that is closer than 0.25 points: 4 pairs, among them e and f; c and d; g and h."
    )
    identical = replace(PAIR, identical=True, corrected=None, corrected_equivalent=None, seeds=1)
    same = "a and b give the same answer to every test image, from the one seed that both have."
    assert said(pairs=(identical,)) == [same]
    assert said(pairs=(three[2], replace(identical, seeds=4)))[1] == (
        "Shown to be equivalent, that is closer than 0.25 points: 1 pair, namely e and f. "
        + same.replace("the one seed", "all 4 seeds")
    )


def test_what_is_not_decided_is_told_with_the_seeds_that_it_takes() -> None:
    near, far = pair("a", "b", 0.1, seeds_needed=20), pair("c", "d", -0.2, seeds_needed=35)
    never = pair("e", "f", 0.15)
    undecided = "the data do not decide, which is not the same as being equal. "
    takes = "By the spread so far, and if the differences are as measured, a verdict takes about"
    beyond = (
        "Of 1 pair not even 1000 seeds would decide: the difference lies too near to 0.25 points, or the test images are "
        "too few."
    )
    assert said(pairs=(near, far, never))[1] == (
        "Neither a difference nor equivalence within 0.25 points is shown for 3 pairs, namely c and d; e and f; a and b: "
        f"{undecided}{takes} 20 to 35 seeds of each recipe. {beyond}"
    )
    assert said(pairs=(near,))[1].endswith(f"for 1 pair, namely a and b: {undecided}{takes} 20 seeds of each recipe.")
    assert said(pairs=(never,))[1].endswith(f"{undecided}{beyond}")
    assert len(said(pairs=(replace(near, identical=True),))) == 2  # one and the same is no open question
    assert said(pairs=(replace(near, identical=True),))[1].startswith("a and b give the same answer")


def test_published_figures_lie_inside_or_outside() -> None:
    inside = Reproduction(recipe="a", reported=0.97, seeds=3, mean=0.97, single_run=(0.96, 0.98))
    below, above = replace(inside, recipe="b", reported=0.95), replace(inside, recipe="c", reported=0.99)
    unknown = replace(inside, recipe="d", single_run=None)
    agrees = (
        "The published accuracy lies within what a single run of ours gives for a. That does not prove that it was trained in "
        "the same way; it does not contradict it."
    )
    outside = (
        " lies outside what a single run of ours gives for b (published 95.00, below the 96.00 to 98.00 of a single run); c "
        "(published 99.00, above the 96.00 to 98.00 of a single run). Chance alone puts one figure in 20 outside; else "
        "something was different there."
    )
    assert said(reproductions=(inside, unknown)) == [agrees]
    assert said(reproductions=(below, above)) == [f"The published accuracy{outside}"]
    assert said(reproductions=(below, inside, above)) == [f"{agrees} It{outside}"]
    assert said(reproductions=(unknown,)) == []


def test_how_often_two_runs_agree_within_a_recipe_and_between_two() -> None:
    rows = tuple(
        Agreement(first=first, second=second, majorities=0.5, single_runs=share)
        for first, second, share in (("a", "a", 0.981), ("a", "b", 0.97), ("b", "b", 0.985), ("c", "c", None))
    )
    assert said(agreements=rows) == [
        "Two runs of one recipe with different seeds give the same digit to 98.10 to 98.50 % of the test images; two runs of "
        "different recipes to 97.00 %."
    ]
    assert said(agreements=rows[:1]) == said(agreements=rows[1:2]) == []


@pytest.mark.parametrize(
    ("wrong", "words"), [((), "none are"), ((4,), "1 is"), ((4, 9), "2 are")], ids=["none", "one", "two"]
)
def test_images_that_every_run_gets_wrong_are_counted(wrong: tuple[int, ...], words: str) -> None:
    runs = accuracy("a", 0.97, seeds=2)
    assert said(accuracies=(runs,), wrong=wrong)[-1] == (
        f"Of the test images, {words} answered wrongly by every one of the 2 runs."
    )
    assert "answered wrongly" not in said(accuracies=(accuracy("a", 0.97, seeds=1, deviation=None),), wrong=wrong)[-1]


SAME_PEOPLE = "The test images are of 297 people, and these intervals are about other images of the same people."
PEOPLE = f"{SAME_PEOPLE} For other people's, "


def wider(mean: Mean, times: float) -> Mean:
    assert mean.over_both is not None
    return replace(mean, over_both=(mean.value - times * 0.01, mean.value + times * 0.01))


def test_what_other_people_would_change_is_said_of_accuracies_and_of_differences() -> None:
    one, other = accuracy("a", 0.97), accuracy("b", 0.98)
    accuracies = [(each, replace(each, mean=wider(each.mean, times))) for each, times in ((one, 1.64), (other, 2.0))]
    assert finding_of_writers(297, [], []) == ""
    assert finding_of_writers(297, accuracies[:1], []) == (
        f"{PEOPLE}the intervals of mean accuracies must be 1.6 times as wide."
    )
    said_of_both = f"{PEOPLE}the intervals of mean accuracies must be 1.6 to 2.0 times as wide"
    assert finding_of_writers(297, accuracies, [(pair("a", "b", 0, corrected=None), PAIR)]) == f"{said_of_both}."
    equal = pair("a", "b", 0, corrected=1.0, corrected_equivalent=0.01)
    equal = replace(equal, difference=wider(equal.difference, 1))
    as_wide = replace(equal, difference=wider(equal.difference, 1.2))
    said_of_all = f"{said_of_both}, those of differences, whose two networks read the same images, 1.0 to 1.2 times; "
    pairs = [(equal, equal), (equal, as_wide)]
    assert finding_of_writers(297, accuracies, pairs) == f"{said_of_all}each verdict is the same."
    open_one = replace(as_wide, corrected_equivalent=0.06)
    pairs[1] = (equal, open_one)
    assert finding_of_writers(297, accuracies, pairs) == f"{said_of_all}another verdict comes out for a and b."
    small = replace(equal, corrected=0.01)
    still = replace(small, corrected_equivalent=0.06, first="c")  # different, and no more within the margin
    pairs += [(small, still)] * 3
    pairs[2] = (replace(small, first="c"), still)
    assert finding_of_writers(297, accuracies, pairs) == (
        f"{said_of_all}another verdict comes out for a and b; c and b; a and b; and 1 pair more."
    )


def test_an_accuracy_of_one_seed_is_compared_over_people_by_its_images_alone() -> None:
    one = accuracy("a", 0.97, deviation=None)
    other = replace(one, mean=replace(one.mean, over_images=(0.958, 0.982)))
    assert finding_of_writers(297, [(one, other)], []).endswith(" must be 3.0 times as wide.")
    certain = replace(one, mean=replace(one.mean, over_images=(1.0, 1.0)))
    assert finding_of_writers(297, [(certain, certain)], []) == ""
