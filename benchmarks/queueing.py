"""A model of servers as queues, to ask what no machine here can show: many of them, and a number that changes with the load.

A worker runs what waits for it in batches, one after the other: a batch of n requests takes `turn + each * n`, and what comes
meanwhile waits for the next (bulk service: Bailey 1954, "On Queueing Processes with Bulk Service"). Arrivals are Poisson's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a worker takes for its work, in seconds."""

    turn: float  # for a batch, whatever is in it
    each: float  # for each request in it
    batch: int  # requests that run together
    waiting: int  # that may wait; more are shed

    @property
    def rate(self) -> float:
        """Requests a second that it carries at most."""
        return self.batch / (self.turn + self.each * self.batch)


@dataclass(slots=True)
class Worker:
    """One worker, between two looks at it."""

    service: Service
    free: float = 0.0  # when it has done what it began
    waiting: deque[float] = field(default_factory=deque)  # when each came

    def work(self, arrivals: Sequence[float], until: float) -> tuple[list[float], int]:
        """Takes arrivals, in order of time, and works until nothing can begin before `until`.

        Returns:
            The latency of each that was answered, in seconds, and how many were shed.
        """
        service, waiting = self.service, self.waiting
        latencies: list[float] = []
        shed = following = 0
        while True:
            if not waiting:
                if following == len(arrivals):
                    break
                self.free = max(self.free, arrivals[following])
            if self.free >= until:
                break
            while following < len(arrivals) and arrivals[following] <= self.free:
                shed += self._turned_away(arrivals[following])
                following += 1
            number = min(len(waiting), service.batch)
            self.free += service.turn + service.each * number
            latencies += [self.free - waiting.popleft() for _ in range(number)]
        shed += sum(self._turned_away(came) for came in arrivals[following:])
        return latencies, shed

    def _turned_away(self, came: float) -> bool:
        """Whether there is no room for who came then; else it waits."""
        if len(self.waiting) == self.service.waiting:
            return True
        self.waiting.append(came)
        return False


def poisson(rate: float, start: float, stop: float, random: np.random.Generator) -> Times:
    """Moments of arrivals between two times."""
    number = random.poisson(rate * (stop - start))
    return np.sort(random.uniform(start, stop, number))


def latencies(service: Service, *, rate: float, workers: int, seconds: float, seed: int = 0) -> tuple[Times, int]:
    """Of requests at `rate` a second in all, each sent to a worker by chance; and how many were shed."""
    random = np.random.default_rng(seed)
    answered: list[float] = []
    shed = 0
    for _ in range(workers):
        found, refused = Worker(service).work(poisson(rate / workers, 0, seconds, random).tolist(), math.inf)
        answered += found
        shed += refused
    return np.array(answered), shed


# Autoscaling: as Kubernetes' HorizontalPodAutoscaler does, with deploy/kubernetes' numbers.

PERIOD: Final = 15.0  # seconds between two decisions
MEAN_OF: Final = 4  # periods, of the metric: a minute
TARGET: Final = 4.0  # requests in flight in a pod
TOLERANCE: Final = 0.1  # within which nothing changes
LEAST: Final = 2  # pods
MOST: Final = 10
DOWN_AFTER: Final = 20  # periods for which fewer must do: five minutes
DOWN_EVERY: Final = 4  # periods between two pods that go: a minute


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A period of a burst."""

    at: float  # its beginning, in seconds
    offered: float  # requests a second
    pods: int  # that took requests
    p99: float  # seconds; NaN where nothing was answered
    shed: float  # share of what was offered


def burst(
    service: Service,
    rate_at: Callable[[float], float],
    *,
    seconds: float,
    connection_seconds: float | None = None,
    connections: int = 256,
    seed: int = 0,
) -> list[Moment]:
    """What an autoscaled service does under a rate that changes.

    A pod that is decided on takes requests from the next decision on: within 15 s it is scheduled, started and found ready.

    Args:
        service: of each pod.
        rate_at: requests a second, at a time.
        seconds: how long.
        connection_seconds: how long a client keeps a connection, and with it a pod, on average; None: a proxy chooses for
            each request.
        connections: of all clients.
        seed: of everything that is left to chance.
    """
    random = np.random.default_rng(seed)
    pods = [Worker(service) for _ in range(LEAST)]
    of_connection = random.integers(len(pods), size=connections)
    in_flight: deque[float] = deque([0.0] * MEAN_OF, maxlen=MEAN_OF)
    wished: deque[int] = deque([LEAST], maxlen=DOWN_AFTER)
    since_down, ordered = DOWN_EVERY, LEAST
    moments = []
    for period in range(round(seconds / PERIOD)):
        at = period * PERIOD
        while len(pods) < ordered:
            pods.append(Worker(service, free=at))
        rate = rate_at(at)
        arrivals = poisson(rate, at, at + PERIOD, random)
        if connection_seconds is None:
            chosen = random.integers(len(pods), size=len(arrivals))
        else:
            renewed = random.random(connections) < 1 - math.exp(-PERIOD / connection_seconds)
            renewed |= of_connection >= len(pods)  # whose pod is gone
            of_connection[renewed] = random.integers(len(pods), size=int(renewed.sum()))
            chosen = of_connection[random.integers(connections, size=len(arrivals))]
        answered: list[float] = []
        shed = 0
        for number, pod in enumerate(pods):
            found, refused = pod.work(arrivals[chosen == number].tolist(), at + PERIOD)
            answered += found
            shed += refused
        p99 = float(np.percentile(answered, 99)) if answered else math.nan
        moments.append(Moment(at=at, offered=rate, pods=len(pods), p99=p99, shed=shed / max(1, len(arrivals))))
        in_flight.append(sum(answered) / PERIOD / len(pods))  # Little's law
        ratio = float(np.mean(in_flight)) / TARGET
        wish = ordered if abs(ratio - 1) <= TOLERANCE else math.ceil(ordered * ratio)
        wished.append(min(MOST, max(LEAST, wish)))
        since_down += 1
        if wished[-1] > ordered:
            ordered = min(wished[-1], 2 * ordered)
        elif max(wished) < ordered and since_down >= DOWN_EVERY:
            ordered, since_down = ordered - 1, 0
            del pods[ordered:]
    return moments
