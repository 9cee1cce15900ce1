"""Optimizers: each moves a flat vector of parameters, in place, by the gradients it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from scratch.buffers import Array

# The update passes over its arrays about ten times. In blocks of this many numbers, all of them stay in the core's cache.
BLOCK = 8192


class Optimizer(Protocol):
    learning_rate: float

    def step(self, gradients: Array) -> None:
        """Moves the parameters once. `gradients` may be overwritten."""


class SGD:
    """parameters -= learning_rate * velocity, velocity = momentum * velocity + gradients (Sutskever et al. 2013)."""

    def __init__(self, parameters: Array, *, learning_rate: float, momentum: float = 0.0) -> None:
        self._parameters = parameters
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._velocity = np.zeros_like(parameters)

    def step(self, gradients: Array) -> None:
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
        self._variance = np.zeros_like(parameters)

    def step(self, gradients: Array) -> None:
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
        self._mean = np.zeros_like(parameters)  # / (1 - beta_1)
        self._variance = np.zeros_like(parameters)  # / (1 - beta_2)
        self._steps = 0

    def step(self, gradients: Array) -> None:
        self._steps += 1
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
