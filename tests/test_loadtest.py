"""What the load test counts as an answer."""

from __future__ import annotations

import ast
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, python, require

GOOD: dict[str, Any] = {"digit": 3, "probability": 0.91, "probabilities": [0.01] * 3 + [0.91] + [0.01] * 6}


def changed(**fields: Any) -> bytes:
    return json.dumps({"predictions": [{**GOOD, **fields}]}).encode()


ANSWERS = {
    "good": (200, changed()),
    "status": (500, changed()),
    "not JSON": (200, b"<html>"),
    "no predictions": (200, b"{}"),
    "two predictions": (200, json.dumps({"predictions": [GOOD, GOOD]}).encode()),
    "no digit": (200, b'{"predictions": [{"probability": 1, "probabilities": []}]}'),
    "nine probabilities": (200, changed(probabilities=[0.01] * 3 + [0.92] + [0.01] * 5, probability=0.92)),
    "not adding up": (200, changed(probabilities=[0.5] * 10, probability=0.5)),
    "not the largest": (200, changed(digit=4, probability=0.01)),
    "another probability": (200, changed(probability=0.5)),
    "digit 10": (200, changed(digit=10)),
    "a digit that is text": (200, changed(digit="3")),
    "probabilities that are text": (200, changed(probabilities=["a"] * 10)),
    "a list in place of a prediction": (200, b'{"predictions": [[]]}'),
}


def test_only_a_well_formed_answer_passes_the_check() -> None:
    require("locust")
    code = """
import ast, sys
import locust
from loadtests.locustfile import check_answer
print({name: check_answer(*answer) for name, answer in ast.literal_eval(sys.argv[1]).items()})
"""
    faults = ast.literal_eval(python(code, repr(ANSWERS)))
    assert [name for name, fault in faults.items() if fault is None] == ["good"]
    assert faults["status"].startswith("status 500")


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
            self.answer(changed(probability=0.5))

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
    process = subprocess.run(
        [
            sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--host", liar,
            "--users", "2", "--spawn-rate", "2", "--run-time", "2s", "--only-summary",
        ],
        cwd=PROJECT, env={**os.environ, "SAMEDIGIT_LATENCIES": str(latencies)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 1  # Locust's own code for failures
    outcomes = {line.split(",")[2] for line in latencies.read_text().splitlines()[1:]}
    assert outcomes == {"failed"}
    for left_out in ("TorchUser", "TensorflowUser", "OnnxUser"):
        assert f"{left_out} is left out" in process.stderr
    assert "is not the most probable" in process.stderr
