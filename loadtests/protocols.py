"""The four ways to ask for a digit: an image to a request's body, and an answer to its digit, checked.

    predict      POST /predict/{backend}                     JSON
    grpc         ModelInfer                                  the Open Inference Protocol over gRPC: raw pixels, raw numbers
    v2-json      POST /v2/models/{recipe}.{backend}/infer    the same over HTTP, in JSON
    v2-binary    the same                                    its binary tensors: raw pixels, raw numbers

Each asks for the same: ten probabilities, and the digit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import orjson

from digits.contract import CLASSES, SIDE
from serving.errors import RequestError
from serving.protocols import protos
from serving.protocols.v2_grpc import RESPONSE

ProtocolName = Literal["predict", "grpc", "v2-json", "v2-binary"]
Image = npt.NDArray[np.uint8]  # [28, 28]
CALL: Final = "/inference.GRPCInferenceService/ModelInfer"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class WrongAnswer(Exception):
    """An answer that is no prediction, whatever its digit."""


@dataclass(frozen=True)
class Protocol:
    on_data_plane: bool  # its port; otherwise BentoML's
    path: Callable[
        [str, str], str
    ]  # of a recipe through a backend; of gRPC the method's, and the model that its message names
    echo_path: str  # of the door without a model
    headers: dict[str, str]
    write: Callable[[Image], bytes]  # of gRPC the message's raw contents alone
    read: Callable[[bytes, Mapping[str, str]], int]  # body and headers of an answer to its digit, or WrongAnswer
    is_call: bool = False  # of gRPC, over HTTP/2


def _write_predict(image: Image) -> bytes:
    return b'{"images":[' + orjson.dumps(image, option=orjson.OPT_SERIALIZE_NUMPY) + b"]}"


def _read_predict(body: bytes, _: Mapping[str, str]) -> int:
    try:
        (prediction,) = orjson.loads(body)["predictions"]
        digit, probability, probabilities = (prediction[key] for key in ("digit", "probability", "probabilities"))
        _check(digit, probabilities)
        if probability != probabilities[digit]:
            raise WrongAnswer(f"digit {digit} with probability {probability} is not the most probable: {probabilities}")
    except (KeyError, TypeError, ValueError) as error:
        _not_one_prediction(body, error)
    return int(digit)


def _write_v2_json(image: Image) -> bytes:
    pixels = orjson.dumps(image.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    return b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,%d,%d],"data":%b}]}' % (SIDE, SIDE, pixels)


def _read_v2_json(body: bytes, _: Mapping[str, str]) -> int:
    try:
        outputs = orjson.loads(body)["outputs"]
        (probabilities, digits) = (_only(outputs, *expected)["data"] for expected in _OUTPUTS)
        (digit,) = digits
        _check(digit, probabilities)
    except (KeyError, TypeError, ValueError) as error:
        _not_one_prediction(body, error)
    return int(digit)


def _read_grpc(message: bytes, _: Mapping[str, str]) -> int:
    try:
        response = protos.read(RESPONSE, message)
        outputs = [
            {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
            for output in response.outputs
        ]
        for expected in _OUTPUTS:
            _only(outputs, *expected)
        raw = dict(zip((output["name"] for output in outputs), response.raw_output_contents, strict=True))
        return _read_raw(raw)
    except (KeyError, TypeError, ValueError, struct.error, RequestError) as error:
        _not_one_prediction(message, error)


_BINARY_HEAD: Final = orjson.dumps(
    {
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [1, SIDE, SIDE],
                "parameters": {"binary_data_size": SIDE * SIDE},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
)


def _write_v2_binary(image: Image) -> bytes:
    return _BINARY_HEAD + image.tobytes()


def _read_v2_binary(body: bytes, headers: Mapping[str, str]) -> int:
    try:
        start = int(headers[HEADER_LENGTH])
        outputs = orjson.loads(body[:start])["outputs"]
        raw = {}
        for output in outputs:
            size = output["parameters"]["binary_data_size"]
            raw[output["name"]] = body[start : start + size]
            start += size
        for expected in _OUTPUTS:
            _only(outputs, *expected)
        if start != len(body):
            raise WrongAnswer(f"the tensors' sizes add up to {start} bytes with the JSON, but the body has {len(body)}")
        return _read_raw(raw)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        _not_one_prediction(body, error)


def _read_raw(raw: Mapping[str, bytes]) -> int:
    """The digit of the raw outputs."""
    probabilities = struct.unpack(f"<{CLASSES}f", raw["probabilities"])
    (digit,) = struct.unpack("<q", raw["digits"])
    _check(digit, probabilities)
    return int(digit)


_OUTPUTS: Final = (("probabilities", "FP32", [1, CLASSES]), ("digits", "INT64", [1]))


def _only(outputs: Sequence[Mapping[str, Any]], name: str, datatype: str, shape: list[int]) -> Mapping[str, Any]:
    """The one output of that name."""
    (output,) = (output for output in outputs if output["name"] == name)
    if len(outputs) != len(_OUTPUTS) or output["datatype"] != datatype or output["shape"] != shape:
        raise WrongAnswer(f"not {name} as {datatype} {shape} among {len(_OUTPUTS)} outputs: {outputs}")
    return output


def _check(digit: Any, probabilities: Sequence[float]) -> None:
    # NaN is neither smaller nor larger than anything, so what must hold is asked, not what must not.
    if len(probabilities) != CLASSES or not abs(sum(probabilities) - 1) < 1e-4:
        raise WrongAnswer(f"not {CLASSES} probabilities that add up to 1: {probabilities}")
    if type(digit) is not int or not 0 <= digit < CLASSES or not probabilities[digit] >= max(probabilities):
        raise WrongAnswer(f"digit {digit} is not the most probable: {probabilities}")


def _not_one_prediction(body: bytes, cause: Exception) -> NoReturn:
    raise WrongAnswer(f"not one prediction: {body[:200]!r}") from cause


_JSON: Final = {"Content-Type": "application/json"}

PROTOCOLS: Final[dict[ProtocolName, Protocol]] = {
    "predict": Protocol(
        on_data_plane=False,
        path=lambda recipe, backend: f"/predict/{backend}",
        echo_path="/echo",
        headers=_JSON,
        write=_write_predict,
        read=_read_predict,
    ),
    "grpc": Protocol(
        on_data_plane=True,
        path=lambda recipe, backend: f"{CALL}/{recipe}.{backend}",
        echo_path=f"{CALL}/echo",
        headers={"content-type": "application/grpc", "te": "trailers"},
        write=lambda image: image.tobytes(),
        read=_read_grpc,
        is_call=True,
    ),
    "v2-json": Protocol(
        on_data_plane=True,
        path=lambda recipe, backend: f"/v2/models/{recipe}.{backend}/infer",
        echo_path="/v2/models/echo/infer",
        headers=_JSON,
        write=_write_v2_json,
        read=_read_v2_json,
    ),
    "v2-binary": Protocol(
        on_data_plane=True,
        path=lambda recipe, backend: f"/v2/models/{recipe}.{backend}/infer",
        echo_path="/v2/models/echo/infer",
        headers={"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(_BINARY_HEAD))},
        write=_write_v2_binary,
        read=_read_v2_binary,
    ),
}
