"""NumPy: the weights of each dense layer, and what happens between them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from digits.contract import PIXELS, Images, Probabilities
from digits.errors import DeviceError
from runtimes.device import Device
from scratch.layers import relu, sigmoid, softmax

ACTIVATIONS: Final = {"relu": relu, "sigmoid": sigmoid}


class NumpyRuntime:
    """Opens an .npz with `pixel_step`, `pixel_low`, `activation`, and `weight_i` `[in, out]`, `bias_i` `[out]` of layer i."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._pixel_step = np.float32(arrays["pixel_step"])
            self._pixel_low = np.float32(arrays["pixel_low"])
            self._activation = ACTIVATIONS[str(arrays["activation"])]
            layers = sum(name.startswith("weight_") for name in arrays)
            self._layers = [(arrays[f"weight_{i}"], arrays[f"bias_{i}"]) for i in range(layers)]

    def predict(self, images: Images) -> Probabilities:
        outputs = images.reshape(-1, PIXELS) * self._pixel_step  # [N, 784] float32
        outputs += self._pixel_low
        for weight, bias in self._layers[:-1]:
            outputs = outputs @ weight  # [N, units]
            outputs += bias
            self._activation(outputs, out=outputs)
        weight, bias = self._layers[-1]
        outputs = outputs @ weight  # [N, 10]
        outputs += bias
        return softmax(outputs)


def open_model(path: Path, *, device: Device) -> NumpyRuntime:
    if device.kind != "cpu":
        raise DeviceError(f"The numpy backend runs on the CPU; it cannot use {device}.")
    return NumpyRuntime(path)
