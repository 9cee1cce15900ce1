"""The BentoML service: `bentoml serve` in the project's root, or `samedigit serve`, starts it."""

from __future__ import annotations

import logging
import os
from typing import Any

import bentoml
import click

from digits.errors import SamedigitError
from serving.door import Door
from serving.served import ServedModels
from serving.settings import read_settings

try:
    served = ServedModels(read_settings())
    # `bentoml serve` imports this module before it starts the worker that opens the models. What can be told now stops it
    # with a message; from the worker, BentoML would print tracebacks and start another one, every ten seconds.
    command = click.get_current_context(silent=True)
    if command is not None and command.info_name == "serve":
        served.check()
except SamedigitError as error:
    raise click.ClickException(str(error)) from error


@bentoml.service(
    name="samedigit",
    workers=1,
    traffic={"timeout": 30},
    tracing={"excluded_urls": ".*"},  # BentoML's tracing middleware is always on; this lets it return early
    logging={"access": {"enabled": False}},  # about 15 % of the requests per second
)
class Samedigit:
    """One handwritten-digit classifier, trained in NumPy, PyTorch and Keras, through four runtimes."""

    def __init__(self) -> None:
        try:
            served.open()  # before BentoML says it is ready
        except SamedigitError as error:
            logging.getLogger("bentoml.serve").critical("%s", error)
            os._exit(1)  # an exception would be printed with three tracebacks


service: Any = Samedigit  # what the decorator made of the class; bentoml has no types for it


def _openapi() -> dict[str, Any]:
    document: dict[str, Any] = service.openapi_spec.asdict()
    return document


service.add_asgi_middleware(Door, served=served, openapi=_openapi)
