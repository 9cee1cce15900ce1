"""What may come as an Open Inference Protocol request, what is refused, and with which words. Without a server."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pytest

from digits.mnist import LabelledImages
from serving.errors import Kind, RequestError
from serving.protocols.v2 import InferRequest, read_infer, write_infer

ZEROS: Final = [0] * 784
ONE: Final = bytes(784)
NOTHING: Final[Any] = ...  # a field that is left out


def tensor(**fields: Any) -> dict[str, Any]:
    """The input of one black image, with these fields changed, added, or left out."""
    right = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": ZEROS}
    return {name: value for name, value in {**right, **fields}.items() if value is not NOTHING}


def binary(size: Any = 784, **fields: Any) -> dict[str, Any]:
    return tensor(data=NOTHING, parameters={"binary_data_size": size}, **fields)


def request(*inputs: Any, **fields: Any) -> bytes:
    document = {"inputs": list(inputs or [tensor()]), **fields}
    return orjson.dumps({name: value for name, value in document.items() if value is not NOTHING})


def read(document: bytes, tail: bytes | None = None, length: bytes | None = None, max_images: int = 64) -> InferRequest:
    """Reads JSON and what follows it; with a tail the header says how long the JSON is, unless `length` says otherwise."""
    if length is None and tail is not None:
        length = b"%d" % len(document)
    return read_infer(document + (tail or b""), length, max_images=max_images)


def refusal(document: bytes, tail: bytes | None = None, length: bytes | None = None) -> str:
    with pytest.raises(RequestError) as refused:
        read(document, tail, length)
    assert refused.value.kind is Kind.MALFORMED
    message = str(refused.value)
    assert len(message) < 300
    return message


# What is taken


@pytest.mark.parametrize("number", [1, 2, 64])
def test_images_come_through_unchanged_in_every_way_there_is(number: int, test_set: LabelledImages) -> None:
    sent = test_set.images[:number]
    shape = [number, 28, 28]
    for came in (
        read(request(tensor(shape=shape, data=sent.ravel().tolist()))),
        read(request(tensor(shape=shape, data=sent.tolist()))),
        read(request(tensor(shape=shape, data=sent.tolist())), b""),  # a header length, and nothing after it
        read(request(binary(784 * number, shape=shape)), sent.tobytes()),
        read(b"", sent.tobytes(), b"0"),
    ):
        assert came.images.dtype == np.uint8
        assert came.images.shape == (number, 28, 28)
        np.testing.assert_array_equal(came.images, sent)
        assert came.id is None
        assert came.timeout_us == 0


def test_every_value_of_a_pixel_comes_through_at_its_place() -> None:
    sent = np.arange(784, dtype=np.uint16).reshape(28, 28) % 256
    for data in (sent.ravel().tolist(), [sent.tolist()]):
        np.testing.assert_array_equal(read(request(tensor(data=data))).images[0], sent)
    np.testing.assert_array_equal(read(request(binary()), sent.astype(np.uint8).tobytes()).images[0], sent)


@pytest.mark.parametrize("identity", ["", "a", "true", "x" * 10_000])
def test_the_id_is_passed_on(identity: str) -> None:
    assert read(request(id=identity)).id == identity


def test_unknown_fields_and_parameters_are_let_through() -> None:
    read(request(tensor(parameters={"mine": 1}), parameters={"mine": [True]}, other={"a": None}))


@pytest.mark.parametrize("empty", [None, NOTHING])
def test_what_is_null_counts_as_left_out(empty: Any) -> None:
    came = read(request(tensor(parameters=empty), id=empty, parameters=empty, outputs=empty))
    assert (came.id, came.outputs) == (None, (("probabilities", False), ("digits", False)))


BOTH: Final = ("probabilities", "digits")


@pytest.mark.parametrize("wanted", [("digits",), ("probabilities",), BOTH, BOTH[::-1], ()])
@pytest.mark.parametrize("default", [True, False, None])
@pytest.mark.parametrize("own", [True, False, None])
def test_an_outputs_own_binary_data_goes_before_the_requests_default(
    wanted: tuple[str, ...], default: bool | None, own: bool | None
) -> None:
    outputs = [{"name": name, **({} if own is None else {"parameters": {"binary_data": own}})} for name in wanted]
    parameters = {} if default is None else {"binary_data_output": default}
    came = read(request(outputs=outputs, parameters=parameters))
    expected = bool(default) if own is None or not wanted else own
    assert came.outputs == tuple((name, expected) for name in wanted or BOTH)


@pytest.mark.parametrize("timeout", [0, 1, 10**15])
def test_the_timeout_is_passed_on(timeout: int) -> None:
    assert read(request(parameters={"timeout": timeout})).timeout_us == timeout


# What is refused: the header and the lengths


@pytest.mark.parametrize(
    "length",
    [b"-1", b"", b"+3", b" 3", b"3 ", b"3.0", b"1e3", b"0x10", b"many", "٣".encode(), b"9" * 20, b"1" * 5000, b"\xb2"],
)
def test_a_header_length_that_is_no_number_is_refused(length: bytes) -> None:
    message = refusal(request(), length=length)
    came = length[:20].decode("latin-1")
    assert message == (
        f"Inference-Header-Content-Length must be from 0 to the body's length, {len(request())}; got {came!r}."
    )


@pytest.mark.parametrize("beyond", [1, 1000, 2**62])
def test_a_header_length_beyond_the_body_is_refused(beyond: int) -> None:
    document = request()
    length = len(document) + beyond
    assert refusal(document, length=b"%d" % length) == (
        f"Inference-Header-Content-Length must be from 0 to the body's length, {len(document)}; got '{length}'."
    )


def test_a_header_length_that_ends_amid_the_json_is_refused_and_the_header_is_named() -> None:
    message = refusal(request(binary()), ONE, b"30")
    assert message.startswith("The request is not valid JSON: ")
    assert "Inference-Header-Content-Length says how long it is" in message


def test_raw_images_without_the_header_are_not_json_and_the_header_is_named() -> None:
    message = refusal(request(binary()) + ONE)
    assert "Inference-Header-Content-Length says how long it is" in message
    assert (
        refusal(request(binary()))
        == "Raw images need the header Inference-Header-Content-Length: the length of the JSON."
    )


@pytest.mark.parametrize("size", [0, 1, 783, 785, 784 * 64 + 1, 784 * 65 - 1, 784 * 65])
def test_raw_images_of_another_length_are_refused(size: int) -> None:
    message = refusal(b"", bytes(size), b"0")
    if size == 65 * 784:
        assert message == "Too many images: at most 64 in one request, got 65."
    else:
        assert message == f"Expected raw images of 784 bytes each, at least one; got {size} bytes."


@pytest.mark.parametrize(
    ("size", "came"),
    [
        (0, "the number 0"),
        (783, "the number 783"),
        (785, "the number 785"),
        (-784, "the number -784"),
        (2**63, "the number 9223372036854775808"),
        (784.0, "the number 784.0"),
        (True, "true"),
        (False, "false"),
        ("784", "the string '784'"),
        (None, "null"),
        ([784], "a list"),
        ({}, "an object"),
    ],
)
def test_a_lying_binary_data_size_is_refused(size: Any, came: str) -> None:
    expected = f"binary_data_size of 1 images is 1 x 784 = 784; got {came}."
    assert refusal(request(binary(size)), ONE) == expected
    assert refusal(request(binary(size)), bytes(size) if type(size) is int and 0 <= size < 1000 else b"") == expected


def test_a_binary_data_size_of_one_byte_is_not_true() -> None:
    assert "got true" in refusal(request(binary(True)), b"\1")


@pytest.mark.parametrize(("number", "left"), [(1, 0), (1, 783), (1, 785), (1, 1568), (2, 784), (2, 1567), (2, 1569)])
def test_raw_bytes_that_are_missing_or_too_many_are_refused(number: int, left: int) -> None:
    document = request(binary(784 * number, shape=[number, 28, 28]))
    assert refusal(document, bytes(left)) == f"binary_data_size is {784 * number}, but {left} bytes follow the JSON."


def test_raw_bytes_that_nobody_announced_are_refused() -> None:
    assert refusal(request(), b"!") == (
        "1 bytes follow the JSON, but the input images has no parameter binary_data_size."
    )


def test_data_and_raw_bytes_at_once_and_neither_are_refused() -> None:
    both = tensor(parameters={"binary_data_size": 784})
    assert refusal(request(both), ONE) == (
        "The input images has both data and the parameter binary_data_size; send one of them."
    )
    assert refusal(request(tensor(data=NOTHING))) == (
        "The input images needs data, or the parameter binary_data_size and raw bytes."
    )


# What is refused: JSON


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"id": "\xff"}',
        b'{"inputs": [NaN]}',
        b'{"inputs": Infinity}',
        b"\x00" * 100,
        b"{}{}",
        b"[" * 100_000,
        b'{"inputs":' * 100_000,
        b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": ' + b"[" * 100_000,
        request()[:-1],
        request().replace(b"0,0", b"NaN,0", 1),
    ],
    ids=lambda document: repr(document[:30]).replace("\\", "|"),
)
@pytest.mark.parametrize("tail", [None, ONE])
def test_what_is_not_json_is_refused_as_such(document: bytes, tail: bytes | None) -> None:
    if document == b"" and tail:
        assert read(document, tail).images.shape == (1, 28, 28)  # header length 0: raw images
    else:
        assert refusal(document, tail).startswith("The request is not valid JSON: ")


def test_nesting_that_is_deep_but_valid_is_refused() -> None:
    for depth in (4, 5, 100, 1000):
        data = b"[" * depth + b"0" + b"]" * depth
        message = refusal(request(tensor(data="?")).replace(b'"?"', data))
        assert message == "Expected N x 28 x 28 integers from 0 to 255; image 0 is a list of 1."


@pytest.mark.parametrize(
    ("document", "came"),
    [(b"[]", "a list"), (b"5", "the number 5"), (b'"x"', "the string 'x'"), (b"null", "null"), (b"true", "true")],
)
def test_json_that_is_no_object_is_named(document: bytes, came: str) -> None:
    assert refusal(document) == f'The request must be a JSON object like {{"inputs": [...]}}; got {came}.'


@pytest.mark.parametrize(
    ("identity", "came"),
    [(7, "the number 7"), (True, "true"), ([], "a list"), ({}, "an object"), (1.5, "the number 1.5")],
)
def test_an_id_that_is_no_string_is_named(identity: Any, came: str) -> None:
    assert refusal(request(id=identity)) == f"id must be a string; got {came}."


@pytest.mark.parametrize("wrong", [[], "x", 3, True])
def test_parameters_that_are_no_object_are_refused_and_their_owner_is_named(wrong: Any) -> None:
    assert refusal(request(parameters=wrong)).startswith("The parameters of the request must be an object; got ")
    assert refusal(request(tensor(parameters=wrong))).startswith(
        "The parameters of the input images must be an object; got "
    )
    outputs = [{"name": "digits", "parameters": wrong}]
    assert refusal(request(outputs=outputs)).startswith("The parameters of the output digits must be an object; got ")


@pytest.mark.parametrize("wrong", [0, 1, "true", None, []])
def test_a_flag_that_is_neither_true_nor_false_is_refused(wrong: Any) -> None:
    assert refusal(request(parameters={"binary_data_output": wrong})).startswith(
        "The parameter binary_data_output takes true or false; got "
    )
    outputs = [{"name": "digits", "parameters": {"binary_data": wrong}}]
    assert refusal(request(outputs=outputs)).startswith("The parameter binary_data takes true or false; got ")


@pytest.mark.parametrize("timeout", [-1, 1.0, "5", True, None, [], 1e30])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(timeout: Any) -> None:
    message = refusal(request(parameters={"timeout": timeout}))
    assert message.startswith("The parameter timeout takes whole microseconds, at least 0; got ")


# What is refused: inputs


@pytest.mark.parametrize(
    ("inputs", "came"),
    [
        (NOTHING, "null"),
        (None, "null"),
        ([], "0 inputs"),
        ([tensor(), tensor()], "2 inputs"),
        ({}, "an object"),
        (tensor(), "an object"),
        ("images", "the string 'images'"),
        ([ZEROS], "a list"),
        ([None], "a list"),
    ],
)
def test_inputs_that_are_not_the_one_are_refused(inputs: Any, came: str) -> None:
    expected = f"inputs must be a list of one object, the input images; got {came}."
    assert refusal(request(inputs=inputs)) == expected
    assert refusal(request(inputs=inputs), ONE) == expected


@pytest.mark.parametrize("name", [NOTHING, None, "", "image", "Images", 3, ["images"]])
def test_another_input_is_refused_by_name(name: Any) -> None:
    assert refusal(request(tensor(name=name))).startswith("The model's one input is images; got ")


@pytest.mark.parametrize("datatype", [NOTHING, None, "", "uint8", "INT8", "FP32", "BYTES", "BOOL", 8, ["UINT8"]])
def test_another_datatype_is_refused(datatype: Any) -> None:
    assert refusal(request(tensor(datatype=datatype))).startswith("The datatype of images is UINT8; got ")
    assert refusal(request(binary(datatype=datatype)), ONE).startswith("The datatype of images is UINT8; got ")


@pytest.mark.parametrize(
    ("shape", "came"),
    [
        (NOTHING, "null"),
        (None, "null"),
        ([], "[]"),
        ([784], "[784]"),
        ([28, 28], "[28, 28]"),
        ([1, 784], "[1, 784]"),
        ([1, 28, 28, 1], "[1, 28, 28, 1]"),
        ([1, 28, 27], "[1, 28, 27]"),
        ([1, 14, 56], "[1, 14, 56]"),
        ([0, 28, 28], "[0, 28, 28]"),
        ([-1, 28, 28], "[-1, 28, 28]"),
        ([-1, -28, 28], "[-1, -28, 28]"),
        ([1, -28, -28], "[1, -28, -28]"),
        ([2**63, 28, 28], "Too many"),
        ([2**63, 2**63, 4], "[9223372036854775808, 9223372036854775808, 4]"),  # whose product is 0 in 64 bits
        ([2**32, 2**32, 784], "[4294967296, 4294967296, 784]"),
        ([True, 28, 28], "[True, 28, 28]"),
        ([1.0, 28, 28], "[1.0, 28, 28]"),
        (["1", 28, 28], "['1', 28, 28]"),
        ([None, 28, 28], "[None, 28, 28]"),
        ([[1], 28, 28], "[[1], 28, 28]"),
        ({"0": 1}, "an object"),
        ("1x28x28", "the string '1x28x28'"),
        (784, "the number 784"),
        ([1] * 100_000, "[1, 1, 1, 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_another_shape_is_refused_and_named(shape: Any, came: str) -> None:
    for message in (refusal(request(tensor(shape=shape))), refusal(request(binary(shape=shape)), ONE)):
        if came == "Too many":
            assert message == f"Too many images: at most 64 in one request, got {2**63}."
        else:
            assert message.startswith(f"The shape of images is [N, 28, 28], N at least 1; got {came}")


def test_one_image_too_many_is_refused_before_its_data_are_looked_at() -> None:
    for number in (65, 10**6, 2**31, 2**53 + 1):
        shape = [number, 28, 28]
        expected = f"Too many images: at most 64 in one request, got {number}."
        assert refusal(request(tensor(shape=shape))) == expected
        assert refusal(request(binary(784 * number if number < 2**31 else 784, shape=shape)), ONE) == expected


@pytest.mark.parametrize("region", ["r", "", None])
def test_shared_memory_is_refused(region: Any) -> None:
    shared = tensor(data=NOTHING, parameters={"shared_memory_region": region, "shared_memory_byte_size": 784})
    assert refusal(request(shared)) == "There is no shared memory here; send the images in the body."


# What is refused: data


@pytest.mark.parametrize("data", [None, {}, "abc", "\0" * 784, 784, True, []])
def test_data_that_are_no_list_are_refused(data: Any) -> None:
    message = refusal(request(tensor(data=data)))
    assert message.startswith("data must be a list of 784 integers, flat or nested; got ")


@pytest.mark.parametrize("number", [1, 783, 785, 1568])
def test_flat_data_of_another_length_are_refused(number: int) -> None:
    message = refusal(request(tensor(data=[0] * number)))
    assert message == f"The shape says 1 x 784 = 784 pixels; data has {number}."


ROW: Final = [0] * 28
IMAGE: Final = [ROW] * 28


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (IMAGE, "row 0 of image 0 is the number 0. For one image, send a list with that image in it"),
        ([[IMAGE]], "image 0 is a list of 1"),
        ([[[[0] for _ in ROW] for _ in ROW]], "pixel 0 of row 0 of image 0 is a list"),
        ([ZEROS], "image 0 is a list of 784"),
        ([IMAGE[:27]], "image 0 is a list of 27"),
        ([[*IMAGE[:27], ROW[:27]]], "row 27 of image 0 is a list of 27"),
        ([[*IMAGE[:26], ROW[:27], [*ROW, 0]]], "row 26 of image 0 is a list of 27"),  # the right sum
        ([[*IMAGE[:27], 28]], "row 27 of image 0 is the number 28"),  # bytes(28) would be 28 zeros
        ([[*IMAGE[:27], None]], "row 27 of image 0 is null"),
        ([[]], "image 0 is a list of 0"),
        ([IMAGE, 0], "image 1 is the number 0"),
    ],
)
def test_nested_data_of_another_shape_are_refused_with_the_place(data: Any, fault: str) -> None:
    assert refusal(request(tensor(data=data))) == f"Expected N x 28 x 28 integers from 0 to 255; {fault}."


def test_flat_data_with_a_list_in_it_are_refused() -> None:
    assert refusal(request(tensor(data=[*ZEROS[:783], []]))) == (
        "data must be integers from 0 to 255; entry 783 is a list."
    )


def test_nested_data_of_another_number_than_the_shape_says_are_refused() -> None:
    assert refusal(request(tensor(data=[IMAGE] * 2))) == "The shape says 1 images; data has 2."
    assert refusal(request(tensor(shape=[2, 28, 28], data=[IMAGE]))) == "The shape says 2 images; data has 1."


@pytest.mark.parametrize(
    ("pixel", "came"),
    [
        ("256", "the number 256"),
        ("-1", "the number -1"),
        (str(2**31), f"the number {2**31}"),
        (str(2**64 - 1), f"the number {2**64 - 1}"),
        (str(2**70), "the number 1.1805916207174113e+21"),
        ("0.5", "the number 0.5; pixels from 0 to 1 must be multiplied by 255 and rounded"),
        ("1e2", "the number 100.0"),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
        ('"7"', "the string '7'"),
        ("{}", "an object"),
        ("[]", "a list"),
        ("[7]", "a list"),
    ],
)
def test_a_pixel_that_is_no_integer_from_0_to_255_is_refused_with_its_place(pixel: str, came: str) -> None:
    for data, place in (
        ([*ZEROS[:500], 123, *ZEROS[501:]], "data must be integers from 0 to 255; entry 500 is "),
        (
            [[*IMAGE[:3], [*ROW[:5], 123, *ROW[6:]], *IMAGE[4:]]],
            "Expected N x 28 x 28 integers from 0 to 255; pixel 5 of row 3 of image 0 is ",
        ),
    ):
        assert refusal(request(tensor(data=data)).replace(b"123", pixel.encode())).startswith(place + came)


def test_a_first_pixel_that_is_wrong_is_refused_as_well() -> None:
    for pixel in (True, None, "0", 1.0, 256, -1):
        refusal(request(tensor(data=[pixel, *ZEROS[1:]])))
        refusal(request(tensor(data=[[[pixel, *ROW[1:]], *IMAGE[1:]]])))


# What is refused: outputs


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "outputs must be a list of objects with a name; got an object."),
        ("digits", "outputs must be a list of objects with a name; got the string 'digits'."),
        (3, "outputs must be a list of objects with a name; got the number 3."),
        (["digits"], "The model's outputs are probabilities and digits; got the string 'digits'."),
        ([None], "The model's outputs are probabilities and digits; got null."),
        ([{}], "The model's outputs are probabilities and digits; got null."),
        ([{"name": "logits"}], "The model's outputs are probabilities and digits; got the string 'logits'."),
        ([{"name": ["digits"]}], "The model's outputs are probabilities and digits; got a list."),
        ([{"name": "digits"}, {"name": "x"}], "The model's outputs are probabilities and digits; got the string 'x'."),
        (
            [{"name": "digits", "parameters": {"classification": 3}}],
            "The output parameter classification is not supported here; leave it out.",
        ),
        (
            [{"name": "digits", "parameters": {"shared_memory_region": "r"}}],
            "The output parameter shared_memory_region is not supported here; leave it out.",
        ),
    ],
)
def test_other_outputs_are_refused(outputs: Any, message: str) -> None:
    assert refusal(request(outputs=outputs)) == message


# The answer


def answered(probabilities: npt.NDArray[np.float32], asked: InferRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer's JSON, and its tensors by name, read as a client would."""
    body, length = write_infer(probabilities, asked, model="torch-relu.onnx", version="abc")
    raw = b"" if length is None else body[length:]
    document = orjson.loads(body[:length])
    tensors: dict[str, Any] = {}
    for output in document["outputs"]:
        datatype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
        if "parameters" in output:
            size = output["parameters"]["binary_data_size"]
            values, raw = np.frombuffer(raw[:size], datatype), raw[size:]
            assert "data" not in output
        else:
            values = np.array(output["data"], datatype)
        assert values.size == np.prod(output["shape"])
        tensors[output["name"]] = values.reshape(output["shape"])
    assert raw == b""
    return document, tensors


def test_whatever_is_asked_the_answer_is_to_that() -> None:
    """Requests made at random, read, answered, and read again."""
    random, numbers = Random(5), np.random.default_rng(5)
    seen = set()
    for _ in range(300):
        number = random.randint(1, 19)
        images = numbers.integers(0, 256, (number, 28, 28), np.uint8)
        wanted = random.sample(BOTH, random.randint(0, 2))
        flags = [random.choice([None, True, False]) for _ in wanted]
        default = random.choice([None, True, False])
        identity = random.choice([None, "", "x", "é"])
        outputs = [
            {"name": name} | ({} if flag is None else {"parameters": {"binary_data": flag}})
            for name, flag in zip(wanted, flags, strict=True)
        ]
        fields: dict[str, Any] = {"outputs": outputs} if outputs or random.random() < 0.5 else {}
        if identity is not None:
            fields["id"] = identity
        if default is not None:
            fields["parameters"] = {"binary_data_output": default}
        shape = [number, 28, 28]
        kind = random.choice(["flat", "nested", "binary"])
        if kind == "binary":
            asked = read(request(binary(784 * number, shape=shape), **fields), images.tobytes())
        else:
            data = images.tolist() if kind == "nested" else images.ravel().tolist()
            asked = read(request(tensor(shape=shape, data=data), **fields))
        np.testing.assert_array_equal(asked.images, images)

        probabilities = numbers.dirichlet(np.ones(10), number).astype(np.float32)
        document, tensors = answered(probabilities, asked)
        assert list(tensors) == (wanted or list(BOTH))
        for output in document["outputs"]:
            own = flags[wanted.index(output["name"])] if wanted else None
            assert ("parameters" in output) == bool(default if own is None else own)
        for name, values in tensors.items():
            right = probabilities if name == "probabilities" else probabilities.argmax(axis=1)
            assert values.dtype == (np.float32 if name == "probabilities" else np.int64)
            np.testing.assert_array_equal(values, right)  # to the last bit
        assert document.get("id") == identity
        assert (document["model_name"], document["model_version"]) == ("torch-relu.onnx", "abc")
        seen.add((kind, len(wanted), default))
    assert len(seen) == 3 * 3 * 3  # every combination has come


def test_a_slice_of_a_batchs_probabilities_is_written_as_its_own(test_set: LabelledImages) -> None:
    """What a batcher gives are views of a larger array."""
    whole = np.random.default_rng(1).dirichlet(np.ones(10), 9).astype(np.float32)
    for asked in (read(request()), read(request(), b""), read(b"", ONE, b"0")):
        for view in (whole[3:4], whole[::2][1:2], np.asfortranarray(whole)[3:4]):
            _, tensors = answered(view, asked)
            np.testing.assert_array_equal(tensors["probabilities"], view)
