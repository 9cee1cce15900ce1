"""A network on several threads, each with a share of the batch.

NumPy lets other threads run while it computes. Each has a network of its own, with the same parameters; what its share gives
to the gradients is added up at the end, and to the statistics of batch normalisation on the way, where the threads meet. So
the mathematics is that of the whole batch, and the result differs by rounding alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from scratch.buffers import Array
from scratch.layers import BatchNorm, Dropout
from scratch.network import Network

Result = TypeVar("Result")


class Replicas:
    """Networks of the same layers, one for each thread; the first one's parameters and statistics become those of all.

    Attributes:
        layers: of the first; what is set there as `training` holds for all.
        parameters: as in `Network`.
        gradients: as in `Network`.

    Raises:
        ValueError: one has more layers than another.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = list(networks)
        first = self._networks[0]
        self.layers = first.layers
        self.parameters = first.parameters
        self.gradients = first.gradients
        self._barrier = threading.Barrier(len(self._networks))
        self._threads = ThreadPoolExecutor(len(self._networks) - 1)
        for network in self._networks[1:]:
            network.share(self.parameters)
        self._switched: list[list[BatchNorm | Dropout]] = []  # of each such layer, every network's
        for alike in zip(*(network.layers for network in self._networks), strict=True):
            if switched := [layer for layer in alike if isinstance(layer, BatchNorm | Dropout)]:
                self._switched.append(switched)
            norms = [layer for layer in alike if isinstance(layer, BatchNorm)]
            brought: list[Array] = [np.empty(0)] * len(norms)
            for place, norm in enumerate(norms):
                norm.total = self._meeting(brought, place)
                norm.mean[:], norm.variance[:] = norms[0].mean, norms[0].variance

    def forward(self, inputs: Array) -> Array:
        """Logits `[N, C]` of inputs `[N, F]`, of at least as many rows as there are threads."""
        for first, *others in self._switched:
            for layer in others:
                layer.training = first.training
        return np.concatenate(self._run([network.forward for network in self._networks], inputs))

    def backward(self, gradient: Array) -> None:
        """Sets `gradients` from the loss's gradient by the logits, `[N, C]`; comes after `forward`."""
        self._run([network.backward for network in self._networks], gradient)
        for network in self._networks[1:]:
            self.gradients += network.gradients

    def _run(self, functions: list[Callable[[Array], Result]], batch: Array) -> list[Result]:
        shares = np.array_split(batch, len(functions))
        others = [
            self._threads.submit(self._or_abort, function, share)
            for function, share in zip(functions[1:], shares[1:], strict=True)
        ]
        return [self._or_abort(functions[0], shares[0]), *(other.result() for other in others)]

    def _or_abort(self, function: Callable[[Array], Result], share: Array) -> Result:
        try:
            return function(share)
        except BaseException:
            self._barrier.abort()  # or the others wait for ever
            raise

    def _meeting(self, brought: list[Array], place: int) -> Callable[[Array], Array]:
        def total(sums: Array) -> Array:
            """The sum of what all threads bring, in the same order for each."""
            brought[place] = sums
            self._barrier.wait()
            whole: Array = np.add.reduce(brought)
            self._barrier.wait()  # until all have it
            return whole

        return total
