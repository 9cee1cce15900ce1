"""What is asked of a server, whether its answers are right, and how fast it gives them."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from digits.contract import CLASSES, Images
from digits.errors import LoadTestError
from loadtests.client import Client, request_bytes
from loadtests.server import on_cores
from serving.protocols.v2_grpc import INFER, RESPONSE

MODEL_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
LUA: Final = Path(__file__).with_name("serving.lua")
CHECKED: Final = 16  # answers that are compared before each measurement; they also wake the server up

Read = Callable[[bytes, http.client.HTTPMessage], list[int]]  # the digits in an answer's body and headers


@dataclass(frozen=True, kw_only=True)
class Question:
    """Requests of one form, each with images of its own."""

    path: str
    headers: dict[str, str]
    bodies: list[bytes]
    digits: list[list[int]]  # the right answer to each
    read: Read


@dataclass(frozen=True, kw_only=True)
class Call:
    """One ModelInfer of gRPC, again and again: h2load sends one body."""

    message: bytes
    digit: int  # the right answer
    streams: int = 1  # at once on each connection


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a closed loop measured."""

    answers: int  # with success
    requests_per_second: float  # of these
    p50_ms: float
    p99_ms: float
    failed: int  # refused or not answered


# The same images in the form that each API wants. `images` is uint8 [N, 28, 28]; `digits` has what the model says of each.


def v2_json(path: str, images: Images, digits: list[int]) -> Question:
    def body(image: Images) -> bytes:
        tensor = {"name": "images", "shape": [1, 28, 28], "datatype": "UINT8", "data": image.ravel().tolist()}
        return _compact({"inputs": [tensor]})

    return _json_question(path, [body(image) for image in images], digits, _read_v2_json)


def v2_binary(path: str, images: Images, digits: list[int], *, batch: int = 1) -> Question:
    """With `batch` images in each request, raw, after a head in JSON."""
    tensor = {
        "name": "images",
        "shape": [batch, 28, 28],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": batch * 784},
    }
    head = _compact({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    starts = range(0, len(images), batch)
    return Question(
        path=path,
        headers={"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
        bodies=[head + images[start : start + batch].tobytes() for start in starts],
        digits=[digits[start : start + batch] for start in starts],
        read=_read_v2_binary,
    )


def model_infer(model: str, image: Images, digit: int, *, streams: int = 1) -> Call:
    """Of one image, `[28, 28]`, raw."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28]}
    request = INFER(model_name=model, inputs=[tensor], raw_input_contents=[image.tobytes()])
    return Call(message=request.SerializeToString(), digit=digit, streams=streams)


def nested_json(path: str, images: Images, digits: list[int]) -> Question:
    """{"images": [[[...]]]}, which most servers take."""
    return _json_question(path, [_compact({"images": [image.tolist()]}) for image in images], digits, _read_json)


def base64_json(path: str, images: Images, digits: list[int]) -> Question:
    bodies = [_compact({"images": [base64.b64encode(image.tobytes()).decode()]}) for image in images]
    return _json_question(path, bodies, digits, _read_json)


def _json_question(path: str, bodies: list[bytes], digits: list[int], read: Read) -> Question:
    headers = {"Content-Type": "application/json"}
    return Question(path=path, headers=headers, bodies=bodies, digits=[[digit] for digit in digits], read=read)


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _read_json(body: bytes, headers: http.client.HTTPMessage) -> list[int]:
    answer = json.loads(body)
    if isinstance(answer, dict):
        if "predictions" in answer:
            return [prediction["digit"] for prediction in answer["predictions"]]
        answer = answer["probabilities"]
    return _most_probable(answer)


def _read_v2_json(body: bytes, headers: http.client.HTTPMessage) -> list[int]:
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return _most_probable(outputs["probabilities"]["data"])


def _read_v2_binary(body: bytes, headers: http.client.HTTPMessage) -> list[int]:
    start = int(headers["Inference-Header-Content-Length"])
    for output in json.loads(body[:start])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        if output["name"] == "probabilities":
            return _most_probable(np.frombuffer(body[start:end], np.float32))
        start = end
    raise KeyError("probabilities")


def _most_probable(probabilities: Any) -> list[int]:
    digits: list[int] = np.reshape(probabilities, (-1, CLASSES)).argmax(axis=1).tolist()
    return digits


def check(name: str, port: int, question: Question, *, ca_file: Path | None = None) -> None:
    """Asks for the first images, one at a time; over TLS if there is a certificate to trust.

    Raises:
        LoadTestError: an answer is not the right one.
    """
    try:
        with Client(_url(port, tls=ca_file is not None), ca_file=ca_file) as connection:
            for body, expected in list(zip(question.bodies, question.digits, strict=True))[:CHECKED]:
                answer = connection.ask("POST", question.path, body, question.headers)
                if answer.status != 200:
                    raise LoadTestError(f"{name} answers {answer.status} to {question.path}: {answer.body[:300]!r}")
                digits = question.read(answer.body, answer.headers)
                if digits != expected:
                    raise LoadTestError(f"{name} answers {question.path} with {digits[:10]}; expected {expected[:10]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadTestError(f"{name} does not answer {question.path} as expected: {error!r}") from error


def check_call(name: str, port: int, call: Call) -> int:
    """Calls as often, by grpcio's client. Gives the bytes of an answer.

    Raises:
        LoadTestError: an answer is not the right one.
    """
    size = 0
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection from before may have died while the server slept
    with grpc.insecure_channel(f"127.0.0.1:{port}", own) as channel:
        for _ in range(CHECKED):
            try:
                answer: bytes = channel.unary_unary(MODEL_INFER)(call.message, timeout=20, wait_for_ready=True)
            except grpc.RpcError as error:
                raise LoadTestError(f"{name} does not answer ModelInfer: {error!r}") from error
            digits = _most_probable(np.frombuffer(RESPONSE.FromString(answer).raw_output_contents[0], np.float32))
            if digits != [call.digit]:
                raise LoadTestError(f"{name} answers ModelInfer with {digits}; expected {call.digit}")
            size = 5 + len(answer)
    return size


def write_requests(question: Question, file: Path) -> None:
    """The whole HTTP requests, each after a line with its length: what both clients read."""
    with open(file, "wb") as requests:
        for body in question.bodies:
            request = request_bytes("POST", question.path, body, {"Host": "127.0.0.1", **question.headers})
            requests.write(b"%d\n%b" % (len(request), request))


def client() -> str:
    """What makes the load: "wrk 4.1.0", or "Locust 2.47.0" where wrk is missing.

    Raises:
        LoadTestError: neither is there.
    """
    if shutil.which("wrk"):
        words = subprocess.run(["wrk", "--version"], capture_output=True, text=True).stdout.split()
        return f"wrk {words[1].removeprefix('debian/').partition('-')[0]}"
    try:
        return f"Locust {version('locust')}"
    except ModuleNotFoundError as error:  # importlib's PackageNotFoundError
        raise LoadTestError("Neither wrk nor Locust is installed: apt install wrk, or pip install locust.") from error


def load_calls(
    port: int, call: Call, body: Path, *, connections: int, seconds: int, cores: list[int] | None, answer_bytes: int
) -> Load:
    """A closed loop of calls by h2load, which reads what it sends from `body`.

    It takes every answer of gRPC for a success, since their status comes behind them: what is refused has no bytes.

    Raises:
        LoadTestError: h2load is missing or failed, or got no answer at all.
    """
    with tempfile.NamedTemporaryFile(prefix="h2load-") as log:
        command = [
            "h2load", "-D", str(seconds), "-c", str(connections), "-m", str(call.streams), "-t", "1", "-d", str(body),
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log.name}",
            f"http://127.0.0.1:{port}{MODEL_INFER}",
        ]  # fmt: skip
        with on_cores(cores):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 2 * seconds)
            except FileNotFoundError as error:
                raise LoadTestError("h2load is not installed: apt install nghttp2-client.") from error
            except subprocess.TimeoutExpired as error:
                raise LoadTestError("h2load did not end in time.") from error
        rows = [line.split("\t") for line in Path(log.name).read_text().splitlines()]
    printed = done.stdout + done.stderr
    data = re.search(r"\((\d+)\) data", printed)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", printed)
    if done.returncode != 0 or data is None or failed is None or not rows:
        raise LoadTestError(f"h2load failed (exit {done.returncode}). It printed:\n{printed[-2000:]}")
    taken_ms = np.array([int(row[2]) for row in rows]) / 1000
    empty = max(0, len(rows) - int(data[1]) // answer_bytes)
    p50, p99 = np.percentile(taken_ms, (50, 99)).tolist()
    right = len(rows) - empty
    if right <= 0:
        raise LoadTestError(f"Port {port} refused every call of h2load.")
    return Load(
        answers=right,
        requests_per_second=right / seconds,
        p50_ms=p50,
        p99_ms=p99,
        failed=empty + int(failed[1]) + int(failed[3]),
    )


def _url(port: int, *, tls: bool) -> str:
    return f"{'https' if tls else 'http'}://127.0.0.1:{port}"


def load(
    port: int, requests: Path, *, connections: int, seconds: int, cores: list[int] | None, tls: bool = False
) -> Load:
    """A closed loop of so many connections, on `cores`; None: on any.

    Raises:
        LoadTestError: the client failed, or got no answer at all.
    """
    url = _url(port, tls=tls)
    if shutil.which("wrk") is None:
        return load_by_locust(url, requests, connections=connections, seconds=seconds, cores=cores)
    threads = min(len(cores or [0]), connections)
    command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "-s", str(LUA), url, "--"]
    return _closed_loop([*command, str(requests)], url, seconds, cores)


def load_by_locust(url: str, requests: Path, *, connections: int, seconds: int, cores: list[int] | None) -> Load:
    """As `load`, by Locust's FastHttpUser.

    Raises:
        LoadTestError: as `load`.
    """
    command = [sys.executable, "-m", "benchmarks.serving_locust", url, str(requests), str(connections), str(seconds)]
    return _closed_loop(command, url, seconds, cores)


def _closed_loop(command: list[str], url: str, seconds: int, cores: list[int] | None) -> Load:
    with on_cores(cores):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 2 * seconds)
        except subprocess.TimeoutExpired as error:
            raise LoadTestError(f"{command[0]} did not end in time.") from error
    line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), None)
    if done.returncode != 0 or line is None:
        raise LoadTestError(
            f"{command[0]} failed (exit {done.returncode}). It printed:\n{(done.stdout + done.stderr)[-2000:]}"
        )
    measured = json.loads(line)
    right = measured["answers"] - measured["refused"]
    if right <= 0:
        raise LoadTestError(f"{url} gave {command[0]} no answer in {seconds} s: {line}")
    return Load(
        answers=right,
        requests_per_second=right / measured["seconds"],
        p50_ms=measured["p50_ms"],
        p99_ms=measured["p99_ms"],
        failed=measured["refused"] + measured["unanswered"],
    )
