"""Real servers for the tests, in processes of their own, started in both ways, and raw connections to their two ports."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import orjson
import pytest
from conftest import PROJECT

import loadtests.client
import loadtests.server
from digits.contract import BACKENDS, Backend, Images
from loadtests.client import connect
from loadtests.server import DidNotStart, Start, free_ports, started

JSON: Final = {"content-type": "application/json"}
# An image, by its tag or its mounted root (tests/in_image), out of which the servers then run; unset: this project.
IMAGE: Final = os.environ.get("SERVER_IMAGE")
# The backends that the servers have: an image may hold some alone, SERVER_BACKENDS=numpy,onnx.
SERVED: Final = tuple(
    one for one in BACKENDS if one in os.environ.get("SERVER_BACKENDS", ",".join(BACKENDS)).split(",")
)
PLATFORMS: Final[dict[Backend, str]] = {  # as the v2 protocol names what a backend opens
    "numpy": "numpy_npz",
    "torch": "pytorch_export",
    "tensorflow": "tensorflow_savedmodel",
    "onnx": "onnxruntime_onnx",
}
SLOWEST: Final[Backend] = "tensorflow" if "tensorflow" in SERVED else "numpy"


@dataclass(frozen=True)
class Server:
    """A running server."""

    started: loadtests.server.Server  # its processes
    port: int  # BentoML's
    data_port: int  # the data plane's
    ca_file: Path | None = None  # of the certificate of both ports; None: they speak plain HTTP

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The first one."""
        return self.started.process

    @property
    def log(self) -> Path:
        return self.started.log

    def url(self, port: int | None = None) -> str:
        """Of BentoML's port, or of `port`."""
        return _url(port or self.port, self.ca_file)

    def client(self, port: int | None = None) -> httpx.Client:
        """A client of BentoML's port, or of `port`."""
        verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else False
        return httpx.Client(base_url=self.url(port), timeout=30, trust_env=False, verify=verify)

    def connect(self, port: int | None = None) -> socket.socket:
        return connect(self.url(port), ca_file=self.ca_file, timeout=20)[1]

    def predict(self, backend: str, images: Images, model: str | None = None) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post(f"/predict/{backend}", content=body(images, model), headers=JSON)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def is_well(self, images: Images) -> None:
        assert len(self.predict("onnx", images[:2])["predictions"]) == 2
        assert self.process.poll() is None


def body(images: Images, model: str | None = None) -> bytes:
    """What /predict takes."""
    return orjson.dumps({"images": images.tolist()} | ({} if model is None else {"model": model}))


def _url(port: int, ca_file: Path | None) -> str:
    return f"{'https' if ca_file else 'http'}://127.0.0.1:{port}"


def start_of(
    home: Path,
    environment: Mapping[str, str],
    *,
    port: int,
    data_port: int,
    by_bentoml: bool = False,
    options: Sequence[str] = (),
    ca_file: Path | None = None,
) -> Start:
    """`python -m serving` or `bentoml serve` in the project's root, with more of its options.

    Args:
        ca_file: what signs the certificate of both ports, if they have one.
    """
    module = ["bentoml", "serve"] if by_bentoml else ["serving"]
    python = [sys.executable]
    if IMAGE is not None:
        python = [str(PROJECT / "tests" / "in_image"), IMAGE]
        environment = {"SAMEDIGIT_MODEL_FOLDER": "", **environment}
        _open_to_its_user(home, *environment.values())
    return Start(
        command=[*python, "-m", *module, "--host", "127.0.0.1", "--port", str(port), *options],
        environment={**os.environ, "BENTOML_HOME": str(home), "SAMEDIGIT_DATA_PORT": str(data_port), **environment},
        ready=[f"{_url(port, ca_file)}/readyz"],
        ca_file=ca_file,
        folder=PROJECT,
    )


def _open_to_its_user(home: Path, *values: str) -> None:
    """Lets the image's user read what settings name in pytest's folders, which are their owner's alone, and write beside it."""
    temporary = Path(tempfile.gettempdir())
    for path in (home, *map(Path, values)):
        if path.is_relative_to(temporary) and path.parent.is_dir():
            found = [path, *path.rglob("*")] if path.exists() else []
            for one in (one for one in (*path.parents, *found) if one != temporary and one.is_relative_to(temporary)):
                one.chmod(one.stat().st_mode | (0o555 if one.is_dir() else 0o444))
            folder = path if path.is_dir() else path.parent  # of a log; of what BentoML makes in its home
            folder.chmod(folder.stat().st_mode | 0o777)


@contextmanager
def serving(
    home: Path,
    environment: Mapping[str, str],
    *,
    by_bentoml: bool = False,
    options: Sequence[str] = (),
    ca_file: Path | None = None,
) -> Iterator[Server]:
    """A server, ready; stopped with all its children in the end. For the arguments see `start_of`."""
    port, data_port = free_ports(2)
    start = start_of(
        home, environment, port=port, data_port=data_port, by_bentoml=by_bentoml, options=options, ca_file=ca_file
    )
    with started(start) as one:
        yield Server(one, port, data_port, ca_file)


# Of starting a server: for `by_bentoml`.
WAYS: Final = [pytest.param(False, id="one process"), pytest.param(True, id="bentoml serve")]


def failed_start(home: Path, environment: Mapping[str, str], *, port: int | None = None) -> str:
    """The one line that a start prints which must fail, in one process and by `bentoml serve`."""
    free_port, data_port = free_ports(2)
    said = set()
    for by_bentoml in (False, True):
        start = start_of(home, environment, port=port or free_port, data_port=data_port, by_bentoml=by_bentoml)
        with pytest.raises(DidNotStart) as failed, started(start):
            pass
        assert failed.value.exit_code not in (0, None)
        assert "Traceback" not in failed.value.printed
        said.add(failed.value.printed.strip())
    (line,) = said
    assert "\n" not in line
    return line


def everything_from(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


def raw_infer(model: str, sent: bytes, length: str | None) -> bytes:
    """An infer request of the Open Inference Protocol with this body and Inference-Header-Content-Length."""
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", f"Content-Length: {len(sent)}"]
    if length is not None:
        lines.append(f"Inference-Header-Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + sent


def read_answer(answers: BinaryIO) -> tuple[int, dict[bytes, bytes], bytes]:
    """The next answer of a connection: its status, headers and body."""
    answer = loadtests.client.read_answer(answers)
    headers = {name.lower().encode(): value.strip().encode() for name, value in answer.headers.items()}
    return answer.status, headers, answer.body


def folder_of(home: Path, recipe: str) -> Path:
    """Where the one stored version of a recipe is; its name is the version."""
    (version,) = [path for path in (home / "models" / recipe).iterdir() if path.is_dir()]
    return version
