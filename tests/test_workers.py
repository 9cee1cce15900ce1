"""Models change in a real server, of one worker and of two, while clients ask."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import orjson
import psutil
import pytest
from conftest import bentoml_home
from servers import Server, serving
from small_models import alter, keep

from digits import store
from digits.store import StoredModel
from loadtests.client import Client

pytestmark = pytest.mark.slow

KEY: Final = {"X-API-Key": "the-key-of-control"}
CONTROL: Final = {
    "SAMEDIGIT_BACKENDS": "numpy",
    "SAMEDIGIT_CONTROL": "on",
    "SAMEDIGIT_CONTROL_KEYS": KEY["X-API-Key"],
}
IMAGE: Final = bytes(784)
CONNECTIONS: Final = 60  # of which two workers each get some, but for one time in 10^17


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with bentoml_home(tmp_path / "bentoml") as found:
        keep("a", 1, day=1)
        keep("b", 5)
        yield found


@contextmanager
def two_workers(home: Path) -> Iterator[Server]:
    with serving(home, {**CONTROL, "SAMEDIGIT_WORKERS": "2"}) as found:
        wait_until(lambda: len(listeners(found)) == 2)
        yield found


def listeners(server: Server) -> list[int]:
    """The processes that listen on the data port."""
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            for one in child.net_connections():
                if one.status == psutil.CONN_LISTEN and one.laddr.port == server.data_port:
                    found.append(child.pid)
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def infer(client: Client, name: str = "a.numpy") -> tuple[int, int | None]:
    """The status, and the digit that was answered."""
    answer = client.ask(
        "POST", f"/v2/models/{name}/infer", IMAGE, {"Inference-Header-Content-Length": "0", "Connection": "keep-alive"}
    )
    if answer.status != 200:
        return answer.status, None
    length = int(answer.headers["Inference-Header-Content-Length"])
    return 200, answer.body[length + 40]  # the least byte of the digit, after ten probabilities


def everywhere(server: Server, name: str = "a.numpy") -> Counter[tuple[int, int | None]]:
    """What the workers answer, each over connections of its own."""
    found: Counter[tuple[int, int | None]] = Counter()
    for _ in range(CONNECTIONS):
        with Client(server.url(server.data_port)) as client:
            found[infer(client, name)] += 1
    return found


def readiness(server: Server) -> set[int]:
    """What the workers say at both ports."""
    found = set()
    for port in (server.port, server.data_port) * 10:
        with Client(server.url(port)) as client:
            found.add(client.ask("GET", "/v2/health/ready").status)
    return found


def change(server: Server, port: int, name: str, what: str) -> tuple[int, str]:
    """Asks for a change, with the key for it; the status and the error."""
    with Client(server.url(port), timeout=90) as client:
        answer = client.ask("POST", f"/v2/repository/models/{name}/{what}", b"", KEY)
    return answer.status, orjson.loads(answer.body)["error"] if answer.body else ""


def ask_until(server: Server, stop: threading.Event) -> Counter[tuple[int, int | None]]:
    """Asks over one connection; a new one where that was cut."""
    found: Counter[tuple[int, int | None]] = Counter()
    while not stop.is_set():
        try:
            with Client(server.url(server.data_port)) as client:
                while not stop.is_set():
                    found[infer(client)] += 1
        except OSError:
            found[0, None] += 1
    return found


@contextmanager
def asking(server: Server, found: Counter[tuple[int, int | None]]) -> Iterator[None]:
    """Four clients that ask all the time; in the end `found` has what came."""
    stop = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(ask_until, server, stop) for _ in range(4)]
        try:
            yield
        finally:
            stop.set()
        for client in clients:
            found.update(client.result())


def test_load_and_unload_have_reached_both_workers_when_they_are_answered(home: Path) -> None:
    with two_workers(home) as server:
        assert everywhere(server) == {(200, 1): CONNECTIONS}
        for digit, port in ((2, server.data_port), (3, server.port)):
            keep("a", digit, day=digit)
            assert change(server, port, "a.numpy", "load") == (200, "")
            assert everywhere(server) == {(200, digit): CONNECTIONS}
            assert change(server, port, "b.numpy", "unload") == (200, "")
            assert everywhere(server, "b.numpy") == {(404, None): CONNECTIONS}
            assert change(server, port, "b.numpy", "unload")[0] == 404
            assert change(server, port, "b.numpy", "load") == (200, "")
            assert everywhere(server, "b.numpy") == {(200, 5): CONNECTIONS}
        for name in ("a.numpy", "b.numpy"):
            assert readiness(server) == {200}
            assert change(server, server.port, name, "unload") == (200, "")
        assert readiness(server) == {503}
        assert change(server, server.port, "a.numpy", "load") == (200, "")
        assert readiness(server) == {200}
        altered = keep("a", 9, day=9)
        alter(altered)
        status, error = change(server, server.data_port, "a.numpy", "load")
        assert status == 500
        assert f"{altered.path('numpy')} is not the file that was stored" in error
        assert everywhere(server) == {(200, 3): CONNECTIONS}
        assert "Traceback" not in server.log.read_text()


def test_a_worker_that_is_killed_comes_back_with_what_is_wanted_and_the_other_goes_on(home: Path) -> None:
    with two_workers(home) as server:
        killed, other = listeners(server)
        found: Counter[tuple[int, int | None]] = Counter()
        with asking(server, found):
            time.sleep(0.3)
            os.kill(killed, signal.SIGKILL)
            wait_until(
                lambda: killed not in listeners(server)
            )  # what had reached it is lost, and nothing reaches it any more
            keep("a", 2, day=2)
            assert change(server, server.data_port, "a.numpy", "load") == (200, "")
            keep("a", 3, day=3)  # which nobody loads
            wait_until(lambda: len(listeners(server)) == 2)
            time.sleep(0.3)
        assert other in listeners(server)
        assert killed not in listeners(server)
        assert found[200, 1] > 0
        assert found[200, 2] > 0
        assert set(found) <= {(200, 1), (200, 2), (0, None)}
        assert found[0, None] <= 4 + 4  # what was in flight, and a connection made at that moment
        assert everywhere(server) == {(200, 2): CONNECTIONS}


def test_a_promoted_version_is_served_by_itself_or_after_load_without_one_failed_request(home: Path) -> None:
    promoted: list[StoredModel] = [keep("a", digit, day=digit) for digit in (2, 3)]
    found: Counter[tuple[int, int | None]] = Counter()
    with (
        serving(home, {**CONTROL, "SAMEDIGIT_WATCH": "on"}) as server,
        asking(server, found),
        Client(server.url(server.data_port)) as client,
    ):
        for model, answer in zip(promoted, [(200, 2), (200, 3)], strict=True):
            store.promote(model.tag)
            wait_until(lambda answer=answer: infer(client) == answer, 30)  # type: ignore[misc]
        keep("a", 4, day=4)
        store.promote(promoted[0].tag)
        assert change(server, server.port, "a.numpy", "load") == (200, "")
        assert infer(client) == (200, 2)
    assert set(found) == {(200, 2), (200, 3)}
    assert min(found.values()) > 10
