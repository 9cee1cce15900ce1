"""A network: layers in a row, over one flat vector of parameters and one of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scratch.buffers import Array, aligned
from scratch.layers import Layer


class Network:
    """Layers applied in order.

    Attributes:
        layers: in the order of `forward`.
        parameters: every parameter of every layer, flat; the layers hold views of it.
        gradients: the same for the gradients, set by `backward`.
    """

    def __init__(self, layers: Sequence[Layer], *, dtype: npt.DTypeLike = np.float32) -> None:
        self.layers = list(layers)
        self.parameters: Array = aligned(sum(layer.size for layer in layers), dtype)
        self.gradients: Array = aligned(len(self.parameters), dtype)
        start = 0
        for layer in layers:
            end = start + layer.size
            layer.bind(self.parameters[start:end], self.gradients[start:end])
            start = end

    def forward(self, inputs: Array) -> Array:
        """Logits `[N, C]` of inputs `[N, F]`; overwritten by the next call."""
        outputs = inputs.copy() if self.layers[0].overwrites else inputs
        for layer in self.layers:
            outputs = layer.forward(outputs)
        return outputs

    def backward(self, gradient: Array) -> None:
        """Sets `gradients` from the loss's gradient by the logits, `[N, C]`; comes after `forward`."""
        first = self.layers[0]
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient, inputs_too=layer is not first)
