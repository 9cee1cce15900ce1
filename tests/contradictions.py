"""What schemathesis cannot know from the OpenAPI document: which models there are, and what JSON Schema cannot say.

Loaded by schemathesis, which tests/test_openapi.py runs. It changes what was generated as far as that was right; what was made
wrong on purpose stays wrong.
"""

from __future__ import annotations

import copy
import io
import os
from itertools import count
from typing import Any, Final

import schemathesis
from hypothesis import strategies
from PIL import Image, ImageDraw
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.transport.serialization import Binary

from serving.protocols.classify import IMAGE_TYPES

PIXELS: Final = 784
SECOND_US: Final = 1_000_000
MODEL: Final = os.environ["CONTRADICTIONS_MODEL"]  # recipe.backend:version, which is served
SPARE: Final = os.environ["CONTRADICTIONS_SPARE"]  # recipe.backend, which is loaded and unloaded
NOTHING: Final = "nothing.onnx"


def _picture() -> bytes:
    picture = Image.new("L", (60, 80), 255)
    ImageDraw.Draw(picture).line([(20, 15), (42, 15), (28, 65)], fill=0, width=6)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


PICTURE: Final = _picture()
# Files with a digit in them, where schemathesis would send any bytes, or a blank picture.
schemathesis.openapi.format("binary", strategies.just(Binary(PICTURE)))
for _type in IMAGE_TYPES:
    schemathesis.openapi.media_type(_type, strategies.just(PICTURE))
_cases = count()


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    name, _, version = MODEL.partition(":")
    recipe, _, backend = name.partition(".")
    path = case.operation.path
    known = next(_cases) % 4 != 0  # a quarter asks for what there is not
    right = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    if case.path_parameters and (right or not case.meta.is_negative_at(ParameterLocation.PATH)):
        if path.startswith("/v2/repository"):  # schemathesis would take names from answers, and unload them
            case.path_parameters = {"model": SPARE if known else NOTHING}
        elif known:
            served = {"model": name, "version": version, "backend": backend, "file": "index.html"}
            case.path_parameters = {parameter: served[parameter] for parameter in case.path_parameters}
    if path.startswith("/predict") and known and right and isinstance(case.body, dict) and case.body.get("model"):
        case.body = {**case.body, "model": recipe}
    if path == "/classify" and known and right and "model" in (case.query or {}):
        case.query = {**case.query, "model": recipe}
    if path.endswith("/infer"):
        _make_consistent(case, right)


def _make_consistent(case: Any, right: bool) -> None:
    """The shape says how many pixels there are, the header how long the JSON is, and nothing waits too short."""
    if case.media_type == "application/octet-stream":
        if right:
            case.headers = {**(case.headers or {}), "Inference-Header-Content-Length": "0"}
            case.body = bytes(PIXELS * (1 + next(_cases) % 3))
        return
    if right and case.headers:
        case.headers.pop("Inference-Header-Content-Length", None)
    body = copy.deepcopy(case.body)
    if not isinstance(body, dict):
        return
    parameters = body.get("parameters")
    if isinstance(parameters, dict):
        timeout_us = parameters.get("timeout")
        if type(timeout_us) is int and 0 < timeout_us < SECOND_US:
            parameters["timeout"] = timeout_us + SECOND_US
    inputs = body.get("inputs")
    tensor = inputs[0] if isinstance(inputs, list) and inputs else None
    if isinstance(tensor, dict) and _is_shape(tensor.get("shape")) and isinstance(tensor.get("data"), list):
        data = tensor["data"]
        if data and not isinstance(data[0], list):
            tensor["data"] = data = data[: len(data) - len(data) % PIXELS] if len(data) >= PIXELS else data
            tensor["shape"] = [max(1, len(data) // PIXELS), 28, 28]
        else:
            tensor["shape"] = [max(1, len(data)), 28, 28]
    case.body = body


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size >= 1 for size in shape)
