"""The report: one HTML file that needs nothing else, from load-test results and the cards of stored models."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from comparison import figures, kinds, page
from comparison.intervals import card_interval
from comparison.load import plots
from comparison.load.choice import choices
from comparison.load.rates import CLIENT_LIMITS, Level, Rates, in_words, read_rates, summarise_rates
from comparison.load.results import Comparison, Share, compare, read_results
from comparison.load.serving_results import Benchmark, read_benchmark
from comparison.load.summary import summarise
from comparison.reading import read_json
from comparison.words import ECHO, join
from digits.contract import BACKENDS
from digits.store import StoredModel
from loadtests.protocols import ProtocolName
from training.evaluate import Reading, kept_readings

TEMPLATE: Final = "load/report.html.j2"
DECISION: Final = "decision.json"  # of `samedigit study --decide`
ABOUT: Final[dict[ProtocolName, str]] = {
    "predict": "POST /predict/{backend} in JSON, on BentoML's port, and so through BentoML's own stack",
    "grpc": "the Open Inference Protocol, which Triton and KServe speak too, over gRPC and HTTP/2, on a port without BentoML",
    "v2-json": "the same protocol over HTTP in JSON, on that port",
    "v2-binary": "the same with binary tensors: raw pixels in, raw numbers out",
}


def write_report(results: Path, models: Sequence[StoredModel], target: Path, *, study: Path | None = None) -> Path:
    """Writes the report on the load test in the folder `results` to the file `target`, and returns `target`.

    What an open scenario or the benchmark of serving have left in the same folder is shown too, and what the study in the
    folder `study` has decided is quoted.
    A model of the load test that is not among `models` is left out, which the report says.

    Raises:
        ResultsMissing: no results, unreadable ones, or none of these models.
        ReportError: `target` cannot be written.
    """
    comparison = compare(read_results(results), models)
    decision = read_json(study / DECISION, "Run it again: samedigit study --decide") if study else None
    text = _render(comparison, read_rates(results), decision, read_benchmark(results), kept_readings(results))
    page.write(text, target)
    return target


def _render(
    comparison: Comparison,
    rates: Rates | None,
    decision: Mapping[str, Any] | None,
    benchmark: Benchmark | None,
    kept: Mapping[str, Sequence[Reading]],
) -> str:
    models, results = comparison.models, comparison.results
    kind_rows = kinds.rows(models, kept)
    quickest_ms = {model.tag: _quickest_ms(comparison, model) for model in models}
    return page.render(
        TEMPLATE,
        comparison=comparison,
        results=results,
        models=models,
        choices=choices(comparison, rates, decision),
        summary=summarise(comparison),
        backends=BACKENDS,
        served_backends=[name for name in BACKENDS if any(served.backend == name for served in comparison.served)],
        dashes=figures.BACKEND_DASHES,
        colours=figures.BACKEND_COLOURS,
        colours_on_dark=figures.BACKEND_COLOURS_ON_DARK,
        card_interval=card_interval,
        median_epoch_seconds=_median_epoch_seconds,
        tail=plots.TAIL,
        protocols=comparison.protocols,
        about=ABOUT,
        client_limits=CLIENT_LIMITS,
        limited=any(run.client_busy > CLIENT_LIMITS for run in results.runs if run.users > 1),
        doors={protocol: comparison.door_ms(protocol) for protocol in comparison.protocols},
        kind_groups=_kind_groups(kind_rows),
        kinds_picture=_kinds_picture(models, kind_rows, quickest_ms),
        quickest_ms=quickest_ms,
        share_pictures=_share_pictures(comparison),
        rates=rates,
        in_words=in_words,
        rate_findings=summarise_rates(rates, rates.bounds_ms[1]) if rates else [],
        rate_backends=[name for name in BACKENDS if rates and any(one.peak.backend == name for one in rates.arrived)],
        open_pictures=_open_pictures(rates) if rates else [],
        benchmark=benchmark,
        rate_pictures=_rate_pictures(benchmark) if benchmark else [],
        latency_pictures=_latency_pictures(comparison),
        accuracy_picture=Markup(plots.accuracy_against_latency(comparison, name="accuracy")),
        training_pictures=_training_pictures(models),
        held_out={
            images: [model.recipe for model in models if model.card.held_out == images]
            for images in dict.fromkeys(model.card.held_out for model in models)
        },
        recipe_rows=_recipe_rows(models),
        versions=[("load test", results.versions), *_grouped(models, lambda model: model.card.versions)],
        data=_grouped(models, lambda model: model.card.data),
    )


def _median_epoch_seconds(model: StoredModel) -> float:
    return statistics.median(epoch.seconds for epoch in model.card.history)


def _quickest_ms(comparison: Comparison, model: StoredModel) -> float | None:
    """The median latency of one caller through the backend that is quickest for this model; None where none was asked."""
    ones = [served.over(comparison.finest).one for served in comparison.of_model(model)]
    return min((one.p50_ms for one in ones if one is not None), default=None)


def _kind_groups(rows: Sequence[kinds.Row]) -> list[tuple[str, list[kinds.Row], list[float]]]:
    """The rows by group, and each model's mean over a group of several kinds, where all models were asked all of it."""
    groups: dict[str, list[kinds.Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    found = []
    for group, members in groups.items():
        is_whole = len(members) > 1 and all(row.is_whole for row in members)
        found.append((group, members, [spread.mean for spread in kinds.spreads(members) or ()] if is_whole else []))
    return found


def _kinds_picture(
    models: Sequence[StoredModel], rows: Sequence[kinds.Row], quickest_ms: Mapping[str, float | None]
) -> Markup | None:
    found = kinds.spreads(rows)
    if found is None:
        return None
    points = [
        (model, ms, spread)
        for model, spread in zip(models, found, strict=True)
        if (ms := quickest_ms[model.tag]) is not None
    ]
    return Markup(plots.kinds_against_latency(points, name="kinds")) if points else None


def _share_pictures(comparison: Comparison) -> list[tuple[ProtocolName, Markup]]:
    """For each protocol, what of a latency is the door and what the model; all on one time axis."""
    shares: dict[ProtocolName, dict[str, Share]] = {}
    for protocol in comparison.protocols:
        found = {backend: comparison.mean_share(protocol, backend) for backend in BACKENDS}
        shares[protocol] = {backend: share for backend, share in found.items() if share is not None}
    limit_ms = max((share.latency_ms for each in shares.values() for share in each.values()), default=0.0)
    return [
        (
            protocol,
            Markup(
                plots.latency_shares(each, comparison.door_ms(protocol), limit_ms=limit_ms, name=f"share-{protocol}")
            ),
        )
        for protocol, each in shares.items()
        if each
    ]


def _open_pictures(rates: Rates) -> list[tuple[str, Markup]]:
    """For each model and protocol, how the latency grows with the rate."""
    pictures = []
    for number, (model, protocol) in enumerate(product(rates.models, rates.protocols)):
        levels: dict[str, tuple[Level, ...]] = {one.peak.backend: one.levels for one in rates.of(model, protocol)}
        if levels:
            title = f"{model.partition(':')[0]}, over {protocol}"
            picture = plots.latency_against_rate(levels, name=f"open-{number}")
            pictures.append((title, Markup(picture)))
    return pictures


def _rate_pictures(benchmark: Benchmark) -> list[tuple[str, Markup]]:
    """For each case in which several servers were loaded, their rates."""
    pictures = []
    for number, (case, measurements) in enumerate(benchmark.by_case.items()):
        rated = [one for one in measurements if one.requests_per_second and one.connections]
        if len(rated) > 1:
            pictures.append((case, Markup(plots.rates(rated, name=f"rates-{number}"))))
    return pictures


def _latency_pictures(comparison: Comparison) -> list[tuple[StoredModel, Markup]]:
    """For each model, the latencies of one caller over the finest protocol, with those of the door; on one time axis."""
    results, finest = comparison.results, comparison.finest
    echo = comparison.echo.over(finest).one if comparison.echo is not None else None
    door = {ECHO: results.latencies(echo)} if echo is not None else {}
    distributions = {}
    for model in comparison.tested:
        ones = {served.backend: served.over(finest).one for served in comparison.of_model(model)}
        latencies = {backend: results.latencies(one) for backend, one in ones.items() if one is not None}
        if latencies:
            distributions[model.tag] = latencies | door
    if not distributions:
        return []
    limits = plots.latency_limits(
        [latency_ms for latencies in distributions.values() for latency_ms in latencies.values()]
    )
    return [
        (model, Markup(plots.latency_distribution(distributions[model.tag], limits=limits, name=f"latency-{number}")))
        for number, model in enumerate(comparison.tested)
        if model.tag in distributions
    ]


def _training_pictures(models: Sequence[StoredModel]) -> list[tuple[StoredModel, Markup]]:
    return [
        (model, Markup(plots.training_curve(model, [*models[:i], *models[i + 1 :]], name=f"training-{i}")))
        for i, model in enumerate(models)
    ]


def _recipe_rows(models: Sequence[StoredModel]) -> list[tuple[str, list[str]]]:
    """Every field of the recipes, and how each model was trained, with one value per model."""
    fields = dict.fromkeys(field for model in models for field in model.card.recipe if field not in ("name", "source"))
    rows = [(field, [page.recipe_value(model.card.recipe, field) for model in models]) for field in fields]
    rows += [
        (field, [page.value(getattr(model.card, field)) for model in models])
        for field in ("device", "threads", "machine", "held_out")
    ]
    rows.append(("trained", [page.day(model.card.trained_at) for model in models]))
    return [(field.replace("_", " "), values) for field, values in rows]


def _grouped(
    models: Sequence[StoredModel], of: Callable[[StoredModel], dict[str, str]]
) -> list[tuple[str, dict[str, str]]]:
    """What `of` gives, once for all models that share it, under their names."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for model in models:
        for value, recipes in groups:
            if value == of(model):
                recipes.append(model.recipe)
                break
        else:
            groups.append((of(model), [model.recipe]))
    if len(groups) == 1:
        return [("training", groups[0][0])]
    return [(f"training of {join(recipes)}", value) for value, recipes in groups]
