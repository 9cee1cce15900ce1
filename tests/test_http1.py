"""The HTTP/1.1 machine: bytes and times in, events and bytes out; neither sockets nor sleeping."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from machine_limits import DEFAULT

from serving.errors import Kind, RequestError, malformed
from serving.messages import Answer, Head
from serving.ports.http1 import (
    CACHED_HEAD_BYTES,
    CONTINUE,
    PAUSE_BYTES,
    TABLE,
    Body,
    Http1Limits,
    LocalError,
    Machine,
    State,
    limits_of,
)
from serving.settings import read_settings

LIMITS: Final = replace(
    DEFAULT,
    head_bytes=4096,
    target_bytes=1000,
    headers=20,
    body_bytes=1_000_000,
    discard_bytes=10_000,
    body_bytes_per_second=1000,
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
    assert caught.value.closes is True
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


# Expect: 100-continue


def waiting(*headers: str, line: str = "POST /w HTTP/1.1") -> bytes:
    return head(line, *(headers or ("Content-Length: 2",)), "Expect: 100-Continue")


def begin(machine: Machine, sent: bytes, now: float = 0) -> Head:
    """The head of what is sent; the request is not accepted."""
    machine.receive(sent, now)
    event = machine.next_event(now)
    assert isinstance(event, Head)
    return event


def test_a_client_that_waits_gets_its_100_when_the_body_is_wanted() -> None:
    machine = new()
    begin(machine, waiting())
    assert machine.accept(0) == CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"
    machine.receive(b"hi", 0)
    assert machine.next_event(0) == Body(b"hi")
    assert b"connection" not in answer(machine)


def test_a_client_that_waits_with_chunks_gets_its_100() -> None:
    machine = new()
    begin(machine, waiting("Transfer-Encoding: chunked"))
    assert machine.accept(0) == CONTINUE


@pytest.mark.parametrize(
    "sent",
    [
        waiting() + b"h",
        waiting() + b"hi",
        waiting("Content-Length: 0"),
        waiting("X: no length"),
        waiting(line="POST / HTTP/1.0"),
        POST[:-5],
    ],
    ids=["some of it came", "all of it came", "empty", "no body", "HTTP/1.0", "does not wait"],
)
def test_who_need_not_wait_gets_no_100(sent: bytes) -> None:
    machine = new()
    begin(machine, sent)
    assert machine.accept(0) == b""


def test_a_pipelined_client_that_waits_gets_its_100_when_its_turn_has_come() -> None:
    machine = new()
    begin(machine, GET + waiting())
    assert machine.accept(0) == b""
    assert machine.next_event(0) == Body(b"")
    assert machine.next_event(0) is None
    answer(machine)
    event = machine.next_event(0)
    assert isinstance(event, Head)
    assert event.path == "/w"
    assert machine.accept(0) == CONTINUE
    machine.receive(b"hi", 0)
    assert machine.next_event(0) == Body(b"hi")
    answer(machine)
    assert machine.state is State.IDLE


@pytest.mark.parametrize("came", [b"", b"hi"], ids=["not here", "here"])
def test_a_client_that_waits_and_is_refused_gets_no_second_request(came: bytes) -> None:
    """Nobody can know whether it sends the body now."""
    machine = new()
    begin(machine, waiting() + came)
    assert b"connection: close\r\n" in answer(machine)
    assert machine.state is State.LINGERING


# Answers


def test_an_answer_has_what_it_was_given() -> None:
    machine = new()
    begin(machine, GET)
    said = machine.answer(Answer(404, b"no", ((b"a", b"b"), (b"Date", b"x"))), 0, date=DATE, extra=b"x-id: 1\r\n")
    assert said == b"HTTP/1.1 404 Not Found\r\na: b\r\n" + DATE + b"x-id: 1\r\ncontent-length: 2\r\n\r\nno"


def test_head_gets_the_length_without_the_body() -> None:
    machine = new()
    begin(machine, head("HEAD / HTTP/1.1") + head("HEAD / HTTP/1.1", "Connection: close"))
    assert answer(machine) == b"HTTP/1.1 200 OK\r\n" + DATE + b"content-length: 3\r\n\r\n"
    assert isinstance(machine.next_event(0), Head)
    said = answer(machine, Answer(200, b"", ((b"content-length", b"1234"),)))
    assert said == b"HTTP/1.1 200 OK\r\n" + DATE + b"connection: close\r\ncontent-length: 1234\r\n\r\n"


def test_head_gets_the_length_that_the_answer_says_itself() -> None:
    for length in (b"0", b"1", b"1234"):
        machine = new()
        begin(machine, head("HEAD / HTTP/1.1"))
        said = answer(machine, Answer(200, b"yes", ((b"content-length", length),)))
        assert said == b"HTTP/1.1 200 OK\r\n" + DATE + b"content-length: " + length + b"\r\n\r\n"


@pytest.mark.parametrize(("status", "phrase"), [(204, b"No Content"), (304, b"Not Modified")])
def test_an_answer_that_has_no_body_has_no_length_either(status: int, phrase: bytes) -> None:
    machine = new()
    begin(machine, GET)
    said = answer(machine, Answer(status, b"", ((b"content-length", b"3"),)))
    assert said == b"HTTP/1.1 %d %s\r\n" % (status, phrase) + DATE + b"\r\n"


def test_the_length_is_that_of_the_body() -> None:
    machine = new()
    begin(machine, GET)
    assert b"content-length: 3\r\n" in answer(machine, Answer(200, b"yes", ((b"content-length", b"9"),)))


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(200, b"", ((b"a", b"b\r\nc: d"),)),
        Answer(200, b"", ((b"a\r\nb", b"c"),)),
        Answer(200, b"", ((b"a b", b"c"),)),
        Answer(200, b"", ((b"a", b"b\nc"),)),
        Answer(200, b"", ((b"transfer-encoding", b"chunked"),)),
        Answer(100, b""),
        Answer(999, b""),
    ],
)
def test_an_answer_that_would_not_be_one_is_a_mistake_of_the_server(wrong: Answer) -> None:
    machine = new()
    begin(machine, GET)
    with pytest.raises(LocalError):
        answer(machine, wrong)
    assert answer(machine) != b""  # nothing has been sent: another can be


def test_http_1_0_is_told_that_the_connection_stays() -> None:
    machine = new()
    event = begin(machine, head("GET / HTTP/1.0", "Connection: Keep-Alive"))
    assert event.http_1_0
    assert b"\r\nconnection: keep-alive\r\n" in answer(machine)
    assert machine.state is State.IDLE


# The last answer


@pytest.mark.parametrize(
    "sent",
    [
        head("GET / HTTP/1.1", "Connection: close"),
        head("GET / HTTP/1.1", "Connection: x, Close ,upgrade"),
        head("GET / HTTP/1.0"),
        head("GET / HTTP/1.0", "Connection: close, keep-alive"),
        head("POST / HTTP/1.1", "Connection: close", "Content-Length: 2") + b"hi",
    ],
)
def test_a_client_that_wants_no_more_is_closed_with_its_answer(sent: bytes) -> None:
    machine = new()
    machine.receive(sent, 0)
    read(machine)
    assert not machine.closes(0)
    assert b"\r\nconnection: close\r\n" in answer(machine)
    assert machine.state is State.CLOSED
    assert machine.closes(0)


def test_what_comes_behind_the_last_answer_is_dropped_until_the_client_closes() -> None:
    machine = new()
    machine.receive(head("GET / HTTP/1.1", "Connection: close") + GET, 0)
    read(machine)
    answer(machine, now=1)
    assert machine.state is State.LINGERING
    assert machine.next_event(1) is None
    machine.receive(GET, 5)
    assert machine.next_event(5) is None
    assert not machine.closes(6)
    assert machine.closes(6.1)
    machine.receive_end(5)
    assert machine.closes(5)


def test_a_client_that_wants_no_more_and_still_sends_a_body_has_time_to_read_its_answer() -> None:
    machine = new()
    begin(machine, head("POST / HTTP/1.1", "Connection: close", "Content-Length: 5"))
    answer(machine)
    assert machine.state is State.LINGERING


def test_an_answer_can_close_by_its_header() -> None:
    machine = new()
    begin(machine, GET)
    said = answer(machine, Answer(200, b"yes", ((b"Connection", b"Close"),)))
    assert said.lower().count(b"connection: close\r\n") == 1
    assert machine.state is State.LINGERING


# Draining


def test_draining_closes_who_is_idle() -> None:
    machine = new()
    machine.last()
    assert machine.state is State.CLOSED
    machine = new()
    machine.receive(GET, 0)
    read(machine)
    answer(machine)
    machine.last()
    assert machine.closes(0)


def test_draining_answers_what_was_read_and_nothing_behind_it() -> None:
    machine = new()
    machine.receive(GET + GET, 0)
    read(machine)
    machine.last()
    assert not machine.closes(0)
    assert b"\r\nconnection: close\r\n" in answer(machine)
    assert machine.state is State.LINGERING
    assert machine.next_event(0) is None


@pytest.mark.parametrize("here", [3, len(POST) - 2], ids=["a part of the head", "a part of the body"])
def test_draining_answers_what_has_begun(here: int) -> None:
    machine = new()
    machine.receive(POST[:here], 0)
    machine.last()
    event = machine.next_event(0)
    machine.receive(POST[here:], 0)
    event = event or machine.next_event(0)
    assert isinstance(event, Head)
    machine.accept(0)
    assert machine.next_event(0) == Body(b"hello")
    assert b"\r\nconnection: close\r\n" in answer(machine)


def test_draining_closes_who_sent_only_empty_lines() -> None:
    machine = new()
    machine.receive(b"\r", 0)
    assert machine.next_event(0) is None
    machine.last()
    machine.receive(b"\n", 0)
    assert machine.next_event(0) is None
    assert machine.state is State.CLOSED


def test_draining_closes_once_the_rest_of_a_body_is_dropped() -> None:
    machine = new()
    begin(machine, POST[:-1])
    answer(machine)
    machine.last()
    machine.receive(POST[-1:], 0)
    assert machine.next_event(0) is None
    assert machine.state is State.CLOSED


# A client that closes its side


def test_a_client_that_closes_its_side_gets_every_answer() -> None:
    machine = new()
    machine.receive(GET + POST + GET, 0)
    machine.receive_end(0)
    said = []
    for path in ("/a", "/b", "/a"):
        event, _ = read(machine)
        assert event.path == path
        assert not machine.closes(1000)
        said.append(answer(machine))
    assert [b"connection: close" in answer for answer in said] == [False, False, True]
    assert machine.state is State.CLOSED


def test_a_client_that_closes_while_it_is_answered_gets_its_answer() -> None:
    machine = new()
    machine.receive(GET, 0)
    read(machine)
    machine.receive_end(0)
    assert not machine.closes(0)
    assert b"connection: close" in answer(machine)
    assert machine.closes(0)


@pytest.mark.parametrize("sent", [b"", b"\r", GET[:-1], CHUNKED + b"2\r\nhi\r\n0\r\n", POST[:-1], CHUNKED + b"2\r\nh"])
@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("ends_first", [False, True])
def test_a_client_that_closes_in_the_middle_of_a_request_is_gone(sent: bytes, before: bytes, ends_first: bool) -> None:
    machine = new()
    machine.receive(before + sent, 0)
    if ends_first:
        machine.receive_end(0)
    if before:
        read(machine)
        answer(machine)
    if isinstance(machine.next_event(0), Head):
        machine.accept(0)
        assert machine.next_event(0) is None
    if not ends_first:
        machine.receive_end(0)
        assert machine.next_event(0) is None
    assert machine.state is State.CLOSED


def test_a_client_that_closes_before_its_unwanted_body_came_is_gone() -> None:
    machine = new()
    begin(machine, POST[:-1])
    answer(machine)
    machine.receive_end(0)
    assert machine.next_event(0) is None
    assert machine.state is State.CLOSED


def test_a_client_that_has_closed_is_refused_and_gone() -> None:
    machine = new()
    machine.receive(b"GET\r\n\r\n", 0)
    machine.receive_end(0)
    with pytest.raises(RequestError) as caught:
        machine.next_event(0)
    assert machine.refuse(caught.value, 0, date=DATE).startswith(b"HTTP/1.1 400 ")
    assert machine.state is State.CLOSED


# A body that nobody wants


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_head_answered_before_its_body_came_leaves_the_connection_usable(cut: int) -> None:
    machine = new()
    begin(machine, POST[:-cut])
    assert b"connection" not in answer(machine)
    assert machine.state is State.DISCARDING
    assert machine.next_event(0) is None
    machine.receive(POST[-cut:] + GET, 0)
    event, _ = read(machine)
    assert event.path == "/a"


def test_chunks_that_nobody_wants_are_dropped() -> None:
    machine = new()
    begin(machine, CHUNKED + b"2\r\nhi")
    assert b"connection" not in answer(machine)
    machine.receive(b"\r\n0\r\nA: b\r\n\r\n" + GET, 0)
    event, _ = read(machine)
    assert event.path == "/a"


def test_the_rest_of_a_body_that_was_wanted_at_first_is_dropped() -> None:
    """Such as of a request that waited too long."""
    for sent, rest in ((POST[:-2], POST[-2:]), (CHUNKED + b"2\r\nh", b"i\r\n0\r\n\r\n"), (POST, b"")):
        machine = new()
        begin(machine, sent)
        machine.accept(0)
        if rest:
            assert machine.next_event(0) is None
        answer(machine)
        assert machine.state is State.DISCARDING
        machine.receive(rest + GET, 0)
        event, _ = read(machine)
        assert event.path == "/a"


def test_a_body_not_worth_dropping_ends_the_connection() -> None:
    for length, state in ((10_000, State.DISCARDING), (10_001, State.LINGERING)):
        machine = new()
        begin(machine, head("POST / HTTP/1.1", f"Content-Length: {length}"))
        assert (b"connection: close\r\n" in answer(machine)) == (state is State.LINGERING)
        assert machine.state is state


@pytest.mark.parametrize("bytes_at_once", [100, 100_000])
def test_chunks_not_worth_dropping_end_the_connection(bytes_at_once: int) -> None:
    machine = new()
    begin(machine, CHUNKED)
    answer(machine)
    sent = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    sent = sent * 3 + b"0\r\n\r\n" + GET
    for start in range(0, len(sent), bytes_at_once):
        machine.receive(sent[start : start + bytes_at_once], 7)
        assert machine.next_event(7) is None
    assert machine.state is State.LINGERING
    assert not machine.closes(12)
    assert machine.closes(12.1)


def test_chunks_are_dropped_as_far_as_the_limit() -> None:
    for size, state in ((10_000, State.HEAD), (10_001, State.LINGERING)):
        machine = new()
        begin(machine, CHUNKED)
        answer(machine)
        machine.receive(b"%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n" + GET[:5], 0)
        assert machine.next_event(0) is None
        assert machine.state is state


def test_a_body_that_is_dropped_is_as_long_as_its_own_head_says() -> None:
    """Whatever was left of the one before it."""
    machine = new()
    begin(machine, POST[:-2])
    machine.accept(0)
    assert machine.next_event(0) is None
    machine.receive(POST[-2:], 0)
    assert machine.next_event(0) == Body(b"hello")
    answer(machine)
    begin(machine, POST[:-2])
    answer(machine)
    assert machine.next_event(0) is None
    machine.receive(POST[-2:] + GET, 0)
    event, _ = read(machine)
    assert (event.method, event.path) == ("GET", "/a")  # not helloGET


def test_wrong_chunks_that_nobody_wants_end_the_connection_without_a_second_answer() -> None:
    machine = new()
    begin(machine, CHUNKED)
    answer(machine)
    machine.receive(b"x\r\n" + GET, 0)
    assert machine.next_event(0) is None
    assert machine.state is State.LINGERING


def test_an_unwanted_body_that_does_not_come_ends_the_connection() -> None:
    machine = new()
    begin(machine, POST[:-1])
    answer(machine, now=10)
    assert machine.overdue(1000) is None
    assert not machine.closes(70)
    assert machine.closes(70.1)


# Time


def overdue(machine: Machine, now: float) -> str | None:
    error = machine.overdue(now)
    assert error is None or (error.kind is Kind.SLOW and error.closes)
    return None if error is None else str(error)


def test_a_head_that_takes_too_long_is_overdue_however_it_trickles() -> None:
    machine = new()
    for now in range(100, 111):
        assert overdue(machine, now) is None
        machine.receive(GET[now - 100 : now - 99], now)
        assert machine.next_event(now) is None
    assert overdue(machine, 110.1) == "The headers were not whole after 10 s."
    error = machine.overdue(111)
    assert error is not None
    said = machine.refuse(error, 111, date=DATE, extra=b"x-id: 1\r\n")
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert DATE + b"x-id: 1\r\nconnection: close\r\n" in said
    assert not machine.closes(116)
    assert machine.closes(116.1)


def test_the_time_of_a_pipelined_head_begins_with_its_turn() -> None:
    machine = new()
    machine.receive(GET + GET[:5], 0)
    read(machine)
    assert overdue(machine, 1000) is None  # the server's own time
    answer(machine, now=1000)
    assert machine.next_event(1000) is None
    assert overdue(machine, 1010) is None
    assert overdue(machine, 1010.1) is not None


def test_the_time_behind_a_dropped_body_begins_with_its_end() -> None:
    for behind in (b"", GET[:5]):
        machine = new()
        begin(machine, POST[:-1])
        answer(machine)
        machine.receive(POST[-1:] + behind, 50)
        assert machine.next_event(50) is None
        if behind:
            assert overdue(machine, 60) is None
            assert overdue(machine, 60.1) is not None
        else:
            assert not machine.closes(125)
            assert machine.closes(125.1)


def test_empty_lines_are_no_request() -> None:
    machine = new()
    machine.receive(b"\r\n", 50)
    assert machine.next_event(50) is None
    assert overdue(machine, 125) is None
    assert not machine.closes(125)
    assert machine.closes(125.1)


def test_a_body_that_takes_too_long_is_overdue() -> None:
    machine = new()
    begin(machine, head("POST / HTTP/1.1", "Content-Length: 200000"), 5)
    machine.accept(8)
    for now in (8, 60):
        machine.receive(bytes(90_000), now)
        assert machine.next_event(now) is None
    assert overdue(machine, 68) is None
    assert overdue(machine, 68.1) == "The body was not whole after 60 s."


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_is_overdue(chunked: bool) -> None:
    machine = new()
    begin(machine, CHUNKED if chunked else head("POST / HTTP/1.1", "Content-Length: 200000"))
    machine.accept(0)
    machine.receive(b"5000\r\n" * chunked + bytes(4999), 0)
    assert machine.next_event(0) is None
    assert overdue(machine, 4.9) is None
    assert overdue(machine, 5) == "The body came with fewer than 1000 bytes a second."
    machine.receive(bytes(1), 5)
    assert machine.next_event(5) is None
    assert overdue(machine, 5) is None


def test_the_first_two_seconds_of_a_body_are_not_looked_at() -> None:
    machine = new()
    begin(machine, POST[:-5])
    machine.accept(0)
    assert overdue(machine, 2) is None
    assert overdue(machine, 2.1) is not None


def test_a_body_may_trickle_where_no_rate_is_asked() -> None:
    machine = new(replace(LIMITS, body_bytes_per_second=0))
    begin(machine, POST[:-5])
    machine.accept(0)
    assert overdue(machine, 60) is None


def test_the_bytes_of_an_earlier_body_do_not_count_for_the_next() -> None:
    machine = new()
    begin(machine, head("POST / HTTP/1.1", "Content-Length: 900000") + bytes(1))
    machine.accept(0)
    assert machine.next_event(0) is None
    machine.receive(bytes(899_999), 0)
    assert machine.next_event(0) == Body(bytes(900_000))
    answer(machine)
    begin(machine, POST[:-1])
    machine.accept(0)
    assert machine.next_event(0) is None
    assert overdue(machine, 2.1) is not None


def test_the_bytes_of_a_body_are_counted() -> None:
    machine = new()
    for sent, rest, counts in (
        (POST, b"", [5, 5]),
        (CHUNKED + b"3\r\nabc\r\n", b"0\r\n\r\n", [3, 3]),
        (POST[:-3], b"llo", [2, 5]),
    ):
        begin(machine, sent)
        machine.accept(0)
        if rest:
            assert machine.next_event(0) is None
        found = [machine.body_bytes]
        machine.receive(rest, 0)
        assert isinstance(machine.next_event(0), Body)
        assert [*found, machine.body_bytes] == counts
        answer(machine)


def test_an_idle_connection_is_closed() -> None:
    machine = Machine(LIMITS, 1000)
    assert not machine.closes(1075)
    assert machine.closes(1075.1)
    assert overdue(machine, 2000) is None
    machine.receive(GET, 1070)
    read(machine, 1070)
    assert not machine.closes(2000)
    answer(machine, now=2000)
    assert not machine.closes(2075)
    assert machine.closes(2075.1)


def test_a_refused_client_has_time_to_read_why() -> None:
    machine = new()
    machine.receive(b"\x00", 10)
    with pytest.raises(RequestError) as caught:
        machine.next_event(10)
    machine.refuse(caught.value, 10, date=DATE)
    assert not machine.closes(15)
    assert machine.closes(15.1)


# Limits of what is read


def test_chunks_are_counted() -> None:
    limits = replace(LIMITS, chunks=3)
    machine = new(limits)
    machine.receive(CHUNKED + b"1\r\na\r\n" * 3 + b"0\r\n\r\n", 0)
    assert read(machine)[1] == b"aaa"
    error = refused(CHUNKED + b"1\r\na\r\n" * 4, limits)
    assert error.kind is Kind.TOO_LARGE
    assert "3 chunks" in str(error)


def test_the_extensions_of_all_chunks_together_are_limited() -> None:
    piece = b"1;" + b"a" * 200 + b"\r\na\r\n"
    assert "extensions" in str(refused(CHUNKED + piece * 21))
    machine = new()
    machine.receive(CHUNKED + piece * 20 + b"0\r\n\r\n", 0)
    assert read(machine)[1] == b"a" * 20


def test_a_chunks_line_is_limited() -> None:
    for line, fits in ((b"1;" + b"a" * 252 + b"\r\n", True), (b"1;" + b"a" * 253 + b"\r\n", False)):
        if fits:
            machine = new()
            machine.receive(CHUNKED + line, 0)
            read(machine)
        else:
            assert "256 bytes" in str(refused(CHUNKED + line))
            assert "256 bytes" in str(refused(CHUNKED + line[:-2] + b"a"))


def test_trailers_are_limited() -> None:
    last = CHUNKED + b"0\r\n"
    assert refused(last + b"A: b\r\n" * 21).kind is Kind.HEAD_TOO_LARGE
    assert refused(last + (b"A: " + b"b" * 1000 + b"\r\n") * 5).kind is Kind.HEAD_TOO_LARGE
    machine = new()
    machine.receive(last + b"A: b\r\n" * 20 + b"\r\n", 0)
    assert read(machine)[1] == b""


def test_trailers_are_as_long_as_a_head_may_be() -> None:
    last = CHUNKED + b"0\r\nA: "
    machine = new()
    machine.receive(last + b"b" * (4096 - 7) + b"\r\n\r\n", 0)  # with `A: `, and the end of two lines
    assert read(machine)[1] == b""
    assert refused(last + b"b" * (4096 - 6) + b"\r\n\r\n").kind is Kind.HEAD_TOO_LARGE
    for more in (b"", b"b"):
        machine = new()
        machine.receive(last + b"b" * 4093 + more, 0)
        if more:
            with pytest.raises(RequestError, match="The trailers are longer than 4096 bytes"):
                read(machine)
        else:
            assert read(machine)[1] is None


def test_empty_lines_are_counted_for_each_request() -> None:
    machine = new()
    for _ in range(5):
        for line in [b"\r\n"] * 5:
            machine.receive(line, 0)
            assert machine.next_event(0) is None
            assert machine.state is State.IDLE
        machine.receive(GET, 0)
        read(machine)
        answer(machine)
    for _ in range(8):
        machine.receive(b"\r\n", 0)
        assert machine.next_event(0) is None
    machine.receive(b"\r\n", 0)
    with pytest.raises(RequestError):
        machine.next_event(0)


def test_what_is_wrong_is_said_before_the_head_is_whole() -> None:
    for begun, kind in (
        (b"\x16\x03", Kind.MALFORMED),
        (b"\r\n\x00", Kind.MALFORMED),
        (b"\rG", Kind.MALFORMED),
        (b"A" * 31 + b"(", Kind.MALFORMED),
        (b"A" * 32 + b"(", Kind.MALFORMED),
        (b"A" * 33 + b"(", Kind.UNSUPPORTED),
        (b"GET / HTTP/1.1\n", Kind.MALFORMED),
        (b"GET / HTTP/2.0\r\n", Kind.VERSION),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n", Kind.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n", Kind.MALFORMED),
        (b"GET /" + b"a" * 1000, Kind.TARGET_TOO_LONG),
        (b"A" * 33, Kind.UNSUPPORTED),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 21, Kind.HEAD_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 5000, Kind.HEAD_TOO_LARGE),
    ):
        assert refused(begun).kind is kind, begun


@pytest.mark.parametrize(
    "begun",
    [
        b"A" * 32,
        b"A" * 32 + b" /",
        b"GET /" + b"a" * 999,
        b"GET /" + b"a" * 999 + b" H",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20,
        b"GET / HTTP/1.1\r\nA: " + b"b" * (4096 - 19),
    ],
    ids=["method", "method and path", "target", "target and more", "request line", "headers", "bytes"],
)
def test_what_can_still_become_a_head_is_waited_for(begun: bytes) -> None:
    machine = new()
    machine.receive(begun, 0)
    assert machine.next_event(0) is None
    assert machine.state is State.HEAD


LONG: Final = "This is not a path: '" + "/" + "%" * 49 + "'. Write characters that do not belong there as %XX."


@pytest.mark.parametrize(
    ("sent", "kind", "message"),
    [
        (b"\r\n" * 9, Kind.MALFORMED, "A request was expected, got more than 8 empty lines."),
        (
            b"\x00",
            Kind.MALFORMED,
            "This is not HTTP: a request line was expected, such as 'GET / HTTP/1.1'.",
        ),
        (b"A" * 33 + GET, Kind.UNSUPPORTED, "There is no method of more than 32 letters."),
        (b"GET /" + b"a" * 1000, Kind.TARGET_TOO_LONG, "The path and query are longer than 1000 bytes."),
        (
            head("GET / HTTP/1.1 "),
            Kind.MALFORMED,
            "A request line was expected, such as 'GET / HTTP/1.1', got 'GET / HTTP/1.1 '.",
        ),
        (head("GET / HTTP/2.0"), Kind.VERSION, "HTTP/1.1 was expected, got HTTP/2.0."),
        (head("GET / HTTP/1.1", "hOST: x"), Kind.MALFORMED, "The header host was expected once, came twice."),
        (head("GET / HTTP/1.1", *["A: b"] * 20), Kind.HEAD_TOO_LARGE, "There are more than 20 headers."),
        (head("GET / HTTP/1.1", "A: " + "b" * 4096), Kind.HEAD_TOO_LARGE, "The headers are longer than 4096 bytes."),
        (
            head("GET / HTTP/1.1", " A: b"),
            Kind.MALFORMED,
            "A header was expected, got a line that begins with a space: put each header on one line.",
        ),
        (
            head("GET / HTTP/1.1", "\t"),
            Kind.MALFORMED,
            "A header was expected, got a line that begins with a space: put each header on one line.",
        ),
        (
            head("GET / HTTP/1.1", "a header: X"),
            Kind.MALFORMED,
            "A header was expected, such as 'Host: name', got 'a header: X'.",
        ),
        (head("CONNECT x:80 HTTP/1.1"), Kind.UNSUPPORTED, "This server is no proxy: it takes no CONNECT."),
        (head("GET x HTTP/1.1"), Kind.MALFORMED, "A path was expected, such as /v2, got 'x'."),
        (head("GET /" + "%" * 200 + " HTTP/1.1"), Kind.MALFORMED, LONG),
        (b"GET / HTTP/1.1\r\n\r\n", Kind.MALFORMED, "A Host header was expected."),
        (b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", Kind.MALFORMED, "This is not a host: 'é'."),
        (
            head("POST / HTTP/1.0", "Transfer-Encoding: chunked"),
            Kind.MALFORMED,
            "Transfer-Encoding is not for HTTP/1.0: send Content-Length.",
        ),
        (
            head("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 1"),
            Kind.MALFORMED,
            "Content-Length or Transfer-Encoding was expected, got both.",
        ),
        (
            head("POST / HTTP/1.1", "Transfer-Encoding: chunked, GZIP"),
            Kind.MALFORMED,
            "Transfer-Encoding takes 'chunked', got 'chunked, gzip': nobody knows where the body ends.",
        ),
        (
            head("POST / HTTP/1.1", "Transfer-Encoding: chunked, chunked"),
            Kind.MALFORMED,
            "Transfer-Encoding takes 'chunked', got 'chunked, chunked': nobody knows where the body ends.",
        ),
        (
            head("POST / HTTP/1.1", "Transfer-Encoding: gzip,\tchunked"),
            Kind.UNSUPPORTED,
            r"Transfer-Encoding takes 'chunked', got 'gzip,\tchunked'.",
        ),
        (
            head("POST / HTTP/1.1", "Content-Length: two"),
            Kind.MALFORMED,
            "Content-Length takes a whole number, got 'two'.",
        ),
        (
            head("POST / HTTP/1.1", "Content-Length: 1000001"),
            Kind.TOO_LARGE,
            "The body is longer than 1000000 bytes. Send fewer images, or a smaller picture.",
        ),
        (
            CHUNKED + b"1\r\nabc",
            Kind.MALFORMED,
            "A chunk is longer than its size says, or does not end with CRLF.",
        ),
        (CHUNKED + b"size\r\n", Kind.MALFORMED, "This is not a chunk's size: 'size'."),
        (CHUNKED + b"0" * 256, Kind.MALFORMED, "The line of a chunk's size is longer than 256 bytes."),
        (
            CHUNKED + (b"1;" + b"a" * 200 + b"\r\na\r\n") * 21,
            Kind.MALFORMED,
            "The extensions of chunks are longer than 4096 bytes.",
        ),
        (
            CHUNKED + b"f4241\r\n",
            Kind.TOO_LARGE,
            "The body is longer than 1000000 bytes. Send fewer images, or a smaller picture.",
        ),
        (CHUNKED + b"0\r\n" + b"A: b\r\n" * 21, Kind.HEAD_TOO_LARGE, "There are more than 20 trailers."),
        (
            CHUNKED + b"0\r\nA: " + b"b" * 4096,
            Kind.HEAD_TOO_LARGE,
            "The trailers are longer than 4096 bytes.",
        ),
        (CHUNKED + b"0\r\nno\r\n", Kind.MALFORMED, "A header was expected, such as 'Host: name', got 'no'."),
    ],
    ids=lambda value: value.partition("'")[0][:40] if isinstance(value, str) else "",
)
def test_a_refusal_says_what_was_expected_and_what_came(sent: bytes, kind: Kind, message: str) -> None:
    error = refused(sent)
    assert (error.kind, str(error)) == (kind, message)


def test_too_many_chunks_are_refused_with_advice() -> None:
    error = refused(CHUNKED + b"1\r\na\r\n" * 4, replace(LIMITS, chunks=3))
    assert (error.kind, str(error)) == (Kind.TOO_LARGE, "The body has more than 3 chunks. Send larger ones.")


def test_more_than_may_wait_pauses_the_port() -> None:
    machine = new()
    machine.receive(GET, 0)
    read(machine)
    machine.receive(POST * 10_000, 0)
    assert machine.paused
    answer(machine)
    assert not machine.paused  # the next request is read from it
    while isinstance(machine.next_event(0), Head):
        machine.accept(0)
        assert machine.next_event(0) == Body(b"hello")
        answer(machine)
    assert not machine.paused
    assert machine.state is State.IDLE
    machine.receive(POST + bytes(PAUSE_BYTES), 0)
    assert isinstance(machine.next_event(0), Head)
    assert machine.paused


def test_the_limits_are_those_of_the_settings() -> None:
    settings = replace(
        read_settings({}),
        max_head_bytes=1,
        max_target_bytes=2,
        max_headers=3,
        max_body_bytes=4,
        head_seconds=5,
        body_seconds=6,
        min_body_bytes_per_second=7,
        idle_seconds=8,
    )
    found = limits_of(settings)
    assert (found.head_bytes, found.target_bytes, found.headers, found.body_bytes) == (1, 2, 3, 4)
    assert (found.head_seconds, found.body_seconds, found.body_bytes_per_second, found.idle_seconds) == (5, 6, 7, 8)


# Heads


def test_a_head_says_what_came() -> None:
    event = begin(
        new(), head("PUT /a%20b/%C3%BC?q=%20 HTTP/1.1", "ACCEPT:\t a ", "accept: b", "X-Y:", "Connection: Keep-Alive")
    )
    assert event.method == "PUT"
    assert event.target == b"/a%20b/%C3%BC?q=%20"
    assert (event.path, event.query) == ("/a b/ü", "q=%20")
    assert event.headers == {b"host": b"x", b"accept": b"a, b", b"x-y": b"", b"connection": b"Keep-Alive"}
    assert (event.http_1_0, event.length, event.keeps, event.expects_continue) == (False, 0, True, False)


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        ("GET http://y/a?b HTTP/1.1", "/a", "b"),
        ("GET http://y HTTP/1.1", "/", ""),
        ("GET http://y?b HTTP/1.1", "/", "b"),
        ("OPTIONS * HTTP/1.1", "*", ""),
        ("GET /a?b?c HTTP/1.1", "/a", "b?c"),
        ("GET //a HTTP/1.1", "//a", ""),
        ("GET /%2e%2E/ HTTP/1.1", "/../", ""),
    ],
)
def test_a_target_has_a_path_and_a_query(line: str, path: str, query: str) -> None:
    event = begin(new(), head(line))
    assert (event.path, event.query) == (path, query)


def test_a_repeated_head_is_parsed_once() -> None:
    first, second, third = new(), new(), new()
    event = begin(first, POST)
    assert begin(second, POST[:-5]) is event
    first.accept(0)
    assert first.next_event(0) == Body(b"hello")
    answer(first)
    assert begin(first, POST[:-5] + b"again") is event
    first.accept(0)
    assert first.next_event(0) == Body(b"again")
    answer(first)
    assert begin(first, GET).path == "/a"
    long = head("GET / HTTP/1.1", "A: " + "b" * CACHED_HEAD_BYTES)
    assert begin(third, long) is not begin(new(), long)


def test_a_short_head_behind_a_long_one_is_itself() -> None:
    machine = new()
    long = head("GET /long HTTP/1.1", "A: " + "b" * CACHED_HEAD_BYTES)
    for sent, path in ((GET, "/a"), (long, "/long"), (GET, "/a"), (long, "/long"), (long, "/long")):
        assert begin(machine, sent).path == path
        answer(machine)


def test_a_head_is_read_by_the_limits_of_its_connection() -> None:
    begin(new(), GET)
    assert refused(GET, replace(LIMITS, target_bytes=1)).kind is Kind.TARGET_TOO_LONG


# Memory


def test_a_body_in_tiny_chunks_costs_about_its_own_bytes() -> None:
    bytes_ = 200_000
    sent = b"2\r\nab\r\n" * (bytes_ // 2)
    machine = new()
    begin(machine, CHUNKED)
    machine.accept(0)
    pieces = [sent[start : start + 16384] for start in range(0, len(sent), 16384)]
    tracemalloc.start()
    try:
        for piece in pieces:
            machine.receive(piece, 0)
            assert machine.next_event(0) is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes_ <= held < 1.25 * bytes_ + 16384


def test_a_body_byte_by_byte_costs_about_its_own_bytes() -> None:
    machine = new()
    begin(machine, head("POST / HTTP/1.1", "Content-Length: 50001"))
    machine.accept(0)
    tracemalloc.start()
    try:
        for number in range(50_000):
            machine.receive(bytes([number % 256]), 0)
            assert machine.next_event(0) is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.25 * 50_000 + 4096


def held(machine: Machine) -> int:
    """Bytes of what a machine holds, and of what is in its lists."""
    things = gc.get_referents(machine)
    things += [item for thing in things if isinstance(thing, list) for item in thing]
    return sum(map(sys.getsizeof, things))


def test_a_body_that_was_given_out_is_not_kept() -> None:
    for sent in (
        CHUNKED + b"186a0\r\n" + bytes(100_000) + b"\r\n0\r\n\r\n",
        head("PUT / HTTP/1.1", "Content-Length: 100000") + bytes(100_000),
    ):
        for cut in (len(sent), 50_000):
            machine = new()
            begin(machine, sent[:cut])
            machine.accept(0)
            if cut < len(sent):
                assert machine.next_event(0) is None
                machine.receive(sent[cut:], 0)
            event = machine.next_event(0)
            assert event == Body(bytes(100_000))
            assert held(machine) < 20_000


def test_a_whole_piece_that_was_answered_is_not_kept() -> None:
    machine = new()
    machine.receive(GET * 1000, 0)
    while isinstance(machine.next_event(0), Head):
        answer(machine)
    assert machine.state is State.IDLE
    assert held(machine) < 5000


@pytest.mark.parametrize("sent", [b"", GET[:-1], POST[:-1], POST, GET * 3, CHUNKED + b"2\r\nh", b"x"])
def test_nothing_of_a_machine_stays_behind(sent: bytes) -> None:
    gc.disable()
    try:
        machine = new()
        machine.receive(sent, 0)
        with contextlib.suppress(RequestError):
            if isinstance(machine.next_event(0), Head):
                machine.accept(0)
                machine.next_event(0)
        gone = weakref.ref(machine)
        del machine
        assert gone() is None
    finally:
        gc.enable()


# States


OPERATIONS: Final[dict[str, Callable[[Machine], object]]] = {
    "accept": lambda machine: machine.accept(0),
    "answer": answer,
    "refuse": lambda machine: machine.refuse(malformed("No."), 0, date=DATE),
}
ALLOWED: Final = {
    State.IDLE: {"refuse"},
    State.HEAD: {"refuse"},
    State.HEAD_READ: {"accept", "answer", "refuse"},
    State.BODY: {"answer", "refuse"},
    State.ANSWERING: {"answer", "refuse"},
    State.DISCARDING: set[str](),
    State.LINGERING: set[str](),
    State.CLOSED: set[str](),
}


def machine_in(state: State) -> Machine:
    machine = new()
    match state:
        case State.HEAD:
            machine.receive(b"G", 0)
        case State.HEAD_READ:
            begin(machine, POST)
        case State.BODY:
            begin(machine, POST[:-1])
            machine.accept(0)
        case State.ANSWERING:
            machine.receive(POST, 0)
            read(machine)
        case State.DISCARDING:
            begin(machine, POST[:-1])
            answer(machine)
        case State.LINGERING:
            machine.refuse(malformed("No."), 0, date=DATE)
        case State.CLOSED:
            machine.receive_end(0)
    assert machine.state is state
    return machine


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_what_the_table_allows_can_be_done(state: State, operation: str) -> None:
    machine = machine_in(state)
    if operation in ALLOWED[state]:
        OPERATIONS[operation](machine)
        assert machine.state in TABLE[state].values()
    else:
        with pytest.raises(LocalError):
            OPERATIONS[operation](machine)
        assert machine.state is state


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(LocalError) as caught:
        machine_in(State.IDLE).accept(0)
    assert str(caught.value) == "In this state it cannot be that the body is wanted."


@pytest.mark.parametrize("state", State)
def test_nothing_is_closed_at_once_but_what_is_closed(state: State) -> None:
    assert machine_in(state).closes(0) is (state is State.CLOSED)


@pytest.mark.parametrize("state", State)
def test_a_request_is_under_way_from_its_head_to_its_answer(state: State) -> None:
    assert machine_in(state).under_way == (state in (State.HEAD_READ, State.BODY, State.ANSWERING))


@pytest.mark.parametrize("state", State)
def test_every_state_leads_to_the_end(state: State) -> None:
    reached, frontier = {state}, [state]
    while frontier:
        for follower in TABLE[frontier.pop()].values():
            if follower not in reached:
                reached.add(follower)
                frontier.append(follower)
    assert State.CLOSED in reached


@pytest.mark.parametrize("state", State)
def test_nothing_comes_of_no_bytes(state: State) -> None:
    machine = machine_in(state)
    machine.receive(b"", 0)
    assert machine.state is state


@pytest.mark.parametrize("state", [State.HEAD_READ, State.ANSWERING, State.LINGERING, State.CLOSED, State.IDLE])
def test_no_event_is_given_where_none_is_due(state: State) -> None:
    machine = machine_in(state)
    assert machine.next_event(0) is None
    assert machine.state is state


def test_a_refused_head_request_gets_no_body() -> None:
    machine = new()
    begin(machine, head("HEAD / HTTP/1.1", "Content-Length: 5"))
    machine.accept(0)
    said = machine.refuse(malformed("No."), 0, date=DATE)
    assert said.endswith(b"content-length: 15\r\n\r\n")


def test_who_asked_with_head_before_is_told_what_is_wrong() -> None:
    machine = new()
    begin(machine, head("HEAD / HTTP/1.1"))
    answer(machine)
    machine.receive(b"\x00", 0)
    with pytest.raises(RequestError) as caught:
        machine.next_event(0)
    assert machine.refuse(caught.value, 0, date=DATE).endswith(b"such as 'GET / HTTP/1.1'.\"}")


# At the limits themselves


def taken(sent: bytes, limits: Http1Limits = LIMITS) -> tuple[Head, bytes | None]:
    machine = new(limits)
    machine.receive(sent, 0)
    return read(machine)


def test_what_is_as_large_as_its_limit_is_taken() -> None:
    target = "/" + "a" * (LIMITS.target_bytes - 1)
    assert taken(head(f"GET {target} HTTP/1.1"))[0].path == target
    assert taken(head("M" * 32 + " / HTTP/1.1"))[0].method == "M" * 32
    few = replace(LIMITS, body_bytes=5)
    assert taken(POST, few)[1] == b"hello"
    assert taken(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", few)[1] == b"hello"
    short = replace(LIMITS, head_bytes=100)
    extension = b";" + b"e" * 99
    assert taken(CHUNKED + b"5" + extension + b"\r\nhello\r\n0\r\n\r\n", short)[1] == b"hello"
    assert taken(b"GET / HTTP/1.1\r\nHost: x:65535\r\n\r\n")[0].headers[b"host"] == b"x:65535"


def test_what_is_larger_than_its_limit_by_one_is_refused() -> None:
    assert refused(head(f"GET /{'a' * LIMITS.target_bytes} HTTP/1.1")).kind is Kind.TARGET_TOO_LONG
    assert refused(head("M" * 33 + " / HTTP/1.1")).kind is Kind.UNSUPPORTED
    few = replace(LIMITS, body_bytes=4)
    assert refused(POST, few).kind is Kind.TOO_LARGE
    assert refused(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", few).kind is Kind.TOO_LARGE
    short = replace(LIMITS, head_bytes=100)
    extension = b";" + b"e" * 100
    assert "extensions of chunks" in str(refused(CHUNKED + b"5" + extension + b"\r\nhello\r\n0\r\n\r\n", short))
    assert refused(b"GET / HTTP/1.1\r\nHost: x:65536\r\n\r\n").kind is Kind.MALFORMED


def test_the_space_that_may_surround_a_value_is_that_and_no_other() -> None:
    said = taken(b"GET / HTTP/1.1\r\nHost: x\r\nX-One: \t v \t\r\nX-Two: X v X\r\nX-Three: \xa0v\x85\r\n\r\n")[
        0
    ].headers
    assert (said[b"x-one"], said[b"x-two"], said[b"x-three"]) == (b"v", b"X v X", b"\xa0v\x85")


@pytest.mark.parametrize("length", ["0005", "5", "0" * 30 + "5"])
def test_a_length_may_have_zeros_before_it(length: str) -> None:
    assert taken(head("POST /b HTTP/1.1", f"Content-Length: {length}") + b"hello")[1] == b"hello"
