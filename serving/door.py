"""The door: a request in, an answer out, in front of the models.

    POST /predict/{backend}                                 images to predictions
    POST /echo                                              the same without a model: every probability is 0.1
    GET  /models                                            what is served, with the stored accuracy and card
    POST /v2/models/{model}[/versions/{version}]/infer      the Open Inference Protocol; the model echo is no model
         /v2/...                                            the rest of that protocol: v2_control.py

Two ports lead to it: BentoML's (`api_port.py`), and one without BentoML's stack in between (`data_port.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import numpy as np

from digits.contract import CLASSES, Probabilities
from serving.errors import Kind, RequestError
from serving.messages import Answer, Reply, Request, json_answer, refusal
from serving.metrics import Metrics
from serving.protocols import predict, v2, v2_control
from serving.routes import find
from serving.served import ServedModels

ECHO: Final = "echo"
BINARY: Final = (b"content-type", b"application/octet-stream")

log = logging.getLogger("samedigit")


class Door:
    def __init__(self, served: ServedModels) -> None:
        self._served = served
        self._max_images = served.settings.max_images
        self._metrics = Metrics()
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop would not keep them

    def handle(self, request: Request, reply: Reply) -> None:
        """Answers a request: calls `reply` once, now or later. Never raises."""
        began = time.perf_counter()
        if request.method == "HEAD":  # what carries the answer leaves its body out
            request = request._replace(method="GET")

        def finish(answer: Answer) -> None:
            reply(answer)
            self._metrics.observe(request.path, answer.status, time.perf_counter() - began)

        try:
            self._route(request, finish)
        except RequestError as error:
            finish(refusal(error))
        except Exception:
            finish(_failure(request))

    def _route(self, request: Request, reply: Reply) -> None:
        route, parameters = find(request.method, request.path)
        match route.answers:
            case "infer":
                self._infer(parameters["model"], parameters.get("version"), request, reply)
            case "predict":
                self._predict(parameters["backend"], request, reply)
            case "echo":
                images = _read_predict(request, self._max_images).images
                reply(Answer(200, predict.write_answer(_tenths(len(images)), model=ECHO, backend=ECHO)))
            case "models":
                reply(json_answer(self._served.describe()))
            case _:
                answer = v2_control.ANSWERS[route.answers](self._served, parameters, request.body)
                if isinstance(answer, Answer):
                    reply(answer)
                else:
                    self._later(answer, request, reply)

    def _predict(self, backend: str, request: Request, reply: Reply) -> None:
        asked = _read_predict(request, self._max_images)
        opened = self._served.find(backend, asked.model)

        def write(probabilities: Probabilities) -> Answer:
            tag = opened.model.tag
            return Answer(200, predict.write_answer(probabilities, model=tag, backend=opened.backend))

        opened.batcher.submit(asked.images, _writing(write, request, reply))

    def _infer(self, name: str, version: str | None, request: Request, reply: Reply) -> None:
        opened = None if name == ECHO and version is None else self._served.named(name, version)
        if request.headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError(Kind.MEDIA_TYPE, "The body must not be compressed; send it as it is.")
        asked = v2.read_infer(request.body, request.headers.get(v2.HEADER_LENGTH), max_images=self._max_images)
        version = "1" if opened is None else opened.model.version

        def write(probabilities: Probabilities) -> Answer:
            body, length = v2.write_infer(probabilities, asked, model=name, version=version)
            if length is None:
                return Answer(200, body)
            return Answer(200, body, (BINARY, (v2.HEADER_LENGTH, b"%d" % length)))

        if opened is None:
            reply(write(_tenths(len(asked.images))))
        else:
            opened.batcher.submit(asked.images, _writing(write, request, reply), timeout_us=asked.timeout_us)

    def _later(self, answer: Coroutine[Any, Any, Answer], request: Request, reply: Reply) -> None:
        async def finish() -> None:
            try:
                found = await answer
            except RequestError as error:
                found = refusal(error)
            except Exception:
                found = _failure(request)
            reply(found)

        task = asyncio.get_running_loop().create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _writing(
    write: Callable[[Probabilities], Answer], request: Request, reply: Reply
) -> Callable[[Probabilities | RequestError], None]:
    """What a batcher calls with the outcome; it never raises."""

    def done(outcome: Probabilities | RequestError) -> None:
        try:
            answer = refusal(outcome) if isinstance(outcome, RequestError) else write(outcome)
        except Exception:
            answer = _failure(request)
        reply(answer)

    return done


def _read_predict(request: Request, max_images: int) -> predict.PredictRequest:
    content_type = request.headers.get(b"content-type", b"none").partition(b";")[0].strip().lower()
    if content_type != b"application/json":
        came = content_type.decode("latin-1")
        raise RequestError(Kind.MEDIA_TYPE, f"Expected the content type application/json, got {came}.")
    return predict.read_request(request.body, max_images=max_images)


def _tenths(images: int) -> Probabilities:
    return np.full((images, CLASSES), 0.1, np.float32)


def _failure(request: Request) -> Answer:
    log.exception("%s failed", request.path)
    return refusal(RequestError(Kind.FAILED, "The server failed; its log says why."))
