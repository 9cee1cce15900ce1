"""The packages of the image without what docker/leave_out.py takes out: every endpoint is served all the same."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import tritonclient.grpc as triton
from conftest import PROJECT
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from servers import Server, folder_of, start_of

from digits.contract import Images
from digits.mnist import LabelledImages
from loadtests.server import free_ports, started
from serving.routes import ROUTES

pytestmark = pytest.mark.slow

KEY: Final = "control-of-models-in-tests"
MODEL: Final = "torch-relu.onnx"
FORMATS: Final[dict[str, dict[str, Any]]] = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, trained_home: Path) -> Path:
    """The folders /opt/venv and /app of the image, as docker/Dockerfile makes them."""
    folder = tmp_path_factory.mktemp("image")
    venv, app = folder / "venv", folder / "app"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    packages: list[str | Path] = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", venv / "bin" / "python"]
    subprocess.run([*packages, PROJECT / "requirements" / "onnx.txt"], check=True)
    for room in ("digits", "runtimes", "scratch", "serving"):
        shutil.copytree(PROJECT / room, app / room, ignore=shutil.ignore_patterns("__pycache__"))
    said = subprocess.run(
        [sys.executable, PROJECT / "docker" / "leave_out.py", "onnx", venv, app, trained_home / "models"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "left out:" in said.stdout
    return folder


@contextmanager
def served(image: Path, home: Path, **environment: str) -> Iterator[Server]:
    """A server that has the image's packages and rooms and nothing else, and may write bytecode."""
    port, data_port = free_ports(2)
    start = start_of(home, {"SAMEDIGIT_BACKENDS": "numpy,onnx", **environment}, port=port, data_port=data_port)
    variables = {name: value for name, value in start.environment.items() if not name.startswith("PYTHON")}
    start = replace(
        start,
        command=[str(image / "venv" / "bin" / "python"), *start.command[1:]],
        environment=variables,
        folder=image / "app",
    )
    with started(start) as one:
        yield Server(one, port, data_port)


def picture(kind: str, images: Images, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images[0]).save(file, kind, **options)
    return file.getvalue()


def requests(images: Images, version: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """What asks each route for something good: its path, and what else the client is told."""
    predict: dict[str, Any] = {"json": {"images": images[:1].tolist()}}
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": images[:1].ravel().tolist()}
    infer = {"json": {"inputs": [tensor]}}
    drawing = {"content": picture("PNG", images), "headers": {"content-type": "image/png"}}
    control = {"headers": {"x-api-key": KEY}}
    values = {"{backend}": "onnx", "{file}": "page.js", "{model}": MODEL, "{version}": version}
    what: dict[str, dict[str, Any]] = {
        "/predict/{backend}": predict,
        "/echo": predict,
        "/classify": drawing,
        "/compare": drawing,
        "/v2/models/{model}/infer": infer,
        "/v2/models/{model}/versions/{version}/infer": infer,
        "/v2/repository/models/{model}/load": control,
        "/v2/repository/models/{model}/unload": control,
    }
    found = {}
    for route in ROUTES:
        path = route.pattern
        for name, value in values.items():
            path = path.replace(name, value)
        found[f"{route.method} {route.pattern}"] = path, what.get(route.pattern, {})
    return found


def bytecode(image: Path) -> set[Path]:
    return set(image.rglob("*.pyc"))


def test_every_endpoint_is_served_without_what_is_left_out_and_nothing_is_compiled_anew(
    image: Path, trained_home: Path, test_set: LabelledImages
) -> None:
    some_images = test_set.images[:3]
    compiled = bytecode(image)
    environment = {"SAMEDIGIT_CONTROL": "on", "SAMEDIGIT_CONTROL_KEYS": KEY}
    with served(image, trained_home, **environment) as server:
        asked = requests(some_images, folder_of(trained_home, "torch-relu").name)
        last = "POST /v2/repository/models/{model}/unload"
        for name in sorted(asked, key=lambda name: name == last):
            path, options = asked[name]
            for port in (server.port, server.data_port) if name != last else (server.port,):
                with server.client(port) as client:
                    answer = client.request(name.partition(" ")[0], path, **options)
                assert answer.status_code == 200, f"{name}: {answer.text}"
        with server.client() as client:
            for kind, options in FORMATS.items():
                content = picture(kind, some_images, **options)
                answer = client.post("/classify", content=content)
                assert answer.status_code == 200, f"{kind}: {answer.text}"
            answer = client.post("/classify?many=true", files={"file": picture("PNG", some_images)})
            assert answer.status_code == 200, answer.text
        address = f"127.0.0.1:{server.data_port}"
        tensor = triton.InferInput("images", [1, 28, 28], "UINT8")
        tensor.set_data_from_numpy(some_images[:1])
        with triton.InferenceServerClient(address) as calls:
            assert calls.infer("torch-relu.numpy", [tensor]).as_numpy("probabilities").shape == (1, 10)
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert "Traceback" not in server.log.read_text()
    assert bytecode(image) == compiled
