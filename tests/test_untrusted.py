"""What a client sends is data: nothing of it is run, fetched, or written into a log as it came."""

from __future__ import annotations

import ast
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
from conftest import PROJECT, bentoml_home
from servers import Server, everything_from, serving
from small_models import keep

PLANES: Final = ("API port", "data plane")
# What would run or fetch what it is given. A name of a module, or of a built-in function.
RUNS: Final = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "subprocess", "runpy"}
FETCHES: Final = {"urllib", "http", "requests", "httpx", "aiohttp", "fsspec", "smtplib", "ftplib"}
PARSES: Final = {"urllib.parse"}  # of the same package, and fetches nothing
EVALUATES: Final = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("file", sorted((PROJECT / "serving" / "protocols").glob("*.py")), ids=lambda file: file.stem)
def test_what_reads_requests_can_neither_run_nor_fetch_anything(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & (RUNS | FETCHES)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.module in PARSES or node.module.partition(".")[0] not in RUNS | FETCHES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in EVALUATES


class Touching:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.log"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[Server]:
    with bentoml_home(tmp_path_factory.mktemp("bentoml")) as home:
        keep("torch-relu", 3)
    with serving(home, {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_ACCESS_LOG": str(log)}) as found:
        yield found


@pytest.fixture(params=PLANES)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[httpx.Client]:
    with server.client(server.port if request.param == PLANES[0] else server.data_port) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "content_type", ["application/vnd.bentoml+pickle", "application/octet-stream", "application/json"]
)
@pytest.mark.parametrize(
    "path", ["/predict/numpy", "/echo", "/v2/models/torch-relu.numpy/infer", "/v2/repository/index"]
)
def test_a_pickle_is_refused_and_never_opened(
    path: str, content_type: str, client: httpx.Client, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    sent = pickle.dumps(Touching(touched))
    answer = client.post(path, content=sent, headers={"content-type": content_type})
    reads_the_type = path in ("/predict/numpy", "/echo") and content_type != "application/json"
    assert answer.status_code == (415 if reads_the_type else 400), answer.text
    assert not touched.exists()
    pickle.loads(sent)
    assert touched.exists()  # or the test could not have seen it


@pytest.mark.slow
def test_no_url_is_fetched(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.3)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/digit.png"
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": url}
        image = [[[0] * 28] * 28]
        for path, document, status in (
            ("/predict/numpy", {"images": url}, 400),
            ("/predict/numpy", {"images": [url]}, 400),
            ("/predict/numpy", {"images": image, "model": url}, 404),
            ("/echo", {"images": {"url": url}}, 400),
            ("/v2/models/torch-relu.numpy/infer", {"inputs": [tensor]}, 400),
            ("/v2/models/torch-relu.numpy/infer", {"inputs": url}, 400),
            ("/v2/repository/models/x/load", {"parameters": {"config": url}}, 403),
        ):
            answer = client.post(path, json=document)
            assert answer.status_code == status, answer.text
        with pytest.raises(TimeoutError):
            elsewhere.accept()
        socket.create_connection(elsewhere.getsockname()).close()
        elsewhere.accept()[0].close()  # whoever had come would have been seen


@pytest.mark.slow
@pytest.mark.parametrize("plane", PLANES)
def test_what_a_client_writes_in_a_path_ends_no_line_and_colours_no_terminal(
    plane: str, server: Server, log: Path
) -> None:
    hostile = b"/v2/models/a%0d%0aFORGED%1b%5b31m%e2%80%a8b/ready"
    with server.connect(server.port if plane == PLANES[0] else server.data_port) as connection:
        connection.sendall(
            b"GET " + hostile + b" HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe9\x9bagent\r\nConnection: close\r\n\r\n"
        )
        answer = everything_from(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert not {b"\x1b", b"\x00"} & {answer[i : i + 1] for i in range(len(answer))}
    assert b"\nFORGED" not in answer
    orjson.loads(answer.partition(b"\r\n\r\n")[2])
    wait_for(log, b"FORGED")
    for line in log.read_bytes().splitlines():
        assert orjson.loads(line).keys() >= {"path", "status"}
        assert all(32 <= byte < 127 for byte in line)
    printed = server.log.read_bytes()
    assert b"\x1b[31m" not in printed
    assert b"\nFORGED" not in printed


def wait_for(file: Path, text: bytes) -> None:
    deadline = time.monotonic() + 20
    while not (file.exists() and text in file.read_bytes()):
        assert time.monotonic() < deadline, f"{text!r} is not in {file}"
        time.sleep(0.05)


@pytest.mark.slow
def test_every_answer_says_that_it_is_what_it_says_it_is(client: httpx.Client) -> None:
    for path, status in (
        ("/models", 200),
        ("/v2", 200),
        ("/docs.json", 200),
        ("/v2/nothing", 404),
        ("/predict/x", 405),
    ):
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
