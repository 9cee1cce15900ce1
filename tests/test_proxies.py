"""Two servers behind nginx and HAProxy, under requests that arrive by themselves: killed, rolled, and brought a new model."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import orjson
import pytest
from conftest import bentoml_home
from servers import Server, start_of
from small_models import keep
from test_deploy import command

from digits.store import promote
from loadtests.client import Client
from loadtests.server import free_ports, started

pytestmark = pytest.mark.slow

OLD, NEW = 3, 7  # what the two versions of the model answer, whatever they see
RATE: Final = 150.0  # requests a second
IMAGE: Final = orjson.dumps(
    {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}]}
)
ASKED: Final = "/v2/models/torch-relu.numpy/infer"

# Both try another server where one refuses the connection, ends it without an answer, or is not ready: what is asked changes
# nothing, so asking again is safe. nginx finds out by asking, HAProxy asks each server whether it is ready.
NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/proxy.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream samedigit {{
        server 127.0.0.1:{first} max_fails=1 fail_timeout=1s;
        server 127.0.0.1:{second} max_fails=1 fail_timeout=1s;
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://samedigit;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 1s;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""
HAPROXY: Final = """
global
    log stderr local0
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout 503
frontend digits
    bind 127.0.0.1:{port}
    default_backend samedigit
backend samedigit
    balance roundrobin
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host samedigit
    http-reuse always
    default-server check inter 300ms fall 1 rise 1 {protocol}
    server first 127.0.0.1:{first}
    server second 127.0.0.1:{second}
"""
PROXIES: Final[dict[str, tuple[str, Callable[[Path], list[str]]]]] = {
    "nginx": (NGINX, lambda file: ["nginx", "-p", str(file.parent), "-e", f"{file.parent}/start.log", "-c", str(file)]),
    "haproxy": (HAPROXY, lambda file: ["haproxy", "-db", "-f", str(file)]),
    "haproxy over HTTP/2": (HAPROXY, lambda file: ["haproxy", "-db", "-f", str(file)]),
}


@contextmanager
def proxy(kind: str, folder: Path, first: int, second: int) -> Iterator[str]:
    """The address of a proxy before the servers on these ports."""
    (port,) = free_ports(1)
    text, started_by = PROXIES[kind]
    file = folder / "proxy.conf"
    protocol = "proto h2" if kind.endswith("HTTP/2") else ""
    file.write_text(text.format(folder=folder, port=port, first=first, second=second, protocol=protocol))
    words = started_by(file)
    with open(folder / "said", "w") as said:
        process = subprocess.Popen([command(words[0]), *words[1:]], stdout=said, stderr=said)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                with Client(url, timeout=1) as client:
                    if client.ask("GET", "/v2/health/ready").status == 200:
                        break
            except OSError:
                pass
            assert process.poll() is None, (folder / "said").read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


class Replica:
    """A server that can be killed, rolled, and started again on its ports."""

    def __init__(self, home: Path) -> None:
        self.port, self.data_port = free_ports(2)
        self._home = home
        self._running = ExitStack()
        self.server: Server

    def start(self) -> None:
        environment = {"SAMEDIGIT_BACKENDS": "numpy", "SAMEDIGIT_GRACE_SECONDS": "5"}
        start = start_of(self._home, environment, port=self.port, data_port=self.data_port)
        self.server = Server(self._running.enter_context(started(start)), self.port, self.data_port)

    def wait_until_asked(self) -> None:
        """Until the proxy has found it again; without that nobody may take away the other one."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with self.server.client() as client:
                lines = client.get("/metrics").text.splitlines()
            if any(
                line.startswith("samedigit_requests_total") and "/infer" in line and '"200"' in line for line in lines
            ):
                return
            time.sleep(0.1)
        raise AssertionError(f"nobody has asked the server on port {self.port}")

    def kill(self) -> None:
        self.server.started.kill()
        self._running.close()

    def end(self) -> None:
        """By SIGTERM."""
        self._running.close()


class Load:
    """Requests that arrive by themselves, until it is left; what was answered to each, in order of their beginning."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asked: list[Future[int | str]] = []
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(64)
        self._thread = threading.Thread(target=self._arrive)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._pool.shutdown()

    def _arrive(self) -> None:
        chance = random.Random(0)
        while not self._over.wait(chance.expovariate(RATE)):
            self._asked.append(self._pool.submit(self._ask))

    def _ask(self) -> int | str:
        """The digit, or what came in its place."""
        try:
            with Client(self._url, timeout=10) as client:
                answer = client.ask("POST", ASKED, IMAGE, {"Content-Type": "application/json"})
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        if answer.status != 200:
            return f"{answer.status}: {answer.body[:200]!r}"
        probabilities = orjson.loads(answer.body)["outputs"][0]["data"]
        return int(max(range(10), key=probabilities.__getitem__))

    def answers(self) -> list[int | str]:
        """To all that was asked until now."""
        return [one.result() for one in list(self._asked)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with bentoml_home(tmp_path / "bentoml") as home:
        keep("torch-relu", OLD, day=1)
    return home


@pytest.mark.parametrize("kind", PROXIES)
def test_no_request_is_lost_while_a_server_is_killed_or_rolled_and_both_are_upgraded(
    kind: str, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "proxy"
    folder.mkdir()
    replicas = [Replica(home), Replica(home)]
    with ExitStack() as running:
        for replica in replicas:
            replica.start()
            running.callback(replica.end)
        url = running.enter_context(proxy(kind, folder, *(replica.data_port for replica in replicas)))
        with Load(url) as load:
            time.sleep(1)
            replicas[0].kill()
            time.sleep(1)
            replicas[0].start()
            replicas[0].wait_until_asked()
            replicas[1].end()
            replicas[1].start()
            replicas[1].wait_until_asked()
            assert set(load.answers()) == {OLD}
            with bentoml_home(home):
                promote(keep("torch-relu", NEW, day=2).tag)
            for replica in replicas:
                replica.end()
                replica.start()
                replica.wait_until_asked()
            before = len(load.answers())
            time.sleep(1)
        answers = load.answers()
        assert set(answers) == {OLD, NEW}, [one for one in answers if isinstance(one, str)]
        assert set(answers[before:]) == {NEW}
        assert len(answers) > 5 * RATE
        for replica in replicas:
            assert "Traceback" not in replica.server.log.read_text()
    shutil.rmtree(folder)
