"""The door's paths in OpenAPI's words."""

from __future__ import annotations

from typing import Any, Final

from digits.contract import BACKENDS, CLASSES, PIXELS, SIDE

_IMAGES: Final = {
    "type": "array",
    "minItems": 1,
    "description": f"N x {SIDE} x {SIDE} integers from 0 (background) to 255",
    "items": {
        "type": "array",
        "minItems": SIDE,
        "maxItems": SIDE,
        "items": {
            "type": "array",
            "minItems": SIDE,
            "maxItems": SIDE,
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
    },
}
_REQUEST: Final = {
    "type": "object",
    "required": ["images"],
    "additionalProperties": False,
    "properties": {
        "images": _IMAGES,
        "model": {
            "type": "string",
            "description": "recipe or recipe:version; without it, the most accurate one served",
            "example": "torch-relu",
        },
    },
}
_PREDICTION: Final = {
    "type": "object",
    "properties": {
        "digit": {"type": "integer", "minimum": 0, "maximum": 9},
        "probability": {"type": "number", "description": "of that digit"},
        "probabilities": {
            "type": "array",
            "minItems": CLASSES,
            "maxItems": CLASSES,
            "items": {"type": "number"},
            "description": "of the digits 0 to 9",
        },
    },
}
_ANSWER: Final = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "description": "recipe:version"},
        "backend": {"type": "string"},
        "predictions": {"type": "array", "items": _PREDICTION},
    },
}
_TENSOR: Final = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}, "description": "flat or nested; or raw bytes after the JSON"},
        "parameters": {"type": "object"},
    },
}
_INFER_REQUEST: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        "parameters": {"type": "object"},
    },
    "example": {"inputs": [{"name": "images", "shape": [1, SIDE, SIDE], "datatype": "UINT8", "data": [0] * PIXELS}]},
}
_INFER_ANSWER: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_MODEL: Final = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "recipe.backend",
    "example": "torch-relu.onnx",
    "schema": {"type": "string"},
}
_ERROR: Final = {"type": "object", "properties": {"error": {"type": "string"}}}
_ERRORS: Final = {
    "400": "Malformed JSON, or images of another shape, depth or kind",
    "404": "No such backend or model is served; the message names those that are",
    "413": "The body is too long",
    "415": "The content type is not application/json",
    "501": "The backend is not installed; the message says how to install it",
    "503": "The queue is full, or the request waited too long in it",
}
_PROTOCOL: Final = "Open Inference Protocol, version 2"
_V2: Final = (  # path, method, what it answers
    ("/v2", "get", "The server, and which extensions of the protocol it has"),
    ("/v2/health/live", "get", "Whether the server lives"),
    ("/v2/health/ready", "get", "Whether it answers"),
    ("/v2/models/{model}", "get", "A model's inputs, outputs and versions; with /versions/{version} one of them"),
    ("/v2/models/{model}/ready", "get", "Whether a model is served"),
    ("/v2/models/{model}/stats", "get", "What a model was asked, and where the time went"),
    ("/v2/repository/index", "post", "The models that are served, and those that can be loaded"),
    ("/v2/repository/models/{model}/load", "post", "Serves a stored model, in its promoted or newest version"),
    ("/v2/repository/models/{model}/unload", "post", "Serves it no more"),
)


def add_paths(document: dict[str, Any]) -> dict[str, Any]:
    """`document`, BentoML's own, with the door's paths before its others."""
    ours: dict[str, Any] = {
        f"/predict/{backend}": _post(f"Digits by {backend}", _REQUEST, _ANSWER) for backend in BACKENDS
    }
    echo = "The same without a model: every probability is 0.1. Measures what the door costs"
    ours["/echo"] = _post(echo, _REQUEST, _ANSWER)
    ours["/models"] = {
        "get": {
            "summary": "What is served, with the stored accuracy and card",
            "tags": ["Samedigit"],
            "responses": {"200": _json("The served models", {"type": "object"})},
        }
    }
    infer = _post("Probabilities and digits by a model", _INFER_REQUEST, _INFER_ANSWER, tag=_PROTOCOL)
    ours["/v2/models/{model}/infer"] = {**infer, "parameters": [_MODEL]}
    for path, method, summary in _V2:
        answer = {
            "summary": summary,
            "tags": [_PROTOCOL],
            "responses": {"200": _json("The answer", {"type": "object"})},
        }
        ours[path] = {method: answer} | ({"parameters": [_MODEL]} if "{model}" in path else {})
    return {**document, "paths": {**ours, **document["paths"]}}


def _post(summary: str, request: dict[str, Any], answer: dict[str, Any], *, tag: str = "Samedigit") -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "tags": [tag],
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": {
                "200": _json("One prediction for each image, in order", answer),
                **{status: _json(description, _ERROR) for status, description in _ERRORS.items()},
            },
        }
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
