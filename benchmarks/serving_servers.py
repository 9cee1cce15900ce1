"""The servers that are measured: how each is installed, and started."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pooch
from rich.progress import Progress

from digits.errors import LoadTestError
from digits.store import StoredModel
from loadtests import server
from loadtests.server import DidNotStart, Server, Start, free_ports, start_of
from serving.start import ROOT, bentoml_command, unreported

PEERS: Final = {
    "fastapi": "FastAPI",
    "mlserver": "MLServer",
    "bentoml": "bentoml",
    "litserve": "LitServe",
    "triton": "Triton",
}
PEERS_FOLDER: Final = Path(__file__).parent / "peers"
STOP_SECONDS: Final = 5  # some peers never end by themselves


@contextlib.contextmanager
def started(
    starts: Mapping[str, Start], *, cores: list[int] | None, progress: Progress, optional: Collection[str] = ()
) -> Iterator[dict[str, Server]]:
    """Every server by its name, ready and asleep, on `cores`. Stopped after.

    They are started one after the other, so that each has the cores to itself, and its `ready_seconds` is its own.

    Raises:
        LoadTestError: one did not become ready; the message ends with what it printed. One that is optional is left out.
    """
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, start in starts.items():
            step = progress.add_task(f"{name}: starting", total=None)
            try:
                servers[name] = stack.enter_context(_started(start, cores=cores))
                servers[name].sleep()
            except DidNotStart as error:
                if name not in optional:
                    raise LoadTestError(f"{name}: {error}") from error
                progress.console.print(f"{name} is left out. {error}", highlight=False, soft_wrap=True)
            finally:
                progress.remove_task(step)
        yield servers


@contextlib.contextmanager
def _started(start: Start, *, cores: list[int] | None) -> Iterator[Server]:
    # Some write files where they are started. Removed once they are stopped; a late one must not break the run.
    with (
        tempfile.TemporaryDirectory(prefix="samedigit-peer-", ignore_cleanup_errors=True) as folder,
        server.started(dataclasses.replace(start, folder=Path(folder), stop_seconds=STOP_SECONDS), cores=cores) as one,
    ):
        yield one


def ours(model: StoredModel, backends: str, ports: tuple[int, int], **settings: str) -> Start:
    """This project's server, with its API port and its data plane on `ports`."""
    port, data_port = ports
    variables = {
        "SAMEDIGIT_MODELS": model.tag,
        "SAMEDIGIT_BACKENDS": backends,
        "SAMEDIGIT_DEVICE": "cpu",
        **settings,
    }
    return start_of(variables, port=port, data_port=data_port)


def by_bentoml(start: Start, port: int) -> Start:
    """The same server of ours, started by `bentoml serve`."""
    return dataclasses.replace(start, command=bentoml_command(host="127.0.0.1", port=port))


def bentoml_here(service: str, port: int, **variables: str) -> Start:
    """A bentoml service of `peers` in this project's own environment."""
    return _bentoml(sys.executable, service, port, {"PYTHONPATH": str(ROOT), **variables})


def _bentoml(python: str, service: str, port: int, variables: Mapping[str, str]) -> Start:
    command = [python, "-m", "bentoml", "serve", service, "--working-dir", str(PEERS_FOLDER)]
    return Start(
        command=[*command, "--host", "127.0.0.1", "--port", str(port)],
        environment=unreported(variables),
        ready=[f"http://127.0.0.1:{port}/readyz"],
    )


def grpcio_here(mode: str, model: StoredModel, port: int, grpc_port: int) -> Start:
    """grpcio's server in this project's own environment; `mode`: threads or asyncio."""
    variables = {
        "PYTHONPATH": str(ROOT),
        "MODEL": str(model.path("onnx")),
        "PORT": str(port),
        "GRPC_PORT": str(grpc_port),
        "MODE": mode,
    }
    return Start(
        command=[sys.executable, str(PEERS_FOLDER / "grpcio_server.py")],
        environment=unreported(variables),
        ready=[f"http://127.0.0.1:{port}/"],
    )


def peer(name: str, model: StoredModel, port: int, grpc_port: int | None = None) -> Start:
    """A server of `PEERS`, from an environment of its own, made if it is not there yet; Triton's with a port for gRPC.

    Raises:
        LoadTestError: its environment cannot be made.
    """
    bin_ = environment(name) / "bin"
    python = str(bin_ / "python")
    variables = {"MODEL": str(model.path("onnx")), "PORT": str(port)}
    if name == "bentoml":
        return _bentoml(python, "bentoml_quickstart:Digits", port, variables)
    other, third = (str(free) for free in free_ports(2))
    if name == "fastapi":
        command = [python, "-m", "uvicorn", "fastapi_server:app", "--app-dir", str(PEERS_FOLDER)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-access-log"]
        ready = "/openapi.json"
    elif name == "litserve":
        command = [python, str(PEERS_FOLDER / "litserve_server.py")]
        ready = "/health"
    elif name == "mlserver":
        command = [str(bin_ / "mlserver"), "start", str(PEERS_FOLDER)]
        variables |= {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": other,
            "MLSERVER_METRICS_PORT": third,
            "MLSERVER_DEBUG": "false",
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_MODEL_NAME": "digits",
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_runtime.Digits",
        }
        ready = "/v2/models/digits/ready"
    elif name == "triton":
        command = [python, str(PEERS_FOLDER / "triton_server.py")]
        variables |= {"GRPC_PORT": str(grpc_port or other), "METRICS_PORT": third}
        ready = "/v2/models/digits/ready"
    else:
        raise LoadTestError(f"There is no peer {name!r}; there are {', '.join(PEERS)}.")
    return Start(command=command, environment=unreported(variables), ready=[f"http://127.0.0.1:{port}{ready}"])


def environment(name: str) -> Path:
    """The environment of the packages in `peers/NAME.txt`; made by uv in the user's cache at first use.

    Raises:
        LoadTestError: uv is missing, or cannot make it.
    """
    lock = PEERS_FOLDER / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    target = Path(pooch.os_cache("samedigit")) / "peers" / f"{name}-{digest}"
    if target.is_dir():
        return target
    beside_python = Path(sys.executable).with_name("uv")
    uv = str(beside_python) if beside_python.is_file() else shutil.which("uv")
    if uv is None:
        raise LoadTestError(f"The environment of {PEERS[name]} is made by uv, which is missing: pip install uv")
    print(f"{PEERS[name]}: making its environment, {target}", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        _uv([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(beside / "environment")], name)
        python = str(beside / "environment/bin/python")
        options = ["--quiet", "--python", python, "--require-hashes", "--only-binary", ":all:", "--compile-bytecode"]
        _uv([uv, "pip", "sync", *options, str(lock)], name)
        os.rename(beside / "environment", target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _uv(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise LoadTestError(
            f"The packages of {PEERS[name]} could not be installed; --peers can leave it out. uv said: {said[:300]}"
        )


def locked_version(name: str) -> str:
    """Of the package that a peer is made of."""
    package = {"triton": "nvidia-pytriton"}.get(name, name)
    found = re.search(rf"^{package}==(\S+)", (PEERS_FOLDER / f"{name}.txt").read_text(), re.MULTILINE)
    assert found is not None, f"{name}.txt does not lock {package}"
    return found.group(1)
