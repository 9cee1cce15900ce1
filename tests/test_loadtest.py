"""What the load test counts as an answer, and what it measures of a real server."""

from __future__ import annotations

import http.server
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, bentoml_home, python, require

from comparison.load.rates import in_words, read_rates
from comparison.load.results import read_results
from digits.contract import Backend
from digits.store import StoredModel, find_model, served_models
from loadtests.load_test import Figures, Run, read_figures, run_load_test, run_locust, steps
from loadtests.open_test import BEYOND, BOUNDS_MS, SHARES, open_steps, run_open_test
from loadtests.protocols import HEADER_LENGTH, PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.server import FreshServer, fresh_server
from serving.protocols.v2_grpc import RESPONSE

PROBABILITIES = [0.01] * 3 + [0.91] + [0.01] * 6
NEARLY = [0.0102, *PROBABILITIES[1:]]  # 1.0002, further off than rounding
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
    "adding up to nearly 1": predicted(probabilities=NEARLY),
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
    "adding up to nearly 1": inferred(NEARLY),
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
    "adding up to nearly 1": inferred_binary(NEARLY),
    "not a number": inferred_binary([float("nan")] * 10),
    "not the largest": inferred_binary(digit=4),
    "a negative digit": inferred_binary(digit=-7),
}


def inferred_by_call(
    probabilities: list[float] = PROBABILITIES, digit: int = 3, *, raw: tuple[bytes, ...] = (), **fields: Any
) -> bytes:
    contents = (struct.pack(f"<{len(probabilities)}f", *probabilities), struct.pack("<q", digit), *raw)
    answer: bytes = RESPONSE(outputs=outputs(**fields), raw_output_contents=contents).SerializeToString()
    return answer


WRONG_CALLS = {
    "no message": b"\xff",
    "no outputs": b"",
    "another output": inferred_by_call(name="figures"),
    "another datatype": inferred_by_call(datatype="INT32"),
    "another shape": inferred_by_call(shape=[1, 1]),
    "contents too many": inferred_by_call(raw=(b"",)),
    "nine probabilities": inferred_by_call([0.01] * 3 + [0.92] + [0.01] * 5),
    "not adding up": inferred_by_call([0.5] * 10),
    "not a number": inferred_by_call([float("nan")] * 10),
    "not the largest": inferred_by_call(digit=4),
    "a negative digit": inferred_by_call(digit=-7),
}


def test_a_good_answer_gives_its_digit_over_every_protocol() -> None:
    assert PROTOCOLS["grpc"].read(inferred_by_call(), {}) == 3
    assert PROTOCOLS["predict"].read(predicted(), {}) == 3
    assert PROTOCOLS["v2-json"].read(inferred(), {}) == 3
    assert PROTOCOLS["v2-binary"].read(*inferred_binary()) == 3


@pytest.mark.parametrize(
    ("protocol", "body", "headers"),
    [
        *(pytest.param("predict", body, {}, id=f"predict: {name}") for name, body in WRONG_PREDICTIONS.items()),
        *(pytest.param("grpc", body, {}, id=f"grpc: {name}") for name, body in WRONG_CALLS.items()),
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
    """Locust, started by hand; for a second once it has read the images, which its own --run-time would count too."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "--headless", "--only-summary", *map(str, arguments)],
        cwd=PROJECT,
        env={
            **os.environ,
            "SAMEDIGIT_DURATION_SECONDS": "1",
            **{name: str(value) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def server(trained_home: Path) -> Iterator[FreshServer]:
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
    server: FreshServer, protocol: ProtocolName, tmp_path: Path
) -> None:
    require("locust", "onnxruntime")
    asked = PROTOCOLS[protocol]
    host = server.data_url if asked.on_data_plane else server.url
    latencies = tmp_path / "latencies.csv"
    process = locust(
        "-f", "loadtests/locustfile.py", "--host", host, "--protocol", protocol, "--users", 4, "--spawn-rate", 4,
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
def test_locust_divides_its_callers_among_processes(server: FreshServer) -> None:
    require("locust", "onnxruntime")
    process = locust(
        "-f", "loadtests/locustfile.py", "--host", server.data_url, "--protocol", "v2-binary", "--users", 4, "--spawn-rate", 4,
        "--processes", 2, "--run-time", "3s", "OnnxUser", SAMEDIGIT_DURATION_SECONDS="inf",
    )  # fmt: skip
    print(process.stdout, process.stderr)
    assert process.returncode == 0, process.stderr
    summary = re.search(r"Aggregated +(\d+) +0\(0\.00%\)", process.stdout + process.stderr)
    assert summary is not None, process.stderr
    assert int(summary[1]) > 50
    answered = re.findall(r"samedigit: \S+\.onnx/infer: [\d.]+ % of (\d+) answers right", process.stderr)
    assert len(answered) == 2  # each process tells of its own


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_locust_by_hand_asks_the_door_alone_over_each_protocol(server: FreshServer, protocol: ProtocolName) -> None:
    require("locust")
    asked = PROTOCOLS[protocol]
    host = server.data_url if asked.on_data_plane else server.url
    process = locust("-f", "loadtests/echofile.py", "--host", host, "--protocol", protocol)
    assert process.returncode == 0, process.stderr
    assert re.search(rf"{asked.echo_path}: 100\.00 % of \d+ answers right .* 0 failed", process.stderr)


@dataclass(frozen=True)
class Loaded:
    """A load test that was run. Not to be written to."""

    results: Path
    runs: list[Run]
    said: list[str]  # what each step was called


@pytest.fixture(scope="module")
def loaded(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """One model through NumPy, and the door, over every protocol, with one caller and with four."""
    require("locust")
    results = tmp_path_factory.mktemp("results")
    said: list[str] = []
    with bentoml_home(trained_home):
        pairs: list[tuple[StoredModel, Backend]] = [(find_model("numpy-sigmoid"), "numpy")]
        runs = run_load_test(
            pairs, protocols=list(PROTOCOLS), users=4, duration=1, results=results, on_step=said.append
        )
    return Loaded(results, runs, said)


@pytest.mark.slow
def test_a_load_test_over_all_protocols_finds_the_models_part_of_each_latency(loaded: Loaded) -> None:
    assert len(loaded.said) == steps(1, len(PROTOCOLS), 4)
    expected = list(product(("numpy", "echo"), PROTOCOLS, (1, 4)))
    assert [(run.backend, run.protocol, run.users) for run in loaded.runs] == expected
    in_order = [f"numpy-sigmoid through {of}, {by}: {users} caller{'s' * (users > 1)}" for of, by, users in expected]
    assert sorted(loaded.said[1:]) == sorted(in_order)
    assert loaded.said[1:] != in_order  # but at random, as what else the machine does falls on some of them
    for run in loaded.runs:
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
    results = read_results(loaded.results)
    assert list(results.runs) == loaded.runs
    assert all(len(results.latencies(run)) == run.requests for run in loaded.runs)


@pytest.mark.slow
def test_the_latencies_bear_out_the_figures_of_every_run(loaded: Loaded) -> None:
    for run in loaded.runs:
        rows = [line.split(",") for line in (loaded.results / run.latencies).read_text().splitlines()[1:]]
        assert len(rows) == run.requests > 5  # on a busy machine, hundreds and thousands else
        latencies = sorted(float(latency) for _, latency, _ in rows)
        assert latencies[0] <= run.p50_ms <= run.p95_ms <= run.p99_ms <= latencies[-1]
        middle = len(latencies) // 2
        assert latencies[max(0, middle - 1)] <= run.p50_ms <= latencies[middle]
        assert sum(outcome == "right" for _, _, outcome in rows) == run.correct
        assert all(0 <= float(sent) < 1 for sent, _, _ in rows)
        assert run.requests_per_second == run.requests
    assert 0.85 < loaded.runs[0].correct / loaded.runs[0].requests < 1


@pytest.fixture(scope="module")
def arrived(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """One model through two backends, over two protocols, two rounds."""
    require("onnxruntime")
    results = tmp_path_factory.mktemp("open")
    said: list[str] = []
    with bentoml_home(trained_home):
        model = find_model("numpy-sigmoid")
        pairs: list[tuple[StoredModel, Backend]] = [(model, "numpy"), (model, "onnx")]
        run_open_test(
            pairs, protocols=["predict", "grpc"], users=4, seconds=0.2, rounds=2, results=results, on_step=said.append
        )
    return Loaded(results, [], said)


@pytest.mark.slow
def test_an_open_test_offers_every_share_of_the_peak_in_every_round(arrived: Loaded) -> None:
    assert len(arrived.said) == open_steps(2, 2, 2)
    rates = read_rates(arrived.results)
    assert rates is not None
    asked = [(one.peak.backend, one.peak.protocol) for one in rates.arrived]
    assert asked == list(product(("numpy", "onnx"), ("predict", "grpc")))
    orders = set()
    for one in rates.arrived:
        assert one.peak.requests_per_second > 50
        assert one.peak.server_cpu_us > 1
        assert one.peak.server_memory_mb > 20
        for number in (1, 2):
            points = [point for point in one.points if point.round == number]
            shares = [point.share for point in points]
            orders.add(tuple(shares[: len(SHARES)]))
            assert sorted(shares[: len(SHARES)]) == list(SHARES)
            assert shares[len(SHARES) :] == list(BEYOND[: len(shares) - len(SHARES)])
            for point in points:
                assert point.rate == pytest.approx(point.share * one.peak.requests_per_second)
                assert 0 < point.requests < 3 * 0.2 * point.rate + 10
                assert 0 <= point.failures <= point.requests
            for point in points[len(SHARES) : -1]:  # only the last is more than the server carries
                assert point.p99_ms is not None
                assert point.p99_ms <= BOUNDS_MS[-1]
        quiet = [point for point in one.points if point.share == SHARES[0] and not point.failures]
        assert sum(point.correct for point in quiet) > 0.8 * sum(point.requests for point in quiet)
        assert {level.share for level in one.levels} == {point.share for point in one.points}
    assert len(orders) > 1  # random


@pytest.mark.slow
def test_an_open_tests_figures_stand_in_the_table_and_in_the_report(
    loaded: Loaded, arrived: Loaded, trained_home: Path, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(loaded.results, tmp_path / "results"))
    shutil.copytree(arrived.results, results, dirs_exist_ok=True)
    rates = read_rates(results)
    assert rates is not None
    code = (
        "import sys; from pathlib import Path; from samedigit.commands import show_rates; show_rates(Path(sys.argv[1]))"
    )
    printed = python(code, results, environment={"BENTOML_HOME": str(trained_home), "COLUMNS": "80"})
    assert max(map(len, printed.splitlines())) <= 80
    samedigit("report", "--results", results, BENTOML_HOME=trained_home)
    page = (results / "report.html").read_text()
    table = page[page.index('<table id="rates">') :]
    for one in rates.arrived:
        words = in_words(one.answer(100.0))
        assert f"<td>{words}" in table
        assert words.replace("at least ", "≥ ").replace("below ", "< ") in printed
    assert page.count("The p99 of latency against the rate of requests") == 2  # a picture for each protocol


def samedigit(*arguments: object, **environment: object) -> str:
    """What the command line prints."""
    code = "import sys; from samedigit.cli import main; sys.argv[0] = 'samedigit'; main()"
    return python(code, *arguments, environment={name: str(value) for name, value in environment.items()})


@pytest.mark.slow
def test_a_report_has_the_figures_of_the_load_test(loaded: Loaded, trained_home: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(loaded.results, tmp_path / "results"))
    said = samedigit("report", "--results", results, BENTOML_HOME=trained_home, COLUMNS=200)
    assert said == f"Report: {results / 'report.html'}\n"
    rows = json.loads(samedigit("report", "--results", results, "--json", BENTOML_HOME=trained_home))["rows"]
    assert [row["protocol"] for row in rows] == [*PROTOCOLS]
    row = rows[0]
    assert row["door_ms"] + row["queue_ms"] + row["model_ms"] == pytest.approx(row["mean_ms"])
    one, many = loaded.runs[:2]
    assert (row["p50_ms"], row["requests_per_second"]) == (one.p50_ms, many.requests_per_second)


@pytest.mark.slow
def test_the_table_of_a_load_test_of_every_model_fits_a_terminal_of_80_columns(
    loaded: Loaded, trained_home: Path, tmp_path: Path
) -> None:
    """What was measured of one model, said of each."""
    document = json.loads((loaded.results / "loadtest.json").read_text())
    with bentoml_home(trained_home):
        models = served_models()
    of_each = 2 * len(PROTOCOLS)
    measured, door = document["runs"][:of_each], document["runs"][of_each:]
    runs = []
    for model in models:
        named = {"model": model.tag, "recipe": model.recipe, "framework": model.card.framework}
        runs += [{**run, **named, "backend": backend} for backend in model.card.backends for run in measured]
    (tmp_path / "loadtest.json").write_text(json.dumps({**document, "runs": runs + door}))
    code = "import sys; from pathlib import Path; from samedigit.commands import show_summary; show_summary(Path(sys.argv[1]))"
    said = python(code, tmp_path, environment={"BENTOML_HOME": str(trained_home), "COLUMNS": "80"})
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    for model in models:
        assert model.recipe in said
    for run in loaded.runs:
        if run.users == 1:
            assert f"{run.p50_ms:.2f}" in said
            assert f"{run.mean_ms:.3f}" in said
            if run.model_ms is not None:
                assert f"{run.model_ms:.3f}" in said


# Locust against a server that does as it is told


@dataclass(frozen=True)
class Fake:
    """A server that answers the n-th prediction as `answer(n)` says, from 0; None: never."""

    url: str
    asked: list[str]  # the path of each prediction


@contextmanager
def fake(answer: Callable[[int], tuple[int, bytes] | None], models: dict[str, float]) -> Iterator[Fake]:
    """With these models, and their accuracy, through NumPy."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one piece
        disable_nagle_algorithm = True

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def do_GET(self) -> None:
            served = [{"model": f"{name}:1", "backends": {"numpy": {"accuracy": models[name]}}} for name in models]
            self.reply(200, json.dumps({"models": served, "model_stats": []}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            found = answer(len(asked) - 1)
            if found is None:
                over.wait(60)
                self.close_connection = True
            else:
                self.reply(*found)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Fake(f"http://127.0.0.1:{server.server_port}", asked)
        over.set()
        server.shutdown()


def measured(url: str, *, users: int, folder: Path) -> tuple[Figures, str | None]:
    """What a load test of one second finds, and the first failure."""
    file = folder / "latencies.csv"
    counts = run_locust(url, "numpy", "predict", users=users, duration=1, core=None, latencies=file)
    figures = read_figures(file, duration=1)
    assert figures is not None
    return figures, counts["first_failure"]


@pytest.mark.slow
def test_requests_that_a_hanging_server_never_answers_have_failed(tmp_path: Path) -> None:
    require("locust")
    answered = 90

    def for_a_second(n: int) -> tuple[int, bytes] | None:
        time.sleep(0.03)  # three at once, and half a second of warm-up
        return (200, predicted()) if n < answered else None

    with fake(for_a_second, {"a": 0.9}) as server:
        figures, first_failure = measured(server.url, users=3, folder=tmp_path)
    assert len(server.asked) == answered + 3
    assert figures.failures == 3
    assert 3 < figures.requests < answered + 3
    assert figures.requests_per_second == figures.requests - 3  # in one second
    assert figures.p99_ms > 4000  # they were waited for
    assert first_failure is not None
    assert "no answer before the end" in first_failure


@pytest.mark.slow
def test_an_answer_that_comes_soon_after_the_end_counts(tmp_path: Path) -> None:
    require("locust")

    def slowly(n: int) -> tuple[int, bytes]:
        time.sleep(1.2)
        return 200, predicted()

    with fake(slowly, {"a": 0.9}) as server:
        figures, _ = measured(server.url, users=1, folder=tmp_path)
    assert (figures.requests, figures.failures) == (1, 0)  # sent in the second half of the second
    assert figures.mean_ms > 1200


@pytest.mark.slow
def test_the_warm_up_does_not_count(tmp_path: Path) -> None:
    require("locust")
    with fake(lambda n: (200, predicted()) if n else (500, b""), {"a": 0.9}) as server:
        figures, first_failure = measured(server.url, users=1, folder=tmp_path)
    assert (figures.failures, first_failure) == (0, None)
    assert 0 < figures.requests < len(server.asked)


def test_the_figures_of_a_measurement(tmp_path: Path) -> None:
    latencies = [float(n) for n in range(1, 1002)]
    outcomes = ["right"] * 900 + ["wrong"] * 61 + ["failed"] * 40
    file = tmp_path / "latencies.csv"
    rows = [f"0.5,{latency},{outcome}" for latency, outcome in zip(latencies, outcomes, strict=True)]
    file.write_text("\n".join(["sent_s,latency_ms,outcome", *rows]))
    assert read_figures(file, duration=4) == Figures(
        requests=1001, failures=40, correct=900, seconds=4, requests_per_second=961 / 4,
        mean_ms=501, p50_ms=501, p95_ms=951, p99_ms=991,
    )  # fmt: skip


@pytest.mark.slow
def test_locust_by_hand_asks_the_most_accurate_model_and_prints_the_percentiles_of_its_latencies(
    tmp_path: Path,
) -> None:
    require("locust")

    def one_in_13_slowly(n: int) -> tuple[int, bytes]:  # between p90 and p95
        time.sleep(0.005 * (n % 13 == 0))
        return 200, inferred()

    file = tmp_path / "latencies.csv"
    with fake(one_in_13_slowly, {"good": 0.9, "best": 0.97, "worst": 0.8}) as server:
        process = locust(
            "-f", "loadtests/locustfile.py", "--host", server.url, "--protocol", "v2-json", SAMEDIGIT_LATENCIES=file
        )
    assert process.returncode == 0, process.stderr
    assert {*server.asked} == {"/v2/models/best.numpy/infer"}
    (said,) = re.findall(r"infer: .* 0 failed; p50 ([\d.]+) ms, p95 ([\d.]+) ms, p99 ([\d.]+) ms", process.stderr)
    latencies = sorted(float(line.split(",")[1]) for line in file.read_text().splitlines()[1:])
    for percent, figure in zip((50, 95, 99), said, strict=True):
        assert float(figure) == pytest.approx(latencies[math.ceil(percent / 100 * len(latencies)) - 1], abs=0.01)
    assert float(said[0]) < 5 < float(said[1])


@pytest.mark.slow
def test_malformed_answers_are_failures_and_unserved_backends_are_left_out(tmp_path: Path) -> None:
    require("locust")
    latencies = tmp_path / "latencies.csv"
    with fake(lambda n: (200, predicted(probability=0.5)), {"a": 0.9}) as server:
        process = locust(
            "-f", "loadtests/locustfile.py", "--host", server.url, "--users", 2, SAMEDIGIT_LATENCIES=latencies
        )
    assert process.returncode == 1  # Locust's own code for failures
    outcomes = {line.split(",")[2] for line in latencies.read_text().splitlines()[1:]}
    assert outcomes == {"failed"}
    for left_out in ("TorchUser", "TensorflowUser", "OnnxUser"):
        assert f"{left_out} is left out" in process.stderr
    assert "is not the most probable" in process.stderr
