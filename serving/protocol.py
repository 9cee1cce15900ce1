"""The JSON of /predict: a request's bytes to images, probabilities to an answer's bytes. Every refusal says why."""

from __future__ import annotations

from dataclasses import dataclass
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
        raise RequestError(400, f'The body must be a JSON object like {{"images": [...]}}; got {_kind(document)}.')
    unknown = sorted(document.keys() - {"images", "model"})
    if unknown:
        raise RequestError(400, f"Unknown field {unknown[0]!r}; a request has images, and model if you want to choose.")
    if "images" not in document:
        raise RequestError(400, f"The field images is missing. {EXPECTED}.")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(400, f"model must be a string, recipe or recipe:version; got {_kind(model)}.")
    return PredictRequest(images=_images(document["images"], max_images), model=model)


def write_answer(probabilities: Probabilities, *, model: str, backend: Backend | str) -> bytes:
    """The answer to images with these probabilities `[N, 10]`."""
    digits = probabilities.argmax(axis=1)
    predictions = [
        {"digit": digit, "probability": row[digit], "probabilities": row}
        for digit, row in zip(digits.tolist(), probabilities.tolist(), strict=True)
    ]
    return orjson.dumps({"model": model, "backend": backend, "predictions": predictions})


def _images(value: Any, max_images: int) -> Images:
    if not isinstance(value, list):
        raise RequestError(400, f"images must be a list. {EXPECTED}; got {_kind(value)}.")
    if not value:
        raise RequestError(400, f"images is empty. {EXPECTED}, with N at least 1.")
    if len(value) > max_images:
        raise RequestError(400, f"Too many images: at most {max_images} in one request, got {len(value)}.")
    try:
        pixels = np.array(value)
    except ValueError as error:  # numpy names the depth at which lengths differ, not where
        raise RequestError(400, f"images is ragged: {_ragged(value)}. {EXPECTED}.") from error
    if pixels.dtype.kind not in "iu":
        raise RequestError(400, f"{EXPECTED}; got {_odd_pixel(value)}.")
    if pixels.ndim != 3 or pixels.shape[1:] != (SIDE, SIDE):
        shape = " x ".join(str(length) for length in pixels.shape)
        hint = " For one image, send a list with that image in it." if pixels.shape == (SIDE, SIDE) else ""
        raise RequestError(400, f"{EXPECTED}; got a list of shape {shape}.{hint}")
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 255:
        raise RequestError(400, f"{EXPECTED}; got the integer {low if low < 0 else high}.")
    return pixels.astype(np.uint8)


def _ragged(images: list[Any]) -> str:
    """Where the first list of another length is."""
    for i, image in enumerate(images):
        if not isinstance(image, list) or len(image) != SIDE:
            return f"image {i} has {_length(image)}"
        for j, row in enumerate(image):
            if not isinstance(row, list) or len(row) != SIDE:
                return f"row {j} of image {i} has {_length(row)}"
            for k, pixel in enumerate(row):
                if isinstance(pixel, list | dict):
                    return f"pixel {k} of row {j} of image {i} is {_kind(pixel)}"
    return "its lists have different lengths"


def _length(value: Any) -> str:
    return f"{len(value)} entries in place of {SIDE}" if isinstance(value, list) else f"{_kind(value)} in its place"


def _odd_pixel(value: Any) -> str:
    """The first thing that is no integer."""
    if isinstance(value, list):
        return next((found for item in value if (found := _odd_pixel(item))), "")
    if isinstance(value, float):
        hint = "; pixels from 0 to 1 must be multiplied by 255 and rounded" if 0 <= value <= 1 else ""
        return f"the fraction {value}{hint}"
    if isinstance(value, int) and not isinstance(value, bool):
        return "" if -(2**63) <= value < 2**63 else f"the integer {value}"
    return _kind(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:20]!r}" + ("..." if len(value) > 20 else "")
    return {list: "a list", dict: "an object"}.get(type(value), f"the number {value}")
