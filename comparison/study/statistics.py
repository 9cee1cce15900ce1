"""What a study says about its recipes: accuracies, differences between them, and how far each number can be trusted.

A measured accuracy depends on the seed and on which images happen to be in the test set. An interval here says which of
the two it covers: `over_seeds` is about other seeds and these images, `over_images` about other images and these trained
networks, `over_both` about other seeds and other images. All are 95 % intervals; all accuracies are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from comparison.intervals import Interval
from comparison.words import join
from digits.card import Epoch
from digits.contract import CLASSES, Labels
from digits.errors import StudyError
from digits.mnist import Writers
from training.study import Run

LEVEL: Final = 0.05  # of every test; intervals cover 1 - LEVEL
ROUNDING: Final = 1e-12  # of a mean: what is closer to 0 is 0
POWER: Final = 0.9  # of a verdict, with which the seeds that it takes are reckoned
MOST_SEEDS: Final = 1000  # that are reckoned with
MARGIN: Final = 0.0025  # two mean accuracies closer than this are as good as equal, unless a caller says otherwise

Verdict = Literal["different", "equivalent", "undecided"]
Values = npt.NDArray[np.float64]


def verdict_of(*, different: bool, within_margin: bool) -> Verdict:
    """ "different" goes before "equivalent": a difference can be both real and smaller than the margin."""
    if different:
        return "different"
    return "equivalent" if within_margin else "undecided"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the runs of one recipe answer to the test images."""

    recipe: str
    reported: float | None  # the published accuracy, in [0, 1]
    seeds: tuple[int, ...]
    digits: npt.NDArray[np.int64]  # [seeds, images], the most probable digit
    correct: npt.NDArray[np.bool_]  # [seeds, images]
    histories: tuple[tuple[Epoch, ...], ...]  # [seeds][epochs]


def read_answers(runs: Sequence[Run], labels: Labels) -> dict[str, Answers]:
    """recipe -> its answers, in the order of `runs`. `labels` are those of the test images, uint8 [N].

    Raises:
        ValueError: no runs, or `labels` are not two or more digits in one row.
        StudyError: a run's probabilities are not of these images, a seed comes twice, or the runs of a recipe were
            not trained by the same fields.
    """
    if labels.ndim != 1 or len(labels) < 2 or labels.max() >= CLASSES:
        raise ValueError(f"expected labels as two or more digits in one row, got an array of shape {labels.shape}")
    if not runs:
        raise ValueError("expected one run or more, got none")
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run.name, []).append(run)
    return {name: _answers(name, of_recipe, labels) for name, of_recipe in by_recipe.items()}


def _answers(name: str, runs: Sequence[Run], labels: Labels) -> Answers:
    runs = sorted(runs, key=lambda run: run.seed)
    seeds = tuple(run.seed for run in runs)
    if len({*seeds}) < len(seeds):
        raise StudyError(f"{name} has two runs of one seed among {seeds}; remove one from the study's folder.")
    if len({run.recipe_sha256 for run in runs}) > 1:
        raise StudyError(
            f"The runs of {name} were trained by different recipes of that name; run the study again in an empty folder."
        )
    digits = np.stack([_digits(name, run, labels) for run in runs])
    reported = runs[0].recipe["reported"]
    return Answers(
        recipe=name,
        reported=None if reported is None else reported / 100,
        seeds=seeds,
        digits=digits,
        correct=digits == labels,
        histories=tuple(tuple(run.history) for run in runs),
    )


def _digits(name: str, run: Run, labels: Labels) -> npt.NDArray[np.int64]:
    """The most probable digit of each image, [N]."""
    probabilities = run.probabilities()
    where = f"The run of {name} with seed {run.seed}"
    if probabilities.shape != (len(labels), CLASSES):
        raise StudyError(
            f"{where} has probabilities of shape {probabilities.shape}; expected {(len(labels), CLASSES)}. "
            "Remove its two files and continue the study."
        )
    digits: npt.NDArray[np.int64] = probabilities.argmax(axis=1)
    correct = int((digits == labels).sum())
    if correct != run.correct:
        raise StudyError(
            f"{where} says that {run.correct} answers are right, but by these labels {correct} are: they are not of the "
            "same images, or its two files not of one run. Remove both and continue the study."
        )
    return digits


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over seeds and images with its 95 % intervals; None where it takes more than one seed."""

    value: float
    over_seeds: Interval | None
    over_images: Interval
    over_both: Interval | None


@dataclass(frozen=True, kw_only=True)
class _Crossed:
    """Runs of one recipe, [seeds, images], as two crossed random effects without replication.

    The variances are of the mean of all, by Scheffé 1959, chapter 7: that of the seeds and that of the images hold the
    residual's once each, so the variance of the mean is their sum less the residual's.
    """

    by_seed: Values  # the mean of each seed
    by_image: Values
    residual: float  # what is left, seeds and images taken out, divided by seeds * images; 0 with one seed

    @classmethod
    def of(cls, values: Values) -> _Crossed:
        by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
        seeds, images = values.shape
        residual = 0.0
        if seeds > 1:
            left = values - by_seed[:, None] - by_image + values.mean()
            residual = float(np.square(left).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
        return cls(by_seed=by_seed, by_image=by_image, residual=residual)

    @property
    def over_seeds(self) -> _Part:
        return _Part(variance=float(self.by_seed.var(ddof=1)) / len(self.by_seed), freedom=len(self.by_seed) - 1)

    @property
    def twice(self) -> _Part:
        """The residual's variance, which must be taken out once."""
        freedom = (len(self.by_seed) - 1) * (len(self.by_image) - 1)
        # No more than there is: that of a few seeds may by chance be smaller than its own share of the residual.
        return _Part(variance=-min(self.residual, self.over_seeds.variance), freedom=freedom)


@dataclass(frozen=True)
class _Part:
    """Of a variance that is a sum, a part and its degrees of freedom."""

    variance: float
    freedom: float


def _sum(*parts: _Part) -> _Part:
    """With the degrees of freedom of Satterthwaite 1946; infinite where there is no variance."""
    variance = sum(part.variance for part in parts)
    below = sum(part.variance**2 / part.freedom for part in parts)
    return _Part(variance, variance**2 / below) if variance > 0 else _Part(0.0, np.inf)


def _over_images(by_image: Values, writers: Writers | None = None) -> _Part:
    """Of the mean of [images], drawn one by one; or, by `writers` [images], all of a writer's together."""
    if writers is None:
        return _Part(variance=float(by_image.var(ddof=1)) / len(by_image), freedom=len(by_image) - 1)
    sums, images = by_writer(by_image, writers)
    return _Part(variance=variance_by_writer(sums, images), freedom=len(sums) - 1)


def by_writer(by_image: Values, writers: Writers) -> tuple[Values, npt.NDArray[np.int64]]:
    """The sum over each writer's images, and how many they are, both [writers]."""
    _, which = np.unique(writers, return_inverse=True)
    return np.bincount(which, weights=by_image).astype(np.float64), np.bincount(which)


def variance_by_writer(sums: Values, images: npt.NDArray[np.int64]) -> float:
    """Of the mean over all images, if writers are what is drawn.

    Each writer's sum of residuals is one draw (Liang and Zeger 1986, with the correction for few of them).
    """
    left = sums - images * sums.sum() / images.sum()
    return float(np.square(left).sum()) * len(sums) / (len(sums) - 1) / int(images.sum()) ** 2


def _interval(value: float, part: _Part, level: float = LEVEL) -> Interval:
    """Student's t, to both sides."""
    reach = float(stats.t.ppf(1 - level / 2, part.freedom)) * part.variance**0.5
    return value - reach, value + reach


def _different(value: float, part: _Part) -> float:
    """The p value of the two-sided t test against 0; of a value that does not vary the limit, 1 or 0."""
    if not _varies(part):
        return 1.0 if abs(value) < ROUNDING else 0.0
    return float(2 * stats.t.sf(abs(value) / part.variance**0.5, part.freedom))


def _equivalent(value: float, part: _Part, margin: float) -> float:
    """That of two one-sided t tests (TOST, Schuirmann 1987): the value is above -margin, and it is below margin."""
    if not _varies(part):
        return 0.0 if abs(value) < margin else 1.0
    return float(stats.t.sf((margin - abs(value)) / part.variance**0.5, part.freedom))


def _varies(part: _Part) -> bool:
    """Beyond the rounding of a mean."""
    return part.variance > ROUNDING**2


def _mean(values: Values, writers: Writers | None = None) -> Mean:
    """The mean of `values`, [seeds, images].

    over_seeds: Student's t of the mean of each seed.
    over_images: Student's t of the mean of each image; with thousands of images that is the normal approximation.
    over_both: seeds and images are crossed random effects; see `_Crossed`. A bootstrap over both would be too narrow for few
        seeds, as it knows no t.
    """
    crossed, value = _Crossed.of(values), float(values.mean())
    over_images = _over_images(crossed.by_image, writers)
    several = len(crossed.by_seed) > 1
    return Mean(
        value=value,
        over_seeds=_interval(value, crossed.over_seeds) if several else None,
        over_images=_interval(value, over_images),
        over_both=_interval(value, _sum(crossed.over_seeds, over_images, crossed.twice)) if several else None,
    )


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The accuracy of a recipe on the test images, over its seeds."""

    recipe: str
    seeds: int
    mean: Mean
    deviation: float | None  # standard deviation over seeds; None with one seed
    lowest: float
    highest: float


def accuracy(answers: Answers, *, writers: Writers | None = None) -> Accuracy:
    """`writers` [N]: intervals over images are then over writers, each drawn with all of their images."""
    by_seed = answers.correct.mean(axis=1)
    return Accuracy(
        recipe=answers.recipe,
        seeds=len(by_seed),
        mean=_mean(answers.correct.astype(np.float64), writers),
        deviation=_deviation(by_seed),
        lowest=float(by_seed.min()),
        highest=float(by_seed.max()),
    )


def _deviation(values: Values) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """The exact test of McNemar 1947 between two trained networks, one of each recipe, with the same seed.

    It is about which images are in the test set, and about these two networks alone. It assumes that images are
    independent of each other.
    """

    seed: int
    only_first: int  # images that the first recipe's network alone gets right
    only_second: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two recipes over the seeds that both have. p values are None where it takes more than one such seed.

    `p_seeds` and `p_equivalent_seeds` are of Welch's t test, and of two one-sided ones (TOST, Schuirmann 1987), over
    seeds: they hold for other seeds on these images. `p_both` and `p_equivalent_both` are the same two tests with the
    variance of both sources. The verdict goes by these after `corrected`, over all tests of the table, of a difference and
    of equivalence: in 95 of 100 such tables not one verdict is wrong. `together` is the interval to look at beside
    verdicts: all intervals of the table hold at once in 95 of 100 tables (Bonferroni).

    Which image a run gets is paired truly: both recipes see the same ones. A seed is only a number that two recipes share
    (one framework draws other weights from it than the next), so runs are not paired by it, which would halve the degrees
    of freedom and gain nothing.
    """

    first: str
    second: str
    seeds: int
    identical: bool  # the same digit for every image from every shared seed
    difference: Mean  # of accuracy, first minus second
    mcnemar: tuple[McNemar, ...]  # by seed
    margin: float
    p_seeds: float | None
    p_equivalent_seeds: float | None
    p_both: float | None
    p_equivalent_both: float | None
    together: Interval | None  # of the difference, over seeds and images; for all pairs of the table at once
    seeds_needed: (
        int | None
    )  # of each, for a verdict, by this spread and if the difference is as measured; see `seeds_for`
    corrected: float | None  # p_both
    corrected_equivalent: float | None  # p_equivalent_both

    @property
    def only_first(self) -> int:
        """Summed over seeds. The same images come once for each seed, so no p value follows from the sums."""
        return sum(test.only_first for test in self.mcnemar)

    @property
    def only_second(self) -> int:
        return sum(test.only_second for test in self.mcnemar)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(
            different=self.corrected is not None and self.corrected <= LEVEL, within_margin=self.within_margin
        )

    @property
    def within_margin(self) -> bool:
        """Whether the difference is shown to be smaller than the margin."""
        return self.corrected_equivalent is not None and self.corrected_equivalent <= LEVEL


def all_pairs(answers: Mapping[str, Answers]) -> list[tuple[str, str]]:
    """Every two recipes, once."""
    return list(combinations(answers, 2))


def compare_pairs(
    answers: Mapping[str, Answers],
    pairs: Sequence[tuple[str, str]],
    *,
    margin: float = MARGIN,
    writers: Writers | None = None,
) -> list[Comparison]:
    """The table of the comparisons named by `pairs`; the correction is over exactly these.

    `writers` [N]: what is said over images is then said over writers, each drawn with all of their images.

    Raises:
        ValueError: `margin` is not positive.
        StudyError: two recipes of a pair share no seed.
    """
    if not margin > 0:
        raise ValueError(f"expected a margin above 0, got {margin}")
    shared = [_of_shared_seeds(answers[first], answers[second]) for first, second in pairs]
    tested = sum(len(first.seeds) > 1 for first, _ in shared)
    rows = [_tests(first, second, margin, writers, level=LEVEL / max(tested, 1)) for first, second in shared]
    tests = [(row.p_both, row.p_equivalent_both) for row in rows]
    each = iter(corrected([(first, second) for first, second in tests if first is not None and second is not None]))
    found = []
    for row in rows:
        if row.p_both is not None:
            different, equivalent = next(each)
            row = replace(row, corrected=different, corrected_equivalent=equivalent)
        found.append(row)
    return found


def _of_shared_seeds(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    seeds = sorted({*first.seeds} & {*second.seeds})
    if not seeds:
        raise StudyError(
            f"{first.recipe} and {second.recipe} share no seed: {first.seeds} and {second.seeds}. "
            "Run both with the same seeds."
        )
    return _with_seeds(first, seeds), _with_seeds(second, seeds)


def _with_seeds(answers: Answers, seeds: Sequence[int]) -> Answers:
    places = [answers.seeds.index(seed) for seed in seeds]
    return replace(
        answers,
        seeds=tuple(seeds),
        digits=answers.digits[places],
        correct=answers.correct[places],
        histories=tuple(answers.histories[place] for place in places),
    )


def _tests(first: Answers, second: Answers, margin: float, writers: Writers | None, *, level: float) -> Comparison:
    """The comparison before the correction, of two recipes with the same seeds; `level` is of the interval `together`."""
    of_first, of_second = _Crossed.of(first.correct.astype(np.float64)), _Crossed.of(second.correct.astype(np.float64))
    by_image = of_first.by_image - of_second.by_image
    value = float(by_image.mean())
    over_images, over_seeds, over_both = _over_images(by_image, writers), None, None
    if len(first.seeds) > 1:
        over_seeds = _sum(of_first.over_seeds, of_second.over_seeds)
        over_both = _sum(of_first.over_seeds, of_second.over_seeds, over_images, of_first.twice, of_second.twice)
    identical = bool(np.array_equal(first.digits, second.digits))
    if identical and over_seeds is not None:  # one and the same: seeds move neither without the other
        over_seeds = over_both = _Part(0.0, np.inf)
    return Comparison(
        first=first.recipe,
        second=second.recipe,
        seeds=len(first.seeds),
        identical=identical,
        difference=Mean(
            value=value,
            over_seeds=None if over_seeds is None else _interval(value, over_seeds),
            over_images=_interval(value, over_images),
            over_both=None if over_both is None else _interval(value, over_both),
        ),
        mcnemar=tuple(map(_mcnemar, first.seeds, first.correct, second.correct)),
        margin=margin,
        p_seeds=None if over_seeds is None else _different(value, over_seeds),
        p_equivalent_seeds=None if over_seeds is None else _equivalent(value, over_seeds, margin),
        p_both=None if over_both is None else _different(value, over_both),
        p_equivalent_both=None if over_both is None else _equivalent(value, over_both, margin),
        together=None if over_both is None else _interval(value, over_both, level),
        seeds_needed=None if over_both is None else _needed(of_first, of_second, value, over_images, margin, level),
        corrected=None,
        corrected_equivalent=None,
    )


def seeds_by_spread(
    first: Answers, second: Answers, *, tested: int, margin: float = MARGIN, level: float = LEVEL, power: float = POWER
) -> int | None:
    """How many seeds of each show two recipes to be equivalent, if they are equal, or a difference of the margin.

    Args:
        first, second: two recipes, over two seeds or more that both have.
        tested: pairs in the table, over which a verdict is corrected.

    Returns:
        None where even `MOST_SEEDS` do not suffice.
    """
    first, second = _of_shared_seeds(first, second)
    of_first, of_second = _Crossed.of(first.correct.astype(np.float64)), _Crossed.of(second.correct.astype(np.float64))
    over_images = _over_images(of_first.by_image - of_second.by_image)
    return _needed(of_first, of_second, 0.0, over_images, margin, level / tested, power)


def _needed(
    first: _Crossed,
    second: _Crossed,
    value: float,
    over_images: _Part,
    margin: float,
    level: float,
    power: float = POWER,
) -> int | None:
    seeds = len(first.by_seed)
    of_one_seed = seeds * (first.over_seeds.variance + second.over_seeds.variance)
    of_images = over_images.variance - first.residual - second.residual
    return _enough(value, of_one_seed, of_images, 2, margin, level, power, MOST_SEEDS)


def _mcnemar(seed: int, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> McNemar:
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    # The exact test looks at the images on which the two disagree, and at nothing else in the table.
    p = float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)
    return McNemar(seed=seed, only_first=only_first, only_second=only_second, p=p)


def corrected(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The p values of each pair's two tests, of a difference and of equivalence, corrected as one family.

    Holm 1979, with the logic of Shaffer 1986: a pair cannot be both without a difference and farther apart than the margin,
    so of its two hypotheses one at most is true. A p value is multiplied by the number of pairs that may still hold a true
    one when its turn comes, from the smallest on: those without both rejected before.
    """
    tests = np.array(pairs, np.float64).reshape(-1, 2)
    turns = np.sort(tests, axis=None)
    rejected = np.searchsorted(np.sort(tests.max(axis=1)), turns, side="left")  # pairs that are done with at each turn
    found = np.minimum(np.maximum.accumulate(turns * (len(tests) - rejected)), 1.0)
    places = np.searchsorted(turns, tests, side="right") - 1  # of equal ones the last
    return [(float(different), float(equivalent)) for different, equivalent in found[places]]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A difference between two trainings of each seed that have everything drawn in common, over seeds and images.

    Not `Comparison`: there runs are not paired by seed, as a seed gives two frameworks nothing in common.
    """

    difference: Mean  # first minus second
    p: float
    p_equivalent: float
    margin: float


def paired(differences: Values, *, margin: float = MARGIN, writers: Writers | None = None) -> Paired:
    """Of the differences [seeds, images], two seeds or more; `writers` as in `compare_pairs`.

    Raises:
        ValueError: fewer.
    """
    if len(differences) < 2:
        raise ValueError(f"expected the differences of two seeds or more, got {len(differences)}")
    value, variance = float(differences.mean()), _variance(differences, writers)
    return Paired(
        difference=_mean(differences, writers),
        p=_different(value, variance),
        p_equivalent=_equivalent(value, variance, margin),
        margin=margin,
    )


def mean_interval(values: Values, *, level: float, writers: Writers | None = None) -> Interval:
    """Of the mean of [seeds, images], two seeds or more, over both."""
    return _interval(float(values.mean()), _variance(values, writers), level)


def _variance(values: Values, writers: Writers | None) -> _Part:
    """Of the mean of [seeds, images], over both."""
    crossed = _Crossed.of(values)
    return _sum(crossed.over_seeds, _over_images(crossed.by_image, writers), crossed.twice)


def seeds_for(
    differences: Values, *, margin: float = MARGIN, level: float = LEVEL, power: float = POWER, most: int = MOST_SEEDS
) -> int | None:
    """How many seeds it takes for a verdict, by what the paired differences [seeds, images] of a few seeds spread.

    With n seeds the variance is that of the seeds / n, and that of the images, which no seed makes smaller. Taken is that
    the difference is as measured: the nearest of 0 and the margins from which it must be told, at `level`, is then told
    from it with this power (Student's t for both quantiles, which is a little more than it takes).

    Returns:
        None where even `most` do not suffice: the difference lies too near to what it is to be told from.
    """
    crossed = _Crossed.of(differences)
    of_images = _over_images(crossed.by_image).variance - crossed.residual
    of_one_seed = len(differences) * crossed.over_seeds.variance
    return _enough(float(differences.mean()), of_one_seed, of_images, 1, margin, level, power, most)


def _enough(
    value: float,
    of_one_seed: float,
    of_images: float,
    freedom: int,  # for each seed beyond the first
    margin: float,
    level: float,
    power: float,
    most: int,
) -> int | None:
    far = max(abs(value), margin - abs(value))
    seeds = np.arange(2, most + 1)
    spread = np.sqrt(of_one_seed / seeds + max(of_images, 0.0))
    quantiles = np.sum(stats.t.ppf([[1 - level / 2], [power]], freedom * (seeds - 1)), axis=0)
    enough = seeds[quantiles * spread <= far]
    return int(enough[0]) if len(enough) else None


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published accuracy beside ours, on the same test images."""

    recipe: str
    reported: float
    seeds: int
    mean: float
    single_run: Interval | None  # holds one further run, with a seed of its own, in 95 of 100 cases; None with one seed

    @property
    def within(self) -> bool | None:
        """Whether a single run can give the published figure; None where that cannot be said."""
        if self.single_run is None:
            return None
        # A published figure has two decimals of a percent, and so stands for half a step to either side.
        return self.single_run[0] - 0.00005 <= self.reported <= self.single_run[1] + 0.00005


def reproduction(answers: Answers) -> Reproduction | None:
    """None for a recipe that reproduces no published figure.

    The interval is mean ± t * sd * sqrt(1 + 1/seeds), the prediction interval of one further normal observation (Hahn and
    Meeker 1991). It covers seeds alone: the publication was tested on the same images.
    """
    if answers.reported is None:
        return None
    by_seed = answers.correct.mean(axis=1)
    seeds, mean, deviation = len(by_seed), float(by_seed.mean()), _deviation(by_seed)
    single_run = None
    if deviation is not None:
        reach = float(stats.t.ppf(1 - LEVEL / 2, seeds - 1)) * deviation * (1 + 1 / seeds) ** 0.5
        single_run = (mean - reach, mean + reach)
    return Reproduction(recipe=answers.recipe, reported=answers.reported, seeds=seeds, mean=mean, single_run=single_run)


def confusion(answers: Answers, labels: Labels) -> npt.NDArray[np.int64]:
    """How often an image of one digit is taken for another, summed over seeds; [label, answer]."""
    pairs = labels.astype(np.int64) * CLASSES + answers.digits
    return np.bincount(pairs.ravel(), minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The share of test images on which two recipes give the same digit, right or wrong."""

    first: str
    second: str  # `first` itself for the agreement within a recipe
    majorities: float  # of the digits that most seeds of each give
    single_runs: (
        float | None
    )  # the mean over all pairs of two runs, one of each; None for a recipe with itself and one run


def agreements(answers: Mapping[str, Answers]) -> list[Agreement]:
    """Of every two recipes, and of every recipe with itself: what two seeds of one recipe agree on is the yardstick."""
    votes = {name: _votes(of_recipe) for name, of_recipe in answers.items()}
    return [
        Agreement(
            first=first,
            second=second,
            majorities=float((votes[first].argmax(axis=1) == votes[second].argmax(axis=1)).mean()),
            single_runs=_single_runs(votes[first], votes[second], same=first == second),
        )
        for first, second in combinations_with_replacement(answers, 2)
    ]


def _votes(answers: Answers) -> npt.NDArray[np.int64]:
    """How many seeds give each digit, [images, 10]. Where two digits have as many, `argmax` takes the lower one."""
    return np.stack([(answers.digits == digit).sum(axis=0) for digit in range(CLASSES)], axis=1)


def _single_runs(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], *, same: bool) -> float | None:
    images = len(first)
    runs_first, runs_second = int(first[0].sum()), int(second[0].sum())
    agreeing = int((first * second).sum())  # (run, run, image) with the same digit
    if not same:
        return agreeing / (runs_first * runs_second * images)
    if runs_first == 1:
        return None
    return (agreeing - runs_first * images) / (runs_first * (runs_first - 1) * images)  # without each run with itself


def always_wrong(answers: Mapping[str, Answers]) -> list[int]:
    """The indices of the test images that every run of every recipe gets wrong."""
    ever_right = np.any([of_recipe.correct.any(axis=0) for of_recipe in answers.values()], axis=0)
    return np.flatnonzero(~ever_right).tolist()


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One epoch over all seeds; deviations are None with one seed."""

    epoch: int  # from 1
    held_out_accuracy: float
    held_out_accuracy_deviation: float | None
    loss: float
    loss_deviation: float | None


def learning_curve(answers: Answers) -> list[CurvePoint]:
    """Raises:
    StudyError: the runs have histories of different lengths.
    """
    lengths = {len(history) for history in answers.histories}
    if len(lengths) > 1:
        raise StudyError(
            f"The runs of {answers.recipe} have histories of {join(map(str, sorted(lengths)))} epochs; expected the same "
            "of each. Run the study again in an empty folder."
        )
    points = []
    for epoch, of_seeds in enumerate(zip(*answers.histories, strict=True), start=1):
        accuracies = np.array([each.held_out_accuracy for each in of_seeds])
        losses = np.array([each.loss for each in of_seeds])
        points.append(
            CurvePoint(
                epoch=epoch,
                held_out_accuracy=float(accuracies.mean()),
                held_out_accuracy_deviation=_deviation(accuracies),
                loss=float(losses.mean()),
                loss_deviation=_deviation(losses),
            )
        )
    return points
