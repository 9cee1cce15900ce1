"""What wrk does in `serving.lua`, with Locust's fast client, where wrk is missing.

python -m benchmarks.serving_locust URL FILE CONNECTIONS SECONDS
"""

from __future__ import annotations

from locust import FastHttpUser, task  # isort: skip  # before everything else: it patches the process

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from locust.env import Environment


def main() -> None:
    url, file, connections, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    path, headers, bodies = read_requests(file)
    next_body = itertools.cycle(bodies)
    latencies_ms: list[float] = []
    failures = {"refused": 0, "unanswered": 0}

    class User(FastHttpUser):
        host = url

        @task
        def ask(self) -> None:
            body: Any = next(next_body)  # Locust sends bytes too, though it does not say so
            started = time.perf_counter()
            response = self.client.post(path, data=body, headers=headers)
            if response.status_code == 0:
                failures["unanswered"] += 1
                return
            latencies_ms.append(1000 * (time.perf_counter() - started))
            failures["refused"] += response.status_code >= 400

    environment = Environment(user_classes=[User])
    runner = environment.create_local_runner()
    runner.start(connections, spawn_rate=connections)
    while runner.user_count < connections:
        time.sleep(0.01)
    time.sleep(0.2)  # until every user has its connection
    latencies_ms.clear()
    failures.update(refused=0, unanswered=0)
    started = time.perf_counter()
    time.sleep(seconds)
    measured_ms, counted, elapsed = list(latencies_ms), dict(failures), time.perf_counter() - started
    runner.quit()
    p50, p99 = np.percentile(measured_ms or [float("nan")], (50, 99)).tolist()
    print(json.dumps({"answers": len(measured_ms), "seconds": elapsed, "p50_ms": p50, "p99_ms": p99, **counted}))


def read_requests(file: Path) -> tuple[str, dict[str, str], list[bytes]]:
    """The path and headers of the requests in `file`, the same for all, and the body of each."""
    bodies = []
    head = b""
    with open(file, "rb") as requests:
        while length := requests.readline():
            head, _, body = requests.read(int(length)).partition(b"\r\n\r\n")
            bodies.append(body)
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return (
        first.split()[1],
        {name: value for name, value in headers.items() if name not in ("Host", "Content-Length")},
        bodies,
    )


if __name__ == "__main__":
    main()
