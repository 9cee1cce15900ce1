"""What a stored model reads of digits that are not MNIST's, kind by kind."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from digits.card import Score
from digits.contract import Backend, Images, Probabilities
from digits.errors import KindMissing, NotInstalled, ReportError, ResultsMissing
from digits.kinds.fonts import Face
from digits.kinds.idx import pairs
from digits.kinds.table import KINDS, Kind
from digits.mnist import LabelledImages
from runtimes.backends import how_to_install, is_installed

Predict = Callable[[Images], Probabilities]

RESULTS_FILE: Final = "beyond.json"
QUICKEST: Final[tuple[Backend, ...]] = ("onnx", "torch", "tensorflow", "numpy")  # to read many images


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one model gets right of one kind of digits, or why that cannot be said here."""

    kind: str
    group: str
    about: str
    source: str
    made: str
    score: Score | None  # None where the kind is missing
    missing: str | None  # what it needs then
    trained_like: tuple[str, ...]  # the model's augmentations that resemble the kind, and drawn digits where they do
    faces: tuple[tuple[str, str], ...] = ()  # of fonts: name, and sha256 of the file

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Reading:
        """The inverse of `dataclasses.asdict`, also after a way through JSON.

        Raises:
            TypeError, KeyError: a field is missing, or unknown.
        """
        return cls(
            **{
                **data,
                "score": data["score"] and Score(**data["score"]),
                "trained_like": tuple(data["trained_like"]),
                "faces": tuple((name, digest) for name, digest in data["faces"]),
            }
        )


def read_kinds(
    predict: Predict,
    test_images: LabelledImages,
    *,
    recipe: Mapping[str, Any],
    fonts: Sequence[Path] = (),
    kinds: Sequence[Kind] = KINDS,
) -> Iterator[Reading]:
    """A reading of each kind, as soon as it is had.

    Args:
        predict: of a runtime.
        test_images: MNIST's.
        recipe: the card's.
        fonts: folders of fonts; the system's without this.
        kinds: which to read.
    """
    for kind in kinds:
        score, missing = None, None
        faces: tuple[Face, ...] = ()
        try:
            made = kind.digits(test_images, fonts=fonts)
        except KindMissing as error:
            missing = str(error)
        else:
            score = Score.of(predict(made.digits.images), made.digits.labels)
            faces = made.faces
        yield Reading(
            kind=kind.name,
            group=kind.group,
            about=kind.about,
            source=kind.source,
            made=kind.made,
            score=score,
            missing=missing,
            trained_like=trained_like(kind, recipe),
            faces=tuple((face.name, face.sha256) for face in faces),
        )


def read_folder(predict: Predict, folder: Path) -> Iterator[Reading]:
    """A reading of each pair of images and labels in a folder of the user's.

    Raises:
        DataError: it holds none, or none that can be read.
    """
    for name, digits in pairs(folder):
        yield Reading(
            kind=name,
            group="given",
            about=f"the images {name} in {folder}",
            source=str(folder),
            made="as they are",
            score=Score.of(predict(digits.images), digits.labels),
            missing=None,
            trained_like=(),
        )


def scores_of_changes(predict: Predict, test_images: LabelledImages, *, threads: int) -> dict[str, Score]:
    """What the card holds: of every kind that is made of MNIST's test images alone, and so can be had anywhere.

    Args:
        predict: of a runtime, all of which may be called from several threads.
        test_images: MNIST's.
        threads: that make and read kinds side by side.
    """

    def read_one(kind: Kind) -> Reading:
        (reading,) = read_kinds(predict, test_images, recipe={}, kinds=[kind])
        return reading

    with ThreadPoolExecutor(threads) as pool:
        readings = list(pool.map(read_one, (kind for kind in KINDS if kind.needs_nothing)))
    return {reading.kind: reading.score for reading in readings if reading.score is not None}


def quickest(backends: Collection[Backend]) -> Backend:
    """The backend through which to read many images, of those that a model has.

    Raises:
        NotInstalled: none of them is installed.
    """
    for backend in QUICKEST:
        if backend in backends and is_installed(backend):
            return backend
    missing = next(backend for backend in QUICKEST if backend in backends)
    raise NotInstalled(f"The {missing} backend is not installed: {how_to_install(missing)}")


def trained_like(kind: Kind, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """What in a card's recipe makes that the model was trained on something like this kind: augmentations, drawn digits."""
    used = {str(each.get("augmentation")) for each in recipe.get("augmentation", ()) if isinstance(each, Mapping)}
    if recipe.get("drawn"):
        used.add("drawn digits")
    return tuple(name for name in kind.resembles if name in used)


def keep_readings(results: Path, model: str, readings: Sequence[Reading]) -> Path:
    """Puts a model's readings beside those of other models in the folder `results`, in place of its older ones.

    Raises:
        ReportError: the folder cannot be written.
        ResultsMissing: what is there cannot be read.
    """
    path = results / RESULTS_FILE
    kept = kept_readings(results)
    before = [one for one in kept.get(model, ()) if one.kind not in {reading.kind for reading in readings}]
    kept[model] = (*before, *readings)
    data = {tag: [dataclasses.asdict(reading) for reading in of_model] for tag, of_model in kept.items()}
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="samedigit-", dir=results) as staging:
            written = Path(staging) / RESULTS_FILE
            written.write_text(json.dumps(data, indent=1))
            os.replace(written, path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def kept_readings(results: Path) -> dict[str, tuple[Reading, ...]]:
    """By model, `recipe:version`, what `keep_readings` has put into the folder; nothing where it has not.

    Raises:
        ResultsMissing: what is there cannot be read.
    """
    path = results / RESULTS_FILE
    try:
        data = json.loads(path.read_bytes())
        return {tag: tuple(map(Reading.from_data, of_model)) for tag, of_model in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultsMissing(
            f"{path} cannot be read ({error}); it was written by another version of Samedigit, or is no whole file. Delete it, "
            f"and evaluate again: samedigit evaluate MODEL --beyond"
        ) from error
