"""What is to be served, as the settings and the store, or a plain folder, say it.

Nothing is opened here, and no framework imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

from digits import store
from digits.contract import BACKENDS, Backend
from digits.errors import DeviceError, ModelNotFound, NotInstalled
from digits.store import StoredModel
from runtimes.backends import HAS_GPU, how_to_install, is_installed
from runtimes.device import CPU, Device, choose_device
from serving.settings import Settings


class Chosen(NamedTuple):
    """A stored model that is to be served through one backend."""

    model: StoredModel
    backend: Backend
    device: Device

    @property
    def name(self) -> str:
        return f"{self.model.recipe}.{self.backend}"


def choose(settings: Settings) -> list[Chosen]:
    """Every model that is to be served, through every backend: at least one.

    Raises:
        SamedigitError: nothing to serve; or a model, backend or device that is named but missing.
    """
    device = choose_device(settings.device)
    backends, models = _backends(settings, device), _models(settings)
    chosen = [
        # numpy has no GPU: beside an automatic one it serves from the CPU, and `describe` says so.
        Chosen(model, backend, device if backend in HAS_GPU else CPU)
        for backend in backends
        for model in models
        if backend in model.card.backends
    ]
    if not chosen:
        stored = sorted({backend for model in models for backend in model.card.backends})
        raise NotInstalled(
            f"There is nothing to serve: {', '.join(model.tag for model in models)} can be opened by "
            f"{', '.join(stored)}, and the served backends are {', '.join(backends)}."
        )
    return chosen


def find(name: str, version: str, settings: Settings) -> Chosen:
    """The stored model called `recipe.backend`, in this version, be it chosen or not.

    Raises:
        SamedigitError: it is not stored, or the device is missing.
    """
    recipe, _, last = name.rpartition(".")
    backend = cast(Backend, last)
    model = store.find_model(f"{recipe}:{version}", folder=folder_of(settings))
    return Chosen(model, backend, choose_device(settings.device) if backend in HAS_GPU else CPU)


def folder_of(settings: Settings) -> Path | None:
    """The plain folder that the models come from; None: BentoML's store."""
    return None if settings.model_folder is None else Path(settings.model_folder)


def _models(settings: Settings) -> list[StoredModel]:
    folder = folder_of(settings)
    if settings.models is not None:
        return [store.find_model(name, folder=folder) for name in settings.models]
    models = store.served_models(folder=folder)
    if not models:
        raise ModelNotFound(f"There is nothing to serve: {store.nothing_served(folder=folder)}")
    return models


def _backends(settings: Settings, device: Device) -> list[Backend]:
    if settings.backends is None:
        gpu_only = device.kind == "cuda" and settings.device != "auto"
        return [one for one in BACKENDS if is_installed(one) and (one in HAS_GPU or not gpu_only)]
    for backend in settings.backends:
        if not is_installed(backend):
            raise NotInstalled(f"SAMEDIGIT_BACKENDS names {backend}, which is not installed: {how_to_install(backend)}")
        if backend not in HAS_GPU and device.kind == "cuda" and settings.device != "auto":
            raise DeviceError(
                f"SAMEDIGIT_BACKENDS names {backend}, which runs on the CPU, and SAMEDIGIT_DEVICE asks for {device}."
            )
    # In the order of BACKENDS: torch must be imported before TensorFlow, whose LLVM otherwise makes torch's abort.
    return [backend for backend in BACKENDS if backend in settings.backends]
