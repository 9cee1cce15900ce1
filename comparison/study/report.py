"""The report of a study: one HTML file that needs nothing else, and beside it the same tables as study.json."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from comparison import calibration, figures, page
from comparison.reading import read_json
from comparison.study import aa, plots
from comparison.study.advice import advise, prices
from comparison.study.decision import DECISION, SHOWN_AS
from comparison.study.findings import finding_of_splits, finding_of_writers, findings
from comparison.study.more import More, more_seeds
from comparison.study.statistics import (
    LEVEL,
    Answers,
    Comparison,
    accuracy,
    agreements,
    all_pairs,
    always_wrong,
    compare_pairs,
    confusion,
    learning_curve,
    read_answers,
    reproduction,
)
from comparison.study.usability import usabilities
from comparison.words import NO_WRITERS
from digits import mnist
from digits.confidence import at_temperature
from digits.contract import CLASSES, FRAMEWORKS, Labels
from digits.errors import StudyError
from digits.mnist import Writers
from digits.network import Dropout, network_of
from training.recipes import NOT_MATHEMATICS, Recipe
from training.study import Run, read_runs
from training.train import split_for

TEMPLATE: Final = "study/report.html.j2"
TABLES: Final = "study.json"
BEST_EFFORT: Final = "best_effort.json"  # in the study's folder, by benchmarks/best_effort.py
TIME_TO_ACCURACY: Final = "time_to_accuracy.json"  # the same, by benchmarks/time_to_accuracy.py
_AGAIN: Final = "Delete it, or make it again."
SPLITS: Final = 500  # of each size, in A/A tests
# Fields that change what comes out of the arithmetic, and not how much there is of it.
NOT_WORK: Final = ("weight_draw", "bias_draw", "scaling", "learning_rate", "beta_1", "beta_2", "epsilon")
MOST_IMAGES: Final = 40  # drawn of those that every run gets wrong

Table = list[dict[str, Any]]


def write_study_report(study: Path, target: Path) -> Path:
    """Writes the report on the study in the folder `study` to the file `target`, and its tables beside that as study.json.

    Returns:
        `target`.

    Raises:
        StudyError: no finished runs, or unreadable ones.
        ResultsMissing: what another command wrote beside them cannot be read.
        DataError: MNIST cannot be had.
        ReportError: `target` or study.json cannot be written.
    """
    tables = study_tables(study)
    page.write(_render(tables), target)
    page.write(json.dumps(tables, indent=1, allow_nan=False) + "\n", target.with_name(TABLES))
    return target


def study_tables(study: Path) -> dict[str, Any]:
    """Every table of the report as plain data. Accuracies and shares are in [0, 1], differences of them in [-1, 1].

    Raises:
        StudyError: no finished runs, or unreadable ones.
        ResultsMissing: what another command wrote beside them cannot be read.
        DataError: MNIST cannot be had.
    """
    runs = read_runs(study)
    if not runs:
        raise StudyError(
            f"There is no finished run in {study}: expected files like RECIPE/seed-0001.json with their .npz. "
            "Make some, or name another folder: samedigit study"
        )
    labels, writers = mnist.test_images().labels, mnist.test_writers()
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run.name, []).append(run)
    answers = read_answers(runs, labels)
    accuracies = [accuracy(of_recipe) for of_recipe in answers.values()]
    reproductions = [found for of_recipe in answers.values() if (found := reproduction(of_recipe)) is not None]
    every = _with_shared_seeds(all_pairs(answers), answers)
    comparisons = compare_asked(by_recipe, answers)
    agreed = agreements(answers)
    wrong = always_wrong(answers)
    recipes = {name: of_recipe[0].recipe for name, of_recipe in by_recipe.items()}
    comparison_rows = _comparison_rows(comparisons, recipes)
    costs = [_cost_row(name, of_recipe) for name, of_recipe in by_recipe.items()]
    best_effort = read_json(study / BEST_EFFORT, _AGAIN)
    time_to_accuracy = read_json(study / TIME_TO_ACCURACY, _AGAIN)
    decision = read_json(study / DECISION, _AGAIN)
    usability = [asdict(row) for row in usabilities()]
    return {
        "findings": [
            *findings(accuracies, comparisons, reproductions, agreed, wrong),
            NO_WRITERS
            if writers is None
            else finding_of_writers(
                len(np.unique(writers)),
                [(row, accuracy(answers[row.recipe], writers=writers)) for row in accuracies],
                list(zip(comparisons, compare_asked(by_recipe, answers, writers=writers), strict=True)),
            ),
        ],
        "advice": advise(comparison_rows, costs),
        "prices": [asdict(row) for row in prices(costs, best_effort, time_to_accuracy, usability)],
        "accuracy": [
            asdict(row)
            | {
                "framework": by_recipe[row.recipe][0].framework,
                "reported": answers[row.recipe].reported,
                "by_seed": {str(run.seed): run.accuracy for run in by_recipe[row.recipe]},
            }
            for row in accuracies
        ],
        "reproduction": [
            asdict(row) | {"within": row.within, "source": recipes[row.recipe]["source"]} for row in reproductions
        ],
        "comparisons": comparison_rows,
        "all_comparisons": _comparison_rows(compare_pairs(answers, every), recipes),
        "aa": aa_table(list(answers.values())),
        "best_effort": best_effort,
        "time_to_accuracy": time_to_accuracy,
        "decision": decision,
        "usability": usability,
        "costs": costs,
        "learning_curves": {
            name: {
                "framework": by_recipe[name][0].framework,
                "held_out": by_recipe[name][0].held_out,
                "points": [asdict(point) for point in learning_curve(of_recipe)],
            }
            for name, of_recipe in answers.items()
        },
        "calibration": [_calibration_row(name, of_recipe, labels) for name, of_recipe in by_recipe.items()],
        "confusion": {name: confusion(of_recipe, labels).tolist() for name, of_recipe in answers.items()},
        "agreement": [asdict(row) for row in agreed],
        "always_wrong": _wrong_rows(wrong, answers, labels),
        "how": _how(runs, by_recipe),
    }


def aa_table(answers: Sequence[Answers]) -> dict[str, Any] | None:
    """The A/A tests of the recipe with most runs, the first of several; None where even that has too few to split."""
    most = max(answers, key=lambda of_recipe: len(of_recipe.seeds))
    sizes = aa.split_at_random(most, splits=SPLITS)
    if not sizes:
        return None
    return {
        "recipe": most.recipe,
        "runs": len(most.seeds),
        "finding": finding_of_splits(most.recipe, len(most.seeds), sizes),
        "sizes": [
            asdict(size) | {"rate": size.rate, "interval": size.interval, "decides": size.decides} for size in sizes
        ],
    }


def plan_more(study: Path, *, most_seconds: float, jobs: int) -> More:
    """Which seeds more the pairs of the study in the folder `study` take, and fit into the time.

    Raises:
        StudyError: no finished runs, or unreadable ones.
        DataError: MNIST cannot be had.
    """
    runs = read_runs(study)
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run.name, []).append(run)
    answers = read_answers(runs, mnist.test_images().labels)
    return more_seeds(compare_asked(by_recipe, answers), answers, runs, most_seconds=most_seconds, jobs=jobs)


def compare_asked(
    by_recipe: Mapping[str, Sequence[Run]], answers: Mapping[str, Answers], *, writers: Writers | None = None
) -> list[Comparison]:
    """The pairs that a reader asks for first; every two recipes where there are none of these."""
    asked = _with_shared_seeds(asked_pairs([of_recipe[0].recipe for of_recipe in by_recipe.values()]), answers)
    return compare_pairs(answers, asked or _with_shared_seeds(all_pairs(answers), answers), writers=writers)


def asked_pairs(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The pairs that a reader asks for first, chosen by what the recipes say and not by what came out.

    One network (layers, activation, with or without dropout) in two frameworks; and one recipe through both of Keras's
    APIs, of which the second is compared with nothing else, being the same mathematics.
    """
    pairs = []
    seen: list[Mapping[str, Any]] = []
    for recipe in recipes:
        twin = next(
            (other for other in seen if recipe["framework"] == other["framework"] and not differs(other, recipe)), None
        )
        if twin is not None:
            pairs.append((twin["name"], recipe["name"]))
            continue
        pairs += [
            (other["name"], recipe["name"])
            for other in seen
            if other["framework"] != recipe["framework"] and _network(other) == _network(recipe)
        ]
        seen.append(recipe)
    return pairs


def _network(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """With a dropout of any rate for one."""
    return tuple("dropout" if isinstance(layer, Dropout) else layer for layer in network_of(recipe))


def differs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields of mathematics in which two recipes differ."""
    fields = [field for field in first if field not in NOT_MATHEMATICS]
    return [field.replace("_", " ") for field in fields if first[field] != second.get(field)]


def _with_shared_seeds(pairs: Sequence[tuple[str, str]], answers: Mapping[str, Answers]) -> list[tuple[str, str]]:
    """Those that can be compared: an unfinished study may have run two recipes from different seeds."""
    return [(first, second) for first, second in pairs if {*answers[first].seeds} & {*answers[second].seeds}]


def _comparison_rows(comparisons: Sequence[Comparison], recipes: Mapping[str, Mapping[str, Any]]) -> Table:
    return [
        asdict(row)
        | {
            "verdict": row.verdict,
            "within_margin": row.within_margin,
            "only_first": row.only_first,
            "only_second": row.only_second,
            "mcnemar_below_level": sum(test.p <= LEVEL for test in row.mcnemar),
            "differs_in": differs(recipes[row.first], recipes[row.second]),
        }
        for row in comparisons
    ]


def _cost_row(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Medians over runs, which one run disturbed by others on the machine does not move."""
    return {
        "recipe": name,
        "framework": runs[0].framework,
        "work": _work(runs[0].recipe),
        "runs": len(runs),
        "epochs": len(runs[0].history),
        "fastest_epoch_seconds": statistics.median(min(epoch.seconds for epoch in run.history) for run in runs),
        "paid_once_seconds": statistics.median(
            run.history[0].seconds - min(epoch.seconds for epoch in run.history) for run in runs
        ),
        "train_seconds": statistics.median(run.train_seconds for run in runs),
        "import_seconds": statistics.median(run.import_seconds for run in runs),
        "first_prediction_seconds": statistics.median(run.first_prediction_seconds for run in runs),
        "peak_memory_mb": statistics.median(run.peak_memory_mb for run in runs),
    }


def _work(recipe: Mapping[str, Any]) -> str:
    """Alike for recipes with the same to compute in each epoch."""
    left_out = {*NOT_MATHEMATICS, *NOT_WORK}
    return json.dumps({field: value for field, value in recipe.items() if field not in left_out}, sort_keys=True)


def _calibration_row(name: str, runs: Sequence[Run], labels: Labels) -> dict[str, Any]:
    """As trained, and at the temperature fitted on each run's own held-out images; None without such images."""
    every = [run.probabilities() for run in runs]
    all_labels = np.tile(labels, len(runs))
    row = {
        "recipe": name,
        "framework": runs[0].framework,
        "before": asdict(calibration.mean_of([calibration.measure(one, labels) for one in every])),
        "ece_by_chance": np.mean([calibration.ece_by_chance(one) for one in every], axis=0).tolist(),
        "reliability": [asdict(part) for part in calibration.reliability(np.concatenate(every), all_labels)],
        "after": None,
        "temperatures": None,
        "reliability_after": None,
    }
    held_out = [run.held_out_probabilities() for run in runs]
    if any(one is None for one in held_out):
        return row
    held_out_labels = split_for(Recipe.from_data(runs[0].recipe)).held_out.labels
    scaled = [
        calibration.scale(one, labels, held_out_probabilities=held, held_out_labels=held_out_labels)
        for one, held in zip(every, held_out, strict=True)
        if held is not None
    ]
    after = [at_temperature(one, each.temperature) for one, each in zip(every, scaled, strict=True)]
    return row | {
        "after": asdict(calibration.mean_of([each.after for each in scaled])),
        "temperatures": [each.temperature for each in scaled],
        "reliability_after": [asdict(part) for part in calibration.reliability(np.concatenate(after), all_labels)],
    }


def _wrong_rows(indices: Sequence[int], answers: Mapping[str, Answers], labels: Labels) -> Table:
    """With the digit that most runs give; of two that as many give, the lower."""
    rows = []
    for index in indices:
        votes = np.bincount(
            np.concatenate([of_recipe.digits[:, index] for of_recipe in answers.values()]), minlength=CLASSES
        )
        rows.append(
            {
                "index": index,
                "label": int(labels[index]),
                "answer": int(votes.argmax()),
                "runs": int(votes.max()),  # that give it
            }
        )
    return rows


def _how(runs: Sequence[Run], by_recipe: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    times = sorted(run.finished_at for run in runs)
    return {
        "runs": len(runs),
        "images": runs[0].total,
        "first_finished_at": times[0],
        "last_finished_at": times[-1],
        "machines": sorted({run.machine for run in runs}),
        "devices": sorted({run.device for run in runs}),
        "threads": sorted({run.threads for run in runs}),
        "versions": {
            package: sorted({run.versions[package] for run in runs if package in run.versions})
            for package in dict.fromkeys(package for run in runs for package in run.versions)
        },
        "recipes": {
            name: {field: value for field, value in of_recipe[0].recipe.items() if field != "seed"}
            | {"seeds": [run.seed for run in of_recipe]}
            for name, of_recipe in by_recipe.items()
        },
        "data": dict(mnist.SHA256),
    }


def _render(tables: Mapping[str, Any]) -> str:
    curves, images = tables["learning_curves"], mnist.test_images().images
    recipes = list(curves)
    recipe_fields = [
        field for field in next(iter(tables["how"]["recipes"].values())) if field not in ("name", "source", "seeds")
    ]
    total = np.sum(list(tables["confusion"].values()), axis=0)
    return page.render(
        TEMPLATE,
        tables=tables,
        recipes=recipes,
        frameworks=[name for name in FRAMEWORKS if any(curve["framework"] == name for curve in curves.values())],
        framework_of={name: curve["framework"] for name, curve in curves.items()},
        variable_of=plots.FRAMEWORK_BACKENDS,
        colours=figures.BACKEND_COLOURS,
        colours_on_dark=figures.BACKEND_COLOURS_ON_DARK,
        bins=calibration.BINS,
        furthest=plots.FURTHEST,
        fewest=plots.FEWEST,
        passes_100=any((row["mean"]["over_both"] or (0, 0))[1] > 1 for row in tables["accuracy"]),
        shown_as=SHOWN_AS,
        components_picture=Markup(plots.components(tables["decision"]["components"], name="components"))
        if tables["decision"]
        else None,
        rounding_picture=Markup(plots.rounding(tables["decision"]["same"], name="rounding"))
        if tables["decision"] and tables["decision"]["same"]
        else None,
        accuracy_picture=Markup(plots.accuracies(tables["accuracy"], name="accuracy")),
        curve_pictures=[
            (name, Markup(plots.learning_curve(name, curves, name=f"curve-{i}"))) for i, name in enumerate(curves)
        ],
        reliability_pictures=[
            (row["recipe"], Markup(plots.reliability(row, name=f"reliability-{i}")))
            for i, row in enumerate(tables["calibration"])
        ],
        all_confusion=_heat(total.tolist(), tables["how"]["runs"]),
        confusions={
            row["recipe"]: _heat(tables["confusion"][row["recipe"]], row["seeds"]) for row in tables["accuracy"]
        },
        agreement={(row["first"], row["second"]): row["single_runs"] for row in tables["agreement"]},
        wrong=[
            (row, f"data:image/png;base64,{base64.b64encode(plots.digit_png(images[row['index']])).decode()}")
            for row in tables["always_wrong"][:MOST_IMAGES]
        ],
        recipe_rows=[
            (
                field.replace("_", " "),
                [page.recipe_value(recipe, field) for recipe in tables["how"]["recipes"].values()],
            )
            for field in recipe_fields
        ],
        seeds={name: _ranges(recipe["seeds"]) for name, recipe in tables["how"]["recipes"].items()},
    )


def _heat(counts: Sequence[Sequence[int]], runs: int) -> list[list[tuple[str, int]]]:
    """Of each cell the mean over runs as text, and the strength of its colour in percent; the diagonal is left out.

    A text is empty where one decimal would say 0.
    """
    largest = max((count for i, row in enumerate(counts) for j, count in enumerate(row) if i != j), default=0) or 1
    return [
        [("", 0) if i == j else (_short(count / runs), round(60 * count / largest)) for j, count in enumerate(row)]
        for i, row in enumerate(counts)
    ]


def _short(number: float) -> str:
    return "" if number < 0.05 else f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def _ranges(seeds: Sequence[int]) -> str:
    """1 to 4, 7: consecutive ones together."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)
