"""The four backends: which are installed, and how to open a stored file with one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np

from digits.contract import CLASSES, Backend, Images, Probabilities
from digits.errors import NotInstalled
from runtimes.device import Device

PACKAGE: Final[dict[Backend, str]] = {
    "numpy": "numpy",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "onnx": "onnxruntime",
}
HAS_GPU: Final[frozenset[Backend]] = frozenset({"torch", "tensorflow", "onnx"})


class Runtime(Protocol):
    """An opened model."""

    def predict(self, images: Images) -> Probabilities:
        """Probabilities float32 `[N, 10]` of images uint8 `[N, 28, 28]`; safe to call from several threads."""


class RuntimeModule(Protocol):
    def open_model(self, path: Path, *, device: Device) -> Runtime:
        """Raises DeviceError where this backend cannot use `device`."""


def is_installed(backend: Backend) -> bool:
    return find_spec(PACKAGE[backend]) is not None


def how_to_install(backend: Backend) -> str:
    return f"pip install '.[{backend}]' in Samedigit's folder"


def open_runtime(backend: Backend, path: Path, *, device: Device) -> Runtime:
    """Opens what `backend` serves.

    Raises:
        NotInstalled: the backend's package is missing.
        DeviceError: the backend cannot use `device`.
    """
    if not is_installed(backend):
        raise NotInstalled(
            f"The {backend} backend needs {PACKAGE[backend]}, which is not installed: {how_to_install(backend)}"
        )
    module = cast(RuntimeModule, import_module(f"runtimes.{backend}_runtime"))
    return module.open_model(path, device=device)


def predict_all(runtime: Runtime, images: Images, *, batch_size: int = 1000) -> Probabilities:
    """Probabilities float32 `[N, 10]` of any number of images, in batches."""
    if len(images) == 0:
        return np.empty((0, CLASSES), np.float32)
    starts = range(0, len(images), batch_size)
    return np.concatenate([runtime.predict(images[start : start + batch_size]) for start in starts])
