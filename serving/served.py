"""The models that a server has opened."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from digits import store
from digits.card import Score
from digits.contract import BACKENDS, SIDE, Backend
from digits.errors import DeviceError, ModelNotFound, NotInstalled, RequestError
from digits.store import StoredModel
from serving.backends import HAS_GPU, Runtime, how_to_install, is_installed, open_runtime
from serving.device import CPU, Device, choose_device
from serving.settings import Settings

WARM_UP_BATCHES = (1, 2, 64)  # the sizes at which some runtime builds or allocates something
WARM_UP_CALLS = 3

log = logging.getLogger("samedigit")


@dataclass(frozen=True)
class Opened:
    model: StoredModel
    runtime: Runtime
    device: Device
    score: Score  # the stored one, of this backend's file


class ServedModels:
    """Every served model through every served backend. Nothing is opened until `open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opened: dict[Backend, dict[str, Opened]] = {}

    def check(self) -> None:
        """Finds what the settings name, without importing a framework.

        Raises:
            SamedigitError: nothing to serve; a model, backend or device that is named but missing; or a damaged file.
        """
        for model, backend, _ in self._plan():
            model.verify(backend)

    def open(self) -> None:
        """Opens and warms what the settings name.

        Raises:
            SamedigitError: as `check`, and where a backend cannot use the device.
        """
        for model, backend, device in self._plan():
            try:
                opened = self._open(model, backend, device)
            except DeviceError as error:
                if self.settings.device != "auto":
                    raise
                log.warning("%s Serving it from the CPU.", error)
                opened = self._open(model, backend, CPU)
            self._opened.setdefault(backend, {})[model.tag] = opened
        # The models live as long as the process: out of the garbage collector's sight they cost no more pauses.
        gc.collect()
        gc.freeze()

    def find(self, backend: str, name: str | None) -> Opened:
        """The model called `recipe` or `recipe:version`, through `backend`; without a name, the most accurate one.

        Raises:
            RequestError: 404 for a model or backend that is not served, 501 for a backend that is not installed.
        """
        opened = self._through(backend)
        if name is None:
            return max(opened.values(), key=lambda candidate: candidate.score.accuracy)
        exact = opened.get(name)
        if exact is not None:
            return exact
        for candidate in opened.values():  # newest version first
            if name in (candidate.model.recipe, f"{candidate.model.recipe}:latest"):
                return candidate
        raise RequestError(404, f"No model {name!r} is served through {backend}; served are {', '.join(opened)}.")

    def _through(self, backend: str) -> dict[str, Opened]:
        if backend not in BACKENDS:
            raise RequestError(404, f"There is no backend {backend!r}; the backends are {', '.join(BACKENDS)}.")
        if backend in self._opened:
            return self._opened[backend]
        if not is_installed(backend):
            raise RequestError(501, f"The {backend} backend is not installed on this server: {how_to_install(backend)}")
        raise RequestError(404, f"The {backend} backend is not served here; served are {', '.join(self._opened)}.")

    def describe(self) -> dict[str, Any]:
        """What is served: each model with its card and, for each backend, its stored accuracy and where it runs."""
        models: dict[str, dict[str, Any]] = {}
        for backend, opened in self._opened.items():
            for tag, one in opened.items():
                entry = models.setdefault(tag, {"model": tag, "backends": {}, "card": one.model.card.to_data()})
                entry["backends"][backend] = {
                    "path": f"/predict/{backend}",
                    "device": str(one.device),
                    "correct": one.score.correct,
                    "total": one.score.total,
                    "accuracy": one.score.accuracy,
                }
        return {"models": list(models.values())}

    def _plan(self) -> list[tuple[StoredModel, Backend, Device]]:
        device = choose_device(self.settings.device)
        backends, models = self._backends(device), self._models()
        plan = [
            # numpy has no GPU: beside an automatic one it serves from the CPU, and `describe` says so.
            (model, backend, device if backend in HAS_GPU else CPU)
            for backend in backends
            for model in models
            if backend in model.card.backends
        ]
        if not plan:
            stored = sorted({backend for model in models for backend in model.card.backends})
            raise NotInstalled(
                f"There is nothing to serve: {', '.join(model.tag for model in models)} can be opened by "
                f"{', '.join(stored)}, and the served backends are {', '.join(backends)}."
            )
        return plan

    def _models(self) -> list[StoredModel]:
        if self.settings.models is not None:
            return [store.find_model(name) for name in self.settings.models]
        models = store.newest_models()
        if not models:
            raise ModelNotFound(
                f"There is nothing to serve: no model is stored in {store.bentoml_home()}. Train one: samedigit train --all"
            )
        return models

    def _backends(self, device: Device) -> list[Backend]:
        if self.settings.backends is None:
            gpu_only = device.kind == "cuda" and self.settings.device != "auto"
            return [one for one in BACKENDS if is_installed(one) and (one in HAS_GPU or not gpu_only)]
        for backend in self.settings.backends:
            if not is_installed(backend):
                raise NotInstalled(
                    f"SAMEDIGIT_BACKENDS names {backend}, which is not installed: {how_to_install(backend)}"
                )
            if backend not in HAS_GPU and device.kind == "cuda" and self.settings.device != "auto":
                raise DeviceError(
                    f"SAMEDIGIT_BACKENDS names {backend}, which runs on the CPU, and SAMEDIGIT_DEVICE asks for {device}."
                )
        # In the order of BACKENDS: torch must be imported before TensorFlow, whose LLVM otherwise makes torch's abort.
        return [backend for backend in BACKENDS if backend in self.settings.backends]

    def _open(self, model: StoredModel, backend: Backend, device: Device) -> Opened:
        started = time.perf_counter()
        model.verify(backend)
        runtime = open_runtime(backend, model.path(backend), device=device)
        for size in WARM_UP_BATCHES:
            for _ in range(WARM_UP_CALLS):
                runtime.predict(np.zeros((size, SIDE, SIDE), np.uint8))
        log.info("%s opened with %s on %s in %.1f s", model.tag, backend, device, time.perf_counter() - started)
        return Opened(model, runtime, device, model.card.scores[backend])
