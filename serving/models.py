"""The models that a server has opened: `recipe.backend`, each in one version or more."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from digits.contract import BACKENDS
from digits.errors import ModelNotFound, SamedigitError
from runtimes.backends import how_to_install, is_installed
from serving.choice import choose
from serving.errors import Kind, RequestError
from serving.opening import Opened, open_model
from serving.settings import Settings


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
        for chosen in choose(self.settings):
            chosen.model.verify(chosen.backend)

    def open(self) -> None:
        """Opens and warms what the settings name.

        Raises:
            SamedigitError: as `check`, and where a backend cannot use the device.
        """
        for chosen in choose(self.settings):
            self._add(open_model(chosen, self.settings))
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
            chosen = await asyncio.to_thread(choose, self.settings)
        except ModelNotFound:  # what is open is stored no more
            chosen = []
        except SamedigitError as error:
            raise RequestError(Kind.FAILED, str(error)) from error
        for one in chosen:
            entries.setdefault((one.name, one.model.version), {"state": "UNAVAILABLE", "reason": "not loaded"})
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
                chosen = await asyncio.to_thread(choose, self.settings)
                wanted = [one for one in chosen if one.name == name]
                if not wanted:
                    names = ", ".join(one.name for one in chosen)
                    raise RequestError(Kind.UNKNOWN, f"No model {name!r} can be loaded; there are {names}.")
                open_now = self._opened.get(name, {})
                opened: list[Opened] = []
                for one in wanted:
                    found = open_now.get(one.model.version)
                    if found is None:
                        found = await asyncio.to_thread(open_model, one, self.settings)
                    opened.append(found)
            except RequestError:
                raise
            except SamedigitError as error:
                raise RequestError(Kind.FAILED, str(error)) from error
            self._close(name)
            for newly in opened:
                self._add(newly)

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
