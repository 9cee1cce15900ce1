"""The door: HTTP in front of the runtimes, as an ASGI middleware of the BentoML service.

It answers the paths below itself and passes every other on to BentoML. As a middleware it stands behind BentoML's metrics,
and before its routing, which would parse any content type as JSON and read bodies of any size.

    POST /predict/{backend}     images to predictions
    POST /echo                  the same without a model: every probability is 0.1; what the door costs
    GET  /models                what is served, with the stored accuracy and card
    GET  /docs.json             BentoML's OpenAPI document with these paths added
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import numpy as np
import orjson

from digits.contract import CLASSES
from digits.errors import RequestError
from serving.openapi import add_paths
from serving.protocol import read_request, write_answer
from serving.served import ServedModels

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: Final = (b"content-type", b"application/json")

log = logging.getLogger("samedigit")


class Door:
    """Answers its own paths, passes the others to `app`."""

    def __init__(self, app: App, served: ServedModels, openapi: Callable[[], dict[str, Any]]) -> None:
        self._app = app
        self._served = served
        self._openapi = openapi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        status, headers = 200, [JSON]
        try:
            if path.startswith("/predict/"):
                _require_method(scope, "POST")
                answer = self._predict(path.removeprefix("/predict/"), await self._read_body(scope, receive))
            elif path == "/models":
                _require_method(scope, "GET")
                answer = orjson.dumps(self._served.describe())
            elif path == "/echo":
                _require_method(scope, "POST")
                answer = self._echo(await self._read_body(scope, receive))
            elif path == "/docs.json":
                _require_method(scope, "GET")
                answer = orjson.dumps(add_paths(self._openapi()))
            else:
                await self._app(scope, receive, send)
                return
        except RequestError as error:
            status, headers = error.status, [JSON, *error.headers]
            answer = orjson.dumps({"error": str(error)})
        except Exception:
            log.exception("%s failed", path)
            status, answer = 500, orjson.dumps({"error": "The server failed; its log says why."})
        headers.append((b"content-length", b"%d" % len(answer)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _predict(self, backend: str, body: bytes) -> bytes:
        request = read_request(body, max_images=self._served.settings.max_images)
        opened = self._served.find(backend, request.model)
        return write_answer(opened.runtime.predict(request.images), model=opened.model.tag, backend=backend)

    def _echo(self, body: bytes) -> bytes:
        request = read_request(body, max_images=self._served.settings.max_images)
        tenths = np.full((len(request.images), CLASSES), 0.1, np.float32)
        return write_answer(tenths, model="echo", backend="echo")

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            RequestError: 415 for another content type, 413 as soon as it is known that the body is too long, 400 if the
                client went away.
        """
        content_type = b"none"
        length = None
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.partition(b";")[0].strip().lower()
            elif name == b"content-length":
                length = int(value)
        if content_type != b"application/json":
            came = content_type.decode("latin-1")
            raise RequestError(415, f"Expected the content type application/json, got {came}.")
        limit = self._served.settings.max_body_bytes
        if length is not None and length > limit:
            raise _too_long(limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body") and message["type"] == "http.request":
            if len(body) > limit:
                raise _too_long(limit)
            return body
        chunks, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise _too_long(limit)
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The client went away before the whole body came.")
        return b"".join(chunks)


def _require_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        allow = ((b"allow", method.encode()),)
        raise RequestError(405, f"{scope['path']} takes {method}, got {scope['method']}.", headers=allow)


def _too_long(limit: int) -> RequestError:
    # Without `connection: close` the server would read on, to find where the next request begins.
    return RequestError(
        413, f"The body is longer than {limit} bytes. Send fewer images.", headers=((b"connection", b"close"),)
    )
