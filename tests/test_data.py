"""MNIST: whole or refused, from a folder, from the cache, or from a mirror."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import python, require

from digits import mnist
from digits.errors import DataError
from digits.mnist import LabelledImages

IMAGES = "t10k-images-idx3-ubyte"
LABELS = "t10k-labels-idx1-ubyte"
WRITERS = "qmnist-test-labels-idx2-int"


@pytest.fixture(scope="session")
def contents(test_set: LabelledImages) -> dict[str, bytes]:
    """The test set in MNIST's own format, big-endian header and bytes, written anew."""
    found = {
        IMAGES: struct.pack(">IIII", 2051, 10_000, 28, 28) + test_set.images.tobytes(),
        LABELS: struct.pack(">II", 2049, 10_000) + test_set.labels.tobytes(),
    }
    for name, raw in found.items():
        assert hashlib.sha256(raw).hexdigest() == mnist.SHA256[name]
    return found


@pytest.fixture
def folder(tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """SAMEDIGIT_DATA_DIR, with the test set gzipped."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, raw in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw, compresslevel=1))
    monkeypatch.setenv("SAMEDIGIT_DATA_DIR", str(folder))
    return folder


def refusal() -> str:
    with pytest.raises(DataError) as refused:
        mnist.test_images()
    return str(refused.value)


# A folder


def test_the_training_set_is_sixty_thousand_labelled_digits() -> None:
    training = mnist.train_images()
    assert training.images.shape == (60_000, 28, 28)
    assert training.images.dtype == training.labels.dtype == np.uint8
    assert training.images.min() == 0
    assert training.images.max() == 255
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(training.labels), counts)


def test_the_test_set_is_ten_thousand_labelled_digits(test_set: LabelledImages) -> None:
    assert test_set.images.shape == (10_000, 28, 28)
    assert test_set.labels.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(test_set.labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert test_set.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (test_set.images[:, 0, 0] == 0).all()  # 0 is background


def test_a_folder_may_hold_gzipped_files(folder: Path, test_set: LabelledImages) -> None:
    found = mnist.test_images()
    np.testing.assert_array_equal(found.images, test_set.images)
    np.testing.assert_array_equal(found.labels, test_set.labels)


def test_a_folder_may_hold_plain_files(folder: Path, contents: dict[str, bytes], test_set: LabelledImages) -> None:
    for name, raw in contents.items():
        (folder / f"{name}.gz").unlink()
        (folder / name).write_bytes(raw)
    np.testing.assert_array_equal(mnist.test_images().labels, test_set.labels)


def test_how_a_file_was_compressed_does_not_matter(folder: Path, contents: dict[str, bytes]) -> None:
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(contents[LABELS], compresslevel=9, mtime=1))
    assert len(mnist.test_images().labels) == 10_000


@pytest.mark.parametrize("kept", [0, 1, 3, 9, 10, 11, 20, 1000, -9, -8, -5, -4, -1])
def test_a_truncated_file_is_named_and_refused(folder: Path, kept: int) -> None:
    file = folder / f"{LABELS}.gz"
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal()
    assert message.startswith(str(file))
    assert message.endswith("Delete it, or replace it with the original.")


@pytest.mark.parametrize("place", [0, 1, 2, 3, 12, 500, -8, -1])
def test_a_corrupt_byte_is_named_and_refused_and_nothing_else_escapes(folder: Path, place: int) -> None:
    file = folder / f"{LABELS}.gz"
    packed = bytearray(file.read_bytes())
    packed[place] ^= 0xFF
    file.write_bytes(packed)
    assert refusal().startswith(str(file))


def test_a_truncated_plain_file_is_named_and_refused(folder: Path, contents: dict[str, bytes]) -> None:
    (folder / f"{LABELS}.gz").unlink()
    (folder / LABELS).write_bytes(contents[LABELS][:-1])
    assert refusal().startswith(f"{folder / LABELS} does not hold MNIST's {LABELS}: expected contents with sha256")


def test_one_changed_label_is_named_and_refused_with_both_hashes(folder: Path, contents: dict[str, bytes]) -> None:
    tampered = bytearray(contents[LABELS])
    tampered[100] ^= 1
    file = folder / f"{LABELS}.gz"
    file.write_bytes(gzip.compress(tampered))
    message = refusal()
    assert message.startswith(f"{file} does not hold MNIST's {LABELS}")
    assert mnist.SHA256[LABELS] in message
    assert hashlib.sha256(tampered).hexdigest() in message


def test_the_training_labels_are_no_test_labels(folder: Path, contents: dict[str, bytes]) -> None:
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(contents[LABELS]))
    assert refusal().startswith(f"{folder / IMAGES}.gz does not hold MNIST's {IMAGES}")


def test_a_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    (folder / f"{LABELS}.gz").unlink()
    message = refusal()
    assert message.startswith(f"SAMEDIGIT_DATA_DIR is {folder}, which has neither {LABELS}.gz nor {LABELS}.")
    assert "unset it to download them" in message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEDIGIT_DATA_DIR", str(tmp_path / "nowhere"))
    assert refusal().startswith(f"SAMEDIGIT_DATA_DIR is {tmp_path / 'nowhere'}, which has neither")


# Who wrote the test images


@pytest.fixture(scope="session")
def by_writers() -> bytes:
    """A file as QMNIST's: big-endian, 60,000 rows of 8; the third is the writer, here the row's own number."""
    rows = np.zeros((60_000, 8), ">i4")
    rows[:, 2] = np.arange(60_000)
    rows[:, [0, 1, 3]] = 7
    return struct.pack(">III", 0x0C02, 60_000, 8) + rows.tobytes()


@pytest.fixture
def known(by_writers: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(mnist, "WRITERS_SHA256", hashlib.sha256(by_writers).hexdigest())
    return by_writers


@pytest.mark.parametrize("packed", [True, False])
def test_who_wrote_the_test_images_is_read_beside_them(folder: Path, known: bytes, *, packed: bool) -> None:
    assert mnist.test_writers() is None
    (folder / f"{WRITERS}{'.gz' * packed}").write_bytes(gzip.compress(known) if packed else known)
    found = mnist.test_writers()
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == [*range(10_000)]


def test_a_file_of_other_writers_is_named_and_refused(folder: Path, by_writers: bytes) -> None:
    file = folder / f"{WRITERS}.gz"
    file.write_bytes(gzip.compress(by_writers))
    with pytest.raises(DataError) as refused:
        mnist.test_writers()
    assert str(refused.value).startswith(
        f"{file} does not hold QMNIST's {WRITERS}: expected contents with sha256 92d0ccb8"
    )


# Mirrors and the cache

Answers = dict[str, Callable[[BaseHTTPRequestHandler], None]]


class Mirrors:
    """An HTTP server on the loopback: each of its folders is a mirror, with one answer for every file."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        packed = {name: gzip.compress(raw) for name, raw in contents.items()}
        self.asked: list[str] = []
        mirrors = self

        def body(raw: bytes, *, promised: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
            def answer(handler: BaseHTTPRequestHandler) -> None:
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(raw) if promised is None else promised))
                handler.end_headers()
                handler.wfile.write(raw)

            return answer

        def file(handler: BaseHTTPRequestHandler) -> bytes:
            return packed[handler.path.rsplit("/", 1)[1].removesuffix(".gz")]

        answers: Answers = {
            "right": lambda handler: body(file(handler))(handler),
            "other": body(gzip.compress(b"some other file")),
            "page": body(b"<html>sign in to the network first</html>"),
            "half": lambda handler: body(file(handler)[:1000], promised=len(file(handler)))(handler),
            "empty": body(b""),
            "gone": lambda handler: handler.send_error(404),
            "broken": lambda handler: handler.send_error(503),
            "mute": lambda handler: handler.connection.close(),
        }

        class Handler(BaseHTTPRequestHandler):
            known: ClassVar[Answers] = answers

            def do_GET(self) -> None:
                mirrors.asked.append(self.path)
                self.known[self.path.split("/")[1]](self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}/"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def mirrors(contents: dict[str, bytes], by_writers: bytes) -> Iterator[Mirrors]:
    found = Mirrors({**contents, WRITERS: by_writers})
    yield found
    found.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads go, empty; SAMEDIGIT_DATA_DIR is unset."""
    require("pooch", "tqdm")
    monkeypatch.delenv("SAMEDIGIT_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "samedigit" / "mnist"


def use(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", tuple(mirrors.url(name) for name in names))
    mirrors.asked.clear()


def files(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.rglob("*"))


def test_without_a_folder_the_files_are_downloaded_once_into_the_cache(
    cache: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, test_set: LabelledImages
) -> None:
    use(mirrors, monkeypatch, "right")
    np.testing.assert_array_equal(mnist.test_images().images, test_set.images)
    assert mirrors.asked == [f"/right/{IMAGES}.gz", f"/right/{LABELS}.gz"]
    assert files(cache) == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    mirrors.asked.clear()
    np.testing.assert_array_equal(mnist.test_images().labels, test_set.labels)
    assert mirrors.asked == []


@pytest.mark.parametrize("bad", ["other", "page", "half", "empty", "gone", "broken", "mute"])
def test_a_mirror_that_fails_is_passed_over(
    bad: str, cache: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]
) -> None:
    use(mirrors, monkeypatch, bad, "right")
    assert len(mnist.test_images().labels) == 10_000
    assert mirrors.asked[0].startswith(f"/{bad}/")
    assert files(cache) == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert gzip.decompress((cache / f"{LABELS}.gz").read_bytes()) == contents[LABELS]


def test_when_every_mirror_fails_one_error_names_each_and_the_variable_to_set(
    cache: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ("other", "page", "half", "empty", "gone", "broken", "mute")
    use(mirrors, monkeypatch, *bad)
    monkeypatch.setattr(mnist, "MIRRORS", (*mnist.MIRRORS, "http://127.0.0.1:9/", "http://nowhere.invalid/"))
    message = refusal()
    assert message.startswith(f"{IMAGES} could not be downloaded from any mirror:\n")
    for url in mnist.MIRRORS:
        assert f"  {url}{IMAGES}.gz: " in message
    assert "404" in message
    assert "Check the network, or set SAMEDIGIT_DATA_DIR to a folder that holds the four MNIST files." in message
    assert files(cache) == []


def test_a_good_cached_file_is_never_replaced(cache: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    use(mirrors, monkeypatch, "right")
    mnist.test_images()
    (cache / f"{IMAGES}.gz").unlink()
    good = cache / f"{LABELS}.gz"
    before = (good.read_bytes(), good.stat().st_mtime_ns, good.stat().st_ino)
    use(mirrors, monkeypatch, "other", "half")
    refusal()
    assert files(cache) == [f"{LABELS}.gz"]
    assert (good.read_bytes(), good.stat().st_mtime_ns, good.stat().st_ino) == before


def test_a_bad_cached_file_is_named_and_refused_and_its_deletion_helps(
    cache: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirrors, monkeypatch, "right")
    mnist.test_images()
    file = cache / f"{LABELS}.gz"
    file.write_bytes(file.read_bytes()[:-100])
    message = refusal()
    assert message.startswith(str(file))
    assert "Delete it" in message
    file.unlink()
    assert len(mnist.test_images().labels) == 10_000


def test_a_cache_that_cannot_be_written_is_named(
    cache: Path, tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirrors, monkeypatch, "right")
    (tmp_path / "cache").write_text("in the way")
    message = refusal()
    assert message.startswith(f"{cache / IMAGES}.gz cannot be written")
    assert "SAMEDIGIT_DATA_DIR" in message


def test_nothing_half_written_is_left_when_the_disk_fills(
    cache: Path, mirrors: Mirrors, contents: dict[str, bytes]
) -> None:
    """A limit on the size of files stands for a full disk."""
    said = python(
        """
import resource, signal, sys
from digits import mnist
from digits.errors import DataError
mnist.MIRRORS = (sys.argv[1],)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
put = mnist._put
def full(packed, target):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    put(packed, target)
mnist._put = full
try:
    mnist.test_images()
except DataError as error:
    print(error)
""",
        mirrors.url("right"),
    )
    assert said.startswith(f"{cache / IMAGES}.gz cannot be written: File too large.")
    assert files(cache) == []


def test_who_reads_a_file_while_it_is_written_anew_reads_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    target.write_bytes(b"the old one")
    with target.open("rb", buffering=0) as reader:
        begun = reader.read(4)
        mnist._put(b"another", target)
        assert begun + reader.read() == b"the old one"
    assert target.read_bytes() == b"another"
    assert list(tmp_path.iterdir()) == [target]


def test_without_pooch_the_folder_is_asked_for(cache: Path, without: Callable[..., dict[str, str]]) -> None:
    said = python(
        """
from digits import mnist
from digits.errors import DataError
try:
    mnist.test_images()
except DataError as error:
    print(error)
""",
        environment=without("pooch"),
    )
    assert said.startswith("SAMEDIGIT_DATA_DIR is not set, and pooch, which downloads MNIST, is not installed.")


def test_who_wrote_the_test_images_is_downloaded_once_or_not_known(
    cache: Path, mirrors: Mirrors, known: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(mirrors, monkeypatch, "other")  # MNIST's own do not have it
    for gone in ("gone", "other", "half"):
        monkeypatch.setattr(mnist, "WRITERS_MIRRORS", (mirrors.url(gone),))
        assert mnist.test_writers() is None
        assert files(cache) == []
    monkeypatch.setattr(mnist, "WRITERS_MIRRORS", (mirrors.url("right"),))
    mirrors.asked.clear()
    for _ in range(2):
        found = mnist.test_writers()
        assert found is not None
        assert found[-1] == 9999
    assert mirrors.asked == [f"/right/{WRITERS}.gz"]
    assert files(cache) == [f"{WRITERS}.gz"]
    (cache / f"{WRITERS}.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"not a whole gzip file.*Delete it"):
        mnist.test_writers()
