"""Models in a plain folder: RECIPE/VERSION with the files that backends open and `card.json`, and no BentoML.

What a volume, an object store or `kubectl cp` can hold. A server reads it in place of BentoML's store, by the same rules
(digits/store.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from digits import store
from digits.contract import BACKENDS, Backend
from digits.errors import StoreError
from digits.store import StoredModel


def export(models: Sequence[StoredModel], folder: Path, *, backends: Sequence[Backend] = BACKENDS) -> None:
    """Writes `models` into `folder`, all of them or, where one cannot be, none; other versions that are there stay.

    Whoever serves the folder without naming versions serves these. Each file is held against its card first, and all is
    readable by any user.

    Args:
        models: each once.
        folder: is made where it is missing.
        backends: whose files are wanted; those that a model lacks are left out.

    Raises:
        ModelDamaged: a stored file is missing or changed.
        StoreError: the folder cannot be written.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_new:
            folder.chmod(0o755)
        staging = Path(tempfile.mkdtemp(prefix=".samedigit-", dir=folder))  # the same disk, so that rename works
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        for model in models:
            _copy(model, staging / model.tag, backends)
        for path in staging.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with ExitStack() as undo:
            for model in models:
                _place(staging / model.tag, folder / model.recipe / model.version, undo)
            for model in models:
                _promote(model, folder, staging, undo)
            undo.pop_all()
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()


def _copy(model: StoredModel, version: Path, backends: Sequence[Backend]) -> None:
    version.mkdir(parents=True)
    for backend in backends:
        if backend not in model.card.backends:
            continue
        model.verify(backend)
        source = model.path(backend)
        if source.is_dir():
            shutil.copytree(source, version / source.name)
        else:
            shutil.copyfile(source, version / source.name)
    (version / store.CARD).write_text(json.dumps(model.card.to_data(), indent=1))


def _place(copy: Path, version: Path, undo: ExitStack) -> None:
    """Gives a copy its place, unless the same is there. What `undo` has to do, should it come to that, is said to it."""
    recipe = version.parent
    if not recipe.exists():
        recipe.mkdir()
        undo.callback(recipe.rmdir)
        recipe.chmod(0o755)
    if version.exists():
        if store.hashes(version) == store.hashes(copy):
            return
        before = copy.with_name(f"{copy.name}.before")
        version.rename(before)
        undo.callback(before.rename, version)
    copy.rename(version)
    undo.callback(version.rename, copy)


def _promote(model: StoredModel, folder: Path, staging: Path, undo: ExitStack) -> None:
    """Writes down that this version is the promoted one, or nothing where it is served without that."""
    promoted = folder / model.recipe / store.PROMOTED
    before = staging / f"{model.tag}.promoted"
    if promoted.exists():
        shutil.copyfile(promoted, before)
        undo.callback(before.replace, promoted)
    else:
        undo.callback(promoted.unlink, missing_ok=True)
    there = store.stored_models(model.recipe, folder=folder)
    newest_whole = next((one.version for one in there if one.card.is_whole), None)
    if newest_whole == model.version and store.promoted_version(model.recipe) is None:
        promoted.unlink(missing_ok=True)
        return
    written = staging / store.PROMOTED
    written.write_text(model.version)
    written.chmod(0o644)
    written.replace(promoted)


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The models could not be written into {folder}: {error.strerror or error}. It is as it was. "
        "Free some space or fix its permissions, or name another folder."
    )
