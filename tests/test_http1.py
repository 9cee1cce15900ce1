"""The HTTP/1.1 machine: bytes and times in, events and bytes out; neither sockets nor sleeping."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from serving.errors import Kind, RequestError
from serving.messages import Answer, Head
from serving.ports.http1 import CONTINUE, Body, Http1Limits, LocalError, Machine, State

LIMITS: Final = Http1Limits(
    head_bytes=4096,
    target_bytes=1000,
    headers=20,
    body_bytes=1_000_000,
    discard_bytes=10_000,
    head_seconds=10,
    body_seconds=60,
    body_bytes_per_second=1000,
    idle_seconds=75,
    linger_seconds=5,
)
DATE: Final = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
OK: Final = Answer(200, b"yes", ())


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: x", *headers, "", ""]).encode("latin-1")


GET: Final = head("GET /a HTTP/1.1")
POST: Final = head("POST /b HTTP/1.1", "Content-Length: 5") + b"hello"
CHUNKED: Final = head("POST /c HTTP/1.1", "Transfer-Encoding: chunked")


def new(limits: Http1Limits = LIMITS) -> Machine:
    return Machine(limits, 0)


def read(machine: Machine, now: float = 0) -> tuple[Head, bytes | None]:
    """The next request, accepted; its body, if that is whole."""
    event = machine.next_event(now)
    assert isinstance(event, Head)
    machine.accept(now)
    body = machine.next_event(now)
    assert not isinstance(body, Head)
    return event, None if body is None else body.data


def answer(machine: Machine, answer: Answer = OK, now: float = 0) -> bytes:
    return machine.answer(answer, now, date=DATE)


def refused(sent: bytes, limits: Http1Limits = LIMITS) -> RequestError:
    machine = new(limits)
    machine.receive(sent, 0)
    with pytest.raises(RequestError) as caught:
        read(machine)
    said = machine.refuse(caught.value, 0, date=DATE)
    assert b"\r\nconnection: close\r\n" in said
    assert machine.state is State.LINGERING
    return caught.value


def test_a_request_goes_through_every_state() -> None:
    machine = new()
    states = [machine.state]
    machine.receive(POST, 0)
    states.append(machine.state)
    event = machine.next_event(0)
    assert isinstance(event, Head)
    assert (event.method, event.target, event.path, event.length, event.keeps) == ("POST", b"/b", "/b", 5, True)
    assert event.headers == {b"host": b"x", b"content-length": b"5"}
    states.append(machine.state)
    assert machine.accept(0) == b""
    states.append(machine.state)
    assert machine.next_event(0) == Body(b"hello")
    states.append(machine.state)
    assert machine.next_event(0) is None
    said = answer(machine)
    assert said == b"HTTP/1.1 200 OK\r\n" + DATE + b"content-length: 3\r\n\r\nyes"
    states.append(machine.state)
    assert states == [State.IDLE, State.HEAD, State.HEAD_READ, State.BODY, State.ANSWERING, State.IDLE]


def test_a_request_byte_by_byte_is_the_same() -> None:
    machine = new()
    found: list[Head | Body] = []
    for byte in POST:
        machine.receive(bytes([byte]), 0)
        while event := machine.next_event(0):
            found.append(event)
            if isinstance(event, Head):
                machine.accept(0)
    assert isinstance(found[0], Head)
    assert found[1:] == [Body(b"hello")]


def test_chunks_are_put_together() -> None:
    machine = new()
    machine.receive(CHUNKED + b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nContent-Length: 3\r\n\r\n", 0)
    event, body = read(machine)
    assert body == b"hello!"
    assert event.length is None
    assert b"content-length" not in event.headers


def test_pipelined_requests_are_given_out_one_after_the_other() -> None:
    machine = new()
    machine.receive(GET + POST + GET, 0)
    for path, sent in (("/a", b""), ("/b", b"hello"), ("/a", b"")):
        event, body = read(machine)
        assert (event.path, body) == (path, sent)
        assert machine.next_event(0) is None
        answer(machine)
    assert machine.state is State.IDLE


def test_a_client_that_waits_gets_its_100_when_the_body_is_wanted() -> None:
    machine = new()
    machine.receive(head("POST / HTTP/1.1", "Content-Length: 2", "Expect: 100-continue"), 0)
    assert isinstance(machine.next_event(0), Head)
    assert machine.accept(0) == CONTINUE
    machine.receive(b"hi", 0)
    assert machine.next_event(0) == Body(b"hi")


def test_a_head_answered_before_its_body_came_leaves_the_connection_usable() -> None:
    machine = new()
    machine.receive(POST[:-3], 0)
    assert isinstance(machine.next_event(0), Head)
    answer(machine)
    assert machine.state is State.DISCARDING
    assert machine.next_event(0) is None
    machine.receive(b"llo" + GET, 0)
    event, _ = read(machine)
    assert event.path == "/a"


def test_a_body_not_worth_reading_ends_the_connection() -> None:
    machine = new()
    machine.receive(head("POST / HTTP/1.1", "Content-Length: 10001"), 0)
    assert isinstance(machine.next_event(0), Head)
    assert b"connection: close\r\n" in answer(machine)
    assert machine.state is State.LINGERING


def test_a_request_without_host_is_refused() -> None:
    assert refused(b"GET / HTTP/1.1\r\n\r\n").kind is Kind.MALFORMED


def test_what_takes_too_long_is_overdue() -> None:
    machine = new()
    machine.receive(GET[:5], 100)
    assert machine.overdue(110) is None
    error = machine.overdue(110.1)
    assert error is not None
    assert error.kind is Kind.SLOW
    assert machine.refuse(error, 111, date=DATE).startswith(b"HTTP/1.1 408 ")
    assert not machine.closes(116)
    assert machine.closes(116.1)


def test_a_wrong_step_is_a_mistake_of_the_server() -> None:
    with pytest.raises(LocalError):
        new().accept(0)
    with pytest.raises(LocalError):
        Machine(replace(LIMITS), 0).accept(0)
