"""NumPy: the layers of `scratch`, with what a stored file holds in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from digits import network
from digits.contract import PIXELS, Images, Probabilities
from digits.errors import DeviceError
from digits.network import INPUT, dense_network, with_inputs
from runtimes.device import Device
from scratch.images import Conv, Flatten, MaxPool, ToImages
from scratch.layers import BatchNorm, Dense, Layer, Relu, Sigmoid, softmax
from scratch.network import Network

Arrays = dict[str, npt.NDArray[np.float32]]

BLOCK: Final = 64  # images that convolutions take at once: what they make of more would not stay in the core's cache


class NumpyRuntime:
    """Opens what `read` reads."""

    def __init__(self, path: Path) -> None:
        layers, held = read(path)
        with np.load(path, allow_pickle=False) as arrays:
            self._pixel_step = np.float32(arrays["pixel_step"])
            self._pixel_low = np.float32(arrays["pixel_low"])
        self._network = _with_arrays(layers, held)
        self._block = None if isinstance(layers[0], network.Dense) else BLOCK

    def predict(self, images: Images) -> Probabilities:
        if self._block is None or len(images) <= self._block:
            return self._predict(images)
        starts = range(0, len(images), self._block)
        return np.concatenate([self._predict(images[start : start + self._block]) for start in starts])

    def _predict(self, images: Images) -> Probabilities:
        pixels = images.reshape(-1, PIXELS) * self._pixel_step  # [N, 784] float32
        pixels += self._pixel_low
        return softmax(self._network.forward(pixels))


def read(path: Path) -> tuple[network.Network, list[Arrays]]:
    """The network in an .npz, and of each layer that holds any, in order, its arrays, as `digits.network.arrays` has them.

    In the file `network` is the layers as JSON, and `weight_0`, `bias_0` what the first of them holds. A file from when
    there were only dense layers has `activation` in its place: what stands after each but the last.
    """
    with np.load(path, allow_pickle=False) as arrays:
        named = [name.rpartition("_") for name in arrays if name.rpartition("_")[2].isdigit()]
        held: list[Arrays] = [{} for _ in range(len({index for _, _, index in named}))]
        for name, _, index in named:
            held[int(index)][name] = arrays[f"{name}_{index}"]
        if "network" in arrays:
            return network.from_data(json.loads(str(arrays["network"]))), held
        hidden = [len(layer["bias"]) for layer in held[:-1]]
        return dense_network(hidden, str(arrays["activation"])), held


def open_model(path: Path, *, device: Device) -> NumpyRuntime:
    if device.kind != "cpu":
        raise DeviceError(f"The numpy backend runs on the CPU; it cannot use {device}.")
    threadpool_limits(1, user_api="blas")  # at this size a second thread costs more than it gives
    return NumpyRuntime(path)


def _with_arrays(layers: network.Network, held: list[Arrays]) -> Network:
    built: list[Layer] = []
    if not isinstance(layers[0], network.Dense):
        built.append(ToImages(*INPUT))
    for layer, shape in with_inputs(layers):
        match layer:
            case network.Dense(units=units):
                if built and len(shape) == 3:
                    built.append(Flatten())
                built.append(Dense(math.prod(shape), units))
            case network.Conv(filters=filters, kernel=kernel, padding=padding, bias=bias):
                channels, height, width = shape
                built.append(Conv(channels, filters, kernel, height=height, width=width, padding=padding, bias=bias))
            case network.MaxPool(size=size):
                built.append(MaxPool(size))
            case network.BatchNorm(momentum=momentum, epsilon=epsilon):
                built.append(BatchNorm(shape[0], momentum=momentum, epsilon=epsilon))
            case network.Relu():
                built.append(Relu())
            case network.Sigmoid():
                built.append(Sigmoid())
            case network.Dropout():
                pass  # which passes its inputs on
    remaining = iter(held)
    found = Network(built)
    for one in built:
        if isinstance(one, Dense | Conv | BatchNorm):
            for name, array in next(remaining).items():
                getattr(one, name)[:] = array
    return found
