"""The BentoML service: `bentoml serve` in the project's root, or `samedigit serve`, starts it."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import bentoml
import click

from digits.errors import SamedigitError, SettingError
from serving.door import Door
from serving.models import ServedModels
from serving.ports.api_port import ApiPort
from serving.ports.data_port import DataPort, listening_socket
from serving.settings import read_settings
from serving.workers import make_run_folder

BENTOML_PORT = 3000  # BentoML's default

try:
    # `bentoml serve` imports this module before it starts the workers, which open the models. What can be told now stops it
    # with a message; from a worker, BentoML would print tracebacks and start another one, every ten seconds.
    command = click.get_current_context(silent=True)
    options = command.params if command is not None and command.info_name == "serve" else None
    if options is not None:
        # The workers inherit it: whoever hides the API port hides the data plane too.
        os.environ.setdefault("SAMEDIGIT_DATA_HOST", options["host"] or "0.0.0.0")
    settings = read_settings()
    served = ServedModels(settings)
    if options is not None:
        if settings.data_port == (options["port"] or BENTOML_PORT):
            raise SettingError(
                f"BentoML and the data plane cannot both listen on port {settings.data_port}. Set SAMEDIGIT_DATA_PORT."
            )
        served.check()
        make_run_folder(settings)
        listening_socket(settings, shared=False).close()  # nobody else has the port
except SamedigitError as error:
    raise click.ClickException(str(error)) from error

door = Door(served)


@bentoml.service(
    name="samedigit",
    workers=settings.workers,
    # Longer than the door's own deadline, whose answer says more. No longer than need be, since BentoML keeps a timer for each
    # request until then, answered or not.
    traffic={"timeout": settings.deadline_ms / 1000 + 5},
    tracing={"excluded_urls": ".*"},  # BentoML's tracing middleware is always on; this lets it return early
    logging={"access": {"enabled": False}},  # about 15 % of the requests per second
)
class Samedigit:
    """One handwritten-digit classifier, trained in NumPy, PyTorch and Keras, through four runtimes."""

    def __init__(self) -> None:
        try:
            served.open()  # before BentoML says it is ready
            self._data_port = DataPort(door, settings)
        except SamedigitError as error:
            logging.getLogger("bentoml.serve").critical("%s", error)
            os._exit(1)  # an exception would be printed with three tracebacks

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def open_data_port(self) -> None:
        await self._data_port.open()
        self._tidying = asyncio.create_task(served.keep_up())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close_data_port(self) -> None:
        self._tidying.cancel()
        await self._data_port.close()


service: Any = Samedigit  # what the decorator made of the class; bentoml has no types for it


def _openapi() -> dict[str, Any]:
    document: dict[str, Any] = service.openapi_spec.asdict()
    return document


service.add_asgi_middleware(ApiPort, door=door, openapi=_openapi, max_body_bytes=settings.max_body_bytes)
