"""What may come to /predict, what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest

from digits.mnist import LabelledImages
from serving.errors import Kind, RequestError
from serving.protocols.predict import read_request, write_answer

IMAGE: list[list[Any]] = [[0] * 28 for _ in range(28)]


def with_pixel(pixel: Any, *, row: int = 3, column: int = 5) -> list[list[Any]]:
    image = [list(line) for line in IMAGE]
    image[row][column] = pixel
    return image


def images(value: Any) -> bytes:
    return orjson.dumps({"images": value}, option=orjson.OPT_SERIALIZE_NUMPY)


def refusal(body: bytes) -> str:
    with pytest.raises(RequestError) as refused:
        read_request(body, max_images=1024)
    assert refused.value.kind is Kind.MALFORMED
    return str(refused.value)


# What is taken


@pytest.mark.parametrize("number", [1, 2, 63, 64])
def test_images_come_through_unchanged(number: int, test_set: LabelledImages) -> None:
    sent = test_set.images[:number]
    request = read_request(images(sent), max_images=64)
    assert request.images.dtype == np.uint8
    assert request.images.shape == (number, 28, 28)
    np.testing.assert_array_equal(request.images, sent)
    assert request.model is None


def test_every_value_of_a_pixel_comes_through_at_its_place() -> None:
    sent = np.arange(28 * 28, dtype=np.uint16).reshape(1, 28, 28) % 256
    np.testing.assert_array_equal(read_request(images(sent), max_images=1).images, sent)


@pytest.mark.parametrize("model", ["torch-relu", "torch-relu:abc", "", "x[true]", 'a"false"'])
def test_the_model_is_passed_on_as_it_came(model: str) -> None:
    body = orjson.dumps({"model": model, "images": [with_pixel(7)]})
    request = read_request(body, max_images=1)
    assert request.model == model
    assert request.images[0, 3, 5] == 7
    assert request.images.sum() == 7


def test_a_null_model_is_no_model() -> None:
    assert read_request(orjson.dumps({"model": None, "images": [IMAGE]}), max_images=1).model is None


def test_a_bytearray_and_white_space_are_taken() -> None:
    body = bytearray(json.dumps({"images": [IMAGE]}, indent=2).encode())
    assert read_request(body, max_images=1).images.shape == (1, 28, 28)


# What is refused: JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"images": [[[0, 0',
        b'{"images": [}',
        b"{'images': []}",
        b'{"images": [[[NaN]]]}',
        b'{"images": [[[Infinity]]]}',
        b'{"images": [[[-Infinity]]]}',
        b'{"images": [[[1e400]]]}',
        b'{"images": [[[0x10]]]}',
        b'{"images": [[[007]]]}',
        b'{"images": "\xff\xfe"}',
        b'{"\xc3\x28": 1}',
        '{"images": []}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"\x00" * 10,
        b"\x80\x04\x95pickle",
        b"[" * 100_000,
        b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:24]).replace("\\", "|"),
)
def test_a_body_that_is_not_json_is_refused_as_such(body: bytes) -> None:
    assert refusal(body).startswith("The body is not valid JSON: ")


@pytest.mark.parametrize(
    ("body", "came"),
    [
        (b"[]", "a list"),
        (b"5", "the number 5"),
        (b'"images"', "the string 'images'"),
        (b"null", "null"),
        (b"true", "true"),
        (b"false", "false"),
    ],
)
def test_json_that_is_no_object_is_named(body: bytes, came: str) -> None:
    assert refusal(body) == f'The body must be a JSON object like {{"images": [...]}}; got {came}.'


def test_a_missing_field_is_named() -> None:
    assert refusal(b"{}").startswith("The field images is missing. Expected N x 28 x 28 integers from 0 to 255")


def test_an_unknown_field_is_named() -> None:
    body = orjson.dumps({"images": [IMAGE], "modle": "torch-relu"})
    assert "Unknown field 'modle'" in refusal(body)


@pytest.mark.parametrize(
    ("model", "came"),
    [
        (5, "the number 5"),
        (1.5, "the number 1.5"),
        (["torch-relu"], "a list"),
        ({"recipe": "torch-relu"}, "an object"),
        (True, "true"),
    ],
)
def test_a_model_that_is_no_string_is_named(model: Any, came: str) -> None:
    body = orjson.dumps({"images": [IMAGE], "model": model})
    assert refusal(body) == f"model must be a string, recipe or recipe:version; got {came}."


# What is refused: images


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (None, "null"),
        ("abc", "the string 'abc'"),
        ({}, "an object"),
        (3, "the number 3"),
        (True, "true"),
    ],
)
def test_images_that_are_no_list_are_named(value: Any, came: str) -> None:
    message = refusal(images(value))
    assert message == f"images must be a list. Expected N x 28 x 28 integers from 0 to 255; got {came}."


def test_an_empty_batch_is_refused() -> None:
    assert refusal(images([])) == "images is empty. Expected N x 28 x 28 integers from 0 to 255, with N at least 1."


def test_one_image_too_many_is_refused_with_the_limit_and_what_came() -> None:
    assert read_request(images([IMAGE] * 3), max_images=3).images.shape == (3, 28, 28)
    with pytest.raises(RequestError, match="Too many images: at most 3 in one request, got 4"):
        read_request(images([IMAGE] * 4), max_images=3)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([[]], "image 0 is a list of 0"),
        ([[[]]], "image 0 is a list of 1"),
        ([[[]] * 28], "row 0 of image 0 is a list of 0"),
        ([IMAGE, []], "image 1 is a list of 0"),
        ([0] * 784, "image 0 is the number 0"),
        ([[0] * 784], "image 0 is a list of 784"),
        ([[[0] * 14] * 14], "image 0 is a list of 14"),
        ([[[0] * 29] * 28], "row 0 of image 0 is a list of 29"),
        ([[[[0]] * 28] * 28], "pixel 0 of row 0 of image 0 is a list"),
        ([[IMAGE]], "image 0 is a list of 1"),
        ([[[0] * 28] * 27 + [[0] * 27]], "row 27 of image 0 is a list of 27"),
        ([[[0] * 28] * 26 + [[0] * 27, [0] * 29]], "row 26 of image 0 is a list of 27"),  # the right sum
        ([IMAGE, IMAGE[:27]], "image 1 is a list of 27"),
        ([IMAGE[:27], [*IMAGE, IMAGE[0]]], "image 0 is a list of 27"),  # again
        ([IMAGE, [*IMAGE[:27], 28]], "row 27 of image 1 is the number 28"),  # bytes(28) would be 28 zeros
        ([IMAGE, [*IMAGE[:27], "0" * 28]], "row 27 of image 1 is the string '00000000000000000000'..."),
        ([IMAGE, 5], "image 1 is the number 5"),
        ([IMAGE, None], "image 1 is null"),
        ([{}], "image 0 is an object"),
        ([{str(i): [0] * 28 for i in range(28)}], "image 0 is an object"),
        (["0" * 28], "image 0 is the string '00000000000000000000'..."),
        ([True], "image 0 is true"),
    ],
)
def test_a_wrong_shape_is_named_with_its_place(value: Any, fault: str) -> None:
    assert refusal(images(value)) == f"Expected N x 28 x 28 integers from 0 to 255; {fault}."


def test_a_single_image_gets_a_hint_to_put_it_in_a_list() -> None:
    assert refusal(images(IMAGE)).endswith(
        "row 0 of image 0 is the number 0. For one image, send a list with that image in it."
    )


@pytest.mark.parametrize(
    ("pixel", "came"),
    [
        (256, "the number 256"),
        (-1, "the number -1"),
        (2**31, "the number 2147483648"),
        (2**63, "the number 9223372036854775808"),
        (2**64 - 1, "the number 18446744073709551615"),
        (5.0, "the number 5.0"),
        (254.5, "the number 254.5"),
        (-0.5, "the number -0.5"),
        ("1", "the string '1'"),
        ("NaN", "the string 'NaN'"),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ([], "a list"),
        ([1], "a list"),
        ({}, "an object"),
    ],
)
def test_a_pixel_that_is_no_integer_from_0_to_255_is_named_with_its_place(pixel: Any, came: str) -> None:
    message = refusal(images([IMAGE, with_pixel(pixel)]))
    assert message == f"Expected N x 28 x 28 integers from 0 to 255; pixel 5 of row 3 of image 1 is {came}."


def test_an_integer_of_thirty_digits_is_refused() -> None:
    body = images([with_pixel(123)]).replace(b"123", b"1" + b"0" * 30)
    assert refusal(body).endswith("pixel 5 of row 3 of image 0 is the number 1e+30.")


def test_a_minus_sign_before_a_zero_is_an_integer_still() -> None:
    body = images([with_pixel(123)]).replace(b"123", b"-0")
    assert read_request(body, max_images=1).images.sum() == 0


@pytest.mark.parametrize("pixel", [0.0, 0.5, 1.0])
def test_fractions_from_0_to_1_get_a_hint_to_multiply_by_255(pixel: float) -> None:
    message = refusal(images(np.full((1, 28, 28), pixel).tolist()))
    assert f"is the number {pixel}; pixels from 0 to 1 must be multiplied by 255 and rounded" in message


def test_one_long_string_among_many_takes_no_more_memory_than_it_has() -> None:
    """An array of strings would make every entry as long as the longest: 16 TB here."""
    message = refusal(images([["a" * 4_000_000] + ["b"] * 1_000_000]))
    assert message.endswith("image 0 is a list of 1000001.")


def test_a_message_stays_short_whatever_came() -> None:
    for value in ("a" * 1_000_000, ["a" * 1_000_000], [with_pixel("a" * 1_000_000)]):
        assert len(refusal(images(value))) < 200


# The answer


def test_an_answer_holds_the_most_probable_digit_and_every_probability() -> None:
    probabilities = np.full((2, 10), 0.01, np.float32)
    probabilities[0, 3] = probabilities[1, 9] = 0.91
    answer = orjson.loads(write_answer(probabilities, model="torch-relu:abc", backend="onnx"))
    assert answer.keys() == {"model", "backend", "predictions"}
    assert answer["model"] == "torch-relu:abc"
    assert answer["backend"] == "onnx"
    assert [one["digit"] for one in answer["predictions"]] == [3, 9]
    for one, row in zip(answer["predictions"], probabilities, strict=True):
        assert one.keys() == {"digit", "probability", "probabilities"}
        assert np.float32(one["probability"]) == np.float32(0.91)
        np.testing.assert_array_equal(np.array(one["probabilities"], np.float32), row)  # to the last bit
