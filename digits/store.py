"""Stored models: BentoML's Model Store, with a card as metadata.

BentoML copies a new model into its store file by file, so that a process killed meanwhile leaves a half-made model
there. `save` lets BentoML write beside the store and renames the finished folder into it.

Which version of a recipe is served where nobody names one: the promoted one, else the newest whole run. A run that
departed from its recipe is served only by name, or once promoted.

Functions that take a `folder` read models from that plain folder, which digits/exported.py writes, by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from digits.card import Card
from digits.contract import EXPORTED, Backend
from digits.errors import ModelDamaged, ModelNotFound, StoreError
from digits.misread import FILE as MISREAD
from digits.misread import Misread

if TYPE_CHECKING:
    import bentoml

MODULE: Final = "samedigit"  # what BentoML's model.yaml names as the maker; tells our models from others in the store
RECIPE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")  # what BentoML takes for a name as it is
PROMOTED: Final = "promoted"  # the file, beside BentoML's `latest`, that holds the promoted version of a recipe
VERSION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # of a model in a plain folder
CARD: Final = "card.json"  # the card of such a model, beside its files
MODEL_BYTES: Final = 20_000_000  # more than the largest takes while it is made


@dataclass(frozen=True)
class StoredModel:
    """A trained recipe in the store: `recipe:version`, the folder of its files, and its card."""

    recipe: str
    version: str
    folder: Path
    card: Card
    exported: bool = False  # it lies in a plain folder, not in BentoML's store

    @property
    def tag(self) -> str:
        return f"{self.recipe}:{self.version}"

    def path(self, backend: Backend) -> Path:
        """What `backend` opens.

        Raises:
            ModelNotFound: the model was stored without a file for this backend.
        """
        if backend not in self.card.backends:
            raise ModelNotFound(
                f"{self.tag} is stored without a file for {backend}; it has {', '.join(self.card.backends)}. "
                f"Install the missing framework and train it again: samedigit train {self.recipe}"
            )
        return self.folder / EXPORTED[backend]

    def verify(self, backend: Backend) -> None:
        """Compares the files of `backend` with the hashes on the card.

        Raises:
            ModelDamaged: a file is missing or changed.
        """
        self._verify(EXPORTED[backend])

    def misread(self) -> Misread | None:
        """The test images that it gets wrong; None where it was stored without them.

        Raises:
            ModelDamaged: the file is missing or changed.
        """
        self._verify(MISREAD)
        return Misread.read(self.folder)

    def _verify(self, top: str) -> None:
        for name, digest in self.card.files.items():
            if name != top and not name.startswith(f"{top}/"):
                continue
            file = self.folder / name
            found = _sha256(file) if file.is_file() else "no such file"
            if found != digest:
                raise ModelDamaged(
                    f"{file} is not the file that was stored: expected sha256 {digest}, got {found}. "
                    f"{self._how_to_mend()}"
                )

    def _how_to_mend(self) -> str:
        if self.exported:
            return f"Export it again: samedigit export {self.folder.parent.parent} {self.tag}"
        return f"Delete the model (bentoml models delete {self.tag}) and train it again: samedigit train {self.recipe}"


def stored_models(recipe: str | None = None, *, folder: Path | None = None) -> list[StoredModel]:
    """Every model in the store, or of one recipe, by recipe, the newest version of each first.

    Raises:
        StoreError: the store cannot be read.
        ModelDamaged: a card cannot be read.
    """
    ours = _in_bentoml(recipe) if folder is None else _in_folder(folder, recipe)
    newest_first = sorted(ours, key=lambda model: model.card.trained_at, reverse=True)
    return sorted(newest_first, key=lambda model: model.recipe)


def _in_bentoml(recipe: str | None) -> list[StoredModel]:
    import bentoml

    try:
        found = bentoml.models.list(recipe)
    except (FileNotFoundError, bentoml.exceptions.NotFound):
        return []
    except OSError as error:
        raise _unreadable(error) from error
    return [_stored(model) for model in found if model.info.module == MODULE]


def _in_folder(folder: Path, recipe: str | None) -> list[StoredModel]:
    """A version without a card is passed over: somebody may be copying it."""
    try:
        if not folder.is_dir():
            raise StoreError(f"{folder} is no folder of models. Write one: samedigit export {folder}")
        recipes = [one.name for one in _folders(folder)] if recipe is None else [recipe]
        return [
            _with_card(version)
            for name in recipes
            if RECIPE.fullmatch(name)
            for version in _folders(folder / name)
            if VERSION.fullmatch(version.name) and (version / CARD).is_file()
        ]
    except OSError as error:
        raise _unreadable(error, folder) from error


def _with_card(version: Path) -> StoredModel:
    recipe = version.parent.name
    try:
        card = Card.from_data(json.loads((version / CARD).read_bytes()))
        if card.recipe["name"] != recipe:
            raise ValueError(f"it is of {card.recipe['name']}")
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise ModelDamaged(
            f"{version / CARD} is not the card of a model of {recipe} that this version of Samedigit can read ({error}). "
            f"Remove {version}, or export it again: samedigit export {version.parent.parent} {recipe}:{version.name}"
        ) from error
    return StoredModel(recipe=recipe, version=version.name, folder=version, card=card, exported=True)


def served_models(*, folder: Path | None = None) -> list[StoredModel]:
    """The served version of each stored recipe, by recipe; without those recipes that have only departed runs.

    Raises:
        StoreError: the store cannot be read.
        ModelDamaged: a card cannot be read.
        ModelNotFound: a promoted version is stored no more.
    """
    by_recipe = groupby(stored_models(folder=folder), key=lambda model: model.recipe)
    served = [served_version(list(versions), folder=folder) for _, versions in by_recipe]
    return [model for model in served if model is not None]


def best_model() -> StoredModel:
    """Of the served models the one to read anybody's digits (`Card.merit`).

    Raises:
        ModelNotFound: none is served; and as `served_models`.
    """
    models = served_models()
    if not models:
        raise ModelNotFound(f"There is no model to read with: {nothing_served()}")
    return max(models, key=lambda model: model.card.merit)


def served_version(versions: Sequence[StoredModel], *, folder: Path | None = None) -> StoredModel | None:
    """Which of one recipe's stored `versions`, at least one, the newest first, is served where nobody names one.

    The promoted one, else the newest whole run; None where every run departed from the recipe.

    Raises:
        ModelNotFound: the promoted version is stored no more. It is for a person to say what comes in its place: another
            version in silence may be the one that the promotion was to keep away.
    """
    recipe = versions[0].recipe
    promoted = promoted_version(recipe, folder=folder)
    if promoted is None:
        return next((model for model in versions if model.card.is_whole), None)
    for model in versions:
        if model.version == promoted:
            return model
    raise ModelNotFound(
        f"{recipe}:{promoted} was promoted, and is stored no more; there are {_tags(versions)}. "
        f"Promote another: {_how_to_promote(versions[0], folder)}"
    )


def _how_to_promote(model: StoredModel, folder: Path | None) -> str:
    if folder is None:
        return f"samedigit promote {model.tag}"
    return f"echo {model.version} > {folder / model.recipe / PROMOTED}"


def nothing_served(*, folder: Path | None = None) -> str:
    """Why `served_models` is empty, and what to do: the end of a sentence."""
    models = stored_models(folder=folder)
    if not models and folder is not None:
        return (
            f"no model is in {folder}, where RECIPE/VERSION has {CARD} and the files that it names. "
            f"Write one: samedigit export {folder}"
        )
    if not models:
        return f"no model is stored in {bentoml_home()}. Train one: samedigit train --all"
    departed = ", ".join(f"{model.tag}: {model.card.departed_in_words}" for model in models)
    return (
        f"every stored run departed from its recipe ({departed}), and such a run is served only by name, or once "
        f"promoted: {_how_to_promote(models[0], folder)}"
    )


def promoted_version(recipe: str, *, folder: Path | None = None) -> str | None:
    """The promoted version of `recipe`, be it stored or not; None where none was promoted.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        return (_recipes(folder) / recipe / PROMOTED).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(error, folder) from error


def _recipes(folder: Path | None) -> Path:
    """Where the recipes' folders are."""
    return bentoml_home() / "models" if folder is None else folder


def promote(tag: str) -> StoredModel:
    """Makes the model called `recipe:version` the served version of its recipe; for `recipe`, its newest whole run.

    Until another is promoted: what is trained later is not served by itself.

    Raises:
        ModelNotFound: no such model, or no whole run of the recipe.
        ModelDamaged: one of its files is missing or changed.
        StoreError: the store cannot be read or written.
    """
    recipe, _, version = tag.partition(":")
    versions = _versions(recipe)
    if version or not versions:
        model = find_model(tag)
    else:
        whole = [model for model in versions if model.card.is_whole]
        if not whole:
            raise ModelNotFound(f"No run of {recipe} is whole. Name the one to promote; there are {_tags(versions)}.")
        model = whole[0]
    for backend in model.card.backends:
        model.verify(backend)
    home = bentoml_home()
    try:
        with tempfile.TemporaryDirectory(prefix="samedigit-", dir=home) as staging:
            _point(home / "models" / recipe / PROMOTED, at=model.version, staging=Path(staging))
    except OSError as error:
        raise StoreError(f"{model.tag} could not be promoted in {home}: {error}. {_STORE_ADVICE}") from error
    return model


def store_signature(*, folder: Path | None = None) -> Hashable:
    """Something that is equal as long as the store is the same: no model was stored, deleted or promoted meanwhile.

    Reads names and times alone: some 20 us for each model, or for each file of a plain folder.

    Raises:
        StoreError: the store cannot be read.
    """
    recipes = _recipes(folder)
    state = _state if folder is None else _states
    try:
        return tuple(
            (recipe, promoted_version(recipe, folder=folder), tuple(map(state, _folders(recipes / recipe))))
            for recipe in (one.name for one in _folders(recipes))
            if RECIPE.fullmatch(recipe)  # nor lost+found, which cannot be read, nor an export that is under way
        )
    except OSError as error:
        raise _unreadable(error, folder) from error


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except FileNotFoundError:  # an empty store, or a recipe that is being deleted
        return []


def _state(version: Path) -> tuple[str, int, int]:
    try:
        card = (version / "model.yaml").stat()
    except FileNotFoundError:  # half made or half deleted by BentoML
        return version.name, 0, 0
    return version.name, card.st_mtime_ns, card.st_size


def _states(version: Path) -> tuple[str, Hashable]:
    """Of every file, since who copies into a plain folder may bring the card first."""
    found = []
    for file in sorted(version.rglob("*")):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        found.append((str(file), status.st_mtime_ns, status.st_size))
    return version.name, tuple(found)


def find_model(tag: str, *, folder: Path | None = None) -> StoredModel:
    """The model called `recipe` (the version that is served), `recipe:version`, or `recipe:latest` (the newest of all).

    Of a recipe that has only departed runs, `recipe` is the newest of them.

    Raises:
        ModelNotFound: no such model, and the message names those there are; or the promoted version is stored no more.
    """
    recipe, _, version = tag.partition(":")
    versions = _versions(recipe, folder)
    if versions and not version:
        return served_version(versions, folder=folder) or versions[0]
    for model in versions:
        if version in ("latest", model.version):
            return model
    models = stored_models(folder=folder)
    if folder is not None:
        there = f"there are {_tags(models)}" if models else "it has none"
        raise ModelNotFound(f"No model {tag} is in {folder}; {there}. Export it: samedigit export {folder} {tag}")
    if not models:
        raise ModelNotFound(f"No model is stored, so there is no {tag}. Train one: samedigit train {recipe}")
    raise ModelNotFound(f"No model {tag} is stored; there are {_tags(models)}. Train it: samedigit train {recipe}")


def _versions(recipe: str, folder: Path | None = None) -> list[StoredModel]:
    """Of this recipe alone: BentoML takes milliseconds to read a model."""
    return stored_models(recipe, folder=folder) if RECIPE.fullmatch(recipe) else []


def _tags(models: Sequence[StoredModel]) -> str:
    return ", ".join(model.tag for model in models)


def require_space() -> None:
    """Raises StoreError if the store cannot be written or has no room for a model: better told before training."""
    home = bentoml_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="samedigit-", dir=home):
            pass
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise StoreError(f"The model store {home} cannot be written: {error.strerror}. {_STORE_ADVICE}") from error
    if free < MODEL_BYTES:
        raise StoreError(
            f"The model store {home} has {free / 1e6:.1f} MB left, and a model needs up to {MODEL_BYTES / 1e6:.0f}. "
            f"{_STORE_ADVICE}"
        )


def save(recipe: str, *, fill: Callable[[Path], Card]) -> StoredModel:
    """Stores a new version of `recipe`, or nothing.

    Args:
        recipe: the model's name.
        fill: writes the model's files into the folder it is given and returns the card; `files` and `bytes` of the
            card are its to fill, see `hashes` and `sizes`.

    Raises:
        StoreError: the store cannot be written.
    """
    import bentoml
    from bentoml._internal.models import ModelStore  # no public way to write beside the store; tests/test_store.py

    home = bentoml_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="samedigit-", dir=home))  # the store's own disk, so that rename works
    except OSError as error:
        raise StoreError(f"The model store {home} cannot be written: {error.strerror}. {_STORE_ADVICE}") from error
    try:
        with bentoml.models.create(
            recipe,
            module=MODULE,
            _model_store=ModelStore(staging),
        ) as model:
            card = fill(Path(model.path))
            model.info.metadata.update(card.to_data())
            model.info.labels.update({"framework": card.framework})
        version = str(model.tag.version)
        ModelStore(staging).get(recipe)  # reads it back: one model that BentoML cannot read would hide all others
        destination = home / "models" / recipe
        destination.mkdir(parents=True, exist_ok=True)
        os.rename(staging / recipe / version, destination / version)
        _point(destination / "latest", at=version, staging=staging)
    except OSError as error:
        raise StoreError(f"{recipe} could not be stored in {home}: {error}. {_STORE_ADVICE}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return StoredModel(recipe=recipe, version=version, folder=destination / version, card=card)


def _point(file: Path, *, at: str, staging: Path) -> None:
    """Writes a version into `file`, at once and whole: first into the folder `staging`, which is on the same disk."""
    written = staging / file.name
    written.write_text(at)
    os.replace(written, file)


def _unreadable(error: OSError, folder: Path | None = None) -> StoreError:
    if folder is not None:
        return StoreError(f"The folder of models {folder} cannot be read: {error.strerror}. Fix its permissions.")
    return StoreError(f"The model store {bentoml_home()} cannot be read: {error.strerror}. {_STORE_ADVICE}")


_STORE_ADVICE: Final = "Free some space or fix its permissions, or set BENTOML_HOME to another folder."


def bentoml_home() -> Path:
    """Where BentoML keeps its stores: `BENTOML_HOME`, or `~/bentoml`."""
    return Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml"))


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below `folder`, by its path there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in files}


def size(path: Path) -> int:
    """In bytes, of a file or of everything below a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _stored(model: bentoml.Model) -> StoredModel:
    metadata: dict[str, Any] = dict(model.info.metadata)
    try:
        card = Card.from_data(metadata)
    except (TypeError, KeyError) as error:
        raise ModelDamaged(
            f"The card of {model.tag} cannot be read ({error}); it was stored by another version of Samedigit. "
            f"Delete it: bentoml models delete {model.tag}"
        ) from error
    return StoredModel(recipe=model.tag.name, version=str(model.tag.version), folder=Path(model.path), card=card)
