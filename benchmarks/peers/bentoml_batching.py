"""bentoml's adaptive batching, with the settings that cost least, over the project's own runtimes.

python -m bentoml serve bentoml_batching:Batching, in the project's own environment. MODEL_ONNX, MODEL_TORCH and
MODEL_TENSORFLOW name the stored files; each backend that has one is served, batched and not. An image is 784 bytes in
base64: of what bentoml's API takes, the cheapest to read.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Final

import bentoml
import numpy as np

from runtimes.backends import Runtime, open_runtime
from runtimes.device import CPU

BATCHED: Final = {"batchable": True, "max_batch_size": 64, "max_latency_ms": 10_000}  # the latency is a timeout: 503


@bentoml.service(
    workers=1, tracing={"excluded_urls": ".*"}, logging={"access": {"enabled": False}}, traffic={"timeout": 30}
)
class Batching:
    def __init__(self) -> None:
        self.runtimes: dict[str, Runtime] = {
            backend: open_runtime(backend, Path(os.environ[f"MODEL_{backend.upper()}"]), device=CPU)
            for backend in ("torch", "tensorflow", "onnx")  # torch before TensorFlow, whose LLVM makes torch's abort
            if f"MODEL_{backend.upper()}" in os.environ
        }
        for runtime in self.runtimes.values():
            for size in (1, 2, 64):
                runtime.predict(np.zeros((size, 28, 28), np.uint8))

    @bentoml.api(**BATCHED)
    def torch(self, images: list[str]) -> list[list[float]]:
        return self._predict("torch", images)

    @bentoml.api(**BATCHED)
    def tensorflow(self, images: list[str]) -> list[list[float]]:
        return self._predict("tensorflow", images)

    @bentoml.api(**BATCHED)
    def onnx(self, images: list[str]) -> list[list[float]]:
        return self._predict("onnx", images)

    @bentoml.api
    def torch_unbatched(self, images: list[str]) -> list[list[float]]:
        return self._predict("torch", images)

    @bentoml.api
    def tensorflow_unbatched(self, images: list[str]) -> list[list[float]]:
        return self._predict("tensorflow", images)

    @bentoml.api
    def onnx_unbatched(self, images: list[str]) -> list[list[float]]:
        return self._predict("onnx", images)

    def _predict(self, backend: str, images: list[str]) -> list[list[float]]:
        pixels = np.frombuffer(b"".join(map(base64.b64decode, images)), np.uint8).reshape(-1, 28, 28)
        return self.runtimes[backend].predict(pixels).tolist()
