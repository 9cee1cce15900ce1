"""The JSON of /predict: a request's bytes to images, probabilities to an answer's bytes. Every refusal says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from digits.contract import SIDE, Backend, Images, Probabilities
from serving.errors import malformed
from serving.protocols.pixels import EXPECTED, first_fault, has_booleans, join_pixels, kind_of


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
        raise malformed(f"The body is not valid JSON: {error}. (JSON has no NaN and no Infinity.)") from error
    if not isinstance(document, dict):
        raise malformed(f'The body must be a JSON object like {{"images": [...]}}; got {kind_of(document)}.')
    unknown = sorted(document.keys() - {"images", "model"})
    if unknown:
        raise malformed(f"Unknown field {unknown[0][:20]!r}; a request has images, and model if you want to choose.")
    if "images" not in document:
        raise malformed(f"The field images is missing. {EXPECTED}.")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise malformed(f"model must be a string, recipe or recipe:version; got {kind_of(model)}.")
    images = _images(document["images"], max_images, booleans=has_booleans(body))
    return PredictRequest(images=images, model=model)


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
        raise malformed(f"images must be a list. {EXPECTED}; got {kind_of(value)}.")
    if not value:
        raise malformed(f"images is empty. {EXPECTED}, with N at least 1.")
    if len(value) > max_images:
        raise malformed(f"Too many images: at most {max_images} in one request, got {len(value)}.")
    pixels = join_pixels(value)
    if pixels is None or (booleans and first_fault(value)):
        raise malformed(f"{EXPECTED}; {first_fault(value)}.")
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE)
