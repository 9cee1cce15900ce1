"""HTTP/2 on the data port: what well-bred clients do, what others do, and the port's life from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import struct
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import httpx
import orjson
import psutil
import pytest
from certificates import Certificate, make_certificate
from conformance2 import BODY_BYTES, CASES, Case
from frames import (
    ACK,
    PREFACE,
    Client,
    Got,
    data,
    frame,
    get,
    headers,
    initial_window,
    ping,
    post,
    request,
    rst_stream,
    settings,
    window_update,
)
from own_port import Own, running
from servers import everything_from

from serving.ports.http2 import Code, Frame

START: Final = PREFACE + settings()
CALL: Final = (b"content-type", b"application/grpc")


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Own]:
    with running(**getattr(request, "param", {})) as found:
        yield found


def wait_until(done: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.01)


class Talk:
    """One connection, and what its server has sent so far."""

    def __init__(self, own: Own, start: bytes = START) -> None:
        self.socket = own.connect()
        self.client = Client()
        self._rest = b""
        self.closed = False
        self.socket.sendall(start)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, sent: bytes) -> Talk:
        self.socket.sendall(sent)
        return self

    def until(self, done: Callable[[Client], object]) -> Client:
        """Reads until that is so, or the server has closed."""
        while not done(self.client):
            came = self.socket.recv(65_536)
            if not came:
                self.closed = True
                return self.client
            self._rest += came
            at = 0
            while len(self._rest) - at >= 9:
                end = at + 9 + int.from_bytes(self._rest[at : at + 3], "big")
                if end > len(self._rest):
                    break
                self.client.read(self._rest[at:end])
                at = end
            self._rest = self._rest[at:]
        return self.client

    def answer(self, number: int = 1) -> Got:
        self.until(
            lambda client: (
                number in client.streams and (client.streams[number].ended or client.streams[number].reset is not None)
            )
        )
        return self.client.streams[number]

    def ends_with(self) -> Code:
        """Reads to the end; why the server has ended it."""
        with contextlib.suppress(ConnectionResetError):  # behind its last frame
            self.until(lambda client: False)
        return Code(self.client.goaways[-1][1])


def message(text: bytes) -> bytes:
    """Of a call."""
    return struct.pack(">BL", 0, len(text)) + text


def call(number: int, path: str, *messages: bytes, end: bool = True) -> bytes:
    body = b"".join(message(one) for one in messages)
    head = headers(number, request("POST", path, CALL, (b"te", b"trailers")), end=False)
    return head + data(number, body, end=end) if body or end else head


# Requests


def test_requests_reach_the_door_as_those_of_http_1_1_do(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(headers(1, request("POST", "/x%20y?z", (b"a-b", b"C d")), end=False) + data(1, b"12345"))
        got = talk.answer()
    assert (got.status, orjson.loads(got.body)) == (200, ["POST", "/x y", 5])
    assert set(got.headers) == {b"content-type", b"content-length", b"date"}
    (asked,) = own.door.requests
    assert asked.headers == {b"a-b": b"C d", b"host": b"x"}
    assert asked.body == b"12345"


def test_streams_are_answered_in_the_order_of_their_answers(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(get(1, "/later/1") + get(3, "/at-once") + get(5, "/later/5"))
        assert orjson.loads(talk.answer(3).body) == ["GET", "/at-once", 0]
        assert list(talk.client.streams) == [3]
        own.let()
        own.let()
        assert orjson.loads(talk.answer(5).body)[1] == "/later/5"
        assert orjson.loads(talk.answer(1).body)[1] == "/later/1"


def test_many_streams_on_one_connection_each_get_their_own_answer(own: Own) -> None:
    with Talk(own) as talk:
        for batch in range(20):
            numbers = [200 * batch + 2 * i + 1 for i in range(100)]
            talk.send(b"".join(post(number, bytes(number % 50), path=f"/{number}") for number in numbers))
            for number in numbers:
                assert orjson.loads(talk.answer(number).body) == ["POST", f"/{number}", number % 50]


def test_thousands_of_requests_in_one_piece_are_answered(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(window_update(0, 1_000_000) + b"".join(get(number, f"/{number}") for number in range(1, 8001, 2)))
        for number in range(1, 8001, 2):
            assert talk.answer(number).status == 200


def test_http_1_1_and_http_2_share_the_port(own: Own) -> None:
    with Talk(own) as talk, own.connect() as plain:
        plain.sendall(b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything_from(plain).endswith(b'["GET","/plain",0]')
        assert talk.send(get()).answer().status == 200


@pytest.mark.parametrize("size", [1, 5, 20])
def test_a_preface_in_pieces_is_one(size: int, own: Own) -> None:
    sent = START + get()
    with Talk(own, b"") as talk:
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), size):
            talk.send(sent[at : at + size])
            time.sleep(0.002)
        assert talk.answer().status == 200


def test_the_preface_is_none_behind_a_request(own: Own) -> None:
    with own.connect() as plain:
        plain.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" + START)
        assert b"HTTP/1.1 505 " in everything_from(plain)


def test_a_wrong_preface_is_told_in_http_2(own: Own) -> None:
    with Talk(own, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") as talk:
        assert talk.ends_with() is Code.PROTOCOL_ERROR


def test_a_refused_request_ends_its_stream_alone(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(post(1, bytes(1000), path="/refused") + get(3))
        got = talk.answer(1)
        assert (got.status, orjson.loads(got.body)) == (503, {"error": "Not now."})
        assert got.headers[b"retry-after"] == b"1"
        assert talk.answer(3).status == 200


def test_what_is_too_long_or_none_is_answered_and_the_connection_goes_on(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(headers(1, request("POST", "/x", (b"content-length", b"1000001")), end=False))
        talk.send(
            get(3, "/x", *((b"a%d" % i, b"b") for i in range(101))) + get(5, "/" + "x" * 9000) + get(7, "no-slash")
        )
        assert [talk.answer(number).status for number in (1, 3, 5, 7)] == [413, 431, 414, 400]
        assert b"connection" not in talk.client.streams[1].headers
        assert talk.send(get(9)).answer(9).status == 200
    assert len(own.door.requests) == 1


def test_a_body_whose_length_nobody_said_has_its_room_as_it_comes(own: Own) -> None:
    own.door.room = 50_000
    with Talk(own) as talk:
        talk.send(headers(1, request("POST"), end=False))
        for _ in range(6):
            talk.send(data(1, bytes(10_000), end=False))
        assert talk.answer(1).status == 503
        assert talk.send(data(1) + post(3, bytes(10_000))).answer(3).status == 200


def test_a_client_that_gives_a_request_up_is_told_to_the_door(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(get(1, "/later/1") + get(3, "/later/3"))
        wait_until(lambda: own.door.held.qsize() == 2)
        talk.send(rst_stream(1) + ping())
        talk.until(lambda client: client.pongs)
        assert own.door.left == ["/later/1"]
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
    wait_until(lambda: own.door.left == ["/later/1", "/later/3"])


def test_a_client_that_closes_its_side_gets_its_answers(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(get(1, "/later") + headers(3, request("POST", "/begun"), end=False))
        wait_until(lambda: not own.door.held.empty())
        talk.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: own.door.left == ["/begun"])
        own.let()
        assert talk.answer(1).status == 200
        talk.until(lambda client: False)
        assert talk.closed


@pytest.fixture(scope="module")
def conforming() -> Iterator[Own]:
    with running(SAMEDIGIT_MAX_BODY_BYTES=str(BODY_BYTES)) as found:
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace("\\", "|"))
def test_a_port_follows_the_clause(case: Case, conforming: Own) -> None:
    start = case.start if case.start.startswith(b"PRI") else PREFACE[:-4] + b"..\r\n"
    with Talk(conforming, start + case.sent + ping(b"the end.")) as talk:
        if case.ends is not None:
            assert talk.ends_with() is case.ends
        elif case.reset is not None:
            assert talk.answer().reset == case.reset
        elif case.status is not None:
            got = talk.answer()
            assert (got.status, got.ended) == (case.status, True)
        if case.ends is None:
            talk.until(lambda client: b"the end." in client.pongs)
            assert b"the end." in talk.client.pongs


# Calls of gRPC


def test_a_call_is_answered_with_its_message_and_trailers(own: Own) -> None:
    with Talk(own) as talk:
        got = talk.send(call(1, "/Service/Method", b"hello")).answer()
    assert got == Got(200, dict([CALL]), message(b"HELLO"), {b"grpc-status": b"0"}, True, None)


def test_a_call_that_is_refused_has_trailers_alone(own: Own) -> None:
    with Talk(own) as talk:
        got = talk.send(call(1, "/refused", b"hello")).answer()
    status = {b"grpc-status": b"14", b"grpc-message": b"Not now."}
    assert got == Got(200, {**dict([CALL]), **status}, b"", None, True, None)


@pytest.mark.parametrize(
    ("content_type", "is_call"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/json", False),
        ("text/application/grpc", False),
    ],
)
def test_a_call_is_told_by_its_content_type(content_type: str, is_call: bool, own: Own) -> None:
    with Talk(own) as talk:
        talk.send(post(1, message(b"hello"), (b"content-type", content_type.encode())))
        assert (talk.answer().trailers is not None) is is_call


def test_messages_of_a_streaming_call_go_both_ways(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(call(1, "/stream", b"one", end=False))
        talk.until(lambda client: 1 in client.streams and client.streams[1].body == message(b"ONE"))
        whole = message(b"two") + message(b"three")
        talk.send(data(1, whole[:2], end=False) + data(1, whole[2:10], end=False) + data(1, whole[10:], end=False))
        talk.until(lambda client: client.streams[1].body == message(b"ONE") + message(b"TWO") + message(b"THREE"))
        assert not talk.client.streams[1].ended
        assert talk.send(data(1)).answer() == Got(
            200,
            dict([CALL]),
            message(b"ONE") + message(b"TWO") + message(b"THREE"),
            {b"grpc-status": b"0"},
            True,
            None,
        )


def test_a_streaming_call_may_be_ended_by_the_server(own: Own) -> None:
    with Talk(own) as talk:
        got = talk.send(call(1, "/stream", b"the end", b"late", end=False)).answer()
        assert (got.body, got.trailers) == (message(b"THE END"), {b"grpc-status": b"0"})
        assert talk.send(get(3)).answer(3).status == 200


def test_a_streaming_call_without_a_message_is_ended(own: Own) -> None:
    with Talk(own) as talk:
        got = talk.send(call(1, "/stream")).answer()
        assert (got.status, got.body, got.headers[b"grpc-status"]) == (200, b"", b"0")


def test_half_a_message_at_the_end_of_a_call_is_refused(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(call(1, "/stream", b"one", end=False) + data(1, b"\0\0"))
        got = talk.answer()
        assert got.body == message(b"ONE")
        assert got.trailers is not None
        assert got.trailers[b"grpc-status"] == b"14"


def test_a_call_whose_head_is_refused_is_told_so_as_calls_are(own: Own) -> None:
    fields = (CALL, (b"te", b"trailers"))
    too_many = ((b"a%d" % i, b"b") for i in range(101))
    with Talk(own) as talk:
        talk.send(headers(1, request("POST", "/x", *fields, (b"content-length", b"1000001")), end=False))
        talk.send(headers(3, request("POST", "/x", *fields, *too_many), end=False) + call(5, "/x", b"one"))
        for number, why in ((1, b"longer than 1000000 bytes"), (3, b"100")):
            got = talk.answer(number)
            assert (got.status, got.headers[b"content-type"], got.body) == (200, CALL[1], b"")
            assert why in got.headers[b"grpc-message"]
        assert talk.answer(5).body == message(b"ONE")


def test_a_message_longer_than_a_body_may_be_is_refused_before_it_comes(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(call(1, "/stream", end=False) + data(1, struct.pack(">BL", 0, 1_000_000), end=False))
        assert b"longer than 1000000 bytes" in talk.answer().headers[b"grpc-message"]


def test_a_streaming_call_that_pauses_takes_no_more_than_its_window(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(call(1, "/stream", b"pause", end=False))
        talk.until(lambda client: 1 in client.streams and client.streams[1].body)
        for _ in range(70):
            talk.send(data(1, message(bytes(10_000)), end=False))
        talk.send(ping())
        talk.until(lambda client: client.pongs)
        assert talk.client.streams[1].body == message(b"PAUSE")
        assert 1 not in talk.client.granted
        talk.send(window_update(0, 1_000_000) + window_update(1, 1_000_000))
        own.loop.call_soon_threadsafe(own.door.calls["/stream"].resume)
        talk.until(lambda client: 1 in client.granted)
        assert len(talk.send(data(1)).answer().body) == 10 + 70 * 10_005


def test_a_streaming_call_is_read_no_further_than_its_answers_are_taken(own: Own) -> None:
    with Talk(own, PREFACE + settings(initial_window(0))) as talk:
        talk.send(call(1, "/stream", end=False))
        for _ in range(100):
            talk.send(data(1, message(bytes(9_000)), end=False))
        talk.send(ping())
        talk.until(lambda client: client.pongs)
        (connection,) = own.connections.open
        assert cast(Any, connection)._machine.unsent_bytes < 80_000
        assert talk.send(window_update(0, 10**6) + window_update(1, 10**6) + data(1)).answer().ended
        assert len(talk.client.streams[1].body) == 100 * 9_005


def test_a_streaming_client_that_goes_away_is_told_to_the_door(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(call(1, "/stream", b"one", end=False))
        talk.until(lambda client: 1 in client.streams)
        talk.send(rst_stream(1))
        wait_until(lambda: own.door.left == ["/stream"])
        own.loop.call_soon_threadsafe(own.door.calls["/stream"].send, message(b"late"))
        own.loop.call_soon_threadsafe(own.door.calls["/stream"].resume)
        assert talk.send(get(3)).answer(3).status == 200


# The port's life


def test_when_the_port_closes_what_was_asked_is_answered_and_the_client_is_told_twice(own: Own) -> None:
    with Talk(own) as talk, Talk(own) as idle:
        talk.send(get(1, "/later"))
        idle.send(get()).answer()
        wait_until(lambda: not own.door.held.empty())
        closing = asyncio.run_coroutine_threadsafe(own.end(), own.loop)
        talk.until(lambda client: client.goaways)
        assert talk.client.goaways == [(2**31 - 1, Code.NO_ERROR)]
        (asked,) = [one for one in talk.client.frames if one.kind == Frame.PING]
        talk.send(get(3) + ping(asked.payload, ACK))
        assert talk.answer(3).status == 200
        assert not closing.done()
        own.let()
        assert talk.answer(1).status == 200
        talk.until(lambda client: False)
        assert talk.client.goaways[1:] == [(3, Code.NO_ERROR)]
        idle.until(lambda client: False)
        closing.result(timeout=10)


@pytest.mark.parametrize("ending", ["closed", "reset", "before its answer", "in a body", "mistake"])
def test_a_connection_that_ended_leaves_nothing_behind(ending: str, own: Own) -> None:
    gc.collect()
    gc.disable()
    try:
        with Talk(own) as talk:
            talk.send(get()).answer()
            connection = cast(Any, next(iter(own.connections.open)))
            remembered: list[weakref.ref[Any]] = [weakref.ref(connection), weakref.ref(connection._machine)]
            del connection
            if ending == "before its answer":
                talk.send(get(3, "/later"))
                wait_until(lambda: not own.door.held.empty())
            elif ending == "in a body":
                talk.send(headers(3, request("POST"), end=False) + data(3, bytes(1000), end=False))
            elif ending == "mistake":
                talk.send(data(0))
            if ending in ("reset", "before its answer"):
                talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: not own.connections.open)
        if ending == "before its answer":
            assert own.door.left == ["/later"]
            own.let()
        wait_until(lambda: all(one() is None for one in remembered))
    finally:
        gc.enable()


@pytest.mark.parametrize("own", [{"SAMEDIGIT_MAX_CONNECTIONS": "2"}], indirect=True)
def test_connections_of_http_2_count_as_all_do(own: Own) -> None:
    with Talk(own) as one, Talk(own) as other:
        one.send(get()).answer()
        other.send(get()).answer()
        assert len(own.connections) == 2
        with own.connect() as third:
            assert everything_from(third).startswith(b"HTTP/1.1 503 ")
    wait_until(lambda: not own.connections.open)


@pytest.mark.parametrize("own", [{"SAMEDIGIT_IDLE_SECONDS": "1"}], indirect=True)
def test_an_idle_connection_is_told_and_closed(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(get()).answer()
        started = time.monotonic()
        assert talk.ends_with() is Code.NO_ERROR
        assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("own", [{"SAMEDIGIT_HEAD_SECONDS": "1"}], indirect=True)
@pytest.mark.parametrize(
    "begun", [PREFACE, START + get()[:15], START + headers(1, request(), flags=0)], ids=["preface", "frame", "block"]
)
def test_a_head_that_never_ends_ends_the_connection(begun: bytes, own: Own) -> None:
    with Talk(own, begun) as talk:
        started = time.monotonic()
        assert talk.ends_with() is Code.ENHANCE_YOUR_CALM
        assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("own", [{"SAMEDIGIT_BODY_SECONDS": "1"}], indirect=True)
def test_a_body_that_never_ends_is_408_and_the_connection_goes_on(own: Own) -> None:
    with Talk(own) as talk:
        talk.send(headers(1, request("POST"), end=False))
        assert talk.answer().status == 408
        assert talk.send(get(3)).answer(3).status == 200


@pytest.mark.parametrize("own", [{"SAMEDIGIT_MAX_UNSENT_BYTES": "5000000"}], indirect=True)
def test_who_leaves_the_most_answers_untaken_is_cut_off_and_nobody_else(own: Own) -> None:
    """Counted over all connections, until they are taken or given up."""
    start = PREFACE + settings(initial_window(0))
    with Talk(own, start) as modest, Talk(own, start) as greedy, Talk(own) as other:
        for talk, size in ((modest, 2_000_000), (greedy, 3_000_000)):
            talk.send(get(1, f"/large/{size}") + ping())
            talk.until(lambda client: client.pongs)
        assert own.connections.unsent_bytes == 5_000_000
        greedy.send(get(3, "/later") + get(5, "/large/1"))
        assert greedy.ends_with() is Code.ENHANCE_YOUR_CALM
        assert own.door.metrics.reasons == ["unsent"]
        assert own.door.left == ["/later"]
        assert own.connections.unsent_bytes == 2_000_000
        assert other.send(get(1)).answer(1).status == 200
        modest.send(rst_stream(1) + ping())
        modest.until(lambda client: len(client.pongs) > 1)
        assert own.connections.unsent_bytes == 0
        modest.send(get(3, "/large/3000000") + ping())
        modest.until(lambda client: len(client.pongs) > 2)
    wait_until(
        lambda: own.connections.unsent_bytes == 0 and not own.connections.open
    )  # though nobody can take it any more


@pytest.mark.parametrize("own", [{"SAMEDIGIT_IDLE_SECONDS": "1"}], indirect=True)
def test_a_client_that_reads_nothing_is_cut_off(own: Own) -> None:
    with Talk(own, PREFACE + settings(initial_window(2**31 - 1)) + window_update(0, 2**30)) as talk:
        talk.send(get(1, "/large"))
        wait_until(lambda: own.connections.open)
        wait_until(lambda: not own.connections.open)


def test_a_flood_of_pings_that_nobody_reads_the_answers_of_is_not_read_further(own: Own) -> None:
    with Talk(own, PREFACE + settings(initial_window(2**31 - 1)) + window_update(0, 2**30)) as talk:
        talk.send(get(1, "/large"))
        wait_until(lambda: own.door.requests)
        talk.socket.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 50_000_000:
                sent += talk.socket.send(ping() * 1000)
    assert sent < 20_000_000


def test_attacks_take_little_memory_and_the_port_stays_well(own: Own) -> None:
    """Each over several connections, which are ended for it; nothing of them stays."""
    attacks = [
        b"".join(get(number, "/later") + rst_stream(number) for number in range(1, 2001, 2)),
        b"".join(get(number, "/later") + window_update(number, 0) for number in range(1, 2001, 2)),
        headers(1, request(), flags=0) + frame(Frame.CONTINUATION, 0, 1) * 1000,
        ping() * 5000,
        settings(initial_window(1)) * 5000,
        headers(1, request("POST"), end=False) + data(1, end=False) * 5000,
        b"".join(headers(number, [(b"", b"")]) for number in range(1, 2001, 2)),
    ]
    process = psutil.Process()
    before = process.memory_info().rss
    for attack in attacks:
        for _ in range(5):
            with Talk(own) as talk, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                talk.send(attack)
                assert talk.ends_with() is Code.ENHANCE_YOUR_CALM
    wait_until(lambda: not own.connections.open)
    assert process.memory_info().rss - before < 30_000_000
    while not own.door.held.empty():
        assert own.door.held.get().gone


# Real clients


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and CI must not skip")
        pytest.skip(f"not installed: {name}")
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=["plain", "tls"])
def port(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[tuple[Own, str]]:
    """A port, and its URL."""
    secure = request.param == "tls"
    variables: dict[str, Any] = certificate.variables if secure else {}
    with running(checks=not secure, **variables) as found:
        yield found, f"{'https' if secure else 'http'}://127.0.0.1:{found.number}"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_curl(port: tuple[Own, str], certificate: Certificate, tmp_path: Path) -> None:
    _, url = port
    body = tmp_path / "body"
    body.write_bytes(bytes(500_000))
    options = ["--cacert", str(certificate.certificate), "--http2" if url[:5] == "https" else "--http2-prior-knowledge"]
    options += ["--silent", "--show-error", "--write-out", " %{http_version} %{http_code}"]
    assert run(tool("curl"), *options, f"{url}/x") == '["GET","/x",0] 2 200'
    assert run(tool("curl"), *options, "--data-binary", f"@{body}", f"{url}/x") == '["POST","/x",500000] 2 200'
    if url[:5] == "https":  # with prior knowledge, curl 7.88 cannot ask twice over one connection, whatever the server
        assert run(tool("curl"), *options, f"{url}/x", f"{url}/y") == '["GET","/x",0] 2 200["GET","/y",0] 2 200'
    assert run(tool("curl"), *options, "--head", f"{url}/x").endswith(" 2 200")
    assert len(run(tool("curl"), *options, f"{url}/large")) == 50_000_000 + len(" 2 200")
    assert run(tool("curl"), *options, "--http1.1", f"{url}/x") == '["GET","/x",0] 1.1 200'


def test_httpx(port: tuple[Own, str], certificate: Certificate) -> None:
    _, url = port
    verify: Any = certificate.client_context() if url[:5] == "https" else False
    with httpx.Client(http1=False, http2=True, verify=verify, trust_env=False, timeout=20) as client:
        for _ in range(3):
            answer = client.post(f"{url}/x", content=bytes(300_000))
            assert (answer.http_version, answer.status_code, answer.json()) == ("HTTP/2", 200, ["POST", "/x", 300_000])
        answer = client.post(f"{url}/refused", content=bytes(100_000))
        assert (answer.status_code, answer.json()) == (503, {"error": "Not now."})
        assert client.post(f"{url}/x", content=bytes(1_000_001)).status_code == 413
        assert client.get(f"{url}/x").json() == ["GET", "/x", 0]
        assert len(client.get(f"{url}/large").content) == 50_000_000


def test_nghttp(port: tuple[Own, str], tmp_path: Path) -> None:
    own, url = port
    body = tmp_path / "body"
    body.write_bytes(bytes(100_000))
    said = run(
        tool("nghttp"),
        "--no-verify-peer",
        "--stat",
        "--continuation",
        "--padding=100",
        "--data",
        str(body),
        f"{url}/x",
        f"{url}/y",
    )
    assert '["POST","/x",100000]' in said
    assert '["POST","/y",100000]' in said
    assert sum(request.path in ("/x", "/y") for request in own.door.requests) == 2


def test_h2load(port: tuple[Own, str], tmp_path: Path) -> None:
    _, url = port
    body = tmp_path / "body"
    body.write_bytes(bytes(1000))
    for clients, streams, window in ((1, 1, 16), (4, 100, 16), (4, 10, 1)):
        said = run(
            tool("h2load"),
            "-n",
            "2000",
            "-c",
            str(clients),
            "-m",
            str(streams),
            "-w",
            str(window),
            "-d",
            str(body),
            f"{url}/x",
        )
        assert "2000 succeeded, 0 failed, 0 errored" in said
        assert "2000 2xx" in said
    assert "20 succeeded, 0 failed" in run(tool("h2load"), "-n", "20", "-c", "2", "-m", "10", f"{url}/large")


def test_h2load_calls(port: tuple[Own, str], tmp_path: Path) -> None:
    _, url = port
    body = tmp_path / "body"
    body.write_bytes(message(b"hello"))
    said = run(
        tool("h2load"), "-n", "2000", "-c", "4", "-m", "16", "-d", str(body),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"{url}/Service/Method",
    )  # fmt: skip
    assert "2000 succeeded, 0 failed, 0 errored" in said
