"""The harness that starts servers, and the client that asks them: what tests, load tests and benchmarks stand on."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest

from loadtests.client import Client, get, request_bytes
from loadtests.server import DidNotStart, Server, Start, free_ports, started

# A server with a worker that, like BentoML's, is in a session of its own, and outlives the first process.
SERVER: Final = """
import http.server, subprocess, sys
worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
begun = subprocess.Popen([sys.executable, "-c", worker], start_new_session=True, stdout=subprocess.PIPE)
begun.stdout.readline()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked for", self.path, flush=True)
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def start(port: int, code: str = SERVER) -> Start:
    ready = [f"http://127.0.0.1:{port}/ready"]
    return Start(command=[sys.executable, "-c", code, str(port)], environment=dict(os.environ), ready=ready)


@contextmanager
def one_server() -> Iterator[tuple[Server, str]]:
    (port,) = free_ports(1)
    with started(start(port)) as server:
        yield server, f"http://127.0.0.1:{port}"


def test_a_server_is_ready_when_it_says_so_and_what_it_prints_is_kept() -> None:
    with one_server() as (server, url):
        assert 0 < server.ready_seconds < 60
        assert get(f"{url}/elsewhere?now").status == 404
        assert server.log.read_text().splitlines()[-2:] == ["asked for /ready", "asked for /elsewhere?now"]


@pytest.mark.parametrize("by", ["stop", "kill", "death"])
def test_nothing_of_a_server_is_left_whichever_way_it_ends(by: str) -> None:
    with one_server() as (server, _):
        first = psutil.Process(server.process.pid)
        family = [first, *first.children(recursive=True)]
        assert len(family) == 2
        if by == "stop":
            server.sleep()  # it is woken, or it could not end
        elif by == "kill":
            server.kill()
        else:
            server.process.kill()
            server.process.wait()
            assert server.family() == family[1:]
    assert server.process.poll() == (-signal.SIGTERM if by == "stop" else -signal.SIGKILL)
    assert server.family() == []
    assert psutil.wait_procs(family, timeout=5)[1] == []


def test_a_sleeping_server_answers_once_it_is_woken() -> None:
    with one_server() as (server, url), Client(url, timeout=0.5) as client:
        server.sleep()
        with pytest.raises(TimeoutError):
            client.ask("GET", "/ready")
        server.wake()
        assert get(f"{url}/ready").status == 200


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux alone starves a thread on demand")
def test_a_server_sleeps_with_all_its_threads_though_its_first_one_is_starved() -> None:
    """The kernel wakes one thread to take the signal; until that one has run, the others go on."""
    with one_server() as (server, url), Client(url, timeout=0.5) as client:
        first = server.family()[0]
        while first.num_threads() < 2:  # the connection's own
            time.sleep(0.01)
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(first.pid, {core})
        os.sched_setscheduler(first.pid, os.SCHED_IDLE, os.sched_param(0))
        pinned = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
        with subprocess.Popen([sys.executable, "-c", pinned], stdout=subprocess.PIPE) as busy:
            try:
                assert busy.stdout is not None
                busy.stdout.readline()
                server.sleep()
                with pytest.raises(TimeoutError):
                    client.ask("GET", "/ready")
            finally:
                busy.kill()


def test_memory_and_computing_time_are_of_every_process() -> None:
    with one_server() as (server, _):
        first, worker = server.family()
        together = first.memory_info().rss + worker.memory_info().rss
        memory = server.memory()
        assert memory.resident_bytes == pytest.approx(together, rel=0.05)
        unique = first.memory_full_info().uss + worker.memory_full_info().uss
        assert memory.unique_bytes == pytest.approx(unique, rel=0.05)
        largest = max(first.memory_info().rss, worker.memory_info().rss)
        assert server.worker_bytes() == pytest.approx(largest, rel=0.05)
        assert server.cpu_seconds() > first.cpu_times().user > 0


def test_connections_are_counted_and_sockets_that_listen_are_none() -> None:
    with (
        one_server() as (server, url),
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection,
    ):
        connection.sendall(b"GET /ready HTTP/1.1\r\n")  # which is not the end of it
        deadline = time.monotonic() + 10
        while server.connections() != 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_server_runs_on_the_cores_it_is_given() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not let one choose")
    before = os.sched_getaffinity(0)
    core = max(before)
    (port,) = free_ports(1)
    with started(start(port), cores=[core]) as server:
        assert [process.cpu_affinity() for process in server.family()] == [[core], [core]]
    assert os.sched_getaffinity(0) == before


def test_a_server_that_does_not_start_says_what_it_printed_and_how_it_ended() -> None:
    (port,) = free_ports(1)
    failing = start(port, "print('no room', flush=True); raise SystemExit(3)")
    with pytest.raises(DidNotStart) as failed, started(failing):
        pass
    assert str(failed.value) == "The server did not become ready. It printed:\nno room\n"
    assert (failed.value.exit_code, failed.value.printed) == (3, "no room\n")


# The client


@contextmanager
def answering(*answers: bytes, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server of one connection that gives these answers, one to each request, and then closes; its URL, what it got."""
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection if context is None else context.wrap_socket(connection, server_side=True) as wrapped:
            for answer in answers:
                received.append(wrapped.recv(65_536))
                wrapped.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", received
        thread.join(timeout=10)


GOOD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: value\r\n\r\n"


def test_requests_go_over_one_connection_and_an_interim_answer_is_passed_over() -> None:
    with (
        answering(GOOD + b"ab", b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD + b"cd") as (url, received),
        Client(url) as client,
    ):
        first = client.ask("POST", "/one", b"body", {"X-Asked": "1"})
        assert (first.status, first.headers["x-name"], first.body) == (200, "value", b"ab")
        assert client.ask("GET", "/two").body == b"cd"
    host = url.removeprefix("http://").encode()
    assert received == [
        b"POST /one HTTP/1.1\r\nHost: %b\r\nX-Asked: 1\r\nContent-Length: 4\r\n\r\nbody" % host,
        b"GET /two HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
    ]


@pytest.mark.parametrize(
    ("answer", "method", "body"),
    [
        (GOOD, "HEAD", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", "GET", b"to the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
            "GET",
            b"abc0123456789",
        ),
    ],
    ids=["to HEAD", "204", "until the end", "chunked"],
)
def test_a_body_ends_where_the_answer_says(answer: bytes, method: str, body: bytes) -> None:
    with answering(answer) as (url, _), Client(url) as client:
        assert client.ask(method, "/").body == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK",
        b"SSH-2.0-OpenSSH\r\n",
        GOOD + b"a",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nthree\r\n",
    ],
)
def test_what_is_no_whole_answer_is_an_error_of_the_connection(answer: bytes) -> None:
    with answering(answer) as (url, _), Client(url) as client, pytest.raises(ConnectionError):
        client.ask("GET", "/")


def test_a_request_says_its_own_framing_or_gets_a_length_where_it_needs_one() -> None:
    def framing(method: str, body: bytes, **headers: str) -> list[bytes]:
        return request_bytes(method, "/", body, headers).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]

    assert framing("GET", b"") == []
    assert framing("POST", b"") == [b"Content-Length: 0"]
    assert framing("POST", b"ab", **{"content-length": "3"}) == [b"content-length: 3"]
    assert framing("POST", b"0\r\n\r\n", **{"Transfer-Encoding": "chunked"}) == [b"Transfer-Encoding: chunked"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a file with a key and its certificate for 127.0.0.1, signed by itself."""

    def make(name: str) -> Path:
        file = tmp_path_factory.mktemp("certificate") / f"{name}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file)]
        made = subprocess.run(command, capture_output=True, timeout=30)
        assert made.returncode == 0, made.stderr
        with file.open("ab") as both:
            both.write(made.stdout)
        return file

    return make


def test_a_server_with_a_certificate_is_asked_over_tls_and_another_ones_is_refused(
    certificate: Callable[[str], Path],
) -> None:
    known, other = certificate("known"), certificate("other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(known)
    with answering(GOOD + b"ab", context=context) as (url, _):
        assert get(f"{url}/path", ca_file=known).body == b"ab"
    with pytest.raises(ssl.SSLCertVerificationError), refusing(context) as url:
        get(url, ca_file=other)


@contextmanager
def refusing(context: ssl.SSLContext) -> Iterator[str]:
    """A server whose handshake fails."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join(timeout=10)
