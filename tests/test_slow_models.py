"""A slow model beside a fast one, in a server of its own in this process: who waits for it, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import pytest
import uvloop
from exchanges import exchange
from servers import everything_from, raw_infer, read_answer
from small_models import keep

from digits.contract import Backend, Images, Probabilities
from loadtests.server import free_ports
from runtimes import backends
from runtimes.backends import Runtime
from runtimes.device import Device
from serving import opening
from serving.models import ServedModels
from serving.server import Server
from serving.settings import Settings, read_settings

SECONDS: Final = 0.03  # that the slow model takes for an image
FAST: Final = "fast.numpy"
SLOW: Final = "slow.numpy"
IMAGE: Final = bytes(784)


@dataclass
class SlowRuntime:
    """Takes long for every image, and longer if a test holds it; its answers are those of the stored file."""

    inner: Runtime
    wait: Callable[[float], None]
    batches: list[int] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    let: threading.Event = field(default_factory=threading.Event)

    def predict(self, images: Images) -> Probabilities:
        self.batches.append(len(images))
        self.begun.release()
        self.wait(SECONDS * len(images))
        assert self.let.wait(timeout=20)
        return self.inner.predict(images)


def asleep(seconds: float) -> None:
    """As a runtime that computes in C++ and leaves Python to others."""
    time.sleep(seconds)


def in_python(seconds: float) -> None:
    """As one that holds Python's lock all the time, and gives it up where it is asked to."""
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


@pytest.fixture
def slow_runtimes(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[SlowRuntime]:
    """Makes every model called slow one; those that were opened."""
    made: list[SlowRuntime] = []

    def open_runtime(backend: Backend, path: Path, *, device: Device) -> Runtime:
        runtime = backends.open_runtime(backend, path, device=device)
        if "slow" not in path.parts:
            return runtime
        slow = SlowRuntime(runtime, getattr(request, "param", asleep))
        slow.let.set()
        made.append(slow)
        return slow

    monkeypatch.setattr(opening, "open_runtime", open_runtime)
    return made


class Own:
    """A server on a thread of its own."""

    def __init__(self, **settings: str) -> None:
        (self.port,) = free_ports(1)
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.server = Server(own_settings(data_port=str(self.port), **settings))
        self.server.open()
        self.thread.start()
        self.call(self.server.begin())

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=30)

    def stop(self) -> None:
        self.call(self.server.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=20)
        self.loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def own_settings(**settings: str) -> Settings:
    return read_settings(
        {"SAMEDIGIT_BACKENDS": "numpy", **{f"SAMEDIGIT_{name.upper()}": value for name, value in settings.items()}}
    )


@pytest.fixture
def own(empty_home: Path, slow_runtimes: list[SlowRuntime], request: pytest.FixtureRequest) -> Iterator[Own]:
    keep("fast", 1)
    keep("slow", 2)
    found = Own(**getattr(request, "param", {}))
    try:
        yield found
    finally:
        for runtime in slow_runtimes:
            runtime.let.set()
        found.stop()


def infer(model: str, images: int = 1) -> bytes:
    tensor = {
        "name": "images",
        "shape": [images, 28, 28],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": 784 * images},
    }
    head = orjson.dumps({"inputs": [tensor]})
    return raw_infer(model, head + images * IMAGE, str(len(head)))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def digits_in(body: bytes) -> list[int]:
    output = orjson.loads(body)["outputs"][0]
    found: list[int] = np.reshape(output["data"], (-1, 10)).argmax(axis=1).tolist()
    return found


def ask(connection: socket.socket, answers: BinaryIO, request: bytes) -> bytes:
    connection.sendall(request)
    status, _, body = read_answer(answers)
    assert status == 200, body
    return body


@pytest.mark.parametrize("slow_runtimes", [asleep, in_python], indirect=True)
def test_while_a_slow_model_is_under_full_load_health_metrics_and_a_fast_model_answer(
    own: Own, slow_runtimes: list[SlowRuntime]
) -> None:
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(own.connect()) for _ in range(8)]
        for connection in busy:
            connection.sendall(8 * infer(SLOW))  # 64 images: two seconds
        connection = stack.enter_context(own.connect())
        answers = stack.enter_context(connection.makefile("rb"))
        before = len(slow_runtimes[-1].batches)
        for _ in range(10):
            assert orjson.loads(ask(connection, answers, get("/v2/health/live"))) == {"live": True}
            assert orjson.loads(ask(connection, answers, get("/v2/health/ready"))) == {"ready": True}
            assert b"samedigit_queued_images{" in ask(connection, answers, get("/metrics"))
            assert digits_in(ask(connection, answers, infer(FAST, 3))) == [1, 1, 1]
        # Whoever had to wait for a batch of the slow model would have seen forty of them.
        assert len(slow_runtimes[-1].batches) - before < 30
        for one in busy:
            with one.makefile("rb") as slow_answers:
                for _ in range(8):
                    status, _, body = read_answer(slow_answers)
                    assert (status, digits_in(body)) == (200, [2])


def test_a_request_of_many_images_for_a_slow_model_keeps_nobody_else_waiting(
    own: Own, slow_runtimes: list[SlowRuntime]
) -> None:
    with (
        own.connect() as slow,
        own.connect() as fast,
        slow.makefile("rb") as slow_answers,
        fast.makefile("rb") as answers,
    ):
        slow.sendall(infer(SLOW, 20))
        for _ in range(10):
            assert digits_in(ask(fast, answers, infer(FAST))) == [1]
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)
        slow.settimeout(20)
        status, _, body = read_answer(slow_answers)
        assert (status, digits_in(body)) == (200, 20 * [2])
        statistics = orjson.loads(ask(fast, answers, get(f"/v2/models/{SLOW}/stats")))["model_stats"][0]
    assert (statistics["inference_count"], statistics["execution_count"]) == (20, 1)
    (batches,) = statistics["batch_stats"]
    assert (batches["batch_size"], batches["compute_infer"]["count"]) == (20, 1)
    assert batches["compute_infer"]["ns"] >= 20 * SECONDS * 1e9
    assert slow_runtimes[-1].batches[-20:] == [1] * 20


def test_a_client_that_goes_while_its_batch_runs_is_counted_as_gone_and_harms_nobody(
    own: Own, slow_runtimes: list[SlowRuntime]
) -> None:
    runtime = slow_runtimes[-1]
    runtime.let.clear()
    _drop(runtime.begun)
    with own.connect() as fast, fast.makefile("rb") as answers:
        with own.connect() as slow:
            slow.sendall(infer(SLOW))
            assert runtime.begun.acquire(timeout=20)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset: it reads no more
        gone = b'outcome="gone"'
        ends = time.monotonic() + 20
        while gone not in (found := ask(fast, answers, get("/metrics"))):
            assert time.monotonic() < ends, found.decode()
        runtime.let.set()
        assert digits_in(ask(fast, answers, infer(SLOW))) == [2]


def test_a_drained_server_waits_for_what_runs_in_a_thread(own: Own, slow_runtimes: list[SlowRuntime]) -> None:
    runtime = slow_runtimes[-1]
    runtime.let.clear()
    _drop(runtime.begun)
    with own.connect() as slow:
        slow.sendall(infer(SLOW))
        assert runtime.begun.acquire(timeout=20)
        ending = asyncio.run_coroutine_threadsafe(own.server.end(), own.loop)
        time.sleep(0.1)
        assert not ending.done()
        runtime.let.set()
        answer = everything_from(slow)
        ending.result(timeout=20)
    assert answer.startswith(b"HTTP/1.1 200")
    assert digits_in(answer.partition(b"\r\n\r\n")[2]) == [2]


@pytest.mark.parametrize("own", [{"grace_seconds": "1"}], indirect=True)
def test_a_drained_server_waits_no_longer_than_its_grace(own: Own, slow_runtimes: list[SlowRuntime]) -> None:
    runtime = slow_runtimes[-1]
    runtime.let.clear()
    _drop(runtime.begun)
    with own.connect() as slow:
        slow.sendall(infer(SLOW))
        assert runtime.begun.acquire(timeout=20)
        own.call(own.server.end())
        assert not runtime.let.is_set()  # the batch runs still
        with contextlib.suppress(ConnectionResetError):
            assert everything_from(slow) == b""


def test_while_a_batch_of_the_old_version_runs_the_new_one_is_loaded_and_both_answer(
    empty_home: Path, slow_runtimes: list[SlowRuntime]
) -> None:
    async def live() -> None:
        keep("slow", 1, day=1)
        models = ServedModels(own_settings())
        models.open()
        old = slow_runtimes.pop()
        slow_runtimes.clear()
        old.let.clear()
        _drop(old.begun)
        before = _ask(models)
        await asyncio.to_thread(old.begun.acquire, timeout=20)
        keep("slow", 2, day=2)
        await models.load(SLOW)
        assert (await _ask(models)).argmax() == 2
        await models.unload(SLOW)
        assert not before.done()
        old.let.set()
        assert (await before).argmax() == 1
        gone = weakref.ref(old)
        del old
        slow_runtimes.clear()
        async with asyncio.timeout(20):
            while gone() is not None:
                await asyncio.sleep(0.01)

    asyncio.run(live())


def _ask(models: ServedModels) -> asyncio.Future[Probabilities]:
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    images = np.zeros((1, 28, 28), np.uint8)
    models.named(SLOW).batcher.submit(images, answered.set_result, exchange=exchange())
    return answered


def _drop(semaphore: threading.Semaphore) -> None:
    while semaphore.acquire(blocking=False):
        pass
