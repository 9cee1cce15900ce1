"""MNIST: 60,000 training and 10,000 test images of handwritten digits (LeCun, Cortes, Burges; CC BY-SA 3.0).

The files come from `SAMEDIGIT_DATA_DIR` if it is set, else from a cache of the user, else from the public mirrors into
that cache. What counts is the sha256 of the *contents*: mirrors compress the same bytes differently. Who wrote the test
images stands in a file of QMNIST (Yadav, Bottou 2019; BSD), which may be missing.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from digits.contract import SIDE, Images, Labels
from digits.errors import DataError

DATA_DIR_VARIABLE: Final = "SAMEDIGIT_DATA_DIR"

# sha256 of the uncompressed files.
SHA256: Final = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

WRITERS: Final = "qmnist-test-labels-idx2-int"
WRITERS_SHA256: Final = "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd"
WRITERS_MIRRORS: Final = ("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",)

MIRRORS: Final = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
)
DOWNLOAD_TIMEOUT_SECONDS: Final = 20

Writers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels: `images` uint8 `[N, 28, 28]`, `labels` uint8 `[N]`."""

    images: Images
    labels: Labels


def train_images() -> LabelledImages:
    """The 60,000 training images.

    Raises:
        DataError: the files cannot be had, or are not MNIST.
    """
    return _load("train")


def test_images() -> LabelledImages:
    """The 10,000 test images.

    Raises:
        DataError: the files cannot be had, or are not MNIST.
    """
    return _load("t10k")


def test_writers() -> Writers | None:
    """Who wrote each of the 10,000 test images, by NIST's number, int32 `[10_000]`; none of them wrote a training image.

    Returns:
        None where the file is not in `SAMEDIGIT_DATA_DIR`, or can be downloaded from nowhere.

    Raises:
        DataError: the file is there and cannot be read, or is not QMNIST's.
    """
    if folder := os.environ.get(DATA_DIR_VARIABLE):
        found = next((file for file in _candidates(Path(folder), WRITERS) if file.is_file()), None)
        if found is None:
            return None
        contents = _verified(found, WRITERS)
    else:
        cached = _cache() / f"{WRITERS}.gz"
        try:
            contents = _verified(cached, WRITERS) if cached.is_file() else _download(WRITERS, cached)
        except DataError:
            if cached.is_file():
                raise
            return None
    of_60_000 = np.frombuffer(contents, ">i4", offset=12).reshape(-1, 8)  # the digit, the series, the writer, ...
    return of_60_000[:10_000, 2].astype(np.int32)


def _load(part: str) -> LabelledImages:
    images = np.frombuffer(_contents(f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_contents(f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    return LabelledImages(images=images.reshape(-1, SIDE, SIDE), labels=labels)


def _contents(name: str) -> bytes:
    """The verified contents of one file: magic number and shape included, since the sha256 fixes every byte."""
    if folder := os.environ.get(DATA_DIR_VARIABLE):
        return _verified(_find(Path(folder), name), name)
    cached = _cache() / f"{name}.gz"
    if cached.is_file():
        return _verified(cached, name)
    return _download(name, cached)


def _candidates(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.gz", folder / name


def _find(folder: Path, name: str) -> Path:
    for candidate in _candidates(folder, name):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{DATA_DIR_VARIABLE} is {folder}, which has neither {name}.gz nor {name}. "
        f"Point it at a folder that holds the four MNIST files, or unset it to download them."
    )


def _cache() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            f"{DATA_DIR_VARIABLE} is not set, and pooch, which downloads MNIST, is not installed. Point "
            f"{DATA_DIR_VARIABLE} at a folder that holds the four MNIST files, or run: pip install '.[train]'"
        ) from error
    return Path(pooch.os_cache("samedigit")) / "mnist"


def _verified(path: Path, name: str) -> bytes:
    """The contents of `path`, gzipped or not.

    Raises:
        DataError: unreadable, truncated, corrupt, or not the file it should be.
    """
    advice = "Delete it, or replace it with the original."
    try:
        packed = path.read_bytes()
        contents = gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}). {advice}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    digest, expected = hashlib.sha256(contents).hexdigest(), SHA256.get(name, WRITERS_SHA256)
    if digest != expected:
        whose = "MNIST's" if name in SHA256 else "QMNIST's"
        raise DataError(
            f"{path} does not hold {whose} {name}: expected contents with sha256 {expected}, got {digest}. {advice}"
        )
    return contents


def _download(name: str, target: Path) -> bytes:
    """Fetches `name` from the first mirror that gives the right contents, and puts it at `target` once verified."""
    import pooch

    failures = []
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=DOWNLOAD_TIMEOUT_SECONDS)
    for mirror in MIRRORS if name in SHA256 else WRITERS_MIRRORS:
        url = f"{mirror}{name}.gz"
        with tempfile.TemporaryDirectory(prefix="samedigit-") as folder:
            fetched = Path(folder) / f"{name}.gz"
            try:
                fetch(url, str(fetched), None)
                contents = _verified(fetched, name)
            except (OSError, ValueError, DataError) as error:  # requests' errors are OSErrors
                failures.append(f"  {url}: {_brief(error)}")
                continue
            _put(fetched.read_bytes(), target)
            return contents
    raise DataError(
        f"{name} could not be downloaded from any mirror:\n"
        + "\n".join(failures)
        + f"\nCheck the network, or set {DATA_DIR_VARIABLE} to a folder that holds the four MNIST files."
    )


def _brief(error: Exception) -> str:
    text = str(error)
    if isinstance(error, DataError):
        return "what came is not that file (wrong sha256, or not a whole gzip file)"
    return text if len(text) < 120 else type(error).__name__


def _put(packed: bytes, target: Path) -> None:
    """Writes beside, then renames: nobody ever sees half a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as beside:
            try:
                beside.write(packed)
                beside.flush()
                os.replace(beside.name, target)
            except BaseException:
                os.unlink(beside.name)
                raise
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error.strerror}. Make room there, or set {DATA_DIR_VARIABLE}."
        ) from error
