"""gRPC's messages without a server: what is right is read exactly, what is not is refused in a sentence, whatever the bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as triton
from conftest import PROJECT
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import model_config_pb2, service_pb2

from digits.contract import Images, Probabilities
from serving.errors import Kind, RequestError
from serving.messages import STATUS, Exchange, Head
from serving.protocols import grpc, protos, reflection, v2_grpc
from serving.protocols.v2_grpc import INFER, RESPONSE, InferRequest

MAX_IMAGES: Final = 4
often = settings(max_examples=300, derandomize=True, deadline=None, database=None)
rarely = settings(often, max_examples=60)
images = arrays.arrays(np.uint8, st.tuples(st.integers(1, MAX_IMAGES), st.just(28), st.just(28)))
short = st.text(max_size=20)
parameters = st.one_of(
    st.booleans().map(lambda value: {"bool_param": value}),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
    short.map(lambda value: {"string_param": value}),
    st.floats(allow_nan=False).map(lambda value: {"double_param": value}),
    st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
    st.just({}),
)


def head(**fields: Any) -> Any:
    """A ModelInferRequest without images, changed by `fields` of its input."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], **fields}
    return INFER(model_name="a.onnx", inputs=[tensor])


def raw(sent: Images, **fields: Any) -> Any:
    request = head(shape=sent.shape, **fields)
    request.raw_input_contents.append(sent.tobytes())
    return request


def typed(sent: Images) -> Any:
    return head(shape=sent.shape, contents={"uint_contents": sent.ravel().tolist()})


def read(message: Any) -> InferRequest:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return v2_grpc.read_infer(data, max_images=MAX_IMAGES)


def refused(message: Any) -> str:
    with pytest.raises(RequestError) as found:
        read(message)
    assert found.value.kind is Kind.MALFORMED
    assert 0 < len(str(found.value)) < 300
    return str(found.value)


def refused_or_read(data: bytes) -> None:
    """It gives images, or says in a sentence why not; nothing else."""
    try:
        found = read(data)
    except RequestError as error:
        refusal = error
    else:
        assert found.images.dtype == np.uint8
        assert found.images.shape[1:] == (28, 28)
        assert 1 <= len(found.images) <= MAX_IMAGES
        return
    assert refusal.kind is Kind.MALFORMED
    assert 0 < len(str(refusal).encode()) < 600


# The messages


def described(message: Any) -> dict[str, tuple[int, int, bool, str]]:
    """Of each field its number, its type, whether it is repeated, and the message or enum that it holds."""
    found = {}
    for field in message.fields:
        holds = field.message_type or field.enum_type
        found[field.name] = (field.number, field.type, field.is_repeated, holds.full_name if holds else "")
    return found


@pytest.mark.parametrize("theirs", [service_pb2, model_config_pb2, health_pb2, reflection_pb2])
def test_fields_have_the_numbers_and_types_that_others_give_them(theirs: Any) -> None:
    """Those of Triton's client, and of grpcio's health and reflection; ours may have fewer."""
    compared = 0
    waiting = list(theirs.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        other = waiting.pop()
        waiting += other.nested_types
        try:
            own = protos.POOL.FindMessageTypeByName(other.full_name)
        except KeyError:
            continue
        assert described(own).items() <= described(other).items(), other.full_name
        compared += 1
    assert compared >= {service_pb2: 40, model_config_pb2: 4, health_pb2: 2, reflection_pb2: 7}[theirs]


def test_the_services_are_those_of_others() -> None:
    for theirs, name in (
        (service_pb2, "inference.GRPCInferenceService"),
        (health_pb2, "grpc.health.v1.Health"),
        (reflection_pb2, "grpc.reflection.v1alpha.ServerReflection"),
    ):
        other = theirs.DESCRIPTOR.services_by_name[name.rpartition(".")[2]].methods_by_name
        for method in protos.POOL.FindServiceByName(name).methods:
            for end in ("input_type", "output_type"):
                assert getattr(method, end).full_name == getattr(other[method.name], end).full_name
            assert (method.client_streaming, method.server_streaming) == (
                other[method.name].client_streaming,
                other[method.name].server_streaming,
            )


def test_what_is_committed_is_what_the_command_makes(tmp_path: Any) -> None:
    folder = PROJECT / "serving" / "protocols"
    made = tmp_path / "made"
    sources = sorted(path.name for path in folder.glob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--descriptor_set_out={made}", *sources],
        cwd=folder, check=True,
    )  # fmt: skip
    assert made.read_bytes() == protos.SET.read_bytes(), "run: make protos"


def test_they_may_be_in_one_process_with_those_of_triton() -> None:
    """Whose pool holds each name once. The test's own imports would have failed, or mixed them up."""
    assert service_pb2.ModelInferRequest is not INFER
    assert service_pb2.ModelInferRequest.DESCRIPTOR.full_name == INFER.DESCRIPTOR.full_name


# What is right


@rarely
@given(
    sent=images, as_raw=st.booleans(), identity=short, model=short, version=short,
    given_parameters=st.dictionaries(short.filter(lambda name: name != "timeout"), parameters, max_size=3),
    timeout_us=st.none() | st.integers(0, 2**63 - 1),
    outputs=st.lists(st.sampled_from(["probabilities", "digits"]), max_size=3),
)  # fmt: skip
def test_exactly_what_was_sent_is_read(
    sent: Images,
    as_raw: bool,
    identity: str,
    model: str,
    version: str,
    given_parameters: dict[str, Any],
    timeout_us: int | None,
    outputs: list[str],
) -> None:
    request = raw(sent) if as_raw else typed(sent)
    request.id, request.model_name, request.model_version = identity, model, version
    for name, value in given_parameters.items():
        request.parameters[name].CopyFrom(protos.message("inference.InferParameter")(**value))
    if timeout_us is not None:
        request.parameters["timeout"].int64_param = timeout_us
    for name in outputs:
        request.outputs.add(name=name)
    for _ in range(2):  # read, and remembered
        asked = read(request)
        np.testing.assert_array_equal(asked.images, sent)
        assert (asked.id, asked.model, asked.version) == (identity, model, version or None)
        assert asked.timeout_us == (timeout_us or 0)
        assert [name for name, _ in asked.outputs] == (list(dict.fromkeys(outputs)) or ["probabilities", "digits"])


def test_a_field_behind_the_images_counts_as_it_would_before_them() -> None:
    sent = np.full((2, 28, 28), 7, np.uint8)
    behind = raw(sent).SerializeToString() + INFER(model_name="b.onnx", id="late").SerializeToString()
    asked = read(behind)
    assert (asked.model, asked.id) == ("b.onnx", "late")
    np.testing.assert_array_equal(asked.images, sent)


def test_a_head_longer_than_an_image_is_read_too() -> None:
    sent = np.full((1, 28, 28), 7, np.uint8)
    for size in (600, 700, 784, 785, 2000):
        request = raw(sent)
        request.id = "x" * size
        asked = read(request)
        assert asked.id == request.id
        np.testing.assert_array_equal(asked.images, sent)


def test_bytes_that_only_look_like_images_behind_a_head_are_not_taken_for_them() -> None:
    """An id whose end has the bytes that stand before images."""
    tail = b"\x3a\x90\x06" + bytes(784)
    request = head()
    request.id = tail.decode("latin-1").replace("\x90", "a")
    assert "needs contents or raw_input_contents" in refused(request)
    twice = raw(np.zeros((1, 28, 28), np.uint8)).SerializeToString() + tail
    assert refused(twice) == "raw_input_contents has one entry, of the input images; got 2."


def test_images_or_contents_in_a_head_are_not_forgotten_for_the_images_behind_it() -> None:
    tail = b"\x3a\x90\x06" + bytes(784)
    short_one = INFER(inputs=head().inputs, raw_input_contents=[b"12345"]).SerializeToString()
    assert refused(short_one + tail) == "raw_input_contents has one entry, of the input images; got 2."
    contents = head(contents={"uint_contents": [1, 2]}).SerializeToString()
    assert refused(contents + tail) == "The input images has both contents and raw_input_contents; send one of them."


def test_outputs_are_raw_whatever_a_parameter_of_json_says() -> None:
    for value in ({"bool_param": False}, {"string_param": "no"}):
        request = raw(np.zeros((1, 28, 28), np.uint8))
        request.outputs.add(name="digits").parameters["binary_data"].CopyFrom(
            protos.message("inference.InferParameter")(**value)
        )
        assert read(request).outputs == (("digits", True),)


@rarely
@given(
    logits=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.just(10)), elements=st.floats(-20, 20, width=32)
    ),
    identity=short, model=short, version=short,
    outputs=st.sampled_from([("probabilities", "digits"), ("digits", "probabilities"), ("digits",)]),
)  # fmt: skip
def test_every_number_is_written_to_the_last_bit(
    logits: Probabilities, identity: str, model: str, version: str, outputs: tuple[str, ...]
) -> None:
    wanted = tuple((name, True) for name in outputs)
    asked = InferRequest(np.zeros((len(logits), 28, 28), np.uint8), model, None, identity, wanted, 0)
    written = v2_grpc.write_infer(logits, asked, version=version)
    response = RESPONSE.FromString(written)
    assert (response.model_name, response.model_version, response.id) == (model, version, identity)
    assert [output.name for output in response.outputs] == list(outputs)
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        right, form, datatype = {
            "probabilities": (logits, "<f4", "FP32"), "digits": (logits.argmax(axis=1), "<i8", "INT64"),
        }[output.name]  # fmt: skip
        assert output.datatype == datatype
        np.testing.assert_array_equal(np.frombuffer(data, form).reshape(output.shape), right)
    in_stream = protos.message("inference.ModelStreamInferResponse").FromString(v2_grpc.streamed(written))
    assert in_stream.infer_response == response
    assert not in_stream.error_message


def test_what_is_written_is_what_tritons_client_reads() -> None:
    logits = np.eye(10, dtype=np.float32)[[3, 1]]
    asked = InferRequest(
        np.zeros((2, 28, 28), np.uint8), "a.onnx", None, "me", (("probabilities", True), ("digits", True)), 0
    )
    theirs = service_pb2.ModelInferResponse.FromString(v2_grpc.write_infer(logits, asked, version="1"))
    result = triton.InferResult(theirs)
    np.testing.assert_array_equal(result.as_numpy("digits"), [3, 1])
    np.testing.assert_array_equal(result.as_numpy("probabilities"), logits)
    assert result.get_response().id == "me"


def test_an_error_in_a_stream_has_its_sentence_and_the_requests_id() -> None:
    response = protos.message("inference.ModelStreamInferResponse")
    error = RequestError(Kind.UNKNOWN, "No model 'Größe' is served.")
    with_id = response.FromString(v2_grpc.streamed_error(error, "7"))
    assert (with_id.error_message, with_id.infer_response.id) == ("No model 'Größe' is served.", "7")
    assert not response.FromString(v2_grpc.streamed_error(error, "")).HasField("infer_response")


# What is not


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (INFER(), "inputs must be a list of one object, the input images; got 0 inputs."),
        (INFER(inputs=[{}, {}]), "inputs must be a list of one object, the input images; got 2 inputs."),
        (head(name="pixels"), "The model's one input is images; got the string 'pixels'."),
        (head(datatype="FP32"), "The datatype of images is UINT8; got the string 'FP32'."),
        (head(shape=[1, 784]), "The shape of images is [N, 28, 28], N at least 1; got [1, 784]."),
        (head(shape=[-1, 28, 28]), "The shape of images is [N, 28, 28], N at least 1; got [-1, 28, 28]."),
        (head(shape=[2**63 - 1, 28, 28]), f"Too many images: at most 4 in one request, got {2**63 - 1}."),
        (head(), "The input images needs contents or raw_input_contents."),
        (head(contents={}), "The input images needs contents or raw_input_contents."),
        (head(contents={"uint_contents": [1] * 783}), "The shape says 1 x 784 = 784 pixels; contents has 783."),
        (
            head(contents={"uint_contents": [0] * 783 + [256]}),
            "contents must be integers from 0 to 255; entry 783 is the number 256.",
        ),
        (
            head(contents={"int_contents": [1] * 784}),
            "The contents of UINT8 go into uint_contents; got int_contents.",
        ),
        (
            head(contents={"uint_contents": [1] * 784, "fp32_contents": [0.5]}),
            "The contents of UINT8 go into uint_contents; got uint_contents, fp32_contents.",
        ),
        (
            raw(np.zeros((1, 28, 28), np.uint8), contents={"uint_contents": [1] * 784}),
            "The input images has both contents and raw_input_contents; send one of them.",
        ),
        (
            INFER(inputs=head(shape=[2, 28, 28]).inputs, raw_input_contents=[bytes(784)]),
            "The shape says 2 x 784 = 1568 bytes; raw_input_contents has 784.",
        ),
        (
            INFER(inputs=head().inputs, raw_input_contents=[b""]),
            "The shape says 1 x 784 = 784 bytes; raw_input_contents has 0.",
        ),
        (
            head(parameters={"shared_memory_region": {"string_param": "here"}}),
            "There is no shared memory here; send the images in the body.",
        ),
        (
            INFER(inputs=head().inputs, parameters={"timeout": {"int64_param": -1}}),
            "The parameter timeout takes whole microseconds, at least 0; got the number -1.",
        ),
        (
            INFER(inputs=head().inputs, parameters={"timeout": {"string_param": "1"}}),
            "The parameter timeout takes whole microseconds, at least 0; got the string '1'.",
        ),
        (
            INFER(inputs=head().inputs, parameters={"timeout": {}}),
            "The parameter timeout takes whole microseconds, at least 0; got null.",
        ),
        (
            INFER(inputs=head().inputs, outputs=[{"name": "logits"}]),
            "The model's outputs are probabilities and digits; got the string 'logits'.",
        ),
        (
            INFER(
                inputs=head().inputs,
                outputs=[{"name": "digits", "parameters": {"classification": {"int64_param": 3}}}],
            ),
            "The output parameter classification is not supported here; leave it out.",
        ),
        (b"\xff", "The 1 bytes are no inference.ModelInferRequest."),
        (b"\x0a\x01\xff", "The 3 bytes are no inference.ModelInferRequest."),  # a name that is not UTF-8
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_in_json(request_: Any, message: str) -> None:
    assert refused(request_) == message


def test_images_behind_a_head_that_is_wrong_do_not_hide_what_is_wrong() -> None:
    sent = np.zeros((1, 28, 28), np.uint8)
    for _ in range(2):
        assert refused(raw(sent, name="pixels")) == "The model's one input is images; got the string 'pixels'."


@often
@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    refused_or_read(data)
    refused_or_read(data + b"\x3a\x90\x06" + bytes(784))


@often
@given(st.data())
def test_a_message_with_some_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    sent = np.zeros((1, 28, 28), np.uint8)
    request = raw(sent) if data.draw(st.booleans()) else typed(sent)
    request.outputs.add(name="digits")
    request.parameters["timeout"].int64_param = 5
    message = bytearray(request.SerializeToString())
    at = data.draw(st.integers(0, min(len(message), 120) - 1))
    message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    refused_or_read(bytes(message))


@often
@given(st.data())
def test_what_is_remembered_of_other_messages_changes_nothing(data: st.DataObject) -> None:
    """Bytes before images as they are remembered, whatever they are: a whole head, a part of one, two of them."""
    sent = np.full((1, 28, 28), 7, np.uint8)
    whole = INFER(model_name="a", id=data.draw(short), inputs=head().inputs).SerializeToString()
    parts = data.draw(st.lists(st.sampled_from([whole, whole[:-1], whole[5:], b"\x1a\x90", b"\x0a\x00"]), max_size=3))
    message = b"".join(parts) + b"\x3a\x90\x06" + sent.tobytes()
    try:
        expected = v2_grpc.read_whole(message, max_images=MAX_IMAGES)
    except RequestError as error:
        assert refused(message) == str(error)  # noqa: PT017
    else:
        found = read(message)
        assert found[1:] == expected[1:]
        np.testing.assert_array_equal(found.images, expected.images)


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x3a\x00", b"\xf8\x07\x00"])
def test_millions_of_fields_are_refused_before_they_are_read(field: bytes) -> None:
    said = refused(field * (4 * 1024 * 1024 // len(field)))
    assert said.startswith("A ModelInferRequest of ")
    assert said.endswith(" bytes has more than 1000 fields.")


def test_fields_within_an_input_or_output_are_counted_too_and_pixels_are_not() -> None:
    for tag in (b"\x2a", b"\x32"):
        inside = b"\x22\x00" * 40_000
        message = tag + v2_grpc._varint(len(inside)) + inside
        assert "has more than 1000 fields" in refused(message)
    many = np.ones((100, 28, 28), np.uint8)
    for request in (raw(many), typed(many)):
        asked = v2_grpc.read_infer(request.SerializeToString(), max_images=100)
        np.testing.assert_array_equal(asked.images, many)
    unpacked = b"".join(b"\x20" + bytes([pixel % 128]) for pixel in range(78_400))
    tensor = head(shape=[100, 28, 28]).inputs[0].SerializeToString()
    tensor += b"\x2a" + v2_grpc._varint(len(unpacked)) + unpacked
    message = b"\x2a" + v2_grpc._varint(len(tensor)) + tensor
    assert v2_grpc.read_infer(message, max_images=100).images.ravel().tolist() == [n % 128 for n in range(78_400)]


@often
@given(st.binary(max_size=60))
def test_fields_are_counted_in_any_bytes_without_harm(data: bytes) -> None:
    refused_or_read(data * (1 + v2_grpc.FEW_BYTES // max(1, len(data))))


# Calls


def call(**headers: bytes) -> Head:
    lines = {b"content-type": b"application/grpc"} | {
        name.replace("_", "-").encode(): value for name, value in headers.items()
    }
    return Head("POST", b"/a/b", "/a/b", "", lines, False, None, True, False)


@pytest.mark.parametrize(
    "content_type",
    [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/gRPC"],
)
def test_the_content_types_of_protobuf_are_taken(content_type: bytes) -> None:
    grpc.check(call(content_type=content_type))


@pytest.mark.parametrize("content_type", [b"application/grpc-web", b"application/grpc+json", b"application/grpcx"])
def test_others_are_refused_by_name(content_type: bytes) -> None:
    with pytest.raises(RequestError) as found:
        grpc.check(call(content_type=content_type))
    assert str(found.value) == f"Expected the content type application/grpc, got {content_type.decode()}."
    assert grpc.CODES[found.value.kind] is grpc.Code.UNIMPLEMENTED


def test_compression_is_refused_and_what_is_taken_is_named() -> None:
    grpc.check(call(grpc_encoding=b"identity", grpc_accept_encoding=b"gzip"))
    with pytest.raises(RequestError) as found:
        grpc.check(call(grpc_encoding=b"gzip"))
    answer = grpc.refusal(found.value)
    assert dict(answer.headers) == {
        b"content-type": b"application/grpc",
        b"grpc-status": b"12",
        b"grpc-message": b"The body must not be compressed; send it as it is.",
        b"grpc-accept-encoding": b"identity",
    }
    with pytest.raises(RequestError, match="must not be compressed"):
        grpc.message_of(b"\x01\x00\x00\x00\x01a")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 4e-3),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999H", 359_999_996_400),
    ],
)
def test_a_timeout_is_read_in_its_unit(text: bytes, seconds: float) -> None:
    assert grpc.expires_ns({b"grpc-timeout": text}, 1000) == 1000 + round(seconds * 1_000_000_000)
    assert grpc.expires_ns({}, 1000) == 0


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b"1S ", b"\xb2S", b"1SS"])
def test_a_timeout_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(RequestError) as found:
        grpc.expires_ns({b"grpc-timeout": text}, 0)
    assert str(found.value).startswith("grpc-timeout takes up to eight digits and one of HMSmun; got ")
    assert found.value.kind is Kind.MALFORMED


def test_the_shorter_of_a_calls_deadline_and_its_messages_timeout_counts_in_the_queue() -> None:
    exchange = Exchange(call(), address="", port="", reply=lambda exchange, answer: None)
    assert grpc.timeout_us(exchange, 0) == 0
    assert grpc.timeout_us(exchange, 5) == 5
    exchange.expires_ns = time.monotonic_ns() + 3_000_000_000
    assert 2_000_000 < grpc.timeout_us(exchange, 0) <= 3_000_000
    assert grpc.timeout_us(exchange, 5) == 5
    assert 2_000_000 < grpc.timeout_us(exchange, 4_000_000) <= 3_000_000
    exchange.expires_ns = 1
    assert grpc.timeout_us(exchange, 0) == 1


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\0", b"\0\0\0\0\1", b"\0\0\0\0\0a", b"\0\0\0\0\1ab", b"\0\xff\xff\xff\xffa"]
)
def test_one_message_is_expected_whole_and_no_more(body: bytes) -> None:
    with pytest.raises(RequestError, match="One message was expected") as found:
        grpc.message_of(body)
    assert found.value.kind is Kind.UNSUPPORTED


@given(st.binary(max_size=300))
@rarely
def test_a_message_comes_out_of_its_frame_as_it_went_in(message: bytes) -> None:
    assert grpc.message_of(grpc.framed(message)) == message


def test_every_kind_of_refusal_has_a_code_and_keeps_rests_status_for_the_metrics() -> None:
    assert grpc.CODES.keys() == set(Kind)
    for kind in Kind:
        answer = grpc.refusal(RequestError(kind, "No: 100 % sure, Größe.", retry_after_seconds=2))
        headers = dict(answer.headers)
        assert answer.status == STATUS[kind]
        assert answer.body == b""
        assert headers[b"grpc-status"] == b"%d" % grpc.CODES[kind]
        assert headers[b"grpc-message"] == b"No: 100 %25 sure, Gr%C3%B6%C3%9Fe."
        assert headers[b"grpc-retry-pushback-ms"] == b"2000"


# Reflection


def reflected(**fields: Any) -> Any:
    return reflection.RESPONSE.FromString(reflection.answer(reflection.REQUEST(**fields).SerializeToString()))


def test_every_service_is_listed_and_its_file_is_given_by_name_and_by_symbol() -> None:
    listed = [service.name for service in reflected(list_services="*").list_services_response.service]
    assert listed == sorted(reflection.SERVICES)
    assert set(listed) == {
        service.full_name
        for name in ("inference", "health", "reflection", "reflection_v1alpha")
        for service in protos.POOL.FindFileByName(f"{name}.proto").services_by_name.values()
    }
    for service in listed:
        (by_symbol,) = reflected(file_containing_symbol=service).file_descriptor_response.file_descriptor_proto
        name = protos.POOL.FindServiceByName(service).file.name
        (by_name,) = reflected(file_by_filename=name).file_descriptor_response.file_descriptor_proto
        assert by_symbol == by_name == protos.POOL.FindFileByName(name).serialized_pb


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"file_by_filename": "nothing.proto"}, 5),
        ({"file_containing_symbol": "inference.Nothing"}, 5),
        ({"all_extension_numbers_of_type": "nothing"}, 5),
        ({"file_containing_extension": {"containing_type": "inference.ModelInferRequest", "extension_number": 1}}, 5),
        ({}, 3),
    ],
)
def test_what_is_not_there_is_an_error_in_the_answer(asked: dict[str, Any], code: int) -> None:
    found = reflected(host="me", **asked)
    assert found.error_response.error_code == code
    assert found.error_response.error_message
    assert found.valid_host == "me"


def test_a_type_without_extensions_has_none() -> None:
    name = "inference.ModelInferRequest"
    assert reflected(all_extension_numbers_of_type=name).all_extension_numbers_response.base_type_name == name
