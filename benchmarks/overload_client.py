"""Requests that arrive by themselves, whatever becomes of those before them: an open loop, in a process of its own.

Each arrival has its moment before the run begins (exponential gaps, seeded), and its latency counts from that moment, not from
when the client got round to sending it: what the client or the server delays is in the figures. The process never sleeps unless
it shares its core; how much of its time found nothing to do says how far it is from its own limit.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil

SHED: Final = (429, 503)
ANSWER_SECONDS: Final = 10  # after the last arrival, for what is still under way
SEND_BUFFER: Final = 1 << 20
NAP_SECONDS: Final = 0.01

Times = npt.NDArray[np.float64]


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
    late_ms: Times  # how long after its moment each was sent
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


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    received: bytes = b""
    request: int = -1  # under way, or -1
    began: float = 0  # its moment


def _run(arrivals: Arrivals) -> Outcome:
    if arrivals.cores is not None:
        psutil.Process().cpu_affinity(arrivals.cores)
    if arrivals.priority is not None:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(arrivals.priority))
    client = _Client(arrivals)
    client.run()
    return client.outcome()


class _Client:
    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._free: deque[int] = deque()
        for _ in range(arrivals.connections):
            self._connect()
        self._accepted: list[float] = []
        self._shed: list[float] = []
        self._late: list[float] = []
        self._wrong = self._refused = self._lost = self._reconnected = self._sent = 0
        self._idle = self._seconds = 0.0

    def run(self) -> None:
        arrivals = self._arrivals
        clock = time.perf_counter
        moments: Times = np.zeros(0)
        if arrivals.rate is not None:
            gaps = np.random.default_rng(arrivals.seed).exponential(
                1 / arrivals.rate, int(arrivals.rate * arrivals.seconds)
            )
            moments = np.cumsum(gaps)
        began = clock()
        due = deque((moments + began).tolist())
        end = began + arrivals.seconds
        if due:
            end = due[-1]
        before = clock()
        while True:
            now = clock()
            sent = self._sent
            if arrivals.rate is None:
                while self._free and now < end:
                    self._send(self._free.popleft(), now, now)
            else:
                while due and self._free and due[0] <= now:
                    self._send(self._free.popleft(), due.popleft(), now)
                    now = clock()
            if arrivals.sleeps:
                until = due[0] if due and self._free else clock() + NAP_SECONDS
                select.select(
                    [self._poll], [], [], min(NAP_SECONDS, max(0.0, until - clock()))
                )  # epoll's own is in whole ms
            events = self._poll.poll(0)
            for file, _ in events:
                self._receive(file, clock)
            after = clock()
            if not events and self._sent == sent:
                self._idle += after - before
            before = after
            if not due and after >= end:
                under_way = sum(connection.request >= 0 for connection in self._connections.values())
                if under_way == 0 or after > end + ANSWER_SECONDS:
                    self._lost += under_way
                    break
        self._seconds = before - began

    def outcome(self) -> Outcome:
        for connection in self._connections.values():
            connection.socket.close()
        return Outcome(
            seconds=self._seconds,
            accepted_ms=np.array(self._accepted) * 1000,
            shed_ms=np.array(self._shed) * 1000,
            late_ms=np.array(self._late) * 1000,
            wrong=self._wrong,
            refused=self._refused,
            lost=self._lost,
            reconnected=self._reconnected,
            busy=1 - self._idle / self._seconds,
        )

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._arrivals.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # so that a whole request fits
        self._poll.register(connection, select.EPOLLIN)
        self._connections[connection.fileno()] = _Connection(connection)
        self._free.append(connection.fileno())

    def _send(self, file: int, moment: float, now: float) -> None:
        connection = self._connections[file]
        connection.request = self._sent % len(self._arrivals.requests)
        connection.began = moment
        self._sent += 1
        self._late.append(now - moment)
        try:
            connection.socket.sendall(self._arrivals.requests[connection.request])
        except OSError:
            self._close(connection)

    def _receive(self, file: int, clock: object) -> None:
        connection = self._connections.get(file)
        if connection is None:
            return
        try:
            piece = connection.socket.recv(65536)
        except OSError:
            piece = b""
        if not piece:
            self._close(connection)
            return
        answer = connection.received + piece if connection.received else piece
        head = answer.find(b"\r\n\r\n")
        start = answer.find(b"content-length: ")
        if head < 0 or len(answer) < head + 4 + int(answer[start + 16 : answer.index(b"\r", start)]):
            connection.received = answer
            return
        connection.received = b""
        latency = time.perf_counter() - connection.began
        status = int(answer[9:12])
        if status == 200:
            if answer.endswith(self._arrivals.endings[connection.request]):
                self._accepted.append(latency)
            else:
                self._wrong += 1
        elif status in SHED and b"\r\nretry-after: " in answer[:head]:
            self._shed.append(latency)
        else:
            self._refused += 1
        connection.request = -1
        if b"\r\nconnection: close" in answer[:head]:
            self._close(connection)
        else:
            self._free.append(file)

    def _close(self, connection: _Connection) -> None:
        if connection.request >= 0:
            self._lost += 1
        file = connection.socket.fileno()
        self._poll.unregister(file)
        del self._connections[file]
        if file in self._free:
            self._free.remove(file)
        connection.socket.close()
        self._reconnected += 1
        self._connect()
