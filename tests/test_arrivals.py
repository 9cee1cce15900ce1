"""The client of the open loop: when it asks, from when it counts, and what it makes of the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from scipy import stats

from digits.contract import CLASSES, SIDE
from loadtests.arrivals import FAILED, Load, Loop, client
from loadtests.open_test import percentiles
from loadtests.protocols import WrongAnswer
from loadtests.scenarios import Closed, Open
from loadtests.wire import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    Http1,
    Http2,
    Requests,
    Unreadable,
    closes,
    digit,
    frame,
    write_requests,
)

PROBABILITIES = [0.91] + [0.01] * (CLASSES - 1)
PREDICTED = json.dumps(
    {"predictions": [{"digit": 0, "probability": 0.91, "probabilities": PROBABILITIES}]}
).encode()  # fmt: skip
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(PREDICTED),
    PREDICTED,
)
IMAGES = np.zeros((3, SIDE, SIDE), np.uint8)
STALL_MS = 100

# Answers each request at once, but stops for 100 ms every 3 s, or answers only the first `answers` on each connection.
SERVER = """
import asyncio, sys, time
answer, stall, answers = bytes.fromhex(sys.argv[1]), sys.argv[2] == "stall", float(sys.argv[3])
class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.received, self.answered = transport, b"", 0
    def data_received(self, piece):
        self.received += piece
        head, end, body = self.received.partition(b"\\r\\n\\r\\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\\r")[0]):
            self.received, self.answered = b"", self.answered + 1
            if self.answered <= answers:
                self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(3)
        if stall:
            time.sleep(0.1)
asyncio.run(main())
"""


@contextmanager
def serving(*, stall: bool = False, answers: float = float("inf"), answer: bytes = ANSWER) -> Iterator[str]:
    """The URL of a real server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, answer.hex(), "stall" if stall else "", str(answers)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def requests_to(url: str) -> Requests:
    return write_requests("predict", url.removeprefix("http://"), "/predict/numpy", IMAGES)


@pytest.mark.slow
def test_a_stall_of_the_server_shows_in_the_open_scenario_and_not_in_the_closed_one() -> None:
    """Of 3.3 s the server stands still for 0.1: what arrives then, 3 % of all, waits; but one caller waits only once."""
    with serving(stall=True) as url, client(None) as asking:
        load: dict[str, Any] = {"url": url, "protocol": "predict", "path": "/predict/numpy", "seconds": 3.3}
        arriving = asking.offer(Load(scenario=Open(500), **load))
        waiting = asking.offer(Load(scenario=Closed(1), **load))
    for sent in (arriving, waiting):
        assert sent.first_failure is None
        assert (sent.outcomes != FAILED).all()
    assert len(waiting.latency_ms) > 500
    assert np.percentile(waiting.latency_ms, 99) < STALL_MS / 2 < np.percentile(arriving.latency_ms, 99)
    assert waiting.latency_ms.max() > 0.9 * STALL_MS  # it was there


def test_a_latency_counts_from_when_its_request_was_due_and_the_wait_for_a_connection_is_not_the_clients() -> None:
    with serving(stall=True) as url:
        loop = Loop(url, requests_to(url), Open(200), connections=1)
        loop.run(3.3)
        loop.close()
    waited = [one for one in loop.sent if one.latency > STALL_MS / 2000]
    # In the second half of the stall nothing could be sent: each of these waited for the one connection.
    assert len(waited) > 3
    assert all(one.answer is not None for one in waited)
    assert np.median([one.late for one in waited]) < STALL_MS / 4000


def test_arrivals_are_a_poisson_process() -> None:
    counts = [len(Open(50).moments(2, seed=seed)) for seed in range(2000)]
    assert np.mean(counts) == pytest.approx(100, abs=0.7)  # 3 standard errors
    assert np.var(counts) == pytest.approx(100, rel=0.1)
    moments = Open(1000).moments(20, seed=4)
    gaps = np.diff(moments)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 1000)).pvalue > 0.01
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / np.sqrt(len(gaps))
    assert 0 <= moments[0] < moments[-1] < 20
    assert (Open(1000).moments(20, seed=4) == moments).all()


def test_what_is_never_answered_and_what_was_never_sent_have_failed() -> None:
    with serving(answers=2) as url:
        loop = Loop(url, requests_to(url), Open(200), connections=2, answer_seconds=0.3)
        loop.run(0.5)
        loop.close()
    answered = [one for one in loop.sent if one.answer is not None]
    assert len(answered) == 4  # two on each connection
    assert len(loop.sent) == len(Open(200).moments(0.5, seed=0))
    assert loop.unsent == len(loop.sent) - 6  # two are under way
    assert all(one.latency >= 0.3 for one in loop.sent if one.answer is None)


def test_what_was_due_in_time_is_asked_also_when_its_turn_comes_late() -> None:
    with serving() as url:
        loop = Loop(url, requests_to(url), Open(10_000), connections=1, sleeps=True)
        loop.run(0.05)
        loop.close()
    assert len(loop.sent) > 400
    assert loop.unsent == 0
    assert all(one.answer == ANSWER for one in loop.sent)


@pytest.mark.slow
def test_answers_are_checked_and_what_is_no_prediction_has_failed() -> None:
    load: dict[str, Any] = {"protocol": "predict", "path": "/predict/numpy", "scenario": Open(300), "seconds": 0.5}
    with client(None) as asking:
        with serving() as url:
            sent = asking.offer(Load(url=url, **load))
            echoed = asking.offer(Load(url=url, echo=True, **load))
        shed = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"
        with serving(answer=shed) as url:
            failed = asking.offer(Load(url=url, **load))
    share_of_zeros = float((sent.outcomes == 2).mean())
    assert 0.02 < share_of_zeros < 0.25  # one digit in ten is a zero
    assert (sent.outcomes != FAILED).all()
    assert (echoed.outcomes == 2).all()
    assert (failed.outcomes == FAILED).all()
    assert failed.first_failure == "status 503: b'full'"


def test_a_request_that_failed_counts_as_slower_than_all_others() -> None:
    latency_ms = np.arange(1.0, 1001.0)
    failed = np.zeros(1000, bool)
    assert percentiles(latency_ms, failed, (50, 99, 99.9)) == [500, 990, 999]
    failed[:5] = True  # the quickest ones: a refusal is quick
    assert percentiles(latency_ms, failed, (50, 99, 99.9)) == [505, 995, None]
    failed[:11] = True
    assert percentiles(latency_ms, failed, (99,)) == [None]
    assert percentiles(latency_ms[:0], failed[:0], (50,)) == [None]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_an_answer_of_http1_is_whole_however_it_comes(size: int) -> None:
    wire = Http1(Requests("predict", []))
    for _ in range(2):
        pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
        found = [wire.receive(piece) for piece in pieces]
        assert found == [None] * (len(pieces) - 1) + [ANSWER]
    assert digit("predict", ANSWER) == 0


@pytest.mark.parametrize(
    "answer", [b"<html>", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_answer_with_its_length_ends_the_connection(answer: bytes) -> None:
    with pytest.raises(Unreadable):
        Http1(Requests("predict", [])).receive(answer)


def test_a_connection_that_the_server_closes_is_seen_to() -> None:
    assert closes(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert not closes(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n\r\nConnection: close\r\n")


def test_a_call_is_whole_with_its_trailers_and_says_what_was_wrong() -> None:
    requests = write_requests("grpc", "127.0.0.1:1", "/inference.GRPCInferenceService/ModelInfer/a.onnx", IMAGES)
    wire = Http2(requests)
    first, second = wire.request(0), wire.request(1)
    assert first[9:][: len(requests.first_headers)] == requests.first_headers
    assert second[9:][: len(requests.headers)] == requests.headers
    assert [int.from_bytes(one[5:9], "big") for one in (first, second)] == [1, 3]  # streams
    answer = frame(HEADERS, END_HEADERS, 3, b"\x88") + frame(DATA, 0, 3, b"\0\0\0\0\2ab")
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\0\x0bgrpc-status\x018")
    between = frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"8 bytes.") + frame(SETTINGS, ACK, 0)
    stream = answer + between + trailers
    found = [wire.receive(stream[at : at + 1]) for at in range(len(stream))]
    assert found == [None] * (len(stream) - 1) + [answer + trailers]
    assert wire.to_send() == frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"8 bytes.")
    assert wire.to_send() == b""
    with pytest.raises(WrongAnswer, match="grpc-status: 8"):
        digit("grpc", answer + trailers)
    with pytest.raises(Unreadable, match="ends the connection"):
        wire.receive(frame(GOAWAY, 0, 0, bytes(8)))
