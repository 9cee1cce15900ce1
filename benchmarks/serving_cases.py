"""The cases of the benchmark: what is measured, on which servers, against which goals."""

from __future__ import annotations

import compileall
import dataclasses
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import Progress

from benchmarks import serving_client as client
from benchmarks.serving_client import Call, Load, Question
from benchmarks.serving_servers import PEERS, bentoml_here, by_bentoml, grpcio_here, ours, peer, started
from digits import mnist
from digits.contract import Backend, Images
from digits.errors import LoadTestError, ModelNotFound
from digits.store import StoredModel, find_model
from loadtests.server import Server, free_ports, on_cores
from runtimes.backends import Runtime, is_installed, open_runtime
from runtimes.device import CPU
from serving.protocols.grpc import framed
from serving.start import ROOT

RECIPE: Final = "torch-relu"
SLOW_RECIPE: Final = "torch-conv"
IMAGES: Final = 256  # distinct ones, in turn
MANY: Final = 64  # images in one request
STARTS: Final = 5  # of each server
DISPATCHER_SECONDS: Final = 3  # of load until bentoml's dispatcher has trained

JSON_16: Final = "JSON, 16 connections"
BINARY_16: Final = "v2 binary, 16 connections"
JSON_1: Final = "JSON, one connection"
MANY_16: Final = f"{MANY} images in a binary request, 16 connections"
MANY_1: Final = f"{MANY} images in a binary request, one connection"
START: Final = "start to ready, ONNX only"
MEMORY: Final = "resident memory of the worker, ONNX only"
ALL_MEMORY: Final = "memory of all processes once ready (USS), ONNX only"
WORKERS: Final = "two workers on two cores"
SLOW: Final = {number: f"{SLOW_RECIPE}, binary (FastAPI: JSON), {number} connections" for number in (16, 64)}
BESIDE_CONNECTIONS: Final = 16  # that keep the slow model under full load
BESIDE_SECONDS: Final = 2  # of that load, in whose midst the dense model is measured for one
BATCHED: Final[dict[Backend, str]] = {  # torch before TensorFlow, whose LLVM otherwise makes torch's abort
    "torch": "torch, 64 connections",
    "tensorflow": "TensorFlow, 64 connections",
    "onnx": "ONNX, 64 connections",
}

GRPC_16: Final = "gRPC, 16 connections"
GRPC_64: Final = "gRPC, 64 connections"
GRPC_STREAMS: Final = "gRPC, one connection with 16 streams at once"
GRPC_1: Final = "gRPC, one connection"
GRPC_BATCHED: Final = "TensorFlow over gRPC, 64 connections"
GRPC_CASES: Final = {GRPC_16: (16, 1), GRPC_64: (64, 1), GRPC_STREAMS: (1, 16), GRPC_1: (1, 1)}  # connections, streams

US: Final = "samedigit"
UNBATCHED: Final = "samedigit, unbatched"
TWO_WORKERS: Final = "samedigit, two workers"
API_PORT: Final = "samedigit, API port"
API_PORT_PREDICT: Final = "samedigit, API port, /predict"
IN_PROCESS: Final = "onnxruntime in process"
ALONE: Final = f"{RECIPE} alone"
BESIDE: Final = f"{RECIPE} beside {SLOW_RECIPE} under full load"
FULL_LOAD: Final = f"{SLOW_RECIPE} under full load"
ADAPTIVE: Final = "bentoml, adaptive batching"
ADAPTIVE_OFF: Final = "bentoml, the same, unbatched"
GRPCIO: Final = {"threads": "grpcio, threads", "asyncio": "grpcio, asyncio"}
BY_BENTOML: Final = "samedigit, by bentoml serve"
EMPTY: Final = "empty bentoml service"
UNCOMPILED: Final = "empty bentoml service, bytecode not compiled"


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Where servers and client run; None: wherever the system puts them."""

    server: list[int] | None
    client: list[int] | None
    two_workers: list[int] | None
    beside_two_workers: list[int] | None  # the client, where there are two workers

    @property
    def more_than_two(self) -> bool:
        return self.two_workers != self.beside_two_workers


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every case needs."""

    model: StoredModel
    runtime: Runtime  # the model in this process, through ONNX
    images: Images
    digits: list[int]  # what the model makes of them
    rounds: int
    cores: Cores
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One server under one load."""

    server: str  # among those started
    label: str  # what it is called in the results
    case: str
    port: int
    question: Question | Call
    connections: int
    warm_up_seconds: int = 1
    ca_file: Path | None = None  # the server speaks TLS with its certificate


@dataclass(frozen=True)
class InProcess:
    """The runtime without a server, measured in the same rounds."""

    label: str = IN_PROCESS
    case: str = MANY_16
    images: int = MANY  # in one call
    connections: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Medians of several rounds, and the rounds; None where a case has no such figure."""

    server: str
    case: str
    connections: int | None = None
    requests_per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    seconds: float | None = None  # from start to ready
    megabytes: float | None = None  # of 10^6 bytes
    cpu_us_per_request: float | None = None  # of all processes of the server
    failed: int = 0  # requests of all rounds
    rounds: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Goal:
    case: str
    goal: str
    unit: str  # of `ours` and `theirs`
    ours: float
    against: str
    theirs: float
    ratio: float
    rounds: tuple[float, float] | None  # the least and the largest of the rounds, each by itself
    limit: float
    at_least: bool  # whether the ratio must be at least the limit, or at most
    met: bool  # never, if a request of ours failed


def prepare(*, rounds: int, progress: Progress) -> Bench:
    """The model, the images, and the cores.

    Raises:
        SamedigitError: the model is not stored, or MNIST or onnxruntime is missing.
    """
    model = find_model(RECIPE)
    runtime = open_runtime("onnx", model.path("onnx"), device=CPU)
    images = mnist.test_images().images[:IMAGES]
    return Bench(
        model=model,
        runtime=runtime,
        images=images,
        digits=runtime.predict(images).argmax(axis=1).tolist(),
        rounds=rounds,
        cores=_cores(),
        progress=progress,
    )


def through_onnx(bench: Bench, peers: Sequence[str]) -> list[Measurement]:
    """One image a request, in JSON and in binary, and 64 in one."""
    api_port, data_port, *peer_ports = free_ports(2 + len(peers))
    ports = {US: data_port, **dict(zip(peers, peer_ports, strict=True))}
    starts = {US: ours(bench.model, "onnx", (api_port, data_port))}
    for name in peers:
        try:
            starts[name] = peer(name, bench.model, ports[name])
        except LoadTestError as error:
            if name != "triton":  # the one that runs on fewer systems than we do
                raise
            bench.progress.console.print(f"{PEERS[name]} is left out. {error}", highlight=False, soft_wrap=True)
    with started(starts, cores=bench.cores.server, optional={"triton"}, progress=bench.progress) as servers:
        questions = {US: client.v2_json(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits)}
        for name in servers.keys() - {US}:
            if name in ("mlserver", "triton"):
                questions[name] = client.v2_json("/v2/models/digits/infer", bench.images, bench.digits)
            else:
                questions[name] = client.nested_json("/predict", bench.images, bench.digits)
        binary = client.v2_binary(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits)
        many = client.v2_binary(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits, batch=MANY)
        predict = client.nested_json("/predict/onnx", bench.images, bench.digits)

        def cell(case: str, connections: int, question: Question, name: str = US, *, api: str = "") -> Cell:
            label = api or {US: US, **PEERS}[name]
            port = api_port if api else ports[name]
            return Cell(server=name, label=label, case=case, port=port, question=question, connections=connections)

        cells = [
            *(cell(JSON_16, 16, questions[name], name) for name in servers),
            cell(JSON_16, 16, questions[US], api=API_PORT),
            cell(JSON_16, 16, predict, api=API_PORT_PREDICT),
            cell(BINARY_16, 16, binary),
            cell(BINARY_16, 16, binary, api=API_PORT),
            *(cell(JSON_1, 1, questions[name], name) for name in servers),
            cell(MANY_16, 16, many),
            cell(MANY_1, 1, many),
        ]
        if "triton" in servers:
            triton_binary = client.v2_binary("/v2/models/digits/infer", bench.images, bench.digits)
            cells.append(cell(BINARY_16, 16, triton_binary, "triton"))
        measurements = measure(bench, [*cells, InProcess()], servers)
        # After load through both ports. BentoML's timeouts keep what belongs to a request for as long as they are.
        memory = Measurement(server=API_PORT, case=MEMORY, megabytes=servers[US].worker_bytes() / 1e6)
        return [*measurements, memory]


def through_grpc(bench: Bench, peers: Sequence[str]) -> list[Measurement]:
    """One image a call, over gRPC: ours, Triton's, and grpcio's own server."""
    api_port, data_port, triton_port, triton_grpc, *others = free_ports(4 + 2 * len(GRPCIO))
    ports = {US: data_port}
    starts = {US: ours(bench.model, "onnx", (api_port, data_port))}
    if "triton" in peers:
        ports[PEERS["triton"]] = triton_grpc
        starts[PEERS["triton"]] = peer("triton", bench.model, triton_port, triton_grpc)
    for (mode, name), port, grpc_port in zip(GRPCIO.items(), others[::2], others[1::2], strict=True):
        ports[name] = grpc_port
        starts[name] = grpcio_here(mode, bench.model, port, grpc_port)
    with started(starts, cores=bench.cores.server, optional={PEERS["triton"]}, progress=bench.progress) as servers:
        cells = [
            Cell(
                server=name,
                label=name,
                case=case,
                port=ports[name],
                question=client.model_infer(
                    f"{RECIPE}.onnx" if name == US else "digits", bench.images[0], bench.digits[0], streams=streams
                ),
                connections=connections,
            )
            for case, (connections, streams) in GRPC_CASES.items()
            for name in servers
        ]
        return measure(bench, cells, servers)


def _in_process(bench: Bench, images: int) -> Load:
    """The runtime's own time for so many images, on the server's core, while every server sleeps."""
    batches = [bench.images[start : start + images].copy() for start in range(0, len(bench.images), images)]
    taken_ms: list[float] = []
    with on_cores(bench.cores.server):
        ends = time.perf_counter() + 1
        while (before := time.perf_counter()) < ends:
            bench.runtime.predict(batches[len(taken_ms) % len(batches)])
            taken_ms.append(1000 * (time.perf_counter() - before))
    p50, p99 = np.percentile(taken_ms, (50, 99)).tolist()
    rate = 1000 / statistics.mean(taken_ms)
    return Load(answers=len(taken_ms), requests_per_second=rate, p50_ms=p50, p99_ms=p99, failed=0)


def batching(bench: Bench) -> list[Measurement]:
    """64 connections with one image a request: batched or not, and bentoml's adaptive batching beside it."""
    backends = [name for name in BATCHED if is_installed(name) and name in bench.model.card.backends]
    ports = free_ports(5)
    files = {f"MODEL_{name.upper()}": str(bench.model.path(name)) for name in backends}
    starts = {
        US: ours(bench.model, ",".join(backends), (ports[0], ports[1])),
        UNBATCHED: ours(bench.model, ",".join(backends), (ports[2], ports[3]), SAMEDIGIT_MAX_BATCH="1"),
        ADAPTIVE: bentoml_here("bentoml_batching:Batching", ports[4], **files),
    }
    cells = []
    for name in backends:
        binary = client.v2_binary(f"/v2/models/{RECIPE}.{name}/infer", bench.images, bench.digits)
        asked = [
            (US, US, ports[1], binary),
            (UNBATCHED, UNBATCHED, ports[3], binary),
            (ADAPTIVE, ADAPTIVE, ports[4], client.base64_json(f"/{name}", bench.images, bench.digits)),
            (ADAPTIVE, ADAPTIVE_OFF, ports[4], client.base64_json(f"/{name}_unbatched", bench.images, bench.digits)),
        ]
        cells += [
            Cell(
                server=server,
                label=label,
                case=BATCHED[name],
                port=port,
                question=question,
                connections=64,
                warm_up_seconds=DISPATCHER_SECONDS if label == ADAPTIVE else 1,
            )
            for server, label, port, question in asked
        ]
    if "tensorflow" in backends:
        call = client.model_infer(f"{RECIPE}.tensorflow", bench.images[0], bench.digits[0])
        cells += [
            Cell(server=name, label=name, case=GRPC_BATCHED, port=port, question=call, connections=64)
            for name, port in ((US, ports[1]), (UNBATCHED, ports[3]))
        ]
    with started(starts, cores=bench.cores.server, progress=bench.progress) as servers:
        return measure(bench, cells, servers)


def slow_model(bench: Bench, peers: Sequence[str]) -> list[Measurement]:
    """A model that takes ten times as long for an image: on one core beside its peers, and then beside the dense one."""
    try:
        model = find_model(SLOW_RECIPE)
    except ModelNotFound as error:
        bench.progress.console.print(f"{SLOW_RECIPE} is left out. {error}", highlight=False, soft_wrap=True)
        return []
    runtime = open_runtime("onnx", model.path("onnx"), device=CPU)
    digits = runtime.predict(bench.images).argmax(axis=1).tolist()
    slow = dataclasses.replace(bench, model=model, runtime=runtime, digits=digits)
    return [*_slow_beside_peers(slow, peers), *_dense_beside_slow(bench, slow)]


def _slow_beside_peers(bench: Bench, peers: Sequence[str]) -> list[Measurement]:
    names = [name for name in ("fastapi", "triton") if name in peers]
    api_port, data_port, *peer_ports = free_ports(2 + len(names))
    ports = {US: data_port, **dict(zip(names, peer_ports, strict=True))}
    starts = {US: ours(bench.model, "onnx", (api_port, data_port))}
    starts |= {name: peer(name, bench.model, ports[name]) for name in names}
    questions = {
        US: client.v2_binary(f"/v2/models/{SLOW_RECIPE}.onnx/infer", bench.images, bench.digits),
        "triton": client.v2_binary("/v2/models/digits/infer", bench.images, bench.digits),
        "fastapi": client.nested_json("/predict", bench.images, bench.digits),
    }
    with started(starts, cores=bench.cores.server, optional={"triton"}, progress=bench.progress) as servers:
        cells = [
            Cell(
                server=name,
                label={US: US, **PEERS}[name],
                case=case,
                port=ports[name],
                question=questions[name],
                connections=connections,
            )
            for connections, case in SLOW.items()
            for name in servers
        ]
        return measure(bench, [*cells, *(InProcess(case=case, images=1) for case in SLOW.values())], servers)


def beside_case(connections: int, *, two_cores: bool) -> str:
    many = "one connection" if connections == 1 else f"{connections} connections"
    return f"binary, {many}; server {'and client on two cores' if two_cores else 'on one core, client on another'}"


def _dense_beside_slow(bench: Bench, slow: Bench) -> list[Measurement]:
    """The dense model by itself, and while connections enough ask one server for the slow model as fast as they can.

    Both loads are wrk's. On two cores it has no core of its own, and takes a part of the server's.
    """
    dense_question, slow_question = (
        client.v2_binary(f"/v2/models/{one.model.recipe}.onnx/infer", one.images, one.digits) for one in (bench, slow)
    )
    measurements: list[Measurement] = []
    for two_cores in (True, False):
        cores = bench.cores.two_workers if two_cores else bench.cores.server
        client_cores = bench.cores.beside_two_workers if two_cores else bench.cores.client
        api_port, data_port = free_ports(2)
        start = ours(bench.model, "onnx", (api_port, data_port), SAMEDIGIT_MODELS=f"{bench.model.tag},{slow.model.tag}")
        with (
            started({US: start}, cores=cores, progress=bench.progress) as servers,
            tempfile.TemporaryDirectory() as folder,
            ThreadPoolExecutor(1) as full_load,
        ):
            servers[US].wake()
            dense_file, slow_file = Path(folder) / "dense", Path(folder) / "slow"
            for question, file in ((dense_question, dense_file), (slow_question, slow_file)):
                client.check(US, data_port, question)
                client.write_requests(question, file)

            def load(
                file: Path,
                connections: int,
                seconds: int,
                *,
                port: int = data_port,
                on: list[int] | None = client_cores,
            ) -> Load:
                return client.load(port, file, connections=connections, seconds=seconds, cores=on)

            for connections in (1, 16):
                loads: dict[str, list[Load]] = {ALONE: [], BESIDE: [], FULL_LOAD: []}
                for round_ in range(1 + bench.rounds):
                    alone = load(dense_file, connections, 1)
                    under_way = full_load.submit(load, slow_file, BESIDE_CONNECTIONS, BESIDE_SECONDS)
                    time.sleep((BESIDE_SECONDS - 1) / 2)
                    beside = load(dense_file, connections, 1)
                    if round_:  # the first is the warm-up
                        loads[ALONE].append(alone)
                        loads[BESIDE].append(beside)
                        loads[FULL_LOAD].append(under_way.result())
                    else:
                        under_way.result()
                case = beside_case(connections, two_cores=two_cores)
                for label, found in loads.items():
                    number = BESIDE_CONNECTIONS if label == FULL_LOAD else connections
                    measurements.append(_median(label, case, number, found))
    return measurements


def start_and_memory(bench: Bench) -> list[Measurement]:
    """Several starts of an empty bentoml service, of ours in one process and of ours by `bentoml serve`, in turn.

    Once more without compiled bytecode, as uv leaves an environment unless it is told to compile. Ours is compiled first, as
    pip compiles what it installs: some systems forbid Python to do it at the first import.
    """
    for room in ("digits", "scratch", "runtimes", "serving"):
        compileall.compile_dir(ROOT / room, quiet=1)
    seconds: dict[str, list[float]] = {US: [], BY_BENTOML: [], EMPTY: [], UNCOMPILED: []}
    no_bytecode = {"PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    megabytes = []
    all_megabytes: dict[str, list[float]] = {US: [], BY_BENTOML: [], EMPTY: []}
    for _ in range(STARTS):
        for name in random.sample(list(seconds), len(seconds)):
            first, second = free_ports(2)
            if name in (US, BY_BENTOML):
                one = ours(bench.model, "onnx", (first, second))
                if name == BY_BENTOML:
                    one = by_bentoml(one, first)
            else:
                variables = no_bytecode if name == UNCOMPILED else {}
                one = bentoml_here("bentoml_empty:Empty", first, **variables)
            with started({name: one}, cores=bench.cores.server, progress=bench.progress) as servers:
                seconds[name].append(servers[name].ready_seconds)
                if name in all_megabytes:
                    all_megabytes[name].append(servers[name].memory().unique_bytes / 1e6)
                if name == EMPTY:
                    megabytes.append(servers[name].worker_bytes() / 1e6)
    return [
        *(
            Measurement(
                server=name,
                case=START,
                seconds=statistics.median(taken),
                rounds=[{"seconds": one} for one in taken],
            )
            for name, taken in seconds.items()
        ),
        *(
            Measurement(
                server=name,
                case=ALL_MEMORY,
                megabytes=statistics.median(taken),
                rounds=[{"megabytes": one} for one in taken],
            )
            for name, taken in all_megabytes.items()
        ),
        Measurement(
            server=EMPTY,
            case=MEMORY,
            megabytes=statistics.median(megabytes),
            rounds=[{"megabytes": one} for one in megabytes],
        ),
    ]


def two_workers(bench: Bench) -> list[Measurement]:
    """One worker and two, both with two cores to run on, and the CPU time that a request costs them.

    With our memory after a load on the data plane alone.
    """
    ports = free_ports(4)
    starts = {
        US: ours(bench.model, "onnx", (ports[0], ports[1])),
        TWO_WORKERS: ours(bench.model, "onnx", (ports[2], ports[3]), SAMEDIGIT_WORKERS="2"),
    }
    question = client.v2_json(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits)
    cells = [
        Cell(server=name, label=name, case=WORKERS, port=port, question=question, connections=64)
        for name, port in ((US, ports[1]), (TWO_WORKERS, ports[3]))
    ]
    with started(starts, cores=bench.cores.two_workers, progress=bench.progress) as servers:
        measurements = measure(bench, cells, servers, client_cores=bench.cores.beside_two_workers)
        return [*measurements, Measurement(server=US, case=MEMORY, megabytes=servers[US].worker_bytes() / 1e6)]


def measure(
    bench: Bench,
    cells: Sequence[Cell | InProcess],
    servers: dict[str, Server],
    *,
    client_cores: list[int] | None = None,
) -> list[Measurement]:
    """Every cell in every round, each round in a new random order.

    Raises:
        LoadTestError: a wrong answer, or none.
    """
    loads: list[list[Load]] = [[] for _ in cells]
    cpu_us: list[list[float]] = [[] for _ in cells]
    step = bench.progress.add_task("", total=len(cells) * (1 + bench.rounds))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(i) for i in range(len(cells))]
        for cell, file in zip(cells, files, strict=True):
            if isinstance(cell, InProcess):
                continue
            if isinstance(cell.question, Call):
                file.write_bytes(framed(cell.question.message))
            else:
                client.write_requests(cell.question, file)
        for round_ in range(1 + bench.rounds):
            for i in random.sample(range(len(cells)), len(cells)):
                cell = cells[i]
                bench.progress.update(step, description=f"{cell.case}: {cell.label}")
                if isinstance(cell, InProcess):
                    load, cpu_seconds = _in_process(bench, cell.images), 0.0
                else:
                    server = servers[cell.server]
                    server.wake()
                    seconds = 1 if round_ else cell.warm_up_seconds
                    load, before = _load(cell, files[i], server, seconds, client_cores or bench.cores.client)
                    cpu_seconds = server.cpu_seconds() - before
                    server.sleep()
                if round_:  # the first is the warm-up
                    loads[i].append(load)
                    cpu_us[i].append(1e6 * cpu_seconds / load.answers)
                bench.progress.advance(step)
    bench.progress.remove_task(step)
    return [
        _median(cell.label, cell.case, cell.connections, rounds, cpu if isinstance(cell, Cell) else ())
        for cell, rounds, cpu in zip(cells, loads, cpu_us, strict=True)
    ]


def _load(cell: Cell, file: Path, server: Server, seconds: int, cores: list[int] | None) -> tuple[Load, float]:
    """What one measurement found, and the server's CPU seconds before it."""
    if isinstance(cell.question, Call):
        size = client.check_call(cell.label, cell.port, cell.question)
        before = server.cpu_seconds()
        load = client.load_calls(
            cell.port,
            cell.question,
            file,
            connections=cell.connections,
            seconds=seconds,
            cores=cores,
            answer_bytes=size,
        )
        return load, before
    client.check(cell.label, cell.port, cell.question, ca_file=cell.ca_file)
    before = server.cpu_seconds()
    tls = cell.ca_file is not None
    return client.load(cell.port, file, connections=cell.connections, seconds=seconds, cores=cores, tls=tls), before


def _median(
    server: str, case: str, connections: int | None, loads: Sequence[Load], cpu_us: Sequence[float] = ()
) -> Measurement:
    return Measurement(
        server=server,
        case=case,
        connections=connections,
        requests_per_second=statistics.median(load.requests_per_second for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
        cpu_us_per_request=statistics.median(cpu_us) if cpu_us else None,
        failed=sum(load.failed for load in loads),
        rounds=[asdict(load) | ({"cpu_us_per_request": cpu_us[i]} if cpu_us else {}) for i, load in enumerate(loads)],
    )


def goals(measurements: Sequence[Measurement], cores: Cores) -> list[Goal]:
    """The goals that these measurements can tell about: a peer that was left out has none."""
    found = {(one.case, one.server): one for one in measurements}
    rate: Callable[[Measurement], float | None] = lambda one: one.requests_per_second  # noqa: E731
    result = []

    def compare(
        case: str,
        goal: str,
        unit: str,
        figure: Callable[[Measurement], float | None],
        against: str,
        limit: float,
        *,
        at_least: bool = True,
        server: str = US,
        their_case: str | None = None,
        their_figure: Callable[[Measurement], float | None] | None = None,
        factor: float = 1,
    ) -> None:
        us, them = found.get((case, server)), found.get((their_case or case, against))
        if us is None or them is None:
            return
        ours_, theirs = figure(us), (their_figure or figure)(them)
        if not ours_ or not theirs:
            return
        ratio = factor * ours_ / theirs
        pairs = zip(_each_round(us), _each_round(them), strict=False)
        each = [factor * (figure(one) or 0) / ((their_figure or figure)(other) or 1) for one, other in pairs]
        met = us.failed == 0 and (ratio >= limit if at_least else ratio <= limit)
        result.append(
            Goal(
                case=case, goal=goal, unit=unit, ours=ours_, against=against, theirs=theirs, ratio=ratio,
                rounds=(min(each), max(each)) if each else None, limit=limit, at_least=at_least, met=met,
            )
        )  # fmt: skip

    for name, limit in (("fastapi", 2.0), ("mlserver", 4.0), ("bentoml", 9.0), ("triton", 1.4)):
        compare(JSON_16, f"at least {limit:g}x {PEERS[name]}'s", "requests/s", rate, PEERS[name], limit)
    triton = PEERS["triton"]
    compare(GRPC_16, "at least 2x Triton's", "requests/s", rate, triton, 2)
    compare(GRPC_16, "at least 4.5x grpcio's", "requests/s", rate, GRPCIO["threads"], 4.5)
    for case in (GRPC_64, GRPC_STREAMS):
        compare(case, "at least 1.7x Triton's", "requests/s", rate, triton, 1.7)
    compare(GRPC_1, "p50 at most 0.7x Triton's", "ms", lambda one: one.p50_ms, triton, 0.7, at_least=False)
    compare(GRPC_BATCHED, "at least 4x unbatched", "requests/s", rate, UNBATCHED, 4)
    fastapi = PEERS["fastapi"]
    compare(BINARY_16, "at least 3.3x FastAPI's JSON", "requests/s", rate, fastapi, 3.3, their_case=JSON_16)
    compare(JSON_1, "p50 at most 0.7x FastAPI's", "ms", lambda one: one.p50_ms, fastapi, 0.7, at_least=False)
    compare(
        JSON_1, "p99 at most 3x our own p50", "ms", lambda one: one.p99_ms, US, 3,
        at_least=False, their_figure=lambda one: one.p50_ms,
    )  # fmt: skip
    compare(
        MANY_16, "time per request at most 1.5x the runtime's own", "ms", lambda one: 1000 / (rate(one) or 1), IN_PROCESS, 1.5,
        at_least=False,
    )  # fmt: skip
    for case, limit in ((BATCHED["tensorflow"], 4.0), (BATCHED["torch"], 2.0)):
        compare(case, f"at least {limit:g}x unbatched", "requests/s", rate, UNBATCHED, limit)
    for case in SLOW.values():
        compare(case, "at least 0.7x the runtime's own rate", "requests/s", rate, IN_PROCESS, 0.7)
        for name in ("fastapi", "triton"):
            compare(case, f"ahead of {PEERS[name]}", "requests/s", rate, PEERS[name], 1)
    for connections in (1, 16):
        for two_cores in (True, False):
            compare(
                beside_case(connections, two_cores=two_cores), "p99 at most its own by itself plus 2 ms", "ms",
                lambda one: one.p99_ms, ALONE, 1, at_least=False, server=BESIDE,
                their_figure=lambda one: (one.p99_ms or 0) + 2,
            )  # fmt: skip
    compare(START, "at most 0.7x an empty bentoml service's", "s", lambda one: one.seconds, EMPTY, 0.7, at_least=False)
    compare(
        ALL_MEMORY,
        "at most 0.7x an empty bentoml service's",
        "MB",
        lambda one: one.megabytes,
        EMPTY,
        0.7,
        at_least=False,
    )
    compare(
        MEMORY, "at most 1.2x an empty bentoml service's", "MB", lambda one: one.megabytes, EMPTY, 1.2, at_least=False
    )
    if cores.more_than_two:
        compare(WORKERS, "at least 1.8x one worker", "requests/s", rate, US, 1.8, server=TWO_WORKERS)
    else:
        # The client takes a part of both cores, so throughput says nothing: CPU time per request does.
        compare(
            WORKERS, "at least 1.8x one worker, by CPU time per request", "requests/CPU s",
            lambda one: 1e6 / (one.cpu_us_per_request or 1), US, 1.8, server=TWO_WORKERS, factor=2,
        )  # fmt: skip
    return result


def _each_round(measurement: Measurement) -> list[Measurement]:
    known = {one.name for one in dataclasses.fields(Measurement)}
    figures: list[dict[str, Any]] = [{name: one[name] for name in known & one.keys()} for one in measurement.rounds]
    return [dataclasses.replace(measurement, **one) for one in figures]


def _cores() -> Cores:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return Cores(server=None, client=None, two_workers=None, beside_two_workers=None)
    two = allowed[:2]
    return Cores(server=two[:1], client=allowed[1:2], two_workers=two, beside_two_workers=allowed[2:] or two)
