"""The door's paths in OpenAPI's words."""

from __future__ import annotations

from typing import Any, Final

from digits.contract import BACKENDS, CLASSES, SIDE

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
_ERROR: Final = {"type": "object", "properties": {"error": {"type": "string"}}}
_ERRORS: Final = {
    "400": "Malformed JSON, or images of another shape, depth or kind",
    "404": "No such backend or model is served; the message names those that are",
    "413": "The body is too long",
    "415": "The content type is not application/json",
    "501": "The backend is not installed; the message says how to install it",
}


def add_paths(document: dict[str, Any]) -> dict[str, Any]:
    """`document`, BentoML's own, with the door's paths before its others."""
    ours = {f"/predict/{backend}": _post(f"Digits by {backend}") for backend in BACKENDS}
    ours["/echo"] = _post("The same without a model: every probability is 0.1. Measures what the door costs")
    ours["/models"] = {
        "get": {
            "summary": "What is served, with the stored accuracy and card",
            "tags": ["Samedigit"],
            "responses": {"200": _json("The served models", {"type": "object"})},
        }
    }
    return {**document, "paths": {**ours, **document["paths"]}}


def _post(summary: str) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "tags": ["Samedigit"],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}}},
            "responses": {
                "200": _json("One prediction for each image, in order", _ANSWER),
                **{status: _json(description, _ERROR) for status, description in _ERRORS.items()},
            },
        }
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
