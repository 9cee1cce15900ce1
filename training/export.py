"""A model in every format, each file held against the model it came from.

Its own framework exports to ONNX and to its native format. The formats of the other frameworks are written by them, from
the same weights, each in a process of its own: torch and TensorFlow disagree in one process (each brings an LLVM; if
TensorFlow's is loaded first, torch's aborts), and what such a process proves besides is that the files open without the
process that trained.

    python -m training.export FRAMEWORK FOLDER      is such a process; the recipe comes as JSON on its standard input
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from digits import mnist
from digits.card import Score
from digits.contract import EXPORTED, FRAMEWORKS, Backend, Framework, Images, Probabilities
from digits.errors import ExportError
from digits.mnist import LabelledImages
from runtimes.backends import is_installed as backend_is_installed
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
from runtimes.numpy_runtime import read
from training import trainers
from training.recipes import Recipe
from training.trainers import NATIVE, Trainer

# By how much a probability of an exported file may differ from the trained model's: float32 rounding, no more.
TOLERANCE: Final = 1e-5
ANSWERS: Final = "answers-of-{}.npy"  # what such a process leaves beside its export, for this one to compare


def export_all(
    model: Any, trainer: Trainer, recipe: Recipe, folder: Path, test_images: LabelledImages
) -> tuple[dict[Backend, Score], dict[Backend, float]]:
    """Writes every format that the installed frameworks can write, and verifies each file.

    Returns:
        How many test images each file gets right through the runtime that will serve it, and the largest difference of
        any of its probabilities from the model's own.

    Raises:
        ExportError: an export failed, or does not answer as the model does.
    """
    native = NATIVE[recipe.framework]
    trainer.export_onnx(model, recipe, folder / EXPORTED["onnx"])
    trainer.export_native(model, recipe, folder / EXPORTED[native])
    if native != "numpy":  # the NumPy file is also how the weights reach the other processes
        numpy_trainer = trainers.load_trainer("numpy")
        weights = numpy_trainer.with_weights(recipe, trainer.get_weights(model))
        numpy_trainer.export_native(weights, recipe, folder / EXPORTED["numpy"])
    here: list[Backend] = [backend for backend in ("numpy", "onnx", native) if backend_is_installed(backend)]
    elsewhere = [other for other in FRAMEWORKS if NATIVE[other] not in here and trainers.is_installed(other)]
    with ThreadPoolExecutor() as pool:  # each waits for its process
        theirs = {NATIVE[other]: pool.submit(_elsewhere, other, recipe, folder) for other in elsewhere}
        answers = {backend: _answers(backend, folder, test_images.images) for backend in here}
        answers |= {backend: answer.result() for backend, answer in theirs.items()}

    expected = trainer.predict(model, recipe, test_images.images)  # [10000, 10]
    differences = {
        backend: float(np.abs(answers[backend] - expected).max()) for backend in EXPORTED if backend in answers
    }
    for backend, difference in differences.items():
        if not difference <= TOLERANCE:  # also when it is NaN
            raise ExportError(
                f"{recipe.name} exported for {backend} differs from the trained model by {difference:.1e} in "
                f"probability; at most {TOLERANCE:.0e} is rounding. Nothing was stored."
            )
    return {backend: Score.of(answers[backend], test_images.labels) for backend in differences}, differences


def _answers(backend: Backend, folder: Path, images: Images) -> Probabilities:
    return predict_all(open_runtime(backend, folder / EXPORTED[backend], device=CPU), images)


def _elsewhere(framework: Framework, recipe: Recipe, folder: Path) -> Probabilities:
    process = subprocess.run(
        [sys.executable, "-m", "training.export", framework, str(folder)],
        input=json.dumps(recipe.to_data()),
        capture_output=True,
        text=True,
    )
    if process.returncode != 0:
        raise ExportError(
            f"{recipe.name} could not be exported through {framework} (exit {process.returncode}). Nothing was stored. "
            f"It said:\n{process.stderr.strip()[-2000:]}"
        )
    answers = folder / ANSWERS.format(framework)
    probabilities: Probabilities = np.load(answers, allow_pickle=False)
    answers.unlink()
    return probabilities


def _export_here(framework: Framework, folder: Path, fields: dict[str, Any]) -> None:
    recipe = Recipe.from_data(fields)
    trainer = trainers.load_trainer(framework)
    _, weights = read(folder / EXPORTED["numpy"])
    backend = NATIVE[framework]
    trainer.export_native(trainer.with_weights(recipe, weights), recipe, folder / EXPORTED[backend])
    np.save(folder / ANSWERS.format(framework), _answers(backend, folder, mnist.test_images().images))


if __name__ == "__main__":
    _export_here(sys.argv[1], Path(sys.argv[2]), json.load(sys.stdin))  # type: ignore[arg-type]
