"""Opens one model with one runtime, and warms it."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from digits.card import Score
from digits.contract import SIDE, Backend
from digits.errors import DeviceError, NotInstalled
from digits.store import StoredModel
from runtimes.backends import open_runtime
from runtimes.device import CPU, Device
from serving.batching import Batcher
from serving.choice import Chosen
from serving.settings import Settings

WARM_UP_BATCHES: Final = (1, 2)  # the sizes at which some runtime builds or allocates something
WARM_UP_CALLS: Final = 3

log = logging.getLogger("samedigit")


@dataclass(frozen=True)
class Opened:
    model: StoredModel
    backend: Backend
    batcher: Batcher
    device: Device
    score: Score  # the stored one, of this backend's file

    @property
    def name(self) -> str:
        return f"{self.model.recipe}.{self.backend}"


def open_model(chosen: Chosen, settings: Settings) -> Opened:
    """The model, warm; on the CPU where the device was chosen automatically and this backend cannot use it.

    Raises:
        SamedigitError: its file is missing or changed, or its backend cannot use the device or be imported.
    """
    model, backend, device = chosen
    if backend == "torch" and "tensorflow" in sys.modules and "torch" not in sys.modules:
        raise NotInstalled(
            "torch cannot be imported after TensorFlow, whose LLVM makes it abort. Start the server with both backends."
        )
    started = time.perf_counter()
    model.verify(backend)
    path = model.path(backend)
    try:
        runtime = open_runtime(backend, path, device=device)
    except DeviceError as error:
        if settings.device != "auto":
            raise
        log.warning("%s Serving it from the CPU.", error)
        device = CPU
        runtime = open_runtime(backend, path, device=device)
    for size in (*WARM_UP_BATCHES, settings.max_batch):
        for _ in range(WARM_UP_CALLS):
            runtime.predict(np.zeros((size, SIDE, SIDE), np.uint8))
    log.info("%s opened with %s on %s in %.1f s", model.tag, backend, device, time.perf_counter() - started)
    return Opened(model, backend, Batcher(runtime, settings), device, model.card.scores[backend])
