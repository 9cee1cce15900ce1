"""A given training in NumPy: the trainer's own steps, with the draws handed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from digits.contract import Images, Labels
from scratch.layers import Dropout
from scratch.network import Network
from scratch.optimizers import Optimizer
from training import numpy_trainer as trainer
from training.given.draws import Array, Training, epochs, masks, orders, starting_weights
from training.schedule import steps_of
from training.trainers import BLOCK


def train(training: Training, images: Images, labels: Labels) -> Iterator[Network]:
    """The model after each epoch, one and the same, trained on images `[N, 28, 28]` and labels `[N]`."""
    recipe = training.recipe
    model = Network(trainer.build(recipe, np.random.default_rng(1)).layers, dtype=training.precision)
    for own, given in zip(trainer.arrays(model), starting_weights(training), strict=True):
        for name, array in own.items():
            array[:] = given[name]
    optimizer = trainer.make_optimizer(model, recipe, steps=steps_of(recipe, len(labels)))
    drops = [layer for layer in model.layers if isinstance(layer, Dropout)]
    with threadpool_limits(1):
        seen = zip(orders(training, len(labels)), epochs(training, images), strict=True)
        for epoch, (order, pixels) in enumerate(seen):
            kept = masks(training, epoch, len(labels))
            trainer.set_training(model, True)
            for start in range(0, len(labels), recipe.batch_size):
                batch = slice(start, start + recipe.batch_size)
                for drop, mask in zip(drops, kept, strict=True):
                    _give(drop, mask[batch])
                step(model, optimizer, training, pixels[order[batch]], labels[order[batch]])
            trainer.set_training(model, False)
            yield model


def _give(drop: Any, mask: Array) -> None:
    drop.draw_mask = lambda inputs: mask.astype(inputs.dtype) / (1 - drop.rate)


def step(model: Network, optimizer: Optimizer, training: Training, pixels: Array, labels: Labels) -> None:
    """Moves the weights once; the trainer's own step, but where L2 means what an optimizer's `weight_decay` does."""
    if training.l2_means == "penalty":
        trainer.train_step(model, optimizer, training.recipe, pixels, labels)
        return
    decayed: Any = _Decayed(optimizer, model, training.recipe.l2)
    trainer.train_step(model, decayed, replace(training.recipe, l2=0.0), pixels, labels)


class _Decayed:
    """An optimizer that is shown, besides the gradient, `decay` times every parameter: biases and the last layer too."""

    def __init__(self, optimizer: Optimizer, model: Network, decay: float) -> None:
        self._optimizer = optimizer
        self._model = model
        self._decay = decay

    def step(self, gradients: Array) -> None:
        gradients += self._decay * self._model.parameters
        self._optimizer.step(gradients)


def digits_of(model: Network, pixels: Array) -> Array:
    """The most probable digit of each image, uint8 `[N]`, of pixels `[N, 784]`."""
    blocks = (pixels[start : start + BLOCK] for start in range(0, len(pixels), BLOCK))
    return np.concatenate([model.forward(block).argmax(axis=1) for block in blocks]).astype(np.uint8)
