"""The image's health check, asked of real sockets: ready, not ready, nobody there; with TLS and without."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from certificates import Certificate, make_certificate
from conftest import PROJECT, python

from loadtests.server import free_ports


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def answering(made: Certificate) -> Iterator[Callable[..., int]]:
    """Starts what answers `/readyz`, and 404 to all else; the port of it."""
    servers = []

    def start(status: int, *, tls: bool) -> int:
        class Door(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(made.certificate, made.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def health(*arguments: object) -> tuple[int, str]:
    """Its exit code, and what it says."""
    process = subprocess.run(
        [sys.executable, "-m", "serving.health", *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.parametrize("tls", [False, True])
def test_says_whether_the_server_is_ready(tls: bool, answering: Callable[..., int]) -> None:
    assert health(answering(200, tls=tls)) == (0, "")
    assert health(answering(503, tls=tls)) == (1, "")


def test_a_server_that_is_not_there_is_not_ready() -> None:
    (free,) = free_ports(1)
    assert health(free) == (1, "")


@pytest.mark.parametrize("arguments", [(), ("https",), (3000, 8000)])
def test_a_wrong_command_line_is_told(arguments: tuple[object, ...]) -> None:
    assert health(*arguments) == (1, "Expected BentoML's port: python -m serving.health 3000\n")


def test_it_imports_nothing_of_the_server() -> None:
    imported = python("import sys, serving.health; print(*sys.modules)").split()
    assert {name for name in imported if name.partition(".")[0] in {"serving", "digits", "numpy", "ssl"}} <= {
        "serving",
        "serving.health",
        "ssl",
    }
