"""What the parts of the door give, side by side: how bytes reach it, and how what waits for a model is run.

    python -m benchmarks.door [--rounds N]

Without BentoML: one process a way, pinned to one core, the client to another. One image in a binary request, 1, 16 and 64
connections; a second each in every round, in random order; medians.

    at once     our HTTP machine; what waits runs on the event loop as soon as it has read what came: what Samedigit does
    uvicorn     the same door and batches as an ASGI callable on uvicorn, with httptools and uvloop
    uncounted   as at once, without metrics
    thread      every batch runs in a thread, as only long ones do otherwise
    window      a batch begins 1 ms after its first request came
    one by one  no batches
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import random
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import uvicorn
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import serving.opening
from benchmarks import serving_client
from benchmarks.serving_servers import started
from digits import mnist
from digits.contract import BACKENDS
from digits.store import find_model
from loadtests.server import Start, free_ports, on_cores
from runtimes.backends import Runtime, is_installed
from serving.batching import Batcher, Done
from serving.door import Door
from serving.messages import Answer, Exchange, Head
from serving.metrics import Metrics
from serving.models import ServedModels
from serving.pace import Pace
from serving.ports.connection import Connections
from serving.ports.data_port import DataPort
from serving.settings import Settings, read_settings
from serving.start import serve_environment

RECIPE: Final = "torch-relu"
CONNECTIONS: Final = (1, 16, 64)
WINDOW_SECONDS: Final = 0.001


class InThread(Batcher):
    def __init__(self, runtime: Runtime, settings: Settings, pace: Pace) -> None:
        super().__init__(runtime, settings, dataclasses.replace(pace, short=0))


class InWindow(Batcher):
    _timed = False

    def submit(self, images: Any, done: Done, *, exchange: Exchange, timeout_us: int = 0) -> None:
        super().submit(images, done, exchange=exchange, timeout_us=timeout_us)
        if not self._timed:
            self._timed = True
            asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._end)

    def _run(self) -> None:
        pass  # the window's end runs what waits

    def _end(self) -> None:
        self._timed = False
        super()._run()


class Uncounted(Metrics):
    def answered(self, exchange: Exchange, status: int) -> None:
        pass


WAYS: Final[dict[str, type[Batcher]]] = {
    "at once": Batcher,
    "uvicorn": Batcher,
    "uncounted": Batcher,
    "thread": InThread,
    "window": InWindow,
    "one by one": Batcher,
}


async def serve(way: str) -> None:
    settings = read_settings()
    setattr(serving.opening, "Batcher", WAYS[way])  # noqa: B010  # what it opens each model with
    models = ServedModels(settings)
    models.open()
    door = Door(models, metrics=Uncounted() if way == "uncounted" else Metrics())
    if way == "uvicorn":
        address: dict[str, Any] = {"host": settings.data_host, "port": settings.data_port}
        app = AsgiDoor(door)
        config = uvicorn.Config(app, http="httptools", lifespan="off", access_log=False, log_level="error", **address)
        await uvicorn.Server(config).serve()
        return
    connections = Connections(door, settings)
    connections.begin()
    await DataPort(connections, settings).open()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


class AsgiDoor:
    """The door as an ASGI application."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        headers = dict(scope["headers"])
        length = int(headers.get(b"content-length", 0))
        head = Head(scope["method"], scope["raw_path"], scope["path"], "", headers, False, length, True, False)
        exchange = Exchange(
            head, address=scope["client"][0], port="data", reply=lambda exchange, answer: answered.set_result(answer)
        )
        self._door.admit(exchange, foreign=False)
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        exchange.body = body
        self._door.handle(exchange)
        answer = await answered
        lines = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await send({"type": "http.response.body", "body": answer.body})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="seconds of each measurement (default 5)")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)  # what the processes measured are started with
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("this needs two cores, one for the server and one for the client")
    model = find_model(RECIPE)
    images = mnist.test_images().images[:256]
    backends = [backend for backend in BACKENDS if is_installed(backend)]
    rates: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
    p50: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        on_cores(cores[1:2]),
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        for backend in backends:
            ports = dict(zip(WAYS, free_ports(len(WAYS)), strict=True))
            starts = {}
            for way, port in ports.items():
                variables = {
                    "SAMEDIGIT_MODELS": model.tag,
                    "SAMEDIGIT_BACKENDS": backend,
                    "SAMEDIGIT_DATA_PORT": str(port),
                }
                if way == "one by one":
                    variables["SAMEDIGIT_MAX_BATCH"] = "1"
                command = [sys.executable, "-m", "benchmarks.door", "--serve", way]
                environment = serve_environment({**variables, "PYTHONPATH": str(Path(__file__).parent.parent)})
                ready = f"http://127.0.0.1:{port}/v2/health/ready"
                starts[way] = Start(command=command, environment=environment, ready=[ready])
            path = f"/v2/models/{RECIPE}.{backend}/infer"
            requests = Path(folder) / backend
            serving_client.write_requests(serving_client.v2_binary(path, images, [0] * len(images)), requests)
            with started(starts, cores=cores[:1], progress=progress) as servers:
                task = progress.add_task(backend, total=(arguments.rounds + 1) * len(WAYS) * len(CONNECTIONS))
                for round_ in range(arguments.rounds + 1):
                    cells = [(way, connections) for way in WAYS for connections in CONNECTIONS]
                    for way, connections in random.sample(cells, len(cells)):
                        servers[way].wake()
                        load = serving_client.load(
                            ports[way], requests, connections=connections, seconds=1, cores=cores[1:2]
                        )
                        servers[way].sleep()
                        if round_:  # the first warms up
                            rates[backend, way, connections].append(load.requests_per_second)
                            p50[backend, way, connections].append(load.p50_ms)
                        progress.advance(task)
    table = Table(title=f"binary requests of one image; {serving_client.client()}")
    table.add_column("backend")
    table.add_column("way")
    for connections in CONNECTIONS:
        table.add_column(f"{connections} connection{'s' if connections > 1 else ''},\nrequests/s", justify="right")
        table.add_column("p50,\nms", justify="right")
        table.add_column("x one\nby one", justify="right")
    for backend in backends:
        for way in WAYS:
            row = [backend, way]
            for connections in CONNECTIONS:
                rate = statistics.median(rates[backend, way, connections])
                alone = statistics.median(rates[backend, "one by one", connections])
                row += [
                    f"{rate:,.0f}",
                    f"{statistics.median(p50[backend, way, connections]):.3f}",
                    f"{rate / alone:.2f}",
                ]
            table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
