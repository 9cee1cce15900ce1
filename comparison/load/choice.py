"""What a reader came for: which framework, which backend, which protocol, and how sure each answer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from comparison.load.rates import Rates, Ratio
from comparison.load.results import Comparison
from comparison.words import format_ms, join


@dataclass(frozen=True, kw_only=True)
class Choice:
    question: str
    answer: str
    how_sure: str


def choices(comparison: Comparison, rates: Rates | None, decision: Mapping[str, Any] | None) -> list[Choice]:
    """The three questions, in the order in which they come up.

    Args:
        rates: of the open scenario, where it was run: without it answers come from single runs, which have no interval.
        decision: what `samedigit study --decide` wrote, where it was run.
    """
    return [_framework(decision), _backend(comparison, rates), _protocol(comparison, rates)]


def _framework(decision: Mapping[str, Any] | None) -> Choice:
    question = "Which framework to train in?"
    if decision is None:
        return Choice(
            question=question,
            answer="By accuracy, these figures do not say: each model was trained once.",
            how_sure="Not measured here: samedigit study --decide trains one network in all three, and says if they differ.",
        )
    return Choice(
        question=question,
        answer=f"{decision['answer']}.",
        how_sure=(
            f"{decision['trainings']} trainings, most of {decision['recipe']}, in a study of their own, whose decision.md has "
            "each difference with its interval. In 95 of 100 such studies all intervals of one of its tables hold."
        ),
    )


def _backend(comparison: Comparison, rates: Rates | None) -> Choice:
    question = "Which backend to serve through?"
    if rates is not None:
        bound_ms = rates.bounds_ms[1]
        asked = [rates.ratios(model, protocol, bound_ms) for model in rates.models for protocol in rates.protocols]
        if any(asked):
            return _by_rates(question, rates, asked, bound_ms)
    best, second = Counter[str](), list[float]()
    for model in comparison.tested:
        medians = {
            served.backend: one.p50_ms
            for served in comparison.of_model(model)
            if (one := served.over(comparison.finest).one) is not None
        }
        ranked = sorted(medians, key=lambda backend: medians[backend])
        if len(ranked) > 1:
            best[ranked[0]] += 1
            second.append(medians[ranked[1]] / medians[ranked[0]])
    if not best:
        return Choice(question=question, answer="One backend was asked.", how_sure="There is nothing to compare.")
    return Choice(
        question=question,
        answer=(
            f"{_wins(best)} answered one caller soonest over {comparison.finest}; the next took {_range(second)} times as "
            f"long{', depending on the model' if len(second) > 1 else ''}."
        ),
        how_sure=_ONE_RUN,
    )


def _protocol(comparison: Comparison, rates: Rates | None) -> Choice:
    question = "Which protocol to ask over?"
    if rates is not None and len(rates.protocols) > 1:
        bound_ms = rates.bounds_ms[1]
        pairs = dict.fromkeys((one.peak.model, one.peak.backend) for one in rates.arrived)
        asked = [rates.ratios_of_protocols(model, backend, bound_ms) for model, backend in pairs]
        if any(asked):
            return _by_rates(question, rates, asked, bound_ms)
    soonest = Counter[str]()
    for served in comparison.served:
        means = {measured.protocol: one.mean_ms for measured in served.measured if (one := measured.one) is not None}
        if len(means) > 1:
            soonest[min(means, key=lambda protocol: means[protocol])] += 1
    if not soonest:
        return Choice(question=question, answer="One protocol was asked.", how_sure="There is nothing to compare.")
    answer = f"{_wins(soonest)} answered one caller soonest, of a model through a backend"
    doors = {protocol: ms for protocol in comparison.protocols if (ms := comparison.door_ms(protocol)) is not None}
    if len(doors) > 1:
        answer += (
            f". Without a model a request takes {join(f'{format_ms(ms)} ms over {name}' for name, ms in doors.items())}"
        )
    return Choice(question=question, answer=f"{answer}.", how_sure=_ONE_RUN)


_ONE_RUN: Final = (
    "One run of each, so how far another would lie from it is not known, and a small difference may not repeat. samedigit "
    "loadtest --scenario open measures in several rounds, and says which differences are more than chance."
)


def _by_rates(question: str, rates: Rates, asked: list[tuple[Ratio[Any], ...]], bound_ms: float) -> Choice:
    """From comparisons that share a bound, of which at least one came out: which carries most, and how often that is shown."""
    known = [ratios for ratios in asked if ratios]
    best = Counter(str(ratios[0].first) for ratios in known)
    every = [one for ratios in known for one in ratios]
    shown = [one for one in every if one.is_shown]
    within = f"requests a second with 99 of 100 answered within {bound_ms:g} ms"
    number = "1 comparison" if len(every) == 1 else f"{len(every)} comparisons"
    if shown:
        winners = _wins(Counter(str(one.first) for one in shown))
        answer = (
            f"{winners}, shown by {len(shown)} of {number}: {_range([one.ratio for one in shown])} times as many {within} as "
            "another"
        )
        if len(shown) < len(every):
            answer += ". The others show no difference"
    else:
        answer = f"It is not shown to matter: none carries more {within} than another, beyond chance"
    sure = (
        f"{number} over {rates.rounds} rounds; shown is a 95 % interval above 1, which few have by chance, but among many "
        f"comparisons one may. Ahead, by chance or not: {_wins(best)}"
    )
    if unknown := len(asked) - len(known):
        sure += (
            f". In {unknown} of {len(asked)} cases nothing is ranked: the client, which asks, was too slow to tell, or the "
            "rates that were tried do not reach far enough"
        )
    return Choice(question=question, answer=f"{answer}.", how_sure=f"{sure}.")


def _range(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def _wins(best: Counter[str]) -> str:
    """onnx; or: onnx (5 of 6) and numpy (1)."""
    if len(best) == 1:
        return next(iter(best))
    total = best.total()
    (first, times), *others = best.most_common()
    return join([f"{first} ({times} of {total})", *(f"{name} ({number})" for name, number in others)])
