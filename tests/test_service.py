"""The service as its users meet it: a real server, and requests good and bad."""

from __future__ import annotations

import io
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import TRAINED, Expected, require, require_recipe
from PIL import Image
from servers import JSON, SERVED, Server, body, everything_from, failed_start, folder_of, serving

from digits.contract import Backend
from digits.mnist import LabelledImages
from runtimes.device import count_gpus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(trained_home: Path) -> Iterator[Server]:
    """Every model through every backend, by `bentoml serve`."""
    require("onnxruntime")
    for recipe in TRAINED:
        require_recipe(recipe)
    environment = {"SAMEDIGIT_MAX_IMAGES": "150", "SAMEDIGIT_MAX_BODY_BYTES": "1000000"}
    with serving(trained_home, environment, by_bentoml=True) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


# Right answers


def test_a_picture_of_a_digit_is_read_by_every_model_through_every_backend_as_its_card_says(
    client: httpx.Client, test_set: LabelledImages
) -> None:
    right = 0
    for image, label in zip(test_set.images[:20], test_set.labels[:20], strict=True):
        file = io.BytesIO()
        Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC).save(file, "PNG")
        answer = client.post("/compare", content=file.getvalue()).json()
        rows = answer["answers"]
        assert {(row["recipe"], row["backend"]) for row in rows} == {(one, two) for one in TRAINED for two in SERVED}
        assert all(row["accuracy"] > 0.9 and row["run_ms"] > 0 for row in rows)
        right += sum(row["digit"] == label for row in rows)
        one = client.post("/classify?model=torch-relu", content=file.getvalue()).json()
        assert one["backend"] == "onnx"  # the quickest of those that there are
        (same,) = [row for row in rows if (row["model"], row["backend"]) == (one["model"], "onnx")]
        assert one["predictions"][0]["probabilities"] == same["probabilities"]
    assert right >= 0.9 * 20 * len(TRAINED) * len(SERVED)


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize("backend", SERVED)
def test_a_hundred_digits_get_the_probabilities_of_the_stored_file(
    backend: Backend, recipe: str, server: Server, test_set: LabelledImages, expected: Expected, trained_home: Path
) -> None:
    answer = server.predict(backend, test_set.images[:100], recipe)
    assert answer["model"] == f"{recipe}:{folder_of(trained_home, recipe).name}"
    assert answer["backend"] == backend
    predictions = answer["predictions"]
    probabilities = np.array([one["probabilities"] for one in predictions])
    np.testing.assert_allclose(probabilities, expected(recipe, 100), atol=1e-5)
    assert [one["digit"] for one in predictions] == probabilities.argmax(axis=1).tolist()
    assert [one["probability"] for one in predictions] == probabilities.max(axis=1).tolist()
    assert (probabilities.argmax(axis=1) == test_set.labels[:100]).sum() >= 90


def test_a_model_is_chosen_by_recipe_by_version_and_as_latest(
    server: Server, test_set: LabelledImages, trained_home: Path
) -> None:
    for recipe in TRAINED:
        tag = f"{recipe}:{folder_of(trained_home, recipe).name}"
        for name in (recipe, tag, f"{recipe}:latest"):
            assert server.predict("numpy", test_set.images[:1], name)["model"] == tag


def test_without_a_model_the_most_accurate_one_of_the_backend_answers(
    server: Server, client: httpx.Client, test_set: LabelledImages
) -> None:
    models = client.get("/models").json()["models"]
    for backend in SERVED:
        best = max(models, key=lambda model: model["backends"][backend]["correct"])["model"]
        assert server.predict(backend, test_set.images[:1])["model"] == best


def test_models_lists_what_is_served_with_its_stored_accuracy_and_card(
    client: httpx.Client, trained_home: Path, expected: Expected, test_set: LabelledImages
) -> None:
    answer = client.get("/models")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    models = {model["model"].partition(":")[0]: model for model in answer.json()["models"]}
    assert set(models) == set(TRAINED)
    for recipe, model in models.items():
        assert model["model"] == f"{recipe}:{folder_of(trained_home, recipe).name}"
        correct = int((expected(recipe, 10_000).argmax(axis=1) == test_set.labels).sum())
        for backend in SERVED:
            found = model["backends"][backend]
            assert found["path"] == f"/predict/{backend}"
            assert found["total"] == 10_000
            assert found["accuracy"] == found["correct"] / 10_000
            assert found["correct"] == pytest.approx(correct, abs=2)  # rounding may turn a tie
        assert model["card"]["recipe"]["name"] == recipe
        assert model["card"]["seed"] == model["card"]["recipe"]["seed"]


def test_a_content_type_may_have_parameters_and_capitals(client: httpx.Client, test_set: LabelledImages) -> None:
    for content_type in ("application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"):
        answer = client.post("/predict/onnx", content=body(test_set.images[:1]), headers={"content-type": content_type})
        assert answer.status_code == 200, answer.text


def test_a_chunked_body_is_put_together(client: httpx.Client, test_set: LabelledImages, server: Server) -> None:
    whole = body(test_set.images[:3], "torch-relu")
    chunks = (whole[i : i + 700] for i in range(0, len(whole), 700))
    answer = client.post("/predict/onnx", content=chunks, headers=JSON)
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json() == server.predict("onnx", test_set.images[:3], "torch-relu")


@pytest.mark.parametrize("backend", SERVED)
def test_sixteen_clients_at_once_each_get_the_answer_to_their_own_image(
    backend: Backend, server: Server, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("torch-relu", 400)
    together = threading.Barrier(16)

    def ask(client_number: int) -> None:
        with server.client() as client:
            together.wait(timeout=30)
            for i in range(client_number, 400, 16):
                sent = body(test_set.images[i : i + 1], "torch-relu")
                answer = client.post(f"/predict/{backend}", content=sent, headers=JSON)
                (prediction,) = answer.json()["predictions"]
                np.testing.assert_allclose(prediction["probabilities"], right[i], atol=1e-5)

    assert len(np.unique(right, axis=0)) == 400  # no two images have the same answer
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(16)))


def test_echo_answers_a_tenth_for_every_digit(client: httpx.Client, test_set: LabelledImages) -> None:
    answer = client.post("/echo", content=body(test_set.images[:2]), headers=JSON).json()
    assert answer["model"] == answer["backend"] == "echo"
    assert len(answer["predictions"]) == 2
    for prediction in answer["predictions"]:
        np.testing.assert_allclose(prediction["probabilities"], [0.1] * 10, rtol=1e-6)


# Refusals


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    message: str = answer.json()["error"]
    return message


def test_an_unknown_model_is_404_and_those_served_are_named(
    client: httpx.Client, test_set: LabelledImages, trained_home: Path
) -> None:
    for name in ("nothing", "torch-relu:nothing", "torch", ""):
        answer = client.post("/predict/onnx", content=body(test_set.images[:1], name), headers=JSON)
        message = error_of(answer, 404)
        assert message.startswith(f"No model {name!r} is served through onnx; served are ")
        for recipe in TRAINED:
            assert f"{recipe}:{folder_of(trained_home, recipe).name}" in message


@pytest.mark.parametrize("backend", ["jax", "", "ONNX", "%2e%2e"])
def test_an_unknown_backend_is_404_and_those_there_are_are_named(
    backend: str, client: httpx.Client, test_set: LabelledImages
) -> None:
    message = error_of(client.post(f"/predict/{backend}", content=body(test_set.images[:1]), headers=JSON), 404)
    backend = backend.replace("%2e", ".")
    assert message == f"There is no backend {backend!r}; the backends are numpy, torch, tensorflow, onnx."


@pytest.mark.parametrize("path", ["/predict/onnx/", "/predict/%2e%2e/models", "/predict/onnx/versions/1"])
def test_what_is_below_a_backend_is_404_and_what_there_is_is_named(path: str, client: httpx.Client) -> None:
    message = error_of(client.post(path, content=b"{}", headers=JSON), 404)
    named = path.replace("%2e", ".")
    assert message == f"Nothing is at {named}; /v2, /predict/BACKEND, /classify, /models and /ui are here."


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/predict/onnx", "GET", "POST"),
        ("/predict/onnx", "PUT", "POST"),
        ("/predict/onnx", "DELETE", "POST"),
        ("/echo", "GET", "POST"),
        ("/models", "POST", "GET"),
    ],
)
def test_another_method_is_405_and_the_right_one_is_named(
    path: str, method: str, allowed: str, client: httpx.Client
) -> None:
    answer = client.request(method, path)
    assert error_of(answer, 405) == f"{path} takes {allowed}, got {method}."
    assert answer.headers["allow"] == ("GET, HEAD" if allowed == "GET" else allowed)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/vnd.bentoml+pickle",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/json",
        "",
        None,
    ],
)
@pytest.mark.parametrize("path", ["/predict/onnx", "/echo"])
def test_another_content_type_is_415_and_both_are_named(
    content_type: str | None, path: str, client: httpx.Client, test_set: LabelledImages
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    message = error_of(client.post(path, content=body(test_set.images[:1]), headers=headers), 415)
    came = "none" if content_type is None else content_type.partition(";")[0]
    assert message == f"Expected the content type application/json, got {came}."


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "The body is not valid JSON"),
        (b'{"images": [[[0, ', "The body is not valid JSON"),
        (b'{"images": [[[NaN]]]}', "JSON has no NaN"),
        (b"[" * 100_000, "The body is not valid JSON"),
        (b"\xff\xfe", "The body is not valid JSON"),
        (b"[]", "The body must be a JSON object"),
        (b"{}", "The field images is missing"),
        (b'{"images": []}', "images is empty"),
        (b'{"images": [[0]]}', "image 0 is a list of 1"),
        (b'{"images": "http://127.0.0.1/digit.png"}', "images must be a list"),
        (b'{"images": [], "model": 5}', "model must be a string"),
        (b'{"images": [], "path": "/etc/passwd"}', "Unknown field 'path'"),
        (b'{"images": [' + b",".join([b"[]"] * 151) + b"]}", "Too many images: at most 150 in one request, got 151"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_malformed_request_is_400_and_says_why(
    sent: bytes, message: str, client: httpx.Client, server: Server, test_set: LabelledImages
) -> None:
    assert message in error_of(client.post("/predict/onnx", content=sent, headers=JSON), 400)
    server.is_well(test_set.images)


def test_a_path_of_nobody_is_404(client: httpx.Client) -> None:
    for path in ("/predict", "/nothing", "/predicts/onnx", "/model"):
        assert client.post(path, content=b"{}", headers=JSON).status_code == 404


# Bodies that are too long, or never come


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_body_that_is_announced_too_long_is_413_before_any_of_it_is_sent(
    server: Server, test_set: LabelledImages
) -> None:
    with server.connect() as connection:
        started = time.monotonic()
        connection.sendall(head("/predict/onnx", "Content-Length: 1000000000"))
        answer = everything_from(connection)  # which ends when the server closes the connection
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b"The body is longer than 1000000 bytes. Send fewer images, or a smaller picture." in answer
    assert time.monotonic() - started < 10  # that is, without waiting for the body
    server.is_well(test_set.images)


def test_who_waits_for_100_continue_gets_413_in_its_place(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head("/predict/onnx", "Content-Length: 1000000000", "Expect: 100-continue"))
        assert everything_from(connection).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_that_grows_too_long_is_413_long_before_its_end(
    server: Server, test_set: LabelledImages
) -> None:
    """A hundred times the limit is offered; what the server lets through is little more than the limit."""
    chunk = b"%x\r\n%s\r\n" % (10_000, b" " * 10_000)
    taken = 0
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        connection.sendall(head("/predict/onnx", "Transfer-Encoding: chunked"))
        try:
            while taken < 100_000_000:
                connection.sendall(chunk)
                taken += len(chunk)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
    assert 1_000_000 < taken < 60_000_000  # some is dropped, so that the client can read why
    server.is_well(test_set.images)


def test_a_chunked_body_just_over_the_limit_is_413_and_just_under_it_is_read(
    client: httpx.Client, test_set: LabelledImages
) -> None:
    sent = body(test_set.images[:1])
    for length, status in ((1_000_000, 200), (1_000_001, 413)):
        padded = sent + b" " * (length - len(sent))
        assert client.post("/predict/onnx", content=padded, headers=JSON).status_code == status
        chunks = iter([padded[:600_000], padded[600_000:]])
        assert client.post("/predict/onnx", content=chunks, headers=JSON).status_code == status


def test_a_client_that_goes_away_in_the_middle_of_its_body_harms_nobody(
    server: Server, test_set: LabelledImages
) -> None:
    sent = body(test_set.images[:1])
    before = len(server.log.read_text())
    for start in (
        head("/predict/onnx", f"Content-Length: {len(sent)}") + sent[:100],
        head("/predict/onnx", f"Content-Length: {len(sent)}"),
        head("/predict/onnx", "Transfer-Encoding: chunked") + b"64\r\n" + sent[:100] + b"\r\n",
        head("/predict/onnx", "Transfer-Encoding: chunked") + b"64\r\n" + sent[:10],
        head("/predict/onnx", "Transfer-Encoding: chunked") + b"zz\r\n",
        head("/predict/onnx", "Content-Length: -5"),
        head("/predict/onnx", "Content-Length: many"),
        b"POST /predict/onnx HTTP/1.1\r\nHost",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS at a plain port
    ):
        for _ in range(3):
            connection = server.connect()
            connection.sendall(start)
            connection.close()
    time.sleep(0.2)
    server.is_well(test_set.images)
    assert "Traceback" not in server.log.read_text()[before:]


# BentoML's own paths


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_bentomls_health_checks_answer(path: str, client: httpx.Client) -> None:
    assert client.get(path).status_code == 200


def test_the_metrics_count_predictions_whatever_other_servers_of_the_same_store_do(
    client: httpx.Client, server: Server, test_set: LabelledImages, trained_home: Path
) -> None:
    """BentoML's own counts did not: its servers of one BENTOML_HOME share a folder, which each empties when it starts."""

    def counted() -> float:
        labels = 'protocol="predict",route="/predict/{backend}",model="numpy-sigmoid.numpy"'
        series = rf'^samedigit_requests_total\{{{re.escape(labels)},.*status="200"\}} (\S+)$'
        return sum(map(float, re.findall(series, client.get("/metrics").text, re.MULTILINE)))

    before = counted()
    server.predict("numpy", test_set.images[:1], "numpy-sigmoid")
    with serving(trained_home, {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_MODELS": "numpy-sigmoid"}) as other:
        other.predict("numpy", test_set.images[:1])
        for _ in range(2):
            server.predict("numpy", test_set.images[:1], "numpy-sigmoid")
        assert counted() == before + 3


def test_the_documentation_has_every_path_with_its_requests_and_answers(client: httpx.Client) -> None:
    document = client.get("/docs.json").json()
    assert document["openapi"].startswith("3.")
    operation = document["paths"]["/predict/{backend}"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["images"]
    assert {"200", "400", "404", "413", "415", "501", "503"} <= set(operation["responses"])
    assert {"/models", "/echo", "/livez", "/readyz", "/metrics"} <= set(document["paths"])


def test_the_page_of_the_documentation_opens(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "text/html" in answer.headers["content-type"]


def test_the_server_has_come_through_all_of_this_without_a_traceback(server: Server, test_set: LabelledImages) -> None:
    server.is_well(test_set.images)
    assert "Traceback" not in server.log.read_text()


# A narrowed server


@pytest.fixture(scope="module")
def narrowed(trained_home: Path, without: Callable[..., dict[str, str]]) -> Iterator[Server]:
    """onnx and torch-relu alone, on a machine without torch, in one process."""
    require("onnxruntime")
    require_recipe("torch-relu")
    environment = {"SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_MODELS": "torch-relu", **without("torch", "tensorflow")}
    with serving(trained_home, environment) as found:
        yield found


def test_a_narrowed_server_serves_what_it_is_told_alone(
    narrowed: Server, test_set: LabelledImages, expected: Expected, trained_home: Path
) -> None:
    tag = f"torch-relu:{folder_of(trained_home, 'torch-relu').name}"
    answer = narrowed.predict("onnx", test_set.images[:20])
    assert answer["model"] == tag
    found = [one["probabilities"] for one in answer["predictions"]]
    np.testing.assert_allclose(found, expected("torch-relu", 20), atol=1e-5)
    with narrowed.client() as client:
        (model,) = client.get("/models").json()["models"]
        assert model["model"] == tag
        assert list(model["backends"]) == ["onnx"]
        other = client.post("/predict/onnx", content=body(test_set.images[:1], "numpy-sigmoid"), headers=JSON)
        assert error_of(other, 404) == f"No model 'numpy-sigmoid' is served through onnx; served are {tag}."
        unserved = client.post("/predict/numpy", content=body(test_set.images[:1]), headers=JSON)
        assert error_of(unserved, 404) == "The numpy backend is not served here; served are onnx."


def test_a_backend_that_is_not_installed_is_501_with_the_command_that_installs_it(
    narrowed: Server, test_set: LabelledImages
) -> None:
    with narrowed.client() as client:
        for backend in ("torch", "tensorflow"):
            answer = client.post(f"/predict/{backend}", content=body(test_set.images[:1]), headers=JSON)
            message = error_of(answer, 501)
            assert message.startswith(
                f"The {backend} backend is not installed on this server: pip install '.[{backend}]'"
            )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_server_of_onnx_alone_has_no_library_of_another_framework_in_memory(narrowed: Server) -> None:
    narrowed.is_well(np.zeros((2, 28, 28), np.uint8))
    libraries = [Path(f"/proc/{process}/maps").read_text() for process in family(narrowed.process.pid)]
    assert any("onnxruntime" in one for one in libraries)
    assert not any("libtorch" in one or "tensorflow" in one for one in libraries)


def family(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(member for child in children for member in family(int(child)))]


def test_a_terminated_server_stops_within_ten_seconds_though_a_client_is_connected(narrowed: Server) -> None:
    """The last of this server's tests."""
    with narrowed.client() as client:
        assert client.get("/livez").status_code == 200  # and the connection stays open
        started = time.monotonic()
        narrowed.process.send_signal(signal.SIGTERM)
        narrowed.process.wait(timeout=10)
        assert time.monotonic() - started < 10
    with pytest.raises(ConnectionRefusedError):
        narrowed.connect().close()


# Starts that must fail


@pytest.mark.skipif(count_gpus() > 0, reason="has a GPU")
def test_a_gpu_that_is_not_there_stops_the_start_with_one_line(trained_home: Path) -> None:
    line = failed_start(trained_home, {"SAMEDIGIT_DEVICE": "cuda"})
    assert "The device cuda was asked for, but CUDA sees no GPU here. Use auto or cpu, or check the driver." in line


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SAMEDIGIT_BACKENDS": "jax"}, "SAMEDIGIT_BACKENDS takes numpy, torch, tensorflow, onnx"),
        ({"SAMEDIGIT_MAX_IMAGES": "0"}, "SAMEDIGIT_MAX_IMAGES takes a whole number from 1 to 1000000; got '0'."),
        ({"SAMEDIGIT_DEVICE": "gpu"}, "The device must be auto, cpu, cuda or cuda:INDEX; got 'gpu'."),
        ({"SAMEDIGIT_MODELS": "torch-rely"}, "No model torch-rely is stored; there are "),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    environment: dict[str, str], message: str, trained_home: Path
) -> None:
    assert message in failed_start(trained_home, environment)


def test_an_empty_store_stops_the_start_with_one_line_that_says_how_to_train(tmp_path: Path) -> None:
    line = failed_start(tmp_path / "bentoml", {})
    assert (
        f"There is nothing to serve: no model is stored in {tmp_path / 'bentoml'}. Train one: samedigit train" in line
    )


def test_a_store_of_departed_runs_alone_stops_the_start_with_one_line_that_says_how_to_promote(
    tmp_path: Path, trained_home: Path
) -> None:
    require_recipe("numpy-sigmoid")
    home = tmp_path / "bentoml"
    shutil.copytree(trained_home / "models/numpy-sigmoid", home / "models/numpy-sigmoid")
    (home / "models/numpy-sigmoid/promoted").unlink()
    tag = f"numpy-sigmoid:{folder_of(home, 'numpy-sigmoid').name}"
    assert (
        f"There is nothing to serve: every stored run departed from its recipe ({tag}: epochs 1), and such a run is "
        f"served only by name, or once promoted: samedigit promote {tag}"
    ) in failed_start(home, {})


def test_a_backend_that_is_asked_for_and_not_installed_stops_the_start_with_one_line(
    trained_home: Path, without: Callable[..., dict[str, str]]
) -> None:
    line = failed_start(trained_home, {"SAMEDIGIT_BACKENDS": "numpy,onnx", **without("onnxruntime")})
    assert "SAMEDIGIT_BACKENDS names onnx, which is not installed: pip install '.[onnx]'" in line


def test_a_damaged_file_stops_the_start_with_one_line_that_names_it(tmp_path: Path, trained_home: Path) -> None:
    require_recipe("numpy-sigmoid")
    shutil.copytree(trained_home, tmp_path / "bentoml")
    file = folder_of(tmp_path / "bentoml", "numpy-sigmoid") / "model.npz"
    damaged = bytearray(file.read_bytes())
    damaged[5000] ^= 1
    file.write_bytes(damaged)
    line = failed_start(tmp_path / "bentoml", {"SAMEDIGIT_BACKENDS": "numpy"})
    assert f"{file} is not the file that was stored: expected sha256" in line
