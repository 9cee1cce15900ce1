"""Clients of every behaviour side by side: those of `clients`, which speak HTTP/1.1, and of `http2_clients`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from benchmarks import clients, http2_clients

GOOD: Final[dict[str, clients.Behaviour]] = {
    "asks in binary": clients.asks_binary,
    "asks in JSON": clients.asks_json,
    "asks /predict": clients.asks_predict,
    "asks /classify": clients.asks_classify,
    "sends chunks": clients.sends_chunks,
    "pipelines": clients.pipelines,
    "half-closes": clients.half_closes,
    "sends slowly": clients.sends_slowly,
    "stays idle": clients.stays_idle,
    "scrapes": clients.scrapes,
    "asks over HTTP/2": http2_clients.asks,
    "calls over gRPC": http2_clients.calls,
    "streams over gRPC": http2_clients.streams,
}
BAD: Final[dict[str, clients.Behaviour]] = {
    "drops a body": clients.drops_body,
    "drops tiny chunks": clients.drops_tiny_chunks,
    "vanishes": clients.vanishes,
    "drops a picture": clients.drops_a_picture,
    "never reads": clients.never_reads,
    "talks garbage": clients.talks_garbage,
    "asks wrongly": clients.asks_wrongly,
    "cancels streams": http2_clients.cancels,
    "vanishes amid calls": http2_clients.vanishes,
    "leaves a call open": http2_clients.leaves_a_call_open,
    "never opens its window": http2_clients.never_opens_its_window,
    "floods": http2_clients.floods,
    "talks garbage in frames": http2_clients.talks_garbage,
    "calls wrongly": http2_clients.calls_wrongly,
}


class Crowd:
    """Clients of many behaviours side by side, each coming again with a new connection until it is told to stop."""

    def __init__(
        self, target: clients.Target, numbers: Mapping[str, int], *, pause_seconds: float, seed: int = 0
    ) -> None:
        """`numbers` of clients of each behaviour; each waits `pause_seconds` on average before it comes again."""
        self.tallies = {name: clients.Tally() for name in numbers}
        self._target = target
        self._numbers = numbers
        self._pause_seconds = pause_seconds
        self._seed = seed
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Until `stop`; visits under way are ended."""
        async with asyncio.TaskGroup() as group:
            for name, number in self._numbers.items():
                for client in range(number):
                    dice = random.Random(f"{self._seed} {name} {client}")
                    group.create_task(self._come_again(name, dice))

    async def _come_again(self, name: str, dice: random.Random) -> None:
        behaviour = (GOOD | BAD)[name]
        tally = self.tallies[name]
        while not self._stopped.is_set():
            tally.visits += 1
            try:
                await behaviour(self._target, dice, tally)
            except (clients.Fault, OSError, ValueError, KeyError) as error:
                if name in GOOD or not isinstance(error, OSError):
                    tally.fault(f"{name}: {error!r}")
                    if isinstance(error, clients.Lost):
                        tally.lost_at.append(time.monotonic())
            await asyncio.sleep(dice.expovariate(1 / self._pause_seconds))


def totals(tallies: Mapping[str, clients.Tally]) -> dict[str, Any]:
    """The tallies as JSON."""
    return {name: asdict(tally) for name, tally in tallies.items()}
