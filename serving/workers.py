"""The workers of one server agree, through a folder that they share, on what is served.

`wanted.json` says what is to be open, and its generation grows by one with each change; `lock` puts changes in order. Each
worker has a file NAME.worker, locked as long as it lives, and in NAME.json the generation that it has. Files are written
beside, then renamed; a lock goes with the process that holds it, however that ends.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from digits.errors import SettingError
from serving.errors import Kind, RequestError
from serving.settings import Settings

RUN_FOLDER: Final = "SAMEDIGIT_RUN_FOLDER"  # the environment variable that workers inherit
CHANGE_SECONDS: Final = 60.0  # in which every worker must have taken up a change
POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Wanted:
    """What is to be open."""

    generation: int
    models: tuple[tuple[str, str], ...]  # (recipe.backend, version)
    unloaded: frozenset[str]  # recipe.backend that was closed on request, and stays so until it is loaded

    def versions(self, name: str) -> list[str]:
        return [version for one, version in self.models if one == name]

    def replaced(self, name: str, versions: list[str], *, unloaded: bool = False) -> Wanted:
        """The next generation, in which `name` is open in these versions alone, at the place where it was."""
        new = [(name, version) for version in versions]
        at = next((i for i, (one, _) in enumerate(self.models) if one == name), len(self.models))
        before, after = ([model for model in part if model[0] != name] for part in (self.models[:at], self.models[at:]))
        closed = self.unloaded | {name} if unloaded else self.unloaded - {name}
        return Wanted(self.generation + 1, (*before, *new, *after), closed)


def make_run_folder(settings: Settings) -> None:
    """Makes the folder that this process's workers share, if there are several; it goes when this process ends."""
    if settings.workers == 1:
        return
    folder = tempfile.mkdtemp(prefix="samedigit-")
    os.environ[RUN_FOLDER] = folder
    atexit.register(_remove, folder, os.getpid())


def run_folder() -> Path:
    """The folder that this server's workers share.

    Raises:
        SettingError: there is none.
    """
    folder = os.environ.get(RUN_FOLDER)
    if not folder:
        raise SettingError(
            "Several workers share a folder, which `samedigit serve` and `bentoml serve` make. Start the server with one of "
            "these, or set SAMEDIGIT_WORKERS=1."
        )
    return Path(folder)


def _remove(folder: str, maker: int) -> None:
    if os.getpid() == maker:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


class Workers:
    """One worker's view of them all.

    Args:
        folder: shared by the workers of one server, and by nobody else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = secrets.token_hex(8)
        # Locked before others can see it, so that who sees it unlocked knows that its worker is dead.
        made = folder / f"{self._name}.new"
        self._life = os.open(made, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._life, fcntl.LOCK_EX)
        made.rename(folder / f"{self._name}.worker")

    def wanted(self) -> Wanted | None:
        """What is to be open; None before any worker has said so."""
        found = _read(self._folder / "wanted.json")
        if found is None:
            return None
        models = tuple((name, version) for name, version in found["models"])
        return Wanted(found["generation"], models, frozenset(found["unloaded"]))

    def announce(self, wanted: Wanted) -> None:
        self._write(
            "wanted", {"generation": wanted.generation, "models": wanted.models, "unloaded": [*wanted.unloaded]}
        )

    def acknowledge(self, generation: int, error: str | None = None) -> None:
        """Says that this worker has taken up a generation, or why it could not."""
        self._write(self._name, {"generation": generation, "error": error})

    @contextmanager
    def first(self) -> Iterator[None]:
        """One worker at a time, before the event loop runs: who finds nothing said says what is to be open."""
        lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """One change at a time, over all workers.

        Raises:
            RequestError: BUSY, another one takes too long.
        """
        deadline = time.monotonic() + CHANGE_SECONDS
        lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RequestError(
                            Kind.BUSY,
                            "Another change of what is served is under way. Try again.",
                            retry_after_seconds=5,
                        ) from None
                await asyncio.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    async def all_have(self, generation: int, *, within_seconds: float = CHANGE_SECONDS) -> None:
        """Waits until every living worker has taken up `generation`.

        Raises:
            RequestError: FAILED, one could not, or they have not in time.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            living = self._living()
            said = [_read(self._folder / f"{name}.json") or {"generation": -1} for name in living]
            behind = [one for one in said if one["generation"] < generation]
            if not behind:
                break
            if time.monotonic() > deadline:
                raise RequestError(
                    Kind.FAILED,
                    f"{len(behind)} of {len(living)} workers have not taken up the change within {within_seconds:g} s; "
                    "the server's log may say why.",
                )
            await asyncio.sleep(POLL_SECONDS)
        errors = [one["error"] for one in said if one["error"] is not None]
        if errors:
            raise RequestError(
                Kind.FAILED,
                f"{len(errors)} of {len(living)} workers could not take up the change and serve what they did: {errors[0]}",
            )

    def leave(self) -> None:
        """This worker counts no more, as if it had ended."""
        os.close(self._life)

    def _living(self) -> list[str]:
        """The names of the living workers; what dead ones left is removed."""
        found = []
        for file in self._folder.glob("*.worker"):
            try:
                descriptor = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(file.stem)
            else:
                file.unlink(missing_ok=True)
                file.with_suffix(".json").unlink(missing_ok=True)
            finally:
                os.close(descriptor)
        return found

    def _write(self, name: str, document: dict[str, Any]) -> None:
        beside = self._folder / f"{name}.json.{self._name}"
        beside.write_bytes(orjson.dumps(document))
        beside.replace(self._folder / f"{name}.json")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    return document
