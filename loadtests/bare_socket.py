"""What Locust's client adds to a latency: the door asked over a bare socket, which does nothing but send and receive.

    python -m loadtests.bare_socket v2-binary http://127.0.0.1:8000 SECONDS    prints the mean latency in ms

One caller in a closed loop, as with Locust; the first quarter of the time is a warm-up.
"""

from __future__ import annotations

import itertools
import sys
import time
from urllib.parse import urlsplit

from digits import mnist
from loadtests.client import connect
from loadtests.protocols import PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.wire import connection_of, digit, write_requests


def mean_latency_ms(protocol: ProtocolName, url: str, seconds: float) -> float:
    """Of the door alone.

    Raises:
        OSError: the connection failed, or the server ended it.
        WrongAnswer: an answer is no prediction.
    """
    requests = write_requests(protocol, urlsplit(url).netloc, PROTOCOLS[protocol].echo_path, mnist.test_images().images)
    wire = connection_of(requests)
    latencies: list[float] = []
    _, connection = connect(url)
    with connection:
        connection.sendall(wire.greeting)
        start = sent = time.perf_counter()
        for number in itertools.cycle(range(len(requests))):
            if sent >= start + seconds:
                break
            request = wire.request(number)
            sent = time.perf_counter()
            connection.sendall(request)
            answer = None
            while answer is None:
                piece = connection.recv(65_536)
                if not piece:
                    raise ConnectionError(f"{url} ended the connection")
                answer = wire.receive(piece)
            latencies.append(time.perf_counter() - sent)
            if said := wire.to_send():
                connection.sendall(said)
            digit(protocol, answer)  # after the clock was read
    counted = latencies[len(latencies) // 4 :]
    return 1000 * sum(counted) / len(counted)


if __name__ == "__main__":
    _, name, address, duration = sys.argv
    try:
        print(mean_latency_ms(name, address, float(duration)))  # type: ignore[arg-type]
    except (OSError, WrongAnswer) as error:
        raise SystemExit(f"Error: {error}") from error
