"""Optimizers: each moves a flat vector of parameters, in place, by the gradients it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import numpy as np

from scratch.buffers import Array, aligned

# The update passes over its arrays about ten times. Blocks of this many numbers hold the small networks whole, which is
# fastest (a call on an array costs as much as some thousand numbers), and of the large ones what stays in the cache.
BLOCK: Final = 131_072

# The mean of a gradient that stays 0, as a dead relu unit's does, decays into subnormal numbers (below 1.2e-38), with which
# an Intel core computes many times slower. Averages below NEGLIGIBLE are set to 0 every FLUSH_EVERY steps, in which a decay
# of 0.75 or more takes none from there to a subnormal one. No parameter sees it: with an epsilon of 1e-8 a step by such a
# mean is below 1e-22, and the root of such a variance is below the last digit of epsilon.
NEGLIGIBLE: Final = 1e-30
FLUSH_EVERY: Final = 64


class Optimizer(Protocol):
    learning_rate: float

    def step(self, gradients: Array) -> None:
        """Moves the parameters once. `gradients` may be overwritten."""


def flush(averages: Array) -> None:
    """Sets to 0 what is below NEGLIGIBLE."""
    averages *= np.abs(averages) >= NEGLIGIBLE


class SGD:
    """parameters -= learning_rate * velocity, velocity = momentum * velocity + gradients (Sutskever et al. 2013)."""

    def __init__(self, parameters: Array, *, learning_rate: float, momentum: float = 0.0) -> None:
        self._parameters = parameters
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._velocity = aligned(len(parameters), parameters.dtype)
        self._steps = 0

    def step(self, gradients: Array) -> None:
        self._steps += 1
        if self._steps % FLUSH_EVERY == 0:
            flush(self._velocity)
        self._velocity *= self._momentum
        self._velocity += gradients
        np.multiply(self._velocity, self.learning_rate, out=gradients)
        self._parameters -= gradients


class RMSprop:
    """Hinton 2012, lecture 6e.

    variance = decay * variance + (1 - decay) * gradients**2
    parameters -= learning_rate * gradients / (sqrt(variance) + epsilon)
    """

    def __init__(self, parameters: Array, *, learning_rate: float, decay: float, epsilon: float) -> None:
        self._parameters = parameters
        self.learning_rate = learning_rate
        self._decay = decay
        self._epsilon = epsilon
        self._variance = aligned(len(parameters), parameters.dtype)
        self._steps = 0

    def step(self, gradients: Array) -> None:
        self._steps += 1
        if self._steps % FLUSH_EVERY == 0:
            flush(self._variance)
        for start in range(0, len(gradients), BLOCK):
            block = slice(start, start + BLOCK)
            update, variance = gradients[block], self._variance[block]
            variance *= self._decay
            variance += (1 - self._decay) * np.square(update)
            update /= np.sqrt(variance) + self._epsilon
            update *= self.learning_rate
            self._parameters[block] -= update


class Adam:
    """Kingma and Ba 2015, algorithm 1.

        mean     = beta_1 * mean + (1 - beta_1) * gradients
        variance = beta_2 * variance + (1 - beta_2) * gradients**2
        parameters -= learning_rate * (mean / (1 - beta_1**t)) / (sqrt(variance / (1 - beta_2**t)) + epsilon)

    The factors (1 - beta) and (1 - beta**t) are scalars, so they are taken out of the arrays and into two numbers a step:
    kept are mean / (1 - beta_1) and variance / (1 - beta_2), which saves two passes.
    """

    def __init__(
        self, parameters: Array, *, learning_rate: float, beta_1: float, beta_2: float, epsilon: float
    ) -> None:
        self._parameters = parameters
        self.learning_rate = learning_rate
        self._beta_1 = beta_1
        self._beta_2 = beta_2
        self._epsilon = epsilon
        self._mean = aligned(len(parameters), parameters.dtype)  # / (1 - beta_1)
        self._variance = aligned(len(parameters), parameters.dtype)  # / (1 - beta_2)
        self._steps = 0

    def step(self, gradients: Array) -> None:
        self._steps += 1
        if self._steps % FLUSH_EVERY == 0:
            flush(self._mean)
            flush(self._variance)
        mean_scale = (1 - self._beta_1) / (1 - self._beta_1**self._steps)
        root_scale = ((1 - self._beta_2) / (1 - self._beta_2**self._steps)) ** 0.5
        rate = self.learning_rate * mean_scale / root_scale
        epsilon = self._epsilon / root_scale
        for start in range(0, len(gradients), BLOCK):
            block = slice(start, start + BLOCK)
            update, mean, variance = gradients[block], self._mean[block], self._variance[block]
            mean *= self._beta_1
            mean += update
            variance *= self._beta_2
            np.square(update, out=update)
            variance += update
            np.sqrt(variance, out=update)
            update += epsilon
            np.divide(mean, update, out=update)
            update *= rate
            self._parameters[block] -= update


class Scheduled:
    """An optimizer with a learning rate of its own for each step."""

    def __init__(self, optimizer: Optimizer, learning_rates: Iterable[float]) -> None:
        self.learning_rate = optimizer.learning_rate
        self._optimizer = optimizer
        self._rates = iter(learning_rates)

    def step(self, gradients: Array) -> None:
        self.learning_rate = self._optimizer.learning_rate = next(self._rates)
        self._optimizer.step(gradients)
