"""The Open Inference Protocol but for inference itself: health, metadata, statistics, and the repository of models.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready]
    GET  /v2/models/stats, /v2/models/{model}[/versions/{version}]/stats
    POST /v2/repository/index
    POST /v2/repository/models/{model}/load, and /unload

Statuses are Triton's, except that what a client got wrong is never a 500 here.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import orjson

from digits.contract import Backend
from serving.batching import Counted
from serving.errors import Kind, RequestError, malformed
from serving.messages import Answer, Request, json_answer, wrong_method
from serving.models import ServedModels
from serving.opening import Opened
from serving.protocols.v2 import EXTENSIONS, INPUT, OUTPUTS

PLATFORMS: Final[dict[Backend, str]] = {
    "numpy": "numpy_npz",
    "torch": "pytorch_export",
    "tensorflow": "tensorflow_savedmodel",
    "onnx": "onnxruntime_onnx",
}


async def answer(served: ServedModels, parts: list[str], request: Request) -> Answer:
    """The answer of the path /v2/`parts`.

    Raises:
        RequestError: it has none.
    """
    method = "POST" if parts[:1] == ["repository"] else "GET"
    if request.method != method:
        raise wrong_method(request, method)
    match parts:
        case []:
            return json_answer({"name": "samedigit", "version": _version(), "extensions": EXTENSIONS})
        case ["health", "live"]:
            return json_answer({"live": True})
        case ["health", "ready"]:
            return _ready(served)
        case ["models", "stats"]:
            return json_answer({"model_stats": [_statistics(opened) for opened in served.all()]})
        case ["models", name] | ["models", name, "versions", _]:
            return json_answer(_metadata(served.named(name, *parts[3:]), served.versions(name)))
        case ["models", name, "ready"] | ["models", name, "versions", _, "ready"]:
            _named(served, name, *parts[3:-1])
            return json_answer({"name": name, "ready": True})
        case ["models", name, "stats"] | ["models", name, "versions", _, "stats"]:
            return json_answer({"model_stats": [_statistics(_named(served, name, *parts[3:-1]))]})
        case ["repository", "index"]:
            return await _index(served, request)
        case ["repository", "models", name, "load"]:
            if _json(request).get("parameters"):
                raise malformed("load takes no parameters: a stored model is loaded as it is.")
            await served.load(name)
            return Answer(200, b"")
        case ["repository", "models", name, "unload"]:
            await served.unload(name)
            return Answer(200, b"")
    raise RequestError(Kind.UNKNOWN, f"The protocol has nothing at {request.path[:100]}.")


def _ready(served: ServedModels) -> Answer:
    """Not 400, as Triton has it: whoever polls this reads a status that is not 2xx as "not now", and 503 says just that."""
    reason = served.why_not_ready()
    if reason is None:
        return json_answer({"ready": True})
    return Answer(503, orjson.dumps({"ready": False, "reason": reason}))


def _named(served: ServedModels, name: str, *number: str) -> Opened:
    try:
        return served.named(name, *number)
    except RequestError as error:
        raise malformed(str(error)) from error  # so says Triton, here


async def _index(served: ServedModels, request: Request) -> Answer:
    ready = _json(request).get("ready", False)
    if not isinstance(ready, bool):
        raise malformed("ready takes true or false.")
    return json_answer([entry for entry in await served.index() if not ready or entry["state"] == "READY"])


def _json(request: Request) -> dict[str, Any]:
    """The body, which may be left out."""
    try:
        document = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise malformed(f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise malformed("The body must be a JSON object, or empty.")
    return document


def _metadata(opened: Opened, versions: list[str]) -> dict[str, Any]:
    platform = PLATFORMS[opened.backend]
    return {"name": opened.name, "versions": versions, "platform": platform, "inputs": [INPUT], "outputs": OUTPUTS}


def _statistics(opened: Opened) -> dict[str, Any]:
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


def _version() -> str:
    try:
        return version("samedigit")
    except PackageNotFoundError:  # served from a folder of the rooms alone, as in the container
        return "unknown"
