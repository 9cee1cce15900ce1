"""Layers: `forward` keeps what `backward` needs, `backward` takes the loss's gradient by the outputs.

A layer's parameters and their gradients are views of the network's two flat vectors (`Network` binds them), so that an
optimizer is a few operations on one array. Those that take images are in `scratch.images`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from scratch.buffers import Array, Buffer
from scratch.products import product


class Layer(Protocol):
    """A function of a batch, and its gradient.

    Who may overwrite what: an array that is passed on belongs to who takes it. A layer may overwrite, keep or hand on the
    `inputs` and the `gradient` that it is given; what it returned it neither reads nor writes again, except that its next
    `forward` and `backward` may use the same memory. So what `backward` needs is kept apart from the outputs, unless
    nobody but the layer has seen it. The network's own inputs are the caller's: `Network` copies them for a first layer
    that `overwrites` its inputs.

    Attributes:
        size: the number of parameters.
        overwrites: whether its `forward` or `backward` writes where its inputs are, or hands that memory on.
    """

    size: int
    overwrites: bool

    def bind(self, parameters: Array, gradients: Array) -> None:
        """Makes the layer's parameters views of `parameters`, `[size]`, and their gradients of `gradients`."""

    def forward(self, inputs: Array) -> Array: ...

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        """Sets the gradients of the parameters, and returns that of the inputs; comes once after a `forward` in training.

        Args:
            gradient: of the loss by this layer's outputs.
            inputs_too: False spares the gradient of the inputs, which the first layer has no use for.
        """


class Dense:
    """outputs = inputs @ weight + bias, with weight `[fan_in, fan_out]` and bias `[fan_out]`."""

    overwrites = False

    def __init__(self, fan_in: int, fan_out: int) -> None:
        self.fan_in = fan_in
        self.fan_out = fan_out
        self.size = (fan_in + 1) * fan_out
        self._outputs = Buffer()
        self._inputs_gradient = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        split = self.fan_in * self.fan_out
        self.weight = parameters[:split].reshape(self.fan_in, self.fan_out)
        self.bias = parameters[split:]
        self.weight_gradient = gradients[:split].reshape(self.fan_in, self.fan_out)
        self.bias_gradient = gradients[split:]

    def forward(self, inputs: Array) -> Array:
        self._inputs = inputs  # [N, fan_in]
        outputs = self._outputs.shaped((len(inputs), self.fan_out), inputs.dtype)
        product(inputs, self.weight, outputs)
        outputs += self.bias
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        product(self._inputs.T, gradient, self.weight_gradient)  # [fan_in, fan_out]
        np.add.reduce(gradient, axis=0, out=self.bias_gradient)
        if not inputs_too:
            return gradient
        inputs_gradient = self._inputs_gradient.shaped((len(gradient), self.fan_in), gradient.dtype)
        return product(gradient, self.weight.T, inputs_gradient)


class Sigmoid:
    """outputs = 1 / (1 + exp(-inputs)), computed as (1 + tanh(inputs / 2)) / 2, which cannot overflow."""

    size = 0
    overwrites = True

    def __init__(self) -> None:
        self._slope = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        outputs = sigmoid(inputs, out=inputs)
        self.slope = np.subtract(1, outputs, out=self._slope.shaped(outputs.shape, outputs.dtype))
        self.slope *= outputs
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        gradient *= self.slope
        return gradient


class Relu:
    """outputs = max(inputs, 0); the gradient at 0 is 0."""

    size = 0
    overwrites = True

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        self._positive = inputs > 0
        inputs *= self._positive  # half the time of np.maximum with a number
        return inputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        gradient *= self._positive
        return gradient


class Dropout:
    """While training, sets a share `rate` of the inputs to 0 and divides the others by 1 - rate (Srivastava et al. 2014).

    Attributes:
        training: off, it passes its inputs on.
        mask: what the inputs are multiplied with, drawn anew at each `forward`; `draw_mask` may be replaced.
    """

    size = 0
    overwrites = True

    def __init__(self, rate: float, generator: np.random.Generator) -> None:
        self.rate = rate
        self.training = False
        self._generator = generator

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def draw_mask(self, inputs: Array) -> Array:
        """Of the inputs' shape: 0 where an input is dropped, else 1 / (1 - rate)."""
        keep = self._generator.random(inputs.shape, np.float32) >= self.rate
        return keep.astype(inputs.dtype) / (1 - self.rate)

    def forward(self, inputs: Array) -> Array:
        if self.training:
            self.mask = self.draw_mask(inputs)
            inputs *= self.mask
        return inputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        gradient *= self.mask
        return gradient


class BatchNorm:
    """outputs = scale * (inputs - mean) / sqrt(variance + epsilon) + shift, by feature (Ioffe and Szegedy 2015).

    While training, mean and variance are the batch's, the variance biased (algorithm 1); else the running ones, which each
    batch moves: running = momentum * running + (1 - momentum) * batch, with the batch's unbiased variance (algorithm 2).
    Takes `[N, F]`, and images `[H, C, W, N]`, whose features are their channels: both have them on axis 1.

    Attributes:
        training: off, it takes the running mean and variance.
        mean: running, `[F]`; starts at 0.
        variance: running, `[F]`; starts at 1.
        scale: `[F]`; `bind` sets it to 1.
        shift: `[F]`.
    """

    overwrites = True

    def __init__(self, features: int, momentum: float, epsilon: float) -> None:
        self.size = 2 * features
        self.features = features
        self.momentum = momentum
        self.epsilon = epsilon
        self.training = False
        self._outputs = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        self.scale, self.shift = parameters.reshape(2, self.features)
        self.scale_gradient, self.shift_gradient = gradients.reshape(2, self.features)
        self.scale[:] = 1
        self.mean = np.zeros_like(self.scale)
        self.variance = np.ones_like(self.scale)

    def forward(self, inputs: Array) -> Array:
        self._column = (-1, *(1,) * (inputs.ndim - 2))  # the shape in which [F] stands beside the inputs
        if not self.training:
            factor = self.scale / np.sqrt(self.variance + self.epsilon)
            inputs *= factor.reshape(self._column)
            inputs += (self.shift - self.mean * factor).reshape(self._column)
            return inputs
        self._number = inputs.size // self.features
        mean = _feature_sums(inputs) / self._number
        inputs -= mean.reshape(self._column)
        self._centred = inputs
        variance = _feature_products(inputs, inputs) / self._number
        self._move(self.mean, mean)
        self._move(self.variance, variance * (self._number / (self._number - 1)))
        self._inverse = 1 / np.sqrt(variance + self.epsilon)
        outputs = self._outputs.shaped(inputs.shape, inputs.dtype)
        np.multiply(inputs, (self._inverse * self.scale).reshape(self._column), out=outputs)
        outputs += self.shift.reshape(self._column)
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        self.shift_gradient[:] = _feature_sums(gradient)
        self.scale_gradient[:] = _feature_products(gradient, self._centred) * self._inverse
        if not inputs_too:
            return gradient
        self._centred *= (self._inverse * self.scale_gradient / self._number).reshape(self._column)
        gradient -= self._centred
        gradient -= (self.shift_gradient / self._number).reshape(self._column)
        gradient *= (self._inverse * self.scale).reshape(self._column)
        return gradient

    def _move(self, running: Array, batch: Array) -> None:
        running *= self.momentum
        running += (1 - self.momentum) * batch


def _feature_sums(values: Array) -> Array:
    """`[F]` of `[N, F]` or `[H, F, W, N]`."""
    if values.ndim == 4:
        values = np.add.reduce(values.reshape(*values.shape[:2], -1), axis=2)  # [H, F]
    sums: Array = np.add.reduce(values, axis=0)
    return sums


def _feature_products(left: Array, right: Array) -> Array:
    """The sums of left * right, `[F]`."""
    if left.ndim == 2:
        products: Array = np.einsum("nf,nf->f", left, right)
        return products
    rows = *left.shape[:2], -1
    return _feature_sums(np.vecdot(left.reshape(rows), right.reshape(rows)))


def sigmoid(inputs: Array, *, out: Array | None = None) -> Array:
    outputs = np.multiply(inputs, 0.5, out=out)
    np.tanh(outputs, out=outputs)
    outputs += 1
    outputs *= 0.5
    return outputs


def relu(inputs: Array, *, out: Array | None = None) -> Array:
    return np.maximum(inputs, 0, out=out)


def softmax(logits: Array) -> Array:
    """Probabilities of each row, `[N, C]`; the row's largest logit is subtracted first, so that exp cannot overflow."""
    probabilities: Array = logits - logits.max(axis=1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities
