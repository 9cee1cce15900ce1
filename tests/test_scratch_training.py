"""What the NumPy trainer does in an epoch: what it reports is what was, and afterwards nothing trains any more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scratch.layers import BatchNorm, Dense, Dropout, Relu
from scratch.network import Network
from training import numpy_trainer
from training.recipes import Recipe, find_recipe


def still(*, batch_size: int = 32) -> Recipe:
    """That moves nothing."""
    return dataclasses.replace(find_recipe("numpy-relu"), learning_rate=0.0, l2=0.0, batch_size=batch_size)


def make_network(*, dropout: float) -> Network:
    network = Network(
        [Dense(784, 8), BatchNorm(8, 0.9, 1e-5), Relu(), Dropout(dropout, np.random.default_rng(1)), Dense(8, 10)]
    )
    network.parameters[:] = np.random.default_rng(2).normal(0, 0.3, len(network.parameters))
    return network


def images(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    return generator.random((number, 784), np.float32), generator.integers(0, 10, number).astype(np.uint8)


@pytest.mark.parametrize(("number", "batch_size"), [(64, 32), (70, 32), (7, 32)])
def test_an_epoch_reports_the_mean_loss_and_the_right_answers_of_all_images(number: int, batch_size: int) -> None:
    recipe = still(batch_size=batch_size)
    network = Network([Dense(784, 8), Relu(), Dense(8, 10)])
    network.parameters[:] = np.random.default_rng(2).normal(0, 0.1, len(network.parameters))
    pixels, labels = images(number)
    before = network.parameters.copy()
    logits = network.forward(pixels).astype(np.float64)
    labels[: number // 2] = logits[: number // 2].argmax(axis=1)  # many are right
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(number), labels]

    optimizer = numpy_trainer.make_optimizer(network, recipe, steps=0)
    loss, correct = numpy_trainer.train_epoch(network, optimizer, recipe, pixels, labels, np.random.default_rng(4))
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    assert correct == (logits.argmax(axis=1) == labels).sum()
    np.testing.assert_array_equal(network.parameters, before)


def test_an_epoch_shows_every_image_once_in_a_new_order() -> None:
    recipe = still(batch_size=8)
    pixels, labels = images(20)
    pixels[:, 0] = np.arange(20)
    seen: list[float] = []

    class Watched(Dense):
        def forward(self, inputs: np.ndarray) -> np.ndarray:
            seen.extend(inputs[:, 0].tolist())
            return super().forward(inputs)

    network = Network([Watched(784, 10)])
    optimizer = numpy_trainer.make_optimizer(network, recipe, steps=0)
    generator = np.random.default_rng(5)
    for _ in range(2):
        numpy_trainer.train_epoch(network, optimizer, recipe, pixels, labels, generator)
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert len({tuple(seen[:20]), tuple(seen[20:]), tuple(range(20))}) == 3


def test_dropout_and_batch_norm_train_in_an_epoch_and_no_longer_after_it() -> None:
    recipe = still()
    network = make_network(dropout=0.5)
    _, norm, _, dropout, _ = network.layers
    assert isinstance(norm, BatchNorm)
    assert isinstance(dropout, Dropout)
    pixels, labels = images(64)
    optimizer = numpy_trainer.make_optimizer(network, recipe, steps=0)
    numpy_trainer.train_epoch(network, optimizer, recipe, pixels, labels, np.random.default_rng(6))
    assert np.abs(norm.mean).max() > 0.01  # it saw the batches
    assert 0.3 < (dropout.mask == 0).mean() < 0.7

    assert not norm.training
    assert not dropout.training
    mean = norm.mean.copy()
    first = network.forward(pixels).copy()
    np.testing.assert_array_equal(network.forward(pixels), first)
    np.testing.assert_array_equal(norm.mean, mean)
