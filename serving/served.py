"""The models that a server has opened: `recipe.backend`, each in one version or more."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from digits import store
from digits.card import Score
from digits.contract import BACKENDS, SIDE, Backend
from digits.errors import DeviceError, ModelNotFound, NotInstalled, SamedigitError
from digits.store import StoredModel
from runtimes.backends import HAS_GPU, how_to_install, is_installed, open_runtime
from runtimes.device import CPU, Device, choose_device
from serving.batching import Batcher
from serving.errors import Kind, RequestError
from serving.settings import Settings

WARM_UP_BATCHES: Final = (1, 2)  # the sizes at which some runtime builds or allocates something
WARM_UP_CALLS: Final = 3

log = logging.getLogger("samedigit")


@dataclass(frozen=True)
class Opened:
    model: StoredModel
    backend: Backend
    batcher: Batcher
    device: Device
    score: Score  # the stored one, of this backend's file

    @property
    def name(self) -> str:
        return f"{self.model.recipe}.{self.backend}"


class ServedModels:
    """Every served model through every served backend. Nothing is opened until `open`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opened: dict[str, dict[str, Opened]] = {}  # name -> version -> opened, newest first
        self._best: dict[str, Opened] = {}  # backend -> its most accurate one
        self._changing = asyncio.Lock()  # one load or unload at a time

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
            self._add(self._open(model, backend, device))
        # The models live as long as the process: out of the garbage collector's sight they cost no more pauses.
        gc.collect()
        gc.freeze()

    def find(self, backend: str, name: str | None) -> Opened:
        """The model called `recipe` or `recipe:version`, through `backend`; without a name, the most accurate one.

        Raises:
            RequestError: 404 for a model or backend that is not served, 501 for a backend that is not installed.
        """
        if name is None:
            best = self._best.get(backend)
            return best if best is not None else self._through(backend)[0]  # which says what is wrong
        recipe, _, version = name.partition(":")
        versions = self._opened.get(f"{recipe}.{backend}", {})
        if version in ("", "latest"):
            for newest in versions.values():
                return newest
        elif version in versions:
            return versions[version]
        tags = ", ".join(opened.model.tag for opened in self._through(backend))
        raise RequestError(Kind.UNKNOWN, f"No model {name!r} is served through {backend}; served are {tags}.")

    def named(self, name: str, version: str | None = None) -> Opened:
        """The model called `recipe.backend`, in this version or the newest that is open.

        Raises:
            RequestError: 404, it is not served.
        """
        versions = self._opened.get(name)
        if versions is None:
            raise RequestError(
                Kind.UNKNOWN, f"No model {name!r} is served; served are {', '.join(self._opened) or 'none'}."
            )
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            raise RequestError(
                Kind.UNKNOWN, f"The model {name} is not served in version {version!r}, but in {', '.join(versions)}."
            )
        return versions[version]

    def versions(self, name: str) -> list[str]:
        return list(self._opened[name])

    def all(self) -> list[Opened]:
        return [opened for versions in self._opened.values() for opened in versions.values()]

    async def index(self) -> list[dict[str, str]]:
        """What is open, and what else the settings let `load` open: name, version, state, and reason if it is not ready.

        Raises:
            RequestError: 500, the store cannot be read.
        """
        entries = {(opened.name, opened.model.version): {"state": "READY"} for opened in self.all()}
        try:
            plan = await asyncio.to_thread(self._plan)
        except ModelNotFound:  # what is open is stored no more
            plan = []
        except SamedigitError as error:
            raise RequestError(Kind.FAILED, str(error)) from error
        for model, backend, _ in plan:
            entries.setdefault(
                (f"{model.recipe}.{backend}", model.version), {"state": "UNAVAILABLE", "reason": "not loaded"}
            )
        return [{"name": name, "version": version, **entry} for (name, version), entry in sorted(entries.items())]

    async def load(self, name: str) -> None:
        """Opens the model called `recipe.backend` in the version that the settings name, or the promoted or newest one.

        Versions of it that were open are closed once that is done; requests under way are still answered by them.

        Raises:
            RequestError: 404 for what is not stored or not to be served, 500 where it cannot be opened.
        """
        self._require_one_worker()
        async with self._changing:
            try:
                plan = await asyncio.to_thread(self._plan)
                wanted = [entry for entry in plan if f"{entry[0].recipe}.{entry[1]}" == name]
                if not wanted:
                    names = ", ".join(f"{model.recipe}.{backend}" for model, backend, _ in plan)
                    raise RequestError(Kind.UNKNOWN, f"No model {name!r} can be loaded; there are {names}.")
                open_now = self._opened.get(name, {})
                opened: list[Opened] = []
                for model, backend, device in wanted:
                    one = open_now.get(model.version)
                    if one is None:
                        one = await asyncio.to_thread(self._open, model, backend, device)
                    opened.append(one)
            except RequestError:
                raise
            except SamedigitError as error:
                raise RequestError(Kind.FAILED, str(error)) from error
            self._close(name)
            for one in opened:
                self._add(one)

    async def unload(self, name: str) -> None:
        """Closes the model called `recipe.backend` in all its versions; requests under way are still answered.

        Raises:
            RequestError: 404, it is not open.
        """
        self._require_one_worker()
        async with self._changing:
            self.named(name)
            self._close(name)

    def _require_one_worker(self) -> None:
        if self.settings.workers > 1:
            raise RequestError(
                Kind.UNSUPPORTED,
                f"Each of the {self.settings.workers} workers has models of its own, and this request reached one of them. "
                f"Restart the server instead, or serve with SAMEDIGIT_WORKERS=1.",
            )

    def _add(self, opened: Opened) -> None:
        versions = {**self._opened.get(opened.name, {}), opened.model.version: opened}
        newest_first = sorted(versions.items(), key=lambda item: item[1].model.card.trained_at, reverse=True)
        self._opened[opened.name] = dict(newest_first)
        self._rank()

    def _close(self, name: str) -> None:
        if self._opened.pop(name, None) is not None:
            self._rank()

    def _rank(self) -> None:
        opened = sorted(self.all(), key=lambda one: one.score.accuracy)
        self._best = {one.backend: one for one in opened}

    def _through(self, backend: str) -> list[Opened]:
        """What is open of this backend: at least one."""
        if backend not in BACKENDS:
            raise RequestError(
                Kind.UNKNOWN, f"There is no backend {backend!r}; the backends are {', '.join(BACKENDS)}."
            )
        opened = [opened for opened in self.all() if opened.backend == backend]
        if opened:
            return opened
        if not is_installed(backend):
            raise RequestError(
                Kind.UNSUPPORTED, f"The {backend} backend is not installed on this server: {how_to_install(backend)}"
            )
        served = ", ".join(dict.fromkeys(opened.backend for opened in self.all()))
        raise RequestError(Kind.UNKNOWN, f"The {backend} backend is not served here; served are {served or 'none'}.")

    def describe(self) -> dict[str, Any]:
        """What is served: each model with its card and, for each backend, its stored accuracy and where it runs."""
        models: dict[str, dict[str, Any]] = {}
        for opened in self.all():
            tag = opened.model.tag
            entry = models.setdefault(tag, {"model": tag, "backends": {}, "card": opened.model.card.to_data()})
            entry["backends"][opened.backend] = {
                "path": f"/predict/{opened.backend}",
                "device": str(opened.device),
                "correct": opened.score.correct,
                "total": opened.score.total,
                "accuracy": opened.score.accuracy,
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
        models = store.served_models()
        if not models:
            raise ModelNotFound(f"There is nothing to serve: {store.nothing_served()}")
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
        """The model, warm; on the CPU where the device was chosen automatically and this backend cannot use it."""
        if backend == "torch" and "tensorflow" in sys.modules and "torch" not in sys.modules:
            raise NotInstalled(
                "torch cannot be imported after TensorFlow, whose LLVM makes it abort. Start the server with both backends."
            )
        started = time.perf_counter()
        model.verify(backend)
        path = model.path(backend)
        try:
            runtime = open_runtime(backend, path, device=device)
        except DeviceError as error:
            if self.settings.device != "auto":
                raise
            log.warning("%s Serving it from the CPU.", error)
            device = CPU
            runtime = open_runtime(backend, path, device=device)
        for size in (*WARM_UP_BATCHES, self.settings.max_batch):
            for _ in range(WARM_UP_CALLS):
                runtime.predict(np.zeros((size, SIDE, SIDE), np.uint8))
        log.info("%s opened with %s on %s in %.1f s", model.tag, backend, device, time.perf_counter() - started)
        return Opened(model, backend, Batcher(runtime, self.settings), device, model.card.scores[backend])
