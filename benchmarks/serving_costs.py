"""What the server's guards cost: the same requests with and without a key, TLS, the access log, traces and metrics."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

from benchmarks import serving_client as client
from benchmarks.serving_cases import RECIPE, US, Bench, Cell, Measurement, measure
from benchmarks.serving_client import Question
from benchmarks.serving_servers import ours, started
from digits.errors import LoadTestError
from loadtests.server import Start, free_ports
from serving.start import ROOT, serve_environment

COSTS: Final = "what each costs: v2 binary, 16 connections"
KEY: Final = "the-key-of-the-benchmark"
WITHOUT_BENTOML: Final = "samedigit, without BentoML"


def costs(bench: Bench) -> list[Measurement]:
    """Each guard by itself, beside a server that has none of them but the metrics.

    What metrics cost is the difference of the last two, which run without BentoML: they cannot be turned off.
    """
    binary = client.v2_binary(f"/v2/models/{RECIPE}.onnx/infer", bench.images, bench.digits)
    keyed = dataclasses.replace(binary, headers={**binary.headers, "X-API-Key": KEY})
    with tempfile.TemporaryDirectory() as folder, _collector() as endpoint:
        certificate = _certificate(Path(folder))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "traceidratio"}
        variants: dict[str, tuple[dict[str, str], Question]] = {
            US: ({}, binary),
            "with a key": ({"SAMEDIGIT_KEYS": KEY}, keyed),
            "with the access log": ({"SAMEDIGIT_ACCESS_LOG": f"{folder}/access.log"}, binary),
            "with traces, one in a hundred": ({**traced, "OTEL_TRACES_SAMPLER_ARG": "0.01"}, binary),
            "with traces, every request": ({**traced, "OTEL_TRACES_SAMPLER_ARG": "1"}, binary),
        }
        starts: dict[str, Start] = {}
        cells = []
        for name, (settings, question) in variants.items():
            ports = free_ports(2)
            starts[name] = ours(bench.model, "onnx", (ports[0], ports[1]), **settings)
            cells.append(_cell(name, ports[1], question))
        if certificate is not None:
            ports = free_ports(2)
            pem, key = certificate
            tls = {"SAMEDIGIT_TLS_CERTIFICATE": str(pem), "SAMEDIGIT_TLS_KEY": str(key)}
            start = ours(bench.model, "onnx", (ports[0], ports[1]), **tls)
            starts["with TLS"] = dataclasses.replace(
                start,
                ready=[url.replace("http:", "https:") for url in start.ready],
                ca_file=pem,
            )
            cells.append(_cell("with TLS", ports[1], binary, ca_file=pem))
        for name, way in ((WITHOUT_BENTOML, "at once"), ("without BentoML and metrics", "uncounted")):
            (port,) = free_ports(1)
            starts[name] = _without_bentoml(bench, way, port)
            cells.append(_cell(name, port, binary))
        with started(starts, cores=bench.cores.server, progress=bench.progress) as servers:
            return measure(bench, cells, servers)


def _cell(name: str, port: int, question: Question, *, ca_file: Path | None = None) -> Cell:
    return Cell(server=name, label=name, case=COSTS, port=port, question=question, connections=16, ca_file=ca_file)


def _without_bentoml(bench: Bench, way: str, port: int) -> Start:
    variables = {
        "SAMEDIGIT_MODELS": bench.model.tag,
        "SAMEDIGIT_BACKENDS": "onnx",
        "SAMEDIGIT_DATA_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    return Start(
        command=[sys.executable, "-m", "benchmarks.door", "--serve", way],
        environment=serve_environment(variables),
        ready=[f"http://127.0.0.1:{port}/v2/health/ready"],
    )


def _certificate(folder: Path) -> tuple[Path, Path] | None:
    """A certificate for 127.0.0.1 and its key; None where openssl is missing."""
    if shutil.which("openssl") is None:
        return None
    pem, key = folder / "certificate.pem", folder / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(pem)),
        ],
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise LoadTestError(f"openssl could not make a certificate: {made.stderr[-300:]}")
    return pem, key


class _Taking(BaseHTTPRequestHandler):
    """Takes what comes, and says that it is well."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _collector() -> Iterator[str]:
    """The address of what takes traces, in a thread of this process."""
    server = HTTPServer(("127.0.0.1", 0), _Taking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
