"""What is concluded from trainings that differ in one thing, against outcomes that were made up with a known truth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from comparison.study.contrasts import (
    CONFIRMING,
    OTHERS,
    PILOT,
    Between,
    ByWriters,
    Default,
    Plan,
    Source,
    _component,
    _no_less,
    _of_writers,
    between,
    by_writers,
    components,
    decided,
    defaults,
    in_framework,
    plan,
    right,
    same_mathematics,
    sources,
)
from comparison.study.decide import Decision, decide
from comparison.study.decision import markdown, write_decision
from comparison.study.statistics import MARGIN, corrected, mean_interval
from comparison.words import NO_WRITERS
from digits import mnist
from digits.contract import Labels
from digits.errors import ReportError
from digits.mnist import Writers
from samedigit.cli import app
from training.given.draws import Training
from training.given.runs import Outcome, read
from training.recipes import RECIPES

RECIPE = RECIPES["numpy-deep"]
SEEDS = 14


@pytest.fixture(scope="module")
def labels() -> Labels:
    return mnist.test_images().labels


def outcome(training: Training, wrong: int, labels: Labels, *, first: int = 0, since: int = 0) -> Outcome:
    """After each kept epoch the same `wrong` answers, from the `first` image on (before epoch `since` from image 0 on)."""
    digits = np.repeat(labels[None], training.keep, axis=0)
    for epoch, answers in enumerate(digits):
        begin = first if epoch >= since else 0
        answers[begin : begin + wrong] = (answers[begin : begin + wrong] + 1) % 10
    return Outcome(
        training=training,
        digits=digits,
        seconds=10.0,
        machine="a made up one",
        versions={"numpy": "2"},
        finished_at="2026-01-01T00:00:00",
    )


def keep(folder: Path, found: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{found.training.key}.json"
    np.savez(file.with_suffix(".npz"), digits=found.digits)
    fields = {name: getattr(found, name) for name in ("seconds", "machine", "versions", "finished_at")}
    file.write_text(json.dumps({"training": found.training.to_data(), **fields}))


def wrong_answers(training: Training, seed: int, noise: np.random.Generator) -> int:
    """Keras's start costs 60 answers, one order for all epochs 12; epsilon and L2's meaning nothing. Seeds spread by 10."""
    wrong = 300 + 10 * (seed % 5) + int(noise.integers(-2, 3))
    wrong += 60 * (training.recipe.weight_draw == "glorot_uniform")
    return wrong + 12 * (training.shuffles == "once")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, labels: Labels) -> Path:
    """A folder with every outcome that `decide` asks for, so that nothing is trained."""
    folder, noise, others_noise = tmp_path_factory.mktemp("given"), np.random.default_rng(1), np.random.default_rng(2)
    for seed in range(1, SEEDS + 1):
        for contrast in defaults(RECIPE, seed):
            for training in (contrast.first, contrast.second):
                if read(folder, training) is None:
                    keep(folder, outcome(training, wrong_answers(training, seed, noise), labels))
        for framework in OTHERS if seed <= CONFIRMING else ():
            for contrast in in_framework(defaults(RECIPE, seed), framework):
                for training in (contrast.first, contrast.second):
                    wrong = wrong_answers(training, seed, others_noise)
                    if framework == "keras":  # where shuffling costs ten times as much
                        wrong += 108 * (training.shuffles == "once")
                    keep(folder, outcome(training, wrong, labels))
        for source in sources(RECIPE, seed):
            for training in (source.first, source.second):
                if read(folder, training) is None:
                    keep(folder, outcome(training, 300 + int(noise.integers(-20, 21)), labels))
    for training in same_mathematics(RECIPES["torch-relu"]):
        apart = {"keras": 7}.get(training.framework, 3 if training.nudge == 1 else 0) * (
            training.precision == "float32"
        )
        keep(folder, outcome(training, 300, labels, first=apart, since=14 if training.nudge else 4))
    return folder


def test_the_seeds_that_the_plan_is_made_by_are_no_part_of_the_verdict(labels: Labels, tmp_path: Path) -> None:
    """One order for all epochs costs 500 answers from the pilot's seeds, and nothing from any other."""
    for seed in range(1, PILOT * 2 + 1):
        contrasts: list[Default | Source] = [*defaults(RECIPE, seed), *sources(RECIPE, seed)]
        contrasts += [one for framework in OTHERS for one in in_framework(defaults(RECIPE, seed), framework)]
        for contrast in contrasts:
            for training in (contrast.first, contrast.second):
                costs = 500 * (training.shuffles == "once") * (seed <= PILOT)
                keep(tmp_path, outcome(training, 300 + seed % 3 + costs, labels))
    found = decide(tmp_path, recipe=RECIPE, mathematics=[], jobs=1, most_seconds=0)
    shuffling = next(row for row in found.defaults if row.name == "shuffling")
    assert (shuffling.seeds, shuffling.found.difference.value, shuffling.verdict) == (PILOT, 0, "equivalent")


@pytest.fixture(scope="module")
def decision(kept: Path) -> tuple[Decision, list[Plan]]:
    plans: list[Plan] = []
    found = decide(
        kept,
        recipe=RECIPE,
        mathematics=[RECIPES["torch-relu"]],
        jobs=1,
        most_seconds=60 * (SEEDS - PILOT),
        on_plan=plans.append,
    )
    return found, plans


def test_answers_of_the_same_mathematics_are_counted_where_they_differ(decision: tuple[Decision, list[Plan]]) -> None:
    exact, rounded = decision[0].same
    assert [(one.recipe, one.precision) for one in (exact, rounded)] == [
        ("torch-relu", "float64"),
        ("torch-relu", "float32"),
    ]
    never = (0,) * 15
    assert {pair.digits for pair in (*exact.frameworks, *exact.itself)} == {never}
    of_seven = (*[0] * 4, *[14] * 11)  # 7 that the one has wrong alone, and 7 that the other has
    assert {(pair.first, pair.second): pair.digits for pair in rounded.frameworks} == {
        ("numpy", "torch"): never,
        ("numpy", "keras"): of_seven,
        ("torch", "keras"): of_seven,
    }
    of_three = (*[0] * 14, 6)
    assert {(pair.first, pair.second): pair.digits for pair in rounded.itself} == {
        ("numpy", "numpy, nudged down"): never,
        ("numpy", "numpy, nudged up"): of_three,
        ("numpy, nudged down", "numpy, nudged up"): of_three,
    }
    assert {pair.accuracy for pair in (*rounded.frameworks, *rounded.itself)} == {0.0}


def test_accuracy_is_the_mean_over_the_last_five_epochs_however_many_were_kept(labels: Labels) -> None:
    training = same_mathematics(RECIPES["torch-relu"])[0]
    found = outcome(training, 100, labels)
    found.digits[:10] = labels
    found.digits[-1] = labels
    assert right(found, labels)[:101].tolist() == pytest.approx([0.2] * 100 + [1.0])


def test_every_two_frameworks_are_compared_seed_by_seed(labels: Labels) -> None:
    """Keras answers 20, 24 and 28 more wrongly; the intervals of three pairs hold at once."""
    drawn = [sources(RECIPE, seed) for seed in (1, 2, 3)]
    outcomes = {}
    for seed, of_seed in enumerate(drawn, start=1):
        for one in of_seed:
            for training in (one.first, one.second):
                more = 16 + 4 * seed if training.framework == "keras" else 0
                outcomes[training.key] = outcome(training, 300 + 10 * seed + more, labels)
    found = {(row.first, row.second): row for row in between(drawn, outcomes, labels)}
    assert list(found) == [("numpy", "torch"), ("numpy", "keras"), ("torch", "keras")]
    assert {row.seeds for row in found.values()} == {3}
    alike, apart, other = found.values()
    assert (alike.difference, alike.together, alike.verdict) == (0.0, (0.0, 0.0), "equivalent")
    assert apart.difference == other.difference == pytest.approx(0.0024)
    differences = np.zeros((3, 10_000))
    for seed, row in enumerate(differences, start=1):
        row[300 + 10 * seed : 300 + 10 * seed + 16 + 4 * seed] = 1  # right in NumPy alone
    assert apart.together == other.together == pytest.approx(mean_interval(differences, level=0.05 / 7))


def test_a_pair_of_frameworks_is_different_equivalent_or_not_decided_by_its_interval() -> None:
    pair = Between(first="numpy", second="torch", seeds=5, difference=0.0, together=(-0.001, 0.002), margin=0.0025)
    verdicts = {
        (-0.001, 0.002): ("equivalent", True), (-0.003, 0.002): ("undecided", False), (-0.001, 0.0025): ("undecided", False),
        (0.001, 0.002): ("different", True), (-0.004, -0.001): ("different", False),
    }  # fmt: skip
    for interval, expected in verdicts.items():
        one = replace(pair, together=interval)
        assert (one.verdict, one.within_margin) == expected


def test_each_default_gets_the_verdict_that_was_made_up(decision: tuple[Decision, list[Plan]]) -> None:
    found = {row.name: row for row in decision[0].defaults}
    assert [row.verdict for row in found.values()] == ["different", "equivalent", "different", "equivalent"]
    assert found["where weights start"].found.difference.value == pytest.approx(0.0060, abs=0.0004)
    assert not found["where weights start"].within_margin
    assert found["shuffling"].found.difference.value == pytest.approx(0.0012, abs=0.0003)
    assert found["shuffling"].within_margin
    alone = corrected([(row.found.p, row.found.p_equivalent) for row in found.values()])
    for row, p_values in zip(found.values(), alone, strict=True):  # four of seven tests: the rest is of frameworks
        assert (row.corrected, row.corrected_equivalent) == pytest.approx([min(1.0, p * 7 / 4) for p in p_values])
        assert row.found.difference.over_both is not None
        (low, high), (lower, higher) = row.found.difference.over_both, row.together
        assert lower < low < row.found.difference.value < high < higher
        assert row.corrected >= row.found.p
        assert higher - lower < 2 * (high - low)  # seven at once
        assert row.seeds == decision[0].plan.seeds


def test_what_numpy_says_of_a_default_is_confirmed_or_not_in_the_others(decision: tuple[Decision, list[Plan]]) -> None:
    found = {(row.name, row.framework): row for row in decision[0].confirmed}
    names = [row.name for row in decision[0].defaults]
    assert list(found) == [(name, "torch") for name in names] + [(name, "keras") for name in names[:3]]
    assert {row.seeds for row in found.values()} == {CONFIRMING}
    assert {key for key, row in found.items() if not row.agrees} == {("shuffling", "keras")}
    assert found["shuffling", "keras"].difference == pytest.approx(0.0120, abs=0.0006)
    low, high = found["shuffling", "keras"].interval
    assert low < 0.0120 < high
    assert {each.first.framework for each in in_framework(defaults(RECIPE, 1), "torch")} == {"torch"}


def test_the_same_mathematics_is_drawn_from_one_seed_and_nudged_in_numpy_alone() -> None:
    trainings = same_mathematics(RECIPES["torch-relu"])
    assert {(one.weights, one.order, one.masks, one.keep) for one in trainings} == {(1, 1, 1, 15)}
    assert [(one.precision, one.framework, one.nudge) for one in trainings] == [
        (precision, framework, nudge)
        for precision in ("float64", "float32")
        for framework, nudge in (("numpy", 0), ("torch", 0), ("keras", 0), ("numpy", -1), ("numpy", 1))
    ]


def test_the_two_sides_of_a_contrast_differ_in_one_thing_alone() -> None:
    sides = [(one.first, one.second) for one in defaults(RECIPE, 3)]
    sides += [(one.first, one.second) for one in sources(RECIPE, 3)]
    for first, second in sides:
        one, other = first.to_data(), second.to_data()
        changed = {name for name in one if name != "recipe" and one[name] != other[name]}
        changed |= {name for name in one["recipe"] if one["recipe"][name] != other["recipe"][name]}
        assert changed in (
            {"weight_draw", "bias_draw"}, {"epsilon"}, {"shuffles"}, {"l2_means"},
            {"weights"}, {"order"}, {"sample"}, {"framework"},
        )  # fmt: skip
        assert first.weights == first.order == 3


def test_the_defaults_are_what_the_frameworks_do_whatever_the_recipe_says() -> None:
    said_otherwise = replace(RECIPE, weight_draw="he_uniform", bias_draw="zeros", epsilon=0.5, l2=0.1)
    torchs, keras_start = ("fan_in_uniform", "fan_in_uniform"), ("glorot_uniform", "zeros")

    def told(training: Training) -> tuple[object, ...]:
        recipe = training.recipe
        start = recipe.weight_draw, recipe.bias_draw
        return start, recipe.epsilon, recipe.l2, training.shuffles, training.l2_means

    found = [
        (one.name, one.first_is, one.second_is, told(one.first), told(one.second))
        for one in defaults(said_otherwise, 3)
    ]
    base = (torchs, 1e-8, 0.0, "each epoch", "penalty")
    assert found == [
        (
            "where weights start", "torch: uniform within 1 / sqrt(fan_in), biases too", "Keras: Glorot's uniform, biases 0",
            base, (keras_start, *base[1:]),
        ),
        ("Adam's epsilon", "torch: 1e-8", "Keras: 1e-7", base, (torchs, 1e-7, *base[2:])),
        (
            "shuffling", "torch's DataLoader: another order at each epoch",
            "Keras's fit with a seed: one order, at every epoch", base, (*base[:3], "once", "penalty"),
        ),
        (
            "what L2 means", "torch's weight_decay=0.0001: added to every gradient",
            "Keras's L2(0.0001): added to the loss, weights of hidden layers",
            (*base[:2], 1e-4, "each epoch", "decay"), (*base[:2], 1e-4, *base[3:]),
        ),
    ]  # fmt: skip


def test_what_is_drawn_anew_is_drawn_from_another_seed_and_the_halves_of_the_images_share_none() -> None:
    found = [(one.name, one.first, one.second) for one in sources(RECIPE, 3)]
    base = found[0][1]
    assert (base.weights, base.order, base.masks, base.sample, base.framework) == (3, 3, 3, None, "numpy")
    assert found == [
        ("starting weights", base, replace(base, weights=1003)),
        ("order of batches", base, replace(base, order=1003)),
        ("sample of training images", replace(base, sample=3), replace(base, sample=-3)),
        ("framework: torch for NumPy", base, replace(base, framework="torch")),
        ("framework: Keras for NumPy", base, replace(base, framework="keras")),
    ]


def test_a_bound_is_never_shown_smaller_than_it_is() -> None:
    assert [_no_less(fraction) for fraction in (0.0003, 0.00030001, 0.00039, 0.0, 0.5)] == [
        "0.03", "0.04", "0.04", "0.00", "50.00",
    ]  # fmt: skip


def test_components_are_half_the_mean_square_of_a_difference(labels: Labels) -> None:
    """Wrong answers by seed: 300 and 304, 310 and 300; so 4 and 10 of 10,000, and half of 58 on average."""
    drawn = [sources(RECIPE, seed)[:1] for seed in (1, 2)]
    wrong = {(1, "first"): 300, (1, "second"): 304, (2, "first"): 310, (2, "second"): 300}
    outcomes = {}
    for (seed, which), number in wrong.items():
        training = getattr(drawn[seed - 1][0], which)
        outcomes[training.key] = outcome(training, number, labels)
        outcomes[training.key].digits[:-1] = labels  # what came before the last epoch does not count
    weights, everything, images = components(drawn, outcomes, labels)
    variance = (4**2 + 10**2) / 2 / 2 / 1e8
    assert (weights.name, weights.pairs) == ("starting weights", 2)
    assert weights.deviation == pytest.approx(variance**0.5)
    assert weights.interval == pytest.approx(
        ((2 * variance / stats.chi2.ppf(0.975, 2)) ** 0.5, (2 * variance / stats.chi2.ppf(0.025, 2)) ** 0.5)
    )
    deviation = float(np.std([300, 310], ddof=1)) / 1e4
    assert (everything.name, everything.pairs) == ("all that is drawn in training", 2)
    assert everything.deviation == pytest.approx(deviation)
    low, high = (float(stats.chi2.ppf(share, 1)) for share in (0.025, 0.975))
    assert everything.interval == pytest.approx((deviation / high**0.5, deviation / low**0.5))
    assert (images.name, images.pairs) == ("test images", 10_000)
    assert images.deviation == pytest.approx((0.0305 * 0.9695 / 1e4) ** 0.5, rel=0.02)
    assert images.interval[0] < images.deviation < images.interval[1]
    assert images.interval == pytest.approx((images.deviation * 0.945, images.deviation * 1.055), rel=0.01)


def test_of_writers_the_sums_of_each_are_drawn(labels: Labels) -> None:
    """The first 1,000 and 1,010 answers are wrong: 100 writers of 100 images each, of whom ten are never read right."""
    drawn = [sources(RECIPE, seed)[:1] for seed in (1, 2)]
    outcomes = {
        training.key: outcome(training, number, labels)
        for (one,), number in zip(drawn, (1000, 1010), strict=True)
        for training in (one.first, one.second)
    }
    writers = np.repeat(np.arange(100), 100).astype(np.int32)
    *others, found = components(drawn, outcomes, labels, writers=writers)
    assert others == components(drawn, outcomes, labels)
    assert (found.name, found.pairs) == ("writers of the test images", 100)
    wrong = np.array([1] * 10 + [0.05] + [0] * 89)  # of each writer's, the mean of both
    assert found.deviation == pytest.approx(wrong.std(ddof=1) / 10)
    of_100 = stats.binom.ppf([0.025, 0.975], 100, 0.1) / 100
    assert found.interval == pytest.approx(tuple(np.sqrt(of_100 * (1 - of_100)) / 10), rel=0.03)


def test_the_interval_over_writers_holds_the_truth() -> None:
    """200 writers of 5 to 40 images; each is read with a chance of their own."""
    random = np.random.default_rng(4)
    held = 0
    images = random.integers(5, 41, 200)
    truth = float(np.sqrt((images * 0.8 * 0.2 + images * (images - 1) * 0.1**2).sum())) / images.sum()
    for _ in range(100):
        writers = np.repeat(np.arange(200), images).astype(np.int32)
        chance = random.choice([0.7, 0.9], 200)[writers]
        found = _of_writers((random.random(len(writers)) < chance).astype(float), writers)
        held += found.interval[0] <= truth <= found.interval[1]
    assert held == pytest.approx(95, abs=5)


def test_verdicts_that_are_others_by_writers_are_named(decision: tuple[Decision, list[Plan]]) -> None:
    pairs, rows = decision[0].frameworks, decision[0].defaults
    same = by_writers([(one, one) for one in pairs], [(one, one) for one in rows])
    assert same == ByWriters(changed=(), wider=(1.0, 1.0))
    far = replace(pairs[1], together=(-0.003, 0.003))
    near = replace(pairs[1], together=(-0.001, 0.002))
    small = replace(rows[2], corrected=0.01, corrected_equivalent=0.01, together=(0.0, 0.001))
    twice = replace(
        small, corrected_equivalent=0.2, together=(0.0, 0.002)
    )  # as different, and no more within the margin
    found = by_writers([(pairs[0], pairs[0]), (near, far)], [(rows[0], rows[0]), (small, twice)])
    assert found.changed == ("numpy and keras", "shuffling")
    assert found.wider == pytest.approx((1, 2))
    text = markdown(replace(decision[0], by_writers=found))
    assert "are 1.0 to 2.0 times as wide, and another verdict comes out on numpy and keras and shuffling." in text
    text = markdown(replace(decision[0], by_writers=same))
    assert "are 1.0 times as wide, and each verdict is the same." in text
    assert NO_WRITERS not in text
    assert NO_WRITERS in markdown(replace(decision[0], by_writers=None))


def test_who_wrote_the_test_images_is_asked_where_it_is_known(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many writers as images change nothing; of some with many images the intervals are wider, beside the tables."""

    def decided_by(writers: Writers | None) -> Decision:
        monkeypatch.setattr(mnist, "test_writers", lambda: writers)
        return decide(kept, recipe=RECIPE, mathematics=[], jobs=1, most_seconds=60 * (SEEDS - PILOT))

    unknown, alone = decided_by(None), decided_by(np.arange(10_000, dtype=np.int32))
    assert unknown.by_writers is None
    assert alone.by_writers is not None
    assert alone.by_writers.changed == ()
    assert alone.by_writers.wider == pytest.approx((1, 1))
    assert alone.components[:-1] == unknown.components
    assert alone.components[-1].deviation == pytest.approx(alone.components[-2].deviation)
    together = decided_by(np.repeat(np.arange(100), 100).astype(np.int32))
    assert together.frameworks == unknown.frameworks  # the tables are over images
    assert together.defaults == unknown.defaults
    assert together.by_writers is not None
    assert together.by_writers.wider[1] > 1.5


def test_defaults_share_the_error_that_is_promised_with_the_pairs_of_frameworks(
    decision: tuple[Decision, list[Plan]],
) -> None:
    """4 of 7: p values corrected over the defaults are 7/4 times as large, of a difference and of equivalence."""
    rows = decision[0].defaults
    over_defaults = corrected([(row.found.p, row.found.p_equivalent) for row in rows])
    expected = [tuple(min(1.0, 7 / 4 * p) for p in of_both) for of_both in over_defaults]
    for row, (different, equivalent) in zip(rows, expected, strict=True):
        assert row.corrected == pytest.approx(different, rel=1e-9, abs=0)
        assert row.corrected_equivalent == pytest.approx(equivalent, rel=1e-9, abs=0)
    for place in range(2):
        assert any(1e-12 < of_both[place] < 0.5 for of_both in expected)
        assert any(of_both[place] == 1 for of_both in expected)


def test_the_interval_of_a_component_holds_the_truth() -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(500):
        squares = random.normal(0, 2**0.5 * 0.003, 8) ** 2 / 2
        low, high = _component("", float(squares.mean()), 8, 8).interval
        held += low <= 0.003 <= high
    assert held == pytest.approx(475, abs=15)


def test_the_plan_is_made_by_the_pilot_and_kept_within_the_time(
    kept: Path, labels: Labels, decision: tuple[Decision, list[Plan]]
) -> None:
    (planned,) = decision[1]
    assert planned == decision[0].plan
    assert decision[0].trainings == 6 * PILOT + planned.trainings + planned.others
    assert planned.others > 7 * CONFIRMING + 2 * planned.seeds
    trainings = {
        training.key: training
        for seed in range(1, PILOT + 1)
        for one in defaults(RECIPE, seed)
        for training in (one.first, one.second)
    }
    found = {key: result for key, training in trainings.items() if (result := read(kept, training)) is not None}
    assert len(found) == 6 * PILOT  # the first side of three defaults is one and the same training
    for margin, seconds, jobs, seeds in (
        (0.0001, 1e9, 1, None),
        (0.0001, 600, 1, 10),
        (0.0001, 600, 2, 20),
        (0.5, 0, 1, 5),
    ):
        made = plan(RECIPE, found, labels, most_seconds=seconds, jobs=jobs, margin=margin)
        assert seeds is None or made.seeds == seeds
        assert made.trainings == 6 * made.seeds
        assert made.seconds == pytest.approx(10 * made.trainings / jobs)
        assert made.seconds <= max(seconds, 10 * 6 * PILOT)
        assert made.needed is not None
        assert made.needed >= made.seeds
    rows = decided([defaults(RECIPE, seed) for seed in range(1, PILOT + 1)], found, labels)
    for row in rows:
        assert row.found.difference.over_both is not None
        assert row.together[0] < row.found.difference.over_both[0]  # of seven at once
    narrow = decided(
        [defaults(RECIPE, seed) for seed in range(1, PILOT + 1)], found, labels, margin=rows[0].found.margin / 2
    )
    assert [row.found.margin for row in narrow] == [MARGIN / 2] * len(rows)
    needed = [row.seeds_needed for row in rows]
    assert None not in needed
    assert sum(row.seeds_needed or 0 for row in narrow) > sum(seeds or 0 for seeds in needed)
    whole = plan(RECIPE, found, labels, most_seconds=1e9, jobs=1)
    assert (whole.needed, whole.seeds) == (max(PILOT, *(seeds or 0 for seeds in needed)),) * 2
    for seed in range(1, PILOT + 1):  # as many answers wrong with either epsilon, but of other images
        for number, training in enumerate((defaults(RECIPE, seed)[1].first, defaults(RECIPE, seed)[1].second)):
            found[training.key] = outcome(training, 300, labels, first=5000 * number)
    assert plan(RECIPE, found, labels, most_seconds=1e9, jobs=1, margin=1e-4).needed is None


def test_the_sentence_and_the_page_say_it(decision: tuple[Decision, list[Plan]], tmp_path: Path) -> None:
    said = decision[0].sentence
    start = next(row for row in decision[0].defaults if row.name == "where weights start")
    found, low, high = (f"{100 * value:+.2f}" for value in (start.found.difference.value, *start.together))
    assert re.match(
        "Given the same starting weights and batches, the framework makes no difference of more than 0\\.\\d\\d "
        f"points \\(numpy-deep, 5 seeds\\); its defaults make up to {found[1:]}: where weights start, torch minus Keras, "
        f"\\{found} \\(95 % interval \\{low} to \\{high}\\)\\. Shown",
        said,
    )
    assert said.endswith(
        "Shown to be different: where weights start; shown to be different, but by less than 0.25 points: shuffling; shown to "
        "be equivalent (closer than 0.25 points): Adam's epsilon and what L2 means."
    )
    assert re.fullmatch(
        "By accuracy, it may matter: given the same random numbers two frameworks differ by no more than 0\\.\\d\\d points, "
        f"and what they do if nobody says otherwise moves it by up to {found[1:]}",
        decision[0].answer,
    )
    equal = tuple(replace(row, corrected=1.0, corrected_equivalent=0.0) for row in decision[0].defaults)
    near = tuple(replace(pair, together=(-0.0001, 0.0001)) for pair in decision[0].frameworks)
    far = tuple(replace(pair, together=(-0.0026, 0.0001)) for pair in decision[0].frameworks)
    for frameworks, rows, said_first in (
        (near, equal, "any: "), (far, equal, "it may matter: "), (near, decision[0].defaults, "it may matter: "),
    ):  # fmt: skip
        found_any = replace(decision[0], defaults=rows, frameworks=frameworks).answer
        assert found_any.startswith(f"By accuracy, {said_first}given")
    page = write_decision(decision[0], tmp_path)
    text = page.read_text()
    assert said in text
    assert decision[0].rounding == (
        "What is left is rounding, which a training amplifies. After the last epoch, in float64 and float32, two frameworks "
        "answer 0 and 0 to 14 of 10,000 test images differently; NumPy, its starting weights moved by their last bit, answers "
        "0 and 0 to 6 differently from itself."
    )
    assert decision[0].rounding in text
    assert re.search(
        r"\| NumPy and Keras \| 5 \| [+-]0\.\d\d \| -0\.\d\d to \+0\.\d\d \| (not decided|equivalent) \|", text
    )
    assert "| where weights start | torch: uniform within 1 / sqrt(fan_in), biases too |" in text
    assert "different, but closer than the margin" in text
    assert re.search(r"\| shuffling \| keras \| 3 \| \+1\.\d\d \| .* \| \*\*contradicts\*\* \|", text)
    assert "None" not in text
    assert "nan" not in text
    assert "| torch-relu | float64 | 0 | 0 | 0.00 | 0.00 | none | none |" in text
    assert "| torch-relu | float32 | 0 to 14 | 0 to 6 | 0.00 | 0.00 | 5 to none | 15 to none |" in text
    for picture in ("components.png", "rounding.png"):
        assert f"]({picture})" in text
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    tables = json.loads((tmp_path / "decision.json").read_text())
    assert tables["sentence"] == said
    assert [row["verdict"] for row in tables["frameworks"]] == [row.verdict for row in decision[0].frameworks]
    assert [row["verdict"] for row in tables["defaults"]] == ["different", "equivalent", "different", "equivalent"]


def test_a_default_that_is_equivalent_or_closer_than_the_margin_matters_to_nobody(
    decision: tuple[Decision, list[Plan]],
) -> None:
    near = tuple(replace(pair, together=(-0.0001, 0.0001)) for pair in decision[0].frameworks)
    verdicts = {  # corrected p of a difference, and of one beyond the margin
        (1.0, 0.0): "any", (0.0, 0.0): "any", (1.0, 1.0): "it may matter", (0.0, 1.0): "it may matter",
    }  # fmt: skip
    for (different, beyond), expected in verdicts.items():
        rows = tuple(
            replace(row, corrected=different, corrected_equivalent=beyond) if i == 0
            else replace(row, corrected=1.0, corrected_equivalent=0.0)
            for i, row in enumerate(decision[0].defaults)
        )  # fmt: skip
        found = replace(decision[0], defaults=rows, frameworks=near)
        assert found.answer.startswith(f"By accuracy, {expected}: given")
    at = (replace(near[0], together=(-0.0025, 0.0)), *near[1:])
    equal = tuple(replace(row, corrected=1.0, corrected_equivalent=0.0) for row in decision[0].defaults)
    assert replace(decision[0], defaults=equal, frameworks=at).answer.startswith("By accuracy, it may matter: given")


def test_how_large_a_difference_may_be_and_what_is_not_decided_are_said(decision: tuple[Decision, list[Plan]]) -> None:
    found = decision[0]
    *first, last = found.frameworks
    worse = replace(
        found,
        frameworks=(*first, replace(last, together=(-0.01231, 0.001))),
        defaults=tuple(
            replace(row, corrected=1.0, corrected_equivalent=1.0, seeds_needed=needed)
            for row, needed in zip(found.defaults, (40, None, 40, 40), strict=True)
        ),
        plan=replace(found.plan, needed=None),
    )
    assert "the framework makes no difference of more than 1.24 points" in worse.sentence  # a bound is rounded up
    assert "Not decided: where weights start" in worse.sentence
    without = replace(found, same=())
    assert without.rounding is None
    assert "ounding" not in markdown(without)
    page = markdown(worse)
    assert "not decided; takes about 40 seeds" in page
    assert "not decided; at the margin, which no seeds decide" in page
    assert "no number of seeds decides it" in page


def test_the_command_prints_the_plan_and_the_sentence(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "given").symlink_to(kept)
    command = ["study", "torch-relu", "--decide", "--minutes", "2", "--jobs", "1", "--study", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "the framework makes no difference of more than" in done.output
    assert f"Page: {tmp_path / 'decision.md'}" in done.output
    assert re.search(r"Plan: \d seeds.*; \d+ trainings more, about 0:\d\d:\d\d\. Then \d+ in the other", done.output)
    tables = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert tables["page"] == str(tmp_path / "decision.md")
    assert tables["plan"]["seeds"] <= 7


def test_a_page_that_cannot_be_written(decision: tuple[Decision, list[Plan]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReportError):
        write_decision(decision[0], tmp_path / "file")
