"""Is it the framework, or its defaults? What is trained to decide it, and what the outcomes say.

1. The same mathematics: one training in NumPy, torch and Keras, everything random handed in (`training.given`); and in NumPy
   from starting weights whose last bit is another, since a training amplifies whatever is rounded differently.
2. The defaults: what differs between frameworks if nobody says otherwise, one at a time, inside NumPy, with common random
   numbers: both sides start from the same numbers and see the same batches. A few seeds in torch and Keras confirm it.
3. Where variance comes from: trainings that differ in one thing alone that is drawn.

Accuracies are in [0, 1], on the test images, of the mean over the last epochs (`LAST`): the accuracy
of one epoch jumps by some tenths of a point from one to the next, and the mean over epochs asks the same with fewer seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from comparison.intervals import Interval, overlap
from comparison.study.statistics import (
    LEVEL,
    MARGIN,
    POWER,
    Paired,
    Values,
    Verdict,
    by_writer,
    corrected,
    mean_interval,
    paired,
    seeds_for,
    variance_by_writer,
    verdict_of,
)
from comparison.words import FRAMEWORK_NAMES, join
from digits.contract import FRAMEWORKS, Framework, Labels
from digits.mnist import Writers
from training.given.draws import Precision, Training
from training.given.runs import Outcome
from training.recipes import Recipe

PAIRS: Final = 20  # seeds of the components at most
PILOT: Final = 5  # seeds, from whose spread the plan says how many others it takes
CONFIRMING: Final = 3  # seeds of each default in the other frameworks
OTHERS: Final[tuple[Framework, ...]] = ("torch", "keras")
ELSEWHERE: Final = 1000  # added to a seed: another draw of the same thing
PRECISIONS: Final[tuple[Precision, ...]] = ("float64", "float32")
NUDGES: Final[tuple[Literal[-1, 1], ...]] = (-1, 1)
LAST: Final = 5  # epochs, over which the mean of accuracy is taken
WRITERS: Final = "writers of the test images"
TESTED: Final = 7  # defaults, and pairs of frameworks: of all their verdicts one error in 20 studies is promised


def given(recipe: Recipe, seed: int) -> Training:
    """In NumPy, everything drawn from one seed."""
    return Training(recipe=recipe, framework="numpy", weights=seed, order=seed, masks=seed)


def same_mathematics(recipe: Recipe, seed: int = 1) -> list[Training]:
    """In each precision one training in each framework, and two in NumPy whose starting weights are nudged."""
    base = replace(given(recipe, seed), keep=recipe.epochs)
    return [
        one
        for precision in PRECISIONS
        for one in (
            *(replace(base, precision=precision, framework=framework) for framework in FRAMEWORKS),
            *(replace(base, precision=precision, nudge=nudge) for nudge in NUDGES),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Default:
    """Something that frameworks do differently if nobody says otherwise, with the two trainings that differ in it alone."""

    name: str
    first_is: str
    second_is: str
    first: Training
    second: Training


L2: Final = 1e-4  # for the one default that is about it


def defaults(recipe: Recipe, seed: int) -> list[Default]:
    base = given(replace(recipe, weight_draw="fan_in_uniform", bias_draw="fan_in_uniform", epsilon=1e-8, l2=0.0), seed)
    keras_start = replace(base.recipe, weight_draw="glorot_uniform", bias_draw="zeros")
    with_l2 = replace(base, recipe=replace(base.recipe, l2=L2))
    return [
        Default(
            name="where weights start",
            first_is="torch: uniform within 1 / sqrt(fan_in), biases too",
            second_is="Keras: Glorot's uniform, biases 0",
            first=base,
            second=replace(base, recipe=keras_start),
        ),
        Default(
            name="Adam's epsilon",
            first_is="torch: 1e-8",
            second_is="Keras: 1e-7",
            first=base,
            second=replace(base, recipe=replace(base.recipe, epsilon=1e-7)),
        ),
        Default(
            name="shuffling",
            first_is="torch's DataLoader: another order at each epoch",
            second_is="Keras's fit with a seed: one order, at every epoch",
            first=base,
            second=replace(base, shuffles="once"),
        ),
        Default(
            name="what L2 means",
            first_is=f"torch's weight_decay={L2:g}: added to every gradient",
            second_is=f"Keras's L2({L2:g}): added to the loss, weights of hidden layers",
            first=replace(with_l2, l2_means="decay"),
            second=with_l2,
        ),
    ]


def in_framework(contrasts: Sequence[Default], framework: Framework) -> list[Default]:
    """The same contrasts inside another framework; Keras cannot be asked what L2 means in torch."""
    return [
        replace(one, first=replace(one.first, framework=framework), second=replace(one.second, framework=framework))
        for one in contrasts
        if framework != "keras" or one.first.l2_means == one.second.l2_means
    ]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that is drawn, with two trainings that differ in it alone."""

    name: str
    first: Training
    second: Training


def sources(recipe: Recipe, seed: int) -> list[Source]:
    base = given(recipe, seed)
    return [
        Source(name="starting weights", first=base, second=replace(base, weights=seed + ELSEWHERE)),
        Source(name="order of batches", first=base, second=replace(base, order=seed + ELSEWHERE)),
        Source(name="sample of training images", first=replace(base, sample=seed), second=replace(base, sample=-seed)),
        *(
            Source(
                name=f"framework: {FRAMEWORK_NAMES[other]} for NumPy", first=base, second=replace(base, framework=other)
            )
            for other in OTHERS
        ),
    ]


Right = npt.NDArray[np.float64]  # [images], the share of the last epochs after which a training's answer is right


def right(outcome: Outcome, labels: Labels) -> Right:
    share: Right = (outcome.digits[-LAST:] == labels).mean(axis=0)
    return share


def _differences(pairs: Sequence[Default], outcomes: Mapping[str, Outcome], labels: Labels) -> Right:
    """First minus second, [seeds, images]."""
    return np.stack([right(outcomes[one.first.key], labels) - right(outcomes[one.second.key], labels) for one in pairs])


# 1. The same mathematics


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Two trainings of one recipe."""

    first: str  # its framework, and how it is nudged
    second: str
    digits: tuple[int, ...]  # after each epoch, of the test images: how many are answered differently
    accuracy: float  # first minus second, mean over the last epochs


@dataclass(frozen=True, kw_only=True)
class Same:
    """One recipe's mathematics with everything given: how far frameworks end apart, and how far NumPy from itself."""

    recipe: str
    precision: Precision
    frameworks: tuple[Apart, ...]  # every two
    itself: tuple[Apart, ...]  # NumPy's three: as it is, and nudged down and up


def same(recipe: str, outcomes: Sequence[Outcome], labels: Labels) -> list[Same]:
    """What came of `same_mathematics`, by precision."""

    def apart(of: Sequence[Outcome]) -> tuple[Apart, ...]:
        return tuple(
            Apart(
                first=_called(first.training),
                second=_called(second.training),
                digits=tuple((first.digits != second.digits).sum(axis=1).tolist()),
                accuracy=float(right(first, labels).mean() - right(second, labels).mean()),
            )
            for first, second in combinations(of, 2)
        )

    found = []
    for precision in PRECISIONS:
        of = [one for one in outcomes if one.training.precision == precision]
        found.append(
            Same(
                recipe=recipe,
                precision=precision,
                frameworks=apart([one for one in of if not one.training.nudge]),
                itself=apart([one for one in of if one.training.framework == "numpy"]),
            )
        )
    return found


def _called(training: Training) -> str:
    return training.framework + {0: "", -1: ", nudged down", 1: ", nudged up"}[training.nudge]


@dataclass(frozen=True, kw_only=True)
class Between:
    """Two frameworks in float32, everything given, over seeds."""

    first: Framework
    second: Framework
    seeds: int
    difference: float  # of accuracy, first minus second
    together: Interval  # the intervals of all pairs and all defaults hold at once in 95 of 100 studies
    margin: float

    @property
    def verdict(self) -> Verdict:
        low, high = self.together
        return verdict_of(different=low > 0 or high < 0, within_margin=self.within_margin)

    @property
    def within_margin(self) -> bool:
        return max(abs(bound) for bound in self.together) < self.margin


def between(
    drawn: Sequence[Sequence[Source]],
    outcomes: Mapping[str, Outcome],
    labels: Labels,
    *,
    writers: Writers | None = None,
) -> list[Between]:
    """Every two frameworks, by the sources that are a framework.

    Args:
        drawn: by seed, `sources` of each.
        outcomes: by the training's key.
        writers: what is said over images is then said over writers.
    """
    of: dict[Framework, list[Training]] = {"numpy": [of_seed[0].first for of_seed in drawn]}
    for other in OTHERS:
        of[other] = [one.second for of_seed in drawn for one in of_seed if one.second.framework == other]
    answers = {
        name: np.stack([right(outcomes[one.key], labels) for one in trainings]) for name, trainings in of.items()
    }
    return [
        Between(
            first=first,
            second=second,
            seeds=len(drawn),
            difference=float((answers[first] - answers[second]).mean()),
            together=mean_interval(answers[first] - answers[second], level=LEVEL / TESTED, writers=writers),
            margin=MARGIN,
        )
        for first, second in combinations(answers, 2)
    ]


# 2. The defaults


@dataclass(frozen=True, kw_only=True)
class Decided:
    """One default: the accuracy that one framework's gives, minus that of the other's."""

    name: str
    first_is: str
    second_is: str
    seeds: int
    found: Paired
    together: Interval  # as that of `Between`
    corrected: float  # over both of its tests, all defaults and all pairs of frameworks
    corrected_equivalent: float
    seeds_needed: int | None  # for a verdict, by this spread; None: the difference lies at the margin

    @property
    def verdict(self) -> Verdict:
        return verdict_of(different=self.corrected <= LEVEL, within_margin=self.within_margin)

    @property
    def within_margin(self) -> bool:
        return self.corrected_equivalent <= LEVEL


def decided(
    contrasts: Sequence[Sequence[Default]],
    outcomes: Mapping[str, Outcome],
    labels: Labels,
    *,
    margin: float = MARGIN,
    writers: Writers | None = None,
) -> list[Decided]:
    """What came of each default.

    Each pair of frameworks takes its part of the error that is promised, by Bonferroni, and the defaults the rest of it.

    Args:
        contrasts: by seed, `defaults` of each.
        outcomes: by the training's key.
        writers: what is said over images is then said over writers.
    """
    level, share = LEVEL / TESTED, len(contrasts[0]) / TESTED
    of_default = list(zip(*contrasts, strict=True))
    differences = [_differences(by_seed, outcomes, labels) for by_seed in of_default]
    tests = [paired(each, margin=margin, writers=writers) for each in differences]
    p_values = corrected([(test.p, test.p_equivalent) for test in tests])
    return [
        Decided(
            name=by_seed[0].name,
            first_is=by_seed[0].first_is,
            second_is=by_seed[0].second_is,
            seeds=len(by_seed),
            found=test,
            together=mean_interval(each, level=level, writers=writers),
            corrected=min(1.0, different / share),
            corrected_equivalent=min(1.0, equivalent / share),
            seeds_needed=seeds_for(each, margin=margin, level=level, power=POWER),
        )
        for by_seed, each, test, (different, equivalent) in zip(of_default, differences, tests, p_values, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One default inside another framework, over few seeds, beside what NumPy said."""

    name: str
    framework: Framework
    seeds: int
    difference: float  # first minus second, in [-1, 1]
    interval: Interval  # 95 %, of this difference alone, over seeds and test images
    agrees: bool  # that interval and NumPy's, which holds with those of all defaults, have values in common


def confirmed(
    contrasts: Sequence[Sequence[Default]],
    outcomes: Mapping[str, Outcome],
    labels: Labels,
    rows: Sequence[Decided],
) -> list[Confirmed]:
    """What came of each default in one other framework.

    Args:
        contrasts: by seed, `in_framework` of each.
        outcomes: by the training's key.
        rows: what NumPy said.
    """
    together = {row.name: row.together for row in rows}
    found = []
    for by_seed in zip(*contrasts, strict=True):
        differences = _differences(by_seed, outcomes, labels)
        interval = mean_interval(differences, level=LEVEL)
        found.append(
            Confirmed(
                name=by_seed[0].name,
                framework=by_seed[0].first.framework,
                seeds=len(by_seed),
                difference=float(differences.mean()),
                interval=interval,
                agrees=overlap(interval, together[by_seed[0].name]),
            )
        )
    return found


# 3. Where variance comes from


@dataclass(frozen=True, kw_only=True)
class Component:
    """How far accuracy is moved by one thing alone that is drawn anew: a standard deviation, in [0, 1]."""

    name: str
    pairs: int  # of trainings; or of test images, or writers, how many
    deviation: float
    interval: Interval  # 95 %, of the deviation


def components(
    drawn: Sequence[Sequence[Source]],
    outcomes: Mapping[str, Outcome],
    labels: Labels,
    *,
    writers: Writers | None = None,
) -> list[Component]:
    """Of the accuracy after the last epoch, which is what a single run reports.

    Of a source: half the mean square of the difference between two trainings that differ in it alone (Jansen 1999, the
    total effect, with what it does together with the others), with the interval of chi-squared. Of all of them: the
    variance of trainings that have nothing in common. Of test images: the variance of their mean, with the interval of
    a bootstrap over images; and the same of writers, each with all of their images, if it is known who wrote what. What is
    drawn anew moves the whole path of a training, so the parts do not add up.
    """

    def accuracy(training: Training) -> float:
        return float((outcomes[training.key].digits[-1] == labels).mean())

    found = []
    for by_seed in zip(*drawn, strict=True):
        squares = np.array([(accuracy(one.first) - accuracy(one.second)) ** 2 / 2 for one in by_seed])
        found.append(_component(by_seed[0].name, float(squares.mean()), len(squares), len(squares)))
    bases = [of_seed[0].first for of_seed in drawn]
    alone = np.array([accuracy(base) for base in bases])
    found.append(_component("all that is drawn in training", float(alone.var(ddof=1)), len(alone) - 1, len(alone)))
    by_image = np.mean([outcomes[base.key].digits[-1] == labels for base in bases], axis=0)
    random = np.random.default_rng(1)
    resampled = [by_image[random.integers(0, len(by_image), len(by_image))].var(ddof=1) for _ in range(1000)]
    low, high = (float(bound) for bound in np.sqrt(np.quantile(resampled, (0.025, 0.975)) / len(by_image)))
    deviation = float((by_image.var(ddof=1) / len(by_image)) ** 0.5)
    found.append(Component(name="test images", pairs=len(by_image), deviation=deviation, interval=(low, high)))
    if writers is not None:
        found.append(_of_writers(by_image, writers))
    return found


def _of_writers(by_image: Values, writers: Writers) -> Component:
    sums, images = by_writer(by_image, writers)
    random = np.random.default_rng(1)
    draws = random.integers(0, len(sums), (1000, len(sums)))
    resampled = [variance_by_writer(sums[draw], images[draw]) for draw in draws]
    low, high = (float(bound) for bound in np.sqrt(np.quantile(resampled, (0.025, 0.975))))
    deviation = variance_by_writer(sums, images) ** 0.5
    return Component(name=WRITERS, pairs=len(sums), deviation=deviation, interval=(low, high))


def _component(name: str, variance: float, freedom: int, pairs: int) -> Component:
    low, high = (variance * freedom / float(bound) for bound in np.atleast_1d(stats.chi2.ppf([0.975, 0.025], freedom)))
    return Component(name=name, pairs=pairs, deviation=variance**0.5, interval=(low**0.5, high**0.5))


@dataclass(frozen=True, kw_only=True)
class ByWriters:
    """What is another where writers are drawn in place of images."""

    changed: tuple[str, ...]  # verdicts
    wider: Interval  # the least and the most, by which an interval of a difference is as wide


def by_writers(pairs: Sequence[tuple[Between, Between]], rows: Sequence[tuple[Decided, Decided]]) -> ByWriters:
    """Of each two, the first is over images, the second the same over writers."""
    named: list[tuple[str, Between | Decided, Between | Decided]] = [
        *((f"{one.first} and {one.second}", one, other) for one, other in pairs),
        *((one.name, one, other) for one, other in rows),
    ]
    widths = [(one.together[1] - one.together[0], other.together[1] - other.together[0]) for _, one, other in named]
    ratios = [other / one for one, other in widths if one > 0]
    return ByWriters(
        changed=tuple(
            name
            for name, one, other in named
            if (one.verdict, one.within_margin) != (other.verdict, other.within_margin)
        ),
        wider=(min(ratios, default=1.0), max(ratios, default=1.0)),
    )


# The plan, and the sentence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Printed before the long part begins.

    The pilot's seeds are no part of it: a number of seeds that was chosen by a difference would, tested together with what
    it was chosen by, call up to one in ten equal defaults different (simulated) where one in twenty is promised.
    """

    seeds: int  # of each default, beyond the pilot's
    needed: int | None  # that a verdict on every default takes; None: no number of seeds is enough for one of them
    trainings: int  # to do
    seconds: float  # that they take, by those of the pilot
    # Trainings of the other parts: in other frameworks, precisions and recipes, of whose time the pilot says nothing.
    others: int = 0


def plan(
    recipe: Recipe,
    outcomes: Mapping[str, Outcome],
    labels: Labels,
    *,
    most_seconds: float,
    jobs: int,
    margin: float = MARGIN,
) -> Plan:
    """How many seeds the defaults need, by what the pilot's spread, and how many fit into the time; at least as many."""
    pilot = [defaults(recipe, seed) for seed in range(1, PILOT + 1)]
    rows = decided(pilot, outcomes, labels, margin=margin)
    each = [row.seeds_needed for row in rows]
    known = [seeds for seeds in each if seeds is not None]
    wanted = max([PILOT, *known])
    of_a_seed = {training.key for one in pilot[0] for training in (one.first, one.second)}
    seconds = float(np.mean([outcomes[key].seconds for key in of_a_seed])) * len(of_a_seed) / jobs
    seeds = max(PILOT, min(wanted, int(most_seconds / seconds)))
    return Plan(
        seeds=seeds,
        needed=None if len(known) < len(each) else wanted,
        trainings=seeds * len(of_a_seed),
        seconds=seeds * seconds,
    )


def answer(frameworks: Sequence[Between], rows: Sequence[Decided]) -> str:
    """Which framework to choose, by accuracy."""
    bound, default = _largest_bound(frameworks), abs(_largest(rows).found.difference.value)
    matters = bound >= frameworks[0].margin or any(
        row.verdict != "equivalent" and not row.within_margin for row in rows
    )
    return (
        f"By accuracy, {'it may matter' if matters else 'any'}: given the same random numbers two frameworks differ by no more "
        f"than {_no_less(bound)} points, and what they do if nobody says otherwise moves it by up to {100 * default:.2f}"
    )


def sentence(recipe: str, frameworks: Sequence[Between], rows: Sequence[Decided]) -> str:
    """Whether it is the framework or its defaults.

    Args:
        recipe: of the frameworks' differences and of the defaults.
    """
    largest = _largest(rows)
    found = largest.found.difference.value
    margin = f"{100 * largest.found.margin:.2f} points"
    said = (
        "Given the same starting weights and batches, the framework makes no difference of more than "
        f"{_no_less(_largest_bound(frameworks))} points ({recipe}, "
        f"{min(one.seeds for one in frameworks)} seeds); its defaults make up to {100 * abs(found):.2f}: {largest.name}, "
        f"{_owner(largest.first_is)} minus {_owner(largest.second_is)}, {100 * found:+.2f} (95 % interval "
        f"{100 * largest.together[0]:+.2f} to {100 * largest.together[1]:+.2f})"
    )
    different = [row for row in rows if row.verdict == "different"]
    parts = [
        f"{what}: {join(row.name for row in of)}"
        for what, of in (
            ("shown to be different", [row for row in different if not row.within_margin]),
            (f"shown to be different, but by less than {margin}", [row for row in different if row.within_margin]),
            (f"shown to be equivalent (closer than {margin})", [row for row in rows if row.verdict == "equivalent"]),
            ("not decided", [row for row in rows if row.verdict == "undecided"]),
        )
        if of
    ]
    verdicts = "; ".join(parts)
    return f"{said}. {verdicts[0].upper()}{verdicts[1:]}."


def _largest(rows: Sequence[Decided]) -> Decided:
    return max(rows, key=lambda row: abs(row.found.difference.value))


def _largest_bound(frameworks: Sequence[Between]) -> float:
    return max(abs(bound) for one in frameworks for bound in one.together)


def _owner(default: str) -> str:
    """torch, of: torch's DataLoader: another order at each epoch."""
    return "torch" if default.startswith("torch") else "Keras"


def rounding(exact: Sequence[Same]) -> str:
    """What is left where everything is given."""

    def apart(pairs_of: Callable[[Same], Sequence[Apart]]) -> str:
        return " and ".join(
            _span([pair.digits[-1] for one in exact if one.precision == precision for pair in pairs_of(one)])
            for precision in PRECISIONS
        )

    return (
        "What is left is rounding, which a training amplifies. After the last epoch, in "
        f"{' and '.join(PRECISIONS)}, two frameworks answer {apart(lambda one: one.frameworks)} of 10,000 test images "
        f"differently; NumPy, its starting weights moved by their last bit, answers {apart(lambda one: one.itself)} "
        "differently from itself."
    )


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _no_less(fraction: float) -> str:
    """In points, rounded up: of a bound."""
    return f"{math.ceil(1e4 * fraction - 1e-9) / 100:.2f}"
