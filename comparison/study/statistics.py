"""What a study says about its recipes: accuracies, differences between them, and how far each number can be trusted.

A measured accuracy depends on the seed and on which images happen to be in the test set. An interval here says which of
the two it covers: `over_seeds` is about other seeds and these images, `over_images` about other images and these trained
networks, `over_both` about other seeds and other images. All are 95 % intervals; all accuracies are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from comparison.intervals import Interval
from comparison.words import format_percent, join
from digits.card import Epoch
from digits.contract import CLASSES, Labels
from digits.errors import StudyError
from training.study import Run

LEVEL: Final = 0.05  # of every test; intervals cover 1 - LEVEL
MARGIN: Final = 0.0025  # two mean accuracies closer than this are as good as equal, unless a caller says otherwise
MOST_NAMED: Final = 3  # pairs named in a sentence

Verdict = Literal["different", "equivalent", "undecided"]
Values = npt.NDArray[np.float64]


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


def _mean(values: Values) -> Mean:
    """The mean of `values`, [seeds, images].

    over_seeds: Student's t of the mean of each seed.
    over_images: Student's t of the mean of each image; with thousands of images that is the normal approximation.
    over_both: seeds and images are crossed random effects, so the variance of the mean is the sum of the two above, less
        residual variance / (seeds * images), which is in both; it is left in and makes the interval a little wide. That
        sum is the variance of Welch's t, so the interval is Welch's, with the degrees of freedom of Satterthwaite 1946.
        A bootstrap over both would be too narrow for few seeds, as it knows no t.
    """
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    value = float(values.mean())
    over_seeds = over_both = None
    if len(by_seed) > 1:
        over_seeds = over_both = (value, value)
        if _varies(by_seed):
            over_seeds = _interval(DescrStatsW(by_seed).tconfint_mean(LEVEL))
        if _varies(by_seed) or _varies(by_image):
            over_both = _interval(_crossed(by_seed, by_image).tconfint_diff(LEVEL, usevar="unequal"))
    over_images = _interval(DescrStatsW(by_image).tconfint_mean(LEVEL)) if _varies(by_image) else (value, value)
    return Mean(value=value, over_seeds=over_seeds, over_images=over_images, over_both=over_both)


def _crossed(by_seed: Values, by_image: Values) -> CompareMeans:
    """Two samples whose means differ by the mean of all, and whose variances are those of the two sources."""
    return CompareMeans.from_data(by_seed, by_image - by_image.mean())


def _varies(values: Values) -> bool:
    """Beyond the rounding of a mean; a t test of constants would divide by zero."""
    return float(np.ptp(values)) > 1e-12


def _interval(bounds: tuple[float, float]) -> Interval:
    return float(bounds[0]), float(bounds[1])


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The accuracy of a recipe on the test images, over its seeds."""

    recipe: str
    seeds: int
    mean: Mean
    deviation: float | None  # standard deviation over seeds; None with one seed
    lowest: float
    highest: float


def accuracy(answers: Answers) -> Accuracy:
    by_seed = answers.correct.mean(axis=1)
    return Accuracy(
        recipe=answers.recipe,
        seeds=len(by_seed),
        mean=_mean(answers.correct.astype(np.float64)),
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

    `p_seeds` and `p_equivalent_seeds` are of the paired t test, and of two one-sided ones (TOST, Schuirmann 1987), over
    seeds: they hold for other seeds on these images. `p_both` and `p_equivalent_both` are the same two tests with the
    variance of both sources (see `Mean`). The verdict goes by these, after Holm's correction (1979) over all comparisons
    of the table; the tests of a difference and those of equivalence are corrected as two families.

    Which image a run gets is paired truly: both recipes see the same ones. A seed is little more than a number that two
    recipes share, so pairing by it costs degrees of freedom and gains little; it assumes nothing either.
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
    holm: float | None  # p_both, corrected
    holm_equivalent: float | None  # p_equivalent_both, corrected

    @property
    def only_first(self) -> int:
        """Summed over seeds. The same images come once for each seed, so no p value follows from the sums."""
        return sum(test.only_first for test in self.mcnemar)

    @property
    def only_second(self) -> int:
        return sum(test.only_second for test in self.mcnemar)

    @property
    def verdict(self) -> Verdict:
        """ "different" goes before "equivalent": a difference can be both real and smaller than the margin."""
        if self.holm is not None and self.holm <= LEVEL:
            return "different"
        return "equivalent" if self.within_margin else "undecided"

    @property
    def within_margin(self) -> bool:
        """Whether the difference is shown to be smaller than the margin."""
        return self.holm_equivalent is not None and self.holm_equivalent <= LEVEL


def all_pairs(answers: Mapping[str, Answers]) -> list[tuple[str, str]]:
    """Every two recipes, once."""
    return list(combinations(answers, 2))


def compare_pairs(
    answers: Mapping[str, Answers], pairs: Sequence[tuple[str, str]], *, margin: float = MARGIN
) -> list[Comparison]:
    """The table of the comparisons named by `pairs`; Holm's correction is over exactly these.

    Raises:
        ValueError: `margin` is not positive.
        StudyError: two recipes of a pair share no seed.
    """
    if not margin > 0:
        raise ValueError(f"expected a margin above 0, got {margin}")
    tests = [_tests(answers[first], answers[second], margin) for first, second in pairs]
    holm = _holm([test.p_both for test in tests])
    holm_equivalent = _holm([test.p_equivalent_both for test in tests])
    return [
        Comparison(**{**vars(test), "holm": p, "holm_equivalent": p_equivalent})
        for test, p, p_equivalent in zip(tests, holm, holm_equivalent, strict=True)
    ]


def _tests(first: Answers, second: Answers, margin: float) -> Comparison:
    """The comparison before the correction."""
    seeds = sorted({*first.seeds} & {*second.seeds})
    if not seeds:
        raise StudyError(
            f"{first.recipe} and {second.recipe} share no seed: {first.seeds} and {second.seeds}. "
            "Run both with the same seeds."
        )
    of_first = [first.seeds.index(seed) for seed in seeds]
    of_second = [second.seeds.index(seed) for seed in seeds]
    right_first, right_second = first.correct[of_first], second.correct[of_second]
    differences = right_first.astype(np.float64) - right_second
    p_seeds = p_equivalent_seeds = p_both = p_equivalent_both = None
    if len(seeds) > 1:
        by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
        p_seeds = p_both = 1.0 if abs(by_seed.mean()) < 1e-12 else 0.0  # the limit of a t test without any spread
        p_equivalent_seeds = p_equivalent_both = 0.0 if abs(by_seed.mean()) < margin else 1.0
        if _varies(by_seed):
            paired = DescrStatsW(by_seed)
            p_seeds = float(paired.ttest_mean(0)[1])
            p_equivalent_seeds = float(paired.ttost_mean(-margin, margin)[0])
        if _varies(by_seed) or _varies(by_image):
            crossed = _crossed(by_seed, by_image)
            p_both = float(crossed.ttest_ind(usevar="unequal")[1])
            p_equivalent_both = float(crossed.ttost_ind(-margin, margin, usevar="unequal")[0])
    return Comparison(
        first=first.recipe,
        second=second.recipe,
        seeds=len(seeds),
        identical=bool(np.array_equal(first.digits[of_first], second.digits[of_second])),
        difference=_mean(differences),
        mcnemar=tuple(map(_mcnemar, seeds, right_first, right_second)),
        margin=margin,
        p_seeds=p_seeds,
        p_equivalent_seeds=p_equivalent_seeds,
        p_both=p_both,
        p_equivalent_both=p_equivalent_both,
        holm=None,
        holm_equivalent=None,
    )


def _mcnemar(seed: int, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> McNemar:
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    # The exact test looks at the images on which the two disagree, and at nothing else in the table.
    p = float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)
    return McNemar(seed=seed, only_first=only_first, only_second=only_second, p=p)


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrected over those that are known."""
    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if p is None else float(next(corrected)) for p in p_values]


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


def findings(
    accuracies: Sequence[Accuracy],
    comparisons: Sequence[Comparison],
    reproductions: Sequence[Reproduction],
    agreements: Sequence[Agreement],
    always_wrong: Sequence[int],
) -> list[str]:
    """What the numbers say, a few plain sentences each. A sentence whose numbers were not measured is left out."""
    found = [
        _accuracies(accuracies),
        _seeds(accuracies),
        _differences(comparisons),
        _equivalences(comparisons),
        _undecided(comparisons),
        _reproductions(reproductions),
        _agreements(agreements),
        _always_wrong(always_wrong, sum(each.seeds for each in accuracies)),
    ]
    return [finding for finding in found if finding]


def _accuracies(accuracies: Sequence[Accuracy]) -> str:
    ranked = sorted(accuracies, key=lambda each: each.mean.value)
    if not ranked:
        return ""

    def described(each: Accuracy) -> str:
        interval, covers = each.mean.over_both, "seeds and test images"
        if interval is None:
            interval, covers = each.mean.over_images, "test images alone"
        seeds = "1 seed" if each.seeds == 1 else f"{each.seeds} seeds"
        return (
            f"{format_percent(each.mean.value)} % ({each.recipe}, {seeds}; 95 % interval over {covers} "
            f"{format_percent(interval[0])} to {format_percent(interval[1])})"
        )

    if len(ranked) == 1:
        return f"The mean accuracy on the test images is {described(ranked[0])}."
    return (
        f"The mean accuracies on the test images lie between {described(ranked[0])} and {described(ranked[-1])}. "
        "Which recipes between them differ, this order does not say; the comparisons do."
    )


def _seeds(accuracies: Sequence[Accuracy]) -> str:
    spreads = sorted((each.deviation, each.recipe) for each in accuracies if each.deviation is not None)
    alone = [each.recipe for each in accuracies if each.deviation is None]
    finding = ""
    if spreads:
        (low, of_low), (high, of_high) = spreads[0], spreads[-1]
        finding = f"From seed to seed, accuracy has a standard deviation of {_points(high)} points ({of_high})"
        if len(spreads) > 1:
            finding = (
                f"From seed to seed, accuracy has a standard deviation of {_points(low)} ({of_low}) to {_points(high)} "
                f"points ({of_high})"
            )
        # Repeatability limit, ISO 5725-6: what 95 of 100 differences between two single results stay below.
        limit = float(stats.norm.ppf(1 - LEVEL / 2)) * 2**0.5 * high
        finding += (
            f". Chance alone therefore sets two single runs of that recipe apart by up to {_points(limit)} points in 95 of "
            "100 cases: a smaller difference between single runs says nothing."
        )
    if alone:
        finding += (
            f"{' ' if finding else ''}{join(alone)} {'was' if len(alone) == 1 else 'were'} trained from one seed only: "
            "how accuracy differs from seed to seed is unknown there, so no difference to another recipe can be shown, no "
            "equivalence, and no reproduction."
        )
    return finding


def _differences(comparisons: Sequence[Comparison]) -> str:
    tested = [each for each in comparisons if each.holm is not None]
    if not tested:
        return ""
    real = _largest_first([each for each in tested if each.verdict == "different"])
    scope = f"{_of(len(tested))} compared, over seeds and test images, with Holm's correction at {100 * LEVEL:g} %"
    if not real:
        return f"No difference in accuracy is shown ({scope})."
    finding = f"Shown to be different in accuracy: {_pairs(len(real))} ({scope}). "
    finding += "The largest: " if len(real) > MOST_NAMED else ""
    finding += "; ".join(_ahead(each) for each in real[:MOST_NAMED]) + "."
    if small := [each for each in real if each.within_margin]:
        finding += (
            f" Of these, {_pairs(len(small))} {'is' if len(small) == 1 else 'are'} also shown to be closer than "
            f"{_points(small[0].margin)} points: real, but small."
        )
    return finding


def _equivalences(comparisons: Sequence[Comparison]) -> str:
    identical = [each for each in comparisons if each.identical]
    equal = [each for each in comparisons if each.verdict == "equivalent" and not each.identical]
    finding = ""
    if equal:
        finding = (
            f"Shown to be equivalent, that is closer than {_points(equal[0].margin)} points: {_pairs(len(equal))}, "
            f"{_named(sorted(equal, key=lambda each: abs(each.difference.value)))}."
        )
    for each in identical:
        seeds = "the one seed" if each.seeds == 1 else f"all {each.seeds} seeds"
        finding += f"{' ' if finding else ''}{each.first} and {each.second} give the same answer to every test image, "
        finding += f"from {seeds} that both have."
    return finding


def _undecided(comparisons: Sequence[Comparison]) -> str:
    open_ones = _largest_first(
        [each for each in comparisons if each.verdict == "undecided" and each.holm is not None and not each.identical]
    )
    if not open_ones:
        return ""
    return (
        f"Neither a difference nor equivalence within {_points(open_ones[0].margin)} points is shown for "
        f"{_pairs(len(open_ones))}, {_named(open_ones)}: the data do not decide, which is not the same as being equal."
    )


def _reproductions(reproductions: Sequence[Reproduction]) -> str:
    inside = [each.recipe for each in reproductions if each.within]
    outside = [each for each in reproductions if each.within is False]
    finding = ""
    if inside:
        finding = (
            f"The published accuracy lies within what a single run of ours gives for {join(inside)}. That does not prove "
            "that it was trained in the same way; it does not contradict it."
        )
    if outside:
        named = "; ".join(
            f"{each.recipe} (published {format_percent(each.reported)}, {'below' if each.reported < each.mean else 'above'}"
            f" the {format_percent(each.single_run[0])} to {format_percent(each.single_run[1])} of a single run)"
            for each in outside
            if each.single_run is not None
        )
        finding += " It" if inside else "The published accuracy"
        finding += (
            f" lies outside what a single run of ours gives for {named}. Chance alone puts one figure in 20 outside; else "
            "something was different there."
        )
    return finding


def _agreements(agreements: Sequence[Agreement]) -> str:
    def shares(within: bool) -> str:
        known = [
            each.single_runs
            for each in agreements
            if (each.first == each.second) == within and each.single_runs is not None
        ]
        if not known:
            return ""
        low, high = format_percent(min(known)), format_percent(max(known))
        return f"{low} %" if low == high else f"{low} to {high} %"

    within, between = shares(True), shares(False)
    if not within or not between:
        return ""
    return (
        f"Two runs of one recipe with different seeds give the same digit to {within} of the test images; two runs of "
        f"different recipes to {between}."
    )


def _always_wrong(indices: Sequence[int], runs: int) -> str:
    if runs < 2:
        return ""
    count, verb = str(len(indices)) if indices else "none", "is" if len(indices) == 1 else "are"
    return f"Of the test images, {count} {verb} answered wrongly by every one of the {runs} runs."


def _ahead(comparison: Comparison) -> str:
    better, worse = comparison.first, comparison.second
    low, high = comparison.difference.over_both or comparison.difference.over_images
    value = comparison.difference.value
    if value < 0:
        better, worse, value, low, high = worse, better, -value, -high, -low
    return f"{better} over {worse} by {_points(value)} points ({_points(low)} to {_points(high)})"


def _named(comparisons: Sequence[Comparison]) -> str:
    """The first few, by name."""
    named = "; ".join(f"{each.first} and {each.second}" for each in comparisons[:MOST_NAMED])
    return f"among them {named}" if len(comparisons) > MOST_NAMED else f"namely {named}"


def _largest_first(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return sorted(comparisons, key=lambda each: -abs(each.difference.value))


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def _of(count: int) -> str:
    return f"{_pairs(count)} {'was' if count == 1 else 'were'}"


def _points(fraction: float) -> str:
    """In points of a percent. Two decimals: one image in 10,000."""
    return f"{100 * fraction:.2f}"
