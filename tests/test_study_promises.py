"""What a study promises of all its verdicts and intervals together, against trainings that were drawn from a known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from comparison.intervals import Interval
from comparison.study import contrasts
from comparison.study.contrasts import CONFIRMING, OTHERS, PILOT, Default, Source
from comparison.study.statistics import LEVEL, paired, seeds_for
from digits.contract import FRAMEWORKS, Labels
from training.given.draws import Training
from training.given.runs import Outcome
from training.recipes import RECIPES

pytestmark = pytest.mark.slow

RECIPE = RECIPES["numpy-deep"]
IMAGES: Final = 400
LABELS: Labels = np.zeros(IMAGES, np.uint8)
MARGIN: Final = 0.02
NAMES: Final = tuple(one.name for one in contrasts.defaults(RECIPE, 1))

Answers = npt.NDArray[np.bool_]  # [images], whether they are right


def outcome(training: Training, right: Answers) -> Outcome:
    """Answers 0 where it is right, else 1; the labels are all 0."""
    fields: dict[str, Any] = {"seconds": 1.0, "machine": "", "versions": {}, "finished_at": ""}
    return Outcome(training=training, digits=np.where(right, 0, 1).astype(np.uint8)[None], **fields)


class Population:
    """Images of some difficulty, each of which takes a change in its own way; seeds, which move both sides of a contrast alike
    and a little each side. The mean change, over all images and seeds there could be, is the shift."""

    def __init__(self, generator: np.random.Generator, *, apart: float = 0.01) -> None:
        self.generator = generator
        self.apart = apart  # standard deviation over seeds, of one side alone
        self.difficulty = generator.uniform(0.4, 0.6, IMAGES)

    def taken(self, shift: float) -> npt.NDArray[np.float64]:
        """What a change does to each image's chance to be right."""
        return shift + self.generator.normal(0, 0.1, IMAGES)

    def luck(self) -> npt.NDArray[np.float64]:
        """Of one seed, common to all that is trained from it."""
        return self.generator.random(IMAGES) + self.generator.normal(0, 0.02)

    def right(self, luck: npt.NDArray[np.float64], taken: npt.NDArray[np.float64] | float) -> Answers:
        answers: Answers = luck < self.difficulty + taken + self.generator.normal(0, self.apart)
        return answers


def drawn_defaults(
    population: Population,
    taken: Sequence[npt.NDArray[np.float64]],
    seeds: Sequence[int],
    *,
    framework: str = "numpy",
) -> tuple[list[list[Default]], dict[str, Outcome]]:
    """By seed the four contrasts; the first side of three is one and the same training. `taken`: by default, second side."""
    rows, outcomes = [], dict[str, Outcome]()
    for seed in seeds:
        row, luck = contrasts.defaults(RECIPE, seed), population.luck()
        if framework != "numpy":
            row = contrasts.in_framework(row, "torch" if framework == "torch" else "keras")
        for one in row:
            if one.first.key not in outcomes:
                outcomes[one.first.key] = outcome(one.first, population.right(luck, 0.0))
            right = population.right(luck, taken[NAMES.index(one.name)])
            outcomes[one.second.key] = outcome(one.second, right)
        rows.append(row)
    return rows, outcomes


def holds(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] <= truth <= interval[1]


def drawn_frameworks(
    population: Population, taken: Mapping[str, npt.NDArray[np.float64]], seeds: Sequence[int]
) -> tuple[list[list[Source]], dict[str, Outcome]]:
    """By seed the sources, with the outcomes of those that are a framework. `taken`: by framework."""
    rows, outcomes = [], dict[str, Outcome]()
    for seed in seeds:
        row, luck = contrasts.sources(RECIPE, seed), population.luck()
        for training in (row[0].first, *(one.second for one in row if one.second.framework in OTHERS)):
            outcomes[training.key] = outcome(training, population.right(luck, taken[training.framework]))
        rows.append(row)
    return rows, outcomes


def test_all_intervals_hold_at_once_and_hardly_a_verdict_is_wrong() -> None:
    """Of a study as a whole: one default costs 3 points, two nothing, and one exactly the margin; frameworks cost nothing."""
    generator = np.random.default_rng(31)
    truths = dict(zip(NAMES, (0.03, 0.0, MARGIN, 0.0), strict=True))
    trials, at_once, alone, wrong = 800, 0, 0, 0
    for _ in range(trials):
        population = Population(generator)
        rows, outcomes = drawn_defaults(
            population, [population.taken(-truth) for truth in truths.values()], range(1, 9)
        )
        found = contrasts.decided(rows, outcomes, LABELS, margin=MARGIN)
        drawn, outcomes = drawn_frameworks(
            population, {name: population.taken(0.0) for name in FRAMEWORKS}, range(1, 9)
        )
        pairs = contrasts.between(drawn, outcomes, LABELS)
        assert len(found) + len(pairs) == contrasts.TESTED
        held = [holds(row.together, truths[row.name]) for row in found]
        at_once += all([*held, *(holds(row.together, 0.0) for row in pairs)])
        alone += all(holds(row.found.difference.over_both, truths[row.name]) for row in found)
        wrong += any(row.verdict == "different" for row in pairs) or any(
            (row.verdict == "different" and truths[row.name] == 0) or (row.within_margin and truths[row.name] >= MARGIN)
            for row in found
        )
    assert 0.94 <= at_once / trials <= 0.98
    assert alone / trials < 0.88  # each holds in 95 of 100
    assert 0.02 <= wrong / trials <= 0.06


def test_few_seeds_elsewhere_agree_with_numpy_where_nothing_differs_and_not_where_much_does() -> None:
    """In torch one default costs 15 points more than in NumPy, the others what they cost there."""
    generator = np.random.default_rng(33)
    truths = (0.03, 0.0, MARGIN, 0.0)
    held, agree, agree_far = list[bool](), list[bool](), list[bool]()
    for _ in range(300):
        population = Population(generator)
        taken = [population.taken(-truth) for truth in truths]
        rows, outcomes = drawn_defaults(population, taken, range(1, 9))
        said = contrasts.decided(rows, outcomes, LABELS, margin=MARGIN)
        taken[0] -= 0.15
        rows, outcomes = drawn_defaults(population, taken, range(1, CONFIRMING + 1), framework="torch")
        far, *others = contrasts.confirmed(rows, outcomes, LABELS, said)
        held += [holds(row.interval, truth) for row, truth in zip(others, truths[1:], strict=True)]
        agree += [row.agrees for row in others]
        agree_far.append(far.agrees)
    assert 0.94 <= np.mean(held) <= 0.98
    assert np.mean(agree) >= 0.99  # two intervals, of 95 % and of 98.75
    assert np.mean(agree_far) <= 0.03


def test_so_many_seeds_as_are_planned_decide_equal_defaults_and_call_hardly_any_different() -> None:
    generator = np.random.default_rng(34)
    trials, different, verdicts, margin = 250, 0, list[bool](), 0.05
    for _ in range(trials):
        population = Population(generator, apart=0.025)
        taken = [population.taken(0.0) for _ in NAMES]
        _, outcomes = drawn_defaults(population, taken, range(1, PILOT + 1))
        planned = contrasts.plan(RECIPE, outcomes, LABELS, most_seconds=1e9, jobs=1, margin=margin)
        rows, outcomes = drawn_defaults(population, taken, range(PILOT + 1, PILOT + 1 + planned.seeds))
        found = contrasts.decided(rows, outcomes, LABELS, margin=margin)
        different += any(row.verdict == "different" for row in found)
        verdicts += [row.verdict != "undecided" for row in found]
    assert different / trials <= 0.07
    assert np.mean(verdicts) >= 0.98


def test_a_number_of_seeds_that_was_chosen_by_a_difference_is_not_tested_together_with_it() -> None:
    """Of one default, that makes no difference: the pilot left out, as `decide` does, and the pilot kept."""
    generator = np.random.default_rng(35)
    trials, apart, together = 1500, 0, 0
    for _ in range(trials):
        pilot = np.repeat(generator.normal(0, 0.006, (PILOT, 1)), 2, axis=1)  # [seeds, images], of which both are alike
        number = max(PILOT, seeds_for(pilot) or 1000)
        more = np.repeat(generator.normal(0, 0.006, (number, 1)), 2, axis=1)
        apart += paired(more).p <= LEVEL
        together += paired(np.concatenate([pilot, more[PILOT:]])).p <= LEVEL
    assert 0.035 <= apart / trials <= 0.065
    assert 0.07 <= together / trials <= 0.11  # one in ten, as `Plan` says
