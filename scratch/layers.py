"""Layers: `forward` keeps what `backward` needs, `backward` takes the loss's gradient by the outputs.

A layer's parameters and their gradients are views of the network's two flat vectors (`Network` binds them), so that an
optimizer is a few operations on one array. Output buffers are allocated once and reused: what `forward` and `backward`
return is overwritten by the next call.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


class Layer(Protocol):
    size: int  # number of parameters

    def bind(self, parameters: Array, gradients: Array) -> None:
        """Makes the layer's parameters views of `parameters`, `[size]`, and their gradients of `gradients`."""

    def forward(self, inputs: Array) -> Array: ...

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        """Sets the gradients of the parameters, and returns that of the inputs.

        Args:
            gradient: of the loss by this layer's outputs; may be overwritten.
            inputs_too: False spares the gradient of the inputs, which the first layer has no use for.
        """


class Dense:
    """outputs = inputs @ weight + bias, with weight `[fan_in, fan_out]` and bias `[fan_out]`."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        self.fan_in = fan_in
        self.fan_out = fan_out
        self.size = (fan_in + 1) * fan_out
        self._outputs = _Buffer(fan_out)
        self._inputs_gradient = _Buffer(fan_in)

    def bind(self, parameters: Array, gradients: Array) -> None:
        split = self.fan_in * self.fan_out
        self.weight = parameters[:split].reshape(self.fan_in, self.fan_out)
        self.bias = parameters[split:]
        self.weight_gradient = gradients[:split].reshape(self.fan_in, self.fan_out)
        self.bias_gradient = gradients[split:]

    def forward(self, inputs: Array) -> Array:
        self._inputs = inputs  # [N, fan_in]
        outputs = self._outputs.like(inputs)  # [N, fan_out]
        np.matmul(inputs, self.weight, out=outputs)
        outputs += self.bias
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        np.matmul(self._inputs.T, gradient, out=self.weight_gradient)  # [fan_in, fan_out]
        np.sum(gradient, axis=0, out=self.bias_gradient)
        if not inputs_too:
            return gradient
        return np.matmul(gradient, self.weight.T, out=self._inputs_gradient.like(gradient))  # [N, fan_in]


class Sigmoid:
    """outputs = 1 / (1 + exp(-inputs)), computed as (1 + tanh(inputs / 2)) / 2, which cannot overflow."""

    size = 0

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        self._outputs = sigmoid(inputs, out=inputs)
        return self._outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        gradient *= self._outputs
        gradient *= 1 - self._outputs
        return gradient


class Relu:
    """outputs = max(inputs, 0); the gradient at 0 is 0."""

    size = 0

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        self._outputs = relu(inputs, out=inputs)
        return self._outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        gradient *= self._outputs > 0
        return gradient


class Dropout:
    """While training, sets a share `rate` of the inputs to 0 and divides the others by 1 - rate (Srivastava et al. 2014).

    Attributes:
        training: off, it passes its inputs on.
        mask: what the inputs are multiplied with, drawn anew at each `forward`; `draw_mask` may be replaced.
    """

    size = 0

    def __init__(self, rate: float, generator: np.random.Generator) -> None:
        self.rate = rate
        self.training = False
        self._generator = generator

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def draw_mask(self, inputs: Array) -> Array:
        """`[N, F]`: 0 where an input is dropped, else 1 / (1 - rate)."""
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


class _Buffer:
    """Rows of a given width, allocated for the largest batch seen so far."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: Array = np.empty((0, width), np.float32)

    def like(self, batch: Array) -> Array:
        """`[N, width]` for a batch of N rows, of the batch's dtype."""
        if len(self._rows) < len(batch) or self._rows.dtype != batch.dtype:
            self._rows = np.empty((len(batch), self._width), batch.dtype)
        return self._rows[: len(batch)]
