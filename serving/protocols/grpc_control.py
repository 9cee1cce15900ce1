"""The calls of gRPC that say something, or change what is served: all but inference. A message in, a message out.

The Open Inference Protocol's and Triton's (`inference.proto`), and health (`health.proto`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from serving.errors import Kind, RequestError
from serving.models import ServedModels
from serving.protocols import protos, v2_control
from serving.protocols.v2 import INPUT, OUTPUTS

SERVICES: Final = ("inference.GRPCInferenceService", "grpc.health.v1.Health")  # whose health is the server's

Message = Any  # of protobuf
Answering = Callable[[ServedModels, Message], Message | Coroutine[Any, Any, Message]]


class Call(NamedTuple):
    takes: Any  # the class of its message
    answer: Answering  # raises RequestError, as does its coroutine


def _call(name: str, answer: Answering, service: str = "inference") -> Call:
    return Call(protos.message(f"{service}.{name}Request"), answer)


def _answer(name: str) -> Any:
    return protos.message(f"inference.{name}Response")


_Live, _Ready, _ModelReady = _answer("ServerLive"), _answer("ServerReady"), _answer("ModelReady")
_Server, _Metadata, _Config = _answer("ServerMetadata"), _answer("ModelMetadata"), _answer("ModelConfig")
_Statistics, _Index = _answer("ModelStatistics"), _answer("RepositoryIndex")
_Loaded, _Unloaded = _answer("RepositoryModelLoad"), _answer("RepositoryModelUnload")
_Health: Final = protos.message("grpc.health.v1.HealthCheckResponse")
WATCHED: Final = protos.message("grpc.health.v1.HealthCheckRequest")


def _live(served: ServedModels, request: Message) -> Message:
    return _Live(live=True)


def _ready(served: ServedModels, request: Message) -> Message:
    return _Ready(ready=served.why_not_ready() is None)


def _model_ready(served: ServedModels, request: Message) -> Message:
    try:
        served.named(request.name, request.version or None)
    except RequestError:
        return _ModelReady(ready=False)
    return _ModelReady(ready=True)


def _server(served: ServedModels, request: Message) -> Message:
    return _Server(**v2_control.server())


def _metadata(served: ServedModels, request: Message) -> Message:
    return _Metadata(**v2_control.metadata(served, request.name, request.version or None))


def _config(served: ServedModels, request: Message) -> Message:
    opened = served.named(request.name, request.version or None)
    settings = served.settings
    tensors = [
        {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": tensor["shape"][1:] or [1]}
        for tensor in (INPUT, *OUTPUTS)
    ]
    return _Config(
        config={
            "name": opened.name,
            "platform": v2_control.PLATFORMS[opened.backend],
            "backend": opened.backend,
            "max_batch_size": settings.max_images,
            "input": tensors[:1],
            "output": tensors[1:],
            "dynamic_batching": {
                "default_queue_policy": {
                    "default_timeout_microseconds": settings.deadline_ms * 1000,
                    "allow_timeout_override": True,
                }
            },
        }
    )


def _statistics(served: ServedModels, request: Message) -> Message:
    return _Statistics(**v2_control.statistics(served, request.name or None, request.version or None))


async def _index(served: ServedModels, request: Message) -> Message:
    return _Index(models=await v2_control.index(served, ready=request.ready))


async def _load(served: ServedModels, request: Message) -> Message:
    await v2_control.load(served, request.model_name, dict(request.parameters))
    return _Loaded()


async def _unload(served: ServedModels, request: Message) -> Message:
    await served.unload(request.model_name)
    return _Unloaded()


def _health(served: ServedModels, request: Message) -> Message:
    found = health(served, request.service)
    if found is None:
        raise RequestError(Kind.UNKNOWN, f"No service {request.service[:100]!r} is here; there is {SERVICES[0]}.")
    return found


def health(served: ServedModels, service: str) -> Message | None:
    """Whether a service, or with an empty name the server, answers for models; None: it is not one of this server's."""
    if service and service not in SERVICES:
        return None
    return _Health(status="SERVING" if served.why_not_ready() is None else "NOT_SERVING")


def unknown_health() -> Message:
    """Of a service that may come, as Watch says it."""
    return _Health(status="SERVICE_UNKNOWN")


# What a route of that name answers.
ANSWERS: Final = {
    "call_live": _call("ServerLive", _live),
    "call_ready": _call("ServerReady", _ready),
    "call_model_ready": _call("ModelReady", _model_ready),
    "call_server": _call("ServerMetadata", _server),
    "call_metadata": _call("ModelMetadata", _metadata),
    "call_config": _call("ModelConfig", _config),
    "call_statistics": _call("ModelStatistics", _statistics),
    "call_index": _call("RepositoryIndex", _index),
    "call_load": _call("RepositoryModelLoad", _load),
    "call_unload": _call("RepositoryModelUnload", _unload),
    "call_health": _call("HealthCheck", _health, "grpc.health.v1"),
}
