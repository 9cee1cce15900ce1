"""What a study's numbers say, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scipy import stats

from comparison.intervals import Interval
from comparison.study.aa import Size, fewest
from comparison.study.statistics import LEVEL, MOST_SEEDS, Accuracy, Agreement, Comparison, Mean, Reproduction
from comparison.words import format_percent, format_range, join

MOST_NAMED: Final = 3  # pairs named in a sentence


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


def finding_of_writers(
    writers: int, accuracies: Sequence[tuple[Accuracy, Accuracy]], comparisons: Sequence[tuple[Comparison, Comparison]]
) -> str:
    """What changes if people are drawn in place of images: each accuracy and comparison as it is, and by writers."""
    wider = _wider([(one.mean, other.mean) for one, other in accuracies])
    if wider is None:
        return ""
    said = (
        f"The test images are of {writers} people, and these intervals are about other images of the same people. For other "
        f"people's, the intervals of mean accuracies must be {format_range(wider)} times as wide"
    )
    tested = [(one, other) for one, other in comparisons if one.corrected is not None]
    wider = _wider([(one.difference, other.difference) for one, other in tested])
    if wider is None:
        return f"{said}."
    changed = [
        f"{one.first} and {one.second}"
        for one, other in tested
        if (one.verdict, one.within_margin) != (other.verdict, other.within_margin)
    ]
    said += f", those of differences, whose two networks read the same images, {format_range(wider)} times; "
    if not changed:
        return f"{said}each verdict is the same."
    more = f"; and {_pairs(len(changed) - MOST_NAMED)} more" if len(changed) > MOST_NAMED else ""
    return f"{said}another verdict comes out for {'; '.join(changed[:MOST_NAMED])}{more}."


def _wider(means: Sequence[tuple[Mean, Mean]]) -> Interval | None:
    """The least and the most, by which an interval of the second is as wide as that of the first."""

    def width(mean: Mean) -> float:
        low, high = mean.over_both or mean.over_images
        return high - low

    ratios = [width(other) / width(one) for one, other in means if width(one) > 0]
    return (min(ratios), max(ratios)) if ratios else None


def finding_of_splits(recipe: str, runs: int, sizes: Sequence[Size]) -> str:
    """What A/A tests say: runs of one recipe, split at random into two groups as if they were of two recipes."""
    rates = join(f"{100 * size.rate:.1f} % at {size.runs} against {size.runs}" for size in sizes)
    broken = [size.runs for size in sizes if not size.keeps_its_promise]
    said = (
        f"The {runs} runs of {recipe}, split at random into two groups as if they were of two recipes, are called different, "
        f"which is wrong, in {rates}; promised is no more than {100 * LEVEL:g} %"
    )
    said += f", which is broken at {join(map(str, broken))}." if broken else "."
    enough = fewest(sizes)
    if enough is None:
        return f"{said} At none of these sizes do half of the splits come to a verdict: with so few runs there mostly is none."
    return (
        f"{said} Below {enough} runs of each, fewer than half of the splits come to any verdict: there mostly is none."
    )


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
        finding = (
            f"From seed to seed, a run typically lies {_points(high)} points ({of_high}) from the mean of its recipe"
        )
        if len(spreads) > 1:
            finding = (
                f"From seed to seed, a run typically lies {_points(low)} ({of_low}) to {_points(high)} points ({of_high}) "
                "from the mean of its recipe"
            )
        seeds_of = {each.recipe: each.seeds for each in accuracies}
        limits = {name: _points(_repeatability(spread, seeds_of[name])) for spread, name in (spreads[0], spreads[-1])}
        finding += (
            " (the standard deviation). Chance alone therefore sets two single runs of one recipe apart by up to "
            f"{join([f'{limit} points ({name})' for name, limit in limits.items()])} in 95 of 100 cases: a smaller difference "
            "between single runs says nothing."
        )
    if alone:
        finding += (
            f"{' ' if finding else ''}{join(alone)} {'was' if len(alone) == 1 else 'were'} trained from one seed only: "
            "how accuracy differs from seed to seed is unknown there, so no difference to another recipe can be shown, no "
            "equivalence, and no reproduction."
        )
    return finding


def _repeatability(deviation: float, seeds: int) -> float:
    """What 95 of 100 differences between two single runs stay below (ISO 5725-6), by a deviation that so many seeds gave."""
    return float(stats.t.ppf(1 - LEVEL / 2, seeds - 1)) * 2**0.5 * deviation


def _differences(comparisons: Sequence[Comparison]) -> str:
    tested = [each for each in comparisons if each.corrected is not None]
    if not tested:
        return ""
    real = _largest_first([each for each in tested if each.verdict == "different"])
    scope = (
        f"{_of(len(tested))} compared, over seeds and test images; in {100 * (1 - LEVEL):g} of 100 such studies not one "
        "verdict is wrong"
    )
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
    equal = [each for each in comparisons if each.verdict == "equivalent"]
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
        [
            each
            for each in comparisons
            if each.verdict == "undecided" and each.corrected is not None and not each.identical
        ]
    )
    if not open_ones:
        return ""
    return (
        f"Neither a difference nor equivalence within {_points(open_ones[0].margin)} points is shown for "
        f"{_pairs(len(open_ones))}, {_named(open_ones)}: the data do not decide, which is not the same as being equal. "
        f"{_more_seeds(open_ones)}"
    )


def _more_seeds(open_ones: Sequence[Comparison]) -> str:
    known = [each.seeds_needed for each in open_ones if each.seeds_needed is not None]
    beyond = len(open_ones) - len(known)
    said = ""
    if known:
        said = (
            "By the spread so far, and if the differences are as measured, a verdict takes about "
            f"{_range(known)} seeds of each recipe."
        )
    if beyond:
        said += (
            f"{' ' if said else ''}Of {_pairs(beyond)} not even {MOST_SEEDS} seeds would decide: the difference lies too "
            f"near to {_points(open_ones[0].margin)} points, or the test images are too few."
        )
    return said


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


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
    low, high = comparison.together or comparison.difference.over_images
    value = comparison.difference.value
    if value < 0:
        better, worse, value, low, high = worse, better, -value, -high, -low
    return f"{better} over {worse} by {_points(value)} points (95 % interval {_points(low)} to {_points(high)})"


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
