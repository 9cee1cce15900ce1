"""Requests that arrive by themselves, twice as many as a server carries: which it took, which it shed, and how fast."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np
import psutil

from loadtests.arrivals import Loop
from loadtests.scenarios import Closed, Open, Times
from loadtests.wire import END_OF_HEAD, Requests

SHED: Final = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """What is sent to `port`, and how."""

    port: int
    requests: Sequence[bytes]  # whole, in turn
    endings: Sequence[bytes]  # of the right answer to each
    rate: float | None  # a second; None: a closed loop, in which every connection asks again once it is answered
    seconds: float
    connections: int
    seed: int = 0
    cores: list[int] | None = None
    sleeps: bool = False  # until there is something to do, so that others may have its core: some 0.1 ms late then
    priority: int | None = None  # real-time (SCHED_RR); None: that of whoever starts it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of every arrival. Latencies in ms, from the intended moment, in the order of the answers."""

    seconds: float  # until the last answer
    accepted_ms: Times
    shed_ms: Times  # 429 or 503 with Retry-After
    late_ms: Times  # by how much the client itself was late with each
    wrong: int  # 200 with another answer
    refused: int  # any other status, or shed without Retry-After
    lost: int  # not answered
    reconnected: int
    busy: float  # share of its time in which the client had something to do, in [0, 1]


def offer(arrivals: Arrivals) -> Outcome:
    """Sends `arrivals` from a process of its own, on its own core.

    Raises:
        OSError: the server cannot be reached.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run, arrivals).result()


def _run(arrivals: Arrivals) -> Outcome:
    if arrivals.cores is not None:
        psutil.Process().cpu_affinity(arrivals.cores)
    if arrivals.priority is not None:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(arrivals.priority))
    loop = Loop(
        f"http://127.0.0.1:{arrivals.port}",
        Requests("v2-binary", arrivals.requests),
        Closed(arrivals.connections) if arrivals.rate is None else Open(arrivals.rate),
        connections=arrivals.connections,
        sleeps=arrivals.sleeps,
    )
    try:
        loop.run(arrivals.seconds, seed=arrivals.seed)
    finally:
        loop.close()
    accepted: list[float] = []
    shed: list[float] = []
    wrong = refused = lost = 0
    for one in loop.sent:
        if one.answer is None:
            lost += 1
            continue
        head, _, body = one.answer.partition(END_OF_HEAD)
        status = int(head[9:12])
        if status == 200 and body.endswith(arrivals.endings[one.image]):
            accepted.append(one.latency)
        elif status == 200:
            wrong += 1
        elif status in SHED and b"\r\nretry-after: " in head.lower():
            shed.append(one.latency)
        else:
            refused += 1
    return Outcome(
        seconds=loop.ended,
        accepted_ms=np.array(accepted) * 1000,
        shed_ms=np.array(shed) * 1000,
        late_ms=np.array([one.late for one in loop.sent]) * 1000,
        wrong=wrong,
        refused=refused,
        lost=lost,
        reconnected=loop.reconnected,
        busy=loop.busy,
    )
