"""What holds of the HTTP/2 machine for all bytes.

Cut anyhow they mean the same, and `h2` has the same verdict on any frames, but for differences that are written down.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Final, NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest
from conformance2 import CASES, SOME_PRIORITY, Case
from frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    Client,
    block,
    data,
    frame,
    frames,
    goaway,
    indexed,
    initial_window,
    padded,
    ping,
    request,
    rst_stream,
    settings,
    window_update,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from serving.messages import Answer, refusal
from serving.ports.http2 import Body, Code, Frame, Machine, Refused, Request, Setting, limits_of
from serving.settings import Settings

quick = examples(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITS: Final = replace(limits_of(Settings()), streams=100, resets=10_000, control_frames=10_000, continuations=1000)
START: Final = PREFACE + settings()

# Frames, right and nearly so, on few streams

NUMBERS: Final = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 0, 2])
FLAGS: Final = st.sampled_from(
    [END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM, END_HEADERS | END_STREAM, 0, END_STREAM]
)
FURTHER: Final = st.sampled_from(
    [(b"a", b"b"), (b"te", b"trailers"), (b"cookie", b"a=b"), (b"accept", b"*/*"), (b"content-length", b"3")]
)
ODD: Final = st.sampled_from(
    [
        (b"A", b"b"),
        (b"connection", b"close"),
        (b":path", b"/y"),
        (b"a", b" b"),
        (b"te", b"gzip"),
        (b"content-length", b"9"),
    ]
)
RIGHT: Final = st.builds(
    lambda method, further: request(method, "/x", *further),
    st.sampled_from(["GET", "POST"]),
    st.lists(FURTHER, max_size=3, unique_by=lambda field: field[0]),
)
WRONG: Final = st.builds(lambda fields, odd: [*fields, odd], RIGHT, ODD)
BLOCKS: Final = st.one_of(
    RIGHT.map(lambda fields: block(*fields)),
    RIGHT.map(lambda fields: b"".join(indexed(*field) for field in fields)),
    WRONG.map(lambda fields: block(*fields)),
    st.just(b"\x82\x86\x84\xbe"),
    st.just(block((b"trailer", b"x"))),
    st.binary(max_size=5),
)
PAYLOADS: Final = st.sampled_from([b"", b"abc", b"ab", bytes(500)])
FRAMES: Final = st.one_of(
    st.builds(lambda number, flags, written: frame(Frame.HEADERS, flags, number, written), NUMBERS, FLAGS, BLOCKS),
    st.builds(
        lambda number, written: frame(
            Frame.HEADERS, END_HEADERS | PADDED | PRIORITY, number, padded(SOME_PRIORITY + written)
        ),
        NUMBERS,
        BLOCKS,
    ),
    st.builds(lambda number, payload, end: data(number, payload, end=end), NUMBERS, PAYLOADS, st.booleans()),
    st.builds(lambda number, payload: data(number, payload, end=True), NUMBERS, PAYLOADS),
    st.builds(lambda number, payload: frame(Frame.DATA, PADDED, number, padded(payload)), NUMBERS, PAYLOADS),
    st.builds(lambda number, written: frame(Frame.CONTINUATION, END_HEADERS, number, written), NUMBERS, BLOCKS),
    st.builds(window_update, NUMBERS, st.sampled_from([1, 5, 0, 2**31 - 1, 2**30])),
    st.builds(rst_stream, NUMBERS),
    st.builds(lambda number: frame(Frame.PRIORITY, 0, number, SOME_PRIORITY), NUMBERS),
    st.builds(lambda size: settings(initial_window(size)), st.sampled_from([0, 1, 10, 65_535, 2**31 - 1, 2**31])),
    st.builds(lambda size: settings((Setting.MAX_FRAME_SIZE, size)), st.sampled_from([16_384, 16_383, 100_000])),
    st.sampled_from(
        [settings(), frame(Frame.SETTINGS, ACK), ping(), ping(flags=ACK), goaway(), frame(0xFA, 1, 3, b"?")]
    ),
    st.builds(
        lambda kind, flags, number, payload: frame(kind, flags, number, payload),
        st.integers(0, 10),
        st.integers(0, 255),
        NUMBERS,
        st.binary(max_size=9),
    ),
)
SEQUENCES: Final = st.lists(FRAMES, min_size=1, max_size=12)


# Cut anyhow


def written(pieces: list[bytes]) -> tuple[list[str], bytes, Any]:
    """What a machine finds in what comes in these pieces, and all that it writes; each request is answered when it is whole."""
    machine = Machine(LIMITS, 0)
    events: list[str] = []
    out = b""
    for piece in pieces:
        machine.receive(piece, 0)
        while event := machine.next_event(0):
            stream = event.stream
            events.append(f"{type(event).__name__} {stream.number} {stream.received}")
            if isinstance(event, Request):
                events.append(repr(stream.head))
                machine.accept(stream)
            elif isinstance(event, Body):
                events.append(repr(event.data))
                machine.answer(stream, Answer(200, event.data), 0, date=b"")
            elif isinstance(event, Refused):
                machine.answer(stream, refusal(event.error), 0, date=b"")
        out += machine.take()
    return events, out, machine.state


def cut(sent: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(sent) + 1) for place in cuts}), len(sent)]
    return [sent[start:end] for start, end in itertools.pairwise(places) if start < end]


@quick
@given(SEQUENCES, st.lists(st.integers(0, 3000), max_size=20))
def test_cut_anyhow_the_same_bytes_mean_the_same(sequence: list[bytes], cuts: list[int]) -> None:
    sent = START + b"".join(sequence)
    assert written(cut(sent, cuts)) == written([sent])


@quick
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=9))
def test_any_bytes_at_all_are_read_or_refused(sent: bytes, cuts: list[int]) -> None:
    assert written(cut(START + sent, cuts)) == written([START + sent])
    written([sent])


@quick
@given(SEQUENCES)
def test_what_is_written_may_come_when_it_comes(sequence: list[bytes]) -> None:
    """The client of the tests holds a server to what it may send, and when."""
    Client().read(written([START + b"".join(sequence)])[1])


# The oracle


class Verdict(NamedTuple):
    """On one more frame."""

    ends: int | None  # the connection, with this code
    resets: dict[int, int]  # streams, with theirs
    given: list[tuple[int, bytes]]  # requests that are whole, and their bodies


RIGHT_VERDICT: Final = Verdict(None, {}, [])


class Ours:
    def __init__(self) -> None:
        self.refused: set[int] = (
            set()
        )  # streams answered with what is wrong with their URL or their length, which h2 lets pass
        self.machine = Machine(LIMITS, 0)

    def judge(self, sent: bytes) -> Verdict:
        given: list[tuple[int, bytes]] = []
        self.machine.receive(sent, 0)
        while event := self.machine.next_event(0):
            stream = event.stream
            if isinstance(event, Request):
                self.machine.accept(stream)
            elif isinstance(event, Body):
                given.append((stream.number, event.data))
                self.machine.answer(stream, Answer(200, b""), 0, date=b"")
            elif isinstance(event, Refused):
                self.refused.add(stream.number)
                self.machine.answer(stream, refusal(event.error), 0, date=b"")
        resets, ends = {}, None
        for one in frames(self.machine.take()):
            if one.kind == Frame.RST_STREAM:
                resets[one.number] = int.from_bytes(one.payload, "big")
            elif one.kind == Frame.GOAWAY:
                ends = int.from_bytes(one.payload[4:8], "big")
        return Verdict(ends, resets, given)


class Theirs:
    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LIMITS.window})
        self.connection.increment_flow_control_window(LIMITS.connection_window - 65_535)
        self.connection.data_to_send()
        self.bodies: dict[int, bytes] = {}

    def judge(self, sent: bytes) -> Verdict:
        given: list[tuple[int, bytes]] = []
        resets: dict[int, int] = {}
        try:
            for event in self.connection.receive_data(sent):
                match event:
                    case h2.events.DataReceived():
                        self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    case h2.events.StreamEnded():
                        given.append((event.stream_id, self.bodies.pop(event.stream_id, b"")))
                        self.connection.send_headers(event.stream_id, [(b":status", b"200")], end_stream=True)
                    case h2.events.StreamReset(remote_reset=False):
                        resets[event.stream_id] = int(event.error_code)
        except h2.exceptions.ProtocolError as error:
            return Verdict(int(error.error_code), {}, given)
        for one in frames(self.connection.data_to_send()):
            if one.kind == Frame.RST_STREAM:
                resets[one.number] = int.from_bytes(one.payload, "big")
        return Verdict(None, resets, given)


# Where they may differ. The first three: h2 ends the connection where RFC 9113 asks for no more than the stream's end.
def may_differ(kind: int, flags: int, ours: Verdict, theirs: Verdict) -> bool:
    """Whether two verdicts on a frame that at least one of the two finds wrong are among the differences that are known."""
    if ours.resets and theirs.ends is not None:
        # A malformed request (8.1.1), a body that is not as long as it says, a window that grows by 0 or too far.
        return kind in (Frame.HEADERS, Frame.CONTINUATION, Frame.DATA, Frame.WINDOW_UPDATE, Frame.PRIORITY)
    if ours.ends == Code.STREAM_CLOSED and theirs.resets:
        return kind == Frame.DATA  # on a closed stream: 5.1 lets either be done
    if ours.ends is not None and theirs.ends is not None:
        # h2 calls a block that cannot be read PROTOCOL_ERROR; and of two mistakes in one frame each may be told.
        return True
    if ours == Verdict(None, ours.resets, []) and theirs.ends is None and not theirs.resets:
        # h2 takes a request whose HEADERS end it although it has a content-length.
        return kind in (Frame.HEADERS, Frame.CONTINUATION) and list(ours.resets.values()) == [Code.PROTOCOL_ERROR]
    if ours.ends == Code.PROTOCOL_ERROR and theirs == RIGHT_VERDICT:
        # RST_STREAM on an idle stream (6.4) it passes over; of what is to be continued it waits for the rest first.
        return kind == Frame.RST_STREAM or (kind in (Frame.HEADERS, Frame.PUSH_PROMISE) and not flags & END_HEADERS)
    if ours == RIGHT_VERDICT and theirs.ends is not None:
        # A content-length that is none, which is answered with 400; a reserved bit, which is to be passed over (6.9).
        return kind in (Frame.HEADERS, Frame.CONTINUATION, Frame.WINDOW_UPDATE)
    return False


@examples(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEQUENCES)
def test_h2_has_the_same_verdict_on_any_frames(sequence: list[bytes]) -> None:
    judge(sequence)


def judge(sequence: list[bytes]) -> None:
    """Until the first frame that is wrong: what follows it, h2 no longer reads."""
    ours, theirs = Ours(), Theirs()
    assert ours.judge(START) == theirs.judge(START) == RIGHT_VERDICT
    for sent in sequence:
        (one,) = frames(sent)
        if one.kind in (Frame.GOAWAY, 10):
            continue  # with GOAWAY h2 closes at once. It knows frames of type 10, which come from an extension
        verdict, expected = ours.judge(sent), theirs.judge(sent)
        if verdict.ends is None and expected.ends is None and not verdict.resets and not expected.resets:
            assert verdict.given == [one for one in expected.given if one[0] not in ours.refused]
            continue
        assert verdict == expected or may_differ(one.kind, one.flags, verdict, expected), ours.machine.error
        return


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.start == START and "too long" not in case.name and "above" not in case.name],
    ids=lambda case: case.name.replace("\\", "|"),
)
def test_h2_has_the_same_verdict_on_the_cases(case: Case) -> None:
    judge([frame(one.kind, one.flags, one.number, one.payload) for one in frames(case.sent)])
