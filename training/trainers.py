"""What the three trainers have in common: the functions each module has, and what goes in and out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from digits.card import Epoch
from digits.contract import Backend, Framework, Images, Probabilities
from digits.errors import NotInstalled
from digits.mnist import LabelledImages
from runtimes.device import Device
from training.recipes import Recipe

# Of each layer that holds any, in order: its arrays, float32, by the names and with the shapes of `digits.network.arrays`.
Weights = list[dict[str, npt.NDArray[np.float32]]]
OnEpoch = Callable[[Epoch], None]
# Images answered at once: what a convolution makes of 10,000 takes half a gigabyte, and in torch twice the time.
BLOCK: Final = 500

# What each framework's exports open with, besides ONNX: its native format.
NATIVE: Final[dict[Framework, Backend]] = {"numpy": "numpy", "torch": "torch", "keras": "tensorflow"}
# What must be importable to train and export with each.
NEEDS: Final[dict[Framework, tuple[str, ...]]] = {
    "numpy": ("numpy", "onnx"),
    "torch": ("torch", "onnx", "onnxscript"),
    "keras": ("keras", "tensorflow", "onnx", "tf2onnx"),
}
EXTRAS: Final[dict[Framework, str]] = {"numpy": "train", "torch": "train,torch", "keras": "train,tensorflow"}


@dataclass(frozen=True)
class Split:
    """Images to train on, and images that are only looked at: never trained on, nothing is chosen by them."""

    train: LabelledImages
    held_out: LabelledImages
    held_out_is: str  # in words


class Trainer(Protocol):
    """A trainer module. `model` is the framework's own; it takes scaled pixels `[N, 784]` and gives logits `[N, 10]`."""

    def train(self, recipe: Recipe, split: Split, *, device: Device, threads: int = 1, on_epoch: OnEpoch) -> Any:
        """A model trained as the recipe says, the same bit for bit for the same recipe and threads on the same machine."""

    def export_native(self, model: Any, recipe: Recipe, path: Path) -> None:
        """Writes the whole contract, images to probabilities, in the framework's own format."""

    def export_onnx(self, model: Any, recipe: Recipe, path: Path) -> None:
        """Writes the same as ONNX."""

    def predict(self, model: Any, recipe: Recipe, images: Images) -> Probabilities:
        """What the model itself answers; exports are held against it."""

    def sees_gpu(self, index: int) -> bool:
        """Whether the framework can use the GPU of that index."""

    def get_weights(self, model: Any) -> Weights: ...

    def with_weights(self, recipe: Recipe, weights: Weights) -> Any:
        """A model of the recipe's shape that holds these weights."""


def is_installed(framework: Framework) -> bool:
    return all(find_spec(package) is not None for package in NEEDS[framework])


def require(framework: Framework) -> None:
    """Raises NotInstalled if a package that `framework` needs is missing; imports nothing."""
    missing = [package for package in NEEDS[framework] if find_spec(package) is None]
    if missing:
        raise NotInstalled(
            f"Training with {framework} needs {', '.join(missing)}: "
            f"pip install '.[{EXTRAS[framework]}]' in Samedigit's folder"
        )


def load_trainer(framework: Framework) -> Trainer:
    """The trainer module of `framework`.

    Raises:
        NotInstalled: a package it needs is missing.
    """
    require(framework)
    return cast(Trainer, import_module(f"training.{framework}_trainer"))
