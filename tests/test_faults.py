"""Good clients beside bad ones, killed workers, replaced models and overload: what the good ones are answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import uvloop
from conftest import Expected, python, require, require_recipe
from servers import Server, folder_of, serving

from benchmarks.clients import Connection, Lost, Target, connect
from benchmarks.crowd import BAD, Crowd
from benchmarks.http2_clients import SHED_CODES, Reply, Streams, call, digits_of
from benchmarks.overload import write_requests
from benchmarks.serving_client import MODEL_INFER
from digits.mnist import LabelledImages
from serving.protocols.grpc import PREFIX, Code, framed
from serving.protocols.v2_grpc import INFER, RESPONSE

RECIPE: Final = "torch-relu"
REQUESTS: Final = 100_000
GOOD_ON_DATA: Final = 12  # connections
GOOD_ON_API: Final = 4
GOOD_IN_CALLS: Final = 4  # connections of gRPC
AT_ONCE: Final = 4  # calls on one of them
OVERLOADING: Final = 110  # connections, each with 64 images a request
OVERLOADING_IN_CALLS: Final = 10  # connections with AT_ONCE such calls each
WRITTEN_SECONDS: Final = 3  # after which each worker has written its numbers down for the other
SEEN_SECONDS: Final = 0.2  # after which a client has seen that its connection is gone
NEW: Final = "newversion"
BROKEN: Final = "brokenversion"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Good:
    """Clients that ask for raw images' digits on connections that they keep, and what they were answered."""

    requests: list[bytes]
    endings: list[bytes]
    calls: list[tuple[bytes, list[int]]]  # messages of ModelInfer, and the right digits
    right: int = 0
    shed: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[tuple[float, float]] = field(default_factory=list)  # when it was sent, and when that was known
    versions: Counter[bytes] = field(default_factory=Counter)
    asked: int = 0

    async def ask(self, port: int, stop: Callable[[], bool]) -> None:
        """Asks one request after the other, with a new connection once one is lost."""
        while not stop():
            try:
                connection = await connect(port)
            except OSError:  # to the socket of a worker that has just died; nothing was asked
                await asyncio.sleep(0.01)
                continue
            try:
                await self._ask(connection, stop)
            except (Lost, OSError) as error:
                if not self.lost:
                    print(f"first lost: {error!r}")
            finally:
                connection.writer.close()

    async def _ask(self, connection: Connection, stop: Callable[[], bool]) -> None:
        while not stop():
            number = self.asked % len(self.requests)
            self.asked += 1
            sent = time.monotonic()
            try:
                connection.write(self.requests[number])
                answer = await connection.answer()
            except (Lost, OSError):
                self.lost.append((sent, time.monotonic()))
                raise
            if answer.status == 200:
                if answer.body.endswith(self.endings[number]):
                    self.right += 1
                else:
                    self.wrong.append(f"other digits: {answer.body[-80:]!r}")
                version = re.search(rb'"model_version":"(\w+)"', answer.body)
                self.versions[version[1] if version else b""] += 1
            elif answer.status in (429, 503) and b"retry-after" in answer.headers:
                self.shed += 1
            else:
                self.wrong.append(f"{answer.status}: {answer.body!r}")

    async def call(self, port: int, stop: Callable[[], bool]) -> None:
        """Asks by gRPC, AT_ONCE calls on a connection."""
        while not stop():
            try:
                streams = await Streams.open(port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                while not stop():
                    await self._call(streams)
            except (Lost, OSError) as error:
                print(f"lost: {error!r}")
            finally:
                streams.close()

    async def _call(self, streams: Streams) -> None:
        left = deque(self.calls[(self.asked + one) % len(self.calls)] for one in range(AT_ONCE))
        self.asked += AT_ONCE
        sent = time.monotonic()
        try:
            numbers = [await streams.ask(call(MODEL_INFER), message) for message, _ in left]
            for number in numbers:
                reply = await streams.reply(number)
                self._read(reply, left.popleft()[1])
        except (Lost, OSError):
            self.lost += [(sent, time.monotonic())] * len(left)
            raise

    def _read(self, reply: Reply, digits: list[int]) -> None:
        if reply.code == Code.OK:
            response = RESPONSE.FromString(reply.body[PREFIX:])
            if digits_of(response) == digits:
                self.right += 1
            else:
                self.wrong.append(f"other digits than {digits[:10]} by gRPC")
            self.versions[response.model_version.encode()] += 1
        elif reply.code in SHED_CODES and b"grpc-retry-pushback-ms" in reply.headers:
            self.shed += 1
        else:
            self.wrong.append(f"{reply.headers}")


@pytest.fixture(scope="module")
def home(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own with one recipe, to which versions are added."""
    require("onnxruntime")
    require_recipe(RECIPE)
    home = tmp_path_factory.mktemp("faults")
    shutil.copytree(trained_home / "models" / RECIPE, home / "models" / RECIPE)
    return home


@pytest.fixture(scope="module")
def first_version(home: Path) -> str:
    return folder_of(home, RECIPE).name


@pytest.fixture(scope="module")
def server(home: Path, first_version: str) -> Iterator[Server]:
    environment = {
        "SAMEDIGIT_BACKENDS": "onnx",
        "SAMEDIGIT_MODELS": RECIPE,
        "SAMEDIGIT_WORKERS": "2",
        "SAMEDIGIT_WATCH": "on",
    }
    with serving(home, environment) as server:
        yield server


@pytest.fixture(scope="module")
def target(server: Server, test_set: LabelledImages, expected: Expected) -> Target:
    digits: npt.NDArray[np.int64] = expected(RECIPE, 1000).argmax(axis=1)
    return Target(
        api_port=server.port,
        data_port=server.data_port,
        model=f"{RECIPE}.onnx",
        images=test_set.images[:1000],
        digits=digits,
    )


def good(target: Target, *, batch: int = 1) -> Good:
    requests, endings = write_requests(target.model, target.images, target.digits, batch=batch)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [batch, 28, 28]}
    calls = []
    for start in range(0, len(target.images) - batch + 1, batch):
        images, digits = target.images[start : start + batch], target.digits[start : start + batch]
        message = INFER(model_name=target.model, inputs=[tensor], raw_input_contents=[images.tobytes()])
        calls.append((framed(message.SerializeToString()), digits.tolist()))
    return Good(requests, endings, calls)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def workers(server: Server) -> list[psutil.Process]:
    """Those that listen on the data plane's port, the oldest first."""
    found = []
    for process in server.started.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            listening = {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
            if server.data_port in listening:
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


async def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def kill_one(server: Server) -> tuple[float, float]:
    """Kills the older worker, and gives when, and when it was gone; returns once there are two again."""
    await until(lambda: len(workers(server)) == 2, "two workers")
    victim = (await asyncio.to_thread(workers, server))[0]
    began = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        while victim.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.001)
    ended = time.monotonic()
    await until(lambda: len(workers(server)) == 2, "a worker in its place")
    return began, ended


def store(home: Path, first: str, name: str) -> Path:
    """Another version of the recipe, with the same files."""
    folder = home / "models" / RECIPE / name
    beside = home / name
    shutil.copytree(home / "models" / RECIPE / first, beside)
    card = beside / "model.yaml"
    card.write_text(card.read_text().replace(f"version: {first}", f"version: {name}"))
    beside.rename(folder)
    return folder


def promote(home: Path, version: str) -> None:
    python(
        "import sys; from digits.store import promote; promote(sys.argv[1])",
        f"{RECIPE}:{version}",
        environment={"BENTOML_HOME": str(home)},
    )


def shed_of(server: Server) -> int:
    """How many requests the server says it has turned away, in all workers together."""
    with server.client() as client:
        text = client.get("/metrics").text
    return sum(int(float(count)) for count in re.findall(r"^samedigit_shed_total\{[^}]*\} (\S+)$", text, re.MULTILINE))


def test_of_100_000_good_requests_every_answer_is_right_and_none_is_lost_but_those_in_flight_at_a_kill(
    server: Server, target: Target, home: Path, first_version: str
) -> None:
    asking = good(target)
    kills: list[tuple[float, float]] = []
    crowd = Crowd(target, dict.fromkeys(BAD, 3), pause_seconds=0.1)

    def stop() -> bool:
        return asking.asked >= REQUESTS and done.is_set()

    async def when(share: float) -> None:
        while asking.asked < share * REQUESTS:
            await asyncio.sleep(0.02)

    async def misfortunes() -> None:
        await when(0.1)
        kills.append(await kill_one(server))
        await when(0.3)
        kills.append(await kill_one(server))
        await when(0.5)
        store(home, first_version, NEW)
        await asyncio.to_thread(promote, home, NEW)
        await until(lambda: asking.versions[NEW.encode()] > 0, "the promoted version is served")
        await when(0.7)
        (store(home, first_version, BROKEN) / "model.onnx").write_bytes(b"no model")
        (home / "models" / RECIPE / "promoted").write_text(BROKEN)
        await asyncio.sleep(2)
        done.set()

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.run())
            group.create_task(misfortunes())
            ports = [target.data_port] * GOOD_ON_DATA + [target.api_port] * GOOD_ON_API
            clients = [group.create_task(asking.ask(port, stop)) for port in ports]
            clients += [group.create_task(asking.call(target.data_port, stop)) for _ in range(GOOD_IN_CALLS)]
            await asyncio.wait(clients)
            crowd.stop()

    done = asyncio.Event()
    run(test)
    assert asking.wrong == []
    assert asking.asked >= REQUESTS
    assert asking.right + asking.shed + len(asking.lost) == asking.asked
    at_kills = [
        sum(sent < ended + SEEN_SECONDS and known > began for sent, known in asking.lost) for began, ended in kills
    ]
    assert sum(at_kills) == len(asking.lost), (asking.lost, kills)
    # Of each client one, and once more if it came anew while the dead worker's socket still took connections.
    assert max(at_kills) <= 2 * (GOOD_ON_DATA + GOOD_ON_API + AT_ONCE * GOOD_IN_CALLS)
    assert set(asking.versions) == {first_version.encode(), NEW.encode()}
    for tally in crowd.tallies.values():
        at_a_kill = [any(began < known < ended + 1 for began, ended in kills) for known in tally.lost_at]
        assert sum(at_a_kill) == tally.failed, tally.faults
    assert all(tally.visits > 5 for tally in crowd.tallies.values())


def test_under_overload_every_shed_request_is_counted_and_every_other_answer_is_right(
    server: Server, target: Target
) -> None:
    asking, overloading = good(target), good(target, batch=64)
    time.sleep(WRITTEN_SECONDS)
    before = shed_of(server)
    seconds = 5

    async def test() -> None:
        end = time.monotonic() + seconds
        clients = [asking.ask(target.data_port, lambda: time.monotonic() > end) for _ in range(8)]
        clients += [asking.call(target.data_port, lambda: time.monotonic() > end) for _ in range(2)]
        clients += [overloading.ask(target.data_port, lambda: time.monotonic() > end) for _ in range(OVERLOADING)]
        clients += [
            overloading.call(target.data_port, lambda: time.monotonic() > end) for _ in range(OVERLOADING_IN_CALLS)
        ]
        await asyncio.gather(*clients)

    run(test)
    time.sleep(WRITTEN_SECONDS)
    assert asking.wrong == overloading.wrong == []
    assert asking.lost == overloading.lost == []
    assert asking.right > 0
    assert overloading.right > 0
    assert overloading.shed > 100  # so that it was an overload
    assert shed_of(server) - before == asking.shed + overloading.shed


def test_the_server_has_come_through_without_a_traceback(server: Server, target: Target) -> None:
    server.is_well(target.images)
    assert "Traceback" not in server.log.read_text()
