"""The JSON of /predict: a request's bytes to images, probabilities to an answer's bytes. Every refusal says why."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from digits.contract import SIDE, Backend, Images, Probabilities
from digits.errors import RequestError

EXPECTED = f"Expected N x {SIDE} x {SIDE} integers from 0 to 255"


@dataclass(frozen=True)
class PredictRequest:
    images: Images  # [N, 28, 28]
    model: str | None


def read_request(body: bytes | bytearray, *, max_images: int) -> PredictRequest:
    """The request of `{"images": [[[0, ...], ...], ...], "model": "recipe"}`.

    Raises:
        RequestError: 400, with what was expected and what came.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"The body is not valid JSON: {error}. (JSON has no NaN and no Infinity.)") from error
    if not isinstance(document, dict):
        raise RequestError(400, f'The body must be a JSON object like {{"images": [...]}}; got {kind_of(document)}.')
    unknown = sorted(document.keys() - {"images", "model"})
    if unknown:
        raise RequestError(400, f"Unknown field {unknown[0]!r}; a request has images, and model if you want to choose.")
    if "images" not in document:
        raise RequestError(400, f"The field images is missing. {EXPECTED}.")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(400, f"model must be a string, recipe or recipe:version; got {kind_of(model)}.")
    booleans = b"true" in body or b"false" in body
    return PredictRequest(images=_images(document["images"], max_images, booleans=booleans), model=model)


def write_answer(probabilities: Probabilities, *, model: str, backend: Backend | str) -> bytes:
    """The answer to images with these probabilities `[N, 10]`."""
    digits = probabilities.argmax(axis=1)
    predictions = [
        {"digit": digit, "probability": row[digit], "probabilities": row}
        for digit, row in zip(digits.tolist(), probabilities.tolist(), strict=True)
    ]
    return orjson.dumps({"model": model, "backend": backend, "predictions": predictions})


def _images(value: Any, max_images: int, *, booleans: bool) -> Images:
    """The images, once they are known to be exactly that.

    Args:
        value: of the field images.
        max_images: in one request.
        booleans: whether a true or false came anywhere, which `join_pixels` would take for 1 and 0.
    """
    if not isinstance(value, list):
        raise RequestError(400, f"images must be a list. {EXPECTED}; got {kind_of(value)}.")
    if not value:
        raise RequestError(400, f"images is empty. {EXPECTED}, with N at least 1.")
    if len(value) > max_images:
        raise RequestError(400, f"Too many images: at most {max_images} in one request, got {len(value)}.")
    pixels = join_pixels(value)
    if pixels is None or (booleans and first_fault(value)):
        raise RequestError(400, f"{EXPECTED}; {first_fault(value)}.")
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE)


def join_pixels(images: list[Any]) -> bytearray | None:
    """Every pixel in order, or None where something is wrong.

    `bytes` takes nothing but integers from 0 to 255, in half the time of `np.array`, which guesses a type: among strings,
    one long one would make every entry as long.
    """
    try:
        rows = list(chain.from_iterable(images))
        # len refuses a number, from which bytes would make as many zeros.
        if set(map(len, images)) != {SIDE} or set(map(len, rows)) != {SIDE}:
            return None
        return bytearray().join(map(bytes, rows))
    except (TypeError, ValueError):
        return None


def first_fault(images: list[Any]) -> str:
    """The first thing that is wrong, and where; empty if nothing is."""
    for i, image in enumerate(images):
        if not isinstance(image, list) or len(image) != SIDE:
            return f"image {i} is {_entries(image)}"
        for j, row in enumerate(image):
            if not isinstance(row, list) or len(row) != SIDE:
                one = len(images) == SIDE and isinstance(row, int | float)
                hint = ". For one image, send a list with that image in it" if one else ""
                return f"row {j} of image {i} is {_entries(row)}{hint}"
            for k, pixel in enumerate(row):
                if type(pixel) is not int or not 0 <= pixel <= 255:
                    fraction = isinstance(pixel, float) and 0 <= pixel <= 1
                    hint = "; pixels from 0 to 1 must be multiplied by 255 and rounded" if fraction else ""
                    return f"pixel {k} of row {j} of image {i} is {kind_of(pixel)}{hint}"
    return ""


def _entries(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:20]!r}" + ("..." if len(value) > 20 else "")
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f"the number {value}"
