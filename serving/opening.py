"""Opens one model with one runtime, warms it, and measures its pace."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from digits.card import Score
from digits.contract import BACKENDS, SIDE, Backend
from digits.errors import DeviceError, NotInstalled
from digits.store import StoredModel
from runtimes.backends import Runtime, open_runtime
from runtimes.device import CPU, Device
from serving.batching import Batcher
from serving.choice import Chosen
from serving.pace import measure
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
    started = time.perf_counter()
    model, backend, _ = chosen
    runtime, device = _warm_runtime(chosen, settings)
    pace = measure(runtime, settings)
    log.info(
        "%s opened with %s on %s in %.1f s; batches of up to %d, %s",
        model.tag,
        backend,
        device,
        time.perf_counter() - started,
        pace.batch,
        f"in a thread those of more than {pace.short}" if pace.short < pace.batch else "none in a thread",
    )
    return Opened(model, backend, Batcher(runtime, settings, pace), device, model.card.scores[backend])


def import_frameworks(chosen: Sequence[Chosen], settings: Settings) -> None:
    """Brings in all that the runtimes of these models import, some of it not before a model runs, and freezes it.

    It lives as long as the process, and to look at it takes the garbage collector 1.5 s where all four backends are served.
    The models are opened after this and stay in the collector's sight, so that one that is closed is gone.

    Raises:
        SamedigitError: as `open_model`.
    """
    first = {one.backend: one for one in reversed(chosen)}
    for backend in BACKENDS:  # torch before TensorFlow, whose LLVM otherwise makes torch's abort
        if backend in first:
            _warm_runtime(first[backend], settings)
    gc.collect()
    gc.freeze()


def _warm_runtime(chosen: Chosen, settings: Settings) -> tuple[Runtime, Device]:
    model, backend, device = chosen
    if backend == "torch" and "tensorflow" in sys.modules and "torch" not in sys.modules:
        raise NotInstalled(
            "torch cannot be imported after TensorFlow, whose LLVM makes it abort. Start the server with both backends."
        )
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
    for size in WARM_UP_BATCHES:
        for _ in range(WARM_UP_CALLS):
            runtime.predict(np.zeros((size, SIDE, SIDE), np.uint8))
    return runtime, device
