"""What /classify and /compare take as a picture and as a query, what they refuse, with which words; and what they answer."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any, Final

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image
from small_models import card_of

from digits.confidence import Confidence
from digits.errors import PictureError
from digits.picture.found import Box, Found
from serving.errors import Kind, RequestError
from serving.protocols.classify import (
    Asked,
    Row,
    check_type,
    read_picture,
    read_query,
    refused_picture,
    write_classified,
    write_compared,
)

PICTURE: Final = bytes(range(256)) * 3 + b"\r\n--not-the-boundary\r\n"
TAKES: Final = ("many", "image", "model")


def form(*parts: tuple[str, bytes], boundary: str = "b", end: bytes = b"--\r\n") -> tuple[bytes, dict[bytes, bytes]]:
    """A multipart body of parts, each a head without its last line's end and contents; and its headers."""
    lines = [b"--" + boundary.encode() + b"\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts]
    body = b"".join(lines) + b"--" + boundary.encode() + end
    return body, {b"content-type": f"multipart/form-data; boundary={boundary}".encode()}


FILE: Final = 'Content-Disposition: form-data; name="file"; filename="7.png"'


def refusal(body: bytes, headers: dict[bytes, bytes], kind: Kind = Kind.MALFORMED) -> str:
    def read() -> None:
        check_type(headers)
        read_picture(body, headers)

    with pytest.raises(RequestError) as refused:
        read()
    assert refused.value.kind is kind
    return str(refused.value)


# The query


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", Asked()),
        ("many=true", Asked(many=True)),
        ("many=false&image=true", Asked(image=True)),
        ("model=torch-conv.onnx", Asked(model="torch-conv.onnx")),
        ("model=a%26b%3Dc", Asked(model="a&b=c")),
        ("model=", Asked(model="")),
    ],
)
def test_a_query_is_read(query: str, asked: Asked) -> None:
    assert read_query(query, *TAKES) == asked


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("mnay=true", "The query has no parameter 'mnay'; it takes many, image and model."),
        ("Many=true", "The query has no parameter 'Many'; it takes many, image and model."),
        ("%0d%0aX=1", "The query has no parameter '\\r\\nX'; it takes many, image and model."),
        ("many=true&many=true", "The parameter many comes twice; send it once."),
        ("model=a&model=b", "The parameter model comes twice; send it once."),
        ("many", "The parameter many takes true or false; got ''."),
        ("many=1", "The parameter many takes true or false; got '1'."),
        ("image=True", "The parameter image takes true or false; got 'True'."),
        ("image=" + "x" * 1000, "The parameter image takes true or false; got 'xxxxxxxxxxxxxxxxxxxx'."),
        ("&".join(["many=true"] * 17), "The query cannot be read; it takes many, image and model."),
        ("model=%ff", "The query cannot be read; it takes many, image and model."),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_query(query, *TAKES)
    assert (refused.value.kind, str(refused.value)) == (Kind.MALFORMED, message)


def test_a_parameter_of_the_other_path_is_unknown() -> None:
    with pytest.raises(RequestError, match="The query has no parameter 'many'; it takes image"):
        read_query("many=true", "image")


# The body


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"content-type": b""},
        {b"content-type": b"image/png"},
        {b"content-type": b"Image/JPEG; charset=utf-8"},
        {b"content-type": b"image/x-anything"},
        {b"content-type": b"application/octet-stream"},
        {b"content-type": b"application/x-www-form-urlencoded"},  # what curl --data-binary says
        {b"content-encoding": b"identity"},
    ],
)
def test_a_raw_body_is_the_picture(headers: dict[bytes, bytes]) -> None:
    check_type(headers)
    assert read_picture(PICTURE, headers) == PICTURE


@pytest.mark.parametrize(
    "name", [b"text/html", b"application/json", b"multipart/mixed; boundary=b", b"application/pdf"]
)
def test_another_content_type_is_refused_before_the_body_is_read(name: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        check_type({b"content-type": name})
    came = name.partition(b";")[0].decode()
    assert refused.value.kind is Kind.MEDIA_TYPE
    assert str(refused.value) == (
        f"Expected a picture: its bytes as image/png or the like, or one file in multipart/form-data; got {came!r}."
    )


def test_json_is_taken_where_it_may_come() -> None:
    check_type({b"content-type": b"application/json"}, json=True)
    with pytest.raises(RequestError, match="or application/json with one image; got 'text/html'"):
        check_type({b"content-type": b"text/html"}, json=True)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(RequestError, match="must not be compressed") as refused:
        check_type({b"content-type": b"image/png", b"content-encoding": b"gzip"})
    assert refused.value.kind is Kind.MEDIA_TYPE


def test_an_empty_body_is_no_picture() -> None:
    assert refusal(b"", {}) == "The picture is empty: 0 bytes came. Send a file's bytes."
    assert refusal(*form((FILE, b""))) == "The picture is empty: 0 bytes came. Send a file's bytes."


# Forms


@pytest.mark.parametrize(
    "head",
    [
        FILE,
        FILE + "\r\nContent-Type: image/png",  # curl -F, browsers, requests
        'Content-Disposition: form-data; name=""; filename=""',
        "content-disposition: form-data; filename=x",
        'Content-Disposition: form-data; name="a"; filename="../../etc/passwd"; filename*=UTF-8\'\'%0d%0a',
        'Content-Disposition: form-data; name="a"; filename="a\\";b.png"\r\nContent-Transfer-Encoding: Binary',
    ],
)
def test_the_one_file_of_a_form_is_the_picture_whatever_it_is_called(head: str) -> None:
    body, headers = form((head, PICTURE))
    check_type(headers)
    assert read_picture(body, headers) == PICTURE


def test_what_httpx_sends_is_read() -> None:
    request = httpx.Request("POST", "http://x/classify", files={"file": PICTURE})
    headers = {name.lower(): value for name, value in request.headers.raw}
    assert read_picture(request.read(), headers) == PICTURE


@pytest.mark.parametrize("boundary", ["b", "-" * 40 + "0123456789abcdef", "'()+_,-./:=?", "x" * 70])
def test_a_boundary_may_be_quoted(boundary: str) -> None:
    body, _ = form((FILE, PICTURE), boundary=boundary)
    assert read_picture(body, {b"content-type": f'multipart/form-data; boundary="{boundary}"'.encode()}) == PICTURE


def test_a_text_before_the_first_part_is_no_part() -> None:
    body, headers = form((FILE, PICTURE))
    assert read_picture(b"\r\n" + body, headers) == PICTURE


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "The form has no file; with curl: -F file=@picture.png"),
        ([(FILE, b"1"), (FILE, b"2")], "The form has more than one file; send one picture in each request."),
        (
            [('Content-Disposition: form-data; name="many"', b"true"), (FILE, b"1")],
            "The form has a field 'many' that is no file; send the picture alone. many, image and model go into the "
            "query; with curl: -F file=@picture.png, with the @.",
        ),
        (
            [('Content-Disposition: form-data; name="' + "x" * 1000 + '"', b"")],
            "The form has a field 'xxxxxxxxxxxxxxxxxxxx' that is no file; send the picture alone. many, image and model go "
            "into the query; with curl: -F file=@picture.png, with the @.",
        ),
        ([("Content-Type: image/png", b"1")], "Each part of a form needs a header Content-Disposition: form-data."),
        (
            [('Content-Disposition: attachment; filename="a"', b"1")],
            "Each part of a form needs a header Content-Disposition: form-data.",
        ),
        ([(f"{FILE}\r\n{FILE}", b"1")], "A part of the form has a header twice."),
        (
            [(FILE + "\r\nContent-Transfer-Encoding: base64", b"MQ==")],
            "The file in the form must be sent as it is, not encoded (RFC 7578, 4.7).",
        ),
        ([("\r\n".join([FILE, *(f"X-{i}: 1" for i in range(100))]), b"1")], "The body is not multipart/form-data"),
        ([(FILE + "\r\nX: " + "x" * 100_000, b"1")], "The body is not multipart/form-data"),
    ],
)
def test_a_form_that_is_not_one_file_is_refused(parts: list[tuple[str, bytes]], message: str) -> None:
    assert refusal(*form(*parts)).startswith(message)


def test_a_form_that_ends_too_soon_is_refused() -> None:
    body, headers = form((FILE, PICTURE))
    whole = body.removesuffix(b"--\r\n")  # after which another part may come
    for length in (len(whole), len(whole) - 1, len(whole) // 2):
        assert refusal(body[:length], headers).startswith("The form does not end with its boundary")


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        (b"multipart/form-data", "multipart/form-data needs a boundary of 1 to 70 characters"),
        (b"multipart/form-data; boundary=", "multipart/form-data needs a boundary of 1 to 70 characters"),
        (b"multipart/form-data; boundary=" + b"x" * 71, "multipart/form-data needs a boundary of 1 to 70 characters"),
        (b"multipart/form-data; boundary=c", "The body is not multipart/form-data with the boundary"),
    ],
)
def test_a_boundary_that_is_missing_too_long_or_another_is_refused(content_type: bytes, message: str) -> None:
    assert refusal(form((FILE, PICTURE))[0], {b"content-type": content_type}).startswith(message)


@pytest.mark.parametrize("place", range(0, 120, 7))
def test_a_form_with_one_byte_changed_gives_a_picture_or_is_refused(place: int) -> None:
    body, headers = form((FILE, PICTURE))
    for byte in (0, 10, 13, 34, 45, 255):
        changed = bytearray(body)
        changed[place] = byte
        with contextlib.suppress(RequestError):
            assert len(read_picture(bytes(changed), headers)) > 0


def test_a_form_of_nothing_but_boundaries_is_refused_soon() -> None:
    assert refusal(b"--b\r\n" * 100_000, {b"content-type": b"multipart/form-data; boundary=b"})


# What is wrong with a picture


def test_each_fault_of_a_picture_has_its_kind() -> None:
    assert refused_picture(PictureError("many", too_large=True), {}).kind is Kind.TOO_LARGE
    assert refused_picture(PictureError("none", unknown=True), {}).kind is Kind.MEDIA_TYPE
    assert refused_picture(PictureError("blank"), {}).kind is Kind.MALFORMED


def test_who_sent_text_with_curl_is_told_how_to_send_a_file() -> None:
    curls = {b"content-type": b"application/x-www-form-urlencoded"}
    said = str(refused_picture(PictureError("It is none.", unknown=True), curls))
    assert said == (
        "It is none. With curl: --data-binary @picture.png, not -d, which changes the bytes; or -F file=@picture.png."
    )
    assert str(refused_picture(PictureError("It is none.", unknown=True), {})) == "It is none."


# The answers

SURE: Final = np.array([[0.991, *[0.001] * 9], [0.3, 0.4, *[0.0375] * 8]], np.float32)


def found(number: int) -> list[Found]:
    return [Found(np.full((28, 28), i, np.uint8), Box(i, 1, 2, 3)) for i in range(number)]


def confidence(*, temperature: float = 1.0, threshold: float = 0.9) -> Confidence:
    return Confidence(temperature=temperature, threshold=threshold, held_out=1, accepted=1, accepted_correct=1, total=1)


def classified(**more: Any) -> dict[str, Any]:
    card = replace(card_of(), confidence=more.pop("confidence", None))
    answer = write_classified(
        found(2), SURE, model="torch-conv:a", backend="onnx", card=card, image=more.pop("image", False)
    )
    document: dict[str, Any] = orjson.loads(answer)
    return document


def test_an_answer_has_each_digit_with_its_box_and_probabilities() -> None:
    answer = classified()
    assert answer.keys() == {"model", "backend", "predictions"}
    assert (answer["model"], answer["backend"]) == ("torch-conv:a", "onnx")
    first, second = answer["predictions"]
    assert first.keys() == {"digit", "sure", "probability", "probabilities", "box"}
    assert (first["digit"], first["box"], second["digit"], second["box"]) == (0, [0, 1, 2, 3], 1, [1, 1, 2, 3])
    np.testing.assert_array_equal(np.array(second["probabilities"], np.float32), SURE[1])
    assert np.float32(first["probability"]) == SURE[0, 0]


def test_a_model_whose_card_does_not_say_when_to_believe_it_is_neither_sure_nor_unsure() -> None:
    assert [one["sure"] for one in classified()["predictions"]] == [None, None]


def test_below_the_card_s_threshold_no_digit_is_to_be_believed_and_one_is_named_all_the_same() -> None:
    predictions = classified(confidence=confidence())["predictions"]
    assert [(one["digit"], one["sure"]) for one in predictions] == [(0, True), (1, False)]


def test_probabilities_are_those_of_the_card_s_temperature_and_so_is_what_is_sure() -> None:
    warm = classified(confidence=confidence(temperature=4))["predictions"]
    logits = np.log(SURE[0].astype(float)) / 4
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(warm[0]["probabilities"], expected, rtol=1e-5)
    assert warm[0]["probability"] == pytest.approx(expected[0], rel=1e-5)
    assert [(one["digit"], one["sure"]) for one in warm] == [(0, False), (1, False)]


def test_on_request_the_answer_shows_what_the_model_saw() -> None:
    predictions = classified(image=True)["predictions"]
    np.testing.assert_array_equal(predictions[1]["image"], np.ones((28, 28)))


def test_a_comparison_has_a_row_for_each_model_in_order() -> None:
    rows = [
        Row("a:1", "a", "onnx", card_of(), SURE[:1], 50_000, 0.9743),
        Row("b:2", "b", "numpy", replace(card_of(), confidence=confidence()), SURE[1:], 120_000, 0.5),
    ]
    image = np.ones((28, 28), np.uint8)
    answer = orjson.loads(write_compared(image, Box(1, 2, 3, 4), rows, show=True))
    assert answer.keys() == {"image", "box", "answers", "note"}
    assert answer["image"] == image.tolist()
    assert answer["box"] == [1, 2, 3, 4]
    first, second = answer["answers"]
    assert first.keys() == {
        *("model", "recipe", "backend", "digit", "sure", "probability", "probabilities", "run_ms", "accuracy")
    }
    assert (first["model"], first["recipe"], first["backend"], first["digit"]) == ("a:1", "a", "onnx", 0)
    assert (first["run_ms"], first["accuracy"], first["sure"]) == (0.05, 0.9743, None)
    assert (second["model"], second["digit"], second["sure"], second["run_ms"]) == ("b:2", 1, False, 0.12)
    assert answer["note"] == "asked one after another"
    bare = orjson.loads(write_compared(image, None, rows, show=False))
    assert bare["box"] is None
    assert "image" not in bare


def test_a_picture_of_every_format_is_the_same_file_in_a_form_and_raw() -> None:
    for kind in ("PNG", "JPEG", "GIF"):
        file = io.BytesIO()
        Image.new("L", (40, 40), 128).save(file, kind)
        body, headers = form((FILE, file.getvalue()))
        assert read_picture(body, headers) == file.getvalue()
