"""How long a server takes from its start to its first right answer, over each protocol, with warm and with cold files.

    python -m loadtests.cold_start [MODEL...] [--starts N] [--results FOLDER]

Each start is a fresh server for one model through one backend; the order is random. From its beginning it is asked over every
protocol at once, each on a connection of its own, until the digit is right. Warm: its files are in the machine's memory, since
another start was just before. Cold: the system was told to forget all files first, which only root may do (and which slows
down whatever else the machine does then).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from digits import mnist, store
from digits.contract import Backend
from digits.errors import LoadTestError, SamedigitError
from digits.machine import machine
from digits.store import StoredModel
from loadtests.client import connect
from loadtests.load_test import two_cores
from loadtests.protocols import PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.server import READY_SECONDS, Start, free_ports, start_of, started
from loadtests.wire import connection_of, digit, exchange, write_requests
from runtimes.backends import is_installed

RESULTS_FILE: Final = "starts.json"
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
PAUSE_SECONDS: Final = 0.002  # between two attempts
Files = Literal["warm", "cold"]


@dataclass(frozen=True, kw_only=True)
class FirstAnswer:
    """Of one start."""

    model: str  # recipe:version
    recipe: str
    backend: Backend
    files: Files
    seconds: dict[ProtocolName, float]  # from the process's start to the first right answer


def measure(
    pairs: Sequence[tuple[StoredModel, Backend]], *, starts: int, cold: bool, seed: int = 1
) -> list[FirstAnswer]:
    """`starts` of each pair, warm and, if `cold`, cold.

    Raises:
        LoadTestError: a server did not start, or gave no right answer.
    """
    server_core, _ = two_cores()
    found = []
    kinds: tuple[Files, ...] = ("warm", "cold") if cold else ("warm",)
    plan = [(model, backend, files) for (model, backend), files, _ in product(pairs, kinds, range(starts))]
    for model, backend, files in random.Random(seed).sample(plan, len(plan)):
        if files == "warm":
            first_answers(model, backend, core=server_core)  # which reads its files
        else:
            os.sync()
            DROP_CACHES.write_text("3")
        seconds = first_answers(model, backend, core=server_core)
        found.append(FirstAnswer(model=model.tag, recipe=model.recipe, backend=backend, files=files, seconds=seconds))
    return found


def first_answers(model: StoredModel, backend: Backend, *, core: int | None) -> dict[ProtocolName, float]:
    """Seconds from the start of a server to its first right answer over each protocol."""
    port, data_port = free_ports(2)
    settings = {"SAMEDIGIT_MODELS": model.tag, "SAMEDIGIT_BACKENDS": backend}
    start = start_of(settings, port=port, data_port=data_port)
    urls = {name: f"http://127.0.0.1:{data_port if one.on_data_plane else port}" for name, one in PROTOCOLS.items()}
    return asked_from_the_start(start, urls, model.recipe, backend, core=core)


def asked_from_the_start(
    start: Start,
    urls: dict[ProtocolName, str],
    recipe: str,
    backend: str,
    *,
    core: int | None,
    limit_seconds: float = READY_SECONDS,
) -> dict[ProtocolName, float]:
    """Asks at every URL until the answer is right; seconds from the server's start.

    Raises:
        LoadTestError: it did not start, or over one protocol no answer was right.
    """
    found: dict[ProtocolName, float] = {}
    # Prepared beforehand, as a client that waits would be.
    test = mnist.test_images()
    requests = {
        name: write_requests(name, urlsplit(url).netloc, PROTOCOLS[name].path(recipe, backend), test.images[:20])
        for name, url in urls.items()
    }
    began = time.perf_counter()

    def ask(name: ProtocolName) -> None:
        number = 0
        while time.perf_counter() < began + limit_seconds:
            try:
                _, connection = connect(urls[name], timeout=limit_seconds)
                with connection:
                    wire = connection_of(requests[name])
                    connection.sendall(wire.greeting)
                    answer = exchange(connection, wire, number % 20)
                seconds = time.perf_counter() - began
                number += 1
                if digit(name, answer) == test.labels[(number - 1) % 20]:
                    found[name] = seconds
                    return
            except (OSError, WrongAnswer):
                time.sleep(PAUSE_SECONDS)

    asking = [threading.Thread(target=ask, args=(name,), daemon=True) for name in urls]
    for thread in asking:
        thread.start()
    with started(start, cores=None if core is None else [core]):
        for thread in asking:
            thread.join(limit_seconds)
    if missing := urls.keys() - found.keys():
        raise LoadTestError(f"No answer was right over {', '.join(sorted(missing))} within {limit_seconds:g} s.")
    return {name: found[name] for name in urls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of every recipe the served one without this")
    parser.add_argument("--starts", type=int, default=20, help="of each, warm and cold (default 20)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="a folder (default: results)")
    arguments = parser.parse_args()
    if arguments.starts < 1:
        parser.error("--starts must be at least 1")
    cold = os.access(DROP_CACHES, os.W_OK)
    if not cold:
        print("Only root may make the system forget its files: cold starts are left out.", file=sys.stderr)
    try:
        models = [store.find_model(name) for name in arguments.models] or store.served_models()
        pairs = [(model, backend) for model in models for backend in model.card.backends if is_installed(backend)]
        answers = measure(pairs, starts=arguments.starts, cold=cold)
        document = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "answers": [asdict(answer) for answer in answers],
        }
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / RESULTS_FILE).write_text(json.dumps(document, indent=1))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (SamedigitError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(3) from error
    print(f"{len(answers)} starts: {arguments.results / RESULTS_FILE}")


if __name__ == "__main__":
    main()
