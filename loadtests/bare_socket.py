"""What Locust's client adds to a latency: the door asked over a bare socket, which does nothing but send and receive.

    python -m loadtests.bare_socket v2-binary http://127.0.0.1:8000 SECONDS    prints the mean latency in ms

One caller in a closed loop, as with Locust; the first quarter of the time is a warm-up.
"""

from __future__ import annotations

import itertools
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from hpack import Encoder

from digits import mnist
from digits.contract import SIDE
from loadtests.client import connect, request_bytes
from loadtests.protocols import CALL, PROTOCOLS, ProtocolName
from serving.protocols.v2_grpc import INFER

END_OF_HEAD: Final = b"\r\n\r\n"

# HTTP/2: its preface, kinds of frames, and flags.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 7, 8
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4


def mean_latency_ms(protocol: ProtocolName, url: str, seconds: float) -> float:
    asked = PROTOCOLS[protocol]
    bodies = [asked.write(image) for image in mnist.test_images().images]
    latencies: list[float] = []
    host, connection = connect(url)
    with connection:
        if asked.is_call:
            requests, whole = calls(connection, bodies), _is_whole_call
        else:
            headers = {"Host": host, **asked.headers}
            whole = _whole
            requests = itertools.cycle([request_bytes("POST", asked.echo_path, body, headers) for body in bodies])
        start = time.perf_counter()
        sent = start
        while sent < start + seconds:
            request = next(requests)
            sent = time.perf_counter()
            connection.sendall(request)
            received = connection.recv(65536)
            while not whole(received):
                received += connection.recv(65536)
            latencies.append(time.perf_counter() - sent)
    counted = latencies[len(latencies) // 4 :]
    return 1000 * sum(counted) / len(counted)


def calls(connection: socket.socket, images: Sequence[bytes]) -> Iterator[bytes]:
    """ModelInfer of the door's own model over HTTP/2, each on the next stream of a connection: HEADERS and DATA.

    Whatever the server sends before the first is read here.
    """
    connection.sendall(
        PREFACE + _frame(SETTINGS, 0, 0) + _frame(WINDOW_UPDATE, 0, 0, (2**31 - 65_536).to_bytes(4, "big"))
    )
    received = b""
    while _frame(SETTINGS, ACK, 0) not in received:
        received += connection.recv(65536)
    connection.sendall(_frame(SETTINGS, ACK, 0))
    encoder = Encoder()
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", CALL.encode()), (b":authority", b"localhost"),
        *((name.encode(), value.encode()) for name, value in PROTOCOLS["grpc"].headers.items()),
    ]  # fmt: skip
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}
    messages = [
        INFER(model_name="echo", inputs=[tensor], raw_input_contents=[image]).SerializeToString() for image in images
    ]
    for i, message in enumerate(itertools.cycle(messages)):
        stream = 1 + 2 * i
        body = len(message).to_bytes(5, "big") + message
        yield _frame(HEADERS, END_HEADERS, stream, encoder.encode(headers)) + _frame(DATA, END_STREAM, stream, body)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _is_whole_call(answer: bytes) -> bool:
    """Whether the trailers have come, which must say that all is well."""
    at = 0
    while len(answer) - at >= 9:
        kind, flags = answer[at + 3], answer[at + 4]
        end = at + 9 + int.from_bytes(answer[at : at + 3], "big")
        if len(answer) < end:
            return False
        if kind == HEADERS and flags & END_STREAM:
            if b"grpc-status\x010" not in answer[at:end]:
                raise SystemExit(f"Error: expected status 0, got {answer[at:end]!r}")
            return True
        if kind == GOAWAY:
            raise SystemExit(f"Error: the server ends the connection: {answer[at:end]!r}")
        at = end
    return False


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(END_OF_HEAD)
    if not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
        raise SystemExit(f"Error: expected status 200, got {answer[:200]!r}")
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) == int(length)


if __name__ == "__main__":
    _, name, address, duration = sys.argv
    print(mean_latency_ms(name, address, float(duration)))  # type: ignore[arg-type]
