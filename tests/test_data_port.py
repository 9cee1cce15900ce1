"""The data plane's HTTP: what well-bred clients do, what others do, and the port's life from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import signal
import socket
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import orjson
import psutil
import pytest
from conftest import Expected, require, require_recipe
from own_port import Got, Own, running, said
from servers import WAYS, Server, everything_from, failed_start, read_answer, serving

from digits.mnist import LabelledImages
from loadtests.server import free_ports
from serving.ports.connection import CLOSING_SECONDS, LINGER_BYTES, TURNED_AWAY

MODEL: Final = "torch-relu.onnx"
INFER: Final = f"/v2/models/{MODEL}/infer"
NARROW: Final = {"SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_MODELS": "torch-relu", "SAMEDIGIT_MAX_BODY_BYTES": "1000000"}
BODY: Final = bytes(784)
slow = pytest.mark.slow


def head(path: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


def infer(image: bytes = BODY, *headers: str, version: str = "1.1") -> bytes:
    length = f"Content-Length: {len(image)}"
    return head(INFER, length, "Inference-Header-Content-Length: 0", *headers, version=version) + image


def get(path: str, *headers: str) -> bytes:
    return head(path, *headers, method="GET")


# A server in this process, behind whose door a test stands itself


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Own]:
    with running(**getattr(request, "param", {})) as found:
        yield found


def asked(own: Own, *requests: bytes) -> list[list[Any]]:
    """What the door was asked over one connection, as it says."""
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join(requests))
        found = []
        for _ in requests:
            status, _, body = read_answer(answers)
            assert status == 200, body
            found.append(orjson.loads(body))
        return found


def test_requests_come_with_method_path_headers_and_body(own: Own) -> None:
    assert asked(own, head("/x", "Content-Length: 5", "A-b: C d") + b"12345") == [["POST", "/x", 5]]
    (request,) = own.door.requests
    assert request == Got("POST", "/x", {b"host": b"x", b"content-length": b"5", b"a-b": b"C d"}, b"12345")


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("/x?a=1&b=/c", "/x"),
        ("/x?", "/x"),
        ("/x%20y%C3%A9", "/x yé"),
        ("/v2/models/torch%2Drelu.onnx/ready", "/v2/models/torch-relu.onnx/ready"),
        ("/x%2Fy?%2F", "/x/y"),
        ("http://elsewhere:80/x/y?z", "/x/y"),
        ("http://elsewhere", "/"),
        ("//x", "//x"),
        ("/" + "x" * 8_000, "/" + "x" * 8_000),
    ],
    ids=lambda text: text[:20],
)
def test_a_path_is_decoded_and_stands_alone(sent: str, path: str, own: Own) -> None:
    assert asked(own, get(sent)) == [["GET", path, 0]]


def test_a_connection_is_kept_for_the_next_request(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        for i in range(50):
            connection.sendall(get(f"/{i}"))
            status, headers, body = read_answer(answers)
            assert (status, orjson.loads(body)) == (200, ["GET", f"/{i}", 0])
            assert b"connection" not in headers


@pytest.mark.parametrize("number", [2, 16, 17, 100, 3000])
def test_pipelined_requests_are_answered_one_after_the_other_in_order(number: int, own: Own) -> None:
    """The first is answered late, so that all others wait."""
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join([get("/later"), *(get(f"/{i}") for i in range(1, number))]))
        time.sleep(0.1)
        assert len(own.door.requests) == 1
        own.let()
        for i in range(number):
            status, _, body = read_answer(answers)
            assert (status, orjson.loads(body)) == (200, ["GET", f"/{i}" if i else "/later", 0])
    assert [request.path for request in own.door.requests] == ["/later", *(f"/{i}" for i in range(1, number))]


def test_a_request_that_comes_between_two_answers_waits_for_its_turn(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(get("/later") + get("/second"))
        exchange = own.door.held.get(timeout=10)

        async def answer_and_receive() -> None:
            one = cast(Any, next(iter(own.connections.open)))
            exchange.reply(exchange, said(exchange))
            one.data_received(get("/third"))  # before the loop has gone on to the second

        own.call(answer_and_receive())
        paths = [orjson.loads(read_answer(answers)[2])[1] for _ in range(3)]
    assert paths == ["/later", "/second", "/third"]


def test_requests_before_one_that_is_not_http_are_answered_before_the_connection_is_closed(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(get("/later") + get("/second") + b"hello\r\n\r\n")
        own.let()
        paths = [orjson.loads(read_answer(answers)[2])[1] for _ in range(2)]
        assert paths == ["/later", "/second"]
        assert read_answer(answers)[0] == 400
        assert answers.read() == b""


def test_pipelined_requests_whose_answers_come_late_are_answered_in_order(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join(get(f"/later/{i}") for i in range(40)))
        for i in range(40):
            own.let()
            assert orjson.loads(read_answer(answers)[2]) == ["GET", f"/later/{i}", 0]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_many_small_pieces_is_put_together(size: int, own: Own) -> None:
    whole = head("/x/y", "Content-Length: 300") + bytes(300) + get("/z")
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(whole), size):
            connection.sendall(whole[i : i + size])
        assert orjson.loads(read_answer(answers)[2]) == ["POST", "/x/y", 300]
        assert orjson.loads(read_answer(answers)[2]) == ["GET", "/z", 0]
    assert own.door.requests[0].body == bytes(300)


def test_a_chunked_body_is_put_together(own: Own) -> None:
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (size, b"c" * size) for size in (1, 1000, 70_000))
    sent = head("/x", "Transfer-Encoding: chunked") + chunks + b"0\r\nTrailer: t\r\n\r\n"
    assert asked(own, sent, get("/y")) == [["POST", "/x", 71_001], ["GET", "/y", 0]]
    assert own.door.requests[0].body == b"c" * 71_001


def test_who_waits_for_100_continue_gets_it_and_then_the_answer(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(head("/x", "Content-Length: 5", "Expect: 100-continue"))
        assert read_answer(answers)[0] == 100
        connection.sendall(b"12345")
        assert orjson.loads(read_answer(answers)[2]) == ["POST", "/x", 5]


def test_who_waits_for_100_continue_behind_another_request_gets_it_after_that_ones_answer(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(get("/later") + head("/x", "Content-Length: 5", "Expect: 100-continue"))
        own.let()
        assert orjson.loads(read_answer(answers)[2]) == ["GET", "/later", 0]
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert answers.readline() == b"\r\n"
        connection.sendall(b"12345")
        assert orjson.loads(read_answer(answers)[2]) == ["POST", "/x", 5]


@pytest.mark.parametrize(
    "sent",
    [
        get("/x", "Connection: close"),
        head("/x", method="GET", version="1.0"),
        b"GET /x HTTP/1.0\r\n\r\n",
    ],
)
def test_a_connection_is_closed_where_the_client_does_not_keep_it(sent: bytes, own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(sent)
        answer = everything_from(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b'\r\n\r\n["GET","/x",0]')


def test_the_answer_to_head_has_a_length_and_no_body(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(head("/x", method="HEAD") + get("/y"))
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        lines = list(iter(answers.readline, b"\r\n"))
        assert b"content-length: %d\r\n" % len(b'["HEAD","/x",0]') in lines
        assert orjson.loads(read_answer(answers)[2]) == ["GET", "/y", 0]


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH"])
def test_every_method_reaches_the_door(method: str, own: Own) -> None:
    assert asked(own, head("/x", method=method), get("/y")) == [[method, "/x", 0], ["GET", "/y", 0]]


def test_the_answer_has_the_time_of_day(own: Own) -> None:
    dates = set()
    for _ in range(2):
        with own.connect() as connection, connection.makefile("rb") as answers:
            connection.sendall(get("/x"))
            date = read_answer(answers)[1][b"date"].decode()
        assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 3
        dates.add(date)
        time.sleep(2.1)
    assert len(dates) == 2


# What is refused


def one_refusal(connection: socket.socket) -> tuple[int, str]:
    """The status and message of the only answer, after which the server closes its side."""
    answer = everything_from(connection)
    assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1, answer
    before, _, body = answer.partition(b"\r\n\r\n")
    headers = before.lower().split(b"\r\n")
    assert b"connection: close" in headers
    assert b"content-length: %d" % len(body) in headers
    assert b"content-type: application/json" in headers
    assert any(header.startswith(b"date: ") for header in headers)
    return int(answer[9:12]), orjson.loads(body)["error"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"hello\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /x HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345", 400),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_refused_and_never_reaches_the_door(sent: bytes, status: int, own: Own) -> None:
    """All that it refuses is in tests/conformance.py."""
    with own.connect() as connection:
        connection.sendall(sent + get("/never"))
        assert one_refusal(connection)[0] == status
    assert own.door.requests == []


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_a_request_to_upgrade_is_answered_once(protocol: str, own: Own) -> None:
    """Either as if it had not asked, or with a refusal."""
    upgrade = ("Connection: Upgrade", f"Upgrade: {protocol}")
    for sent in (get("/x", *upgrade), head("/x", "Content-Length: 5", *upgrade) + b"12345"):
        with own.connect() as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = everything_from(connection)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))


TOO_LONG: Final = "The headers are longer than 65536 bytes."


@pytest.mark.parametrize(
    "sent",
    [
        get("/x", *(f"Header-{i}: {'v' * 1000}" for i in range(400))),
        get("/x", "Header: " + "v" * 400_000),
        b"GET /x HTTP/1.1\r\n" + b"a" * 400_000,
    ],
    ids=["many", "one", "no end"],
)
def test_headers_that_are_too_long_are_431(sent: bytes, own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(sent)
        assert one_refusal(connection) == (431, TOO_LONG)


def test_trailers_that_are_too_long_are_431(own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(head("/x", "Transfer-Encoding: chunked") + b"0\r\n")
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(5)
            connection.sendall(b"".join(b"Trailer-%d: %s\r\n" % (i, b"v" * 1000) for i in range(400)))
        assert one_refusal(connection) == (431, "The trailers are longer than 65536 bytes.")


def test_a_body_that_is_announced_too_long_is_413_before_any_of_it_is_sent(own: Own) -> None:
    for expect in ([], ["Expect: 100-continue"]):
        with own.connect() as connection:
            connection.sendall(head("/x", "Content-Length: 1000001", *expect))
            assert one_refusal(connection) == (
                413,
                "The body is longer than 1000000 bytes. Send fewer images, or a smaller picture.",
            )
    assert asked(own, head("/x", "Content-Length: 1000000") + bytes(1_000_000)) == [["POST", "/x", 1_000_000]]


def test_who_sends_all_of_a_body_that_is_too_long_can_read_why_it_was_refused(own: Own) -> None:
    """An answer that is followed by a reset would often not reach the client."""
    for sent in (
        head("/x", "Content-Length: 20000000") + bytes(20_000_000),
        head("/x", "Transfer-Encoding: chunked") + b"186a0\r\n%s\r\n" % bytes(100_000) * 200 + b"0\r\n\r\n",
    ):
        for _ in range(3):
            with own.connect() as connection:
                connection.sendall(sent)
                assert one_refusal(connection) == (
                    413,
                    "The body is longer than 1000000 bytes. Send fewer images, or a smaller picture.",
                )
    assert own.door.requests == []


def test_what_is_right_before_garbage_is_answered_still(own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(get("/later") + b"garbage\r\n\r\n")
        own.let()
        answer = everything_from(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'["GET","/later",0]' in answer


# Clients that go away, or stay too long


def test_a_client_that_has_closed_its_side_gets_its_answer_and_then_the_end(own: Own) -> None:
    for path in ("/x", "/later"):
        with own.connect() as connection:
            connection.sendall(get(path))
            connection.shutdown(socket.SHUT_WR)
            if path == "/later":
                time.sleep(0.1)
                own.let()
            connection.settimeout(5)
            answer = everything_from(connection)  # which ends when the server closes its side
        assert answer.endswith(orjson.dumps(["GET", path, 0]))


LAST: Final = {
    "its own": lambda connection: connection.sendall(get("/later", "Connection: close")),
    "of HTTP/1.0": lambda connection: connection.sendall(head("/later", method="GET", version="1.0")),
    "half closed": lambda connection: [connection.sendall(get("/later")), connection.shutdown(socket.SHUT_WR)],
}


@pytest.mark.parametrize("ask", LAST.values(), ids=LAST)
@pytest.mark.parametrize("own", [{"linger_seconds": 60}], indirect=True)
def test_after_the_last_answer_the_connection_is_closed_at_once_and_not_only_once_it_has_lingered(
    ask: Callable[[socket.socket], object], own: Own
) -> None:
    watch = own.connections._watch
    assert watch is not None
    own.loop.call_soon_threadsafe(watch.cancel)  # what ends connections that are left over, each second
    with own.connect() as connection:
        ask(connection)
        own.let()
        assert everything_from(connection).endswith(b'["GET","/later",0]')
        wait_until(lambda: not own.connections)  # though the client keeps its side open


@pytest.mark.parametrize("own", [{"linger_seconds": 60}], indirect=True)
def test_a_client_that_has_closed_its_side_gets_every_answer_that_it_has_asked_for(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(get("/later/1") + get("/x") + get("/later/2") + head("/y", "Content-Length: 2") + b"ab")
        connection.shutdown(socket.SHUT_WR)
        found = []
        for held in (True, False, True, False):
            if held:
                own.let()
            found.append(orjson.loads(read_answer(answers)[2]))
        assert found == [["GET", "/later/1", 0], ["GET", "/x", 0], ["GET", "/later/2", 0], ["POST", "/y", 2]]
        assert answers.read() == b""
        wait_until(lambda: not own.connections)


def test_a_client_that_goes_away_before_its_answer_harms_nobody(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    for reset in (False, True):
        connection = own.connect()
        connection.sendall(get("/later") + get("/never"))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.1)
        connection.close()
        time.sleep(0.1)
        own.let()
    connection = own.connect()
    connection.sendall(get("/large"))  # and amid its answer
    connection.recv(1000)
    connection.close()
    own.is_well()
    wait_until(lambda: not own.connections)
    assert caplog.records == []


def wait_until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ending", ["close", "reset", "in a body", "before its answer", "refused"])
def test_nothing_of_a_closed_connection_waits_for_the_collector(ending: str, own: Own) -> None:
    """What dies in a cycle stays until the collector comes, and what the collector was told to pass over, for ever."""
    gc.collect()
    gc.disable()
    try:
        client = own.connect()
        client.sendall(head("/x", "Content-Length: 500000") + bytes(500_000))
        client.recv(1000)
        connection = cast(Any, next(iter(own.connections.open)))
        remembered: list[weakref.ref[Any]] = [weakref.ref(connection), weakref.ref(connection._machine)]
        del connection
        if ending == "in a body":
            client.sendall(head("/x", "Content-Length: 500000") + bytes(200_000))
        elif ending == "before its answer":
            client.sendall(get("/later"))
            wait_until(lambda: not own.door.held.empty())
        elif ending == "refused":
            client.sendall(b"garbage\r\n\r\n")
        if ending in ("reset", "before its answer"):  # who only closes its side still gets its answer
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: not own.connections.open)
        if ending == "before its answer":
            assert own.door.left == ["/later"]
            own.let()
        wait_until(lambda: all(one() is None for one in remembered))
    finally:
        gc.enable()


@pytest.mark.parametrize("own", [{"SAMEDIGIT_IDLE_SECONDS": "1"}], indirect=True)
def test_an_idle_connection_is_closed_after_a_while(own: Own) -> None:
    for before in (b"", get("/x")):
        with own.connect() as connection:
            connection.sendall(before)
            started = time.monotonic()
            connection.settimeout(10)
            answer = everything_from(connection)
            assert 0.9 < time.monotonic() - started < 5
            assert answer.count(b"HTTP/1.1 200 ") == (1 if before else 0)


@pytest.mark.parametrize("own", [{"SAMEDIGIT_HEAD_SECONDS": "1", "SAMEDIGIT_BODY_SECONDS": "1"}], indirect=True)
@pytest.mark.parametrize(
    "start", [b"P", b"POST /x HTTP/1.1\r\nHost: x\r\n", head("/x", "Content-Length: 5") + b"1"], ids=repr
)
def test_a_request_that_never_ends_is_408(start: bytes, own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(start)
        started = time.monotonic()
        status, message = one_refusal(connection)
        assert status == 408
        assert message.endswith("not whole after 1 s.")
        assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("own", [{"SAMEDIGIT_HEAD_SECONDS": "1", "SAMEDIGIT_BODY_SECONDS": "1"}], indirect=True)
def test_a_byte_now_and_then_does_not_keep_a_request_open(own: Own) -> None:
    started = time.monotonic()
    with own.connect() as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nA: ")
        connection.settimeout(0.1)
        while time.monotonic() - started < 10:
            connection.sendall(b"a")
            try:
                assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
                break
            except TimeoutError:
                continue
        assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    "own", [{f"SAMEDIGIT_{name}_SECONDS": "1" for name in ("IDLE", "HEAD", "BODY")}], indirect=True
)
def test_a_request_whose_answer_takes_long_is_waited_for(own: Own) -> None:
    with own.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(get("/later"))
        time.sleep(3)
        own.let()
        assert read_answer(answers)[0] == 200


@pytest.mark.parametrize("own", [{"SAMEDIGIT_IDLE_SECONDS": "1"}], indirect=True)
def test_a_client_that_never_reads_its_answer_is_closed_after_a_while(own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(get("/large"))
        wait_until(lambda: len(own.connections) == 1)
        wait_until(lambda: not own.connections, 6)


def is_cut_off(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"more")
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("own", [{"linger_seconds": 1}], indirect=True)
def test_a_refused_client_that_goes_on_sending_is_cut_off_after_a_while(own: Own) -> None:
    started = time.monotonic()
    with own.connect() as connection:
        connection.sendall(b"garbage\r\n\r\n")
        wait_until(lambda: is_cut_off(connection))
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("own", [{"linger_seconds": 60}], indirect=True)
def test_a_refused_client_that_sends_more_than_is_dropped_is_cut_off(own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(b"garbage\r\n\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall(bytes(2 * LINGER_BYTES))


# How many


def answers(connection: socket.socket) -> bool:
    connection.sendall(get("/x"))
    return connection.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(sys.platform != "linux", reason="of the loopback network this system has one address")
@pytest.mark.parametrize(
    ("own", "address", "whose"),
    [
        ({"SAMEDIGIT_MAX_CONNECTIONS": "3"}, "127.0.0.2", ""),
        ({"SAMEDIGIT_MAX_CONNECTIONS_PER_ADDRESS": "3"}, "127.0.0.1", " from 127.0.0.1"),
    ],
    indirect=["own"],
    ids=["in all", "from one address"],
)
def test_connections_are_limited_and_one_that_ends_makes_room(own: Own, address: str, whose: str) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(own.connect()) for _ in range(3)]
        assert all(map(answers, kept))
        if whose:
            assert answers(stack.enter_context(own.connect("127.0.0.2")))
        for _ in range(2):  # who was turned away takes nobody's place, though it stays
            turned_away = stack.enter_context(own.connect(address))
            assert one_refusal(turned_away) == (
                503,
                f"3 connections{whose} are open, and no more may be. Try again later.",
            )
        assert own.door.metrics.reasons == ["connections"] * 2
        open_before = len(own.connections)
        kept.pop().close()
        wait_until(lambda: len(own.connections) < open_before)
        assert answers(stack.enter_context(own.connect(address)))


@pytest.mark.parametrize("own", [{"SAMEDIGIT_MAX_CONNECTIONS": "1", "linger_seconds": 60}], indirect=True)
def test_of_connections_beyond_the_limit_so_many_are_told_so_and_the_others_cut_off(own: Own) -> None:
    for _ in range(2):  # those who have left may be told again
        with contextlib.ExitStack() as stack:
            assert answers(stack.enter_context(own.connect()))
            for _ in range(TURNED_AWAY):
                assert stack.enter_context(own.connect()).recv(1000).startswith(b"HTTP/1.1 503 ")
            with contextlib.suppress(ConnectionResetError):
                assert stack.enter_context(own.connect()).recv(1000) == b""
        wait_until(lambda: not own.connections)


# The end


def test_when_the_port_closes_requests_under_way_are_answered_and_idle_connections_closed(own: Own) -> None:
    idle, waiting, half_sent = own.connect(), own.connect(), own.connect()
    with idle, waiting, half_sent:
        idle.sendall(get("/x"))
        waiting.sendall(get("/later"))
        half_sent.sendall(head("/half", "Content-Length: 5") + b"12")
        wait_until(lambda: len(own.door.requests) == 2)
        time.sleep(0.1)
        closing = asyncio.run_coroutine_threadsafe(own.end(), own.loop)
        assert everything_from(idle).endswith(b'["GET","/x",0]')
        time.sleep(CLOSING_SECONDS + 0.2)
        assert not closing.done()
        with pytest.raises(ConnectionRefusedError):
            own.connect()
        own.let()
        assert everything_from(waiting).endswith(b'["GET","/later",0]')
        half_sent.sendall(b"345")
        answer = everything_from(half_sent)
        assert answer.endswith(b'["POST","/half",5]')
        assert b"\r\nconnection: close\r\n" in answer
        closing.result(timeout=2)
    own.call(own.open())


@pytest.mark.parametrize("own", [{"SAMEDIGIT_GRACE_SECONDS": "1"}], indirect=True)
def test_what_never_ends_does_not_keep_the_port_from_closing(own: Own) -> None:
    with own.connect() as connection:
        connection.sendall(get("/later"))
        wait_until(lambda: own.door.requests)
        started = time.monotonic()
        own.close()
        assert 0.4 < time.monotonic() - started < 3
        with contextlib.suppress(ConnectionResetError):
            assert everything_from(connection) == b""
    own.let()  # too late, and no harm
    own.call(own.open())


# A real server


@pytest.fixture(scope="module", params=WAYS)
def server(trained_home: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    require("onnxruntime")
    require_recipe("torch-relu")
    with serving(trained_home, NARROW, by_bentoml=request.param) as found:
        yield found


@slow
def test_pipelined_images_are_each_answered_in_order(
    server: Server, test_set: LabelledImages, expected: Expected
) -> None:
    right = expected("torch-relu", 200)
    with server.connect(server.data_port) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join(infer(image.tobytes()) for image in test_set.images[:200]))
        for i in range(200):
            status, headers, body = read_answer(answers)
            assert status == 200
            raw = body[int(headers[b"inference-header-content-length"]) :]
            np.testing.assert_allclose(np.frombuffer(raw[:40], "<f4"), right[i], atol=1e-5)


@slow
def test_pipelined_requests_of_many_kinds_are_answered_in_order(server: Server) -> None:
    """Some are answered at once, some by a task, some by a batch."""
    kinds = [
        (infer(), 200),
        (get("/nothing"), 404),
        (get("/v2/health/live"), 200),
        (get("/models"), 200),
        (get(f"/v2/models/{MODEL}/stats"), 200),
        (head("/predict/onnx", "Content-Length: 0"), 415),
        (infer(bytes(785)), 400),
    ]
    with server.connect(server.data_port) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"".join(sent for sent, _ in kinds * 30))
        assert [read_answer(answers)[0] for _ in kinds * 30] == [status for _, status in kinds * 30]


@slow
def test_both_ports_answer_the_same_to_the_same(server: Server, test_set: LabelledImages) -> None:
    image = test_set.images[:1]
    documents = (
        ("/predict/onnx", orjson.dumps({"images": image.tolist()})),
        ("/predict/onnx", b"{}"),
        ("/predict/jax", orjson.dumps({"images": image.tolist()})),
        ("/echo", orjson.dumps({"images": image.tolist()})),
        (INFER, b"{}"),
        (INFER + "?x=1", orjson.dumps({"inputs": [tensor_of(image)]})),
        (f"/v2/models/{MODEL.replace('-', '%2D')}/infer", orjson.dumps({"inputs": [tensor_of(image)]})),
        ("/models", b""),
        ("/v2/repository/index", b""),
    )
    with server.client() as one, server.client(server.data_port) as other:
        for path, content in documents:
            answers = [client.post(path, content=content, headers={"content-type": "application/json"})
                       for client in (one, other)]  # fmt: skip
            assert answers[0].status_code == answers[1].status_code
            assert answers[0].content == answers[1].content
            assert answers[0].headers["content-type"] == answers[1].headers["content-type"]
        for path in ("/models", "/v2", f"/v2/models/{MODEL}", "/v2/health/ready", "/readyz", "/livez", "/v2/nothing"):
            assert one.get(path).content == other.get(path).content
        assert other.get("/").status_code == 404


def tensor_of(images: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist()}


@slow
def test_the_data_plane_listens_where_the_api_does(server: Server) -> None:
    listening = {
        connection.laddr
        for process in [
            psutil.Process(server.process.pid),
            *psutil.Process(server.process.pid).children(recursive=True),
        ]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {(address.ip, address.port) for address in listening} >= {
        ("127.0.0.1", server.port),
        ("127.0.0.1", server.data_port),
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}


@slow
def test_the_metrics_of_the_data_plane_are_at_the_api_port(server: Server) -> None:
    def counted() -> dict[tuple[str, str], float]:
        with server.client() as client:
            text = client.get("/metrics").text
        series = re.findall(r"^samedigit_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE)
        counts: dict[tuple[str, str], float] = {}
        for labels, value in series:
            named = dict(re.findall(r'(\w+)="(.*?)"', labels))
            key = named["route"], named["status"]
            counts[key] = counts.get(key, 0) + float(value)
        return counts

    before = counted()
    with server.client(server.data_port) as client:
        for _ in range(3):
            client.post(INFER, content=BODY, headers={"Inference-Header-Content-Length": "0"})
        for i in range(4):
            assert client.get(f"/v2/models/nobody-{i}").status_code == 404
            assert client.get(f"/nobody-{i}").status_code == 404
    after = counted()
    grown = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    del grown["/metrics", "200"]
    assert grown == {("/v2/models/{model}/infer", "200"): 3, ("/v2/models/{model}", "404"): 4, ("other", "404"): 4}


@slow
def test_a_second_server_on_the_same_data_port_is_refused_before_it_starts(server: Server, trained_home: Path) -> None:
    line = failed_start(trained_home, {**NARROW, "SAMEDIGIT_DATA_PORT": str(server.data_port)})
    assert line.endswith(
        f"The data plane cannot listen on 127.0.0.1, port {server.data_port}: Address already in use. "
        f"Set SAMEDIGIT_DATA_PORT to a free one."
    )


@slow
def test_one_port_for_both_is_refused_before_the_start(trained_home: Path) -> None:
    require("onnxruntime")
    (port,) = free_ports(1)
    line = failed_start(trained_home, {**NARROW, "SAMEDIGIT_DATA_PORT": str(port)}, port=port)
    assert "SAMEDIGIT_DATA_PORT" in line


@slow
def test_the_server_has_come_through_all_of_this_without_a_traceback(server: Server, test_set: LabelledImages) -> None:
    server.is_well(test_set.images)
    assert "Traceback" not in server.log.read_text()


@slow
def test_a_terminated_server_answers_what_is_under_way_and_ends_within_seconds(server: Server) -> None:
    """The last of this server's tests."""
    idle, half_sent = server.connect(server.data_port), server.connect(server.data_port)
    with idle, half_sent:
        idle.sendall(get("/v2/health/live"))
        assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
        half_sent.sendall(infer()[:-100])
        time.sleep(0.2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert everything_from(idle) == b""
        half_sent.sendall(infer()[-100:])
        assert everything_from(half_sent).startswith(b"HTTP/1.1 200 ")
        server.process.wait(timeout=10)
        assert time.monotonic() - started < 8
    with pytest.raises(ConnectionRefusedError):
        server.connect(server.data_port).close()
    assert "Traceback" not in server.log.read_text()


# Several workers


@pytest.fixture(scope="module")
def two_workers(trained_home: Path) -> Iterator[Server]:
    require("onnxruntime")
    require_recipe("torch-relu")
    with serving(trained_home, {**NARROW, "SAMEDIGIT_WORKERS": "2"}) as found:
        wait_until(lambda: listeners(found) == 2, 60)
        yield found


def listeners(server: Server) -> int:
    """Processes that listen on the data port."""
    return sum(
        any(one.status == psutil.CONN_LISTEN and one.laddr.port == server.data_port for one in child.net_connections())
        for child in psutil.Process(server.process.pid).children(recursive=True)
    )


@slow
def test_two_workers_share_the_port_and_both_answer(two_workers: Server) -> None:
    def once(sent: bytes) -> bytes:
        with two_workers.connect(two_workers.data_port) as connection, connection.makefile("rb") as answers:
            connection.sendall(sent)
            status, _, body = read_answer(answers)
            assert status == 200, body
            return body

    for _ in range(61):  # an odd number, so that two workers cannot have answered as many each
        once(infer())
    stats = get(f"/v2/models/{MODEL}/stats")
    counts = {orjson.loads(once(stats))["model_stats"][0]["inference_count"] for _ in range(60)}
    assert len(counts) == 2
    assert sum(counts) == 61
    assert 0 not in counts


@slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_server_is_refused_beside_two_workers_too(
    workers: str, two_workers: Server, trained_home: Path
) -> None:
    environment = {**NARROW, "SAMEDIGIT_DATA_PORT": str(two_workers.data_port), "SAMEDIGIT_WORKERS": workers}
    line = failed_start(trained_home, environment)
    assert f"The data plane cannot listen on 127.0.0.1, port {two_workers.data_port}: Address already in use." in line
