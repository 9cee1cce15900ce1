"""Copies the served version of each stored recipe into build/image/TARGET, where docker/Dockerfile takes it from.

`docker/build-image` runs it as `stage_models.py TARGET`. The folder is a BentoML home with nothing in it but what the
target's backends open.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from digits import store
from digits.contract import BACKENDS, Backend
from digits.errors import ModelNotFound, SamedigitError
from digits.store import StoredModel

SERVED: Final[dict[str, tuple[Backend, ...]]] = {"onnx": ("numpy", "onnx"), "all": BACKENDS}  # by target


def stage_models(destination: Path, backends: tuple[Backend, ...]) -> list[StoredModel]:
    """Makes `destination` anew, with the served version of each stored recipe that one of `backends` opens.

    Raises:
        ModelNotFound: nothing of that kind is stored, or a promoted version no more.
        ModelDamaged: a stored file is missing or changed.
    """
    served = store.served_models()
    if not served:
        raise ModelNotFound(f"The image has nothing to serve: {store.nothing_served()}")
    models = [model for model in served if set(backends) & set(model.card.backends)]
    if not models:
        raise ModelNotFound(
            f"The image has nothing to serve: no model for {' or '.join(backends)} is stored in {store.bentoml_home()}. "
            f"Train them first: samedigit train --all"
        )
    beside = destination.with_name(f"{destination.name}.part")
    for folder in (beside, destination):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("bentos", "envs", "tmp"):  # which BentoML makes where they are missing, and in the image it cannot
        (beside / name).mkdir(parents=True)
    for model in models:
        _copy(model, beside / "models" / model.recipe, backends)
    for path in (beside, *beside.rglob("*")):  # BentoML's folders are for its user alone; the image has another one
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.rename(beside, destination)
    return models


def _copy(model: StoredModel, folder: Path, backends: tuple[Backend, ...]) -> None:
    version = folder / model.version
    version.mkdir(parents=True)
    shutil.copyfile(model.folder / "model.yaml", version / "model.yaml")
    for backend in backends:
        if backend not in model.card.backends:
            continue
        model.verify(backend)
        source = model.path(backend)
        if source.is_dir():
            shutil.copytree(source, version / source.name)
        else:
            shutil.copyfile(source, version / source.name)
    (folder / "latest").write_text(model.version)
    if store.promoted_version(model.recipe) is not None:  # a run that departed from its recipe is served by that alone
        (folder / store.PROMOTED).write_text(model.version)


if __name__ == "__main__":
    target = sys.argv[1]
    try:
        staged = stage_models(Path("build/image") / target, SERVED[target])
    except SamedigitError as error:
        sys.exit(f"build-image: {error}")
    print(f"build-image: models {', '.join(model.tag for model in staged)}")
