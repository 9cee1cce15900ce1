"""NumPy: what each layer holds, and what it does to a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits import network
from digits.contract import PIXELS, Images, Probabilities
from digits.errors import DeviceError
from digits.network import INPUT, Network, dense_network
from runtimes.device import Device
from scratch.layers import relu, sigmoid, softmax

Array = npt.NDArray[np.float32]
Step = Callable[[Array], Array]  # may overwrite what it is given

BLOCK: Final = 64  # images that a convolution takes at once: what it makes of more would not stay in the core's cache


class NumpyRuntime:
    """Opens what `read` reads."""

    def __init__(self, path: Path) -> None:
        layers, held = read(path)
        with np.load(path, allow_pickle=False) as arrays:
            self._pixel_step = np.float32(arrays["pixel_step"])
            self._pixel_low = np.float32(arrays["pixel_low"])
        self._images = not isinstance(layers[0], network.Dense)
        self._steps = _steps(layers, held)

    def predict(self, images: Images) -> Probabilities:
        if not self._images or len(images) <= BLOCK:
            return self._predict(images)
        return np.concatenate([self._predict(images[i : i + BLOCK]) for i in range(0, len(images), BLOCK)])

    def _predict(self, images: Images) -> Probabilities:
        outputs = images.reshape(-1, PIXELS) * self._pixel_step  # [N, 784] float32
        outputs += self._pixel_low
        if self._images:
            outputs = np.ascontiguousarray(outputs.T).reshape(*INPUT, -1)  # [1, 28, 28, N]
        for step in self._steps:
            outputs = step(outputs)
        return softmax(outputs)


def read(path: Path) -> tuple[Network, list[dict[str, Array]]]:
    """The network in an .npz, and of each layer that holds any, in order, its arrays, as `digits.network.arrays` has them.

    In the file `network` is the layers as JSON, and `weight_0`, `bias_0` what the first of them holds. A file from when
    there were only dense layers has `activation` in its place: what stands after each but the last.
    """
    with np.load(path, allow_pickle=False) as arrays:
        named = [name.rpartition("_") for name in arrays if name.rpartition("_")[2].isdigit()]
        held: list[dict[str, Array]] = [{} for _ in range(len({index for _, _, index in named}))]
        for name, _, index in named:
            held[int(index)][name] = arrays[f"{name}_{index}"]
        if "network" in arrays:
            return network.from_data(json.loads(str(arrays["network"]))), held
        hidden = [len(layer["bias"]) for layer in held[:-1]]
        return dense_network(hidden, str(arrays["activation"])), held


def open_model(path: Path, *, device: Device) -> NumpyRuntime:
    if device.kind != "cpu":
        raise DeviceError(f"The numpy backend runs on the CPU; it cannot use {device}.")
    return NumpyRuntime(path)


def _steps(layers: Network, held: list[dict[str, Array]]) -> list[Step]:
    """What each layer does, on features `[N, F]` or on images `[C, H, W, N]`."""
    steps: list[Step] = []
    remaining = iter(held)
    for layer in layers:
        match layer:
            case network.Dense():
                steps.append(_dense(**next(remaining)))
            case network.Conv(padding=padding):
                steps.append(_conv(**next(remaining), padding=padding))
            case network.MaxPool(size=size):
                steps.append(_max_pool(size))
            case network.BatchNorm(epsilon=epsilon):
                steps.append(_batch_norm(**next(remaining), epsilon=epsilon))
            case network.Relu():
                steps.append(lambda inputs: relu(inputs, out=inputs))
            case network.Sigmoid():
                steps.append(lambda inputs: sigmoid(inputs, out=inputs))
            case network.Dropout():
                pass
    return steps


def _dense(*, weight: Array, bias: Array) -> Step:
    def step(inputs: Array) -> Array:
        if inputs.ndim == 4:
            inputs = inputs.reshape(-1, inputs.shape[-1]).T  # [N, C*H*W]
        outputs = inputs @ weight  # [N, units]
        outputs += bias
        return outputs

    return step


def _conv(*, weight: Array, bias: Array | None = None, padding: int) -> Step:
    filters, _, kernel, _ = weight.shape
    rows = weight.reshape(filters, -1)  # [filters, channels*kernel*kernel]

    def step(inputs: Array) -> Array:
        if padding:
            inputs = np.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        _, height, width, images = inputs.shape
        height, width = height - kernel + 1, width - kernel + 1
        windows = np.lib.stride_tricks.sliding_window_view(inputs, (kernel, kernel), (1, 2))  # [C, H, W, N, k, k]
        columns = windows.transpose(0, 4, 5, 1, 2, 3).reshape(rows.shape[1], -1)  # [C*k*k, H*W*N]
        outputs = rows @ columns  # [filters, H*W*N]
        if bias is not None:
            outputs += bias[:, None]
        return outputs.reshape(filters, height, width, images)

    return step


def _max_pool(size: int) -> Step:
    def step(inputs: Array) -> Array:
        channels, height, width, images = inputs.shape
        height, width = height // size, width // size
        whole = inputs[:, : height * size, : width * size]
        squares: Any = whole.reshape(channels, height, size, width, size, images)
        pooled: Array = squares.max(axis=(2, 4))
        return pooled

    return step


def _batch_norm(*, scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float) -> Step:
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    offset = shift - mean * factor

    def step(inputs: Array) -> Array:
        axes = (-1,) + (1,) * 3 if inputs.ndim == 4 else (-1,)
        inputs *= factor.reshape(axes)
        inputs += offset.reshape(axes)
        return inputs

    return step
