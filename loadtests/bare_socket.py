"""What Locust's client adds to a latency: the door asked over a bare socket, which does nothing but send and receive.

    python -m loadtests.bare_socket v2-binary http://127.0.0.1:8000 SECONDS    prints the mean latency in ms

One caller in a closed loop, as with Locust; the first quarter of the time is a warm-up.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from digits import mnist
from loadtests.client import connect, request_bytes
from loadtests.protocols import PROTOCOLS, ProtocolName

END_OF_HEAD: Final = b"\r\n\r\n"


def mean_latency_ms(protocol: ProtocolName, url: str, seconds: float) -> float:
    asked = PROTOCOLS[protocol]
    bodies = [asked.write(image) for image in mnist.test_images().images]
    latencies: list[float] = []
    host, connection = connect(url)
    with connection:
        headers = {"Host": host, **asked.headers}
        requests = [request_bytes("POST", asked.echo_path, body, headers) for body in bodies]
        start = time.perf_counter()
        sent = start
        while sent < start + seconds:
            sent = time.perf_counter()
            connection.sendall(requests[len(latencies) % len(requests)])
            received = connection.recv(65536)
            while not _whole(received):
                received += connection.recv(65536)
            latencies.append(time.perf_counter() - sent)
    counted = latencies[len(latencies) // 4 :]
    return 1000 * sum(counted) / len(counted)


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(END_OF_HEAD)
    if not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
        raise SystemExit(f"Error: expected status 200, got {answer[:200]!r}")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) == int(length)


if __name__ == "__main__":
    _, name, address, duration = sys.argv
    print(mean_latency_ms(name, address, float(duration)))  # type: ignore[arg-type]
