"""Servers in processes of their own: started, waited for, put to sleep, measured and stopped, with whatever they start."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from digits.errors import LoadTestError
from loadtests.client import get
from serving.start import serve_command, serve_environment

READY_SECONDS: Final = 120
STOP_SECONDS: Final = 15
POLL_SECONDS: Final = 0.005
LAST_WORDS: Final = 2000  # characters of what a server printed that did not become ready


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a server is started, and when it is ready: each address of `ready`, in this order, has answered 200."""

    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Sequence[str]  # http:// or https://
    ca_file: Path | None = None  # of its certificate, where it has one
    folder: Path | None = None  # where; None: here
    stop_seconds: float = STOP_SECONDS  # after which it is killed


class DidNotStart(LoadTestError):
    """A server ended, or had not become ready after READY_SECONDS."""

    def __init__(self, exit_code: int | None, printed: str) -> None:
        super().__init__(f"The server did not become ready. It printed:\n{printed[-LAST_WORDS:]}")
        self.exit_code = exit_code  # None: it still ran
        self.printed = printed


class Memory(NamedTuple):
    unique_bytes: int  # that would come back if the processes ended (USS)
    resident_bytes: int  # RSS, which counts what they share in each
    proportional_bytes: int  # PSS, which divides what they share among them; where the system does not tell it, RSS


class Server:
    """A started server, with all of its processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, stop_seconds: float) -> None:
        self.process = process  # the first one
        self.log = log  # what it prints
        self.ready_seconds = 0.0  # from its start until it was ready
        self._stop_seconds = stop_seconds
        self._seen = [psutil.Process(process.pid)]

    def family(self) -> list[psutil.Process]:
        """Every process of it that runs, the first one first. One that was seen here belongs to it without its parents."""
        for process in list(self._seen):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen += (child for child in process.children(recursive=True) if child not in self._seen)
        self._seen = [process for process in self._seen if _runs(process)]
        return list(self._seen)

    def sleep(self) -> None:
        """Stops every process where it stands: one that polls takes nothing from others, and nobody gets an answer.

        Returns once they have stopped: until one of its threads has taken the signal, on a busy machine after milliseconds,
        the others go on.
        """
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        end = time.monotonic() + STOP_SECONDS
        while any(_runs(process, but=psutil.STATUS_STOPPED) for process in family) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def wake(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def memory(self) -> Memory:
        """Of all processes."""
        unique = resident = proportional = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                unique += memory.uss
                resident += memory.rss
                proportional += getattr(memory, "pss", memory.rss)
        return Memory(unique, resident, proportional)

    def worker_bytes(self) -> int:
        """Resident memory of the worker: the largest of the processes."""
        resident = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                resident.append(int(process.memory_info().rss))
        return max(resident)

    def connections(self) -> int:
        """TCP connections of all processes, in any state; sockets that listen are none."""
        number = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                number += sum(one.status != psutil.CONN_LISTEN for one in process.net_connections("tcp"))
        return number

    def cpu_seconds(self) -> float:
        """Of every process since it started."""
        times = [process.cpu_times() for process in self.family()]
        return float(sum(one.user + one.system for one in times))

    def stop(self) -> None:
        """Asks the first process to end, and kills what is left of the family then or after `stop_seconds`."""
        self.wake()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self._stop_seconds)
        self.kill()

    def kill(self) -> None:
        """Ends every process at once."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=STOP_SECONDS)


def _runs(process: psutil.Process, *, but: str = psutil.STATUS_ZOMBIE) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, but)  # a zombie's new parent may never ask after it
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def started(start: Start, *, cores: list[int] | None = None) -> Iterator[Server]:
    """The server, ready; with all that it starts on `cores`, or anywhere. Stopped after.

    Raises:
        DidNotStart: it did not become ready.
    """
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.perf_counter()
        with on_cores(cores):
            process = subprocess.Popen(
                start.command,
                env=start.environment,
                cwd=start.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
            )
        server = Server(process, Path(log.name), start.stop_seconds)
        try:
            for url in start.ready:
                while not _is_ready(url, start.ca_file):
                    if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                        raise DidNotStart(process.poll(), server.log.read_text(errors="replace"))
                    time.sleep(POLL_SECONDS)
            server.ready_seconds = time.perf_counter() - began
            server.family()  # so that a worker is known should the first process be killed
            yield server
        finally:
            server.stop()


def _is_ready(url: str, ca_file: Path | None) -> bool:
    try:
        return get(url, ca_file=ca_file, timeout=1).status == 200
    except OSError:
        return False


@contextlib.contextmanager
def on_cores(cores: list[int] | None) -> Iterator[None]:
    """This process, and what it starts meanwhile, on these cores alone; None: on any."""
    if cores is None:
        yield
        return
    process = psutil.Process()
    before = process.cpu_affinity()
    process.cpu_affinity(cores)
    try:
        yield
    finally:
        process.cpu_affinity(before)


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens on; all different."""
    with contextlib.ExitStack() as probes:
        ports = []
        for _ in range(number):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


# This project's own


def start_of(settings: Mapping[str, str], *, port: int, data_port: int) -> Start:
    """How `samedigit serve` starts a server, with these `SAMEDIGIT_*` settings, BentoML's port and the data plane's."""
    return Start(
        command=serve_command(host="127.0.0.1", port=port),
        environment=serve_environment({**settings, "SAMEDIGIT_DATA_PORT": str(data_port)}),
        ready=[f"http://127.0.0.1:{port}/readyz", f"http://127.0.0.1:{data_port}/v2/health/ready"],
    )


@dataclass(frozen=True)
class FreshServer:
    url: str  # BentoML's port
    data_url: str  # the data plane
    server: Server


@contextlib.contextmanager
def fresh_server(settings: Mapping[str, str], *, core: int | None) -> Iterator[FreshServer]:
    """A server with these `SAMEDIGIT_*` settings, ready, on free ports; on `core` if there is one. Stopped after.

    Raises:
        DidNotStart: it did not become ready; the message ends with what it printed.
    """
    port, data_port = free_ports(2)
    start = start_of(settings, port=port, data_port=data_port)
    with started(start, cores=None if core is None else [core]) as server:
        yield FreshServer(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{data_port}", server)
