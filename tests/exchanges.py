"""Exchanges as a port makes them, for what looks at them once they are answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from serving.messages import Exchange, Head

INFER: Final = "/v2/models/{model}/infer"


def exchange(
    *,
    method: str = "POST",
    path: str = "/v2/models/torch-relu.onnx/infer",
    route: str = INFER,
    headers: Mapping[bytes, bytes] | None = None,
    took_ns: int = 0,
) -> Exchange:
    """One without a model, whose head was read `took_ns` ago."""
    head = Head(method, path.encode("utf-8", "replace"), path, "", headers or {}, False, 0, True, False)
    made = Exchange(head, address="192.0.2.7", port="data", reply=lambda exchange, answer: None)
    made.route = route
    made.began_ns = time.monotonic_ns() - took_ns
    return made


def inference(
    *,
    model: str = "torch-relu.onnx",
    version: str = "abc",
    images: int = 1,
    queue_ns: int = 30_000,
    run_ns: int = 20_000,
    took_ns: int = 400_000,
    headers: Mapping[bytes, bytes] | None = None,
) -> Exchange:
    """One that a model answered."""
    made = exchange(took_ns=took_ns, headers=headers)
    made.model, made.version, made.images = model, version, images
    made.queue_ns, made.run_ns = queue_ns, run_ns
    return made
