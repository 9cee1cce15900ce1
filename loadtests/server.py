"""A fresh server in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import psutil

from digits.errors import LoadTestError
from serving.start import serve_command, serve_environment

READY_TIMEOUT_SECONDS: Final = 120
STOP_TIMEOUT_SECONDS: Final = 15


@dataclass(frozen=True)
class Server:
    url: str  # BentoML's port
    data_url: str  # the data plane
    ready_seconds: float  # from start to the first successful /readyz
    process: psutil.Process

    def resident_bytes(self) -> int:
        """Resident memory of the worker, which holds the models; bentoml's parent process is not counted."""
        return max(int(child.memory_info().rss) for child in self.process.children(recursive=True))


@contextlib.contextmanager
def fresh_server(settings: Mapping[str, str], *, core: int | None) -> Iterator[Server]:
    """A server with these `SAMEDIGIT_*` settings, ready, on free ports; pinned to `core` if there is one. Stopped after.

    Raises:
        LoadTestError: it did not become ready; the message ends with what it printed.
    """
    port, data_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        server = subprocess.Popen(
            serve_command(host="127.0.0.1", port=port),
            env=serve_environment({**settings, "SAMEDIGIT_DATA_PORT": str(data_port)}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
        )
        process = psutil.Process(server.pid)
        if core is not None:
            process.cpu_affinity([core])  # inherited by the worker
        try:
            while not _is_ready(url):
                if server.poll() is not None or time.perf_counter() - started > READY_TIMEOUT_SECONDS:
                    output.seek(0)
                    raise LoadTestError(f"The server did not become ready. It printed:\n{output.read()[-2000:]}")
                time.sleep(0.02)
            ready_seconds = time.perf_counter() - started
            yield Server(url, f"http://127.0.0.1:{data_port}", ready_seconds, process)
        finally:
            stop(process)
            server.wait()


def stop(process: psutil.Process) -> None:
    """Stops the server and whatever it started; killed if it takes too long."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_SECONDS)
        for one in alive:
            one.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens on; all different."""
    with contextlib.ExitStack() as probes:
        ports = []
        for _ in range(number):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports
