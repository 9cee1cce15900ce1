"""Images and labels that a user has, in the format of MNIST's files (LeCun, Cortes, Burges: "IDX")."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from digits.contract import CLASSES, SIDE
from digits.errors import DataError
from digits.mnist import LabelledImages

IMAGES_NAME: Final = re.compile(r"(?P<part>.*)images[-.]idx3-ubyte(\.gz)?")
TYPES: Final[dict[int, np.dtype[Any]]] = {
    0x08: np.dtype("u1"),
    0x0C: np.dtype(">i4"),  # QMNIST's labels
}
EXPECTED: Final = (
    "Expected are pairs as MNIST's, gzipped or not: NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte (or QMNIST's "
    "NAME-labels-idx2-int)."
)


def pairs(folder: Path) -> Iterator[tuple[str, LabelledImages]]:
    """Every pair of images and labels in `folder`, by name.

    EMNIST's images are stored with rows and columns exchanged, and are put right, which their name is known by.

    Raises:
        DataError: there is no pair, a file is truncated or of another format, or what it holds are not images of 28 by 28
            pixels with labels from 0 to 9.
    """
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}. {EXPECTED}") from error
    found = {match["part"]: name for name in names if (match := IMAGES_NAME.fullmatch(name))}
    if not found:
        raise DataError(f"{folder} holds no file of images. {EXPECTED}")
    for part, name in found.items():
        labels_name = re.compile(re.escape(part) + r"labels[-.](idx1-ubyte|idx2-int)(\.gz)?")
        labels = next((other for other in names if labels_name.fullmatch(other)), None)
        if labels is None:
            raise DataError(f"{folder / name} has no labels beside it. {EXPECTED}")
        pair = _pair(folder / name, folder / labels)
        yield part.rstrip("-.") or folder.name, pair


def _pair(images_file: Path, labels_file: Path) -> LabelledImages:
    images, labels = _read(images_file), _read(labels_file)
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or images.dtype != np.uint8:
        shape = " by ".join(map(str, images.shape[1:]))
        raise DataError(
            f"{images_file} holds images of {shape} pixels; expected {SIDE} by {SIDE} bytes. Bring them to that size as "
            f"MNIST's were: the digit in 20 by 20, its centre of mass in the middle, 0 for the background."
        )
    if labels.ndim == 2:
        labels = labels[:, 0]  # QMNIST's: the class, then who wrote it, and where it comes from
    if labels.shape != (len(images),):
        raise DataError(
            f"{labels_file} holds {len(labels)} labels, and {images_file} {len(images)} images: not a pair."
        )
    if len(images) == 0:
        raise DataError(f"{images_file} holds no images.")
    strange = labels[(labels < 0) | (labels >= CLASSES)]
    if len(strange):
        raise DataError(
            f"{labels_file} has labels that are no digits, the first of them {strange[0]}; expected 0 to 9. (Of EMNIST, the "
            f"parts `digits` and `mnist` are of digits alone.)"
        )
    if images_file.name.startswith("emnist"):
        images = images.transpose(0, 2, 1)
    return LabelledImages(images=np.ascontiguousarray(images), labels=labels.astype(np.uint8))


def _read(file: Path) -> npt.NDArray[Any]:
    """The array in one file of the format: its type and its sides, then what it holds, the last side running fastest."""
    try:
        packed = file.read_bytes()
        contents = gzip.decompress(packed) if file.suffix == ".gz" else packed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is not a whole gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    if len(contents) >= 4:
        zeros, number, sides = struct.unpack_from(">HBB", contents)
        if zeros != 0 or number not in TYPES or not 1 <= sides <= 3:
            raise DataError(f"{file} is not of this format: it begins with {contents[:4].hex(' ')}. {EXPECTED}")
    if len(contents) < 4 or len(contents) < 4 + 4 * sides:
        raise DataError(f"{file} is truncated: it ends within its header, after {len(contents)} bytes. Fetch it again.")
    shape = struct.unpack_from(f">{sides}I", contents, 4)
    kind, start = TYPES[number], 4 + 4 * sides
    expected = start + math.prod(shape) * kind.itemsize
    if len(contents) != expected:
        what = "truncated" if len(contents) < expected else "longer than it says"
        raise DataError(f"{file} is {what}: expected {expected:,} bytes, got {len(contents):,}. Fetch it again.")
    array: npt.NDArray[Any] = np.frombuffer(contents, kind, offset=start).reshape(shape)
    return array
