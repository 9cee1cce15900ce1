"""Two models that a test can draw to, trained within seconds: one with convolutions, and a plain one that errs more."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np

from digits import mnist, store
from digits.card import Card, Epoch, Score
from digits.confidence import find_confidence
from digits.contract import EXPORTED, Backend
from digits.misread import Misread
from digits.mnist import LabelledImages
from digits.network import BatchNorm, Conv, Dense, MaxPool, Network, Relu, parameters
from digits.store import StoredModel
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
from training import trainers
from training.augmentation import Affine, Thickness
from training.recipes import RECIPES, Recipe
from training.trainers import Split

BACKENDS: Final[tuple[Backend, ...]] = ("numpy", "onnx")
TRAINING_IMAGES: Final = 20_000
TEST_IMAGES: Final = 2_000
HELD_OUT: Final = 3_000  # the last of the training images
_NORM: Final = BatchNorm(momentum=0.9, epsilon=1e-5)
_CONVOLUTIONS: Final[Network] = (
    *(Conv(filters=12, kernel=5, padding=2, bias=False), MaxPool(2), _NORM, Relu()),
    *(Conv(filters=24, kernel=3, padding=0, bias=False), MaxPool(2), _NORM, Relu()),
    *(Conv(filters=32, kernel=3, padding=0, bias=False), _NORM, Relu()),
    Dense(10),
)
RECIPES_DRAWN: Final = (
    dataclasses.replace(
        RECIPES["torch-conv"],
        network=_CONVOLUTIONS,
        augmentation=(
            Thickness(thinner=1.0, thicker=1.6, probability=0.3),
            Affine(rotation=10.0, shift=1.5, scale=0.15, shear=10.0, probability=1.0),
        ),
        epochs=2,
    ),
    dataclasses.replace(RECIPES["numpy-sigmoid"], epochs=1),
)


def keep_all() -> None:
    """Stores them where BENTOML_HOME says, promoted: each departs from its recipe, and would be served only by name."""
    for recipe in RECIPES_DRAWN:
        store.promote(_keep(recipe).tag)


def _keep(recipe: Recipe) -> StoredModel:
    trainer, numpy_trainer = trainers.load_trainer(recipe.framework), trainers.load_trainer("numpy")
    images, test = mnist.train_images(), _part(mnist.test_images(), 0, TEST_IMAGES)
    held_out = _part(images, len(images.labels) - HELD_OUT, len(images.labels))
    split = Split(_part(images, 0, TRAINING_IMAGES), held_out, "the last training images")
    history: list[Epoch] = []
    model = trainer.train(recipe, split, device=CPU, on_epoch=history.append)
    exported = numpy_trainer.with_weights(recipe, trainer.get_weights(model))

    def fill(folder: Path) -> Card:
        numpy_trainer.export_native(exported, recipe, folder / EXPORTED["numpy"])
        numpy_trainer.export_onnx(exported, recipe, folder / EXPORTED["onnx"])
        scores, differences = {}, {}
        expected = numpy_trainer.predict(exported, recipe, test.images)
        Misread.of(expected, test).write(folder)
        for backend in BACKENDS:
            found = predict_all(open_runtime(backend, folder / EXPORTED[backend], device=CPU), test.images)
            scores[backend] = Score.of(found, test.labels)
            differences[backend] = float(np.abs(found - expected).max())
        return Card(
            recipe=recipe.to_data(),
            departures=("for a test",),
            framework=recipe.framework,
            seed=recipe.seed,
            device="cpu",
            parameters=parameters(recipe.network),
            history=tuple(history),
            held_out=split.held_out_is,
            scores=scores,
            largest_difference=differences,
            bytes={backend: store.size(folder / EXPORTED[backend]) for backend in BACKENDS},
            files=store.hashes(folder),
            data=dict(mnist.SHA256),
            versions={},
            machine="",
            threads=1,
            trained_at="2026-01-01T00:00:00+00:00",
            train_seconds=sum(epoch.seconds for epoch in history),
            export_seconds=0.0,
            confidence=find_confidence(
                numpy_trainer.predict(exported, recipe, held_out.images), held_out.labels, expected, test.labels
            ),
        )

    return store.save(recipe.name, fill=fill)


def _part(images: LabelledImages, begin: int, end: int) -> LabelledImages:
    return LabelledImages(images=images.images[begin:end], labels=images.labels[begin:end])
