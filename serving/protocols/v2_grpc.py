"""The Open Inference Protocol, version 2, over gRPC: messages to a request, predictions to messages.

What a request means, and what is wrong with it, is said as in JSON (v2.py).

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from digits.contract import PIXELS, SIDE, Images, Probabilities
from serving.errors import RequestError, malformed
from serving.protocols import protos
from serving.protocols.v2 import (
    FORMS,
    Outputs,
    read_input,
    read_outputs,
    read_shape,
    read_timeout,
    refuse_shared_memory,
    tensor_of,
)

INFER: Final = protos.message("inference.ModelInferRequest")
RESPONSE: Final = protos.message("inference.ModelInferResponse")

FEW_BYTES: Final = 65_536  # of which whatever fields there are take little time and room
MAX_FIELDS: Final = 1000  # of a longer message: millions of empty ones would take a second, and 50 times their bytes

_HOLDS_FIELDS: Final = frozenset({5, 6})  # inputs and outputs, which are messages, and may have many parameters

# Field numbers with their wire type, before bytes of a length: 8 * number + 2.
_RAW_INPUT: Final = b"\x3a"
_RAW_OUTPUT: Final = b"\x32"
_ID: Final = b"\x1a"
_STREAMED_ERROR: Final = b"\x0a"
_STREAMED: Final = b"\x12"


class _Head(NamedTuple):
    """What a request says beside its images."""

    model: str
    version: str | None
    id: str
    outputs: Outputs
    timeout_us: int  # 0: the server's own
    number: int  # of images


class InferRequest(NamedTuple):
    images: Images  # [N, 28, 28]
    model: str
    version: str | None  # None: the newest
    id: str  # empty: none
    outputs: Outputs
    timeout_us: int  # 0: the server's own


def read_infer(message: bytes, *, max_images: int) -> InferRequest:
    """The request of a ModelInferRequest.

    Raises:
        RequestError: MALFORMED, with what was expected and what came.
    """
    # Most clients send the same fields again and again, with other raw images behind them, which are the last field. A head
    # that is a message by itself makes another with one more field behind it.
    number = len(message) // PIXELS
    if number:
        at = len(message) - number * PIXELS
        before = _raw_input(number)
        if message.startswith(before, at - len(before)):
            head = _head_again(message[: at - len(before)], max_images)
            if head is not None and head.number == number:
                return _request(head, np.frombuffer(message, np.uint8, offset=at).reshape(number, SIDE, SIDE))
    return read_whole(message, max_images=max_images)


def read_whole(message: bytes, *, max_images: int) -> InferRequest:
    """The same without anything remembered."""
    if len(message) > FEW_BYTES:
        _refuse_many_fields(message)
    request = protos.read(INFER, message)
    head = _read_head(request, max_images)
    return _request(head, _images(request, head.number))


def write_infer(probabilities: Probabilities, request: InferRequest, *, version: str) -> bytes:
    """A ModelInferResponse, whose contents are raw."""
    between = _between(request.model, version, request.outputs, len(probabilities))
    pieces = [between[0]]
    for (name, _), after in zip(request.outputs, between[1:], strict=True):
        pieces += (tensor_of(name, probabilities).tobytes(), after)
    if request.id:
        pieces.append(_field(_ID, request.id.encode()))  # whose place among the fields means nothing
    return b"".join(pieces)


def streamed(response: bytes) -> bytes:
    """A ModelStreamInferResponse with this ModelInferResponse."""
    return _field(_STREAMED, response)


def streamed_error(error: RequestError, identity: str) -> bytes:
    """A ModelStreamInferResponse that refuses the request of this id; empty: it has none."""
    refused = _field(_STREAMED_ERROR, str(error).encode("utf-8", "replace"))
    return refused + _field(_STREAMED, _field(_ID, identity.encode())) if identity else refused


def _request(head: _Head, images: Images) -> InferRequest:
    return InferRequest(images, head.model, head.version, head.id, head.outputs, head.timeout_us)


def _read_head(request: Any, max_images: int) -> _Head:
    tensor = read_input([_tensor(tensor) for tensor in request.inputs])
    number = read_shape(tensor["shape"], max_images)
    refuse_shared_memory(tensor["parameters"])
    timeout_us = read_timeout(_parameters(request.parameters))
    outputs = [{"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs]
    return _Head(
        model=request.model_name,
        version=request.model_version or None,
        id=request.id,
        outputs=read_outputs(outputs, True),
        timeout_us=timeout_us,
        number=number,
    )


@lru_cache(maxsize=1024)
def _head_again(data: bytes, max_images: int) -> _Head | None:
    """Of a message without images; None: it is none, or wrong, of which the whole message will say more."""
    try:
        request = protos.read(INFER, data)
        if request.raw_input_contents or _contents(request):
            return None
        return _read_head(request, max_images)
    except RequestError:
        return None


def _tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape[:50]),
        "parameters": _parameters(tensor.parameters),
    }


def _parameters(parameters: Any) -> dict[str, Any]:
    values = {}
    for name in parameters:
        choice = parameters[name].WhichOneof("parameter_choice")
        values[name] = None if choice is None else getattr(parameters[name], choice)
    values.pop("binary_data", None)  # JSON's: raw is what there is
    return values


def _contents(request: Any) -> list[str]:
    """The fields of the first input's typed contents that have values."""
    return [field.name for field, _ in request.inputs[0].contents.ListFields()] if request.inputs else []


def _images(request: Any, number: int) -> Images:
    """The images of a request whose head is right."""
    raw, fields = request.raw_input_contents, _contents(request)
    size = number * PIXELS
    if raw and fields:
        raise malformed("The input images has both contents and raw_input_contents; send one of them.")
    if raw:
        if len(raw) != 1:
            raise malformed(f"raw_input_contents has one entry, of the input images; got {len(raw)}.")
        if len(raw[0]) != size:
            raise malformed(f"The shape says {number} x {PIXELS} = {size} bytes; raw_input_contents has {len(raw[0])}.")
        return np.frombuffer(raw[0], np.uint8).reshape(number, SIDE, SIDE)
    if not fields:
        raise malformed("The input images needs contents or raw_input_contents.")
    if fields != ["uint_contents"]:
        raise malformed(f"The contents of UINT8 go into uint_contents; got {', '.join(fields)}.")
    pixels = request.inputs[0].contents.uint_contents
    if len(pixels) != size:
        raise malformed(f"The shape says {number} x {PIXELS} = {size} pixels; contents has {len(pixels)}.")
    values = np.array(pixels, np.uint32)
    if values.max() > 255:
        wrong = int((values > 255).argmax())
        raise malformed(f"contents must be integers from 0 to 255; entry {wrong} is the number {values[wrong]}.")
    return values.astype(np.uint8).reshape(number, SIDE, SIDE)


def _refuse_many_fields(message: bytes) -> None:
    """Counts fields, before they are read. https://protobuf.dev/programming-guides/encoding/

    Raises:
        RequestError: MALFORMED, there are more than any request needs.
    """
    spans = [(0, len(message), True)]
    left = MAX_FIELDS
    while spans:
        at, end, outermost = spans.pop()
        while at < end:
            if not left:
                raise malformed(f"A ModelInferRequest of {len(message)} bytes has more than {MAX_FIELDS} fields.")
            left -= 1
            tag, at = _read_varint(message, at)
            match tag & 7:
                case 0:
                    _, at = _read_varint(message, at)
                case 1:
                    at += 8
                case 2:
                    length, at = _read_varint(message, at)
                    if outermost and tag >> 3 in _HOLDS_FIELDS:
                        spans.append((at, min(at + length, end), False))
                    at += length
                case 5:
                    at += 4
                case _:
                    raise malformed(f"The {len(message)} bytes are no {INFER.DESCRIPTOR.full_name}.")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. What is none is left to whoever reads the message."""
    number = shift = 0
    for byte in message[at : at + 10]:
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return number, at


@lru_cache(maxsize=1024)
def _raw_input(number: int) -> bytes:
    """What stands before the raw bytes of so many images."""
    return _RAW_INPUT + _varint(number * PIXELS)


@lru_cache(maxsize=1024)
def _between(model: str, version: str, outputs: Outputs, number: int) -> tuple[bytes, ...]:
    """What stands before, between and after the raw outputs."""
    response = RESPONSE(
        model_name=model,
        model_version=version,
        outputs=[{"name": name, "datatype": FORMS[name][0], "shape": [number, *FORMS[name][1]]} for name, _ in outputs],
    )
    heads = [_RAW_OUTPUT + _varint(number * FORMS[name][2]) for name, _ in outputs]
    return response.SerializeToString() + heads[0], *heads[1:], b""


def _field(tag: bytes, value: bytes) -> bytes:
    return tag + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
