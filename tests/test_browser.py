"""`samedigit serve --open`: the page is opened once the server is ready, and not if it never is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from conftest import PROJECT

from loadtests.server import free_ports
from samedigit.browser import page_url


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:3000/ui"),
        ("0.0.0.0", False, "http://127.0.0.1:3000/ui"),
        ("::", False, "http://[::1]:3000/ui"),
        ("::1", True, "https://[::1]:3000/ui"),
        ("192.0.2.7", True, "https://192.0.2.7:3000/ui"),
        ("localhost", False, "http://localhost:3000/ui"),
    ],
)
def test_the_page_is_where_this_machine_reaches_the_server(host: str, tls: bool, url: str) -> None:
    assert page_url(host=host, port=3000, tls=tls) == url


class _Server(BaseHTTPRequestHandler):
    """Ready at the third time of asking."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if len(self.asked) >= 3 else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    _Server.asked = []
    with HTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def opened(url: str, server: int, folder: Path, *, seconds: float) -> str | None:
    """What a browser was told to open; None, nothing."""
    told = folder / "told"
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {told}.part && mv {told}.part {told}\n')
    browser.chmod(0o700)
    command = [sys.executable, "-m", "samedigit.browser", url, str(server)]
    began = time.monotonic()
    subprocess.run(command, env={**os.environ, "BROWSER": str(browser)}, cwd=PROJECT, timeout=10, check=True)
    assert time.monotonic() - began < 5  # it is the grandchild that waits
    while time.monotonic() - began < seconds:
        if told.exists():
            return told.read_text().strip()
        time.sleep(0.02)
    return None


def test_the_page_is_opened_once_the_server_is_ready(server: HTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/ui"
    assert opened(url, os.getpid(), tmp_path, seconds=20) == url
    assert _Server.asked == ["/readyz"] * 3


def test_nothing_is_opened_where_the_server_has_ended(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    url = f"http://127.0.0.1:{free_ports(1)[0]}/ui"
    assert opened(url, gone.pid, tmp_path, seconds=2) is None
    assert not [one.pid for one in psutil.process_iter(["cmdline"]) if url in (one.info["cmdline"] or ())]  # none waits
