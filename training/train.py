"""From a recipe to a stored model: train, export in every format, hold each file against the model, store."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np

from digits import mnist, store
from digits.card import Card, Epoch
from digits.confidence import find_confidence
from digits.contract import EXPORTED
from digits.errors import DeviceError
from digits.machine import machine
from digits.misread import Misread
from digits.mnist import LabelledImages
from digits.network import parameters
from digits.store import StoredModel
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU, Device, choose_device
from training import trainers
from training.drawn import drawn_digits
from training.evaluate import quickest, scores_of_changes
from training.export import export_all
from training.recipes import Recipe, departures
from training.strangers import drawn_strangers
from training.trainers import OnEpoch, Split, Trainer

PACKAGES: Final = ("samedigit", "numpy", "torch", "tensorflow", "keras", "onnx", "onnxruntime", "bentoml")

OnStage = Callable[[str], None]


def train_and_store(
    recipe: Recipe, *, device: str, threads: int = 1, on_epoch: OnEpoch, on_stage: OnStage = lambda stage: None
) -> StoredModel:
    """Trains `recipe` and stores the model with its card, or stores nothing.

    Each exported file is opened by the runtime that will serve it: what the card says of accuracy holds for the file.
    A run that departs from its recipe is marked so on the card, and then not served unless it is named or promoted.

    Args:
        recipe: what to train.
        device: auto, cpu, cuda or cuda:INDEX.
        threads: of the CPU, that training may use.
        on_epoch: called after each epoch.
        on_stage: called with what begins: importing, training, exporting.

    Raises:
        SamedigitError: data, framework, device or store is missing; or an export does not answer as the model does.
    """
    store.require_space()
    on_stage("importing")
    trainer = trainers.load_trainer(recipe.framework)
    place = _training_device(trainer, recipe, device)
    split, test_images = split_for(recipe), mnist.test_images()
    history: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        history.append(epoch)
        on_epoch(epoch)

    on_stage("training")
    model = trainer.train(recipe, split, device=place, threads=threads, on_epoch=record)

    def fill(folder: Path) -> Card:
        on_stage("exporting")
        started = time.perf_counter()
        scores, differences = export_all(model, trainer, recipe, folder, test_images)
        export_seconds = time.perf_counter() - started
        backend = quickest(scores)
        predict = partial(predict_all, open_runtime(backend, folder / EXPORTED[backend], device=CPU))
        of_test_images = predict(test_images.images)
        Misread.of(of_test_images, test_images).write(folder)
        departed = departures(recipe)
        if not departed:
            on_stage("reading other digits")
        return Card(
            recipe=recipe.to_data(),
            departures=departed,
            framework=recipe.framework,
            seed=recipe.seed,
            device=str(place),
            parameters=parameters(recipe.network),
            history=tuple(history),
            held_out=split.held_out_is,
            scores=scores,
            largest_difference=differences,
            bytes={backend: store.size(folder / EXPORTED[backend]) for backend in scores},
            files=store.hashes(folder),
            data=dict(mnist.SHA256),
            versions=versions(),
            machine=machine(),
            threads=threads,
            trained_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            train_seconds=sum(epoch.seconds for epoch in history),
            export_seconds=export_seconds,
            beyond={} if departed else scores_of_changes(predict, test_images, threads=threads),  # a quick look: none
            confidence=None
            if recipe.validation_fraction == 0
            else find_confidence(
                predict(split.held_out.images), split.held_out.labels, of_test_images, test_images.labels
            ),
        )

    return store.save(recipe.name, fill=fill)


def split_for(recipe: Recipe) -> Split:
    """What the recipe trains on and holds out: the last of the training images, or the test images where it holds out none.

    What is drawn comes after the training images: digits, then strangers. What is held out is MNIST's alone.

    Raises:
        DataError: MNIST cannot be had.
    """
    images = mnist.train_images()
    kept = len(images.labels) - round(recipe.validation_fraction * len(images.labels))
    train = LabelledImages(images=images.images[:kept], labels=images.labels[:kept])
    parts = [train]
    if recipe.drawn:
        parts.append(drawn_digits(recipe.drawn, seed=recipe.seed))
    if recipe.strangers:
        parts.append(drawn_strangers(recipe.strangers, seed=recipe.seed))
    train = LabelledImages(
        images=np.concatenate([part.images for part in parts]), labels=np.concatenate([part.labels for part in parts])
    )
    if recipe.validation_fraction == 0:
        return Split(train=train, held_out=mnist.test_images(), held_out_is="test images")
    return Split(
        train=train,
        held_out=LabelledImages(images=images.images[kept:], labels=images.labels[kept:]),
        held_out_is=f"last {len(images.labels) - kept:,} training images",
    )


def _training_device(trainer: Trainer, recipe: Recipe, wish: str) -> Device:
    device = choose_device(wish)
    if device.kind == "cpu" or trainer.sees_gpu(device.index):
        return device
    if wish == "auto":
        return CPU
    raise DeviceError(
        f"{recipe.name} was to be trained on {device}, but {recipe.framework} sees no such GPU. Use auto or cpu, or "
        f"install a build of {recipe.framework} that has CUDA."
    )


def versions() -> dict[str, str]:
    """Of Python and of each package that a model depends on, where it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
