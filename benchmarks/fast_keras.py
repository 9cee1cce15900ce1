"""Keras by `fit` over tf.data, and its fast path: jit_compile (XLA) and many steps for each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from training import keras_trainer  # isort: skip  # first: it sets Keras's backend
import tensorflow as tf

from digits.mnist import LabelledImages
from training.recipes import Recipe

tf.config.threading.set_intra_op_parallelism_threads(1)  # of a whole process, and before its first operation

FAST: Final[dict[str, Any]] = {"jit_compile": True, "steps_per_execution": 75}


def fitted(recipe: Recipe, data: LabelledImages, **fast: Any) -> tuple[Any, Callable[[], object]]:
    """The model, a keras.Model, and what trains it for an epoch; `fast` goes to `compile`."""
    model = keras_trainer.build(recipe)
    keras_trainer.compile_model(model, recipe, steps=0)
    if fast:
        model.compile(optimizer=model.optimizer, loss=model.loss, **fast)
    pixels = tf.Variable(keras_trainer.scaled(recipe, data.images), trainable=False)
    batches = keras_trainer.shuffled_batches(recipe, pixels, data.labels)
    return model, lambda: model.fit(batches, shuffle=False, verbose=0)
