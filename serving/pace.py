"""A model's pace, measured when it is opened: how many images run together, and which batches are too long for the event loop.

A dense net's time hardly grows with the batch; one with convolutions takes as long for each image whatever runs with it. So
batches grow only as far as they pay, and what takes long runs in a thread (batching.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from digits.contract import SIDE
from runtimes.backends import Runtime
from serving.settings import Settings

# A model is slow if an image takes it longer, in the best of batches, than a request takes the loop: then the loop would be
# kept by the model most of the time, and a thread costs little beside it. Of the others only what is asked for in hundreds of
# images takes a millisecond, and a thread would cost a fifth of their rate (benchmarks/README.md).
SLOW_IMAGE_NS: Final = 30_000
SHORT_NS: Final = (
    1_000_000  # for which a batch may keep the loop from everybody else; SOON_NS of admission (batching.py)
)
SHORT_OF_SLOW_NS: Final = 300_000  # the same for a slow model, whose batches come one after the other
TURN_NS: Final = 100_000  # what a batch costs the server besides: a turn of the loop, and the thread's
PAYS: Final = 1.1  # times the least that an image takes in any batch: what is within it gains nothing by growing
CALLS: Final = 7  # of each size; the shortest counts, so that a busy moment does not
SIZE_NS: Final = 20_000_000  # that the calls of one size may take, before there are fewer


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one opened model is."""

    batch: int  # images that run together
    piece: int  # images that the runtime is given at once: a larger request runs in pieces
    short: int  # images that the event loop has time for; may be 0
    times_ns: dict[int, int]  # images in a batch -> how long it took


def measure(runtime: Runtime, settings: Settings) -> Pace:
    """Runs batches of 1, 2, 4, ... `max_batch` images, until one takes longer than `batch_budget_ms`.

    That takes a tenth of a second, and of slow models at most two batches more than SIZE_NS a size. Where a batch is not short
    and gained nothing over its halves, larger ones are taken to be the same: with convolutions, a batch of 128 would have
    onnxruntime keep 40 MB that no later batch needs.

    Raises:
        Exception: whatever the runtime raises.
    """
    budget_ns = settings.batch_budget_ms * 1_000_000
    times_ns = {1: _shortest_ns(runtime, 1)}
    size, gains = 1, True
    while size < settings.max_batch and times_ns[size] <= budget_ns:
        half, size = size, min(2 * size, settings.max_batch)
        # No longer than its halves in turn: what says otherwise is a busy moment, or a library's threads in each other's way.
        times_ns[size] = halves_ns = 2 * times_ns[half]
        if gains:
            times_ns[size] = min(_shortest_ns(runtime, size), halves_ns)
            gains = times_ns[size] <= SHORT_NS or PAYS * times_ns[size] < halves_ns
        for smaller in times_ns:
            times_ns[smaller] = min(times_ns[smaller], times_ns[size])  # what is smaller takes no longer
    return pace_of(
        times_ns,
        budget_ns=budget_ns,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _shortest_ns(runtime: Runtime, size: int) -> int:
    images = np.zeros((size, SIDE, SIDE), np.uint8)
    taken: list[int] = []
    while len(taken) < 2 or (len(taken) < CALLS and sum(taken) < SIZE_NS):
        before = time.monotonic_ns()
        runtime.predict(images)
        taken.append(time.monotonic_ns() - before)
    return max(1, min(taken))


def pace_of(times_ns: dict[int, int], *, budget_ns: int, cores: int) -> Pace:
    """What follows from the times of batches: of one image and more, sizes and times rising.

    A batch may have as many images as take SHORT_NS, and more only if each then takes noticeably less, within the budget. One
    image runs however long it takes. A slow model's large requests run in pieces of a batch, which costs nothing and bounds
    its memory. With one core a thread frees nothing, and there a slow model keeps to short batches.
    """
    piece = max((size for size, ns in times_ns.items() if ns <= budget_ns), default=1)
    at_once = {size: ns for size, ns in times_ns.items() if size <= piece}
    costs = {size: (ns + TURN_NS) / size for size, ns in at_once.items()}
    pays = next(size for size, cost in costs.items() if cost <= PAYS * min(costs.values()))
    whole = max((size for size, ns in at_once.items() if ns <= SHORT_NS), default=0)
    is_slow = min(ns / size for size, ns in at_once.items()) > SLOW_IMAGE_NS
    if is_slow and cores == 1 and whole:
        return Pace(batch=whole, piece=whole, short=_images_in(SHORT_NS, times_ns), times_ns=times_ns)
    short, batch = _images_in(SHORT_OF_SLOW_NS if is_slow else SHORT_NS, times_ns), max(pays, whole)
    return Pace(batch=batch, piece=batch if is_slow else piece, short=short, times_ns=times_ns)


def _images_in(limit_ns: int, times_ns: dict[int, int]) -> int:
    """How many images take so long: between two sizes, or beyond the largest, in proportion; 0 if one takes longer."""
    below, below_ns = 0, 0
    for size, ns in times_ns.items():
        if ns > limit_ns:
            return below if below == 0 else below + (size - below) * (limit_ns - below_ns) // (ns - below_ns)
        below, below_ns = size, ns
    return below * limit_ns // below_ns
