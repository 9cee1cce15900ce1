"""The image's health check, asked of real sockets: ready, not ready, nobody there; with TLS and without."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate
from conftest import PROJECT

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


def health(port: int, **environment: Path) -> tuple[int, str]:
    """Its exit code, and what it says."""
    process = subprocess.run(
        [sys.executable, "-m", "serving.health", str(port)],
        cwd=PROJECT,
        env={
            **os.environ,
            "http_proxy": "http://127.0.0.1:9",
            **{name: str(path) for name, path in environment.items()},
        },
        capture_output=True,
        text=True,
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.parametrize("tls", [False, True])
def test_says_whether_the_server_is_ready(tls: bool, answering: Callable[..., int], made: Certificate) -> None:
    environment = {"SAMEDIGIT_TLS_CERTIFICATE": made.certificate, "SAMEDIGIT_TLS_KEY": made.key} if tls else {}
    assert health(answering(200, tls=tls), **environment) == (0, "")
    assert health(answering(503, tls=tls), **environment) == (1, "")


def test_a_server_that_speaks_otherwise_or_is_not_there_is_not_ready(
    answering: Callable[..., int], made: Certificate
) -> None:
    assert health(answering(200, tls=True)) == (1, "")
    assert health(
        answering(200, tls=False), SAMEDIGIT_TLS_CERTIFICATE=made.certificate, SAMEDIGIT_TLS_KEY=made.key
    ) == (
        1,
        "",
    )
    (free,) = free_ports(1)
    assert health(free) == (1, "")
