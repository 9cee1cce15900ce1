"""Given trainings, each in a process of its own, kept as they finish, so that what was cut short goes on from there.

    FOLDER/KEY.npz      digits, uint8 [kept epochs, 10000]: what the model answers to the test images, the last epoch last
    FOLDER/KEY.json     the training, as plain data, with its seconds, machine and versions

Both are written beside and renamed, the .json last.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from digits import mnist
from digits.errors import StudyError
from digits.machine import machine
from training import trainers
from training.given.draws import Array, Training, scaled, training_images
from training.train import versions


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one given training answers to the 10,000 test images."""

    training: Training
    digits: Array  # uint8 [kept epochs, 10000]
    seconds: float  # of the epochs, answering included
    machine: str
    versions: dict[str, str]  # package -> version
    finished_at: str  # ISO 8601, UTC


def do(training: Training) -> dict[str, Any]:
    """Trains, here and now: the fields of an outcome's .json, and `digits`."""
    module = import_module(f"training.given.{training.framework}_given")
    given = training_images(training)
    shown = scaled(training, mnist.test_images().images)
    kept: deque[Array] = deque(maxlen=training.keep)
    started = time.perf_counter()
    for epoch, model in enumerate(module.train(training, given.images, given.labels), start=1):
        if epoch > training.recipe.epochs - training.keep:
            kept.append(module.digits_of(model, shown))
    return {
        "training": training.to_data(),
        "digits": np.stack(kept),
        "seconds": time.perf_counter() - started,
        "machine": machine(),
        "versions": versions(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read(folder: Path, training: Training) -> Outcome | None:
    """None where it is not finished.

    Raises:
        StudyError: its files cannot be read.
    """
    file = folder / f"{training.key}.json"
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_bytes())
        with np.load(file.with_suffix(".npz"), allow_pickle=False) as held:
            digits = held["digits"]
        return Outcome(
            training=training,
            digits=digits,
            **{name: said[name] for name in ("seconds", "machine", "versions", "finished_at")},
        )
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise StudyError(f"{file} cannot be read ({error}). Delete it, and it is done again: rm {file}") from error


def run_all(
    trainings: Sequence[Training],
    folder: Path,
    *,
    jobs: int,
    on_done: Callable[[Outcome, int, int], None] = lambda outcome, done, total: None,
) -> list[Outcome]:
    """The outcome of each, in their order; those that `folder` has already are not trained again.

    Args:
        trainings: one that comes twice is trained once.
        folder: made if it is not there.
        jobs: processes at once, each on one thread.
        on_done: called after each with how many are done, of how many.

    Raises:
        NotInstalled: a framework is missing.
        DataError: MNIST cannot be had.
        StudyError: the folder cannot be read or written, or a training failed; those that are finished are kept.
    """
    for framework in {training.framework for training in trainings}:
        trainers.require(framework)
    mnist.train_images(), mnist.test_images()
    by_key = {training.key: training for training in trainings}
    found = {key: outcome for key, training in by_key.items() if (outcome := read(folder, training)) is not None}
    missing = [training for key, training in by_key.items() if key not in found]
    if missing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"{folder} cannot be made: {error.strerror}. Give another: --study") from error
        # A fresh process for each: a framework's settings, as Keras's precision, hold for a whole process.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
            waiting = {pool.submit(_do_and_keep, training, folder): training for training in missing}
            try:
                for done in as_completed(waiting):
                    training = waiting[done]
                    done.result()
                    outcome = read(folder, training)
                    assert outcome is not None
                    found[training.key] = outcome
                    on_done(outcome, len(found), len(by_key))
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, StudyError) or not isinstance(error, Exception):
                    raise
                raise StudyError(
                    f"A training failed ({error}). Those that are finished are kept in {folder}."
                ) from error
    return [found[training.key] for training in trainings]


def _do_and_keep(training: Training, folder: Path) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    fields = do(training)
    packed = io.BytesIO()
    np.savez_compressed(packed, digits=fields.pop("digits"))
    file = folder / f"{training.key}.json"
    for contents, path in (
        (packed.getvalue(), file.with_suffix(".npz")),
        (json.dumps(fields, indent=1).encode(), file),
    ):
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(contents)
        os.replace(beside, path)
