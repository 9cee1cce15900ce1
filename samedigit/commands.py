"""What the commands do and print. Rooms are imported where they are used: `samedigit --help` should not wait for bentoml."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from digits.contract import BACKENDS, FRAMEWORKS, Backend
from digits.errors import ModelNotFound, NotInstalled, PictureError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comparison.load.results import Target
    from comparison.study.more import More
    from digits.card import Epoch, Score
    from digits.confidence import Confidence
    from digits.contract import Images, Probabilities
    from digits.store import StoredModel
    from loadtests.protocols import ProtocolName
    from training.evaluate import Reading
    from training.study import Run, Share

console = Console()
progress_console = Console(stderr=True)  # so that --json has standard output to itself


def train(
    names: Sequence[str], *, seed: int | None, epochs: int | None, device: str, threads: int
) -> list[StoredModel]:
    """Trains and stores the named recipes, or all of them, one after the other; says which are not served by themselves."""
    from training.recipes import RECIPES, find_recipe
    from training.train import train_and_store
    from training.trainers import require

    changes: dict[str, Any] = {key: value for key, value in (("seed", seed), ("epochs", epochs)) if value is not None}
    recipes = [dataclasses.replace(find_recipe(name), **changes) for name in names or RECIPES]
    # By framework: torch must be imported before TensorFlow, whose LLVM otherwise makes torch's abort.
    recipes.sort(key=lambda recipe: FRAMEWORKS.index(recipe.framework))
    for recipe in recipes:
        require(recipe.framework)  # a missing framework is told before the first is trained
    trained = []
    with _progress(TextColumn("{task.fields[note]}")) as progress:
        for recipe in recipes:
            task = progress.add_task(recipe.name, total=recipe.epochs + 1, note="")

            def on_epoch(epoch: Epoch, task: Any = task) -> None:
                note = f"loss {epoch.loss:.3f}, held out {100 * epoch.held_out_accuracy:.2f} %"
                progress.update(task, advance=1, note=note)

            def on_stage(stage: str, task: Any = task) -> None:
                progress.update(task, note=stage)

            model = train_and_store(recipe, device=device, threads=threads, on_epoch=on_epoch, on_stage=on_stage)
            progress.update(task, advance=1, note="stored")
            accuracy, seconds = 100 * model.card.accuracy, model.card.train_seconds
            progress_console.print(f"{model.tag}: {accuracy:.2f} %, trained in {seconds:.0f} s", highlight=False)
            if note := _not_served(model):
                progress_console.print(note, markup=False, highlight=False, soft_wrap=True)
            trained.append(model)
    return trained


def _not_served(model: StoredModel) -> str | None:
    """Why a model that was just trained is not what its recipe serves, in a sentence."""
    from digits.store import promoted_version

    if not model.card.is_whole:
        return (
            f"{model.tag} departed from its recipe ({model.card.departed_in_words}), so it is served only by name, or "
            f"once promoted: samedigit promote {model.tag}"
        )
    if (promoted := promoted_version(model.recipe)) is not None:
        return (
            f"{model.recipe}:{promoted} was promoted, and stays the served one until another is: "
            f"samedigit promote {model.tag}"
        )
    return None


def study(
    names: Sequence[str], *, seeds: int, minutes: float, jobs: int | None, folder: Path
) -> tuple[Path, dict[str, Any]]:
    """Trains the named recipes, or all, from the seeds 1 to `seeds`; writes the report on all runs in the folder.

    Args:
        minutes: for seeds beyond these, of recipes in pairs that are not surely decided by them.

    Returns:
        The report's path, and its tables as plain data.
    """
    from comparison.study.report import TABLES, plan_more, write_study_report
    from training.study import WHOLE

    _run_study(names, WHOLE, seeds=seeds, jobs=jobs, folder=folder)
    if minutes:
        more = plan_more(folder, most_seconds=60 * minutes, jobs=jobs or len(os.sched_getaffinity(0)))
        progress_console.print(_of_more(more), highlight=False)
        for number in sorted(set(more.seeds.values())):
            wanted = [name for name, seeds in more.seeds.items() if seeds == number]
            _run_study(wanted, WHOLE, seeds=number, jobs=jobs, folder=folder)
    report = write_study_report(folder, folder / "report.html").resolve()
    return report, json.loads(report.with_name(TABLES).read_text())


def _of_more(more: More) -> str:
    if not more.undecided and not more.unsure:
        return "Plan: every pair is decided, so no more seeds."
    said = f"Plan: {_pairs(more.undecided)} undecided"
    if more.unsure:
        said += f", and {_pairs(more.unsure)} decided by fewer seeds than their spread asks for"
    said += f"; {more.runs} runs more, about {timedelta(seconds=round(more.seconds))}"
    if more.seeds:
        said += f": {', '.join(f'{name} to {seeds} seeds' for name, seeds in more.seeds.items())}"
    if more.without:
        left = ", ".join(f"{first} and {second}" for first, second in more.without)
        said += f". Not in that time, or by no number of seeds: {left}"
    return f"{said}."


def _pairs(count: int) -> str:
    return "1 pair is" if count == 1 else f"{count or 'no'} pairs are"


def study_share(names: Sequence[str], share: str, *, seeds: int, jobs: int | None, folder: Path) -> dict[str, Any]:
    """Trains a share of the same, such as "3/8", and writes no report: others may be at work in the folder.

    Returns:
        The share, and how many runs the folder has now, of how many that were asked for.
    """
    from training.recipes import RECIPES
    from training.study import Share

    found = Share.read(share)
    finished = _run_study(names, found, seeds=seeds, jobs=jobs, folder=folder)
    return {"share": str(found), "finished": len(finished), "runs": seeds * len(set(names or RECIPES))}


def decide(names: Sequence[str], *, minutes: float, jobs: int | None, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Is it the framework, or its defaults? Asked of the named recipes' mathematics, or of every one.

    Returns:
        The page's path, and its tables as plain data.
    """
    from comparison.study.contrasts import Plan
    from comparison.study.decide import MATHEMATICS, SMALLEST, decide
    from comparison.study.decision import to_data, write_decision
    from training.given.runs import Outcome
    from training.recipes import find_recipe

    def on_plan(plan: Plan) -> None:
        enough = "" if plan.needed is None or plan.needed <= plan.seeds else f", where a verdict takes {plan.needed}"
        time = timedelta(seconds=round(plan.seconds))
        seeds = f"Plan: {plan.seeds} seeds{enough}; {plan.trainings} trainings more, about {time}."
        progress_console.print(
            f"{seeds} Then {plan.others} in the other frameworks, and of other recipes: longer ones."
        )

    def on_done(outcome: Outcome, done: int, total: int) -> None:
        training = outcome.training
        what = f"{training.framework}, {training.precision}: {outcome.seconds:.0f} s"
        progress_console.print(what, f"({done}/{total})", highlight=False)

    decision = decide(
        folder / "given",
        recipe=find_recipe(SMALLEST),
        mathematics=[find_recipe(name) for name in names or MATHEMATICS],
        jobs=jobs or len(os.sched_getaffinity(0)),
        most_seconds=60 * minutes,
        on_plan=on_plan,
        on_done=on_done,
    )
    return write_decision(decision, folder).resolve(), json.loads(json.dumps(to_data(decision)))


def show_decision(page: Path, tables: dict[str, Any]) -> None:
    console.print(tables["sentence"], highlight=False, soft_wrap=True)
    print(f"Page: {page}")


def show_share(done: dict[str, Any]) -> None:
    missing = "the same command without --share writes the report"
    if done["finished"] < done["runs"]:
        missing = "others may be at it; what is missing in the end is done by the same command without --share"
    print(f"Share {done['share']} is done; {done['finished']} of {done['runs']} runs are there: {missing}.")


def _run_study(names: Sequence[str], share: Share, *, seeds: int, jobs: int | None, folder: Path) -> list[Run]:
    from training.recipes import RECIPES, find_recipe
    from training.study import Progress as Done
    from training.study import run_study

    recipes = [find_recipe(name) for name in names or RECIPES]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=progress_console, disable=not progress_console.is_terminal) as progress:
        task = progress.add_task("", total=None, left="")

        def on_done(done: Done) -> None:
            left = "" if done.seconds_left is None else f"about {timedelta(seconds=round(done.seconds_left))} left"
            description = f"{done.done} of {done.total} runs"
            progress.update(task, completed=done.done, total=done.total, left=left, description=description)
            if done.run is not None:
                found = f"{done.run.name}, seed {done.run.seed}: {100 * done.run.accuracy:.2f} %"
                progress_console.print(found, f"({done.done}/{done.total})", highlight=False)

        return run_study(recipes, seeds=seeds, jobs=jobs, share=share, folder=folder, on_done=on_done)


STUDY_COLUMNS: Final = ("recipe", "seeds", "mean, %", "95 %", "sd", "range", "reported", "one run gives")
STUDY_NOTE: Final = (
    "95 %: interval of the mean, over seeds and test images; sd: how far a run typically lies from the mean; one run gives: "
    "where 95 of 100 single runs lie; *: not what one run gives."
)


def show_study(folder: Path) -> None:
    table = _table("Accuracy on the test images over seeds")
    for i, column in enumerate(STUDY_COLUMNS):
        table.add_column(column.replace(", ", "\n"), justify="right" if i else "left")
    for row in _study_rows(folder):
        table.add_row(*row)
    console.print(table)
    console.print(STUDY_NOTE, style="dim")


def study_markdown(folder: Path) -> str:
    """The same table in Markdown, for the README."""
    rows: list[tuple[str, ...]] = [STUDY_COLUMNS, tuple("---" for _ in STUDY_COLUMNS), *_study_rows(folder)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _study_rows(folder: Path) -> list[tuple[str, ...]]:
    from comparison.study.statistics import accuracy, read_answers, reproduction
    from digits import mnist
    from training.study import read_runs

    def percent(fraction: float) -> str:
        return f"{100 * fraction:.2f}"

    def interval(bounds: tuple[float, float] | None) -> str:
        return "-" if bounds is None else f"{percent(bounds[0])}-{percent(bounds[1])}"

    rows: list[tuple[str, ...]] = []
    for answers in read_answers(read_runs(folder), mnist.test_images().labels).values():
        found, reproduced = accuracy(answers), reproduction(answers)
        reported = "-" if reproduced is None else f"{percent(reproduced.reported)}{_WITHIN[reproduced.within]}"
        rows.append(
            (
                found.recipe,
                str(found.seeds),
                percent(found.mean.value),
                interval(found.mean.over_both),
                "-" if found.deviation is None else percent(found.deviation),
                f"{percent(found.lowest)}-{percent(found.highest)}",
                reported,
                "-" if reproduced is None else interval(reproduced.single_run),
            )
        )
    return rows


_WITHIN: Final = {True: "", False: "*", None: ""}  # whether a single run can give the reported figure


def all_facts(models: Sequence[StoredModel], *, stored: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """What `samedigit models` says of `models`, where `stored` is all that the store holds."""
    served = _served_tags(stored)
    return [model_facts(model, served=model.tag in served) for model in models]


def _served_tags(stored: Sequence[StoredModel]) -> set[str]:
    """What is served where no model is named. Of a recipe whose promoted version is gone nothing is, and that is said."""
    from digits.store import served_version

    tags: set[str] = set()
    for _, versions in groupby(stored, key=lambda model: model.recipe):
        try:
            served = served_version(list(versions))
        except ModelNotFound as error:
            progress_console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            tags.update({served.tag} if served is not None else ())
    return tags


def model_facts(model: StoredModel, *, served: bool) -> dict[str, Any]:
    """What `samedigit models` says of one model."""
    from comparison.intervals import wilson
    from digits.store import promoted_version

    card = model.card
    score = next(iter(card.scores.values()))
    low, high = wilson(score.correct, score.total)
    return {
        "model": model.tag,
        "recipe": model.recipe,
        "version": model.version,
        "served": served,
        "promoted": promoted_version(model.recipe) == model.version,
        "departed": card.departed,
        "framework": card.framework,
        "formats": list(card.backends),
        "correct": {backend: score.correct for backend, score in card.scores.items()},
        "total": score.total,
        "accuracy": score.accuracy,
        "accuracy_95": [low, high],
        "beyond": {
            kind: {"correct": found.correct, "total": found.total, **_accuracy(found)}
            for kind, found in card.beyond.items()
        },
        "accuracy_beyond": card.accuracy_beyond,
        "parameters": card.parameters,
        "bytes": card.bytes,
        "seed": card.seed,
        "epochs": len(card.history),
        "trained_at": card.trained_at,
        "train_seconds": card.train_seconds,
        "folder": str(model.folder),
    }


def show_models(models: Sequence[StoredModel]) -> None:
    if not models:
        console.print("No model is stored. Train them: samedigit train --all")
        return
    table = _table("Stored models")
    for column in ("recipe\nversion", "framework\nparameters", "formats"):
        table.add_column(column)
    for column in ("accuracy, %\n95 % interval", "KB", "trained, UTC\nin seconds"):
        table.add_column(column, justify="right")
    for facts in all_facts(models, stored=models):
        low, high = facts["accuracy_95"]
        counts = ", ".join(f"{100 * count / facts['total']:.2f}" for count in sorted({*facts["correct"].values()}))
        formats = facts["formats"]
        state = ", ".join(word for word in ("served", "promoted") if facts[word])
        table.add_row(
            "\n".join(filter(None, (facts["recipe"], facts["version"], state))),
            f"{facts['framework']}\n{facts['parameters']:,}",
            f"{' '.join(formats[:2])}\n{' '.join(formats[2:])}",
            "\n".join(filter(None, (counts, f"{100 * low:.2f}-{100 * high:.2f}", _others(facts["accuracy_beyond"])))),
            f"{sum(facts['bytes'].values()) / 1000:,.0f}",
            f"{facts['trained_at'][:10]}\n{facts['trained_at'][11:16]}, {facts['train_seconds']:.0f} s",
        )
    console.print(table)
    console.print("served: the promoted version of a recipe, else its newest whole run", style="dim")
    if any(model.card.beyond for model in models):
        note = "others: the mean over kinds of digits that are not MNIST's; samedigit evaluate MODEL --beyond"
        console.print(note, style="dim")
    for model in models:
        if not model.card.is_whole:
            departed = f"{model.tag} departed from its recipe: {model.card.departed_in_words}"
            console.print(departed, style="dim", markup=False, highlight=False, soft_wrap=True)


def _others(accuracy: float | None) -> str:
    return "" if accuracy is None else f"others {100 * accuracy:.2f}"


def promote(name: str) -> dict[str, Any]:
    """Makes a model the served version of its recipe; for a bare recipe, its newest whole run. Returns what it is."""
    from digits import store

    model = store.promote(name)
    return {"model": model.tag, "recipe": model.recipe, "version": model.version, "departed": model.card.departed}


def export(names: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Writes the named models, or of every recipe the served one, into a plain folder; where each lies."""
    from digits import exported, store

    named = {model.tag: model for model in map(store.find_model, names)}
    models = list(named.values()) or store.served_models()
    if not models:
        raise ModelNotFound(f"There is nothing to export: {store.nothing_served()}")
    exported.export(models, folder)
    return [{"model": model.tag, "folder": str((folder / model.recipe / model.version).resolve())} for model in models]


def evaluate(name: str, backend: str | None) -> list[dict[str, Any]]:
    """Predicts every test image with each stored file of a model, or with one, and compares with the card."""
    from digits import mnist, store
    from digits.card import Score
    from runtimes.backends import is_installed, open_runtime, predict_all
    from runtimes.device import CPU

    model = store.find_model(name)
    backends = [_backend(backend)] if backend else [one for one in model.card.backends if is_installed(one)]
    for one in backends:
        model.verify(one)
    test_images = mnist.test_images()
    checks = []
    with _progress() as progress:
        task = progress.add_task(model.recipe, total=len(backends))
        for one in sorted(backends, key=BACKENDS.index):
            progress.update(task, description=f"{model.recipe} through {one}")
            probabilities = predict_all(open_runtime(one, model.path(one), device=CPU), test_images.images)
            found, stored = Score.of(probabilities, test_images.labels), model.card.scores[one]
            checks.append(
                {
                    "model": model.tag,
                    "backend": one,
                    "correct": found.correct,
                    "stored_correct": stored.correct,
                    "total": found.total,
                    "as_stored": found == stored,
                }
            )
            progress.update(task, advance=1)
    return checks


def show_evaluation(checks: Sequence[dict[str, Any]]) -> None:
    table = _table(checks[0]["model"])
    table.add_column("backend")
    for column in ("correct", "stored", "of", ""):
        table.add_column(column, justify="right")
    for check in checks:
        verdict = "as stored" if check["as_stored"] else "[red]NOT as stored[/]"
        table.add_row(
            check["backend"], str(check["correct"]), str(check["stored_correct"]), str(check["total"]), verdict
        )
    console.print(table)


def evaluate_beyond(
    name: str, backend: str | None, *, beyond: bool, fonts: Sequence[Path], images: Path | None, results: Path
) -> dict[str, Any]:
    """Reads kinds of digits that are not MNIST's with one stored file of a model, and keeps what comes out for the report.

    Args:
        name: of the model.
        backend: through which; the quickest that is installed without this.
        beyond: whether to read the kinds of the table.
        fonts: folders of fonts; the system's without this.
        images: a folder of images and labels to read too.
        results: the folder in which the readings are kept.
    """
    from digits import mnist, store
    from digits.kinds.table import KINDS
    from runtimes.backends import open_runtime, predict_all
    from runtimes.device import CPU
    from training.evaluate import keep_readings, quickest, read_folder, read_kinds

    for folder in fonts:
        if not folder.is_dir():
            raise SettingError(f"--fonts takes a folder, and {folder} is none.")
    model = store.find_model(name)
    one = _backend(backend) if backend else quickest(model.card.backends)
    path = model.path(one)
    model.verify(one)
    predict = functools.partial(predict_all, open_runtime(one, path, device=CPU))
    readings: list[Reading] = []
    with _progress() as progress:
        task = progress.add_task(model.recipe, total=(len(KINDS) if beyond else 0) + (1 if images else 0))
        if images is not None:
            readings += read_folder(predict, images)
            progress.update(task, advance=1)
        if beyond:
            for reading in read_kinds(predict, mnist.test_images(), recipe=model.card.recipe, fonts=fonts):
                progress.update(task, description=f"{model.recipe}: {reading.kind}", advance=1)
                readings.append(reading)
    kept = keep_readings(results, model.tag, readings)
    return {
        "model": model.tag,
        "backend": one,
        "kept": str(kept),
        "strangers": _unsure_of_strangers(predict, model.card.confidence, fonts) if beyond else [],
        "mnist": {**dataclasses.asdict(model.card.scores[one]), **_accuracy(model.card.scores[one])},
        "kinds": [{**dataclasses.asdict(reading), **_accuracy(reading.score)} for reading in readings],
    }


def _unsure_of_strangers(
    predict: Callable[[Images], Probabilities], confidence: Confidence | None, fonts: Sequence[Path]
) -> list[dict[str, Any]]:
    """Of what is no digit, the share of which the model is unsure; nothing without a threshold."""
    if confidence is None:
        return []
    from digits.kinds.strangers import strangers

    kinds = []
    for kind in strangers(fonts):
        believed = (
            int(confidence.believes(confidence.calibrated(predict(kind.images))).sum()) if len(kind.images) else 0
        )
        total = len(kind.images) + kind.blank
        kinds.append(
            {"kind": kind.name, "about": kind.about, "total": total, "blank": kind.blank, "believed": believed}
        )
    return kinds


def _accuracy(score: Score | None) -> dict[str, Any]:
    """With its interval; nothing of nothing."""
    from comparison.intervals import wilson

    if score is None:
        return {"accuracy": None, "accuracy_95": None}
    return {"accuracy": score.accuracy, "accuracy_95": list(wilson(score.correct, score.total))}


def _percents(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    low, high = accuracy["accuracy_95"]
    return f"{100 * accuracy['accuracy']:.2f}", f"{100 * low:.2f}-{100 * high:.2f}"


def show_beyond(read: dict[str, Any]) -> None:
    table = _table(f"{read['model']} through {read['backend']}: digits that are not MNIST's")
    table.add_column("kind")
    for column in ("images", "right, %", "95 %"):
        table.add_column(column, justify="right")
    table.add_column("trained on alike")
    mnist = read["mnist"]
    table.add_row(
        "MNIST's test images", f"{mnist['total']:,}", *_percents(mnist), "its training images", end_section=True
    )
    for group, members in groupby(read["kinds"], key=lambda kind: kind["group"]):
        kinds = list(members)
        for kind in kinds:
            if kind["missing"]:
                table.add_row(f"  {kind['kind']}", "-", "-", "-", "")
                continue
            like = ", ".join(kind["trained_like"]) or ("not known" if group == "given" else "nothing")
            table.add_row(f"  {kind['kind']}", f"{kind['score']['total']:,}", *_percents(kind), like)
        had = [kind["accuracy"] for kind in kinds if kind["accuracy"] is not None]
        if len(had) > 1:
            table.add_row(
                f"{group}, mean of {len(had)}" + (f" of {len(kinds)}" if len(had) < len(kinds) else ""),
                "",
                f"{100 * sum(had) / len(had):.2f}",
                "",
                "",
                end_section=True,
            )
    console.print(table)
    for kind in read["kinds"]:
        if kind["missing"]:
            console.print(f"{kind['kind']} {kind['missing']}", markup=False, highlight=False, soft_wrap=True)
        elif kind["faces"]:
            faces = kind["faces"]
            said = f"{kind['kind']}: {len(faces)} face{'s' * (len(faces) > 1)}, from {faces[0][0]} to {faces[-1][0]}"
            console.print(
                f"{said}; all of them with --json", style="dim", markup=False, highlight=False, soft_wrap=True
            )
    for kind in read["strangers"]:
        unsure = kind["total"] - kind["believed"] - kind["blank"]
        said = f"not digits, {kind['kind']}: unsure of {100 * unsure / kind['total']:.1f} %"
        blank = f", said to be blank {100 * kind['blank'] / kind['total']:.1f} %" if kind["blank"] else ""
        console.print(f"{said}{blank}, of {kind['total']}", highlight=False, soft_wrap=True)
    console.print(
        "trained on alike: nothing where neither an augmentation nor drawn digits resemble the kind. "
        f"Kept in {read['kept']}",
        style="dim",
    )


MAX_PIXELS: Final = 50_000_000  # of a picture, on a machine of one's own
STANDARD_INPUT: Final = "-"


def classify(
    files: Sequence[str], name: str | None, backend: str | None, *, many: bool, images: bool
) -> dict[str, Any]:
    """Reads the digit, or all, in each of `files`; what cannot be read has an error in place of predictions.

    Args:
        files: paths, or `-` for standard input.
        name: of the model; the best of the served ones without this.
        backend: through which; the quickest that is installed without this.
        many: whether to read every digit of a picture.
        images: whether to give what the model saw.
    """
    import numpy as np

    from digits import store
    from digits.picture.file import decode
    from digits.picture.finding import find_digit, find_digits
    from runtimes.backends import open_runtime, predict_all
    from runtimes.device import CPU
    from training.evaluate import quickest

    model = store.find_model(name) if name else store.best_model()
    one = _backend(backend) if backend else quickest(model.card.backends)
    model.verify(one)
    runtime = open_runtime(one, model.path(one), device=CPU)

    confidence = model.card.confidence

    def read(file: str) -> dict[str, Any]:
        try:
            body = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
            picture = decode(body, max_pixels=MAX_PIXELS)
            found = find_digits(picture) if many else [find_digit(picture)]
        except PictureError as error:
            return {"file": file, "error": str(error)}
        except OSError as error:
            return {"file": file, "error": f"It cannot be read: {error.strerror}."}
        probabilities = predict_all(runtime, np.stack([digit.image for digit in found]))
        if confidence is not None:
            probabilities = confidence.calibrated(probabilities)
        believed = [None] * len(found) if confidence is None else confidence.believes(probabilities).tolist()
        predictions = [
            {
                "digit": int(each.argmax()),
                "sure": is_sure,
                "probability": float(each.max()),
                "probabilities": each.tolist(),
                "box": list(digit.box),
                **({"image": digit.image.tolist()} if images else {}),
            }
            for digit, each, is_sure in zip(found, probabilities, believed, strict=True)
        ]
        return {"file": file, "predictions": predictions}

    return {"model": model.tag, "backend": one, "files": [read(file) for file in files]}


def show_classified(read: dict[str, Any]) -> None:
    for file in read["files"]:
        if "error" in file:
            said = f"{file['file']}: {file['error']}"
            progress_console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
            continue
        for found in file["predictions"]:
            doubt = {True: "", False: ", unsure", None: ""}[found["sure"]]
            left, top, right, bottom = found["box"]
            where = f", at {left},{top} to {right},{bottom}" if len(file["predictions"]) > 1 else ""
            print(f"{file['file']}: {found['digit']}, {100 * found['probability']:.1f} %{doubt}{where}")
            if "image" in found:
                print(drawn_in_characters(found["image"]))
    progress_console.print(f"read by {read['model']} through {read['backend']}", style="dim", highlight=False)


SHADES: Final = " .:-=+*#%@"  # of a terminal, from paper to ink


def drawn_in_characters(image: Sequence[Sequence[int]]) -> str:
    """28 lines of 56 characters: a character is twice as high as wide."""
    return "\n".join("".join(SHADES[pixel * len(SHADES) // 256] * 2 for pixel in row).rstrip() for row in image)


def serve(given: Mapping[str, str], *, host: str, port: int, only_show: bool, open_page: bool = False) -> None:
    """Becomes the server, or shows with what settings it would start.

    Args:
        given: variables that the command line sets.
        open_page: in the user's browser, once the server is ready.
    """
    from samedigit.browser import open_when_ready, page_url
    from serving.keys import keys_of
    from serving.ports.tls import server_context
    from serving.settings import FILE, PREFIX, Reading, absolute_paths, read, shown
    from serving.start import adopt_options, serve_command, serve_environment

    environment = serve_environment(given)
    environment.update(absolute_paths(environment))
    settings, origins = read(environment)
    if not only_show:
        command = serve_command(host=host, port=port)
        if open_page:
            url = page_url(host=host, port=port, tls=settings.tls_certificate is not None)
            print(f"The page to draw on: {url}", flush=True)
            open_when_ready(url)
        os.execve(command[0], command, environment)  # signals reach the server itself
    keys_of(settings)  # what else stops a start
    server_context(settings)
    adopt_options(
        {"host": host, "ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}, environment
    )
    if origins["data_host"] == "default":
        origins["data_host"] = "--host"
    origins.update({variable.removeprefix(PREFIX).lower(): "command line" for variable in given if variable != FILE})
    rows = shown(Reading(read(environment).settings, origins))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")


def quantize(name: str, wanted: Sequence[str], results: Path) -> list[dict[str, Any]]:
    """Stores the named model in smaller numbers, or in all of them; a row for it and for each, kept for the report."""
    from comparison.cost.numbers import compare_numbers, keep_numbers
    from digits import store
    from training.smaller import NUMBERS, store_smaller

    for one in wanted:
        if one not in NUMBERS:
            raise SettingError(f"There are no numbers {one!r}; there are {', '.join(NUMBERS)}.")
    original = store.find_model(name)
    asked = [one for one in NUMBERS if one in wanted or not wanted]
    smaller = [store_smaller(original, one) for one in asked]
    rows = compare_numbers(original, smaller)
    keep_numbers(rows, results)
    return [dataclasses.asdict(row) for row in rows]


def show_numbers(rows: Sequence[dict[str, Any]]) -> None:
    """What `quantize` gives, as a table."""
    table = _table(f"{rows[0]['model']} in smaller numbers, through onnxruntime, one thread")
    table.add_column("numbers")
    for column in (
        "kB",
        "right,\n%",
        "against the\noriginal",
        "same\ndigit, %",
        "ECE,\n%",
        "1 image,\nus",
        "64: us\nan image",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        paired, calibration, (low_ece, high_ece) = row["paired"], row["calibration"], row["ece_by_chance"]
        against, agree = "", ""
        if paired is not None:
            low, high = (100 * bound for bound in paired["interval"])
            against = f"{100 * paired['difference']:+.2f}\n{low:+.2f} to {high:+.2f}\np {paired['p']:.2g}"
            agree = f"{100 * paired['agree']:.2f}"
        speeds = []
        for number, microseconds in row["microseconds"].items():
            interval = row["intervals"][number]
            ratio = "" if interval is None else f"\n{row['ratios'][number]:.2f}x\n{interval[0]:.2f}-{interval[1]:.2f}"
            speeds.append(f"{microseconds:.1f}{ratio}")
        table.add_row(
            row["numbers"], f"{row['bytes'] / 1000:.0f}", f"{100 * row['correct'] / row['total']:.2f}", against, agree,
            f"{100 * calibration['ece']:.2f}\n{100 * low_ece:.2f} to {100 * high_ece:.2f}", *speeds,
        )  # fmt: skip
    console.print(table)
    console.print(
        "against the original: points of accuracy on the same test images, 95 % interval (Bonett and Price) and McNemar's p, "
        "both corrected over the forms; x: its time by the original's, 95 % interval over rounds; ECE: how far its "
        "probabilities are from what they say, and below it how far they would be by chance, did they mean it.",
        style="dim",
    )
    names = ",".join(row["model"].partition(":")[0] for row in rows[1:])
    console.print(f"Served by name: SAMEDIGIT_MODELS={names}", highlight=False)


def loadtest(
    names: Sequence[str],
    backends: Sequence[str],
    protocols: Sequence[str],
    *,
    users: int,
    duration: float,
    results: Path,
) -> list[dict[str, Any]]:
    """Measures the named models, or of every recipe the served one, through the named backends, or all they have.

    Over the named protocols, or all.
    """
    from loadtests.load_test import run_load_test, steps

    pairs, asked = _asked(names, backends, protocols)
    with _stepping(steps(len(pairs), len(asked), users)) as on_step:
        runs = run_load_test(pairs, protocols=asked, users=users, duration=duration, results=results, on_step=on_step)
    return [dataclasses.asdict(run) for run in runs]


def open_loadtest(
    names: Sequence[str],
    backends: Sequence[str],
    protocols: Sequence[str],
    *,
    users: int,
    duration: float,
    rounds: int,
    results: Path,
) -> list[dict[str, Any]]:
    """The same, of requests that arrive by themselves; a row for each model, backend and protocol."""
    from comparison.load.rates import read_rates
    from loadtests.open_test import open_steps, run_open_test

    pairs, asked = _asked(names, backends, protocols)
    with _stepping(open_steps(len(pairs), len(asked), rounds)) as on_step:
        run_open_test(
            pairs, protocols=asked, users=users, seconds=duration, rounds=rounds, results=results, on_step=on_step
        )
    rates = read_rates(results)
    assert rates is not None  # just written
    return [
        {
            "model": one.peak.model,
            "backend": one.peak.backend,
            "protocol": one.peak.protocol,
            "peak": one.peak.requests_per_second,
            "peak_is_clients": one.peak_is_clients,
            "highest_rates": [
                {
                    "p99_within_ms": bound_ms,
                    "rate": answer.rate,
                    "interval": answer.interval,
                    "at_least": answer.at_least,
                    "at_most": answer.at_most,
                }
                for bound_ms in rates.bounds_ms
                for answer in (one.answer(bound_ms),)
            ],
            "server_cpu_us": one.peak.server_cpu_us,
            "server_memory_mb": one.peak.server_memory_mb,
        }
        for one in rates.arrived
    ]


def _asked(
    names: Sequence[str], backends: Sequence[str], protocols: Sequence[str]
) -> tuple[list[tuple[StoredModel, Backend]], list[ProtocolName]]:
    """The models with their backends, and the protocols, that a load test is of."""
    from digits import store
    from loadtests.protocols import PROTOCOLS
    from runtimes.backends import how_to_install, is_installed

    wanted = [_backend(backend) for backend in backends]
    for name in protocols:
        if name not in PROTOCOLS:
            raise SettingError(f"There is no protocol {name!r}; there are {', '.join(PROTOCOLS)}.")
    asked = [name for name in PROTOCOLS if name in protocols or not protocols]
    models = [store.find_model(name) for name in names] if names else store.served_models()
    if not models:
        raise ModelNotFound(f"There is nothing to load: {store.nothing_served()}")
    for backend in wanted:
        if not is_installed(backend):
            raise NotInstalled(f"The {backend} backend is not installed: {how_to_install(backend)}")
    pairs = [
        (model, backend)
        for model in models
        for backend in (wanted or [one for one in model.card.backends if is_installed(one)])
    ]
    for model, backend in pairs:
        model.path(backend)  # a model without that file is told before the first is measured
    return pairs, asked


@contextlib.contextmanager
def _stepping(steps: int) -> Iterator[Callable[[str], None]]:
    """Shows so many steps, each from when it is called."""
    with _progress() as progress:
        task = progress.add_task("", total=steps)
        started = False

        def on_step(step: str) -> None:
            nonlocal started
            progress.update(task, description=step, advance=int(started))
            started = True
            if not progress_console.is_terminal:
                progress_console.print(step, highlight=False)

        yield on_step
        progress.update(task, description="measured", advance=1)


def report(results: Path, study: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Writes the report and the page of costs beside the results; returns the report's path and the rows of the summary."""
    from comparison.cost.report import write_costs
    from comparison.load.report import write_report
    from comparison.load.results import summary_table

    models = _tested(results)
    write_costs(results, models, results / "costs.html")
    path = write_report(results, models, results / "report.html", study=study)
    return path.resolve(), [dataclasses.asdict(row) for row in summary_table(results, models)]


SHORT: Final = {
    "predict": "predict",
    "grpc": "gRPC",
    "v2-json": "v2 JSON",
    "v2-binary": "v2 bin.",
}  # so that tables fit 80 columns


def show_summary(results: Path) -> None:
    """What each model through each backend gets right, what it costs to ask, and how much of that is the model."""
    from comparison.load.results import compare, read_results

    comparison = compare(read_results(results), _tested(results))
    protocols = comparison.protocols
    rows: list[tuple[str, str, str, Target | None]] = []
    for model in comparison.tested:
        rows.append((model.recipe, "", "", None))
        for served in comparison.of_model(model):
            right = served.accuracy_over_requests
            accuracies = (f"{100 * served.score.accuracy:.2f}", "-" if right is None else f"{100 * right:.2f}")
            rows.append((f"  {served.backend}", *accuracies, served))
    if comparison.echo is not None:
        rows.append(("door, no model", "", "", comparison.echo))

    costs = _table("Accuracy and latency over HTTP")
    costs.add_column("model\n  backend")
    for column in ("stored\n%", "right\n%", *(f"{SHORT[protocol]}\np50, ms" for protocol in protocols)):
        costs.add_column(column, justify="right")
    throughput = _table(f"Requests a second with {comparison.users} callers")
    throughput.add_column("model\n  backend")
    for protocol in protocols:
        throughput.add_column(SHORT[protocol], justify="right")
    shares = _table("Mean latency of one caller; what is not the model is the door")
    shares.add_column("model\n  backend")
    for protocol in protocols:
        for column in ("all, ms", "model"):
            shares.add_column(f"{SHORT[protocol]}\n{column}", justify="right")
    for name, stored, of_answers, target in rows:
        measured = [target.over(protocol) for protocol in protocols] if target is not None else []
        medians = [f"{each.one.p50_ms:.2f}" if each.one else "-" for each in measured]
        rates = [f"{each.many.requests_per_second:,.0f}" if each.many else "-" for each in measured]
        costs.add_row(name, stored, of_answers, *medians)
        throughput.add_row(name, *rates)
        means = [f"{each.one.mean_ms:.3f}" if each.one else "-" for each in measured]
        models = [f"{each.share.model_ms:.3f}" if each.share else "-" for each in measured]
        shares.add_row(name, *(cell for pair in zip(means, models, strict=True) for cell in pair))
    console.print(costs)
    console.print("stored: on all test images; right: of the answers under load; p50: one caller.", style="dim")
    if comparison.users:
        console.print(throughput)
    console.print(shares)
    for name, target in (
        *((f"{served.model.recipe} through {served.backend}", served) for served in comparison.served),
        *((("the door", comparison.echo),) if comparison.echo is not None else ()),
    ):
        if target.failures:
            failed = f"{name}: {target.failures} requests failed; the first: {target.first_failure}"
            console.print(failed, style="red", markup=False, highlight=False)


def show_rates(results: Path) -> None:
    """How many requests a second each model carries through each backend within each bound of its p99."""
    from comparison.load.rates import in_words, read_rates, summarise_rates

    rates = read_rates(results)
    assert rates is not None  # whoever shows them has measured them
    for protocol in rates.protocols:
        table = _table(f"Requests a second that arrive by themselves, over {protocol}")
        table.add_column("model\n  backend")
        for column in ("peak", *(f"p99 within\n{bound_ms:g} ms" for bound_ms in rates.bounds_ms), "p50, ms\nat 50 %"):
            table.add_column(column, justify="right")
        for model in rates.models:
            table.add_row(model.partition(":")[0])
            for one in rates.of(model, protocol):
                cells = []
                for bound_ms in rates.bounds_ms:
                    answer = one.answer(bound_ms)
                    interval = answer.interval
                    cells.append(in_words(answer).replace("at least ", "≥ ").replace("below ", "< "))
                    if interval is not None:
                        cells[-1] += f"\n{interval[0]:,.0f}-{interval[1]:,.0f}"
                half = next((level.p50_ms for level in one.levels if level.share == 0.5), None)
                peak = f"{'≥ ' if one.peak_is_clients else ''}{one.peak.requests_per_second:,.0f}"
                table.add_row(f"  {one.peak.backend}", peak, *cells, "-" if half is None else f"{half:.2f}")
        console.print(table)
    console.print(
        f"p99: 99 of 100 requests are answered within it; peak: {rates.arrived[0].peak.users} callers who wait for each "
        f"answer; below each rate its 95 % interval, over {rates.rounds} rounds; ≥: the client was the limit, or nothing "
        "higher was asked; <: the lowest rate that was asked was too much.",
        style="dim",
    )
    for finding in summarise_rates(rates, 10.0):
        console.print(finding, highlight=False, markup=False)


def _tested(results: Path) -> list[StoredModel]:
    """The stored models that the load test ran; if none is left, of each recipe the served one."""
    from comparison.load.results import read_results
    from digits import store

    tags = {run.model for run in read_results(results).runs}
    return [model for model in store.stored_models() if model.tag in tags] or store.served_models()


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=0, title_justify="left")  # 80 columns


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise SettingError(f"There is no backend {name!r}; there are {', '.join(BACKENDS)}.")
    return name


def _progress(*columns: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *columns,
        console=progress_console,
        disable=not progress_console.is_terminal,
    )
