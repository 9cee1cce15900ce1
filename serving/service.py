"""The BentoML service: `bentoml serve` in the project's root, or `samedigit serve`, starts it."""

from __future__ import annotations

from typing import Any

import bentoml

from serving.door import Door
from serving.served import ServedModels
from serving.settings import read_settings

served = ServedModels(read_settings())


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
        served.open()  # before BentoML says it is ready


def _openapi() -> dict[str, Any]:
    document: dict[str, Any] = Samedigit.openapi_spec.asdict()
    return document


Samedigit.add_asgi_middleware(Door, served=served, openapi=_openapi)
