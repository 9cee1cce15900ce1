"""A model's pace, measured when it is opened: how many images run together, and which batches are too long for the event loop.

A dense net's time hardly grows with the batch; one with convolutions takes as long for each image whatever runs with it. So
batches grow only as far as they pay, and what takes longer than `SHORT_NS` runs in a thread (batching.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from digits.contract import SIDE
from runtimes.backends import Runtime
from serving.settings import Settings

SHORT_NS: Final = 1_000_000  # for which a batch may keep the event loop from everybody else
PAYS: Final = 1.1  # times the least time per image that larger batches give: what is within it gains nothing by growing
CALLS: Final = 7  # of each size; the shortest counts, so that a busy moment does not
SIZE_NS: Final = 20_000_000  # that the calls of one size may take, before there are fewer


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one opened model is."""

    batch: int  # images that run together
    piece: int  # images that the runtime is given at once: a larger request runs in pieces
    short: int  # images that take no longer than SHORT_NS; may be 0
    times_ns: dict[int, int]  # images in a batch -> how long it took


def measure(runtime: Runtime, settings: Settings) -> Pace:
    """Runs batches of 1, 2, 4, ... `max_batch` images, until one takes longer than `batch_budget_ms`.

    That takes a tenth of a second, and of slow models at most two batches more than SIZE_NS a size.

    Raises:
        Exception: whatever the runtime raises.
    """
    budget_ns = settings.batch_budget_ms * 1_000_000
    times_ns: dict[int, int] = {}
    size = 1
    while size <= settings.max_batch:
        times_ns[size] = _shortest_ns(runtime, size)
        if times_ns[size] > budget_ns or size == settings.max_batch:
            break
        size = min(2 * size, settings.max_batch)
    return pace_of(times_ns, budget_ns=budget_ns)


def _shortest_ns(runtime: Runtime, size: int) -> int:
    images = np.zeros((size, SIDE, SIDE), np.uint8)
    taken: list[int] = []
    while len(taken) < 2 or (len(taken) < CALLS and sum(taken) < SIZE_NS):
        before = time.monotonic_ns()
        runtime.predict(images)
        taken.append(time.monotonic_ns() - before)
    return max(1, min(taken))


def pace_of(times_ns: dict[int, int], *, budget_ns: int) -> Pace:
    """What follows from the times of batches: at least of one image, sizes rising.

    A batch may have as many images as are short, since fewer turns of the loop cost the server less, and more only if each
    then takes noticeably less time, within the budget. One image runs however long it takes.
    """
    piece = max((size for size, ns in times_ns.items() if ns <= budget_ns), default=1)
    per_image = {size: ns / size for size, ns in times_ns.items() if size <= piece}
    pays = next(size for size, ns in per_image.items() if ns <= PAYS * min(per_image.values()))
    short = _short(times_ns)
    return Pace(batch=max(pays, min(short, piece)), piece=piece, short=short, times_ns=times_ns)


def _short(times_ns: dict[int, int]) -> int:
    """How many images take SHORT_NS: between two sizes, or beyond the largest, in proportion."""
    below, below_ns = 0, 0
    for size, ns in times_ns.items():
        if ns > SHORT_NS:
            return below if below == 0 else below + (size - below) * (SHORT_NS - below_ns) // (ns - below_ns)
        below, below_ns = size, ns
    return below * SHORT_NS // below_ns
