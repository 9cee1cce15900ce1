"""The Keras trainer: compile and fit."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # read when keras is imported; a SavedModel needs it

import runtimes.tensorflow_runtime  # noqa: F401  # isort: skip  # first: it sets TensorFlow's threads
import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf

from digits.card import Epoch
from digits.contract import PIXELS, SIDE, Images, Probabilities
from runtimes.device import Device
from training.onnx_file import write_onnx
from training.recipes import Recipe
from training.trainers import OnEpoch, Split, Weights


def build(recipe: Recipe) -> keras.Model:
    *hidden, (last_fan_in, classes) = recipe.layer_sizes
    layers: list[keras.Layer] = []
    for i, (fan_in, units) in enumerate(hidden):
        regularizer = keras.regularizers.L2(recipe.l2) if recipe.l2 else None
        draws = initialise(recipe, i, fan_in)
        layers.append(keras.layers.Dense(units, activation=recipe.activation, kernel_regularizer=regularizer, **draws))
        if recipe.dropout:
            layers.append(keras.layers.Dropout(recipe.dropout, seed=1000 * recipe.seed + 500 + i))
    layers.append(keras.layers.Dense(classes, **initialise(recipe, len(hidden), last_fan_in)))  # logits
    pixels = keras.Input((PIXELS,))
    if recipe.keras_api == "functional":
        outputs = pixels
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(pixels, outputs)
    return keras.Sequential([pixels, *layers])


def initialise(recipe: Recipe, layer: int, fan_in: int) -> dict[str, keras.Initializer]:
    def draw(kind: str, offset: int) -> keras.Initializer:
        seed = 1000 * recipe.seed + 2 * layer + offset  # an initializer with one seed draws the same for every layer
        if kind == "zeros":
            return keras.initializers.Zeros()
        if kind == "glorot_uniform":
            return keras.initializers.GlorotUniform(seed=seed)
        if kind == "he_uniform":
            return keras.initializers.HeUniform(seed=seed)
        return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5, seed=seed)

    return {"kernel_initializer": draw(recipe.weight_draw, 0), "bias_initializer": draw(recipe.bias_draw, 1)}


def make_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(learning_rate=recipe.learning_rate, rho=recipe.beta_2, epsilon=recipe.epsilon)
    return keras.optimizers.Adam(
        learning_rate=recipe.learning_rate, beta_1=recipe.beta_1, beta_2=recipe.beta_2, epsilon=recipe.epsilon
    )


def train(recipe: Recipe, split: Split, *, device: Device, on_epoch: OnEpoch) -> keras.Model:
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    with keras.device(f"{'gpu' if device.kind == 'cuda' else 'cpu'}:{device.index}"):
        model = build(recipe)
        compile_model(model, recipe)
        model.fit(
            shuffled_batches(recipe, split),
            shuffle=False,  # the batches are
            epochs=recipe.epochs,
            validation_data=(scaled(recipe, split.held_out.images), split.held_out.labels),
            validation_batch_size=1000,
            callbacks=[EpochReport(on_epoch)],
            verbose=0,
        )
    return model


def compile_model(model: keras.Model, recipe: Recipe) -> None:
    model.compile(
        optimizer=make_optimizer(recipe),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def shuffled_batches(recipe: Recipe, split: Split) -> Any:
    """A tf.data.Dataset of (pixels [B, 784], labels [B]), in a new random order at each epoch.

    `fit(pixels, labels, shuffle=True)` would be shorter, but once a seed is set it repeats one and the same order at every
    epoch (keras 3.15 with TensorFlow), which costs this recipe about half a point of accuracy.
    """
    pixels, labels = tf.constant(scaled(recipe, split.train.images)), tf.constant(split.train.labels)
    order = tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=recipe.seed, reshuffle_each_iteration=True)
    batches = order.batch(recipe.batch_size)
    return batches.map(lambda batch: (tf.gather(pixels, batch), tf.gather(labels, batch))).prefetch(1)


class EpochReport(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Times the training part of each epoch, and passes on its numbers."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        super().__init__()
        self._on_epoch = on_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self._seconds = time.perf_counter() - self._started

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        self._on_epoch(
            Epoch(
                loss=float(logs["loss"]),
                accuracy=float(logs["accuracy"]),
                held_out_accuracy=float(logs["val_accuracy"]),
                seconds=self._seconds,
            )
        )


def predict(model: keras.Model, recipe: Recipe, images: Images) -> Probabilities:
    probabilities: Probabilities = keras.ops.softmax(model(scaled(recipe, images))).numpy()
    return probabilities


def scaled(recipe: Recipe, images: Images) -> npt.NDArray[np.float32]:
    return images.reshape(-1, PIXELS) * np.float32(recipe.pixel_step) + np.float32(recipe.pixel_low)  # [N, 784]


def sees_gpu(index: int) -> bool:
    return index < len(tf.config.list_physical_devices("GPU"))


def dense_layers(model: keras.Model) -> list[keras.layers.Dense]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]


def get_weights(model: keras.Model) -> Weights:
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in dense_layers(model)]


def with_weights(recipe: Recipe, weights: Weights) -> keras.Model:
    model = build(recipe)
    for layer, (weight, bias) in zip(dense_layers(model), weights, strict=True):
        layer.set_weights([weight, bias])
    return model


def served(model: keras.Model, recipe: Recipe) -> keras.Model:
    """The whole contract: images in, probabilities out."""
    images = keras.Input((SIDE, SIDE), dtype="uint8", name="images")
    pixels = keras.layers.Rescaling(recipe.pixel_step, recipe.pixel_low)(keras.layers.Flatten()(images))  # [N, 784]
    return keras.Model(images, keras.layers.Softmax()(model(pixels)))


def export_native(model: keras.Model, recipe: Recipe, path: Path) -> None:
    network = served(model, recipe)
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        "serve",
        lambda images: {"probabilities": network(images)},
        input_signature=[tf.TensorSpec((None, SIDE, SIDE), tf.uint8, name="images")],
    )
    archive.write_out(str(path), verbose=False)


def export_onnx(model: keras.Model, recipe: Recipe, path: Path) -> None:
    images = keras.InputSpec(shape=(None, SIDE, SIDE), dtype="uint8", name="images")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # keras asks numpy for it
        exported = Path(folder) / path.name
        served(model, recipe).export(str(exported), format="onnx", input_signature=[images], verbose=False)
        write_onnx(onnx.load_model(exported), path)
