"""gRPC, asked of a real `bentoml serve` at its data port: by Triton's client, grpcio's, curl, h2load, and by hand."""

from __future__ import annotations

import asyncio
import queue
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from certificates import make_certificate
from conftest import TRAINED, Expected, require, require_recipe
from frames import frame
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hpack import Encoder
from servers import PLATFORMS, SERVED, SLOWEST, Server, folder_of, serving
from tritonclient.grpc import service_pb2, service_pb2_grpc

from digits.contract import Backend, Images
from digits.mnist import LabelledImages
from loadtests.server import free_ports
from serving.protocols.grpc import framed, message_of
from serving.protocols.v2_grpc import RESPONSE

pytestmark = pytest.mark.slow

MODEL: Final = "torch-relu.onnx"
MAX_IMAGES: Final = 150
MAX_BODY_BYTES: Final = 1_000_000
CONTROL_KEY: Final = "control-of-models-in-tests"
CONTROL: Final = {"x-api-key": CONTROL_KEY}
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grpc") / "access.log"


@pytest.fixture(scope="module")
def server(trained_home: Path, access_log: Path) -> Iterator[Server]:
    """Every model through every backend."""
    require("onnxruntime", "tensorflow", "torch")
    for recipe in TRAINED:
        require_recipe(recipe)
    environment = {
        "SAMEDIGIT_CONTROL": "on",
        "SAMEDIGIT_CONTROL_KEYS": CONTROL_KEY,
        "SAMEDIGIT_MAX_IMAGES": str(MAX_IMAGES),
        "SAMEDIGIT_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "SAMEDIGIT_MAX_WAITING": "1000",  # a client that asks 200 things at once is answered all, however busy the machine is
        "SAMEDIGIT_ACCESS_LOG": str(access_log),
    }
    with serving(trained_home, environment) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    """Triton's client."""
    with connected(server.data_port) as found:
        yield found


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.data_port}") as found:
        yield found


@pytest.fixture(scope="module")
def version_of(trained_home: Path) -> Callable[[str], str]:
    return lambda recipe: folder_of(trained_home, recipe).name


def connected(port: int, **options: Any) -> Any:
    return triton.InferenceServerClient(f"127.0.0.1:{port}", **options)


def input_of(images: Images) -> list[Any]:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return [tensor]


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """The status and the message with which the server refuses what the client calls."""
    with pytest.raises(triton.InferenceServerException) as found:
        call(*arguments, **options)
    return found.value.status().removeprefix("StatusCode."), found.value.message()


def typed(images: Images, **fields: Any) -> service_pb2.ModelInferRequest:
    """A request with typed contents, which Triton's client never sends."""
    return service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[
            {
                "name": "images", "datatype": "UINT8", "shape": images.shape,
                "contents": {"uint_contents": images.ravel().tolist()},
            }
        ],
        **fields,
    )  # fmt: skip


# Health and metadata


def test_the_server_is_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_the_servers_metadata_name_its_version_and_extensions(client: Any) -> None:
    assert client.get_server_metadata(as_json=True) == {
        "name": "samedigit",
        "version": version("samedigit"),
        "extensions": ["binary_tensor_data", "model_repository", "statistics"],
    }


@pytest.mark.parametrize(
    ("backend", "platform"),
    [(backend, platform) for backend, platform in PLATFORMS.items() if backend in SERVED],
)
def test_a_models_metadata_and_configuration_name_the_stored_version_and_the_contract(
    backend: Backend, platform: str, client: Any, version_of: Callable[[str], str]
) -> None:
    stored = version_of("keras-enhanced")
    for asked in ("", stored):
        assert client.get_model_metadata(f"keras-enhanced.{backend}", asked, as_json=True) == {
            "name": f"keras-enhanced.{backend}",
            "versions": [stored],
            "platform": platform,
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "28", "28"]}],
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "10"]},
                {"name": "digits", "datatype": "INT64", "shape": ["-1"]},
            ],
        }
        assert client.get_model_config(f"keras-enhanced.{backend}", asked, as_json=True)["config"] == {
            "name": f"keras-enhanced.{backend}",
            "platform": platform,
            "backend": backend,
            "max_batch_size": MAX_IMAGES,
            "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["28", "28"]}],
            "output": [
                {"name": "probabilities", "data_type": "TYPE_FP32", "dims": ["10"]},
                {"name": "digits", "data_type": "TYPE_INT64", "dims": ["1"]},
            ],
            "dynamic_batching": {
                "default_queue_policy": {"default_timeout_microseconds": "5000000", "allow_timeout_override": True}
            },
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
    assert (response.model_name, response.model_version) == (f"{recipe}.{backend}", version_of(recipe))


@pytest.mark.parametrize("number", [1, 2, 33])
def test_raw_and_typed_contents_and_rest_give_the_same_numbers_to_the_last_bit(
    number: int, server: Server, client: Any, channel: grpc.Channel, test_set: LabelledImages, expected: Expected
) -> None:
    """Over the same port."""
    images = test_set.images[:number]
    by_raw = client.infer(MODEL, input_of(images))
    response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(typed(images))
    by_typed = triton.InferResult(response)
    tensor = tritonclient.http.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.data_port}") as rest:
        by_rest = rest.infer(MODEL, [tensor])
    np.testing.assert_allclose(by_raw.as_numpy("probabilities"), expected("torch-relu", number), atol=1e-5)
    for name in ("probabilities", "digits"):
        np.testing.assert_array_equal(by_raw.as_numpy(name), by_typed.as_numpy(name))
        np.testing.assert_array_equal(by_raw.as_numpy(name), by_rest.as_numpy(name))


@pytest.mark.parametrize(
    "wanted", [["probabilities"], ["digits"], ["probabilities", "digits"], ["digits", "probabilities"], []]
)
def test_the_outputs_are_those_that_are_asked_for_in_that_order(
    wanted: list[str], client: Any, test_set: LabelledImages, expected: Expected
) -> None:
    asked = [triton.InferRequestedOutput(name) for name in wanted]
    result = client.infer(MODEL, input_of(test_set.images[:4]), outputs=asked or None)
    names = [output.name for output in result.get_response().outputs]
    assert names == (wanted or ["probabilities", "digits"])
    right = expected("torch-relu", 4)
    for name in names:
        values = right if name == "probabilities" else right.argmax(axis=1)
        np.testing.assert_allclose(result.as_numpy(name), values, atol=1e-5)


def test_the_requests_id_comes_back_and_none_where_none_was_sent(client: Any, test_set: LabelledImages) -> None:
    for identity in ("a", "42", 'quo"te', "Größe 数字", "x" * 1000):
        assert client.infer(MODEL, input_of(test_set.images[:1]), request_id=identity).get_response().id == identity
    assert client.infer(MODEL, input_of(test_set.images[:1])).get_response().id == ""


def test_a_version_is_chosen_by_name(client: Any, test_set: LabelledImages, version_of: Callable[[str], str]) -> None:
    stored = version_of("torch-relu")
    result = client.infer(MODEL, input_of(test_set.images[:1]), model_version=stored)
    assert result.get_response().model_version == stored


def test_parameters_that_mean_nothing_here_are_let_through(client: Any, test_set: LabelledImages) -> None:
    result = client.infer(
        MODEL, input_of(test_set.images[:1]), sequence_id=3, sequence_start=True, priority=1, parameters={"mine": "x"}
    )
    assert result.as_numpy("digits").shape == (1,)


def test_a_timeout_in_microseconds_counts_from_the_requests_arrival(client: Any, test_set: LabelledImages) -> None:
    assert client.infer(MODEL, input_of(test_set.images[:1]), timeout=30_000_000).as_numpy("digits").shape == (1,)
    status, message = refused(client.infer, MODEL, input_of(test_set.images[:1]), timeout=1)
    assert status == "DEADLINE_EXCEEDED"
    assert message.startswith("The request expired after ")
    assert refused(client.infer, MODEL, input_of(test_set.images[:1]), timeout=-1) == (
        "INVALID_ARGUMENT",
        "The parameter timeout takes whole microseconds, at least 0; got the number -1.",
    )


def test_the_model_echo_answers_a_tenth_for_every_digit(client: Any, test_set: LabelledImages) -> None:
    result = client.infer("echo", input_of(test_set.images[:7]), request_id="e")
    assert result.get_response().id == "e"
    np.testing.assert_array_equal(result.as_numpy("probabilities"), np.full((7, 10), 0.1, np.float32))


def test_asynchronous_requests_are_each_answered_for_their_own_image(
    client: Any, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("keras-sequential", 200)
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    for i in range(200):
        client.async_infer(
            f"keras-sequential.{SLOWEST}",
            input_of(test_set.images[i : i + 1]),
            lambda result, error: answers.put((result, error)),
            request_id=str(i),
        )
    seen = set()
    for _ in range(200):
        result, error = answers.get(timeout=30)
        assert error is None
        i = int(result.get_response().id)
        seen.add(i)
        np.testing.assert_allclose(result.as_numpy("probabilities")[0], right[i], atol=1e-5)
    assert len(seen) == 200


@pytest.mark.parametrize("backend", SERVED)
def test_sixty_four_threads_each_get_the_answers_to_their_own_images(
    backend: Backend, server: Server, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("torch-improved", 960)
    together = threading.Barrier(64)

    def ask(thread: int) -> int:
        answered = 0
        with connected(server.data_port) as client:
            together.wait(timeout=60)
            for i in range(thread, 960, 64):
                number = min(1 + i % 3, 960 - i)  # requests of one image, two and three
                result = client.infer(
                    f"torch-improved.{backend}", input_of(test_set.images[i : i + number]), request_id=f"{thread}/{i}"
                )
                assert result.get_response().id == f"{thread}/{i}"
                np.testing.assert_allclose(result.as_numpy("probabilities"), right[i : i + number], atol=1e-5)
                answered += 1
        return answered

    with ThreadPoolExecutor(64) as threads:
        assert sum(threads.map(ask, range(64))) == 960


# Streams


def test_a_stream_of_requests_is_answered_in_order_and_a_refusal_does_not_end_it(
    client: Any, test_set: LabelledImages, expected: Expected
) -> None:
    right = {recipe: expected(recipe, 300) for recipe in ("torch-relu", "keras-sequential")}
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    recipes = [("torch-relu", "keras-sequential")[i % 2] for i in range(300)]
    for i, recipe in enumerate(recipes):
        model = "nothing.onnx" if i % 50 == 7 else f"{recipe}.onnx"
        client.async_stream_infer(model, input_of(test_set.images[i : i + 1]), request_id=str(i))
    found = [answers.get(timeout=30) for _ in range(300)]
    client.stop_stream()
    for i, (result, error) in enumerate(found):
        if i % 50 == 7:
            assert error.message().startswith("No model 'nothing.onnx' is served; served are ")
        else:
            assert error is None
            assert result.get_response().id == str(i)
            np.testing.assert_allclose(result.as_numpy("probabilities")[0], right[recipes[i]][i], atol=1e-5)


def test_a_stream_whose_answers_nobody_reads_stops_to_be_read_and_goes_on_when_somebody_does(
    channel: grpc.Channel, client: Any, test_set: LabelledImages
) -> None:
    sent = 0

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        nonlocal sent
        for sent in range(1, 3001):
            yield typed(test_set.images[:1], id=str(sent))

    answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
    for number, answer in enumerate(answers, 1):
        assert answer.infer_response.id == str(number)
        if number == 1:
            time.sleep(0.5)
            assert client.is_server_live()
    assert number == 3000


def test_a_stream_that_is_cancelled_harms_nobody(server: Server, client: Any, test_set: LabelledImages) -> None:
    for _ in range(20):
        with connected(server.data_port) as other:
            other.start_stream(lambda result, error: None)
            for _ in range(20):
                other.async_stream_infer(MODEL, input_of(test_set.images[:10]))
            other.stop_stream(cancel_requests=True)
    assert client.infer(MODEL, input_of(test_set.images[:1])).as_numpy("digits").shape == (1,)


# What the client is refused


def test_an_unknown_model_or_version_is_named_with_those_there_are(
    client: Any, test_set: LabelledImages, version_of: Callable[[str], str]
) -> None:
    images, stored = input_of(test_set.images[:1]), version_of("torch-relu")
    for call, *arguments in (
        (client.infer, images),
        (client.get_model_metadata,),
        (client.get_model_config,),
        (client.get_inference_statistics,),
    ):
        status, message = refused(call, "nothing.onnx", *arguments)
        assert status == "NOT_FOUND"
        assert message.startswith("No model 'nothing.onnx' is served; served are ")
        for recipe in TRAINED:
            for backend in SERVED:
                assert f"{recipe}.{backend}" in message
        assert refused(call, MODEL, *arguments, model_version="7") == (
            "NOT_FOUND", f"The model {MODEL} is not served in version '7', but in {stored}.",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "datatype", "message"),
    [
        ("pixels", (1, 28, 28), "UINT8", "The model's one input is images; got the string 'pixels'."),
        ("images", (1, 28, 28), "FP32", "The datatype of images is UINT8; got the string 'FP32'."),
        ("images", (28, 28), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [28, 28]."),
        ("images", (1, 784), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [1, 784]."),
        ("images", (0, 28, 28), "UINT8", "The shape of images is [N, 28, 28], N at least 1; got [0, 28, 28]."),
        ("images", (151, 28, 28), "UINT8", "Too many images: at most 150 in one request, got 151."),
    ],
)
def test_another_tensor_is_an_invalid_argument_and_what_was_expected_is_said(
    name: str, shape: tuple[int, ...], datatype: str, message: str, client: Any
) -> None:
    tensor = triton.InferInput(name, list(shape), datatype)
    tensor.set_data_from_numpy(np.zeros(shape, {"UINT8": "u1", "FP32": "f4"}[datatype]))
    assert refused(client.infer, MODEL, [tensor]) == ("INVALID_ARGUMENT", message)


def test_what_is_not_supported_is_said(client: Any, test_set: LabelledImages) -> None:
    images = input_of(test_set.images[:1])
    ranked = triton.InferRequestedOutput("probabilities", class_count=3)
    assert refused(client.infer, MODEL, images, outputs=[ranked]) == (
        "INVALID_ARGUMENT",
        "The output parameter classification is not supported here; leave it out.",
    )
    shared = triton.InferInput("images", [1, 28, 28], "UINT8")
    shared.set_shared_memory("region", 784)
    assert refused(client.infer, MODEL, [shared]) == (
        "INVALID_ARGUMENT",
        "There is no shared memory here; send the images in the body.",
    )
    for algorithm in ("gzip", "deflate"):
        assert refused(client.infer, MODEL, images, compression_algorithm=algorithm) == (
            "UNIMPLEMENTED",
            "The body must not be compressed; send it as it is.",
        )
    for call, method in (
        (client.get_system_shared_memory_status, "SystemSharedMemoryStatus"),
        (client.get_trace_settings, "TraceSetting"),
        (client.get_log_settings, "LogSettings"),
    ):
        assert refused(call) == ("UNIMPLEMENTED", f"There is no method /inference.GRPCInferenceService/{method}.")


def test_a_message_that_is_too_long_is_resource_exhausted_and_the_connection_goes_on(
    channel: grpc.Channel, test_set: LabelledImages
) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for size in (MAX_BODY_BYTES, 3 * MAX_BODY_BYTES):
        long = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(size)])
        with pytest.raises(grpc.RpcError) as found:
            stub.ModelInfer(long)
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert found.value.details().startswith(f"The body is longer than {MAX_BODY_BYTES} bytes.")
        with pytest.raises(grpc.RpcError) as found:
            list(stub.ModelStreamInfer(iter([long])))
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ModelInfer(typed(test_set.images[:1])).model_name == MODEL


@pytest.mark.parametrize(
    ("path", "body", "code", "sentence"),
    [
        (INFER, b"\xff", "INVALID_ARGUMENT", "The 1 bytes are no inference.ModelInferRequest."),
        (INFER, b"", "INVALID_ARGUMENT", "inputs must be a list of one object, the input images; got 0 inputs."),
        ("/inference.GRPCInferenceService/ModelReady", b"\x0a\xff", "INVALID_ARGUMENT", "The 2 bytes are no "),
        ("/inference.GRPCInferenceService/Nothing", b"", "UNIMPLEMENTED", "There is no method /inference."),
        ("/v2", b"", "UNIMPLEMENTED", "There is no method /v2."),
        ("/grpc.health.v1.Health/Check", b"\x0a\x01x", "NOT_FOUND", "No service 'x' is here"),
    ],
)
def test_bytes_that_no_client_library_sends_are_refused(
    path: str, body: bytes, code: str, sentence: str, channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as found:
        channel.unary_unary(path)(body, timeout=20)
    assert found.value.code().name == code
    assert found.value.details().startswith(sentence)


# Deadlines and cancellation


def test_a_deadline_that_has_passed_in_the_queue_is_exceeded(server: Server, test_set: LabelledImages) -> None:
    """By hand: a client library would say so itself."""
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": "1n"}
    body = framed(typed(test_set.images[:1]).SerializeToString())
    with httpx.Client(http1=False, http2=True, trust_env=False) as plain:
        answer = plain.post(f"http://127.0.0.1:{server.data_port}{INFER}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["grpc-status"]) == (200, "4")
    assert answer.headers["grpc-message"].startswith("The request expired after ")


def test_a_call_with_a_deadline_is_answered_and_one_that_is_cancelled_harms_nobody(
    channel: grpc.Channel, client: Any, test_set: LabelledImages
) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    assert stub.ModelInfer(typed(test_set.images[:1]), timeout=20).model_name == MODEL
    for _ in range(50):
        call = stub.ModelInfer.future(typed(test_set.images[:150]))
        call.cancel()
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)  # it may have been quicker
    assert client.is_server_live()


# Statistics and the repository


def statistics_of(client: Any, model: str) -> Any:
    (found,) = client.get_inference_statistics(model).model_stats
    assert found.name == model
    return found


def test_the_statistics_grow_by_what_was_asked(
    client: Any, test_set: LabelledImages, version_of: Callable[[str], str]
) -> None:
    model = "keras-enhanced.numpy"
    before = statistics_of(client, model)
    assert before.version == version_of("keras-enhanced")
    asked_ms = time.time() * 1000
    for number in (1, 5, 5):
        client.infer(model, input_of(test_set.images[:number]))
    refused(client.infer, model, input_of(test_set.images[:1]), timeout=1)
    after = statistics_of(client, model)
    assert after.inference_count - before.inference_count == 11
    assert after.execution_count - before.execution_count == 3
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        one, other = getattr(after.inference_stats, name), getattr(before.inference_stats, name)
        assert one.count - other.count == 3
        assert one.ns > other.ns
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert asked_ms - 1 <= after.last_inference <= time.time() * 1000 + 1
    assert client.get_inference_statistics(model, version_of("keras-enhanced")).model_stats[0] == after


def test_the_statistics_of_all_models_name_every_model_once(client: Any) -> None:
    names = [one.name for one in client.get_inference_statistics().model_stats]
    assert sorted(names) == sorted(f"{recipe}.{backend}" for recipe in TRAINED for backend in SERVED)


def index_of(client: Any) -> dict[str, tuple[str, str, str]]:
    return {one.name: (one.version, one.state, one.reason) for one in client.get_model_repository_index().models}


def test_the_index_names_every_model_with_its_stored_version(client: Any, version_of: Callable[[str], str]) -> None:
    assert index_of(client) == {
        f"{recipe}.{backend}": (version_of(recipe), "READY", "") for recipe in TRAINED for backend in SERVED
    }


@pytest.mark.parametrize("backend", SERVED)
def test_a_model_that_is_unloaded_is_gone_and_the_others_stay_and_it_can_be_loaded_again(
    backend: Backend,
    client: Any,
    channel: grpc.Channel,
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
            assert status == "NOT_FOUND"
            assert message.startswith(f"No model '{model}' is served; served are ")
        assert index_of(client)[model] == (stored, "UNAVAILABLE", "not loaded")
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ready = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models
        assert len(ready) == len(TRAINED) * len(SERVED) - 1
        assert client.is_model_ready(other)
        np.testing.assert_allclose(
            client.infer(other, images).as_numpy("probabilities"), expected("torch-relu", 10), atol=1e-5
        )
    finally:
        client.load_model(model, headers=CONTROL)
    assert client.is_model_ready(model)
    assert index_of(client)[model] == (stored, "READY", "")
    assert statistics_of(client, model).inference_count == 0
    np.testing.assert_allclose(
        client.infer(model, images).as_numpy("probabilities"), expected("numpy-sigmoid", 10), atol=1e-5
    )


def test_control_needs_its_key_and_what_cannot_be_loaded_is_said(client: Any) -> None:
    assert refused(client.load_model, MODEL) == (
        "UNAUTHENTICATED", "This needs a key. Send Authorization: Bearer KEY, or X-API-Key: KEY.",
    )  # fmt: skip
    assert refused(client.unload_model, MODEL, headers={"authorization": "Bearer wrong"})[0] == "UNAUTHENTICATED"
    status, message = refused(client.load_model, "nothing.onnx", headers=CONTROL)
    assert status == "NOT_FOUND"
    assert message.startswith("No model 'nothing.onnx' can be loaded; there are ")
    assert refused(client.load_model, MODEL, config="{}", headers=CONTROL) == (
        "INVALID_ARGUMENT",
        "load takes no parameters: a stored model is loaded as it is.",
    )
    assert refused(client.unload_model, "nothing.onnx", headers=CONTROL)[0] == "NOT_FOUND"


def test_requests_under_way_are_answered_though_their_model_is_unloaded_and_loaded(
    server: Server, test_set: LabelledImages, expected: Expected
) -> None:
    """The model comes and goes; every answer is right, or NOT_FOUND."""
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
                    if error.status() != "StatusCode.NOT_FOUND":
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


# Other clients


def test_health_is_said_to_probes_and_to_who_watches(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService"):
        found = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    watching = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
    watching.cancel()
    assert next(stub.Watch(health_pb2.HealthCheckRequest(service="x"))).status == (
        health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    )


def test_reflection_gives_a_client_without_any_file_all_that_it_needs(
    channel: grpc.Channel, test_set: LabelledImages
) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in database.get_services()
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
    from google.protobuf.message_factory import GetMessageClass

    request = GetMessageClass(method.input_type)(
        model_name=MODEL,
        inputs=[{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28]}],
        raw_input_contents=[test_set.images[0].tobytes()],
    )
    answer = channel.unary_unary(INFER)(request.SerializeToString())
    response = GetMessageClass(method.output_type).FromString(answer)
    assert np.frombuffer(response.raw_output_contents[1], "<i8") == [7]


def body_file(folder: Path, images: Images) -> Path:
    request = service_pb2.ModelInferRequest(
        model_name=MODEL,
        inputs=[{"name": "images", "datatype": "UINT8", "shape": images.shape}],
        raw_input_contents=[images.tobytes()],
    )
    file = folder / "body.bin"
    file.write_bytes(framed(request.SerializeToString()))
    return file


def command(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_curl_calls_over_http_2_by_prior_knowledge(server: Server, tmp_path: Path, test_set: LabelledImages) -> None:
    file = body_file(tmp_path, test_set.images[:3])
    asked = [
        command("curl"), "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "20",
        "--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", f"@{file}",
        "--dump-header", str(tmp_path / "headers"), f"http://127.0.0.1:{server.data_port}{INFER}",
    ]  # fmt: skip
    body = subprocess.run(asked, check=True, capture_output=True).stdout
    response = RESPONSE.FromString(message_of(body))
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[1], "<i8"), test_set.labels[:3])
    headers = (tmp_path / "headers").read_text().split()
    assert headers[:2] == ["HTTP/2", "200"]
    assert "grpc-status:" in headers


def test_h2load_gets_an_answer_to_everything_it_asks(server: Server, tmp_path: Path, test_set: LabelledImages) -> None:
    asked = [
        command("h2load"), "-n", "2000", "-c", "4", "-m", "16", "-d", str(body_file(tmp_path, test_set.images[:1])),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{server.data_port}{INFER}",
    ]  # fmt: skip
    said = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said


# What operators see


def test_metrics_and_the_access_log_name_the_method_and_the_model(
    server: Server, access_log: Path, client: Any, test_set: LabelledImages, version_of: Callable[[str], str]
) -> None:
    labels = f'model="{MODEL}",version="{version_of("torch-relu")}"'

    def counted(status: int, labels: str) -> int:
        with server.client(server.data_port) as plain:
            lines = plain.get("/metrics").text.splitlines()
        start = f'samedigit_requests_total{{protocol="grpc",route="{INFER}",{labels},'
        found = [line for line in lines if line.startswith(start) and f',status="{status}"' in line]
        return sum(int(line.rpartition(" ")[2]) for line in found)

    before = counted(200, labels), counted(404, 'model="",version=""')
    trace = secrets.token_hex(16)  # the log holds other tests' requests too
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    client.infer(MODEL, input_of(test_set.images[:1]), headers=headers)
    refused(client.infer, "nothing", input_of(test_set.images[:1]), headers=headers)
    after = counted(200, labels), counted(404, 'model="",version=""')
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    lines: list[dict[str, Any]] = []
    ends = time.monotonic() + 10  # the log is written each second
    while time.monotonic() < ends and len(lines) < 2:
        time.sleep(0.2)
        whole = access_log.read_bytes().rpartition(b"\n")[0].splitlines()
        lines = [one for one in map(orjson.loads, whole) if one.get("trace") == trace]
    answered, unknown = lines
    assert (answered["path"], unknown["path"]) == (INFER, INFER)
    assert (answered["status"], answered["model"], answered["images"]) == (200, MODEL, 1)
    assert (answered["version"], answered["method"]) == (version_of("torch-relu"), "POST")
    assert (unknown["status"], "model" in unknown) == (404, False)


# More than one port, keys, TLS, and the end


def test_a_port_for_grpc_alone_speaks_the_same_and_keys_are_metadata(
    trained_home: Path, test_set: LabelledImages
) -> None:
    require("onnxruntime")
    (port,) = free_ports(1)
    key = "a-key-for-requests-in-tests"
    environment = {
        "SAMEDIGIT_BACKENDS": "onnx",
        "SAMEDIGIT_MODELS": "torch-relu",
        "SAMEDIGIT_GRPC_PORT": str(port),
        "SAMEDIGIT_KEYS": key,
    }
    with serving(trained_home, environment) as server:
        for one in (port, server.data_port):
            with connected(one) as client:
                for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                    result = client.infer(MODEL, input_of(test_set.images[:1]), headers=headers)
                    assert result.as_numpy("digits") == test_set.labels[0]
                assert client.is_server_ready()
                assert refused(client.infer, MODEL, input_of(test_set.images[:1])) == (
                    "UNAUTHENTICATED", "This needs a key. Send Authorization: Bearer KEY, or X-API-Key: KEY.",
                )  # fmt: skip
            with server.client(one) as plain:
                assert plain.get("/livez").status_code == 200


def test_over_tls_grpc_and_rest_are_chosen_by_what_the_client_offers(
    trained_home: Path, tmp_path: Path, test_set: LabelledImages
) -> None:
    require("onnxruntime")
    made = make_certificate(tmp_path)
    environment = {
        "SAMEDIGIT_BACKENDS": "onnx",
        "SAMEDIGIT_MODELS": "torch-relu",
        **made.variables,
    }
    with serving(trained_home, environment, by_bentoml=True, options=made.options, ca_file=made.certificate) as server:
        with connected(server.data_port, ssl=True, root_certificates=str(made.certificate)) as client:
            result = client.infer(MODEL, input_of(test_set.images[:5]))
            np.testing.assert_array_equal(result.as_numpy("digits"), test_set.labels[:5])
        with server.client(server.data_port) as plain:
            assert plain.get("/v2").json()["name"] == "samedigit"
        context = ssl.create_default_context(cafile=made.certificate)
        with tritonclient.http.InferenceServerClient(
            f"localhost:{server.data_port}", ssl=True, ssl_context_factory=lambda: context
        ) as rest:
            assert rest.is_server_ready()


def test_a_client_of_several_addresses_is_answered(server: Server) -> None:
    addresses = f"ipv4:127.0.0.1:{server.data_port},127.0.0.2:{server.data_port}"  # and it names both as :authority
    with grpc.insecure_channel(addresses) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_server_that_is_stopped_answers_what_it_has_accepted_and_tells_who_watches(
    trained_home: Path, test_set: LabelledImages, expected: Expected
) -> None:
    require("onnxruntime")
    right = expected("torch-relu", 100)
    environment = {"SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_MODELS": "torch-relu"}
    with serving(trained_home, environment) as server, ThreadPoolExecutor(9) as threads:
        stopped = threading.Event()

        def watch() -> list[int]:
            with grpc.insecure_channel(f"127.0.0.1:{server.data_port}") as channel:
                answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                said = [next(answers).status, next(answers).status]
                with pytest.raises(grpc.RpcError):
                    next(answers)
                assert answers.code() is grpc.StatusCode.UNAVAILABLE
                assert answers.details() == "The server is being stopped."
                return said

        def ask(thread: int) -> int:
            """Until the server takes no more; whatever it took is answered."""
            answered = 0
            with connected(server.data_port) as client:
                while True:
                    i = (answered + thread) % 100
                    try:
                        result = client.infer(MODEL, input_of(test_set.images[i : i + 1]))
                    except triton.InferenceServerException as error:
                        if not stopped.is_set() or "onnect" not in error.message():
                            raise
                        return answered
                    np.testing.assert_allclose(result.as_numpy("probabilities")[0], right[i], atol=1e-5)
                    answered += 1

        watching = threads.submit(watch)
        asking = [threads.submit(ask, thread) for thread in range(8)]
        time.sleep(1)
        stopped.set()
        server.process.send_signal(signal.SIGTERM)
        assert min(one.result(timeout=60) for one in asking) > 10
        assert watching.result(timeout=30) == [
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        ]


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


class Calling(asyncio.Protocol):
    """One connection with several calls at once: each answered one makes room for the next, until nothing is left to ask."""

    HEADERS: Final = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", INFER.encode()), (b":authority", b"test"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ]  # fmt: skip

    def __init__(self, requests: Iterator[tuple[int, bytes]], answers: list[bytes], at_once: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._answers = answers
        self._at_once = at_once
        self._encoder = Encoder()
        self._received = b""
        self._asked: dict[int, int] = {}  # stream -> request
        self._bodies: dict[int, bytes] = {}
        self._stream = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = (2**31 - 1 - 65_535).to_bytes(4, "big")
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4) + frame(8, 0, 0, window))
        for _ in range(self._at_once):
            self._ask()

    def _ask(self) -> None:
        number, body = next(self._requests, (-1, b""))
        if body:
            head = frame(1, 0x4, self._stream, self._encoder.encode(self.HEADERS))
            self._asked[self._stream] = number
            self._transport.write(head + frame(0, 0x1, self._stream, body))
            self._stream += 2
        elif not self._asked and not self.done.done():
            self._transport.close()
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        at = 0
        while len(received) - at >= 9:
            length = int.from_bytes(received[at : at + 3], "big")
            if len(received) < at + 9 + length:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            payload = received[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == 4 and not flags & 1:
                self._transport.write(frame(4, 1))
            elif kind == 0:
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
            elif kind == 1 and flags & 1:
                assert payload.endswith(b"grpc-status\x010"), payload
                number = self._asked.pop(stream)
                assert not self._answers[number], "answered twice"
                self._answers[number] = self._bodies.pop(stream)
                self._ask()
            else:
                assert kind in (1, 4, 6, 8), f"frame {kind}: {payload!r}"
        self._received = received[at:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


def test_a_hundred_thousand_answers_over_two_models_are_all_right_and_none_is_lost(
    server: Server, client: Any, test_set: LabelledImages, logarithms: Callable[[str], npt.NDArray[np.float64]]
) -> None:
    number, connections, at_once = 100_000, 8, 8
    models = ("torch-relu.onnx", f"keras-sequential.{SLOWEST}")
    right = [logarithms(model.partition(".")[0]) for model in models]
    assert np.abs(right[0] - right[1]).max(axis=1).min() > 2 * NEAR  # so that a swap of models would be seen

    # Request i is about image i % 10,000; from one round of the images to the next, the models change places.
    image_of, model_of = np.arange(number) % 10_000, (np.arange(number) + np.arange(number) // 10_000) % 2

    def requests() -> Iterator[tuple[int, bytes]]:
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28]}
        for i, (image, model) in enumerate(zip(image_of.tolist(), model_of.tolist(), strict=True)):
            request = service_pb2.ModelInferRequest(
                model_name=models[model], id=str(i), inputs=[tensor],
                raw_input_contents=[test_set.images[image].tobytes()],
            )  # fmt: skip
            yield i, framed(request.SerializeToString())

    async def ask_all() -> list[bytes]:
        left, answers = requests(), [b""] * number
        loop = asyncio.get_running_loop()
        asking = [
            (await loop.create_connection(lambda: Calling(left, answers, at_once), "127.0.0.1", server.data_port))[1]
            for _ in range(connections)
        ]
        await asyncio.wait_for(asyncio.gather(*(one.done for one in asking)), 150)
        return answers

    before = [statistics_of(client, model) for model in models]
    answers = asyncio.run(ask_all())
    after = [statistics_of(client, model) for model in models]

    responses = [RESPONSE.FromString(message_of(answer)) for answer in answers]
    assert [response.id for response in responses] == [str(i) for i in range(number)]
    assert [response.model_name for response in responses] == [models[model] for model in model_of.tolist()]
    probabilities = np.frombuffer(b"".join(one.raw_output_contents[0] for one in responses), "<f4").reshape(number, 10)
    digits = np.frombuffer(b"".join(one.raw_output_contents[1] for one in responses), "<i8")
    wanted = np.where(model_of[:, None] == 0, right[0][image_of], right[1][image_of])
    assert np.abs(logarithm(probabilities) - wanted).max() < NEAR
    np.testing.assert_array_equal(digits, probabilities.argmax(axis=1))

    for one, other in zip(before, after, strict=True):
        assert other.inference_count - one.inference_count == number // 2
        assert other.inference_stats.success.count - one.inference_stats.success.count == number // 2
        assert other.inference_stats.fail == one.inference_stats.fail
        # Far fewer batches than requests: they did run together.
        assert other.execution_count - one.execution_count < number // 2 / 3


def test_the_server_has_come_through_all_of_this_without_a_traceback(server: Server, test_set: LabelledImages) -> None:
    server.is_well(test_set.images)
    assert "Traceback" not in server.log.read_text()
