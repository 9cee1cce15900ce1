"""What pictures cost: those who send them, and those who send small requests beside them.

    python -m benchmarks.pictures [--rounds N] [--json FILE]

One worker on one core; the clients on another. Small requests are one image each, binary, over the Open Inference Protocol, in
wrk's closed loop: alone, and while a client sends photographs of 12 megapixels to /classify as fast as they are answered. A
round measures both; compared are the medians of the rounds. Then what one caller waits for a picture, and for /compare.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import serving_cases as cases
from benchmarks import serving_client
from benchmarks.results import write_results
from benchmarks.serving_cases import Bench
from benchmarks.serving_servers import ours, started
from digits import mnist
from digits.contract import Images
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from loadtests.client import Client
from loadtests.server import free_ports, on_cores

GOAL: Final = 2.0  # times p99 alone
CONNECTIONS: Final = (1, 16)
SECONDS: Final = 2  # of each measurement
CALLS: Final = 30  # of one caller
PHOTOGRAPH: Final = (4000, 3000)  # 12 megapixels
DRAWING: Final = (400, 400)

ALONE, BESIDE = "alone", "beside photographs"


def photograph(image: Images, *, size: tuple[int, int] = PHOTOGRAPH) -> bytes:
    """A JPEG of a digit `[28, 28]` on white paper, with the noise of a camera."""
    width, height = size
    paper = Image.new("L", size, 235)
    side = height * 3 // 4
    digit = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    paper.paste(30, ((width - side) // 2, (height - side) // 2), digit)
    noise = np.random.default_rng(1).normal(0, 6, (height, width)).astype(np.float32)
    noisy = np.clip(np.asarray(paper) + noise, 0, 255).astype(np.uint8)
    return _file(Image.fromarray(noisy).convert("RGB"), "JPEG", quality=90)


def drawing(image: Images) -> bytes:
    """A PNG of the same as a canvas gives it: dark on a transparent ground."""
    dark = Image.new("RGBA", DRAWING, (0, 0, 0, 0))
    dark.paste((20, 20, 20, 255), (0, 0), Image.fromarray(image).resize(DRAWING, Image.Resampling.BICUBIC))
    return _file(dark, "PNG")


def _file(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


class Uploads:
    """What a client that sends one photograph after the other was answered."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []


@contextmanager
def uploading(port: int, body: bytes) -> Iterator[Uploads]:
    """Sends it to /classify as fast as it is answered, from a thread.

    Raises:
        LoadTestError: at the end, where an answer was not 200.
    """
    uploads, refused, stop = Uploads(), list[str](), threading.Event()

    def send() -> None:
        with Client(f"http://127.0.0.1:{port}") as client:
            while not stop.is_set():
                began = time.perf_counter()
                answer = client.ask("POST", "/classify", body, {"Content-Type": "image/jpeg"})
                if answer.status != 200:
                    refused.append(f"{answer.status}: {answer.body[:200]!r}")
                    return
                uploads.milliseconds.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield uploads
    finally:
        stop.set()
        thread.join()
    if refused:
        raise LoadTestError(f"/classify answered {refused[0]}")


def small_requests(bench: Bench, port: int, body: bytes) -> list[dict[str, Any]]:
    """Small requests alone and beside photographs, by their connections."""
    question = serving_client.v2_binary(f"/v2/models/{bench.model.recipe}.onnx/infer", bench.images, bench.digits)
    found: dict[tuple[int, str], list[serving_client.Load]] = {}
    uploaded: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requests"
        serving_client.write_requests(question, file)

        def load(connections: int, label: str) -> None:
            one = serving_client.load(port, file, connections=connections, seconds=SECONDS, cores=bench.cores.client)
            found.setdefault((connections, label), []).append(one)

        for connections in CONNECTIONS:
            for _ in range(bench.rounds):
                load(connections, ALONE)
                with uploading(port, body) as uploads:
                    load(connections, BESIDE)
                uploaded += uploads.milliseconds
    rows = [
        {
            "connections": connections,
            "case": label,
            "requests_per_second": statistics.median(one.requests_per_second for one in loads),
            "p50_ms": statistics.median(one.p50_ms for one in loads),
            "p99_ms": statistics.median(one.p99_ms for one in loads),
            "failed": sum(one.failed for one in loads),
        }
        for (connections, label), loads in found.items()
    ]
    return [*rows, {"case": "a photograph meanwhile", "connections": 1, "p50_ms": statistics.median(uploaded)}]


def one_caller(port: int, image: Images, body: bytes) -> list[dict[str, Any]]:
    """What one caller waits, with nobody else there."""
    as_json = {"Content-Type": "application/json"}
    bodies: dict[str, tuple[str, bytes, dict[str, str]]] = {
        "/classify, PNG of 400 x 400": ("/classify", drawing(image), {}),
        "/classify, JPEG of 12 megapixels": ("/classify", body, {}),
        "/compare, 28 x 28": ("/compare", orjson.dumps({"images": [image.tolist()]}), as_json),
        "/compare, PNG of 400 x 400": ("/compare", drawing(image), {}),
    }
    rows = []
    with Client(f"http://127.0.0.1:{port}") as client:
        for name, (path, sent, headers) in bodies.items():
            times = []
            for _ in range(CALLS):
                began = time.perf_counter()
                answer = client.ask("POST", path, sent, {"Content-Type": "application/octet-stream", **headers})
                times.append((time.perf_counter() - began) * 1000)
                if answer.status != 200:
                    raise LoadTestError(f"{name}: {answer.status}: {answer.body[:200]!r}")
            rows.append(
                {
                    "case": name,
                    "connections": 1,
                    "p50_ms": statistics.median(times),
                    "p99_ms": max(times),
                    "bytes": len(sent),
                }
            )
    return rows


def run(*, rounds: int) -> dict[str, Any]:
    """Every case. The result is what the JSON file holds.

    Raises:
        SamedigitError: something is missing, the server did not start, or an answer was wrong.
    """
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bench = cases.prepare(rounds=rounds, progress=progress)
        cores = bench.cores
        image = mnist.test_images().images[0]
        body = photograph(image)
        ports = free_ports(2)
        start = ours(bench.model, "onnx,numpy", (ports[0], ports[1]))
        with on_cores(cores.client), started({cases.US: start}, cores=cores.server, progress=progress) as servers:
            servers[cases.US].wake()
            rows = small_requests(bench, ports[1], body)
            before = servers[cases.US].memory().unique_bytes
            rows += one_caller(ports[1], image, body)
    p99 = {(row["connections"], row["case"]): row["p99_ms"] for row in rows if row["case"] in (ALONE, BESIDE)}
    ratios = {str(number): p99[number, BESIDE] / p99[number, ALONE] for number in CONNECTIONS}
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "client": serving_client.client(),
        "model": bench.model.tag,
        "photograph_bytes": len(body),
        "unique_megabytes": before / 1e6,
        "rows": rows,
        "p99_ratio": ratios,
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--json", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    try:
        document = run(rounds=arguments.rounds)
        if arguments.json:
            write_results(document, arguments.json)
    except SamedigitError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    table = Table(title=f"{document['machine']}; {document['client']}")
    for column in ("case", "connections", "requests/s", "p50, ms", "p99, ms"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in document["rows"]:
        figures = (row.get(key) for key in ("requests_per_second", "p50_ms", "p99_ms"))
        table.add_row(row["case"], str(row["connections"]), *("" if one is None else f"{one:,.3g}" for one in figures))
    Console().print(table)
    for number, ratio in document["p99_ratio"].items():
        print(
            f"{number} connections: p99 beside photographs is {ratio:.2f} times that alone; at most {GOAL:g} is the goal"
        )


if __name__ == "__main__":
    main()
