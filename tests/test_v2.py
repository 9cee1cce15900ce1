"""The Open Inference Protocol, asked of a real `bentoml serve` at both its ports: by Triton's own client, and by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import tritonclient.http as triton
from conftest import TRAINED, Expected, require, require_recipe
from servers import JSON, PLATFORMS, SERVED, SLOWEST, Server, body, folder_of, raw_infer, read_answer, serving

from digits.contract import Backend, Images
from digits.mnist import LabelledImages

pytestmark = pytest.mark.slow

MODEL: Final = "torch-relu.onnx"
MAX_IMAGES: Final = 150
CONTROL_KEY: Final = "control-of-models-in-tests"
CONTROL: Final = {"X-API-Key": CONTROL_KEY}
INPUT: Final = {"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}
OUTPUTS: Final = [
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    {"name": "digits", "datatype": "INT64", "shape": [-1]},
]


@pytest.fixture(scope="module")
def server(trained_home: Path) -> Iterator[Server]:
    """Every model through every backend."""
    require("onnxruntime", "tensorflow", "torch")
    for recipe in TRAINED:
        require_recipe(recipe)
    environment = {
        "SAMEDIGIT_CONTROL": "on",
        "SAMEDIGIT_CONTROL_KEYS": CONTROL_KEY,
        "SAMEDIGIT_MAX_IMAGES": str(MAX_IMAGES),
    }
    with serving(trained_home, environment) as found:
        yield found


@pytest.fixture(params=["API port", "data plane"])
def port(request: pytest.FixtureRequest, server: Server) -> int:
    return server.port if request.param == "API port" else server.data_port


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    """Triton's client."""
    with connected(port) as found:
        yield found


@pytest.fixture
def plain(server: Server, port: int) -> Iterator[httpx.Client]:
    with server.client(port) as found:
        yield found


@pytest.fixture(scope="module")
def version_of(trained_home: Path) -> Callable[[str], str]:
    return lambda recipe: folder_of(trained_home, recipe).name


def connected(port: int, **options: Any) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=30.0, **options)


def input_of(images: Images, *, binary: bool = True) -> list[Any]:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


def output(name: str, *, binary: bool = True) -> Any:
    return triton.InferRequestedOutput(name, binary_data=binary)


def names_of(result: Any) -> list[str]:
    return [one["name"] for one in result.get_response()["outputs"]]


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """The status and the message with which the server refuses what the client calls."""
    with pytest.raises(triton.InferenceServerException) as found:
        call(*arguments, **options)
    return found.value.status(), found.value.message()


# Health and metadata


def test_head_is_answered_like_get_without_a_body(plain: httpx.Client) -> None:
    for path in ("/v2", "/models"):
        head, get = plain.head(path), plain.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(get.content))


def test_the_server_is_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_the_servers_metadata_name_its_version_and_extensions(client: Any) -> None:
    assert client.get_server_metadata() == {
        "name": "samedigit",
        "version": version("samedigit"),
        "extensions": ["binary_tensor_data", "model_repository", "statistics"],
    }


@pytest.mark.parametrize(
    ("backend", "platform"),
    [(backend, platform) for backend, platform in PLATFORMS.items() if backend in SERVED],
)
def test_a_models_metadata_name_the_stored_version_and_the_contract(
    backend: Backend, platform: str, client: Any, version_of: Callable[[str], str]
) -> None:
    stored = version_of("keras-enhanced")
    for asked in ("", stored):
        assert client.get_model_metadata(f"keras-enhanced.{backend}", asked) == {
            "name": f"keras-enhanced.{backend}",
            "versions": [stored],
            "platform": platform,
            "inputs": [INPUT],
            "outputs": OUTPUTS,
        }


def test_a_model_is_ready_in_its_stored_version_alone(client: Any, version_of: Callable[[str], str]) -> None:
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, version_of("torch-relu"))
    assert not client.is_model_ready(MODEL, version_of("numpy-sigmoid"))
    assert not client.is_model_ready(MODEL, "1")
    for name in ("torch-relu", "torch-relu.jax", "nothing.onnx", "torch-relu.onnx.onnx"):
        assert not client.is_model_ready(name)


# Inference


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize("backend", SERVED)
def test_every_model_through_every_backend_answers_as_its_stored_file(
    backend: Backend,
    recipe: str,
    client: Any,
    test_set: LabelledImages,
    expected: Expected,
    version_of: Callable[[str], str],
) -> None:
    right = expected(recipe, 100)
    result = client.infer(f"{recipe}.{backend}", input_of(test_set.images[:100]))
    probabilities, digits = result.as_numpy("probabilities"), result.as_numpy("digits")
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (100, 10))
    assert (digits.dtype, digits.shape) == (np.int64, (100,))
    np.testing.assert_allclose(probabilities, right, atol=1e-5)
    np.testing.assert_array_equal(digits, probabilities.argmax(axis=1))
    assert (digits == test_set.labels[:100]).sum() >= 90
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == (f"{recipe}.{backend}", version_of(recipe))


@pytest.mark.parametrize("number", [1, 2, 33])
def test_json_and_binary_give_the_same_numbers_to_the_last_bit(
    number: int, client: Any, test_set: LabelledImages, expected: Expected
) -> None:
    images = test_set.images[:number]
    answers = [
        client.infer(
            MODEL,
            input_of(images, binary=binary_in),
            outputs=[output("probabilities", binary=binary_out), output("digits", binary=binary_out)],
        )
        for binary_in in (True, False)
        for binary_out in (True, False)
    ]
    np.testing.assert_allclose(answers[0].as_numpy("probabilities"), expected("torch-relu", number), atol=1e-5)
    np.testing.assert_array_equal(answers[0].as_numpy("digits"), expected("torch-relu", number).argmax(axis=1))
    for answer in answers[1:]:
        for name in ("probabilities", "digits"):
            np.testing.assert_array_equal(answer.as_numpy(name), answers[0].as_numpy(name))
    assert all("data" in one for one in answers[1].get_response()["outputs"])
    assert not any("data" in one for one in answers[0].get_response()["outputs"])


def test_json_data_may_be_flat_or_nested(plain: httpx.Client, test_set: LabelledImages, expected: Expected) -> None:
    images = test_set.images[:3]
    for data in (images.ravel().tolist(), images.tolist()):
        tensor = {"name": "images", "datatype": "UINT8", "shape": [3, 28, 28], "data": data}
        answer = plain.post(f"/v2/models/{MODEL}/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert "inference-header-content-length" not in answer.headers
        probabilities, digits = answer.json()["outputs"]
        assert (probabilities["shape"], digits["shape"]) == ([3, 10], [3])
        np.testing.assert_allclose(np.reshape(probabilities["data"], (3, 10)), expected("torch-relu", 3), atol=1e-5)
        assert digits["data"] == expected("torch-relu", 3).argmax(axis=1).tolist()


def test_raw_images_without_any_json_get_raw_answers(
    plain: httpx.Client, test_set: LabelledImages, expected: Expected
) -> None:
    answer = plain.post(
        f"/v2/models/{MODEL}/infer",
        content=test_set.images[:5].tobytes(),
        headers={"Inference-Header-Content-Length": "0", "content-type": "application/octet-stream"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    outputs = orjson.loads(answer.content[:length])["outputs"]
    assert [one["parameters"]["binary_data_size"] for one in outputs] == [5 * 10 * 4, 5 * 8]
    raw = answer.content[length:]
    assert len(raw) == 5 * 48
    np.testing.assert_allclose(np.frombuffer(raw[:200], "<f4").reshape(5, 10), expected("torch-relu", 5), atol=1e-5)
    np.testing.assert_array_equal(np.frombuffer(raw[200:], "<i8"), expected("torch-relu", 5).argmax(axis=1))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "wanted", [["probabilities"], ["digits"], ["probabilities", "digits"], ["digits", "probabilities"], []]
)
def test_the_outputs_are_those_that_are_asked_for_in_that_order(
    wanted: list[str], binary: bool, client: Any, test_set: LabelledImages, expected: Expected
) -> None:
    asked = [output(name, binary=binary) for name in wanted]
    result = client.infer(MODEL, input_of(test_set.images[:4]), outputs=asked or None)
    assert names_of(result) == (wanted or ["probabilities", "digits"])
    right = expected("torch-relu", 4)
    for name in names_of(result):
        values = right if name == "probabilities" else right.argmax(axis=1)
        np.testing.assert_allclose(result.as_numpy(name), values, atol=1e-5)


def test_one_output_may_be_binary_and_the_other_json(client: Any, test_set: LabelledImages, expected: Expected) -> None:
    for first in (True, False):
        outputs = [output("digits", binary=first), output("probabilities", binary=not first)]
        result = client.infer(MODEL, input_of(test_set.images[:6]), outputs=outputs)
        assert ["data" in one for one in result.get_response()["outputs"]] == [not first, first]
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected("torch-relu", 6), atol=1e-5)
        np.testing.assert_array_equal(result.as_numpy("digits"), expected("torch-relu", 6).argmax(axis=1))


def test_the_requests_id_comes_back_and_none_where_none_was_sent(client: Any, test_set: LabelledImages) -> None:
    for identity in ("a", "42", 'quo"te', "Größe 数字", "x" * 1000):
        result = client.infer(MODEL, input_of(test_set.images[:1]), request_id=identity)
        assert result.get_response()["id"] == identity
    assert "id" not in client.infer(MODEL, input_of(test_set.images[:1])).get_response()


def test_a_version_is_chosen_by_name(client: Any, test_set: LabelledImages, version_of: Callable[[str], str]) -> None:
    stored = version_of("torch-relu")
    result = client.infer(MODEL, input_of(test_set.images[:1]), model_version=stored)
    assert result.get_response()["model_version"] == stored


def test_parameters_that_mean_nothing_here_are_let_through(client: Any, test_set: LabelledImages) -> None:
    result = client.infer(
        MODEL, input_of(test_set.images[:1]), sequence_id=3, sequence_start=True, priority=1, parameters={"mine": "x"}
    )
    assert result.as_numpy("digits").shape == (1,)


def test_a_timeout_in_microseconds_counts_from_the_requests_arrival(client: Any, test_set: LabelledImages) -> None:
    assert client.infer(MODEL, input_of(test_set.images[:1]), timeout=30_000_000).as_numpy("digits").shape == (1,)
    status, message = refused(client.infer, MODEL, input_of(test_set.images[:1]), timeout=1)
    assert status == "503"
    assert message.startswith("The request expired after ")
    status, message = refused(client.infer, MODEL, input_of(test_set.images[:1]), timeout=-1)
    assert (status, message) == (
        "400",
        "The parameter timeout takes whole microseconds, at least 0; got the number -1.",
    )


def test_the_model_echo_answers_a_tenth_for_every_digit(client: Any, test_set: LabelledImages) -> None:
    result = client.infer("echo", input_of(test_set.images[:7]), request_id="e")
    assert result.get_response()["id"] == "e"
    np.testing.assert_array_equal(result.as_numpy("probabilities"), np.full((7, 10), 0.1, np.float32))


def test_bodies_that_the_client_library_makes_and_reads_by_itself(
    plain: httpx.Client, test_set: LabelledImages, expected: Expected
) -> None:
    sent, length = triton.InferenceServerClient.generate_request_body(
        input_of(test_set.images[:3]), request_id="own", outputs=[output("digits"), output("probabilities")]
    )
    answer = plain.post(
        f"/v2/models/{MODEL}/infer", content=sent, headers={"Inference-Header-Content-Length": str(length)}
    )
    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    assert result.get_response()["id"] == "own"
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected("torch-relu", 3), atol=1e-5)


def test_asynchronous_requests_are_each_answered_for_their_own_image(
    port: int, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("keras-sequential", 60)
    with connected(port, concurrency=6) as client:
        under_way = [
            client.async_infer(f"keras-sequential.{SLOWEST}", input_of(test_set.images[i : i + 1]), request_id=str(i))
            for i in range(60)
        ]
        for i, one in enumerate(under_way):
            result = one.get_result(timeout=30)
            assert result.get_response()["id"] == str(i)
            np.testing.assert_allclose(result.as_numpy("probabilities")[0], right[i], atol=1e-5)


@pytest.mark.parametrize("backend", SERVED)
def test_sixteen_threads_each_get_the_answers_to_their_own_images(
    backend: Backend, port: int, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("torch-improved", 480)
    together = threading.Barrier(16)

    def ask(thread: int) -> int:
        answered = 0
        with connected(port) as client:
            together.wait(timeout=30)
            for i in range(thread, 480, 16):
                number = min(1 + i % 3, 480 - i)  # requests of one image, two and three
                result = client.infer(
                    f"torch-improved.{backend}",
                    input_of(test_set.images[i : i + number], binary=i % 2 == 0),
                    request_id=f"{thread}/{i}",
                )
                assert result.get_response()["id"] == f"{thread}/{i}"
                np.testing.assert_allclose(result.as_numpy("probabilities"), right[i : i + number], atol=1e-5)
                answered += 1
        return answered

    assert len(np.unique(right, axis=0)) == 480
    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(ask, range(16))) == 480


# What the client is refused


def test_an_unknown_model_or_version_is_named_with_those_there_are(
    client: Any, test_set: LabelledImages, version_of: Callable[[str], str]
) -> None:
    images, stored = input_of(test_set.images[:1]), version_of("torch-relu")
    for status, call, *arguments in (
        ("404", client.infer, images),
        ("404", client.get_model_metadata),
        ("404", client.get_inference_statistics),
    ):
        came, message = refused(call, "nothing.onnx", *arguments)
        assert came == status
        assert message.startswith("No model 'nothing.onnx' is served; served are ")
        for recipe in TRAINED:
            for backend in SERVED:
                assert f"{recipe}.{backend}" in message
        came, message = refused(call, MODEL, *arguments, model_version="7")
        assert came == status
        assert message == f"The model {MODEL} is not served in version '7', but in {stored}."


@pytest.mark.parametrize(
    ("name", "shape", "datatype", "message"),
    [
        ("pixels", (1, 28, 28), "UINT8", "The model's one input is images; got the string 'pixels'."),
        ("images", (1, 28, 28), "FP32", "The datatype of images is UINT8; got the string 'FP32'."),
        ("images", (1, 28, 28), "INT8", "The datatype of images is UINT8; got the string 'INT8'."),
        ("images", (28, 28), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [28, 28]."),
        ("images", (1, 784), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [1, 784]."),
        ("images", (1, 28, 28, 1), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [1, 28, 28, 1]."),
        ("images", (0, 28, 28), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [0, 28, 28]."),
        ("images", (151, 28, 28), "UINT8", "Too many images: at most 150 in one request, got 151."),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_another_tensor_is_400_and_says_what_was_expected(
    name: str, shape: tuple[int, ...], datatype: str, message: str, binary: bool, client: Any
) -> None:
    tensor = triton.InferInput(name, list(shape), datatype)
    tensor.set_data_from_numpy(np.zeros(shape, {"UINT8": "u1", "INT8": "i1", "FP32": "f4"}[datatype]), binary)
    assert refused(client.infer, MODEL, [tensor]) == ("400", message)


def test_two_inputs_are_one_too_many(client: Any, test_set: LabelledImages) -> None:
    status, message = refused(client.infer, MODEL, input_of(test_set.images[:1]) * 2)
    assert (status, message) == ("400", "inputs must be a list of one object, the input images; got 2 inputs.")


def test_an_unknown_output_is_400_and_those_there_are_are_named(client: Any, test_set: LabelledImages) -> None:
    images = input_of(test_set.images[:1])
    for outputs in ([output("logits")], [output("digits"), output("logits", binary=False)]):
        assert refused(client.infer, MODEL, images, outputs=outputs) == (
            "400",
            "The model's outputs are probabilities and digits; got the string 'logits'.",
        )


def test_what_is_not_supported_is_said(client: Any, test_set: LabelledImages) -> None:
    images = input_of(test_set.images[:1])
    ranked = triton.InferRequestedOutput("probabilities", class_count=3)
    assert refused(client.infer, MODEL, images, outputs=[ranked]) == (
        "400",
        "The output parameter classification is not supported here; leave it out.",
    )
    elsewhere = output("probabilities")
    elsewhere.set_shared_memory("region", 40)
    status, message = refused(client.infer, MODEL, images, outputs=[elsewhere])
    assert (status, message) == (
        "400",
        "The output parameter shared_memory_region is not supported here; leave it out.",
    )
    shared = triton.InferInput("images", [1, 28, 28], "UINT8")
    shared.set_shared_memory("region", 784)
    assert refused(client.infer, MODEL, [shared]) == (
        "400",
        "There is no shared memory here; send the images in the body.",
    )
    for algorithm in ("gzip", "deflate"):
        status, message = refused(client.infer, MODEL, images, request_compression_algorithm=algorithm)
        assert (status, message) == ("415", "The body must not be compressed; send it as it is.")
        result = client.infer(MODEL, images, response_compression_algorithm=algorithm)
        assert result.as_numpy("digits").shape == (1,)
    status, message = refused(client.get_system_shared_memory_status)
    assert (status, message) == ("404", "The protocol has nothing at /v2/systemsharedmemory/status.")


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("POST", "/v2", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("PUT", f"/v2/models/{MODEL}", "GET"),
        ("POST", f"/v2/models/{MODEL}/ready", "GET"),
        ("DELETE", f"/v2/models/{MODEL}/stats", "GET"),
        ("GET", f"/v2/models/{MODEL}/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", f"/v2/repository/models/{MODEL}/load", "POST"),
        ("GET", f"/v2/repository/models/{MODEL}/unload", "POST"),
    ],
)
def test_another_method_is_405_and_the_right_one_is_named(
    method: str, path: str, right: str, plain: httpx.Client
) -> None:
    answer = plain.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD" if right == "GET" else right)
    assert answer.json() == {"error": f"{path} takes {right}, got {method}."}


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/nothing", "/v2/health", "/v2/models", f"/v2/models/{MODEL}/nothing", "/v2/models/a/b/c/d"]
)
def test_a_path_that_the_protocol_does_not_have_is_404(path: str, plain: httpx.Client) -> None:
    answer = plain.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": f"The protocol has nothing at {path}."}


# Statistics


def statistics_of(client: Any, model: str) -> dict[str, Any]:
    (found,) = client.get_inference_statistics(model)["model_stats"]
    assert found["name"] == model
    return dict(found)


def test_the_statistics_grow_by_what_was_asked(
    client: Any, test_set: LabelledImages, version_of: Callable[[str], str]
) -> None:
    model = "keras-enhanced.numpy"
    before = statistics_of(client, model)
    assert before["version"] == version_of("keras-enhanced")
    asked_ms = time.time() * 1000
    for number in (1, 5, 5):
        client.infer(model, input_of(test_set.images[:number]))
    refused(client.infer, model, input_of(test_set.images[:1]), timeout=1)
    after = statistics_of(client, model)

    def grown(*path: str) -> int:
        one, other = after, before
        for name in path:
            one, other = one[name], other[name]
        assert isinstance(one, int)
        assert isinstance(other, int)
        return one - other

    def batches(statistics: dict[str, Any], size: int) -> int:
        return sum(b["compute_infer"]["count"] for b in statistics["batch_stats"] if b["batch_size"] == size)

    assert grown("inference_count") == 11
    assert grown("execution_count") == 3
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert grown("inference_stats", name, "count") == 3
        assert grown("inference_stats", name, "ns") > 0
    assert grown("inference_stats", "fail", "count") == 1
    assert grown("inference_stats", "fail", "ns") >= 1000
    parts = sum(
        grown("inference_stats", name, "ns") for name in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert grown("inference_stats", "success", "ns") == parts
    assert [batches(after, size) - batches(before, size) for size in (1, 5)] == [1, 2]
    assert asked_ms - 1 <= after["last_inference"] <= time.time() * 1000 + 1
    assert client.get_inference_statistics(model, version_of("keras-enhanced"))["model_stats"][0] == after


def test_the_statistics_of_all_models_name_every_model_once(client: Any) -> None:
    names = [one["name"] for one in client.get_inference_statistics()["model_stats"]]
    assert sorted(names) == sorted(f"{recipe}.{backend}" for recipe in TRAINED for backend in SERVED)


# The repository


def index_of(client: Any) -> dict[str, tuple[str, str, str]]:
    return {
        one["name"]: (one["version"], one["state"], one.get("reason", ""))
        for one in client.get_model_repository_index()
    }


def test_the_index_names_every_model_with_its_stored_version(
    client: Any, plain: httpx.Client, version_of: Callable[[str], str]
) -> None:
    assert index_of(client) == {
        f"{recipe}.{backend}": (version_of(recipe), "READY", "") for recipe in TRAINED for backend in SERVED
    }
    for content in (b'{"ready": "yes"}', b'{"ready": 1}', b"[]", b"{"):
        assert plain.post("/v2/repository/index", content=content).status_code == 400


@pytest.mark.parametrize("backend", SERVED)
def test_a_model_that_is_unloaded_is_gone_and_the_others_stay_and_it_can_be_loaded_again(
    backend: Backend,
    client: Any,
    plain: httpx.Client,
    test_set: LabelledImages,
    expected: Expected,
    version_of: Callable[[str], str],
) -> None:
    model, other = f"numpy-sigmoid.{backend}", f"torch-relu.{backend}"
    stored, images = version_of("numpy-sigmoid"), input_of(test_set.images[:10])
    client.infer(model, images)
    client.unload_model(model, headers=CONTROL)
    try:
        assert not client.is_model_ready(model)
        for call, *arguments in ((client.infer, images), (client.get_model_metadata,)):
            status, message = refused(call, model, *arguments)
            assert status == "404"
            assert message.startswith(f"No model '{model}' is served; served are ")
        assert index_of(client)[model] == (stored, "UNAVAILABLE", "not loaded")
        ready = plain.post("/v2/repository/index", json={"ready": True}).json()
        assert len(ready) == len(TRAINED) * len(SERVED) - 1
        assert model not in {one["name"] for one in ready}
        by_predict = plain.post(f"/predict/{backend}", content=body(test_set.images[:1], "numpy-sigmoid"), headers=JSON)
        assert by_predict.status_code == 404
        assert client.is_model_ready(other)
        np.testing.assert_allclose(
            client.infer(other, images).as_numpy("probabilities"), expected("torch-relu", 10), atol=1e-5
        )
    finally:
        client.load_model(model, headers=CONTROL)
    assert client.is_model_ready(model)
    assert index_of(client)[model] == (stored, "READY", "")
    assert statistics_of(client, model)["inference_count"] == 0
    np.testing.assert_allclose(
        client.infer(model, images).as_numpy("probabilities"), expected("numpy-sigmoid", 10), atol=1e-5
    )
    client.load_model(model, headers=CONTROL)  # which is open already: it stays as it is
    assert statistics_of(client, model)["inference_count"] == 10


def test_what_cannot_be_loaded_is_said(client: Any) -> None:
    status, message = refused(client.load_model, "nothing.onnx", headers=CONTROL)
    assert status == "404"
    assert message.startswith("No model 'nothing.onnx' can be loaded; there are ")
    assert MODEL in message
    assert refused(client.load_model, MODEL, config="{}", headers=CONTROL) == (
        "400",
        "load takes no parameters: a stored model is loaded as it is.",
    )
    status, message = refused(client.unload_model, "nothing.onnx", headers=CONTROL)
    assert status == "404"


def test_requests_under_way_are_answered_though_their_model_is_unloaded_and_loaded(
    server: Server, test_set: LabelledImages, expected: Expected
) -> None:
    """The model comes and goes; every answer is right, or a 404."""
    right, model = expected("keras-sequential", 200), "keras-sequential.onnx"
    stop = threading.Event()

    def ask(thread: int) -> tuple[int, int]:
        answered = missing = 0
        with connected(server.data_port) as client:
            while not stop.is_set():
                i = (answered * 4 + thread) % 200
                try:
                    result = client.infer(model, input_of(test_set.images[i : i + 1]))
                except triton.InferenceServerException as error:
                    if error.status() != "404":
                        raise
                    missing += 1
                    continue
                np.testing.assert_allclose(result.as_numpy("probabilities")[0], right[i], atol=1e-5)
                answered += 1
        return answered, missing

    with ThreadPoolExecutor(4) as threads, connected(server.data_port) as client:
        asking = [threads.submit(ask, thread) for thread in range(4)]
        try:
            for _ in range(5):
                client.unload_model(model, headers=CONTROL)
                client.load_model(model, headers=CONTROL)
        finally:
            time.sleep(0.2)
            stop.set()
        answered, missing = np.sum([one.result() for one in asking], axis=0)
    assert answered > 20
    assert missing > 0


# What a client library never sends; tests/test_v2_protocol.py has many more


def head_of(**parts: Any) -> bytes:
    """The JSON of a binary request of one image, changed by `parts` of its input."""
    return orjson.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], **parts}]})


def of_size(size: Any) -> bytes:
    return head_of(parameters={"binary_data_size": size})


ONE: Final = bytes(784)


@pytest.mark.parametrize(
    ("document", "tail", "length", "message"),
    [
        (of_size(783), ONE, None, "binary_data_size of 1 images is 1 x 784 = 784; got the number 783."),
        (of_size(1568), ONE, None, "binary_data_size of 1 images is 1 x 784 = 784; got the number 1568."),
        (of_size(-784), ONE, None, "binary_data_size of 1 images is 1 x 784 = 784; got the number -784."),
        (of_size(784), ONE[1:], None, "binary_data_size is 784, but 783 bytes follow the JSON."),
        (of_size(784), ONE + b"!", None, "binary_data_size is 784, but 785 bytes follow the JSON."),
        (of_size(784), ONE, "9999", "Inference-Header-Content-Length must be from 0 to the body's length, "),
        (of_size(784), ONE, "-1", "Inference-Header-Content-Length must be from 0 to the body's length, "),
        (of_size(784), ONE, "9" * 5000, "Inference-Header-Content-Length must be from 0 to the body's length, "),
        (of_size(784), ONE, "", "Inference-Header-Content-Length must be from 0 to the body's length, "),
        (of_size(784), ONE, "20", "The request is not valid JSON: "),
        (b"", ONE + b"!", "0", "Expected raw images of 784 bytes each, at least one; got 785 bytes."),
        (head_of(shape=[-1, 28, 28], data=[0] * 784), b"", None, "The shape of images is [N, 28, 28], N at least 1"),
        (head_of(shape=[2**62, 28, 28], data=[0] * 784), b"", None, "Too many images: at most 150 in one request"),
        (head_of(shape=[2**63, 2**63, 4], data=[]), b"", None, "The shape of images is [N, 28, 28], N at least 1"),
        (head_of(datatype="UINT64", data=[0] * 784), b"", None, "The datatype of images is UINT8; got the string"),
        (b"[" * 100_000, b"", None, "The request is not valid JSON: "),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes | str) else None,
)
def test_a_malformed_request_is_400_and_says_what_is_wrong_and_the_connection_goes_on(
    document: bytes, tail: bytes, length: str | None, message: str, port: int, server: Server
) -> None:
    if length is None and tail:
        length = str(len(document))
    with server.connect(port) as connection, connection.makefile("rb") as answers:
        connection.sendall(raw_infer(MODEL, document + tail, length))
        status, _, answer = read_answer(answers)
        assert status == 400
        assert orjson.loads(answer).keys() == {"error"}
        assert orjson.loads(answer)["error"].startswith(message)
        right = of_size(784)
        connection.sendall(raw_infer(MODEL, right + ONE, str(len(right))))
        status, _, answer = read_answer(answers)
        assert status == 200, answer


# Under load


@pytest.fixture(scope="module")
def logarithms(expected: Expected) -> Callable[[str], npt.NDArray[np.float64]]:
    """Of what a recipe's stored file answers to all test images; no two images are within `NEAR` of each other."""
    from scipy.spatial import KDTree

    def of(recipe: str) -> npt.NDArray[np.float64]:
        found = logarithm(expected(recipe, 10_000))
        to_itself_and_the_next = np.asarray(KDTree(found).query(found, k=2, p=np.inf)[0])
        assert to_itself_and_the_next[:, 1].min() > 2 * NEAR
        return found

    return of


NEAR: Final = 2e-3


def logarithm(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), 1e-30))


class Asking(asyncio.Protocol):
    """One connection: asks, and asks again as soon as it is answered, until nothing is left to ask."""

    def __init__(self, requests: Iterator[tuple[int, bytes]], answers: list[bytes]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._answers = answers
        self._received = b""
        self._number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._received = b""
        self._number, request = next(self._requests, (-1, b""))
        if request:
            self._transport.write(request)
        else:
            self._transport.close()
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        start = received.index(b"\r\ncontent-length: ") + 18
        size = head + 4 + int(received[start : received.index(b"\r\n", start)])
        if len(received) >= size:
            assert len(received) == size, "more came than was asked for"
            assert not self._answers[self._number], "answered twice"
            self._answers[self._number] = received
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


def test_a_hundred_thousand_answers_over_two_models_are_all_right_and_none_is_lost(
    server: Server, test_set: LabelledImages, logarithms: Callable[[str], npt.NDArray[np.float64]]
) -> None:
    number, connections = 100_000, 64
    models = ("torch-relu.onnx", f"keras-sequential.{SLOWEST}")
    right = [logarithms(model.partition(".")[0]) for model in models]
    assert np.abs(right[0] - right[1]).max(axis=1).min() > 2 * NEAR  # so that a swap of models would be seen

    # Request i is about image i % 10,000; from one round of the images to the next, the models change places.
    image_of, model_of = np.arange(number) % 10_000, (np.arange(number) + np.arange(number) // 10_000) % 2
    pixels = [image.tobytes() for image in test_set.images]

    def requests() -> Iterator[tuple[int, bytes]]:
        for i, (image, model) in enumerate(zip(image_of.tolist(), model_of.tolist(), strict=True)):
            document = (
                b'{"id":"%d","inputs":[{"name":"images","shape":[1,28,28],"datatype":"UINT8",'
                b'"parameters":{"binary_data_size":784}}],"parameters":{"binary_data_output":true}}' % i
            )
            yield i, raw_infer(models[model], document + pixels[image], str(len(document)))

    async def ask_all() -> list[bytes]:
        left, answers = requests(), [b""] * number
        loop = asyncio.get_running_loop()
        asking = [
            (await loop.create_connection(lambda: Asking(left, answers), "127.0.0.1", server.data_port))[1]
            for _ in range(connections)
        ]
        await asyncio.wait_for(asyncio.gather(*(one.done for one in asking)), 120)
        return answers

    with connected(server.data_port) as client:
        before = [statistics_of(client, model) for model in models]
        answers = asyncio.run(ask_all())
        after = [statistics_of(client, model) for model in models]

    assert all(answers)
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in answers]
    raw = np.frombuffer(b"".join(sent[-48:] for sent in bodies), np.uint8).reshape(number, 48)
    documents = [orjson.loads(sent[:-48]) for sent in bodies]
    assert [document["id"] for document in documents] == [str(i) for i in range(number)]
    assert [document["model_name"] for document in documents] == [models[model] for model in model_of.tolist()]
    probabilities = np.ascontiguousarray(raw[:, :40]).view("<f4")
    digits = np.ascontiguousarray(raw[:, 40:]).view("<i8")[:, 0]
    wanted = np.where(model_of[:, None] == 0, right[0][image_of], right[1][image_of])
    assert np.abs(logarithm(probabilities) - wanted).max() < NEAR
    np.testing.assert_array_equal(digits, probabilities.argmax(axis=1))

    for one, other in zip(before, after, strict=True):
        assert other["inference_count"] - one["inference_count"] == number // 2
        assert other["inference_stats"]["success"]["count"] - one["inference_stats"]["success"]["count"] == number // 2
        assert other["inference_stats"]["fail"] == one["inference_stats"]["fail"]
        # Far fewer batches than requests: they did run together.
        assert other["execution_count"] - one["execution_count"] < number // 2 / 3
        assert max(batch["batch_size"] for batch in other["batch_stats"]) <= 256


def test_the_server_has_come_through_all_of_this_without_a_traceback(server: Server, test_set: LabelledImages) -> None:
    server.is_well(test_set.images)
    assert "Traceback" not in server.log.read_text()
