"""HTTP/2 clause by clause: the machine alone. What is wrong with one request ends that alone; what is wrong with the frames,
the connection."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from conformance2 import BODY_BYTES, CASES, Case
from frames import Client, get, ping

from serving.messages import Answer, refusal
from serving.ports.http2 import Body, Code, Machine, Refused, Request, Reset, State, Stream, limits_of
from serving.settings import read_settings

LIMITS: Final = limits_of(read_settings({"SAMEDIGIT_MAX_BODY_BYTES": str(BODY_BYTES)}))
LAST: Final = 2**31 - 1  # a stream that comes behind any other
NAMES: Final = [f"{case.clause} {case.name}".replace("\\", "|") for case in CASES]


class Found(NamedTuple):
    """What a machine made of the bytes of one connection, and what its client saw of that."""

    paths: dict[int, str]  # by stream
    bodies: dict[int, bytes]
    gone: list[int]  # streams that were given out, and then reset
    client: Client
    machine: Machine


def run(sent: bytes, *, bytes_at_once: int = 1 << 20, body: bytes = b"an answer") -> Found:
    """Answers each request as soon as it is whole, but those for /later never."""
    machine = Machine(LIMITS, 0)
    found = Found({}, {}, [], Client(), machine)

    def write(stream: Stream, answer: Answer) -> None:
        machine.answer(stream, answer, 0, date=b"date: now\r\n", extra=b"x-extra: y\r\n")

    for start in range(0, len(sent), bytes_at_once):
        machine.receive(sent[start : start + bytes_at_once], 0)
        while event := machine.next_event(0):
            stream = event.stream
            match event:
                case Request():
                    found.paths[stream.number] = stream.head.path
                    machine.accept(stream)
                case Body(data=data):
                    found.bodies[stream.number] = data
                    if stream.head.path != "/later":
                        write(stream, Answer(200, body))
                case Refused(error=error):
                    write(stream, refusal(error))
                case Reset():
                    found.gone.append(stream.number)
        found.client.read(machine.take())
    return found


def test_there_are_enough_cases_and_no_two_are_the_same() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.start, case.sent) for case in CASES}) > 0.98 * len(CASES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("bytes_at_once", [1 << 20, 7], ids=["whole", "in pieces"])
def test_the_machine_follows_the_clause(case: Case, bytes_at_once: int) -> None:
    behind = get(LAST) if case.name != "a stream number far ahead" else b""
    found = run(case.start + case.sent + ping(b"the end.") + behind, bytes_at_once=bytes_at_once)
    client = found.client
    first = client.streams.get(1)
    if case.ends is None:
        assert client.goaways == [], found.machine.error
        assert found.machine.state is State.OPEN
        assert client.pongs[-1] == b"the end."
        assert client.streams[LAST].status == 200  # header blocks can still be read
        if case.reset is None and case.status is None:
            assert first is None
    else:
        assert [code for _, code in client.goaways] == [case.ends], found.machine.error
        assert found.machine.state is State.LINGERING
        assert found.machine.streams == {}
        assert b"the end." not in client.pongs
        assert LAST not in client.streams
        assert 0 < len(found.machine.error) < 300
    if case.reset is not None:
        assert first is not None
        assert (first.status, first.reset) == (0, case.reset)
        assert 1 not in found.bodies or found.gone == [1]
    if case.status is not None:
        assert first is not None
        assert first.status == case.status
        assert first.ended
        assert first.reset in (None, Code.NO_ERROR)
        assert first.headers[b"content-length"] == b"%d" % len(first.body)
        assert not {b"connection", b"transfer-encoding", b"keep-alive"} & set(first.headers)
        assert first.headers[b"x-extra"] == b"y"
    if case.status == 200:
        assert found.bodies[1] == case.body
        assert first is not None
        assert first.body == b"an answer"
    else:
        assert 1 not in found.bodies or found.gone == [1] or case.ends is not None or case.status is None
