"""What the load test counts as an answer, and what it measures of a real server."""

from __future__ import annotations

import http.server
import json
import os
import re
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, bentoml_home, require

from comparison.results import read_results
from digits.store import find_model
from loadtests.bare_socket import mean_latency_ms
from loadtests.load_test import run_load_test, steps
from loadtests.protocols import HEADER_LENGTH, PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.server import Server, fresh_server

PROBABILITIES = [0.01] * 3 + [0.91] + [0.01] * 6
GOOD: dict[str, Any] = {"digit": 3, "probability": 0.91, "probabilities": PROBABILITIES}


def predicted(**fields: Any) -> bytes:
    return json.dumps({"predictions": [{**GOOD, **fields}]}).encode()


WRONG_PREDICTIONS = {
    "not JSON": b"<html>",
    "no predictions": b"{}",
    "two predictions": json.dumps({"predictions": [GOOD, GOOD]}).encode(),
    "no digit": b'{"predictions": [{"probability": 1, "probabilities": []}]}',
    "nine probabilities": predicted(probabilities=[0.01] * 3 + [0.92] + [0.01] * 5, probability=0.92),
    "not adding up": predicted(probabilities=[0.5] * 10, probability=0.5),
    "not the largest": predicted(digit=4, probability=0.01),
    "another probability": predicted(probability=0.5),
    "a digit that is true": predicted(digit=True, probability=0.01),
    "digit 10": predicted(digit=10),
    "a digit that is text": predicted(digit="3"),
    "probabilities that are text": predicted(probabilities=["a"] * 10),
    "a list in place of a prediction": b'{"predictions": [[]]}',
}


def outputs(**fields: Any) -> list[dict[str, Any]]:
    """What a v2 answer says of its two outputs; a field that is given replaces that of the digits."""
    return [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 10]},
        {"name": "digits", "datatype": "INT64", "shape": [1], **fields},
    ]


def inferred(probabilities: list[Any] = PROBABILITIES, digits: tuple[Any, ...] = (3,), **fields: Any) -> bytes:
    first, second = outputs(**fields)
    return json.dumps({"outputs": [first | {"data": probabilities}, second | {"data": digits}]}).encode()


WRONG_INFERENCES = {
    "not JSON": b"<html>",
    "no outputs": b"{}",
    "an output too few": json.dumps({"outputs": outputs()[:1]}).encode(),
    "no data": json.dumps({"outputs": outputs()}).encode(),
    "another output": inferred(name="figures"),
    "another datatype": inferred(datatype="INT32"),
    "another shape": inferred(shape=[1, 1]),
    "two digits": inferred(digits=(3, 3)),
    "nine probabilities": inferred([0.01] * 3 + [0.92] + [0.01] * 5),
    "not adding up": inferred([0.5] * 10),
    "not the largest": inferred(digits=(4,)),
    "digit 10": inferred(digits=(10,)),
    "a digit that is text": inferred(digits=("3",)),
    "probabilities that are text": inferred(["a"] * 10),
}


def inferred_binary(
    probabilities: list[float] = PROBABILITIES, digit: int = 3, *, sizes: tuple[int, int] = (40, 8), tail: bytes = b"",
    **fields: Any,
) -> tuple[bytes, dict[str, str]]:  # fmt: skip
    said = outputs(**fields)
    for output, size in zip(said, sizes, strict=True):
        output["parameters"] = {"binary_data_size": size}
    head = json.dumps({"outputs": said}).encode()
    raw = struct.pack(f"<{len(probabilities)}fq", *probabilities, digit) + tail
    return head + raw, {HEADER_LENGTH: str(len(head))}


WRONG_BINARY = {
    "no length of its JSON": (inferred_binary()[0], {}),
    "a length that is none": (inferred_binary()[0], {HEADER_LENGTH: "ten"}),
    "a length too short": (inferred_binary()[0], {HEADER_LENGTH: "10"}),
    "JSON alone": (inferred(), {HEADER_LENGTH: str(len(inferred()))}),
    "another datatype": inferred_binary(datatype="INT32"),
    "another shape": inferred_binary(shape=[1, 1]),
    "bytes after its tensors": inferred_binary(tail=b"."),
    "sizes beyond its bytes": inferred_binary(sizes=(40, 16)),
    "probabilities cut short": inferred_binary(sizes=(36, 8)),
    "not adding up": inferred_binary([0.5] * 10),
    "not a number": inferred_binary([float("nan")] * 10),
    "not the largest": inferred_binary(digit=4),
    "a negative digit": inferred_binary(digit=-7),
}


def test_a_good_answer_gives_its_digit_over_every_protocol() -> None:
    assert PROTOCOLS["predict"].read(predicted(), {}) == 3
    assert PROTOCOLS["v2-json"].read(inferred(), {}) == 3
    assert PROTOCOLS["v2-binary"].read(*inferred_binary()) == 3


@pytest.mark.parametrize(
    ("protocol", "body", "headers"),
    [
        *(pytest.param("predict", body, {}, id=f"predict: {name}") for name, body in WRONG_PREDICTIONS.items()),
        *(pytest.param("v2-json", body, {}, id=f"v2-json: {name}") for name, body in WRONG_INFERENCES.items()),
        *(pytest.param("v2-binary", *answer, id=f"v2-binary: {name}") for name, answer in WRONG_BINARY.items()),
    ],
)
def test_an_answer_that_is_not_one_prediction_is_wrong(
    protocol: ProtocolName, body: bytes, headers: dict[str, str]
) -> None:
    with pytest.raises(WrongAnswer):
        PROTOCOLS[protocol].read(body, headers)


def locust(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """Locust, started by hand."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "--headless", "--only-summary", "--run-time", "2s", *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def server(trained_home: Path) -> Iterator[Server]:
    """Two models through two backends."""
    settings = {
        "BENTOML_HOME": str(trained_home),
        "SAMEDIGIT_MODELS": "torch-improved,numpy-sigmoid",
        "SAMEDIGIT_BACKENDS": "numpy,onnx",
    }
    with fresh_server(settings, core=None) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_locust_by_hand_asks_a_real_server_over_each_protocol(
    server: Server, protocol: ProtocolName, tmp_path: Path
) -> None:
    require("locust", "onnxruntime")
    asked = PROTOCOLS[protocol]
    host = server.data_url if asked.on_data_plane else server.url
    latencies = tmp_path / "latencies.csv"
    process = locust(
        "-f", "loadtests/locustfile.py", "--host", host, "--protocol", protocol, "--users", 4,
        SAMEDIGIT_LATENCIES=latencies,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    outcomes = Counter(line.split(",")[2] for line in latencies.read_text().splitlines()[1:])
    assert outcomes.keys() <= {"right", "wrong"}
    assert outcomes["right"] > 0.8 * outcomes.total() > 50
    paths = re.findall(r"samedigit: (/\S+): [\d.]+ % of \d+ answers right", process.stderr)
    for backend in ("numpy", "onnx"):
        assert (
            len({asked.path(recipe, backend) for recipe in ("torch-improved", "numpy-sigmoid")}.intersection(paths))
            == 1
        )
        assert re.search(rf"\.{backend}: of each latency the model took 0\.\d+ ms", process.stderr)
    for left_out in ("TorchUser", "TensorflowUser"):
        assert f"{left_out} is left out" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_locust_by_hand_asks_the_door_alone_over_each_protocol(server: Server, protocol: ProtocolName) -> None:
    require("locust")
    asked = PROTOCOLS[protocol]
    host = server.data_url if asked.on_data_plane else server.url
    process = locust("-f", "loadtests/echofile.py", "--host", host, "--protocol", protocol)
    assert process.returncode == 0, process.stderr
    assert re.search(rf"{asked.echo_path}: 100\.00 % of \d+ answers right .* 0 failed", process.stderr)


@pytest.mark.slow
def test_the_door_over_a_bare_socket_takes_less_than_a_request_of_locusts_may(server: Server) -> None:
    for protocol, asked in PROTOCOLS.items():
        url = server.data_url if asked.on_data_plane else server.url
        assert 0.01 < mean_latency_ms(protocol, url, 0.3) < 50


@pytest.mark.slow
def test_a_load_test_over_all_protocols_finds_the_models_part_of_each_latency(
    trained_home: Path, tmp_path: Path
) -> None:
    require("locust")
    with bentoml_home(trained_home):
        model = find_model("numpy-sigmoid")
        said: list[str] = []
        runs = run_load_test(
            [(model, "numpy")], protocols=list(PROTOCOLS), users=4, duration=1, results=tmp_path, on_step=said.append
        )
    assert len(said) == steps(1, 3, 4)
    expected = product(("numpy", "echo"), PROTOCOLS, (1, 4))
    assert [(run.backend, run.protocol, run.users) for run in runs] == list(expected)
    for run in runs:
        assert (run.failures, run.first_failure) == (0, None)
        assert 0 < run.client_busy < 1.1
        if run.backend == "echo":
            assert (run.model_ms, run.queue_ms, run.images_per_batch) == (None, None, None)
            assert run.correct == run.requests
        else:
            assert run.model_ms is not None
            assert run.queue_ms is not None
            assert run.images_per_batch is not None
            assert 0 < run.model_ms + run.queue_ms < run.mean_ms
            assert 1 <= run.images_per_batch <= run.users
            if run.users == 1:
                assert run.images_per_batch == 1
    results = read_results(tmp_path)
    assert list(results.runs) == runs
    assert results.bare_socket_ms.keys() == PROTOCOLS.keys()
    assert all(len(results.latencies(run)) == run.requests for run in runs)


@pytest.fixture
def liar() -> Iterator[str]:
    """A server that answers every prediction with 200 and a malformed body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            backends = {"numpy": {"accuracy": 0.9}}
            self.answer(json.dumps({"models": [{"model": "a:1", "backends": backends}]}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(predicted(probability=0.5))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_malformed_answers_are_failures_and_unserved_backends_are_left_out(liar: str, tmp_path: Path) -> None:
    require("locust")
    latencies = tmp_path / "latencies.csv"
    process = locust("-f", "loadtests/locustfile.py", "--host", liar, "--users", 2, SAMEDIGIT_LATENCIES=latencies)
    assert process.returncode == 1  # Locust's own code for failures
    outcomes = {line.split(",")[2] for line in latencies.read_text().splitlines()[1:]}
    assert outcomes == {"failed"}
    for left_out in ("TorchUser", "TensorflowUser", "OnnxUser"):
        assert f"{left_out} is left out" in process.stderr
    assert "is not the most probable" in process.stderr
