"""The models that a server has opened: `recipe.backend`, each in one version or more."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Final

from digits import store
from digits.contract import BACKENDS, Backend
from digits.errors import ModelNotFound, SamedigitError
from runtimes.backends import how_to_install, is_installed
from serving import choice
from serving.choice import Chosen, choose
from serving.errors import Kind, RequestError
from serving.opening import Opened, import_frameworks, open_model
from serving.settings import Settings
from serving.workers import Wanted, Workers, run_folder

FOLLOW_SECONDS: Final = 0.05  # between looks at what the other workers want
WATCH_SECONDS: Final = 1.0  # between looks at the store
SWITCH_SECONDS: Final = (
    0.0005  # for which a thread that opens or runs a model may keep the event loop waiting; Python has 0.005
)

# In which order backends answer where none is named: by what one image takes (docs and benchmarks have the figures).
FIRST_ASKED: Final[tuple[Backend, ...]] = ("onnx", "numpy", "torch", "tensorflow")

log = logging.getLogger("samedigit")


class ServedModels:
    """Every served model through every served backend. Nothing is opened until `open`. Belongs to one event loop.

    A change is opened first, beside what is served, and then takes its place at once; what cannot be opened changes nothing.
    With several workers a change is announced to all of them (workers.py).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._folder = choice.folder_of(settings)
        self._opened: dict[str, dict[str, Opened]] = {}  # name -> version -> opened, newest first
        self._best: dict[str, Opened] = {}  # backend -> what answers where none is named
        self._wanted = Wanted(0, (), frozenset())  # of the last generation that was taken up, or failed to be
        self._workers: Workers | None = None
        self._changing = asyncio.Lock()  # one change at a time in this worker
        self._store_seen: object = None
        self._is_open = False
        self._draining = False

    def check(self) -> None:
        """Finds what the settings name, without importing a framework.

        Raises:
            SamedigitError: nothing to serve; a model, backend or device that is named but missing; or a damaged file.
        """
        for chosen in choose(self.settings):
            chosen.model.verify(chosen.backend)

    def open(self) -> None:
        """Opens and warms what the settings name, or what the other workers of this server have come to serve since.

        Raises:
            SamedigitError: as `check`, and where a backend cannot use the device.
        """
        self._store_seen = store.store_signature(folder=self._folder)
        if self.settings.workers > 1:
            self._workers = Workers(run_folder())
        chosen = self._first_choice()
        import_frameworks(chosen, self.settings)
        opened = [open_model(one, self.settings) for one in chosen]
        if not opened:
            raise ModelNotFound("There is nothing to serve: what the other workers serve is stored no more.")
        self._serve(opened)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._is_open = True
        if self._workers is not None:
            self._workers.acknowledge(self._wanted.generation)

    def _first_choice(self) -> list[Chosen]:
        if self._workers is None:
            chosen = choose(self.settings)
            self._wanted = _all_of(chosen)
            return chosen
        wanted = self._workers.wanted()
        if wanted is None:
            with self._workers.first():
                wanted = self._workers.wanted()
                if wanted is None:
                    chosen = choose(self.settings)
                    self._wanted = _all_of(chosen)
                    self._workers.announce(self._wanted)
                    return chosen
        self._wanted = wanted
        chosen = []
        for name, version in wanted.models:
            try:
                chosen.append(choice.find(name, version, self.settings))
            except SamedigitError as error:
                log.error("%s is served by the other workers, and not by this new one: %s", name, error)
        return chosen

    def why_not_ready(self) -> str | None:
        """Why no more requests should be sent here; None if they should.

        While models are replaced the server stays ready: what it serves it serves on.
        """
        if self._draining:
            return "The server is being stopped."
        if not self._is_open:
            return "The models are being opened."
        if not self._opened:
            return "Every model was unloaded."
        return None

    def drain(self) -> None:
        """Not ready from here on; what is asked is still answered."""
        self._draining = True

    def find(self, backend: str, name: str | None) -> Opened:
        """The model called `recipe` or `recipe:version`, through `backend`; without a name, the best there is (`Card.merit`).

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
        raise RequestError(Kind.UNKNOWN, f"No model {name[:100]!r} is served through {backend}; served are {tags}.")

    def named(self, name: str, version: str | None = None) -> Opened:
        """The model called `recipe.backend`, in this version or the newest that is open.

        Raises:
            RequestError: 404, it is not served.
        """
        versions = self._opened.get(name)
        if versions is None:
            raise _not_served(name, self._opened)
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            raise RequestError(
                Kind.UNKNOWN,
                f"The model {name} is not served in version {version[:100]!r}, but in {', '.join(versions)}.",
            )
        return versions[version]

    def pick(self, name: str | None) -> Opened:
        """The model called `recipe` or `recipe.backend`; without a name, the one that reads other digits than MNIST's best.

        Where no backend is named, through the one that is quickest with a single image.

        Raises:
            RequestError: 404, it is not served.
        """
        if name is not None and name in self._opened:
            return self.named(name)
        found = [one for one in self.all() if name in (None, one.model.recipe)]
        if not found:
            assert name is not None or not self._opened
            raise _not_served(name or "", [*self._opened, *(one.model.recipe for one in self.all())])
        if name is not None:
            newest = max(one.model.card.trained_at for one in found)
            found = [one for one in found if one.model.card.trained_at == newest]
        return max(found, key=lambda one: (*one.model.card.merit, -FIRST_ASKED.index(one.backend)))

    def in_order(self) -> list[Opened]:
        """All that is open, by recipe and then by backend, which is no order of merit."""
        return sorted(self.all(), key=lambda one: (one.model.recipe, FIRST_ASKED.index(one.backend)))

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

        In every worker. Versions of it that were open are closed once that is done; requests under way are still answered
        by them.

        Raises:
            RequestError: UNKNOWN for what is not stored or not to be served, FAILED where it cannot be opened: then what was
                served is served on.
        """

        def decide(wanted: Wanted) -> Wanted:
            chosen = choose(self.settings)
            versions = [one.model.version for one in chosen if one.name == name]
            if not versions:
                names = ", ".join(dict.fromkeys(one.name for one in chosen))
                raise RequestError(Kind.UNKNOWN, f"No model {name[:100]!r} can be loaded; there are {names}.")
            return wanted.replaced(name, versions)

        await self._change(decide)

    async def unload(self, name: str) -> None:
        """Closes the model called `recipe.backend` in all its versions, in every worker; requests under way are still answered.

        Raises:
            RequestError: UNKNOWN, it is not open; FAILED, not every worker has closed it.
        """

        def decide(wanted: Wanted) -> Wanted:
            if not wanted.versions(name):
                raise _not_served(name, [one for one, _ in wanted.models])
            return wanted.replaced(name, [], unloaded=True)

        await self._change(decide)

    async def keep_up(self) -> None:
        """Follows what the other workers take up and, if the settings say so, what is stored and promoted; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._workers is not None:
                tasks.create_task(self._follow(self._workers))
            if self.settings.watch:
                tasks.create_task(self._watch())

    async def _follow(self, workers: Workers) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                wanted = workers.wanted()
                if wanted is None or wanted.generation <= self._wanted.generation:
                    continue
                async with self._changing:
                    if wanted.generation > self._wanted.generation:  # and was not this worker's own meanwhile
                        await self._take_up(wanted, workers)
            except Exception:
                log.exception("What the other workers serve could not be read")

    async def _take_up(self, wanted: Wanted, workers: Workers) -> None:
        error = None
        try:
            self._serve(await asyncio.to_thread(self._open, wanted))
        except SamedigitError as failure:
            error = str(failure)
            log.error("What another worker has opened cannot be opened here: %s", error)
        except Exception as failure:
            error = f"{type(failure).__name__}; the server's log says more."
            log.exception("What another worker has opened cannot be opened here")
        self._wanted = wanted
        workers.acknowledge(wanted.generation, error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                found = await asyncio.to_thread(store.store_signature, folder=self._folder)
                if found == self._store_seen:
                    continue
                self._store_seen = found  # whatever comes of it: what fails is tried again when the store changes again
                chosen = await asyncio.to_thread(choose, self.settings)
            except Exception as error:
                _report("The store has changed, and what is served has not", error)
                continue
            names = dict.fromkeys([one.name for one in chosen] + [name for name, _ in self._wanted.models])
            for name in names:
                await self._bring(name, [one.model.version for one in chosen if one.name == name])

    async def _bring(self, name: str, versions: list[str]) -> None:
        def decide(wanted: Wanted) -> Wanted | None:
            if name in wanted.unloaded or sorted(wanted.versions(name)) == sorted(versions):
                return None
            return wanted.replaced(name, versions)

        try:
            await self._change(decide)
        except Exception as error:
            _report(f"{name} has changed in the store, and is served as it was", error)

    async def _change(self, decide: Callable[[Wanted], Wanted | None]) -> None:
        """Brings about what `decide` makes, in a thread, of what is wanted now; None, nothing."""
        workers = self._workers
        async with nullcontext() if workers is None else workers.in_turn():
            async with self._changing:
                try:
                    before = self._wanted if workers is None else workers.wanted() or self._wanted
                    wanted = await asyncio.to_thread(decide, before)
                    if wanted is None:
                        return
                    opened = await asyncio.to_thread(self._open, wanted)
                except RequestError:
                    raise
                except SamedigitError as error:
                    raise RequestError(Kind.FAILED, str(error)) from error
                if workers is not None:
                    workers.announce(wanted)
                self._wanted = wanted
                self._serve(opened)
            if workers is not None:
                workers.acknowledge(wanted.generation)
                await workers.all_have(wanted.generation)

    def _open(self, wanted: Wanted) -> list[Opened]:
        """What is wanted: what is open already, and the rest opened now."""
        opened = []
        for name, version in wanted.models:
            found = self._opened.get(name, {}).get(version)
            opened.append(found or open_model(choice.find(name, version, self.settings), self.settings))
        return opened

    def _serve(self, opened: Iterable[Opened]) -> None:
        """Puts these in the place of what is served."""
        by_name: dict[str, list[Opened]] = {}
        for one in opened:
            by_name.setdefault(one.name, []).append(one)
        self._opened = {
            name: {
                one.model.version: one
                for one in sorted(versions, key=lambda one: one.model.card.trained_at, reverse=True)
            }
            for name, versions in by_name.items()
        }
        self._best = {one.backend: one for one in sorted(self.all(), key=lambda one: one.model.card.merit)}

    def _through(self, backend: str) -> list[Opened]:
        """What is open of this backend: at least one."""
        if backend not in BACKENDS:
            raise RequestError(
                Kind.UNKNOWN, f"There is no backend {backend[:100]!r}; the backends are {', '.join(BACKENDS)}."
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


def _all_of(chosen: Iterable[Chosen]) -> Wanted:
    return Wanted(1, tuple(dict.fromkeys((one.name, one.model.version) for one in chosen)), frozenset())


def _not_served(name: str, served: Iterable[str]) -> RequestError:
    return RequestError(
        Kind.UNKNOWN, f"No model {name[:100]!r} is served; served are {', '.join(dict.fromkeys(served)) or 'none'}."
    )


def _report(message: str, error: Exception) -> None:
    log.error("%s: %s", message, error, exc_info=None if isinstance(error, SamedigitError) else error)
