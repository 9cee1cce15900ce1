"""A client that costs little, in a process of its own: any scenario over any protocol, every answer kept and then checked.

In the open scenario each request has its moment before the run begins, and its latency counts from that moment. What the
client itself adds to that is told: how long a request was due, and a connection free for it, before it was sent. The process
does not sleep unless told to; how much of its time found nothing to do says how far it is from its own limit.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import psutil

from digits import mnist
from loadtests.client import connect
from loadtests.protocols import ProtocolName, WrongAnswer
from loadtests.scenarios import Closed, Scenario, Times
from loadtests.wire import Connection, OutcomeName, Requests, closes, connection_of, digit, write_requests

CONNECTIONS: Final = 256  # at most, of an open loop; what is due while all are busy waits, and its latency grows
ANSWER_SECONDS: Final = 5.0  # after the last arrival, for what is still under way; then it has failed
SEND_BUFFER: Final = 1 << 20  # so that a whole request fits
READABLE: Final = 1  # of poll and epoll alike
FAILED, WRONG, RIGHT = range(3)
OUTCOMES: Final[tuple[OutcomeName, ...]] = ("failed", "wrong", "right")  # by these numbers
NAP_SECONDS: Final = 0.01  # at most, of a client that sleeps


@dataclass(frozen=True, kw_only=True)
class Load:
    url: str  # of the server: http:// or https://, a host and a port
    protocol: ProtocolName
    path: str
    scenario: Scenario
    seconds: float
    echo: bool = False  # whether ten equal probabilities are right
    seed: int = 0  # of the moments, and of the order of the images


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of every request, in the order in which they were sent; of `n` requests each array has `[n]`."""

    seconds: float  # in which they were due or, in a closed loop, sent
    due_s: Times  # from the beginning
    late_ms: Times  # by how much the client itself was late: from when a request was due and a connection free
    latency_ms: Times  # from `due_s`; of one that was never answered, until it was given up
    outcomes: npt.NDArray[np.int8]  # FAILED, WRONG or RIGHT
    first_failure: str | None
    busy: float  # share of its time in which the client had something to do, in [0, 1]
    unsent: int  # were due, but not sent before the end of all: they have failed, and are in the arrays


class Client:
    """The client's process."""

    def __init__(self, process: ProcessPoolExecutor, cores: list[int] | None) -> None:
        self._process = process
        self._cores = cores

    def offer(self, load: Load) -> Sent:
        """Runs it, and gives what became of it.

        Raises:
            OSError: the server cannot be reached.
        """
        return self._process.submit(_run, load, self._cores).result()


@contextmanager
def client(cores: list[int] | None) -> Iterator[Client]:
    """A process on `cores`, or anywhere, which keeps what it has prepared from one load to the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield Client(process, cores)


def _run(load: Load, cores: list[int] | None) -> Sent:
    if cores is not None:
        psutil.Process().cpu_affinity(cores)
    loop = Loop(load.url, _requests(load.protocol, urlsplit(load.url).netloc, load.path), load.scenario)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # answers are kept by the ten thousand, and looking through them would be a stall of the client's
    try:
        loop.run(load.seconds, seed=load.seed)
    finally:
        if collecting:
            gc.enable()
        loop.close()
    return _checked(load, loop)


@lru_cache(maxsize=4)  # some tens of MB each
def _requests(protocol: ProtocolName, host: str, path: str) -> Requests:
    return write_requests(protocol, host, path, mnist.test_images().images)


def _checked(load: Load, loop: Loop) -> Sent:
    labels = mnist.test_images().labels
    outcomes = np.full(len(loop.sent), FAILED, np.int8)
    first_failure = None
    for number, one in enumerate(loop.sent):
        try:
            if one.answer is None:
                raise WrongAnswer(one.failure)
            right = 0 if load.echo else labels[one.image]
            outcomes[number] = RIGHT if digit(load.protocol, one.answer) == right else WRONG
        except WrongAnswer as error:
            first_failure = first_failure or str(error)
    return Sent(
        seconds=loop.seconds,
        due_s=np.array([one.due for one in loop.sent]),
        late_ms=np.array([one.late for one in loop.sent]) * 1000,
        latency_ms=np.array([one.latency for one in loop.sent]) * 1000,
        outcomes=outcomes,
        first_failure=first_failure,
        busy=loop.busy,
        unsent=loop.unsent,
    )


@dataclass(slots=True)
class Asked:
    """One request. Seconds from the beginning, or of a time."""

    image: int  # its number in the requests
    due: float
    late: float
    latency: float = 0.0
    answer: bytes | None = None
    failure: str = "no answer before the end"


@dataclass(slots=True)
class _Line:
    """A connection, and what is under way on it."""

    socket: socket.socket
    wire: Connection
    free_since: float  # seconds from the beginning
    asked: Asked | None = None


class Loop:
    """One run, in this process: sends `requests` as `scenario` says. `sent` has what became of them."""

    def __init__(
        self,
        url: str,
        requests: Requests,
        scenario: Scenario,
        *,
        connections: int = CONNECTIONS,
        answer_seconds: float = ANSWER_SECONDS,
        sleeps: bool = False,
    ) -> None:
        """Connects.

        Args:
            connections: of an open loop: how many requests can be under way.
            answer_seconds: after the last request, for what is still under way; then it has failed.
            sleeps: until there is something to do, so that others may have its core: some 0.1 ms late then.

        Raises:
            OSError: the server cannot be reached.
        """
        self.sent: list[Asked] = []
        self.seconds = self.ended = self.busy = 0.0  # asked for, until the last answer, and as a share of `ended`
        self.unsent = self.reconnected = 0
        self._url, self._requests, self._scenario, self._answer_seconds = url, requests, scenario, answer_seconds
        self._sleeps = sleeps
        self._poll: Any = getattr(select, "epoll", select.poll)()
        self._lines: dict[int, _Line] = {}
        self._free: deque[_Line] = deque()
        self._began = 0.0
        for _ in range(scenario.users if isinstance(scenario, Closed) else connections):
            self._connect(0.0)

    def run(self, seconds: float, *, seed: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(self._requests)).tolist()
        due: deque[float] = deque()
        if not isinstance(self._scenario, Closed):
            due.extend(self._scenario.moments(seconds, seed=seed).tolist())
        closed = isinstance(self._scenario, Closed)
        sent, free, poll, clock, number = self.sent, self._free, self._poll.poll, time.perf_counter, 0
        began = self._began = before = clock()
        idle = 0.0
        while True:
            now = clock() - began
            worked = False
            if closed:
                while free and now < seconds:
                    self._send(free.popleft(), order[number % len(order)], now, now)
                    number, worked, now = number + 1, True, clock() - began
            else:
                while due and free and due[0] <= now:
                    self._send(free.popleft(), order[number % len(order)], due.popleft(), now)
                    number, worked, now = number + 1, True, clock() - began
            if self._sleeps:
                until = due[0] - clock() + began if due and free else NAP_SECONDS
                # epoll's own time is in whole milliseconds
                select.select([self._poll], [], [], min(NAP_SECONDS, max(0.0, until)))
            for file, _ in poll(0):
                self._receive(file)
                worked = True
            after = clock()
            if not worked:
                idle += after - before
            before = after
            now = after - began
            if now >= seconds and not due and len(free) == len(self._lines):
                break
            if now > seconds + self._answer_seconds:
                break
        ended = self.ended = clock() - began
        for line in self._lines.values():
            if line.asked is not None:
                line.asked.latency = ended - line.asked.due
        self.unsent = len(due)
        sent += (
            Asked(order[(number + i) % len(order)], moment, late=0.0, latency=ended - moment)
            for i, moment in enumerate(due)
        )
        self.seconds, self.busy = seconds, 1 - idle / ended

    def close(self) -> None:
        for line in self._lines.values():
            line.socket.close()
        self._lines.clear()

    def _connect(self, now: float) -> None:
        _, connection = connect(self._url)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        line = _Line(connection, connection_of(self._requests), now)
        connection.sendall(line.wire.greeting)
        self._poll.register(connection, READABLE)
        self._lines[connection.fileno()] = line
        self._free.append(line)

    def _send(self, line: _Line, image: int, due: float, now: float) -> None:
        line.asked = Asked(image, due, late=now - max(due, line.free_since))
        self.sent.append(line.asked)
        try:
            line.socket.sendall(line.wire.request(image))
        except OSError as error:
            self._end(line, f"the connection ended: {error}")

    def _receive(self, file: int) -> None:
        line = self._lines[file]
        try:
            piece = line.socket.recv(65_536)
            if not piece:
                raise ConnectionError("it was closed")
            answer = line.wire.receive(piece)
        except (OSError, WrongAnswer) as error:
            self._end(line, f"the connection ended: {error}")
            return
        now = time.perf_counter() - self._began
        if said := line.wire.to_send():
            line.socket.sendall(said)
        if answer is None or line.asked is None:
            return
        line.asked.answer = answer
        line.asked.latency = now - line.asked.due
        line.asked = None
        line.free_since = now
        if closes(answer):
            self._end(line, "")
        else:
            self._free.append(line)

    def _end(self, line: _Line, why: str) -> None:
        """Another connection in place of one that has ended; what was under way has failed."""
        now = time.perf_counter() - self._began
        if line.asked is not None:
            line.asked.failure, line.asked.latency = why, now - line.asked.due
        elif line in self._free:
            self._free.remove(line)
        del self._lines[line.socket.fileno()]
        self._poll.unregister(line.socket)
        line.socket.close()
        self.reconnected += 1
        self._connect(now)
