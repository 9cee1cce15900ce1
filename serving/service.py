"""The BentoML service: `bentoml serve` in the project's root, `python -m serving`, or `samedigit serve` starts it.

BentoML reads the number of workers from the decorator, so the settings are read at import; all else is built in `Server`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import bentoml
import click

from digits.errors import SamedigitError
from serving.checks import check_start
from serving.ports.api_port import connection_factory, speak_on_bentomls_port
from serving.ports.connection import Connection
from serving.server import Server
from serving.settings import Settings, read_settings
from serving.start import BENTOML_PORT, adopt_options
from serving.workers import make_run_folder


def _settings() -> Settings:
    """What is to be served and how, checked as far as can be told before the workers start.

    `bentoml serve` imports this module before it starts the workers, which open the models. What can be told now stops it with
    a message; from a worker, BentoML would print tracebacks and start another one, every ten seconds.

    Raises:
        ClickException: something is wrong with what the settings say.
    """
    command = click.get_current_context(silent=True)
    options = command.params if command is not None and command.info_name == "serve" else None
    try:
        if options is not None:
            adopt_options(options, os.environ)
        settings = read_settings()
        if options is not None:
            check_start(settings, port=options["port"] or BENTOML_PORT)
            make_run_folder(settings)
    except SamedigitError as error:
        raise click.ClickException(str(error)) from error
    return settings


settings = _settings()


@bentoml.service(
    name="samedigit",
    workers=settings.workers,
    tracing={"excluded_urls": ".*"},  # BentoML's own; ours are in serving/tracing.py
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # and its counts: /metrics is ours
)
class Samedigit:
    """One handwritten-digit classifier, trained in NumPy, PyTorch and Keras, through four runtimes."""

    def __init__(self) -> None:
        global _server
        try:
            _server = Server(settings, document=lambda: dict(service.openapi_spec.asdict()))
            _server.open()  # before BentoML says it is ready
        except SamedigitError as error:
            logging.getLogger("bentoml.serve").critical("%s", error)
            os._exit(1)  # an exception would be printed with three tracebacks
        self._server = _server

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def begin(self) -> None:
        await self._server.begin()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def end(self) -> None:
        await self._server.end()


_server: Server | None = None  # this worker's
service: Any = Samedigit  # what the decorator made of the class; bentoml has no types for it


def api_connection(**uvicorns: Any) -> Connection:
    """A connection to BentoML's port, as uvicorn asks for one."""
    assert _server is not None, "uvicorn listens before the service has started"
    return connection_factory(_server.connections)(**uvicorns)


speak_on_bentomls_port(f"{__name__}:api_connection")
