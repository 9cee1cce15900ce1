"""The statistics of a study, against values worked out by hand, enumerated, or simulated from a known truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from comparison.study import calibration
from comparison.study.statistics import (
    Accuracy,
    Answers,
    accuracy,
    agreements,
    all_pairs,
    always_wrong,
    compare_pairs,
    confusion,
    findings,
    learning_curve,
    read_answers,
    reproduction,
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


def test_runs_that_cannot_be_of_one_table_are_refused(tmp_path: Path) -> None:
    good = write_run(tmp_path, 1, certain([3, 1, 4, 1]), 4)
    for labels in (LABELS.reshape(2, 2), LABELS[:1], np.array([3, 1, 4, 10], np.uint8)):
        with pytest.raises(ValueError, match="expected labels"):
            read_answers([good], labels)
    with pytest.raises(ValueError, match="one run or more"):
        read_answers([], LABELS)
    with pytest.raises(StudyError, match="shape"):
        read_answers([good], np.array([3, 1, 4], np.uint8))
    with pytest.raises(StudyError, match=r"by these labels 3 are"):
        read_answers([good], np.array([3, 1, 4, 2], np.uint8))
    with pytest.raises(StudyError, match="two runs of one seed"):
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
    assert compared.p_seeds is compared.p_both is compared.holm is compared.p_equivalent_both is None
    assert compared.verdict == "undecided"


def test_the_paired_t_and_the_equivalence_test_by_hand() -> None:
    """Differences 0.01, 0.02, 0.03: t = 0.02 / (0.01 / sqrt(3)) = 3.4641, p = 1 - t / sqrt(2 + t²) for 2 degrees of
    freedom; against a margin of 0.06, t = -0.04 / (0.01 / sqrt(3)) = -6.9282 and half of its p."""
    answers = {"a": answers_of(counts([91, 92, 93], 100)), "b": answers_of(counts([90, 90, 90], 100), "b")}
    (compared,) = compare_pairs(answers, [("a", "b")], margin=0.06)
    t, nearer = 2 * math.sqrt(3), 4 * math.sqrt(3)
    assert compared.difference.value == pytest.approx(0.02)
    assert compared.p_seeds == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert compared.p_equivalent_seeds == pytest.approx((1 - nearer / math.sqrt(2 + nearer**2)) / 2)
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert compared.difference.over_seeds == pytest.approx((0.02 - reach, 0.02 + reach), abs=1e-6)


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


def test_holm_over_the_table() -> None:
    """The smallest p times 3, the next times 2, the last as it is, never descending; None left out."""
    generator = np.random.default_rng(3)
    answers = {name: answers_of(generator.random((4, 500)) < 0.9, name) for name in "abc"}
    answers["d"] = answers_of(generator.random((1, 500)) < 0.9, "d")
    compared = compare_pairs(answers, all_pairs(answers))
    known = sorted((each.p_both, each.holm) for each in compared if each.p_both is not None and each.holm is not None)
    assert len(known) == 3
    expected = np.minimum(1, np.maximum.accumulate([p * (3 - i) for i, (p, _) in enumerate(known)]))
    assert [holm for _, holm in known] == pytest.approx(expected)
    assert [each.holm for each in compared if "d" in (each.first, each.second)] == [None] * 3


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
    with pytest.raises(StudyError, match="1 and 2 epochs"):
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
    assert "equivalent, that is closer than 0.25 points: 2 pairs" in text
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
