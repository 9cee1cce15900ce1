"""The Open Inference Protocol but for inference itself: health, metadata, statistics, and the repository of models.

Statuses are Triton's, except that what a client got wrong is never a 500 here, and an unknown model always a 404.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from digits.contract import Backend
from serving.batching import Counted
from serving.errors import Kind, RequestError, malformed
from serving.messages import Answer, json_answer
from serving.models import ServedModels
from serving.opening import Opened
from serving.protocols.v2 import EXTENSIONS, INPUT, OUTPUTS

PLATFORMS: Final[dict[Backend, str]] = {
    "numpy": "numpy_npz",
    "torch": "pytorch_export",
    "tensorflow": "tensorflow_savedmodel",
    "onnx": "onnxruntime_onnx",
}
DONE: Final = Answer(200, b"", ())

Parameters = Mapping[str, str]  # of the route: model and version, where its pattern has them
Answering = Callable[[ServedModels, Parameters, bytes], Answer | Coroutine[Any, Any, Answer]]


# What there is to say, whatever the protocol. Each raises RequestError.


def server() -> dict[str, Any]:
    return {"name": "samedigit", "version": server_version(), "extensions": EXTENSIONS}


def metadata(served: ServedModels, name: str, version: str | None) -> dict[str, Any]:
    opened = served.named(name, version)
    return {
        "name": opened.name,
        "versions": served.versions(opened.name),
        "platform": PLATFORMS[opened.backend],
        "inputs": [INPUT],
        "outputs": OUTPUTS,
    }


def statistics(served: ServedModels, name: str | None, version: str | None) -> dict[str, Any]:
    """Of one model, or of all."""
    wanted = served.all() if name is None else [served.named(name, version)]
    return {"model_stats": [_statistics_of(opened) for opened in wanted]}


async def index(served: ServedModels, *, ready: bool) -> list[dict[str, str]]:
    """What can be served; `ready`: what is."""
    return [entry for entry in await served.index() if not ready or entry["state"] == "READY"]


async def load(served: ServedModels, name: str, parameters: object) -> None:
    if parameters not in (None, {}):
        raise malformed("load takes no parameters: a stored model is loaded as it is.")
    await served.load(name)


# The same over HTTP


def _server(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    return json_answer(server())


def _live(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    return json_answer({"live": True})


def _ready(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    reason = served.why_not_ready()
    if reason is not None:  # Triton answers 400; whoever polls this reads 503 as what it is, not now
        raise RequestError(Kind.BUSY, f"Not ready: {reason}")
    return json_answer({"ready": True})


def _metadata(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    return json_answer(metadata(served, parameters["model"], parameters.get("version")))


def _model_ready(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    opened = served.named(parameters["model"], parameters.get("version"))
    return json_answer({"name": opened.name, "ready": True})


def _statistics(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    return json_answer(statistics(served, parameters.get("model"), parameters.get("version")))


async def _index(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    ready = _json(body).get("ready", False)
    if not isinstance(ready, bool):
        raise malformed("ready takes true or false.")
    return json_answer(await index(served, ready=ready))


async def _load(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    await load(served, parameters["model"], _json(body).get("parameters"))
    return DONE


async def _unload(served: ServedModels, parameters: Parameters, body: bytes) -> Answer:
    _json(body)  # whose unload_dependents means nothing here
    await served.unload(parameters["model"])
    return DONE


# What a route of that name answers. Each raises RequestError.
ANSWERS: Final[dict[str, Answering]] = {
    "server": _server,
    "live": _live,
    "ready": _ready,
    "metadata": _metadata,
    "model_ready": _model_ready,
    "statistics": _statistics,
    "index": _index,
    "load": _load,
    "unload": _unload,
}


def _json(body: bytes) -> dict[str, Any]:
    """The body, which may be left out."""
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise malformed(f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise malformed("The body must be a JSON object, or empty.")
    return document


def _statistics_of(opened: Opened) -> dict[str, Any]:
    """As the statistics extension has it: times in ns, `last_inference` in ms since the epoch."""
    found = opened.batcher.statistics
    return {
        "name": opened.name,
        "version": opened.model.version,
        "last_inference": found.last_ns // 1_000_000,
        "inference_count": found.images,
        "execution_count": sum(batches.count for batches in found.batches.values()),
        "inference_stats": {
            "success": _counted(found.success),
            "fail": _counted(found.failure),
            "queue": _counted(found.queue),
            "compute_input": _counted(found.compute_input),
            "compute_infer": _counted(found.compute_infer),
            "compute_output": _counted(found.compute_output),
        },
        "batch_stats": [
            {"batch_size": images, "compute_infer": _counted(batches)}
            for images, batches in sorted(found.batches.items())
        ],
    }


def _counted(counted: Counted) -> dict[str, int]:
    return {"count": counted.count, "ns": counted.ns}


def server_version() -> str:
    try:
        return version("samedigit")
    except PackageNotFoundError:  # served from a folder of the rooms alone, as in the container
        return "unknown"
