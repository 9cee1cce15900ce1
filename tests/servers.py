"""Real servers for the tests: `bentoml serve` in a process of its own, and raw connections to its two ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import orjson
import psutil
from conftest import PROJECT

from digits.contract import Images
from loadtests.server import free_ports, stop

START_SECONDS: Final = 120
JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """A running `bentoml serve`."""

    process: subprocess.Popen[bytes]
    port: int  # BentoML's
    data_port: int  # the data plane's
    log: Path

    def client(self, port: int | None = None) -> httpx.Client:
        """A client of BentoML's port, or of `port`."""
        return httpx.Client(base_url=f"http://127.0.0.1:{port or self.port}", timeout=30, trust_env=False)

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=20)

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


def serve_command(port: int) -> list[str]:
    return [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]


@contextmanager
def serving(home: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """`bentoml serve` in the project's root, ready; stopped with all its children in the end."""
    port, data_port = free_ports(2)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            serve_command(port),
            cwd=PROJECT,
            env={**os.environ, "BENTOML_HOME": str(home), "SAMEDIGIT_DATA_PORT": str(data_port), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started = psutil.Process(process.pid)
        server = Server(process, port, data_port, Path(log.name))
        try:
            wait_until_ready(server)
            yield server
        finally:
            stop(started)  # with its worker, which is in a process group of its own
            process.wait(timeout=10)


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    with server.client() as client:
        while time.monotonic() < deadline:
            assert server.process.poll() is None, server.log.read_text()
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise AssertionError(f"not ready after {START_SECONDS} s:\n{server.log.read_text()}")


def failed_start(home: Path, environment: Mapping[str, str], *, port: int | None = None) -> str:
    """The one line that a start prints which must fail."""
    free_port, data_port = free_ports(2)
    process = subprocess.Popen(
        serve_command(port or free_port),
        cwd=PROJECT,
        env={**os.environ, "BENTOML_HOME": str(home), "SAMEDIGIT_DATA_PORT": str(data_port), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        stop(psutil.Process(process.pid))
        said, _ = process.communicate(timeout=10)
        raise AssertionError(f"the start did not fail:\n{said}") from None
    assert process.returncode not in (0, None)
    assert "Traceback" not in said
    (line,) = said.strip().splitlines()
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
    line = answers.readline()
    assert line.startswith(b"HTTP/1.1 "), line
    headers = {}
    while header := answers.readline().strip():
        name, _, value = header.partition(b":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers, answers.read(int(headers.get(b"content-length", b"0")))


def folder_of(home: Path, recipe: str) -> Path:
    """Where the one stored version of a recipe is; its name is the version."""
    (version,) = [path for path in (home / "models" / recipe).iterdir() if path.is_dir()]
    return version
