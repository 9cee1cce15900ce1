"""HTTP/2 clause by clause: the machine alone. What is wrong with one request ends that alone; what is wrong with the frames,
the connection."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson
import pytest
from conformance2 import BODY_BYTES, CASES, START, Case
from frames import Client, get, headers, ping, request

from serving.messages import Answer, refusal
from serving.ports.http2 import Body, Code, Frame, Machine, Refused, Request, Reset, State, Stream, limits_of
from serving.settings import read_settings

LIMITS: Final = limits_of(read_settings({"SAMEDIGIT_MAX_BODY_BYTES": str(BODY_BYTES)}))
LAST: Final = 2**31 - 1  # a stream that comes behind any other
NAMES: Final = [f"{case.clause} {case.name}".replace("\\", "|") for case in CASES]

TOLD: Final = {
    "A client opens streams with odd numbers.",
    "A client promises nothing.",
    "A frame is longer than 16384 bytes.",
    "A frame is shorter than its padding.",
    "A header block cannot be read. A string in it ends early.",
    "A header block cannot be read. A string in it is not of Huffman's code.",
    "A header block cannot be read. An integer in it is too large.",
    "A header block cannot be read. It ends early, or an index is beyond its tables.",
    "A header block cannot be read. Its index is 0.",
    "A header block cannot be read. The table may have 4096 bytes.",
    "A header block cannot be read. The table's size changes behind a field.",
    "A header block goes on with CONTINUATION, and nothing comes between.",
    "A header block is longer than 65536 bytes.",
    "A padded frame says how much of it is padding.",
    "A setting has 6 bytes.",
    "A stream's window became too large.",
    "A window grows by 1 at least.",
    "An acknowledgement of SETTINGS is empty.",
    "CONTINUATION goes on with nothing.",
    "DATA belong to a stream.",
    "DATA came on stream 1, which is closed.",
    "DATA came on stream 1, which is idle.",
    "DATA came on stream 2, which is idle.",
    "GOAWAY belongs to no stream.",
    "GOAWAY has at least 8 bytes.",
    "HEADERS are too short for their priority.",
    "HEADERS came on stream 1, which is closed.",
    "HEADERS came on stream 3, which is closed.",
    "PING belongs to no stream.",
    "PING has 8 bytes.",
    "PRIORITY belongs to a stream.",
    "PRIORITY has 5 bytes.",
    "RST_STREAM came on stream 0, which is idle.",
    "RST_STREAM came on stream 1, which is idle.",
    "RST_STREAM came on stream 2, which is idle.",
    "RST_STREAM has 4 bytes.",
    "SETTINGS belong to no stream.",
    "SETTINGS_ENABLE_PUSH takes 0 or 1.",
    "SETTINGS_INITIAL_WINDOW_SIZE takes up to 2147483647.",
    "SETTINGS_MAX_FRAME_SIZE takes 16384 to 16777215.",
    "The connection's window is too large.",
    "The first frame has to be SETTINGS.",
    "The preface of HTTP/2 was expected.",
    "WINDOW_UPDATE came on stream 1, which is idle.",
    "WINDOW_UPDATE came on stream 2, which is idle.",
    "WINDOW_UPDATE has 4 bytes.",
}


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
        assert first.headers[b"content-length"] == b"%d" % len(first.body) or case.name.endswith("for HEAD")
        assert bool(first.body) is not case.name.endswith("for HEAD")
        assert not {b"connection", b"transfer-encoding", b"keep-alive"} & set(first.headers)
        assert first.headers[b"x-extra"] == b"y"
    if case.status == 200:
        assert found.bodies[1] == case.body
        assert first is not None
        assert first.body == b"an answer"
    else:
        assert 1 not in found.bodies or found.gone == [1] or case.ends is not None or case.status is None


def test_what_is_wrong_with_a_connection_is_told_in_words() -> None:
    """In the last GOAWAY too, where a client's log may show them."""
    told = set()
    for case in CASES:
        if case.ends is not None:
            found = run(case.start + case.sent)
            told.add(found.machine.error)
            (goaway,) = [one for one in found.client.frames if one.kind == Frame.GOAWAY]
            assert goaway.payload[8:].decode() == found.machine.error
    assert told == TOLD


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (get(1, "x"), "A path was expected, such as /v2."),
        (headers(1, request(authority=None)), "An :authority was expected."),
        (headers(1, request(authority="a b")), "The :authority is not a host."),
        (headers(1, request("G,T")), "This is no method."),
        (headers(1, request("A" * 33)), "There is no method of more than 32 letters."),
        (get(1, "/" + "a" * 9000), "The path and query are longer than 8192 bytes."),
        (
            get(1, "/x", *((b"a%d" % i, b"") for i in range(101))),
            "The headers are longer than 65536 bytes, or more than 100.",
        ),
        (get(1, "/x", (b"host", b"x"), (b"host", b"x")), ""),
        (
            get(1, "/x", (b"content-type", b"a"), (b"content-type", b"a")),
            "The header content-type was expected once, came twice.",
        ),
        (get(1, "/x#"), "This is not a path: '/x#'. Write characters that do not belong there as %XX."),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_request_is_told_in_its_answer(sent: bytes, said: str) -> None:
    first = run(START + sent).client.streams[1]
    if said:
        assert orjson.loads(first.body) == {"error": said}
    else:
        assert first.reset == Code.PROTOCOL_ERROR
