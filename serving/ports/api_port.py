"""BentoML's port: an ASGI middleware that passes the door what is the door's, and BentoML the rest.

As a middleware it stands behind BentoML's metrics, and before its routing, which would parse any content type as JSON and
read bodies of any size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.door import Door
from serving.errors import Kind, RequestError
from serving.messages import Answer, Request, json_answer, refusal, too_long
from serving.protocols.openapi import add_paths
from serving.routes import owns

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ApiPort:
    """Adds the door's paths to `app`, and to its document at /docs.json."""

    def __init__(self, app: App, door: Door, openapi: Callable[[], dict[str, Any]], max_body_bytes: int) -> None:
        self._app = app
        self._door = door
        self._openapi = openapi
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and owns(scope["path"]) and scope["path"] not in ("/metrics", "/docs.json"):
            try:
                body = await self._read_body(scope, receive)
            except RequestError as error:
                await _send(send, refusal(error))
                return
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

            def reply(answer: Answer) -> None:
                if not answered.done():  # cancelled, if the client went away
                    answered.set_result(answer)

            self._door.handle(Request(scope["method"], scope["path"], dict(scope["headers"]), body), reply)
            await _send(send, await answered)
        elif scope["type"] == "http" and scope["path"] == "/docs.json" and scope["method"] == "GET":
            await _send(send, json_answer(add_paths(self._openapi())))
        else:
            await self._app(scope, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            RequestError: 413 as soon as it is known that the body is too long, 400 if the client went away.
        """
        limit = self._max_body_bytes
        if any(name == b"content-length" and int(value) > limit for name, value in scope["headers"]):
            raise too_long(limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            chunks, size = [body], len(body)
            while message.get("more_body") and size <= limit:
                message = await receive()
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
            body = b"".join(chunks)
        if message["type"] == "http.disconnect":
            raise RequestError(Kind.MALFORMED, "The client went away before the whole body came.")
        if len(body) > limit:
            raise too_long(limit)
        return body


async def _send(send: Send, answer: Answer) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
