"""BentoML's port, spoken by the same machine as the data port.

BentoML's worker runs uvicorn, which takes any protocol class for HTTP. Ours answers what is the door's at once, and hands
the rest, BentoML's own pages, to BentoML's ASGI app. So both ports have the same limits, and the same verdict on what is
no request; and a request of the door's passes none of BentoML's middlewares, whose timers outlive it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn.config

from serving.errors import Kind, RequestError
from serving.messages import Answer, Exchange, Headers, refusal
from serving.ports.connection import Connection, Connections, Foreign

NAME: Final = "api"

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

log = logging.getLogger("samedigit")


def speak_on_bentomls_port(factory: str) -> None:
    """Makes uvicorn, in this process, speak HTTP through `factory`, MODULE:NAME of a function such as `connection_factory`
    gives."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = factory


def connection_factory(connections: Connections) -> Callable[..., Connection]:
    """What uvicorn calls for each connection."""

    def make(*, config: uvicorn.config.Config, server_state: Any, app_state: Any, _loop: Any = None) -> Connection:
        foreign = _foreign(connections, config.loaded_app, dict(app_state), "https" if config.is_ssl else "http")
        return Connection(connections, NAME, known=server_state.connections, foreign=foreign)

    return make


def _foreign(connections: Connections, app: App, state: dict[str, Any], scheme: str) -> Foreign:
    tasks: set[asyncio.Task[None]] = set()  # the event loop would not keep them

    async def finish(exchange: Exchange) -> None:
        connections.door.finish(exchange, await _ask(app, state, scheme, exchange))

    def answer(exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(finish(exchange))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return answer


async def _ask(app: App, state: dict[str, Any], scheme: str, exchange: Exchange) -> Answer:
    head = exchange.head
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if head.http_1_0 else "1.1",
        "method": head.method,
        "scheme": scheme,
        "path": head.path,
        "raw_path": head.target.partition(b"?")[0],
        "query_string": head.query.encode("latin-1"),
        "root_path": "",
        "headers": list(head.headers.items()),
        "client": (exchange.address, 0),
        "server": None,
        "state": state.copy(),
    }
    status, body = 500, bytearray()
    headers: Headers = ()
    came = False

    async def receive() -> Message:
        nonlocal came
        if came:
            await asyncio.Event().wait()  # the client is still there, and has nothing more to say
        came = True
        return {"type": "http.request", "body": exchange.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            own = (b"content-length", b"connection", b"transfer-encoding", b"date")
            headers = tuple((name, value) for name, value in message.get("headers", ()) if name.lower() not in own)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        log.exception("BentoML failed at %r", head.path[:100])
        return refusal(RequestError(Kind.FAILED, "The server failed; its log says why."))
    return Answer(status, bytes(body), headers)
