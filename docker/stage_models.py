"""Exports the served version of each stored recipe into build/image/TARGET, where docker/Dockerfile takes it from.

`docker/build-image` runs it as `stage_models.py TARGET`. In the folder is what the target's backends open, and nothing else.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from digits import store
from digits.contract import BACKENDS, Backend
from digits.errors import ModelNotFound, SamedigitError
from digits.exported import export
from digits.store import StoredModel

SERVED: Final[dict[str, tuple[Backend, ...]]] = {  # by target
    "onnx": ("numpy", "onnx"),
    "all": BACKENDS,
    "gpu": ("torch", "onnx"),  # numpy knows no GPU, and TensorFlow's CUDA is another than torch's
}


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
    export(models, beside, backends=backends)
    beside.rename(destination)
    return models


if __name__ == "__main__":
    target = sys.argv[1]
    try:
        staged = stage_models(Path("build/image") / target, SERVED[target])
    except SamedigitError as error:
        sys.exit(f"build-image: {error}")
    print(f"build-image: models {', '.join(model.tag for model in staged)}")
