"""A given training in Keras: `compile` and `fit` as the trainer has them, with the draws handed in.

Keras's epsilon stands in another place than in the papers and in torch. It is translated here, step by step:
Adam divides by sqrt(variance) + epsilon before its correction of the bias, so it is handed epsilon * sqrt(1 - beta_2**t);
RMSprop divides by sqrt(variance + epsilon), so it is handed 2 * epsilon * sqrt(variance) + epsilon**2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training import keras_trainer as trainer  # isort: skip  # first: it sets Keras's backend
import keras
import numpy as np
import tensorflow as tf

from digits.contract import Labels
from digits.network import Dropout, with_inputs
from training.given.draws import Array, Training, masks, orders, starting_weights
from training.recipes import Recipe
from training.schedule import steps_of


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


def train(training: Training, pixels: Array, labels: Labels) -> Iterator[keras.Model]:
    """The model after each epoch, one and the same, trained on pixels `[N, 784]` and labels `[N]`."""
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
    model = _build(recipe, kept)
    for own, given in zip(trainer.arrays(model), starting_weights(training), strict=True):
        for name, (variable, axes) in own.items():
            variable.assign(given[name].transpose(np.argsort(axes)))
    trainer.compile_model(model, recipe, steps=steps_of(recipe, len(labels)))
    model.optimizer = _translated(model.optimizer)
    every, answers = tf.constant(pixels), tf.constant(labels)
    order = tf.Variable(np.zeros(len(labels), np.int64), trainable=False)
    batches = tf.data.Dataset.range(len(labels)).batch(recipe.batch_size)
    given_batches = batches.map(lambda places: _batch(places, order, every, answers))
    for epoch, of_epoch in enumerate(orders(training, len(labels))):
        order.assign(of_epoch)
        for held, mask in zip(kept, masks(training, epoch, len(labels)), strict=True):
            held.assign(mask)
        model.fit(given_batches, shuffle=False, verbose=0)
        yield model


def _batch(places: tf.Tensor, order: tf.Variable, pixels: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    batch = tf.gather(order, places)
    return tf.gather(pixels, batch), tf.gather(labels, batch)


def _build(recipe: Recipe, kept: list[tf.Variable]) -> keras.Model:
    waiting, dropout = iter(kept), keras.layers.Dropout
    keras.layers.Dropout = lambda rate, seed: GivenDropout(rate, next(waiting))
    try:
        return trainer.build(recipe)
    finally:
        keras.layers.Dropout = dropout


def _translated(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    kind = RMSprop if isinstance(optimizer, keras.optimizers.RMSprop) else Adam
    config = optimizer.get_config()
    return kind(**{name: value for name, value in config.items() if name != "name"})


def digits_of(model: keras.Model, pixels: Array) -> Array:
    """The most probable digit of each image, uint8 `[N]`, of pixels `[N, 784]`."""
    digits: Array = model(pixels).numpy().argmax(axis=1).astype(np.uint8)
    return digits
