"""The report: one HTML file that needs nothing else, from load-test results and the cards of stored models."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup

from comparison import page, plots
from comparison.results import ECHO, Comparison, compare, read_results
from comparison.statistics import card_interval
from comparison.summary import join, summarise
from digits.contract import BACKENDS
from digits.store import StoredModel

TEMPLATE: Final = "report.html.j2"


def write_report(results: Path, models: Sequence[StoredModel], target: Path) -> Path:
    """Writes the report on the load test in the folder `results` to the file `target`, and returns `target`.

    A model of the load test that is not among `models` is left out, which the report says.

    Raises:
        ResultsMissing: no results, unreadable ones, or none of these models.
        ReportError: `target` cannot be written.
    """
    comparison = compare(read_results(results), models)
    page.write(_render(comparison), target)
    return target


def _render(comparison: Comparison) -> str:
    models, results = comparison.models, comparison.results
    return page.render(
        TEMPLATE,
        comparison=comparison,
        results=results,
        models=models,
        summary=summarise(comparison),
        backends=BACKENDS,
        served_backends=[name for name in BACKENDS if any(served.backend == name for served in comparison.served)],
        dashes=plots.BACKEND_DASHES,
        colours=plots.BACKEND_COLOURS,
        colours_on_dark=plots.BACKEND_COLOURS_ON_DARK,
        card_interval=card_interval,
        median_epoch_seconds=_median_epoch_seconds,
        tail=plots.TAIL,
        latency_pictures=_latency_pictures(comparison),
        accuracy_picture=Markup(plots.accuracy_against_latency(comparison, name="accuracy")),
        training_pictures=_training_pictures(models),
        held_out=join(model.card.held_out for model in models),
        recipe_rows=_recipe_rows(models),
        versions=[("load test", results.versions), *_grouped(models, lambda model: model.card.versions)],
        data=_grouped(models, lambda model: model.card.data),
    )


def _median_epoch_seconds(model: StoredModel) -> float:
    return statistics.median(epoch.seconds for epoch in model.card.history)


def _latency_pictures(comparison: Comparison) -> list[tuple[StoredModel, Markup]]:
    """For each model, the latencies of one caller, with those of the door; all on one time axis."""
    results, echo = comparison.results, comparison.echo
    door = {ECHO: results.latencies(echo.one)} if echo is not None and echo.one is not None else {}
    distributions = {}
    for model in comparison.tested:
        ones = {served.backend: served.one for served in comparison.of_model(model)}
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
    rows = [(field, [page.value(model.card.recipe.get(field)) for model in models]) for field in fields]
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
