"""Every path that the door answers, in one table: `owns`, the metrics' labels and the OpenAPI document follow from it.

The methods that calls of gRPC may name have a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from serving.errors import Kind, RequestError

MAX_REMEMBERED: Final = 256  # characters of a path: longer ones would let a client fill the memory


class Route(NamedTuple):
    method: str  # HEAD is answered where GET is
    pattern: str  # a {parameter} is one part of the path, which may be empty
    answers: str  # the name of what answers it
    summary: str
    refuses: tuple[Kind, ...] = ()  # beside what any request may be refused for
    control: bool = False  # changes what is served
    open: bool = False  # needs no key
    always: bool = False  # is answered however many ask
    streams: bool = False  # a call whose messages are handled as they come


_NAMED: Final = (Kind.UNKNOWN,)
_PICTURE: Final = (Kind.UNKNOWN, Kind.MEDIA_TYPE, Kind.EXPIRED)
_IMAGES: Final = (Kind.UNKNOWN, Kind.MEDIA_TYPE, Kind.EXPIRED)
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_REPOSITORY: Final = "/v2/repository"

ROUTES: Final = (
    Route("POST", "/predict/{backend}", "predict", "Digits by the models of one backend", _IMAGES),
    Route("POST", "/echo", "echo", "The same without a model: every probability is 0.1", _IMAGES),
    Route("POST", "/classify", "classify", "The digit in a picture, or each of them, by one model", _PICTURE),
    Route(
        "POST", "/compare", "compare", "The digit in a picture by every model and backend, one after another", _PICTURE
    ),
    Route("GET", "/models", "models", "What is served, with the stored accuracy and card"),
    Route("GET", "/ui", "page", "A page to draw on", open=True),
    Route("GET", "/ui/", "page", "The same page", open=True),
    Route("GET", "/ui/examples", "examples", "Test images that the served models disagree on"),
    Route("GET", "/ui/{file}", "page", "The files of that page", _NAMED, open=True),
    Route("GET", "/v2", "server", "The server, and which extensions of the protocol it has"),
    Route("GET", "/v2/health/live", "live", "Whether the server lives", open=True, always=True),
    Route("GET", "/v2/health/ready", "ready", "Whether it answers for models", open=True, always=True),
    Route("GET", "/v2/models/stats", "statistics", "What every model was asked, and where the time went"),
    Route("GET", _MODEL, "metadata", "A model's inputs, outputs and versions", _NAMED),
    Route("GET", _MODEL + "/ready", "model_ready", "Whether a model is served", _NAMED),
    Route("GET", _MODEL + "/stats", "statistics", "What a model was asked, and where the time went", _NAMED),
    Route("POST", _MODEL + "/infer", "infer", "Probabilities and digits by a model", _IMAGES),
    Route("GET", _VERSION, "metadata", "The same of a model that is served in this version", _NAMED),
    Route("GET", _VERSION + "/ready", "model_ready", "Whether a model is served in this version", _NAMED),
    Route("GET", _VERSION + "/stats", "statistics", "What a model was asked in this version", _NAMED),
    Route("POST", _VERSION + "/infer", "infer", "Probabilities and digits by a model in this version", _IMAGES),
    Route("POST", _REPOSITORY + "/index", "index", "The models that are served, and that can be loaded"),
    Route("POST", _REPOSITORY + "/models/{model}/load", "load", "Serves a stored model", _NAMED, control=True),
    Route("POST", _REPOSITORY + "/models/{model}/unload", "unload", "Serves it no more", _NAMED, control=True),
    Route("GET", "/livez", "live", "Whether the server lives", open=True, always=True),
    Route("GET", "/healthz", "live", "Whether the server lives", open=True, always=True),
    Route("GET", "/readyz", "ready", "Whether it answers for models", open=True, always=True),
    Route("GET", "/metrics", "metrics", "Counts and times, for Prometheus", always=True),
    Route("GET", "/docs.json", "documentation", "This document"),
)

_INFERENCE: Final = "/inference.GRPCInferenceService/"
_HEALTH: Final = "/grpc.health.v1.Health/"
_REFLECTION: Final = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"

CALLS: Final = (
    Route("POST", _INFERENCE + "ServerLive", "call_live", "Whether the server lives", open=True, always=True),
    Route("POST", _INFERENCE + "ServerReady", "call_ready", "Whether it answers for models", open=True, always=True),
    Route("POST", _INFERENCE + "ModelReady", "call_model_ready", "Whether a model is served"),
    Route("POST", _INFERENCE + "ServerMetadata", "call_server", "The server, and its extensions of the protocol"),
    Route("POST", _INFERENCE + "ModelMetadata", "call_metadata", "A model's inputs, outputs and versions"),
    Route("POST", _INFERENCE + "ModelInfer", "call_infer", "Probabilities and digits by a model"),
    Route(
        "POST", _INFERENCE + "ModelStreamInfer", "call_stream_infer", "The same, request after request", streams=True
    ),
    Route("POST", _INFERENCE + "ModelConfig", "call_config", "How a model is served"),
    Route("POST", _INFERENCE + "ModelStatistics", "call_statistics", "What models were asked"),
    Route("POST", _INFERENCE + "RepositoryIndex", "call_index", "The models that are served, and that can be loaded"),
    Route("POST", _INFERENCE + "RepositoryModelLoad", "call_load", "Serves a stored model", control=True),
    Route("POST", _INFERENCE + "RepositoryModelUnload", "call_unload", "Serves it no more", control=True),
    Route("POST", _HEALTH + "Check", "call_health", "Whether the server answers for models", open=True, always=True),
    Route("POST", _HEALTH + "Watch", "call_watch", "The same, as it changes", open=True, always=True, streams=True),
    Route("POST", _REFLECTION.format("v1"), "call_reflect", "What there is to call", streams=True),
    Route("POST", _REFLECTION.format("v1alpha"), "call_reflect", "What there is to call", streams=True),
)

FOREIGN: Final = Route("", "", "", "What BentoML answers at its own port")

_CALLS: Final = {route.pattern: route for route in CALLS}
_PARTS: Final = tuple((route, tuple(route.pattern.split("/"))) for route in ROUTES)
_PATHS: Final = frozenset(route.pattern for route in ROUTES if "{" not in route.pattern)
_BELOW: Final = tuple({f"/{parts[1]}/" for _, parts in _PARTS if len(parts) > 2})


def owns(path: str) -> bool:
    """Whether the door answers this path, if only with an error."""
    return path in _PATHS or path in _CALLS or path.startswith(_BELOW)


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The route of a request, and its pattern's parameters. Both may be shared with other requests.

    Args:
        method: as it came.
        path: decoded, without the query.

    Raises:
        RequestError: UNKNOWN, nothing is there; or WRONG_METHOD.
    """
    return _find_again(method, path) if len(path) <= MAX_REMEMBERED else _find(method, path)


def _find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    parts = path.split("/")
    asked = "GET" if method == "HEAD" else method
    right: list[str] = []
    for route, pattern in _PARTS:
        if len(parts) == len(pattern) and all(
            one == other or one[:1] == "{" for one, other in zip(pattern, parts, strict=True)
        ):
            if route.method == asked:
                return route, {one[1:-1]: other for one, other in zip(pattern, parts, strict=True) if one[:1] == "{"}
            right.append(route.method)
    shown = path[:100]
    if path in _CALLS:
        raise RequestError(
            Kind.MEDIA_TYPE, f"{shown} is a call of gRPC, which comes over HTTP/2 with content-type: application/grpc."
        )
    if right:
        raise RequestError(
            Kind.WRONG_METHOD,
            f"{shown} takes {right[0]}, got {method[:20]}.",
            allow="GET, HEAD" if right[0] == "GET" else right[0],
        )
    if path.startswith("/v2/"):
        raise RequestError(Kind.UNKNOWN, f"The protocol has nothing at {shown}.")
    raise RequestError(
        Kind.UNKNOWN, f"Nothing is at {shown}; /v2, /predict/BACKEND, /classify, /models and /ui are here."
    )


def find_call(path: str) -> Route:
    """The route of a call.

    Raises:
        RequestError: UNSUPPORTED, there is no such method.
    """
    route = _CALLS.get(path)
    if route is None:
        raise RequestError(Kind.UNSUPPORTED, f"There is no method {path[:100]}.")
    return route


_find_again = lru_cache(maxsize=1024)(_find)
