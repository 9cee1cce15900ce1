"""The statistics of a study, against values worked out by hand, enumerated, or simulated from a known truth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import pytest
from scipy import stats
from sklearn import metrics
from statsmodels.formula.api import ols
from statsmodels.stats import weightstats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from comparison import calibration
from comparison.study import aa
from comparison.study.findings import _repeatability, finding_of_splits, findings
from comparison.study.statistics import (
    MARGIN,
    Accuracy,
    Answers,
    Mean,
    Reproduction,
    accuracy,
    agreements,
    all_pairs,
    always_wrong,
    compare_pairs,
    confusion,
    corrected,
    learning_curve,
    mean_interval,
    paired,
    read_answers,
    reproduction,
    seeds_by_spread,
    seeds_for,
)
from digits.card import Epoch
from digits.confidence import at_temperature, fit_temperature
from digits.contract import Labels, Probabilities
from digits.errors import StudyError
from training.study import Run

Correct = npt.NDArray[np.bool_]  # [seeds, images]


def epoch(held_out_accuracy: float = 0.5, loss: float = 1.0) -> Epoch:
    return Epoch(loss=loss, accuracy=0.5, held_out_accuracy=held_out_accuracy, seconds=1.0)


def answers_of(correct: Any, name: str = "a", *, reported: float | None = None, first_seed: int = 1) -> Answers:
    """Answers 0 where the label is 0 and the answer right, else 1."""
    right = np.array(correct, bool)
    return Answers(
        recipe=name,
        reported=reported,
        seeds=tuple(range(first_seed, first_seed + len(right))),
        digits=np.where(right, 0, 1),
        correct=right,
        histories=tuple((epoch(),) for _ in right),
    )


def counts(right: Sequence[int], total: int) -> Correct:
    """For each seed, so many images right: the first ones."""
    return np.arange(total) < np.array(right)[:, None]


def certain(digits: Sequence[int]) -> Probabilities:
    return np.eye(10, dtype=np.float32)[list(digits)]


def write_run(
    folder: Path, seed: int, probabilities: Probabilities, correct: int, *, sha256: str = "1", total: int = 4
) -> Run:
    file = folder / f"seed-{seed:04d}.npz"
    np.savez(file, probabilities=probabilities)
    return Run(
        recipe={"name": "numpy-sigmoid", "seed": seed, "reported": 97.0},
        recipe_sha256=sha256,
        framework="numpy",
        seed=seed,
        correct=correct,
        total=total,
        history=(epoch(),),
        held_out="",
        train_seconds=1.0,
        import_seconds=1.0,
        first_prediction_seconds=1.0,
        peak_memory_mb=1.0,
        device="cpu",
        threads=1,
        versions={},
        machine="",
        finished_at="",
        file=file,
    )


LABELS: Labels = np.array([3, 1, 4, 1], np.uint8)


def test_answers_are_read_by_recipe_and_seed(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, 2, certain([3, 1, 4, 5]), 3), write_run(tmp_path, 1, certain([3, 1, 4, 1]), 4)]
    read = read_answers(runs, LABELS)["numpy-sigmoid"]
    assert read.seeds == (1, 2)
    assert read.reported == pytest.approx(0.97)
    assert read.digits.tolist() == [[3, 1, 4, 1], [3, 1, 4, 5]]
    assert read.correct.tolist() == [[True] * 4, [True, True, True, False]]
    assert read.recipe == "numpy-sigmoid"
    assert read.histories == ((epoch(),), (epoch(),))
    alone = replace(runs[0], recipe={"name": "a", "seed": 2, "reported": None})
    assert read_answers([alone], LABELS)["a"].reported is None
    two = write_run(tmp_path, 3, certain([3, 1]), 2, total=2)
    assert read_answers([two], LABELS[:2])["numpy-sigmoid"].digits.tolist() == [[3, 1]]


def test_runs_that_cannot_be_of_one_table_are_refused(tmp_path: Path) -> None:
    good = write_run(tmp_path, 1, certain([3, 1, 4, 1]), 4)
    for labels in (LABELS.reshape(2, 2), LABELS[:1], np.array([3, 1, 4, 10], np.uint8)):
        with pytest.raises(ValueError, match="expected labels"):
            read_answers([good], labels)
    with pytest.raises(ValueError, match=r"^expected one run or more, got none$"):
        read_answers([], LABELS)
    with pytest.raises(StudyError) as told:
        read_answers([good], np.array([3, 1, 4], np.uint8))
    assert str(told.value) == (
        "The run of numpy-sigmoid with seed 1 has probabilities of shape (4, 10); expected (3, 10). "
        "Remove its two files and continue the study."
    )
    with pytest.raises(StudyError) as told:
        read_answers([good], np.array([3, 1, 4, 2], np.uint8))
    assert str(told.value) == (
        "The run of numpy-sigmoid with seed 1 says that 4 answers are right, but by these labels 3 are: they are not of the "
        "same images, or its two files not of one run. Remove both and continue the study."
    )
    with pytest.raises(StudyError, match=r"^numpy-sigmoid has two runs of one seed among"):
        read_answers([good, good], LABELS)
    with pytest.raises(StudyError, match="different recipes"):
        read_answers([good, write_run(tmp_path, 2, certain([3, 1, 4, 1]), 4, sha256="2")], LABELS)
    narrow = write_run(tmp_path, 3, certain([3, 1, 4, 1])[:, :9], 4)
    with pytest.raises(StudyError, match="should hold probabilities"):
        read_answers([narrow], LABELS)


def test_an_accuracy_over_seeds_is_students() -> None:
    """Accuracies 0.90, 0.92, 0.94: sd 0.02; t with 2 degrees of freedom is 4.3027 (in any table)."""
    measured = accuracy(answers_of(counts([90, 92, 94], 100)))
    assert measured.mean.value == pytest.approx(0.92)
    assert measured.deviation == pytest.approx(0.02)
    assert (measured.seeds, measured.lowest, measured.highest) == (3, 0.90, 0.94)
    reach = 4.302653 * 0.02 / math.sqrt(3)
    assert measured.mean.over_seeds == pytest.approx((0.92 - reach, 0.92 + reach), abs=1e-6)
    # Image means: 90 of 1, 2 of 2/3, 2 of 1/3, 6 of 0; t with 99 degrees of freedom is 1.98422.
    by_image = [1.0] * 90 + [2 / 3] * 2 + [1 / 3] * 2 + [0.0] * 6
    variance = sum((value - 0.92) ** 2 for value in by_image) / 99
    reach = 1.984217 * math.sqrt(variance / 100)
    assert measured.mean.over_images == pytest.approx((0.92 - reach, 0.92 + reach), abs=1e-6)


def test_both_uncertainties_together_are_those_of_a_bootstrap_over_both() -> None:
    generator = np.random.default_rng(1)
    seeds, images = 40, 500
    correct = generator.normal(0, 1, images) + generator.normal(0, 0.2, (seeds, 1)) > -1.5
    interval = accuracy(answers_of(correct)).mean.over_both
    of_seeds = generator.multinomial(seeds, [1 / seeds] * seeds, 4000) / seeds  # [resamples, seeds]
    of_images = generator.multinomial(images, [1 / images] * images, 4000) / images
    means = np.einsum("rs,si,ri->r", of_seeds, correct.astype(float), of_images, optimize=True)
    assert interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.004)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over other seeds and other images, at 3 seeds: 95 of 100 for `over_both`, fewer for one source alone."""
    generator = np.random.default_rng(2)
    trials, seeds, images = 800, 3, 400
    by_probability = np.array([0.5, 0.8, 0.95])  # an image is of one of these, and a seed adds to all
    truth = float(by_probability.mean())
    held = {"over_seeds": 0, "over_images": 0, "over_both": 0}
    for _ in range(trials):
        probability = generator.choice(by_probability, images) + generator.normal(0, 0.01, (seeds, 1))
        mean = accuracy(answers_of(generator.random((seeds, images)) < probability)).mean
        for name in held:
            low, high = getattr(mean, name)
            held[name] += low <= truth <= high
    assert 0.93 * trials < held["over_both"] <= 0.995 * trials
    assert held["over_images"] < held["over_both"]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.01), (10, 0.003)])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(seeds: int, spread: float) -> None:
    generator = np.random.default_rng(14)
    trials, held = 600, 0
    for _ in range(trials):
        images = generator.choice([0.5, 0.8, 0.95], 300)
        answers = {}
        for name, shift in {"a": 0.0, "b": -0.02}.items():
            probability = images + shift + generator.normal(0, spread, (seeds, 1))
            answers[name] = answers_of(generator.random((seeds, 300)) < probability, name)
        (compared,) = compare_pairs(answers, [("a", "b")])
        low, high = compared.difference.over_both or (1, 0)
        held += low <= 0.02 <= high
    assert 0.93 * trials < held <= 0.99 * trials


def test_one_seed_says_nothing_of_other_seeds() -> None:
    measured = accuracy(answers_of(counts([98], 100)))
    assert (measured.mean.over_seeds, measured.mean.over_both, measured.deviation) == (None, None, None)
    assert measured.mean.over_images[0] < 0.98 < measured.mean.over_images[1]
    alike = accuracy(answers_of(counts([98, 98], 100)))
    assert alike.deviation == 0
    assert alike.mean.over_seeds == pytest.approx((0.98, 0.98))
    assert alike.mean.over_both == pytest.approx(alike.mean.over_images)
    perfect = accuracy(answers_of(counts([100, 100], 100)))
    assert perfect.mean.over_images == perfect.mean.over_both == (1.0, 1.0)


def test_mcnemar_is_the_enumeration_of_all_ways_to_fall() -> None:
    """Of 6 images on which two networks disagree, 5 fall to the first: 2 * (6 + 1) of 2**6 ways are as uneven."""
    first = [[True] * 5 + [False] + [True] * 14]
    second = [[False] * 5 + [True] + [True] * 14]
    answers = {"a": answers_of(first), "b": answers_of(second, "b")}
    (compared,) = compare_pairs(answers, [("a", "b")])
    (test,) = compared.mcnemar
    ways = [sum(fall) for fall in itertools.product((0, 1), repeat=6)]
    assert test.p == pytest.approx(sum(way in (0, 1, 5, 6) for way in ways) / 64)
    assert (test.seed, test.only_first, test.only_second) == (1, 5, 1)
    assert (compared.only_first, compared.only_second) == (5, 1)
    # One seed: nothing about recipes.
    assert compared.p_seeds is compared.p_both is compared.corrected is compared.p_equivalent_both is None
    assert compared.verdict == "undecided"


def test_welchs_t_and_the_equivalence_test_are_those_of_scipy_and_statsmodels() -> None:
    """Over seeds; the second is better, so that the lower of the two one-sided tests decides."""
    first, second = [90, 92, 95, 91], [93, 93, 94, 99]
    answers = {"a": answers_of(counts(first, 100)), "b": answers_of(counts(second, 100), "b")}
    (compared,) = compare_pairs(answers, [("a", "b")], margin=0.06)
    by_seed = [np.array(right) / 100 for right in (first, second)]
    expected = stats.ttest_ind(*by_seed, equal_var=False)
    assert compared.difference.value == pytest.approx(-0.0275)
    assert compared.p_seeds == pytest.approx(expected.pvalue)
    assert compared.difference.over_seeds == pytest.approx(tuple(expected.confidence_interval()))
    p_equivalent, *_ = weightstats.ttost_ind(*by_seed, -0.06, 0.06, usevar="unequal")
    assert compared.p_equivalent_seeds == pytest.approx(p_equivalent)
    (other_way,) = compare_pairs(answers, [("b", "a")], margin=0.06)
    assert other_way.p_equivalent_seeds == pytest.approx(p_equivalent)
    assert other_way.p_both == pytest.approx(compared.p_both)


def test_the_variance_of_a_mean_is_that_of_crossed_effects() -> None:
    """Mean squares from statsmodels' analysis of variance; the residual's is in both others, and counts once."""
    correct = np.random.default_rng(10).random((4, 12)) < np.linspace(0.2, 0.9, 12) + np.array(
        [[-0.2], [0], [0], [0.2]]
    )
    places = [(seed, image) for seed in range(4) for image in range(12)]
    table = pandas.DataFrame(
        {"y": correct.ravel().astype(float), "s": [s for s, _ in places], "i": [i for _, i in places]}
    )
    fitted = ols("y ~ C(s) + C(i)", table).fit()
    squares = anova_lm(fitted)["mean_sq"]
    seeds, images, residual = squares["C(s)"], squares["C(i)"], squares["Residual"]
    assert seeds > residual
    variance = (seeds + images - residual) / 48
    freedom = (seeds + images - residual) ** 2 / (seeds**2 / 3 + images**2 / 11 + residual**2 / 33)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    found = accuracy(answers_of(correct)).mean
    assert found.over_both == pytest.approx((found.value - reach, found.value + reach))


def test_the_variance_over_writers_is_that_of_sums_by_writer() -> None:
    """From statsmodels: the mean as a regression on 1, its errors together by writer."""
    generator = np.random.default_rng(30)
    writers = generator.integers(0, 9, 60).astype(np.int32) * 7 + 2000
    correct = [generator.random((1, 60)) < 0.3 + (writers % 5) / 8 for _ in range(2)]
    answers = {"a": answers_of(correct[0]), "b": answers_of(correct[1], "b")}
    (compared,) = compare_pairs(answers, [("a", "b")], writers=writers)
    for values, found in (
        (correct[0][0].astype(float), accuracy(answers["a"], writers=writers).mean),
        (correct[0][0].astype(float) - correct[1][0], compared.difference),
    ):
        expected = ols("y ~ 1", pandas.DataFrame({"y": values})).fit(
            cov_type="cluster", cov_kwds={"groups": writers}, use_t=True
        )
        assert found.value == pytest.approx(expected.params["Intercept"])
        assert found.over_images == pytest.approx(tuple(expected.conf_int().loc["Intercept"]))


def test_of_writers_with_one_image_each_all_is_as_of_images() -> None:
    generator = np.random.default_rng(31)
    correct = [generator.random((3, 40)) < np.linspace(0.3, 1, 40) for _ in range(2)]
    answers = {"a": answers_of(correct[0]), "b": answers_of(correct[1], "b")}
    alone = generator.permutation(40).astype(np.int32)
    assert_same(accuracy(answers["a"], writers=alone).mean, accuracy(answers["a"]).mean)
    (by_writer,), (by_image,) = (compare_pairs(answers, [("a", "b")], writers=one) for one in (alone, None))
    assert_same(by_writer.difference, by_image.difference)
    for name in ("p_both", "p_equivalent_both", "corrected", "together"):
        assert getattr(by_writer, name) == pytest.approx(getattr(by_image, name))
    differences = correct[0].astype(float) - correct[1]
    paired_by_writer, paired_by_image = (paired(differences, writers=one) for one in (alone, None))
    assert_same(paired_by_writer.difference, paired_by_image.difference)
    assert paired_by_writer.p == pytest.approx(paired_by_image.p)
    assert paired_by_writer.p_equivalent == pytest.approx(paired_by_image.p_equivalent)
    both = [mean_interval(differences, level=0.01, writers=one) for one in (alone, None)]
    assert both[0] == pytest.approx(both[1])


def assert_same(first: Mean, second: Mean) -> None:
    assert first.over_seeds == pytest.approx(second.over_seeds)
    assert first.over_images == pytest.approx(second.over_images)
    assert first.over_both == pytest.approx(second.over_both)


def test_intervals_over_writers_hold_for_other_people_where_those_over_images_do_not() -> None:
    """60 people with 5 to 40 images each: 0.85 of them right on average, and each recipe has its own with whom it is better."""
    generator = np.random.default_rng(32)
    held: Counter[str] = Counter()
    for _ in range(300):
        writers = np.repeat(np.arange(60), generator.integers(5, 41, 60)).astype(np.int32)
        person = generator.choice([0.7, 0.8, 0.9], 60, p=[0.2, 0.1, 0.7])
        answers = {}
        for name in ("a", "b"):
            chance = (person + generator.choice([-0.08, 0.08], 60))[writers] + generator.normal(0, 0.005, (4, 1))
            answers[name] = answers_of(generator.random(chance.shape) < chance, name)
        for over, given in (("images", None), ("writers", writers)):
            found, (compared,) = (
                accuracy(answers["a"], writers=given),
                compare_pairs(answers, [("a", "b")], writers=given),
            )
            for of, mean, truth in (("accuracy", found.mean, 0.85), ("difference", compared.difference, 0.0)):
                assert mean.over_both is not None
                held[f"{of}, {over}"] += mean.over_both[0] <= truth <= mean.over_both[1]
    for of in ("accuracy", "difference"):
        assert held[f"{of}, writers"] / 300 == pytest.approx(0.95, abs=0.03)
        assert held[f"{of}, images"] / 300 < 0.8


def test_a_difference_has_both_seeds_and_the_images_once() -> None:
    """The same for two recipes: each adds the variance of its seeds, less its residual; images are paired."""
    generator = np.random.default_rng(11)
    correct = [
        generator.random((seeds, 40)) < np.linspace(0.3, 1, 40) + generator.normal(0, 0.2, (seeds, 1))
        for seeds in (3, 3)
    ]
    answers = {"a": answers_of(correct[0]), "b": answers_of(correct[1], "b")}
    compared, *_ = compare_pairs(answers, [("a", "b"), ("b", "a"), ("a", "b")])
    parts = []
    for one in correct:
        by_seed, by_image = one.mean(axis=1), one.mean(axis=0)
        residual = ((one - by_seed[:, None] - by_image + one.mean()) ** 2).sum() / (2 * 39) / (3 * 40)
        parts += [(by_seed.var(ddof=1) / 3, 2), (-min(residual, by_seed.var(ddof=1) / 3), 2 * 39)]
    parts.append(((correct[0].mean(axis=0) - correct[1].mean(axis=0)).var(ddof=1) / 40, 39))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / of for part, of in parts)
    t = compared.difference.value / math.sqrt(variance)
    assert compared.p_both == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    for margin in (MARGIN, 2 * abs(compared.difference.value), 0.5):
        (at_margin,) = compare_pairs(answers, [("a", "b")], margin=margin)
        one_sided = stats.t.sf((margin - abs(compared.difference.value)) / math.sqrt(variance), freedom)
        assert at_margin.p_equivalent_both == pytest.approx(one_sided)
    # And of a table of three, each at a third of the level, so that all hold together.
    for interval, level in ((compared.difference.over_both, 0.05), (compared.together, 0.05 / 3)):
        reach = stats.t.ppf(1 - level / 2, freedom) * math.sqrt(variance)
        assert interval == pytest.approx((compared.difference.value - reach, compared.difference.value + reach))


def test_identical_recipes_are_equivalent() -> None:
    correct = counts([95, 96, 97], 100)
    answers = {"a": answers_of(correct), "b": answers_of(correct, "b")}
    (compared,) = compare_pairs(answers, all_pairs(answers))
    assert compared.identical
    assert compared.verdict == "equivalent"
    assert (compared.p_seeds, compared.p_both, compared.p_equivalent_both) == (1.0, 1.0, 0.0)
    assert compared.difference.over_both == (0.0, 0.0)
    assert [test.p for test in compared.mcnemar] == [1.0] * 3  # no discordant pair


def test_a_difference_that_no_seed_changes() -> None:
    """Over seeds it has no spread, over images it has."""
    answers = {"a": answers_of(counts([96, 96], 100)), "b": answers_of(counts([95, 95], 100), "b")}
    (compared,) = compare_pairs(answers, [("a", "b")], margin=0.005)
    assert (compared.p_seeds, compared.p_equivalent_seeds) == (0.0, 1.0)
    assert compared.p_both is not None
    assert compared.p_both > 0.3
    assert compared.verdict == "undecided"
    assert not compared.identical


def closed_testing(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """By its definition (Marcus, Peritz and Gabriel 1976): the largest Bonferroni p value of all sets of hypotheses that
    hold this one and could be true together, which no set with both of a pair could."""
    found = [[0.0, 0.0] for _ in pairs]
    for chosen in itertools.product((None, 0, 1), repeat=len(pairs)):
        held = [(pair, which) for pair, which in enumerate(chosen) if which is not None]
        together = min(1.0, len(held) * min((pairs[pair][which] for pair, which in held), default=0.0))
        for pair, which in held:
            found[pair][which] = max(found[pair][which], together)
    return [(different, equivalent) for different, equivalent in found]


def test_the_tests_of_a_table_are_corrected_as_one_family() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        pairs = [(float(first), float(second)) for first, second in generator.random((4, 2)) ** 6]
        assert np.array(corrected(pairs)) == pytest.approx(np.array(closed_testing(pairs)))
    # By hand: four may be true, four; the first pair is done with: three, three, three, three; the last too: two, one.
    found = corrected([(0.001, 0.002), (0.01, 0.6), (0.7, 0.011), (0.2, 0.3)])
    assert np.array(found) == pytest.approx(np.array([(0.004, 0.008), (0.03, 1), (1, 0.033), (0.6, 0.9)]))
    assert corrected([(0.04, 0.9)]) == [(0.04, 0.9)]
    assert corrected([(0.01, 0.01), (0.5, 0.02)]) == [(0.02, 0.02), (0.5, 0.02)]
    assert corrected([]) == []


def test_what_is_corrected_is_what_was_tested_of_pairs_with_seeds() -> None:
    generator = np.random.default_rng(3)
    answers = {name: answers_of(generator.random((4, 500)) < 0.9, name) for name in "abc"}
    answers["d"] = answers_of(generator.random((1, 500)) < 0.9, "d")
    compared = compare_pairs(answers, all_pairs(answers), margin=0.02)
    tested = [each for each in compared if "d" not in (each.first, each.second)]
    assert len(tested) == 3
    pairs = [(each.p_both or 0.0, each.p_equivalent_both or 0.0) for each in tested]
    found = np.array([(each.corrected or 0.0, each.corrected_equivalent or 0.0) for each in tested])
    assert found == pytest.approx(np.array(closed_testing(pairs)))
    assert [each.corrected for each in compared if each not in tested] == [None] * 3


@pytest.mark.slow
def test_not_one_verdict_of_a_table_is_wrong_more_often_than_promised() -> None:
    """Four recipes and six pairs: two alike, one 0.4 points worse, one just at the margin from the first."""
    generator = np.random.default_rng(12)
    trials, wrong = 300, 0
    for _ in range(trials):
        base = generator.choice([0.5, 0.9, 1.0], 1000, p=[0.02, 0.05, 0.93])
        shifts = {"a": 0.0, "b": 0.0, "c": -0.004, "d": 0.0025}
        answers = {}
        for name, shift in shifts.items():
            seeds = generator.normal(0, 0.001, (6, 1))
            probability = base + np.where(base < 1, (shift + seeds) / 0.07, 0)
            answers[name] = answers_of(generator.random((6, 1000)) < probability, name)
        for each in compare_pairs(answers, all_pairs(answers)):
            difference = abs(shifts[each.first] - shifts[each.second])
            if (each.verdict == "different" and difference == 0) or (each.within_margin and difference >= 0.0025):
                wrong += 1
                break
    assert wrong <= 0.07 * trials


def simulated(generator: np.random.Generator, name: str, shift: float, seeds: int = 10) -> Answers:
    """About as MNIST: 10,000 images, most of them easy, and a recipe that is `shift` better than 97.5 %."""
    images = np.random.default_rng(4).choice([0.05, 0.5, 0.8, 1.0], 10_000, p=[0.015, 0.01, 0.03, 0.945])
    probability = images + np.where(images < 1, shift / 0.055, 0)
    return answers_of(generator.random((seeds, 10_000)) < probability, name)


def test_verdicts_find_what_was_simulated() -> None:
    generator = np.random.default_rng(5)
    shifts = {"worse": -0.01, "base": 0.0, "same": 0.0}
    answers = {name: simulated(generator, name, shift) for name, shift in shifts.items()}
    verdicts = {(each.first, each.second): each.verdict for each in compare_pairs(answers, all_pairs(answers))}
    assert verdicts == {
        ("worse", "base"): "different",
        ("worse", "same"): "different",
        ("base", "same"): "equivalent",
    }
    few = {name: simulated(generator, name, shift, seeds=2) for name, shift in {"a": 0.0, "b": 0.001}.items()}
    (undecided,) = compare_pairs(few, all_pairs(few), margin=0.0005)
    assert undecided.verdict == "undecided"
    said = " ".join(findings([], [undecided], [], [], []))
    assert f"a verdict takes about {undecided.seeds_needed} seeds of each recipe" in said
    assert "Of 1 pair not even 1000 seeds would" in " ".join(
        findings([], [replace(undecided, seeds_needed=None)], [], [], [])
    )


@pytest.mark.slow
def test_no_difference_is_found_more_often_than_the_level_says() -> None:
    generator = np.random.default_rng(6)
    answers, pairs = dict[str, Answers](), list[tuple[str, str]]()
    for trial in range(400):
        images = generator.choice([0.5, 0.9, 0.99], 500)
        for name in (pair := (f"a{trial}", f"b{trial}")):
            answers[name] = answers_of(generator.random((3, 500)) < images, name)
        pairs.append(pair)
    compared = compare_pairs(answers, pairs)
    assert 0 < sum(each.p_both is not None and each.p_both <= 0.05 for each in compared) <= 0.07 * len(pairs)
    assert {each.verdict for each in compared} == {"undecided"}  # three seeds and 500 images cannot show 0.25 points


def test_comparisons_need_a_shared_seed_and_a_margin() -> None:
    answers = {"a": answers_of(counts([9, 8], 10)), "b": answers_of(counts([9], 10), "b", first_seed=2)}
    (compared,) = compare_pairs(answers, [("a", "b")])
    assert compared.seeds == 1
    assert compared.difference.value == pytest.approx(0.8 - 0.9)
    answers["c"] = answers_of(counts([9], 10), "c", first_seed=7)
    with pytest.raises(StudyError, match="share no seed"):
        compare_pairs(answers, [("a", "c")])
    with pytest.raises(ValueError, match="margin above 0"):
        compare_pairs(answers, [("a", "b")], margin=0)


@pytest.mark.parametrize(("reported", "within"), [(0.9901, False), (0.97, True), (0.82, False)])
def test_a_published_figure_beside_what_one_run_can_give(reported: float, within: bool) -> None:
    """0.90, 0.92, 0.94: 0.92 ± 4.3027 * 0.02 * sqrt(4 / 3) is 0.8206 to 1.0194; 0.96, 0.96, 0.98 narrower."""
    wide = reproduction(answers_of(counts([90, 92, 94], 100), reported=reported))
    assert wide is not None
    reach = 4.302653 * 0.02 * math.sqrt(4 / 3)
    assert wide.single_run == pytest.approx((0.92 - reach, 0.92 + reach), abs=1e-6)
    assert wide.within is (reported != 0.82)
    ten = reproduction(answers_of(counts([96, 97] * 5, 100), reported=reported))
    assert ten is not None
    assert ten.within is within


def test_a_published_figure_stands_for_half_a_step_to_either_side() -> None:
    single_run = (0.9600, 0.9700)
    for reported, within in ((0.97004, True), (0.97006, False), (0.95996, True), (0.95994, False)):
        found = Reproduction(recipe="a", reported=reported, seeds=3, mean=0.965, single_run=single_run)
        assert found.within is within


def test_two_single_runs_are_apart_by_the_root_of_two() -> None:
    """90, 92 and 94 %: 2 points, times t with 2 degrees of freedom, 4.3027, times the root of 2."""
    said = " ".join(findings([accuracy(answers_of(counts([90, 92, 94], 100)))], [], [], [], []))
    assert f"apart by up to {2 * 4.302653 * math.sqrt(2):.2f} points" in said


@pytest.mark.slow
def test_two_further_runs_are_as_near_to_each_other_as_is_said() -> None:
    generator = np.random.default_rng(18)
    runs = generator.normal(0, 1, (4000, 7))
    limits = [_repeatability(float(of.std(ddof=1)), 5) for of in runs[:, :5]]
    assert np.mean(np.abs(runs[:, 5] - runs[:, 6]) <= limits) == pytest.approx(0.95, abs=0.012)


@pytest.mark.slow
def test_a_prediction_interval_holds_the_next_run() -> None:
    generator = np.random.default_rng(7)
    trials, held = 1000, 0
    for _ in range(trials):
        right = np.rint(generator.normal(900, 10, 6)).astype(int)
        single_run = reproduction(answers_of(counts(list(right[:5]), 1000), reported=float(right[5]) / 1000))
        assert single_run is not None
        held += bool(single_run.within)
    assert 0.93 * trials < held < 0.975 * trials


def test_reproduction_of_nothing_and_from_one_seed() -> None:
    assert reproduction(answers_of(counts([9, 8], 10))) is None
    single = reproduction(answers_of(counts([9], 10), reported=0.9))
    assert single is not None
    assert (single.within, single.single_run) == (None, None)
    alike = reproduction(answers_of(counts([9712, 9712], 10_000), reported=0.9712))
    assert alike is not None
    assert alike.within is True  # whatever float made of 97.12 %


def test_confusion_counts_every_seed() -> None:
    answers = answers_of([[1, 0, 1], [1, 1, 1]])  # answers 0 where right, else 1
    table = confusion(answers, np.array([0, 0, 0], np.uint8))
    assert table.shape == (10, 10)
    assert (table[0, 0], table[0, 1], table.sum()) == (5, 1, 6)


def test_agreement_between_and_within_recipes() -> None:
    answers = {
        "a": answers_of([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]]),
        "b": answers_of([[1, 1, 1, 0]], "b"),
        "c": answers_of([[1, 1, 1, 0], [0, 1, 0, 0]], "c"),
    }
    found = {(each.first, each.second): each for each in agreements(answers)}
    pairs = [
        (mine == other).mean() for mine in answers["a"].digits for other in answers["b"].digits
    ]  # 3/4, 2/4 and 1/4
    assert found["a", "b"].single_runs == pytest.approx(np.mean(pairs))
    assert found["a", "b"].majorities == 0.5  # a's majority: right, wrong, wrong, wrong
    assert found["a", "a"].single_runs == pytest.approx((3 / 4 + 2 / 4 + 3 / 4) / 3)
    assert found["a", "a"].majorities == 1
    assert found["b", "b"].single_runs is None
    pairs = [(mine == other).mean() for mine in answers["a"].digits for other in answers["c"].digits]
    assert found["a", "c"].single_runs == pytest.approx(np.mean(pairs))


def test_the_report_says_below_how_many_runs_there_is_no_verdict() -> None:
    def size(runs: int, different: int, equivalent: int) -> aa.Size:
        return aa.Size(runs=runs, splits=1000, different=different, equivalent=equivalent)

    said = finding_of_splits("a", 40, [size(3, 38, 12), size(10, 52, 700)])
    assert said == (
        "The 40 runs of a, split at random into two groups as if they were of two recipes, are called different, which is "
        "wrong, in 3.8 % at 3 against 3 and 5.2 % at 10 against 10; promised is no more than 5 %. Below 10 runs of each, fewer "
        "than half of the splits come to any verdict: there mostly is none."
    )
    said = finding_of_splits("a", 6, [size(3, 90, 12)])
    assert "promised is no more than 5 %, which is broken at 3. At none of these sizes" in said


def test_images_that_everybody_gets_wrong() -> None:
    answers = {"a": answers_of([[1, 0, 0], [1, 0, 0]]), "b": answers_of([[0, 0, 1]], "b")}
    assert always_wrong(answers) == [1]


def test_learning_curves_have_a_spread() -> None:
    def with_histories(*histories: tuple[Epoch, ...]) -> Answers:
        plain = answers_of(counts([9] * len(histories), 10))
        return Answers(**{**vars(plain), "histories": histories})

    first, second = learning_curve(
        with_histories((epoch(0.5, 2.0), epoch(0.8, 1.0)), (epoch(0.7, 2.0), epoch(0.8, 3.0)))
    )
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.held_out_accuracy == pytest.approx(0.6)
    assert first.held_out_accuracy_deviation == pytest.approx(math.sqrt(0.02))
    assert first.loss_deviation == 0
    assert second.loss == pytest.approx(2)
    assert second.loss_deviation == pytest.approx(math.sqrt(2))
    (alone,) = learning_curve(with_histories((epoch(),)))
    assert alone.loss_deviation is None
    with pytest.raises(
        StudyError, match=r"1 and 2 epochs; expected the same of each\. Run the study again in an empty folder\.$"
    ):
        learning_curve(with_histories((epoch(),), (epoch(), epoch())))


def report(answers: dict[str, Answers]) -> str:
    """All findings over these answers."""
    accuracies: list[Accuracy] = [accuracy(each) for each in answers.values()]
    reproductions = [each for each in map(reproduction, answers.values()) if each is not None]
    compared = compare_pairs(answers, all_pairs(answers))
    return "\n".join(findings(accuracies, compared, reproductions, agreements(answers), always_wrong(answers)))


def test_findings_say_what_the_numbers_say() -> None:
    generator = np.random.default_rng(5)
    answers = {
        name: simulated(generator, name, shift) for name, shift in {"worse": -0.01, "base": 0, "same": 0}.items()
    }
    answers["twin"] = Answers(**{**vars(answers["same"]), "recipe": "twin", "reported": 0.96})
    answers["base"] = Answers(**{**vars(answers["base"]), "reported": float(answers["base"].correct.mean())})
    text = report(answers)
    assert "different in accuracy: 3 pairs" in text
    assert "base over worse by" in text
    assert "equivalent, that is closer than 0.25 points: 3 pairs" in text
    assert "same and twin give the same answer to every test image, from all 10 seeds" in text
    assert "lies within what a single run of ours gives for base." in text
    assert "twin (published 96.00, below the" in text
    assert "undecided" not in text
    assert "nan" not in text


def test_findings_of_one_seed_claim_nothing_of_recipes() -> None:
    generator = np.random.default_rng(8)
    answers = {name: simulated(generator, name, shift, seeds=1) for name, shift in {"a": -0.01, "b": 0}.items()}
    answers["a"] = Answers(**{**vars(answers["a"]), "reported": 0.9})
    text = report(answers)
    assert "a and b were trained from one seed only" in text
    assert "test images alone" in text
    for claim in ("Shown to be", "lies within", "lies outside", "does not decide"):
        assert claim not in text
    assert findings([], [], [], [], []) == []


def test_calibration_by_hand() -> None:
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, 0] = [0.75, 0.75, 0.5, 1.0]
    probabilities[:, 1] = [0.25, 0.25, 0.5, 0.0]
    labels = np.array([0, 1, 0, 0], np.uint8)
    measured = calibration.measure(probabilities, labels)
    # Bins: 0.5 (right), 0.75 twice (one right), 1.0 (right).
    assert measured.ece == pytest.approx((0.5 * 1 + 0.25 * 2 + 0.0) / 4)
    assert measured.nll == pytest.approx(-(math.log(0.75) + math.log(0.25) + math.log(0.5) + 0) / 4)
    assert measured.brier == pytest.approx((2 * 0.25**2 + 2 * 0.75**2 + 2 * 0.5**2 + 0) / 4)
    curve = calibration.reliability(probabilities, labels)
    assert [(each.images, each.confidence, each.accuracy) for each in curve] == [
        (1, 0.5, 1.0),
        (2, 0.75, 0.5),
        (1, 1.0, 1.0),
    ]
    assert (curve[-1].low, curve[-1].high) == (14 / 15, 1.0)
    assert math.isfinite(calibration.measure(certain([1]), np.array([0], np.uint8)).nll)
    same = calibration.mean_of([measured, measured])
    assert (same.ece, same.nll, same.brier) == pytest.approx((measured.ece, measured.nll, measured.brier))


def test_a_probability_belongs_to_the_bin_that_it_ends() -> None:
    confidence = np.array([0, 1 / 30, 1 / 15, 1 / 15 + 1e-9, 0.5, 14 / 15 + 1e-9, 1, 1 + 1e-7])
    assert calibration._bins(confidence).tolist() == [0, 0, 0, 1, 7, 14, 14, 14]


def test_what_chance_gives_is_the_same_each_time() -> None:
    probabilities, _ = drawn(np.random.default_rng(23), 500)
    first = calibration.ece_by_chance(probabilities)
    assert first == calibration.ece_by_chance(probabilities, seed=1)
    assert first != calibration.ece_by_chance(probabilities, seed=2)


def test_nll_and_brier_are_what_scikit_learn_makes_of_them() -> None:
    generator = np.random.default_rng(0)
    probabilities: Probabilities = generator.dirichlet(np.full(10, 0.3), 1000).astype(np.float32)
    labels: Labels = generator.integers(0, 10, 1000).astype(np.uint8)
    measured = calibration.measure(probabilities, labels)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 adds up to 1 but for its last bit
    assert measured.nll == pytest.approx(metrics.log_loss(labels, exact, labels=range(10)), rel=1e-5)
    each = [metrics.brier_score_loss(labels == digit, probabilities[:, digit]) for digit in range(10)]
    assert measured.brier == pytest.approx(sum(each), rel=1e-5)


def test_the_ece_of_a_calibrated_model_lies_within_what_chance_gives() -> None:
    generator = np.random.default_rng(15)
    inside = 0
    for trial in range(60):
        probabilities, labels = drawn(generator, 1000)
        low, high = calibration.ece_by_chance(probabilities, seed=trial)
        assert 0 < low < high < 0.1
        inside += low <= calibration.measure(probabilities, labels).ece <= high
    assert 52 <= inside <= 60
    too_sure = at_temperature(probabilities, 1 / 2)
    assert calibration.measure(too_sure, labels).ece > calibration.ece_by_chance(too_sure)[1]
    # Of one bin alone, in which each of 400 answers is right with 0.75: the size of a mean's deviation from it.
    even = np.zeros((400, 10), np.float32)
    even[:, 0], even[:, 1] = 0.75, 0.25
    low, high = calibration.ece_by_chance(even)
    spread = math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.031 * spread, 2.24 * spread), abs=0.2 * spread)  # quantiles of |normal|


def test_paired_differences_are_those_of_scipy_where_images_do_not_differ() -> None:
    by_seed = np.array([0.01, 0.02, 0.04, 0.02])
    found = paired(np.repeat(by_seed[:, None], 50, axis=1), margin=0.05)
    expected = stats.ttest_1samp(by_seed, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference.over_both == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p_equivalent == pytest.approx(stats.ttest_1samp(by_seed, 0.05, alternative="less").pvalue)
    assert paired(-np.repeat(by_seed[:, None], 50, axis=1), margin=0.05).p_equivalent == pytest.approx(
        found.p_equivalent
    )
    assert found.margin == 0.05
    same = paired(np.zeros((3, 50)))
    assert same.margin == MARGIN
    assert (same.p, same.p_equivalent, same.difference.over_both) == (1.0, 0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="two seeds or more"):
        paired(np.zeros((1, 50)))


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "p_equivalent"), (0.005, "p")])
def test_so_many_seeds_as_are_asked_for_give_a_verdict_as_often_as_promised(shift: float, verdict: str) -> None:
    generator = np.random.default_rng(19)

    def differences(seeds: int) -> npt.NDArray[np.float64]:
        return shift + generator.normal(0, 0.1, (seeds, 400)) + generator.normal(0, 0.005, (seeds, 1))

    many = differences(400)
    asked = seeds_for(many - many.mean() + shift, margin=0.005, level=0.05, power=0.9, most=100)
    assert asked is not None
    assert asked > 8
    shown = [getattr(paired(differences(asked), margin=0.005), verdict) <= 0.05 for _ in range(400)]
    assert 0.87 <= np.mean(shown) <= 0.98
    fewer = [getattr(paired(differences(asked // 2), margin=0.005), verdict) <= 0.05 for _ in range(400)]
    assert np.mean(fewer) < 0.8
    assert (seeds_for(many - many.mean() + shift, margin=0.005, level=0.01, power=0.9, most=100) or 0) > asked


def test_paired_differences_have_seeds_and_images_once() -> None:
    """By hand: the variance of two seeds, and that of the images, less the residual's."""
    values = np.array([[0.0, 0.5, 1.0, 0.1], [0.4, 0.7, 1.2, 0.9]])
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    left = values - by_seed[:, None] - by_image + values.mean()
    residual = (left**2).sum() / 3 / 8
    parts = [(by_seed.var(ddof=1) / 2, 1), (by_image.var(ddof=1) / 4, 3), (-residual, 3)]
    assert residual < parts[0][0]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / of for part, of in parts)
    found = paired(values, margin=2.0)
    assert found.p == pytest.approx(2 * stats.t.sf(0.6 / math.sqrt(variance), freedom))
    assert found.p_equivalent == pytest.approx(stats.t.sf(1.4 / math.sqrt(variance), freedom))
    reach = stats.t.ppf(0.995, freedom) * math.sqrt(variance)
    assert mean_interval(values, level=0.01) == pytest.approx((0.6 - reach, 0.6 + reach))


def test_what_images_alone_leave_open_no_seed_decides() -> None:
    images = np.array([-1.0] * 40 + [0.0] * 320 + [1.0] * 40)
    differences = np.repeat(images[None], 4, axis=0)
    assert seeds_for(differences, margin=0.01, most=300) is None
    # Their mean's error is 0.0224; t with one degree of freedom takes 12.7 + 3.1 of it, with two 4.3 + 1.9.
    assert seeds_for(differences, margin=0.3, most=300) == 3
    assert seeds_for(differences, margin=0.4, most=300) == 2


def of_spread(generator: np.random.Generator, seeds: int, shift: float, *, spread: float = 0.002) -> dict[str, Answers]:
    """Two recipes on 2,000 images each of which the first gets more right, by the shift; seeds spread so far."""
    probability = {
        name: 0.97 + of + generator.normal(0, spread, (seeds, 1)) for name, of in {"a": shift, "b": 0.0}.items()
    }
    return {name: answers_of(generator.random((seeds, 2000)) < of, name) for name, of in probability.items()}


def test_seeds_that_a_pair_needs_are_those_that_decide_it() -> None:
    generator = np.random.default_rng(21)
    (few,) = compare_pairs(of_spread(generator, 4, 0.0), [("a", "b")], margin=0.005)
    assert few.verdict == "undecided"
    assert few.seeds_needed is not None
    assert 4 < few.seeds_needed < 100
    (enough,) = compare_pairs(of_spread(generator, 2 * few.seeds_needed, 0.0), [("a", "b")], margin=0.005)
    assert enough.verdict == "equivalent"


def test_seeds_that_a_pair_needs_are_the_fewest_whose_t_quantiles_fit() -> None:
    """Both recipes vary, so each seed of both gives two degrees of freedom; those that fit are tried one by one."""
    generator = np.random.default_rng(33)
    correct = [generator.random((4, 300)) < 0.8 + generator.normal(0, 0.03, (4, 1)) for _ in range(2)]
    answers = {"a": answers_of(correct[0]), "b": answers_of(correct[1], "b")}
    of_seed = sum(one.mean(axis=1).var(ddof=1) for one in correct)
    of_images = (correct[0].mean(axis=0) - correct[1].mean(axis=0)).var(ddof=1) / 300
    for one in correct:
        left = one - one.mean(axis=1, keepdims=True) - one.mean(axis=0) + one.mean()
        of_images -= (left**2).sum() / (3 * 299) / 1200

    def fits(seeds: int, margin: float) -> bool:
        freedom = 2 * (seeds - 1)
        quantiles = stats.t.ppf(1 - 0.05 / 5 / 2, freedom) + stats.t.ppf(0.9, freedom)
        return bool(quantiles * math.sqrt(of_seed / seeds + max(of_images, 0)) <= margin)

    found = [seeds_by_spread(answers["a"], answers["b"], tested=5, margin=margin) for margin in (0.06, 0.08, 0.12, 0.4)]
    assert found == [
        next(seeds for seeds in range(2, 500) if fits(seeds, margin)) for margin in (0.06, 0.08, 0.12, 0.4)
    ]
    assert len({*found}) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equivalent"), (0.007, "different")])
def test_so_many_seeds_as_a_pair_needs_give_a_verdict_as_often_as_promised(shift: float, verdict: str) -> None:
    """Of 400 seeds spread and difference are as good as known."""
    generator = np.random.default_rng(27)
    (known,) = compare_pairs(of_spread(generator, 400, shift), [("a", "b")], margin=0.005)
    asked = known.seeds_needed
    assert asked is not None

    def share(seeds: int) -> float:
        tables = (of_spread(generator, seeds, shift) for _ in range(300))
        return float(np.mean([compare_pairs(one, [("a", "b")], margin=0.005)[0].verdict == verdict for one in tables]))

    assert 0.88 <= share(asked) <= 0.97
    assert share(asked // 2) < 0.75


@pytest.mark.slow
def test_recipes_that_are_the_margin_apart_are_called_equivalent_as_often_as_promised() -> None:
    generator = np.random.default_rng(28)
    trials = 1500
    found = [compare_pairs(of_spread(generator, 6, 0.005), [("a", "b")], margin=0.005)[0] for _ in range(trials)]
    assert 0.025 <= np.mean([row.verdict == "equivalent" for row in found]) <= 0.06


@pytest.mark.slow
def test_groups_of_one_recipe_are_called_different_as_often_as_promised() -> None:
    """Runs that spread as runs do; the groups share the test images, as they do in a study."""
    generator = np.random.default_rng(16)
    base = generator.choice([0.5, 0.9, 1.0], 1000, p=[0.02, 0.05, 0.93])
    rates = dict.fromkeys((3, 5, 10, 20), 0.0)
    for _ in range(100):
        probability = base + np.where(base < 1, generator.normal(0, 0.003, (40, 1)) / 0.07, 0)
        answers = answers_of(generator.random((40, 1000)) < probability)
        found = aa.split_at_random(answers, sizes=(3, 5, 10, 20, 21), splits=10, margin=0.01)
        assert [(size.runs, size.splits) for size in found] == [
            (3, 10),
            (5, 10),
            (10, 10),
            (20, 10),
        ]  # 21 and 21 are 42
        for size in found:
            rates[size.runs] += size.rate / 100
    assert all(0.02 <= rate <= 0.055 for rate in rates.values())
    with pytest.raises(ValueError, match="two runs or more"):
        aa.split_at_random(answers, sizes=(1,))


@pytest.mark.slow
def test_of_runs_of_two_kinds_mixed_too_many_splits_are_different_only_where_the_test_is_wrong() -> None:
    """A group is drawn without regard to what it holds: half of the runs being worse by a point is spread, no difference."""
    generator = np.random.default_rng(17)
    right = generator.random((20, 1000)) < np.repeat([0.97, 0.96], 10)[:, None]
    (size,) = aa.split_at_random(answers_of(right), sizes=(10,), splits=200)
    assert size.rate <= 0.08
    assert size.decides == (size.different + size.equivalent) / 200
    assert size.interval[0] <= size.rate <= size.interval[1]


def test_splits_are_compared_as_two_recipes_are() -> None:
    """Twelve runs, six of them 4 points worse: what a split says depends on how these fall."""
    right = np.random.default_rng(22).random((12, 300)) < np.repeat([0.95, 0.91], 6)[:, None]
    right[0] = right[1]
    answers = answers_of(right)
    verdicts = {3: Counter[str](), 6: Counter[str]()}
    random = np.random.default_rng(5)
    for size, counted in verdicts.items():
        for _ in range(40):
            drawn = random.permutation(12)
            halves = {"a": answers_of(right[drawn[:size]], "a"), "b": answers_of(right[drawn[size : 2 * size]], "b")}
            (compared,) = compare_pairs(halves, [("a", "b")], margin=0.03)
            counted[compared.verdict] += 1
    found = aa.split_at_random(answers, sizes=(3, 6, 7), splits=40, margin=0.03, seed=5)
    assert [(size.runs, size.splits, size.different, size.equivalent) for size in found] == [
        (size, 40, counted["different"], counted["equivalent"]) for size, counted in verdicts.items()
    ]
    assert 0 < found[1].different < 40
    assert found[1].rate == found[1].different / 40
    assert found[1].decides == (found[1].different + found[1].equivalent) / 40
    low, high = found[1].interval
    assert (low, high) == pytest.approx(proportion_confint(found[1].different, 40, method="beta"))
    defaults = aa.split_at_random(answers_of(right[:6, :20]), splits=3)
    assert [(size.runs, size.splits) for size in defaults] == [(3, 3)]


def test_splits_too_large_for_the_runs_are_left_out_and_the_others_made() -> None:
    answers = answers_of(np.random.default_rng(24).random((6, 400)) < 0.9)
    assert [size.runs for size in aa.split_at_random(answers, sizes=(4, 2, 9, 3), splits=2)] == [2, 3]
    with pytest.raises(ValueError, match=r"^expected groups of two runs or more, got \(3, 1\)$"):
        aa.split_at_random(answers, sizes=(3, 1))


def test_splits_are_equivalent_by_the_margin_that_is_given() -> None:
    answers = answers_of(np.random.default_rng(25).random((6, 400)) < 0.9)
    (wide,) = aa.split_at_random(answers, sizes=(3,), splits=5, margin=0.9)
    assert (wide.different, wide.equivalent) == (0, 5)
    (narrow,) = aa.split_at_random(answers, sizes=(3,), splits=5, margin=1e-9)
    assert narrow.equivalent == 0
    assert aa.split_at_random(answers, splits=3) == aa.split_at_random(answers, splits=3, seed=1)


def test_a_group_is_a_recipe_of_its_own_with_the_runs_that_were_drawn() -> None:
    assert aa._parts(4) == {"first": slice(0, 4), "second": slice(4, 8)}
    answers = answers_of(np.random.default_rng(26).random((5, 40)) < 0.9)
    group = aa._group(answers, np.array([3, 1]), "second")
    assert (group.recipe, group.seeds) == ("second", (1, 2))
    np.testing.assert_array_equal(group.digits, answers.digits[[3, 1]])
    np.testing.assert_array_equal(group.correct, answers.correct[[3, 1]])
    assert group.histories == (answers.histories[3], answers.histories[1])


def test_the_fewest_runs_that_give_verdicts() -> None:
    def size(runs: int, different: int, equivalent: int) -> aa.Size:
        return aa.Size(runs=runs, splits=1000, different=different, equivalent=equivalent)

    assert size(3, 90, 0).keeps_its_promise is False
    assert size(3, 60, 0).keeps_its_promise is True  # of 1,000, no more than chance gives at 50
    sizes = [size(3, 10, 0), size(5, 40, 100), size(10, 40, 600), size(20, 40, 960)]
    assert aa.fewest(sizes) == 10
    assert aa.fewest([size(3, 200, 800), size(5, 40, 900)]) == 5
    assert aa.fewest([size(3, 10, 0)]) is None
    assert aa.fewest([size(3, 10, 900), size(5, 90, 900)]) is None
    assert aa.fewest(sizes[:2], decided=0.14) == 5


def drawn(generator: np.random.Generator, images: int) -> tuple[Probabilities, Labels]:
    """Probabilities, and labels that are drawn by them: calibrated by construction."""
    logits = generator.normal(0, 2, (images, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < generator.random((images, 1))).sum(axis=1).clip(0, 9)
    return probabilities.astype(np.float32), labels.astype(np.uint8)


def test_a_temperature_undoes_overconfidence() -> None:
    generator = np.random.default_rng(9)
    honest, labels = drawn(generator, 20_000)
    held_out, held_out_labels = drawn(generator, 20_000)
    assert fit_temperature(held_out, held_out_labels) == pytest.approx(1, abs=0.03)
    scaled = calibration.scale(
        at_temperature(honest, 1 / 2.5),
        labels,
        held_out_probabilities=at_temperature(held_out, 1 / 2.5),
        held_out_labels=held_out_labels,
    )
    assert scaled.temperature == pytest.approx(2.5, rel=0.03)
    assert scaled.before.ece > 0.1
    assert scaled.after.ece < 0.02
    assert scaled.after.nll < scaled.before.nll
    assert scaled.after.brier < scaled.before.brier
    assert scaled.after.nll == pytest.approx(calibration.measure(honest, labels).nll, abs=0.002)
    assert fit_temperature(certain([1, 2]), np.array([1, 2], np.uint8)) < 1  # no smallest: finite all the same


def test_calibration_refuses_what_cannot_be_probabilities() -> None:
    right, labels = certain([1, 2]), np.array([1, 2], np.uint8)
    for probabilities in (right[:1], right[:, :9], right[0]):
        with pytest.raises(ValueError, match="of shape"):
            calibration.measure(probabilities, labels)
    for wrong in (right * 3, right - 1, right * np.float32("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fit_temperature(wrong, labels)
    for refused in (labels[:0], labels.reshape(1, 2), np.array([1, 10], np.uint8)):
        with pytest.raises(ValueError, match="expected labels"):
            calibration.reliability(right, refused)
