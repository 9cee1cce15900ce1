"""A given training in Keras: `compile` and `fit` as the trainer has them, with the draws handed in.

Keras's epsilon stands in another place than in the papers and in torch. It is translated here, step by step:
Adam divides by sqrt(variance) + epsilon before its correction of the bias, so it is handed epsilon * sqrt(1 - beta_2**t);
RMSprop divides by sqrt(variance + epsilon), so it is handed 2 * epsilon * sqrt(variance) + epsilon**2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from training import keras_trainer as trainer  # isort: skip  # first: it sets Keras's backend
import keras
import numpy as np
import tensorflow as tf

from digits.contract import PIXELS, Images, Labels
from digits.network import Dropout, with_inputs
from training.given.draws import Array, Training, epochs, masks, orders, starting_weights
from training.schedule import steps_of
from training.trainers import BLOCK


class Adam(keras.optimizers.Adam):  # type: ignore[misc]  # keras has no types
    beta_1: Any
    beta_2: Any
    epsilon: Any

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # Keras rounds a Python number to float32 before it widens it: 1 - 0.999**t would be off by a part in 100,000.
        if variable.dtype == "float64":
            self.beta_1, self.beta_2 = np.float64(self.beta_1), np.float64(self.beta_2)
        told = self.epsilon
        steps = keras.ops.cast(self.iterations + 1, variable.dtype)
        self.epsilon = told * keras.ops.sqrt(1 - keras.ops.power(keras.ops.cast(self.beta_2, variable.dtype), steps))
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = told


class RMSprop(keras.optimizers.RMSprop):  # type: ignore[misc]  # keras has no types
    epsilon: Any

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        told, before = self.epsilon, self._velocities[self._get_variable_index(variable)]
        variance = self.rho * before + (1 - self.rho) * keras.ops.square(gradient)
        self.epsilon = 2 * told * keras.ops.sqrt(variance) + told**2
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = told


class GivenDropout(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    def __init__(self, rate: float, masks: tf.Variable) -> None:
        super().__init__()
        self.rate = rate
        self._masks = masks  # of an epoch, [N, units]
        self._place = tf.Variable(0, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        end = self._place + tf.shape(inputs)[0]
        mask = tf.cast(self._masks[self._place : end], inputs.dtype)
        self._place.assign(end % self._masks.shape[0])
        return inputs * mask / (1 - self.rate)


def train(training: Training, images: Images, labels: Labels) -> Iterator[keras.Model]:
    """The model after each epoch, one and the same, trained on images `[N, 28, 28]` and labels `[N]`."""
    recipe = training.recipe
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)  # op determinism asks for one; nothing is drawn by it
    keras.config.set_floatx(training.precision)
    keras.config.set_dtype_policy(training.precision)
    kept = [
        tf.Variable(np.zeros((len(labels), *shape), bool), trainable=False)
        for layer, shape in with_inputs(recipe.network)
        if isinstance(layer, Dropout)
    ]
    waiting = iter(kept)
    with _replaced(keras.layers, Dropout=lambda rate, seed: GivenDropout(rate, next(waiting))):
        model = trainer.build(recipe)
    for own, given in zip(trainer.arrays(model), starting_weights(training), strict=True):
        for name, (variable, axes) in own.items():
            variable.assign(given[name].transpose(np.argsort(axes)))
    with _replaced(keras.optimizers, Adam=Adam, RMSprop=RMSprop):
        trainer.compile_model(model, recipe, steps=steps_of(recipe, len(labels)))
    every, answers = (
        tf.Variable(np.zeros((len(labels), PIXELS), training.precision), trainable=False),
        tf.constant(labels),
    )
    order = tf.Variable(np.zeros(len(labels), np.int64), trainable=False)
    batches = tf.data.Dataset.range(len(labels)).batch(recipe.batch_size)
    given_batches = batches.map(lambda places: _batch(places, order, every, answers))
    seen = zip(orders(training, len(labels)), epochs(training, images), strict=True)
    for epoch, (of_epoch, pixels) in enumerate(seen):
        order.assign(of_epoch)
        every.assign(pixels)
        for held, mask in zip(kept, masks(training, epoch, len(labels)), strict=True):
            held.assign(mask)
        model.fit(given_batches, shuffle=False, verbose=0)
        yield model


def _batch(
    places: tf.Tensor, order: tf.Variable, pixels: tf.Variable, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    batch = tf.gather(order, places)
    return tf.gather(pixels, batch), tf.gather(labels, batch)


@contextlib.contextmanager
def _replaced(module: Any, **by: Any) -> Iterator[None]:
    """Where the trainer says `module.NAME`, it gets what is handed in."""
    told = {name: getattr(module, name) for name in by}
    for name, other in by.items():
        setattr(module, name, other)
    try:
        yield
    finally:
        for name, own in told.items():
            setattr(module, name, own)


def digits_of(model: keras.Model, pixels: Array) -> Array:
    """The most probable digit of each image, uint8 `[N]`, of pixels `[N, 784]`."""
    blocks = (pixels[start : start + BLOCK] for start in range(0, len(pixels), BLOCK))
    return np.concatenate([model(block).numpy().argmax(axis=1) for block in blocks]).astype(np.uint8)
