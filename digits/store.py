"""Stored models: BentoML's Model Store, with a card as metadata.

BentoML copies a new model into its store file by file, so that a process killed meanwhile leaves a half-made model
there. `save` lets BentoML write beside the store and renames the finished folder into it.

Which version of a recipe is served where nobody names one: the promoted one, else the newest whole run. A run that
departed from its recipe is served only by name, or once promoted.
"""

from __future__ import annotations

import hashlib
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
MODEL_BYTES: Final = 20_000_000  # more than the largest takes while it is made


@dataclass(frozen=True)
class StoredModel:
    """A trained recipe in the store: `recipe:version`, the folder of its files, and its card."""

    recipe: str
    version: str
    folder: Path
    card: Card

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
                    f"{file} is not the file that was stored: expected sha256 {digest}, got {found}. Delete the model "
                    f"(bentoml models delete {self.tag}) and train it again: samedigit train {self.recipe}"
                )


def stored_models(recipe: str | None = None) -> list[StoredModel]:
    """Every model in the store, or of one recipe, by recipe, the newest version of each first.

    Raises:
        StoreError: the store cannot be read.
        ModelDamaged: a card cannot be read.
    """
    import bentoml

    try:
        found = bentoml.models.list(recipe)
    except (FileNotFoundError, bentoml.exceptions.NotFound):
        return []
    except OSError as error:
        raise _unreadable(error) from error
    ours = [_stored(model) for model in found if model.info.module == MODULE]
    newest_first = sorted(ours, key=lambda model: model.card.trained_at, reverse=True)
    return sorted(newest_first, key=lambda model: model.recipe)


def served_models() -> list[StoredModel]:
    """The served version of each stored recipe, by recipe; without those recipes that have only departed runs.

    Raises:
        StoreError: the store cannot be read.
        ModelDamaged: a card cannot be read.
        ModelNotFound: a promoted version is stored no more.
    """
    by_recipe = groupby(stored_models(), key=lambda model: model.recipe)
    served = [served_version(list(versions)) for _, versions in by_recipe]
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


def served_version(versions: Sequence[StoredModel]) -> StoredModel | None:
    """Which of one recipe's stored `versions`, at least one, the newest first, is served where nobody names one.

    The promoted one, else the newest whole run; None where every run departed from the recipe.

    Raises:
        ModelNotFound: the promoted version is stored no more. It is for a person to say what comes in its place: another
            version in silence may be the one that the promotion was to keep away.
    """
    recipe = versions[0].recipe
    promoted = promoted_version(recipe)
    if promoted is None:
        return next((model for model in versions if model.card.is_whole), None)
    for model in versions:
        if model.version == promoted:
            return model
    raise ModelNotFound(
        f"{recipe}:{promoted} was promoted, and is stored no more; there are {_tags(versions)}. "
        f"Promote another: samedigit promote {versions[0].tag}"
    )


def nothing_served() -> str:
    """Why `served_models` is empty, and what to do: the end of a sentence."""
    models = stored_models()
    if not models:
        return f"no model is stored in {bentoml_home()}. Train one: samedigit train --all"
    departed = ", ".join(f"{model.tag}: {model.card.departed_in_words}" for model in models)
    return (
        f"every stored run departed from its recipe ({departed}), and such a run is served only by name, or once "
        f"promoted: samedigit promote {models[0].tag}"
    )


def promoted_version(recipe: str) -> str | None:
    """The promoted version of `recipe`, be it stored or not; None where none was promoted.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        return (bentoml_home() / "models" / recipe / PROMOTED).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(error) from error


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


def store_signature() -> Hashable:
    """Something that is equal as long as the store is the same: no model was stored, deleted or promoted meanwhile.

    Reads names and times alone: some 20 us for each model.

    Raises:
        StoreError: the store cannot be read.
    """
    recipes = bentoml_home() / "models"
    try:
        return tuple(
            (recipe, promoted_version(recipe), tuple(_state(folder) for folder in _folders(recipes / recipe)))
            for recipe in (folder.name for folder in _folders(recipes))
        )
    except OSError as error:
        raise _unreadable(error) from error


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


def find_model(tag: str) -> StoredModel:
    """The model called `recipe` (the version that is served), `recipe:version`, or `recipe:latest` (the newest of all).

    Of a recipe that has only departed runs, `recipe` is the newest of them.

    Raises:
        ModelNotFound: no such model, and the message names those there are; or the promoted version is stored no more.
    """
    recipe, _, version = tag.partition(":")
    versions = _versions(recipe)
    if versions and not version:
        return served_version(versions) or versions[0]
    for model in versions:
        if version in ("latest", model.version):
            return model
    models = stored_models()
    if not models:
        raise ModelNotFound(f"No model is stored, so there is no {tag}. Train one: samedigit train {recipe}")
    raise ModelNotFound(f"No model {tag} is stored; there are {_tags(models)}. Train it: samedigit train {recipe}")


def _versions(recipe: str) -> list[StoredModel]:
    """Of this recipe alone: BentoML takes milliseconds to read a model."""
    return stored_models(recipe) if RECIPE.fullmatch(recipe) else []


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


def _unreadable(error: OSError) -> StoreError:
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
