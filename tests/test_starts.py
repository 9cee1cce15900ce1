"""Starts until the first right answer, and what is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from comparison.cost.starts import read_starts
from comparison.intervals import median_interval
from digits.errors import LoadTestError, ResultsMissing
from loadtests.cold_start import asked_from_the_start
from loadtests.protocols import PROTOCOLS
from loadtests.server import Start, free_ports

# Answers 200 from its start, but another digit at first.
SERVER = """
import http.server, json, sys, time
began = time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.reply(b"")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        digit = 7 if time.monotonic() > began + float(sys.argv[2]) else 8
        probabilities = [0.01] * 10
        probabilities[digit] = 0.91
        said = {"digit": digit, "probability": 0.91, "probabilities": probabilities}
        self.reply(json.dumps({"predictions": [said]}).encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_an_answer_that_is_not_right_is_not_the_first_one() -> None:
    """The first test image is a seven."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    start = Start(command=[sys.executable, "-c", SERVER, str(port), "0.5"], environment={}, ready=[url])
    seconds = asked_from_the_start(start, {"predict": url}, "a", "numpy", core=None)
    assert seconds.keys() == {"predict"}
    assert 0.5 < seconds["predict"] < 120


def test_a_server_that_is_never_right_is_told() -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    start = Start(command=[sys.executable, "-c", SERVER, str(port), "1000"], environment={}, ready=[url])
    with pytest.raises(LoadTestError, match="No answer was right over predict"):
        asked_from_the_start(start, {"predict": url}, "a", "numpy", core=None, limit_seconds=2)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    for number in (6, 20):
        samples = random.exponential(1, size=(4000, number))
        intervals = [median_interval(sample.tolist()) for sample in samples]
        covered = np.mean([interval is not None and interval[0] <= np.log(2) <= interval[1] for interval in intervals])
        assert covered > 0.945
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None  # from the least to the most is 94 %
    twenty = median_interval([float(n) for n in range(1, 21)])
    assert twenty == (6, 15)  # as in Conover's table
    assert stats.binom.cdf(5, 20, 0.5) < 0.025 < stats.binom.cdf(6, 20, 0.5)


def test_starts_are_read_by_model_backend_and_files(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    answers = [
        {
            "model": "a:1", "recipe": "a", "backend": "onnx", "files": files,
            "seconds": {name: seconds + i for i, name in enumerate(PROTOCOLS)},
        }
        for files, seconds in (("warm", 1.0), ("cold", 9.0), ("warm", 3.0), ("warm", 2.5))
    ]  # fmt: skip
    (tmp_path / "starts.json").write_text(json.dumps({"answers": answers}))
    cold, warm = read_starts(tmp_path)
    assert (cold.files, cold.number, warm.files, warm.number) == ("cold", 1, "warm", 3)
    assert list(warm.medians.values()) == [2.5, 3.5, 4.5, 5.5]
    (tmp_path / "starts.json").write_text("{}")
    with pytest.raises(ResultsMissing, match="another version"):
        read_starts(tmp_path)
