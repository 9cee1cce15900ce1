"""The Keras trainer: compile and fit."""

from __future__ import annotations

import itertools
import math
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

from digits import network
from digits.card import Epoch
from digits.contract import PIXELS, SIDE, Images, Labels, Probabilities
from digits.network import INPUT, with_inputs
from runtimes.device import Device
from training.augmentation import augment
from training.onnx_file import write_onnx
from training.recipes import Recipe
from training.schedule import learning_rates, steps_of
from training.targets import TARGETS
from training.trainers import BLOCK, OnEpoch, Split, Weights


def build(recipe: Recipe) -> keras.Model:
    layers: list[keras.Layer] = []
    if not isinstance(recipe.network[0], network.Dense):
        layers.append(keras.layers.Reshape((*INPUT[1:], *INPUT[:1])))  # [N, 784] -> [N, 28, 28, 1]
    drawn = itertools.count()
    for i, (layer, shape) in enumerate(with_inputs(recipe.network)):
        match layer:
            case network.Dense(units=units):
                if layers and len(shape) == 3:
                    layers += [keras.layers.Permute((3, 1, 2)), keras.layers.Flatten()]  # channel, row, column
                layers.append(keras.layers.Dense(units, **initialise(recipe, next(drawn), math.prod(shape))))
            case network.Conv(filters=filters, kernel=kernel, padding=padding, bias=bias):
                if padding:
                    layers.append(keras.layers.ZeroPadding2D(padding))
                draws = initialise(recipe, next(drawn), shape[0] * kernel**2)
                layers.append(keras.layers.Conv2D(filters, kernel, use_bias=bias, **draws))
            case network.MaxPool(size=size):
                layers.append(keras.layers.MaxPooling2D(size))
            case network.BatchNorm(momentum=momentum, epsilon=epsilon):
                layers.append(BatchNorm(momentum=momentum, epsilon=epsilon))
            case network.Dropout(rate=rate):
                layers.append(keras.layers.Dropout(rate, seed=1000 * recipe.seed + 500 + i))
            case network.Relu():
                layers.append(keras.layers.ReLU())
            case network.Sigmoid():
                layers.append(keras.layers.Activation("sigmoid"))
    pixels = keras.Input((PIXELS,))
    if recipe.keras_api == "functional":
        outputs = pixels
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(pixels, outputs)
    return keras.Sequential([pixels, *layers])


def initialise(recipe: Recipe, layer: int, fan_in: int) -> dict[str, Any]:
    """Of the layer-th that has a weight, counted from 0."""

    def draw(kind: str, offset: int) -> keras.Initializer:
        seed = 1000 * recipe.seed + 2 * layer + offset  # an initializer with one seed draws the same for every layer
        if kind == "zeros":
            return keras.initializers.Zeros()
        if kind == "glorot_uniform":
            return keras.initializers.GlorotUniform(seed=seed)
        if kind == "he_uniform":
            return keras.initializers.HeUniform(seed=seed)
        return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5, seed=seed)

    last = layer == sum(isinstance(one, network.Dense | network.Conv) for one in recipe.network) - 1
    regularizer = keras.regularizers.L2(recipe.l2) if recipe.l2 and not last else None
    return {
        "kernel_initializer": draw(recipe.weight_draw, 0),
        "bias_initializer": draw(recipe.bias_draw, 1),
        "kernel_regularizer": regularizer,
    }


class BatchNorm(keras.layers.BatchNormalization):  # type: ignore[misc]  # keras has no types
    """Keras's running variance takes the batch's biased variance; the paper's, and the recipes', the unbiased one."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        kept = self.momentum * self.moving_variance
        outputs = super().call(inputs, training=training)
        if training:
            number = keras.ops.cast(keras.ops.size(inputs) / inputs.shape[-1], self.moving_variance.dtype)
            self.moving_variance.assign(kept + (self.moving_variance - kept) * number / (number - 1))
        return outputs


def make_optimizer(recipe: Recipe, *, steps: int) -> keras.optimizers.Optimizer:
    rate = recipe.learning_rate if recipe.schedule == "constant" else LearningRates(learning_rates(recipe, steps))
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(learning_rate=rate, rho=recipe.beta_2, epsilon=recipe.epsilon)
    return keras.optimizers.Adam(learning_rate=rate, beta_1=recipe.beta_1, beta_2=recipe.beta_2, epsilon=recipe.epsilon)


class LearningRates(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras has no types
    """One for each step: Keras has no one-cycle schedule of its own."""

    def __init__(self, rates: npt.NDArray[np.float64]) -> None:
        self._rates = tf.constant(rates, keras.config.floatx())  # [steps]

    def __call__(self, step: Any) -> Any:
        return tf.gather(self._rates, step)


def train(recipe: Recipe, split: Split, *, device: Device, threads: int = 1, on_epoch: OnEpoch) -> keras.Model:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    keras.utils.set_random_seed(recipe.seed)
    tf.config.experimental.enable_op_determinism()
    with keras.device(f"{'gpu' if device.kind == 'cuda' else 'cpu'}:{device.index}"):
        model = build(recipe)
        compile_model(model, recipe, steps=steps_of(recipe, len(split.train.labels)))
        pixels = tf.Variable(scaled(recipe, split.train.images), trainable=False)  # [60000, 784]
        model.fit(
            shuffled_batches(recipe, pixels, split.train.labels),
            shuffle=False,  # the batches are
            epochs=recipe.epochs,
            validation_data=(scaled(recipe, split.held_out.images), split.held_out.labels),
            validation_batch_size=1000,
            callbacks=[EachEpoch(recipe, split.train.images, pixels, on_epoch)],
            verbose=0,
        )
    return model


def compile_model(model: keras.Model, recipe: Recipe, *, steps: int) -> None:
    model.compile(
        optimizer=make_optimizer(recipe, steps=steps),
        loss=loss_of(recipe),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def loss_of(recipe: Recipe) -> Any:
    if recipe.strangers:
        return soft_cross_entropy
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def soft_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Of each image, `[B]`, where a label stands for a distribution."""
    targets = tf.gather(tf.constant(TARGETS, logits.dtype), tf.reshape(tf.cast(labels, tf.int32), [-1]))
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)


def shuffled_batches(recipe: Recipe, pixels: tf.Variable, labels: Labels) -> Any:
    """A tf.data.Dataset of (pixels [B, 784], labels [B]), in a new random order at each epoch.

    `fit(pixels, labels, shuffle=True)` would be shorter, but once a seed is set it repeats one and the same order at every
    epoch (keras 3.15 with TensorFlow), which costs this recipe about half a point of accuracy.
    """
    order = tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=recipe.seed, reshuffle_each_iteration=True)
    batches = order.batch(recipe.batch_size)
    answers = tf.constant(labels)
    return batches.map(lambda batch: (tf.gather(pixels, batch), tf.gather(answers, batch))).prefetch(1)


class EachEpoch(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Draws the epoch's images anew, times its training part, and passes on its numbers."""

    def __init__(self, recipe: Recipe, images: Images, pixels: tf.Variable, on_epoch: OnEpoch) -> None:
        super().__init__()
        self._recipe = recipe
        self._images = images
        self._pixels = pixels
        self._on_epoch = on_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()
        if self._recipe.augmentation:
            images = augment(self._recipe.augmentation, self._images, seed=self._recipe.seed, epoch=epoch)
            self._pixels.assign(scaled(self._recipe, images))

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
    blocks = (scaled(recipe, images[start : start + BLOCK]) for start in range(0, len(images), BLOCK))
    return np.concatenate([keras.ops.softmax(model(block)).numpy() for block in blocks])


def scaled(recipe: Recipe, images: Images) -> npt.NDArray[np.float32]:
    return images.reshape(-1, PIXELS) * np.float32(recipe.pixel_step) + np.float32(recipe.pixel_low)  # [N, 784]


def sees_gpu(index: int) -> bool:
    return index < len(tf.config.list_physical_devices("GPU"))


def arrays(model: keras.Model) -> list[dict[str, tuple[keras.Variable, tuple[int, ...]]]]:
    """What each layer holds, by the names of `digits.network.arrays`, and which axes in turn make it as there."""
    found: list[dict[str, Any]] = []
    for layer in model.layers:
        match layer:
            case keras.layers.Dense():
                found.append({"weight": (layer.kernel, (0, 1)), "bias": (layer.bias, (0,))})
            case keras.layers.Conv2D():  # Keras keeps [kernel, kernel, in, out]
                bias = {"bias": (layer.bias, (0,))} if layer.use_bias else {}
                found.append({"weight": (layer.kernel, (3, 2, 0, 1)), **bias})
            case BatchNorm():
                held = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
                found.append(
                    {name: (one, (0,)) for name, one in zip(("scale", "shift", "mean", "variance"), held, strict=True)}
                )
    return found


def get_weights(model: keras.Model) -> Weights:
    return [
        {name: np.ascontiguousarray(held.numpy().transpose(axes)) for name, (held, axes) in layer.items()}
        for layer in arrays(model)
    ]


def with_weights(recipe: Recipe, weights: Weights) -> keras.Model:
    model = build(recipe)
    for layer, given in zip(arrays(model), weights, strict=True):
        for name, (held, axes) in layer.items():
            held.assign(given[name].transpose(np.argsort(axes)))
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
