"""Stored models: BentoML's Model Store, with a card as metadata.

BentoML copies a new model into its store file by file, so that a process killed meanwhile leaves a half-made model
there. `save` lets BentoML write beside the store and renames the finished folder into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from digits.card import Card
from digits.contract import EXPORTED, Backend
from digits.errors import ModelDamaged, ModelNotFound, StoreError

if TYPE_CHECKING:
    import bentoml

MODULE: Final = "samedigit"  # what BentoML's model.yaml names as the maker; tells our models from others in the store
RECIPE: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")  # what BentoML takes for a name as it is
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
        top = EXPORTED[backend]
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
        raise StoreError(
            f"The model store {bentoml_home()} cannot be read: {error.strerror}. {_STORE_ADVICE}"
        ) from error
    ours = [_stored(model) for model in found if model.info.module == MODULE]
    newest_first = sorted(ours, key=lambda model: model.card.trained_at, reverse=True)
    return sorted(newest_first, key=lambda model: model.recipe)


def newest_models() -> list[StoredModel]:
    """The newest version of each stored recipe."""
    newest: dict[str, StoredModel] = {}
    for model in stored_models():
        newest.setdefault(model.recipe, model)
    return list(newest.values())


def find_model(tag: str) -> StoredModel:
    """The model called `recipe` (its newest version) or `recipe:version`.

    Raises:
        ModelNotFound: no such model; the message names those there are.
    """
    recipe, _, version = tag.partition(":")
    if RECIPE.fullmatch(recipe):  # BentoML takes milliseconds to read a model, so no other recipe's
        for model in stored_models(recipe):
            if version in ("", "latest", model.version):
                return model
    models = stored_models()
    if not models:
        raise ModelNotFound(f"No model is stored, so there is no {tag}. Train one: samedigit train {recipe}")
    raise ModelNotFound(
        f"No model {tag} is stored; there are {', '.join(model.tag for model in models)}. "
        f"Train it: samedigit train {recipe}"
    )


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
        latest = staging / "latest"
        latest.write_text(version)
        os.replace(latest, destination / "latest")
    except OSError as error:
        raise StoreError(f"{recipe} could not be stored in {home}: {error}. {_STORE_ADVICE}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return StoredModel(recipe=recipe, version=version, folder=destination / version, card=card)


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
