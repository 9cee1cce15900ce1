"""What the numbers say, in a few sentences. A sentence whose numbers were not measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Final

from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from comparison.intervals import CONFIDENCE, card_interval
from comparison.load.rates import CLIENT_LIMITS
from comparison.load.results import Comparison, Served
from comparison.words import format_ms, format_percent, join
from digits.store import StoredModel

Ranking = list[tuple[str, float]]  # of one model: its backends with what was measured of each, the smallest first
MOST_PAIRS: Final = 3  # named in a sentence


def summarise(comparison: Comparison) -> list[str]:
    """At most five findings, each of a few plain sentences."""
    findings = [
        _latency(comparison),
        _throughput(comparison),
        _door(comparison),
        _accuracy(comparison.models),
        _answers(comparison),
    ]
    return [finding for finding in findings if finding]


def _latency(comparison: Comparison) -> str:
    def median(served: Served) -> float | None:
        one = served.over(comparison.finest).one
        return one.p50_ms if one else None

    rankings = _rankings(comparison, median, comparison.tested)
    if not rankings:
        return ""
    first, second, last = _places(rankings)
    found = f"a median of {_range((ranking[0][1] for ranking in rankings), format_ms)} ms"
    over = f"Over {comparison.finest}, one caller is answered fastest through"
    if len(first) == 1:
        finding = f"{over} {first[0]}{_every(rankings)}, with {found}."
    else:
        finding = f"{over} {join(first, 'or')}, depending on the model, with {found}."
    if second:
        ratio = _times(ranking[1][1] / ranking[0][1] for ranking in rankings)
        finding += f" Through the next, {join(second, 'or')}, it takes {ratio} as long, and"
    else:
        finding += " It takes"
    ratio = _times(ranking[-1][1] / ranking[0][1] for ranking in rankings)
    finding += f" {ratio} as long through {'the slowest, ' if second else ''}{join(last, 'or')}."
    return f"{finding} Each was measured in one run, so a small difference may not repeat."


def _throughput(comparison: Comparison) -> str:
    def rate(served: Served) -> float | None:
        many = served.over(comparison.finest).many
        return many.requests_per_second if many else None

    def is_limited(model: StoredModel) -> bool:
        """Whether the client was the limit of a rate: then it is not known which backend's is the highest."""
        runs = [served.over(comparison.finest).many for served in comparison.of_model(model)]
        return len(runs) > 1 and any(run is not None and run.client_busy > CLIENT_LIMITS for run in runs)

    unranked = [model for model in comparison.tested if is_limited(model)]
    rankings = _rankings(comparison, rate, [model for model in comparison.tested if model not in unranked])
    findings = []
    if rankings:
        last, _, first = _places(rankings)  # the smallest comes first in a ranking
        highest = _range((ranking[-1][1] for ranking in rankings), "{:,.0f}".format)
        ratio = _times(ranking[-1][1] / ranking[0][1] for ranking in rankings)
        every = ", depending on the model" if len(first) > 1 else "" if unranked else _every(rankings)
        findings.append(
            f"With {comparison.users} callers over {comparison.finest}, most requests are answered through "
            f"{join(first, 'or')}{every}: {highest} per second, {ratio} the rate through {join(last, 'or')}, the lowest."
        )
    if unranked:
        findings.append(
            f"Rates with {comparison.users} callers are not ranked for {join(model.recipe for model in unranked)}: Locust, "
            f"which asks, computed for more than {100 * CLIENT_LIMITS:.0f} % of the time in a run, so that the server might "
            "give more."
        )
    return " ".join(findings)


def _door(comparison: Comparison) -> str:
    """How much of a latency is the model, by protocol, and what the door takes alone."""
    shares: list[str] = []
    for protocol in comparison.protocols:
        found = sorted(
            (100 * share.model_ms / share.latency_ms, served.backend)
            for served in comparison.served
            if (share := served.over(protocol).share) is not None
        )
        if found:
            (low, of_low), (high, of_high) = found[0], found[-1]
            ends = f"{low:.0f} % ({of_low})" + (f" to {high:.0f} % ({of_high})" if len(found) > 1 else "")
            shares.append(f"{ends} over {protocol}")
    if not shares:
        return ""
    finding = f"Of the mean latency of one caller the model takes {join(shares)}."
    doors = {protocol: door for protocol in comparison.protocols if (door := comparison.door_ms(protocol)) is not None}
    if doors:
        alone = join(f"{format_ms(door)} ms over {protocol}" for protocol, door in doors.items())
        finding += (
            " Most of the rest is the door, all of the server that is not the model: the same request answered without a model "
            f"takes {alone}."
        )
    return finding


def _accuracy(models: Sequence[StoredModel]) -> str:
    ranked = sorted(models, key=lambda model: model.card.accuracy)
    seeds = (
        "Each was trained once, from one seed (of random numbers); how much accuracy differs from seed to seed is not measured "
        "here, so this says nothing about the frameworks."
    )
    if len(ranked) == 1:
        low, high = card_interval(ranked[0].card)
        return (
            f"{ranked[0].recipe} gets {format_percent(ranked[0].card.accuracy)} % of the test images right "
            f"(95 % interval {format_percent(low)} to {format_percent(high)}). {seeds.replace('Each', 'It')}"
        )
    worst, best = ranked[0], ranked[-1]
    finding = (
        f"The models get between {format_percent(worst.card.accuracy)} % ({worst.recipe}) and "
        f"{format_percent(best.card.accuracy)} % ({best.recipe}) of the test images right. "
    )
    apart = _apart(ranked)
    by = "image by image, with chance allowed for (McNemar's test; over all pairs Holm's method)"
    if apart is None:
        finding += "Which of them differ by more than chance is not known: one was stored without the images that it misreads. "
    elif not apart:
        finding += f"Compared {by}, none is shown to be better than another. "
    elif len(apart) == len(list(combinations(ranked, 2))):
        finding += f"Compared {by}, any two are shown to differ. "
    else:
        named = "; ".join(f"{lower.recipe} and {upper.recipe}" for lower, upper in apart[:MOST_PAIRS])
        more = f"; and {len(apart) - MOST_PAIRS} more pairs" if len(apart) > MOST_PAIRS else ""
        finding += f"Compared {by}, these are shown to differ: {named}{more}. The other pairs are not. "
    return finding + seeds


def _apart(models: Sequence[StoredModel]) -> list[tuple[StoredModel, StoredModel]] | None:
    """The pairs of which one reads more of the same test images than the other, by more than chance; None: not known.

    McNemar 1947, exact: of the images that one of the two alone reads, as many would fall to each. About these networks and
    other test images, with an error in 1 of 20 such tables (Holm 1979).
    """
    misread = [one for model in models if (one := model.misread()) is not None]
    if len(misread) < len(models):
        return None
    wrong = [{*one.places.tolist()} for one in misread]
    pairs = list(combinations(range(len(models)), 2))
    p_values = []
    for first, second in pairs:
        only_first, only_second = len(wrong[second] - wrong[first]), len(wrong[first] - wrong[second])
        one_alone = only_first + only_second
        p_values.append(float(binomtest(only_first, one_alone).pvalue) if one_alone else 1.0)
    shown = multipletests(p_values, alpha=1 - CONFIDENCE, method="holm")[0]
    return [(models[first], models[second]) for (first, second), is_shown in zip(pairs, shown, strict=True) if is_shown]


def _answers(comparison: Comparison) -> str:
    measured = [*comparison.served, *([comparison.echo] if comparison.echo else [])]
    requests = sum(run.requests for one in measured for run in one.runs)
    failures = sum(one.failures for one in measured)
    gaps = [
        abs(accuracy - served.score.accuracy)
        for served in comparison.served
        if (accuracy := served.accuracy_over_requests) is not None
    ]
    failed = f"{failures:,}" if failures else "none"
    finding = f"Every answer of the closed loops was checked: of {requests:,} requests {failed} failed."
    if gaps:
        finding += f" Over the answers, accuracy was within {100 * max(gaps):.2f} points of the stored one everywhere."
    return finding


def _rankings(
    comparison: Comparison, measure: Callable[[Served], float | None], models: Sequence[StoredModel]
) -> list[Ranking]:
    """One ranking, the smallest first, for each of `models` with two backends or more to compare."""
    rankings = []
    for model in models:
        values = {served.backend: measure(served) for served in comparison.of_model(model)}
        known: Ranking = [(backend, value) for backend, value in values.items() if value is not None]
        ranking = sorted(known, key=lambda entry: entry[1])
        if len(ranking) > 1:
            rankings.append(ranking)
    return rankings


def _places(rankings: list[Ranking]) -> tuple[list[str], list[str], list[str]]:
    """Which backends come first, second and last; second only where that is not last."""
    places = [(ranking[0][0], ranking[1][0], ranking[-1][0]) for ranking in rankings]
    first, second, last = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    return first, second if all(len(ranking) > 2 for ranking in rankings) else [], last


def _every(rankings: list[Ranking]) -> str:
    return " for every model" if len(rankings) > 1 else ""


def _range(values: Iterable[float], text: Callable[[float], str]) -> str:
    ordered = sorted(values)
    low, high = text(ordered[0]), text(ordered[-1])
    return low if low == high else f"{low} to {high}"


def _times(ratios: Iterable[float]) -> str:
    return f"{_range(ratios, '{:.2f}'.format)} times"
