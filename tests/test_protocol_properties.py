"""Both protocols on what Hypothesis thinks of: what is right is read exactly, what is not is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digits.contract import Images, Probabilities
from loadtests.protocols import HEADER_LENGTH, PROTOCOLS
from serving.errors import Kind, RequestError
from serving.protocols import predict, v2

MAX_IMAGES: Final = 4
often = settings(max_examples=300, derandomize=True, deadline=None, database=None)
rarely = settings(often, max_examples=60)

images = arrays.arrays(np.uint8, st.tuples(st.integers(1, MAX_IMAGES), st.just(28), st.just(28)))
logits = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, MAX_IMAGES), st.just(10)),
    elements=st.floats(-20, 20, width=32),
)
flags = st.booleans()
wanted_outputs = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["probabilities", "digits"])},
        optional={"parameters": st.fixed_dictionaries({}, optional={"binary_data": flags})},
    ),
    max_size=3,
)
request_fields = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=20) | st.none(),
        "outputs": wanted_outputs,
        "parameters": st.fixed_dictionaries(
            {"mine": st.text(max_size=5)}, optional={"binary_data_output": flags, "timeout": st.integers(0, 2**64 - 1)}
        ),
        "mine": st.integers(0, 9),
    },
)

# JSON made of the words that the protocols know, nested at will.
words = st.sampled_from(
    [
        *("images", "model", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "id", "timeout"),
        *("binary_data", "binary_data_size", "binary_data_output", "shared_memory_region", "classification", "UINT8"),
    ]
)
leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(-1, 300), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False)),
    *(
        words,
        st.text(max_size=400),
        st.just([0] * 784),
        st.just([[[0] * 28] * 28]),
        st.just([1, 28, 28]),
        st.just([2**60] * 50),
    ),
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=400), inner, max_size=6),
    max_leaves=25,
)


@st.composite
def nearly_right(draw: st.DrawFn) -> Any:
    """An inference request with one part of it replaced."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784, "parameters": {}}
    wanted = {"name": "digits", "parameters": {"binary_data": True}}
    request = {"id": "a", "inputs": [tensor], "outputs": [wanted], "parameters": {"timeout": 1}}
    part: Any = draw(st.sampled_from([request, tensor, wanted, request["parameters"], tensor["parameters"]]))
    part[draw(st.sampled_from([*part, "binary_data_size", "shared_memory_region", "classification"]))] = draw(documents)
    return request


def as_json(document: Any, spaced: bool) -> bytes:
    return json.dumps(document, indent=1).encode() if spaced else orjson.dumps(document)


def refused_or_read(read: Callable[[], Images]) -> None:
    """It gives images, or says in a sentence why not; nothing else."""
    try:
        found = read()
    except RequestError as error:
        refused = error
    else:
        assert found.dtype == np.uint8
        assert found.shape[1:] == (28, 28)
        assert 1 <= len(found) <= MAX_IMAGES
        return
    assert refused.kind is Kind.MALFORMED
    assert 0 < len(str(refused).encode()) < 400
    assert len(str(refused)) < 300


# What is right


@rarely
@given(images=images, model=st.none() | st.text(max_size=30), named=st.booleans(), spaced=st.booleans())
def test_predict_reads_exactly_the_images_that_were_sent(
    images: Images, model: str | None, named: bool, spaced: bool
) -> None:
    document: dict[str, Any] = {"images": images.tolist()} | ({"model": model} if named else {})
    asked = predict.read_request(as_json(document, spaced), max_images=MAX_IMAGES)
    np.testing.assert_array_equal(asked.images, images)
    assert asked.model == (model if named else None)


def check_fields(asked: v2.InferRequest, fields: dict[str, Any], sent: Images) -> None:
    np.testing.assert_array_equal(asked.images, sent)
    assert asked.id == fields.get("id")
    parameters = fields.get("parameters", {})
    assert asked.timeout_us == parameters.get("timeout", 0)
    binary = parameters.get("binary_data_output", False)
    last = {one["name"]: one.get("parameters", {}).get("binary_data", binary) for one in fields.get("outputs", ())}
    assert dict(asked.outputs) == (last or {"probabilities": binary, "digits": binary})


@rarely
@given(images=images, nested=st.booleans(), fields=request_fields, spaced=st.booleans(), length=st.booleans())
def test_v2_json_reads_exactly_the_images_that_were_sent(
    images: Images, nested: bool, fields: dict[str, Any], spaced: bool, length: bool
) -> None:
    data = images.tolist() if nested else images.ravel().tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [*images.shape], "data": data}
    body = as_json({**fields, "inputs": [tensor]}, spaced)
    asked = v2.read_infer(body, b"%d" % len(body) if length else None, max_images=MAX_IMAGES)
    check_fields(asked, fields, images)


@rarely
@given(images=images, fields=request_fields, padding=st.integers(0, 1200))
def test_v2_binary_reads_exactly_the_images_that_were_sent(
    images: Images, fields: dict[str, Any], padding: int
) -> None:
    """With padding the JSON is longer than what is remembered of it."""
    parameters = {"binary_data_size": images.size}
    tensor = {"name": "images", "datatype": "UINT8", "shape": [*images.shape], "parameters": parameters}
    head = orjson.dumps({**fields, "inputs": [tensor]}) + b" " * padding
    asked = v2.read_infer(head + images.tobytes(), b"%d" % len(head), max_images=MAX_IMAGES)
    check_fields(asked, fields, images)


@rarely
@given(images=images)
def test_v2_raw_images_are_read_exactly(images: Images) -> None:
    asked = v2.read_infer(images.tobytes(), b"0", max_images=MAX_IMAGES)
    np.testing.assert_array_equal(asked.images, images)


# Whatever comes


@often
@given(documents)
def test_predict_reads_or_refuses_any_json(document: Any) -> None:
    refused_or_read(lambda: predict.read_request(orjson.dumps(document), max_images=MAX_IMAGES).images)
    as_images = orjson.dumps({"images": document})
    refused_or_read(lambda: predict.read_request(as_images, max_images=MAX_IMAGES).images)
    refused_or_read(
        lambda: (
            predict.read_request(orjson.dumps({"images": [[[0] * 28] * 28], "model": document}), max_images=4).images
        )
    )


@often
@given(documents | nearly_right(), st.binary(max_size=20) | st.just(bytes(784)), st.none() | st.integers(-1, 3))
def test_v2_reads_or_refuses_any_json_with_any_bytes_after_it(document: Any, tail: bytes, off: int | None) -> None:
    head = orjson.dumps(document)
    length = None if off is None else b"%d" % (len(head) + off)
    refused_or_read(lambda: v2.read_infer(head + tail, length, max_images=MAX_IMAGES).images)


@often
@given(
    entry=documents.filter(lambda value: type(value) is not int or not 0 <= value <= 255),
    place=st.tuples(st.integers(0, 1), st.integers(0, 27), st.integers(0, 27)),
)
def test_one_entry_that_is_no_pixel_is_refused_wherever_it_stands(entry: Any, place: tuple[int, int, int]) -> None:
    image, row, column = place
    nested: list[Any] = [[[0] * 28 for _ in range(28)] for _ in range(2)]
    nested[image][row][column] = entry
    flat = [pixel for one in nested for line in one for pixel in line]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 28, 28]}
    bodies = [orjson.dumps({"inputs": [{**tensor, "data": data}]}) for data in (nested, flat)]
    with pytest.raises(RequestError, match="255"):
        predict.read_request(orjson.dumps({"images": nested}), max_images=MAX_IMAGES)
    for body in bodies:
        with pytest.raises(RequestError, match=r"255|The shape says"):
            v2.read_infer(body, None, max_images=MAX_IMAGES)


@often
@given(st.binary(max_size=2000), st.none() | st.binary(max_size=30) | st.integers(0, 2000).map(lambda n: b"%d" % n))
def test_both_read_or_refuse_any_bytes(body: bytes, length: bytes | None) -> None:
    refused_or_read(lambda: predict.read_request(body, max_images=MAX_IMAGES).images)
    refused_or_read(lambda: v2.read_infer(body, length, max_images=MAX_IMAGES).images)


@pytest.mark.parametrize("character", ["x", "\n", "\U000e0001"])
def test_an_unknown_field_as_long_as_a_body_is_not_given_back_whole(character: str) -> None:
    with pytest.raises(RequestError) as refused:
        predict.read_request(orjson.dumps({character * 100_000: 1}), max_images=1)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


# What goes out


def softmax(logits: Probabilities) -> Probabilities:
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float32)


@rarely
@given(logits)
def test_what_is_written_for_one_image_is_what_a_load_test_reads(logits: Probabilities) -> None:
    probabilities = softmax(logits[:1])
    digit = int(probabilities.argmax())
    by_predict = predict.write_answer(probabilities, model="a:b", backend="onnx")
    assert PROTOCOLS["predict"].read(by_predict, {}) == digit
    for outputs, protocol in ((v2._ALL_JSON, PROTOCOLS["v2-json"]), (v2.ALL_BINARY, PROTOCOLS["v2-binary"])):
        asked = v2.InferRequest(np.zeros((1, 28, 28), np.uint8), id=None, outputs=outputs, timeout_us=0)
        body, length = v2.write_infer(probabilities, asked, model="a.b", version="1")
        assert protocol.read(body, {} if length is None else {HEADER_LENGTH: str(length)}) == digit


@rarely
@given(logits=logits, identity=st.none() | st.text(max_size=20), first=flags, second=flags)
def test_every_number_is_written_to_the_last_bit(
    logits: Probabilities, identity: str | None, first: bool, second: bool
) -> None:
    probabilities = softmax(logits)
    asked = v2.InferRequest(
        np.zeros((len(logits), 28, 28), np.uint8), identity, (("digits", first), ("probabilities", second)), 0
    )
    body, length = v2.write_infer(probabilities, asked, model="a.b", version="1")
    assert (length is not None) == (first or second)
    document = orjson.loads(body[:length])
    assert document.get("id") == identity
    raw = body[len(body) if length is None else length :]
    found = {}
    for output, form in zip(document["outputs"], ("<i8", "<f4"), strict=True):
        if "data" in output:
            found[output["name"]] = np.array(output["data"], form).reshape(output["shape"])
        else:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]], raw = np.frombuffer(raw[:size], form).reshape(output["shape"]), raw[size:]
    assert raw == b""
    np.testing.assert_array_equal(found["probabilities"], probabilities)
    np.testing.assert_array_equal(found["digits"], probabilities.argmax(axis=1))
