"""The Open Inference Protocol, version 2: bytes to a request, predictions to bytes. Every refusal says why.

JSON, and the binary tensor extension, where raw tensors follow the JSON in the body.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from digits.contract import CLASSES, PIXELS, SIDE, Images, Probabilities
from serving.errors import RequestError, malformed
from serving.protocols.pixels import EXPECTED, first_fault, has_booleans, join_pixels, kind_of

INPUT: Final = {"name": "images", "datatype": "UINT8", "shape": [-1, SIDE, SIDE]}
OUTPUTS: Final = (
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
    {"name": "digits", "datatype": "INT64", "shape": [-1]},
)
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "statistics")
HEADER_LENGTH: Final = b"inference-header-content-length"

MAX_REMEMBERED_BYTES: Final = 1024  # of the JSON before raw images

Outputs = tuple[tuple[str, bool], ...]  # name, binary

# Of an output: its datatype, and the shape and bytes of one image's part.
FORMS: Final = {"probabilities": ("FP32", (CLASSES,), 4 * CLASSES), "digits": ("INT64", (), 8)}
_ALL_JSON: Final[Outputs] = tuple((name, False) for name in FORMS)
ALL_BINARY: Final[Outputs] = tuple((name, True) for name in FORMS)


class InferRequest(NamedTuple):
    images: Images  # [N, 28, 28]
    id: str | None
    outputs: Outputs
    timeout_us: int  # 0: the server's own


class _Head(NamedTuple):
    """What a request's JSON says."""

    id: str | None
    outputs: Outputs
    timeout_us: int
    number: int  # of images, as the shape says
    data: Any  # the images' own, if they are in the JSON; else None
    booleans: bool  # whether a true or false came anywhere
    raw_bytes: int | None  # the parameter binary_data_size


def read_infer(body: bytes, header_length: bytes | None, *, max_images: int) -> InferRequest:
    """The request of `POST /v2/models/{model}/infer`.

    Args:
        body: JSON, and perhaps the images' raw bytes after it.
        header_length: the HTTP header Inference-Header-Content-Length, the length of that JSON; 0: the body is raw images.
        max_images: in one request.

    Raises:
        RequestError: 400, with what was expected and what came.
    """
    if header_length is None:
        tail = None
        head = _read_head(body, max_images)
    else:
        length = _length(header_length, len(body))
        tail = memoryview(body)[length:]
        if length == 0:
            return InferRequest(_raw_images(tail, max_images), id=None, outputs=ALL_BINARY, timeout_us=0)
        read = _read_again if length <= MAX_REMEMBERED_BYTES else _read_head
        head = read(body[:length], max_images)
    images = _json_images(head, tail) if head.raw_bytes is None else _binary_images(head.raw_bytes, tail, head.number)
    return InferRequest(images, head.id, head.outputs, head.timeout_us)


def write_infer(
    probabilities: Probabilities, request: InferRequest, *, model: str, version: str
) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON if raw tensors follow."""
    number = len(probabilities)
    if request.outputs is ALL_BINARY and request.id is None:  # most requests by far
        head = _head_again(model, version, ALL_BINARY, number)
        return b"".join((head, *(tensor_of(name, probabilities).tobytes() for name in FORMS))), len(head)
    if request.outputs is _ALL_JSON and request.id is None:
        first, second, last = _json_again(model, version, number)
        flat, digits = (
            orjson.dumps(tensor_of(name, probabilities).ravel(), option=orjson.OPT_SERIALIZE_NUMPY) for name in FORMS
        )
        return b"".join((first, flat, second, digits, last)), None
    if any(binary for _, binary in request.outputs):
        tensors = [tensor_of(name, probabilities).tobytes() for name, binary in request.outputs if binary]
        if all(binary for _, binary in request.outputs) and request.id is None:
            head = _head_again(model, version, request.outputs, number)
        else:
            head = _write_head(model, version, request.outputs, number, request.id, probabilities)
        return b"".join((head, *tensors)), len(head)
    return _write_head(model, version, request.outputs, number, request.id, probabilities), None


def _write_head(
    model: str,
    version: str,
    outputs: Outputs,
    number: int,
    identity: str | None = None,
    probabilities: Probabilities | None = None,  # of which those outputs are that are not binary
) -> bytes:
    described: list[dict[str, Any]] = []
    for name, binary in outputs:
        datatype, shape, size = FORMS[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [number, *shape]}
        if binary:
            output["parameters"] = {"binary_data_size": number * size}
        elif probabilities is not None:
            output["data"] = tensor_of(name, probabilities).ravel()
        described.append(output)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if identity is not None:
        document["id"] = identity
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def tensor_of(name: str, probabilities: Probabilities) -> npt.NDArray[Any]:
    tensor: npt.NDArray[Any] = probabilities if name == "probabilities" else probabilities.argmax(axis=1)
    return tensor.astype("<f4" if name == "probabilities" else "<i8", copy=False)


@lru_cache(maxsize=1024)
def _json_again(model: str, version: str, number: int) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and after the data of the two outputs."""
    shapes = b'"shape":[%d,%d]' % (number, CLASSES), b'"shape":[%d]' % number
    # They stand there once each: within a string their quotation marks would be escaped.
    before, rest = _write_head(model, version, _ALL_JSON, number).split(shapes[0] + b"}")
    between, after = rest.split(shapes[1] + b"}")
    return before + shapes[0] + b',"data":', b"}" + between + shapes[1] + b',"data":', b"}" + after


# A client that sends raw images sends the same JSON before them, again and again, and is answered with the same.
_head_again = lru_cache(maxsize=1024)(_write_head)


def _read_head(body: bytes, max_images: int) -> _Head:
    document = _object(body)
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise malformed(f"id must be a string; got {kind_of(identity)}.")
    parameters = _parameters(document, "the request")
    binary = _flag(parameters, "binary_data_output")
    timeout_us = read_timeout(parameters)
    tensor = read_input(document.get("inputs"))
    number = read_shape(tensor.get("shape"), max_images)
    given = _parameters(tensor, "the input images")
    refuse_shared_memory(given)
    raw_bytes = given.get("binary_data_size")
    if "binary_data_size" in given:
        if "data" in tensor:
            raise malformed("The input images has both data and the parameter binary_data_size; send one of them.")
        if type(raw_bytes) is not int or raw_bytes != number * PIXELS:
            raise malformed(
                f"binary_data_size of {number} images is {number} x {PIXELS} = {number * PIXELS}; got {kind_of(raw_bytes)}.",
            )
    elif "data" not in tensor:
        raise malformed("The input images needs data, or the parameter binary_data_size and raw bytes.")
    return _Head(
        id=identity,
        outputs=read_outputs(document.get("outputs"), binary),
        timeout_us=timeout_us,
        number=number,
        data=tensor.get("data"),
        booleans=has_booleans(body),
        raw_bytes=raw_bytes,
    )


_read_again = lru_cache(maxsize=1024)(_read_head)


def _object(body: bytes | memoryview) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(
            f"The request is not valid JSON: {error}. Where raw tensors follow it, the header "
            f"Inference-Header-Content-Length says how long it is.",
        ) from error
    if not isinstance(document, dict):
        raise malformed(f'The request must be a JSON object like {{"inputs": [...]}}; got {kind_of(document)}.')
    return document


def _length(header: bytes, body: int) -> int:
    # isdigit of bytes takes ASCII digits alone.
    if not header.isdigit() or len(header) > 19 or int(header) > body:
        came = header[:20].decode("latin-1")
        raise malformed(
            f"Inference-Header-Content-Length must be from 0 to the body's length, {body}; got {came!r}.",
        )
    return int(header)


def _raw_images(raw: memoryview, max_images: int) -> Images:
    number, left = divmod(len(raw), PIXELS)
    if number == 0 or left:
        raise malformed(f"Expected raw images of {PIXELS} bytes each, at least one; got {len(raw)} bytes.")
    if number > max_images:
        raise _too_many(number, max_images)
    return np.frombuffer(raw, np.uint8).reshape(number, SIDE, SIDE)


# What JSON and gRPC say alike, as JSON's values. Each raises RequestError.


def read_timeout(parameters: dict[str, Any]) -> int:
    """How long a request may wait, in microseconds; 0: as long as the server lets it."""
    timeout_us = parameters.get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise malformed(f"The parameter timeout takes whole microseconds, at least 0; got {kind_of(timeout_us)}.")
    return timeout_us


def refuse_shared_memory(parameters: dict[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise malformed("There is no shared memory here; send the images in the body.")


def read_input(inputs: Any) -> dict[str, Any]:
    """The one input, images."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        came = f"{len(inputs)} inputs" if isinstance(inputs, list) and len(inputs) != 1 else kind_of(inputs)
        raise malformed(f"inputs must be a list of one object, the input images; got {came}.")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != "images":
        raise malformed(f"The model's one input is images; got {kind_of(tensor.get('name'))}.")
    if tensor.get("datatype") != "UINT8":
        raise malformed(f"The datatype of images is UINT8; got {kind_of(tensor.get('datatype'))}.")
    return tensor


def read_shape(shape: Any, max_images: int) -> int:
    """N of the shape [N, 28, 28]."""
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or type(shape[0]) is not int
        or shape[0] < 1
        or shape[1:] != [SIDE, SIDE]
    ):
        came = str(shape) if isinstance(shape, list) else kind_of(shape)
        raise malformed(f"The shape of images is [N, {SIDE}, {SIDE}], N at least 1; got {came[:100]}.")
    number: int = shape[0]
    if number > max_images:
        raise _too_many(number, max_images)
    return number


def _binary_images(size: int, tail: memoryview | None, number: int) -> Images:
    if tail is None:
        raise malformed("Raw images need the header Inference-Header-Content-Length: the length of the JSON.")
    if len(tail) != size:
        raise malformed(f"binary_data_size is {size}, but {len(tail)} bytes follow the JSON.")
    return np.frombuffer(tail, np.uint8).reshape(number, SIDE, SIDE)


def _json_images(head: _Head, tail: memoryview | None) -> Images:
    """The images of `data`, flat or nested."""
    data, number = head.data, head.number
    if tail:
        raise malformed(
            f"{len(tail)} bytes follow the JSON, but the input images has no parameter binary_data_size.",
        )
    if not isinstance(data, list) or not data:
        raise malformed(f"data must be a list of {number * PIXELS} integers, flat or nested; got {kind_of(data)}.")
    if isinstance(data[0], list):
        nested = join_pixels(data)
        if nested is None or (head.booleans and first_fault(data)):
            raise malformed(f"{EXPECTED}; {first_fault(data)}.")
        if len(data) != number:
            raise malformed(f"The shape says {number} images; data has {len(data)}.")
        return np.frombuffer(nested, np.uint8).reshape(number, SIDE, SIDE)
    if len(data) != number * PIXELS:
        raise malformed(f"The shape says {number} x {PIXELS} = {number * PIXELS} pixels; data has {len(data)}.")
    try:
        flat = bytearray(data)
    except (TypeError, ValueError):
        flat = None
    if flat is None or head.booleans:
        for i, pixel in enumerate(data):
            if type(pixel) is not int or not 0 <= pixel <= 255:
                hint = "; pixels from 0 to 1 must be multiplied by 255 and rounded" if type(pixel) is float else ""
                raise malformed(f"data must be integers from 0 to 255; entry {i} is {kind_of(pixel)}{hint}.")
    assert flat is not None  # what `bytearray` refuses, the loop above has found
    return np.frombuffer(flat, np.uint8).reshape(number, SIDE, SIDE)


def read_outputs(outputs: Any, binary: bool) -> Outputs:
    if outputs is None or outputs == []:
        return ALL_BINARY if binary else _ALL_JSON
    if not isinstance(outputs, list):
        raise malformed(f"outputs must be a list of objects with a name; got {kind_of(outputs)}.")
    wanted: dict[str, bool] = {}
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else output
        if not isinstance(output, dict) or not isinstance(name, str) or name not in FORMS:
            raise malformed(f"The model's outputs are {' and '.join(FORMS)}; got {kind_of(name)}.")
        parameters = _parameters(output, f"the output {name}")
        for unsupported in ("classification", "shared_memory_region"):
            if parameters.get(unsupported):
                raise malformed(f"The output parameter {unsupported} is not supported here; leave it out.")
        wanted[name] = _flag(parameters, "binary_data", binary)
    return tuple(wanted.items())


def _parameters(owner: dict[str, Any], whose: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise malformed(f"The parameters of {whose} must be an object; got {kind_of(parameters)}.")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"The parameter {name} takes true or false; got {kind_of(value)}.")
    return value


def _too_many(number: int, max_images: int) -> RequestError:
    return malformed(f"Too many images: at most {max_images} in one request, got {number}.")
