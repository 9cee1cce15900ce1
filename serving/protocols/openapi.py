"""The OpenAPI document: the table of routes, with what each takes and gives.

JSON Schema cannot say that a tensor has as many pixels as its shape says; the rest of what the server refuses, it says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from digits.contract import BACKENDS, CLASSES, PIXELS, SIDE
from serving.errors import Kind
from serving.messages import STATUS
from serving.protocols.classify import IMAGE_TYPES
from serving.protocols.v2 import EXTENSIONS, INPUT, OUTPUTS
from serving.protocols.v2_control import PLATFORMS, server_version
from serving.routes import ROUTES, Route
from serving.settings import Settings

Schema = dict[str, Any]

VERSION: Final = "3.0.2"  # BentoML's
DIGITS: Final = "Samedigit"
INFERENCE: Final = "Open Inference Protocol, version 2"
OPERATIONS: Final = "Operations"
_DIGITS: Final = ("predict", "echo", "classify", "compare", "models", "page", "examples")
HEADER_LENGTH: Final = "Inference-Header-Content-Length"


def document(settings: Settings, bentomls: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The document of the API port, whose other paths are in `bentomls`, or without that of the data plane."""
    theirs: Mapping[str, Any] = bentomls or {"info": _INFO, "tags": [], "paths": {}, "components": {}}
    ours: dict[str, Any] = {}
    for route in ROUTES:
        ours.setdefault(route.pattern, {})[route.method.lower()] = _operation(route, settings)
    tags = [{"name": DIGITS}, {"name": INFERENCE}, {"name": OPERATIONS}]
    components = dict(theirs["components"])
    components["responses"] = {**components.get("responses", {}), **_REFUSALS}
    components["schemas"] = {**components.get("schemas", {}), "Error": _ERROR, "Image": _IMAGE}
    if _needs_key(settings) or _needs_control_key(settings):
        components["securitySchemes"] = {**components.get("securitySchemes", {}), **_KEYS}
    return {
        **theirs,
        "openapi": theirs.get("openapi", VERSION),
        "servers": _servers(settings, api_port=bentomls is not None),
        "tags": [*tags, *theirs["tags"]],
        "paths": {**theirs["paths"], **ours},
        "components": components,
        # Of BentoML's own paths too.
        **({"security": _ANY_KEY} if _needs_key(settings) else {}),
    }


def _servers(settings: Settings, *, api_port: bool) -> list[dict[str, Any]]:
    here = {"url": ".", "description": "This port"}
    if not api_port:
        return [here]
    scheme = "http" if settings.tls_certificate is None else "https"
    data_plane = {
        "url": f"{scheme}://{{host}}:{settings.data_port}",
        "description": "The data plane: the same without what BentoML adds, where the server's network lets you reach it",
        "variables": {"host": {"default": "localhost"}},
    }
    return [here, data_plane]


def _needs_key(settings: Settings) -> bool:
    return bool(settings.keys) or settings.keys_file is not None


def _needs_control_key(settings: Settings) -> bool:
    return settings.control and (bool(settings.control_keys) or settings.control_keys_file is not None)


def _operation(route: Route, settings: Settings) -> dict[str, Any]:
    takes = _TAKES.get(route.answers)
    parameters = [_PARAMETERS[name] for name in re.findall(r"{(\w+)}", route.pattern)]
    parameters += _QUERIES.get(route.answers, ())
    if route.answers == "infer":
        parameters.append(_LENGTH_OF_JSON)
    operation: dict[str, Any] = {"summary": route.summary, "tags": [_tag(route)], "parameters": parameters}
    if takes is not None:
        operation["requestBody"] = takes
    operation["responses"] = {"200": _GIVES[route.answers], **_refusals(route)}
    if route.control:
        operation["security"] = _ANY_KEY if _needs_control_key(settings) else []
        operation["description"] = "Off unless the server was started with SAMEDIGIT_CONTROL=on; a key of its own."
    elif route.open:
        operation["security"] = []
    return operation


def _tag(route: Route) -> str:
    if route.pattern.startswith("/v2"):
        return INFERENCE
    return DIGITS if route.answers in _DIGITS else OPERATIONS


def _refusals(route: Route) -> dict[str, Any]:
    kinds = {*_ANY_REQUEST, *route.refuses}
    if not route.open:
        kinds |= {Kind.UNAUTHENTICATED, Kind.FORBIDDEN}
    if not route.always:
        kinds |= {Kind.TOO_OFTEN}
    return {status: {"$ref": f"#/components/responses/{status}"} for status in sorted({str(STATUS[k]) for k in kinds})}


# What a port refuses, whatever the request is for.
_ANY_REQUEST: Final = (
    *(Kind.MALFORMED, Kind.WRONG_METHOD, Kind.SLOW, Kind.TOO_LARGE, Kind.TARGET_TOO_LONG, Kind.HEAD_TOO_LARGE),
    *(Kind.FAILED, Kind.UNSUPPORTED, Kind.BUSY, Kind.VERSION),
)


# Words that the schemas share


def _object(
    properties: Mapping[str, Schema], *, optional: Collection[str] = (), closed: bool = True, nullable: bool = False
) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties)}
    if required := [name for name in properties if name not in optional]:
        schema["required"] = required
    if closed:
        schema["additionalProperties"] = False
    return _or_null(schema) if nullable else schema


def _or_null(schema: Schema) -> Schema:
    return {**schema, "nullable": True}


def _array(items: Schema, *, least: int = 0, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def _one_of(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


def _content(schema: Schema, media_type: str = "application/json") -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _gives(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, **_content(schema)}


_STRING: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_PIXEL: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 255}
_PROBABILITY: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}
_DIGIT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": CLASSES - 1}
_INFO: Final = {
    "title": "samedigit",
    "version": server_version(),
    "description": "Handwritten digits: images of 28 x 28 pixels in, probabilities out.",
}
_IMAGE: Final[Schema] = {
    **_array(_array(_PIXEL, least=SIDE, most=SIDE), least=SIDE, most=SIDE),
    "description": f"{SIDE} rows of {SIDE} integers from 0 (background) to 255",
}
_IMAGES: Final = _array({"$ref": "#/components/schemas/Image"}, least=1)

# Refusals

_ERROR: Final = _object({"error": {"type": "string", "description": "what was expected, what came, what to do"}})
_SECONDS: Final[Schema] = {"type": "integer", "minimum": 1}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": _one_of("Bearer")}},
    405: {"Allow": {"required": True, "schema": _one_of("GET, HEAD", "POST")}},
    429: {"Retry-After": {"required": True, "schema": _SECONDS}},
    503: {"Retry-After": {"schema": _SECONDS}},
}
_WHY: Final = {
    400: "The request, or an image in it, is not what it should be; or a picture is broken, or blank",
    401: "It needs a key, and has none that is known",
    403: "Nobody may do this here, or not with that key",
    404: "No such backend, model or version is served; the message names those that are",
    405: "Another method is right; Allow names it",
    408: "It did not come whole in time",
    413: "The body is too long, or a picture has too many pixels",
    414: "The path and query are too long",
    415: "The content type is not what is taken, the body is compressed, or it is no kind of picture that is read",
    429: "More requests than one client may send",
    431: "The headers are too long or too many",
    500: "The server failed; its log says why",
    501: "A backend that is not installed, or what this server does not do",
    503: "No room now, waited too long, or not ready",
    505: "HTTP in another version than 1.0 and 1.1",
}
_REFUSALS: Final = {
    str(status): {
        **_gives(why, {"$ref": "#/components/schemas/Error"}),
        **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
    }
    for status, why in _WHY.items()
}

_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_ANY_KEY: Final[list[dict[str, list[str]]]] = [{name: []} for name in _KEYS]

# What comes in


def _parameter(name: str, schema: Schema, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, **more}


_PARAMETERS: Final = {
    "backend": _parameter("backend", _one_of(*BACKENDS)),
    "model": _parameter(
        "model", {"type": "string", "minLength": 1}, description="recipe.backend", example="torch-relu.onnx"
    ),
    "version": _parameter("version", {"type": "string", "minLength": 1}),
    "file": _parameter("file", {"type": "string", "minLength": 1}, example="index.html"),
}
_LENGTH_OF_JSON: Final = {
    "name": HEADER_LENGTH,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "where raw images follow the JSON: the length of that JSON in bytes; 0: raw images alone",
}
_MODEL: Final = {
    "type": "string",
    "nullable": True,
    "example": "torch-relu",
    "description": "recipe or recipe:version; without it, the one that reads digits that are not MNIST's best",
}
_PREDICT: Final = _object({"images": _IMAGES, "model": _MODEL}, optional={"model"})
_NO_MODEL: Final = {"type": "string", "nullable": True, "enum": ["echo", None]}
_ECHO: Final = _object({"images": _IMAGES, "model": _NO_MODEL}, optional={"model"})
_FLAG: Final[Schema] = {"type": "boolean"}


def _query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_SHOW: Final = _query("image", {**_FLAG, "default": False}, "the answer has the 28 x 28 that the model saw")
_QUERIES: Final = {
    "classify": (
        _query("many", {**_FLAG, "default": False}, "each digit of the picture, in reading order"),
        _SHOW,
        _query(
            "model",
            {"type": "string", "minLength": 1},
            "recipe or recipe.backend; without it, the one that reads digits that are not MNIST's best",
        ),
    ),
    "compare": (_SHOW,),
}
_TENSOR: Final = _object(
    {
        "name": _one_of(str(INPUT["name"])),
        "datatype": _one_of(str(INPUT["datatype"])),
        "shape": {
            **_array({"type": "integer", "minimum": 1}, least=3, most=3),
            "description": f"[N, {SIDE}, {SIDE}]",
            "example": [1, SIDE, SIDE],
        },
        "data": {
            "description": f"N x {PIXELS} integers, flat, or nested as N x {SIDE} x {SIDE}",
            "oneOf": [_array(_PIXEL, least=PIXELS), _IMAGES],
        },
        "parameters": _object({}, closed=False, nullable=True),
    },
    optional={"parameters"},
    closed=False,
)
_WANTED: Final = _object(
    {
        "name": _one_of(*(str(output["name"]) for output in OUTPUTS)),
        "parameters": _object({"binary_data": _FLAG}, optional={"binary_data"}, closed=False, nullable=True),
    },
    optional={"parameters"},
    closed=False,
)
_ASKED: Final[dict[str, Schema]] = {
    "binary_data_output": {**_FLAG, "description": "the outputs' numbers as raw bytes after the JSON"},
    "timeout": {
        **_COUNT,
        "maximum": 2**64 - 1,
        "description": "how long it may wait, in microseconds; 0: the server's own",
    },
}
_INFER: Final = {
    **_object(
        {
            "id": _or_null(_STRING),
            "inputs": _array(_TENSOR, least=1, most=1),
            "outputs": {**_or_null(_array(_WANTED)), "description": "those that are wanted, in order; none: both"},
            "parameters": _object(_ASKED, optional=_ASKED, closed=False, nullable=True),
        },
        optional={"id", "outputs", "parameters"},
        closed=False,
    ),
    "example": {"inputs": [{**INPUT, "shape": [1, SIDE, SIDE], "data": [0] * PIXELS}]},
}
_RAW: Final = {"type": "string", "format": "binary"}
_PICTURE: Final = {**_RAW, "description": "a file: PNG, JPEG, WebP, BMP, GIF or TIFF"}
_FORM: Final = _object({"file": _PICTURE})
_PICTURES: Final = {
    **{name: {"schema": _PICTURE} for name in IMAGE_TYPES},
    "application/octet-stream": {"schema": _PICTURE},
    "multipart/form-data": {"schema": {**_FORM, "description": "one file, whatever its field is called"}},
}
_TAKES: Final[dict[str, Any]] = {
    "classify": {"required": True, "content": _PICTURES},
    "compare": {
        "required": True,
        "content": {**_PICTURES, "application/json": {"schema": _object({"images": {**_IMAGES, "maxItems": 1}})}},
    },
    "predict": {"required": True, **_content(_PREDICT)},
    "echo": {"required": True, **_content(_ECHO)},
    "infer": {
        "required": True,
        "description": "JSON, JSON and raw images, or raw images alone. Which of them, the header "
        f"{HEADER_LENGTH} says, not the content type: any is taken, or none.",
        "content": {
            "application/json": {"schema": _INFER},
            "application/octet-stream": {
                "schema": {
                    **_RAW,
                    "description": f"{PIXELS} bytes an image, after the JSON that describes them, if any",
                }
            },
        },
    },
    "index": _content(
        _object({"ready": {**_FLAG, "description": "only what is ready"}}, optional={"ready"}, closed=False)
    ),
    "load": _content(_object({"parameters": _object({}, nullable=True)}, optional={"parameters"}, closed=False)),
    "unload": _content(_object({}, closed=False)),
}

# What goes out

_PREDICTION: Final = _object(
    {
        "digit": _DIGIT,
        "probability": {**_PROBABILITY, "description": "of that digit"},
        "probabilities": {**_array(_PROBABILITY, least=CLASSES, most=CLASSES), "description": "of the digits 0 to 9"},
    }
)
_BELIEF: Final[dict[str, Schema]] = {
    "digit": _DIGIT,
    "sure": _or_null(
        {**_FLAG, "description": "false: no digit should be believed; null: the model's card does not say when"}
    ),
    "probability": {**_PROBABILITY, "description": "of that digit"},
    "probabilities": {
        **_array(_PROBABILITY, least=CLASSES, most=CLASSES),
        "description": "of the digits 0 to 9, calibrated by the model's card",
    },
}
_BOX: Final = {
    **_array(_COUNT, least=4, most=4),
    "description": "left, top, right, bottom, in pixels of the picture as a person sees it",
}
_SEEN: Final = {"$ref": "#/components/schemas/Image"}
_CLASSIFIED: Final = _object(
    {
        "model": {"type": "string", "description": "recipe:version"},
        "backend": _one_of(*BACKENDS),
        "predictions": _array(_object({**_BELIEF, "box": _BOX, "image": _SEEN}, optional={"image"}), least=1),
    }
)
_ANSWERED: Final = _object(
    {
        "model": {"type": "string", "description": "recipe:version"},
        "recipe": _STRING,
        "backend": _one_of(*BACKENDS),
        **_BELIEF,
        "run_ms": {"type": "number", "minimum": 0, "description": "in the runtime"},
        "accuracy": {**_PROBABILITY, "description": "of this model's file on MNIST's test images"},
    }
)
_COMPARED: Final = _object(
    {"image": _SEEN, "box": _or_null(_BOX), "answers": _array(_ANSWERED), "note": _STRING}, optional={"image"}
)
_EXAMPLE: Final = _object(
    {
        "image": _SEEN,
        "label": _DIGIT,
        "read": {"type": "object", "additionalProperties": _DIGIT, "description": "what each recipe:version reads"},
    }
)
_PREDICTIONS: Final = _object(
    {
        "model": {"type": "string", "description": "recipe:version"},
        "backend": _one_of(*BACKENDS, "echo"),
        "predictions": _array(_PREDICTION, least=1),
    }
)


def _output(output: Mapping[str, Any], number: Schema) -> Schema:
    """An output of an inference."""
    axes = len(output["shape"])
    return _object(
        {
            "name": _one_of(output["name"]),
            "datatype": _one_of(output["datatype"]),
            "shape": {
                **_array({"type": "integer", "minimum": 1}, least=axes, most=axes),
                "description": str(output["shape"]),
            },
            "data": {**_array(number, least=1), "description": "flat"},
        }
    )


def _described(*tensors: Mapping[str, Any]) -> Schema:
    """A model's inputs or outputs in its metadata."""
    tensor = _object(
        {
            "name": _one_of(*(tensor["name"] for tensor in tensors)),
            "datatype": _one_of(*(tensor["datatype"] for tensor in tensors)),
            "shape": {**_array({"type": "integer", "minimum": -1}, least=1), "description": "-1: any number of images"},
        }
    )
    return _array(tensor, least=len(tensors), most=len(tensors))


_YES: Final[Schema] = {"type": "boolean", "enum": [True]}
_SERVED: Final = _object(
    {
        "model": {"type": "string", "description": "recipe:version"},
        "backends": _object(
            dict.fromkeys(
                BACKENDS,
                _object(
                    {"path": _STRING, "device": _STRING, "correct": _COUNT, "total": _COUNT, "accuracy": _PROBABILITY}
                ),
            ),
            optional=BACKENDS,
        ),
        "card": {"type": "object", "description": "how it was trained, and its files with their hashes"},
    },
    closed=False,
)
_INFERRED: Final = _object(
    {
        "id": _STRING,
        "model_name": _STRING,
        "model_version": _STRING,
        "outputs": _array(
            {"oneOf": [_output(OUTPUTS[0], _PROBABILITY), _output(OUTPUTS[1], _DIGIT)]}, least=1, most=len(OUTPUTS)
        ),
    },
    optional={"id"},
)
_METADATA: Final = _object(
    {
        "name": _STRING,
        "versions": _array(_STRING, least=1),
        "platform": _one_of(*PLATFORMS.values()),
        "inputs": _described(INPUT),
        "outputs": _described(*OUTPUTS),
    }
)
_COUNTED: Final = _object({"count": _COUNT, "ns": _COUNT})
_TIMES: Final = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_STATISTICS: Final = _object(
    {
        "name": _STRING,
        "version": _STRING,
        "last_inference": {**_COUNT, "description": "ms since 1970"},
        "inference_count": {**_COUNT, "description": "images"},
        "execution_count": {**_COUNT, "description": "batches"},
        "inference_stats": _object(dict.fromkeys(_TIMES, _COUNTED)),
        "batch_stats": _array(_object({"batch_size": {"type": "integer", "minimum": 1}, "compute_infer": _COUNTED})),
    }
)
_STORED: Final = _object(
    {"name": _STRING, "version": _STRING, "state": _one_of("READY", "UNAVAILABLE"), "reason": _STRING},
    optional={"reason"},
)
_SERVER: Final = _object({"name": _STRING, "version": _STRING, "extensions": _array(_one_of(*EXTENSIONS))})
_GIVES: Final[dict[str, Any]] = {
    "predict": _gives("One prediction for each image, in order", _PREDICTIONS),
    "echo": _gives("One prediction for each image", _PREDICTIONS),
    "classify": _gives("The digits of the picture", _CLASSIFIED),
    "compare": _gives("What every model and backend answers, asked one after another", _COMPARED),
    "page": {"description": "A file of the page", "content": {"*/*": {"schema": _RAW}}},
    "examples": _gives("The images", _object({"examples": _array(_EXAMPLE)})),
    "models": _gives("The served models", _object({"models": _array(_SERVED)})),
    "infer": {
        "description": "The outputs for each image, in order; as raw bytes after the JSON where that was asked for",
        "headers": {
            HEADER_LENGTH: {"schema": _COUNT, "description": "of application/octet-stream: the length of its JSON"}
        },
        "content": {"application/json": {"schema": _INFERRED}, "application/octet-stream": {"schema": _RAW}},
    },
    "server": _gives("The server", _SERVER),
    "live": _gives("It lives", _object({"live": _YES})),
    "ready": _gives("It is ready", _object({"ready": _YES})),
    "metadata": _gives("The model", _METADATA),
    "model_ready": _gives("It is ready", _object({"name": _STRING, "ready": _YES})),
    "statistics": _gives(
        "Counts, and times in ns, since the model was opened in this worker",
        _object({"model_stats": _array(_STATISTICS)}),
    ),
    "index": _gives("The models", _array(_STORED)),
    "load": {"description": "It is served"},
    "unload": {"description": "It is served no more"},
    "metrics": {"description": "In Prometheus' text format", **_content(_STRING, "text/plain")},
    "documentation": _gives(
        "The document",
        _object({"openapi": _STRING, "info": {"type": "object"}, "paths": {"type": "object"}}, closed=False),
    ),
}
