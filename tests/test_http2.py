"""The HTTP/2 machine without sockets: windows both ways, what a client may do so often, time, and the end."""

from __future__ import annotations

import tracemalloc
from dataclasses import asdict, replace
from typing import Any, Final

import pytest
from frames import (
    ACK,
    END_HEADERS,
    PREFACE,
    Client,
    Field,
    Got,
    block,
    data,
    frame,
    get,
    goaway,
    headers,
    indexed,
    initial_window,
    ping,
    post,
    request,
    rst_stream,
    settings,
    window_update,
)

from serving.errors import Kind, RequestError
from serving.messages import Answer, refusal
from serving.ports.http1 import LocalError
from serving.ports.http2 import (
    Body,
    Code,
    Frame,
    Grown,
    Http2Limits,
    Machine,
    Piece,
    Refused,
    Request,
    Reset,
    Setting,
    State,
    Stream,
    limits_of,
)
from serving.ports.http2_heads import header_block
from serving.settings import Settings

LIMITS: Final = replace(limits_of(Settings()), resets=10, control_frames=50, streams=8)
TRAILERS: Final = header_block(None, ((b"grpc-status", b"0"),))
CALL: Final = header_block(200, ((b"content-type", b"application/grpc"),))


class Peer:
    """A machine, and a client that reads all that it writes. Requests are accepted, and answered where `answers` is set."""

    def __init__(
        self,
        limits: Http2Limits = LIMITS,
        *,
        start: bytes = PREFACE + settings(),
        answers: bytes | None = None,
        **accept: Any,
    ) -> None:
        self.now = 1000.0  # of a clock that began long ago
        self.answers = answers
        self.accept = accept
        self.machine = Machine(limits, self.now)
        self.client = Client()
        self.events: list[Any] = []
        self.streams: dict[int, Stream] = {}
        self.bodies: dict[int, bytes] = {}
        self.pieces: list[tuple[bytes, bool]] = []
        self.grown: list[int] = []  # by which body
        self.gone: list[int] = []
        self.refused: list[RequestError] = []
        self.send(start)

    def send(self, sent: bytes) -> Peer:
        self.machine.receive(sent, self.now)
        while event := self.machine.next_event(self.now):
            self.take(event)
        self.read()
        return self

    def take(self, event: Any) -> None:
        stream = event.stream
        if not isinstance(event, Request | Refused):
            assert stream is self.streams[stream.number]
        match event:
            case Request():
                self.streams[stream.number] = stream
                self.machine.accept(stream, **self.accept)
            case Body(data=body):
                self.bodies[stream.number] = body
                if self.answers is not None:
                    self.answer(stream.number, self.answers)
            case Piece(data=piece, last=last):
                self.pieces.append((piece, last))
            case Refused(error=error):
                self.refused.append(error)
                self.machine.answer(stream, refusal(error), self.now, date=b"")
            case Reset():
                self.gone.append(stream.number)
            case _:
                assert isinstance(event, Grown)
                self.grown.append(stream.number)

    def read(self) -> None:
        """Takes what is to be written, and sees that a port which asks at this moment whether anything is overdue can do so."""
        if not self.machine.closes(self.now):
            for event in self.machine.overdue(self.now):
                self.take(event)
        self.client.read(self.machine.take())

    def answer(self, number: int = 1, body: bytes = b"yes", *fields: Field, status: int = 200) -> Got:
        self.machine.answer(self.streams[number], Answer(status, body, fields), self.now, date=b"")
        self.read()
        return self.client.streams[number]

    def pass_time(self, seconds: float) -> None:
        """Second by second, as a port does."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for event in self.machine.overdue(self.now):
                self.take(event)
            self.read()

    def is_in(self, state: State) -> bool:
        return self.machine.state is state

    @property
    def body(self) -> bytes:
        """Of the first answer, as far as it came."""
        return self.client.streams[1].body if 1 in self.client.streams else b""

    @property
    def ended_with(self) -> Code | None:
        """Why the server ended the connection."""
        return Code(self.client.goaways[-1][1]) if self.client.goaways else None


# What the server says of itself


def test_the_server_says_first_what_it_allows() -> None:
    first, second = Peer().client.frames[:2]
    said = first.payload
    assert first.kind == Frame.SETTINGS
    pairs = {
        int.from_bytes(said[at : at + 2], "big"): int.from_bytes(said[at + 2 : at + 6], "big")
        for at in range(0, len(said), 6)
    }
    assert pairs == {
        Setting.MAX_CONCURRENT_STREAMS: 8,
        Setting.INITIAL_WINDOW_SIZE: 1_048_576,
        Setting.MAX_HEADER_LIST_SIZE: 65_536,
    }
    assert (second.kind, second.number) == (Frame.WINDOW_UPDATE, 0)
    assert int.from_bytes(second.payload, "big") == 16_777_216 - 65_535


def test_every_settings_is_acknowledged_once() -> None:
    peer = Peer().send(settings() + settings(initial_window(5)))
    acknowledged = [one for one in peer.client.frames if one.kind == Frame.SETTINGS and one.flags & ACK]
    assert len(acknowledged) == 3


def test_every_limit_is_the_setting_that_is_made_for_it() -> None:
    said = replace(
        Settings(),
        max_head_bytes=1001,
        max_target_bytes=1002,
        max_headers=1003,
        max_body_bytes=1004,
        head_seconds=1005,
        body_seconds=1006,
        min_body_bytes_per_second=1007,
        idle_seconds=1008,
        max_streams=1009,
        max_resets=1010,
        max_control_frames=1011,
    )
    expected = Http2Limits(
        head_bytes=1001,
        target_bytes=1002,
        headers=1003,
        body_bytes=1004,
        head_seconds=1005,
        body_seconds=1006,
        body_bytes_per_second=1007,
        idle_seconds=1008,
        streams=1009,
        resets=1010,
        control_frames=1011,
    )
    assert asdict(limits_of(said)) == asdict(expected)


# Answers


def test_an_answer_has_its_status_headers_length_and_body() -> None:
    peer = Peer().send(get())
    answer = Answer(404, b"nothing", ((b"Content-Type", b"text/plain"), (b"connection", b"close"), (b"allow", b"GET")))
    peer.machine.answer(peer.streams[1], answer, peer.now, date=b"date: today\r\n", extra=b"a: b\r\nc: d\r\n")
    peer.read()
    got = peer.client.streams[1]
    assert got == Got(
        404,
        {
            b"content-type": b"text/plain",
            b"allow": b"GET",
            b"date": b"today",
            b"a": b"b",
            b"c": b"d",
            b"content-length": b"7",
        },
        b"nothing",
        None,
        True,
        None,
    )
    assert peer.machine.streams == {}


@pytest.mark.parametrize("status", [200, 204, 206, 304, 400, 404, 418, 431, 500, 503])
def test_every_status_is_told(status: int) -> None:
    assert Peer().send(get()).answer(status=status).status == status


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_has_no_length(status: int) -> None:
    got = Peer().send(get()).answer(body=b"nothing", status=status)
    assert (got.body, got.headers, got.ended) == (b"", {}, True)


def test_the_answer_to_head_has_the_length_of_the_body_that_it_leaves_out() -> None:
    got = Peer().send(headers(1, request("HEAD"))).answer(body=b"12345")
    assert (got.body, got.headers, got.ended) == (b"", {b"content-length": b"5"}, True)


def test_an_empty_answer_ends_its_stream() -> None:
    got = Peer().send(get()).answer(body=b"")
    assert (got.body, got.headers, got.ended) == (b"", {b"content-length": b"0"}, True)


def test_a_long_answer_comes_in_frames_no_longer_than_the_client_takes() -> None:
    for most in (16_384, 20_000, 2**24 - 1):
        peer = Peer(start=PREFACE + settings((Setting.MAX_FRAME_SIZE, most), initial_window(10**6)))
        peer.send(window_update(0, 10**6) + get())
        body = bytes(range(256)) * 800
        assert peer.answer(body=body).body == body
        lengths = [len(one.payload) for one in peer.client.frames if one.kind == Frame.DATA]
        assert max(lengths) == min(most, 65_536)
        assert sum(lengths) == len(body)


def test_an_answer_that_fills_the_largest_frame_is_one_frame() -> None:
    peer = Peer(start=PREFACE + settings((Setting.MAX_FRAME_SIZE, 2**24 - 1), initial_window(10**6)))
    peer.send(window_update(0, 10**6) + get() + get(3))
    for number, size in ((1, 65_536), (3, 65_537)):
        assert peer.answer(number, bytes(size)).body == bytes(size)
    assert [len(one.payload) for one in peer.client.frames if one.kind == Frame.DATA] == [65_536, 65_536, 1]


@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("length", [16_300, 16_384, 16_385, 20_000, 40_000, 3 * 16_384])
def test_headers_too_long_for_a_frame_go_on_in_others(length: int, body: bytes) -> None:
    sent = header_block(200, ((b"a", b"x" * (length - 10)),))
    sent += header_block(None, ((b"b", b"y" * (length - len(sent) - 4)),)) if length > len(sent) + 4 else b""
    peer = Peer().send(post(1, b"call"))
    peer.machine.respond(peer.streams[1], sent, body, None, peer.now)
    peer.read()
    got = peer.client.streams[1]
    assert (got.status, got.body, got.ended, got.headers[b"a"]) == (200, body, True, b"x" * (length - 10))
    blocks = [one for one in peer.client.frames if one.kind in (Frame.HEADERS, Frame.CONTINUATION)]
    assert [len(one.payload) for one in blocks[:-1]] == [16_384] * (len(blocks) - 1)
    assert len(blocks) == -(-len(sent) // 16_384)


def test_many_small_answers_use_up_the_connections_window() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(10**6)), answers=bytes(10_000))
    peer.send(b"".join(get(number) for number in range(1, 16, 2)))
    assert sum(len(got.body) for got in peer.client.streams.values()) == 65_535
    peer.send(window_update(0, 14_465))
    assert all(got.ended for got in peer.client.streams.values())


def test_an_answer_with_trailers_has_them_behind_its_body() -> None:
    for body in (b"message", b""):
        peer = Peer().send(post(1, b"call"))
        peer.machine.respond(peer.streams[1], CALL, body, TRAILERS, peer.now)
        peer.read()
        got = peer.client.streams[1]
        assert (got.body, got.trailers, got.ended) == (body, {b"grpc-status": b"0"}, True)
        assert peer.machine.streams == {}


@pytest.mark.parametrize("name", [b"a b", b"", b"a:b", b"a\r\n"])
def test_a_header_that_is_none_is_the_servers_mistake(name: bytes) -> None:
    with pytest.raises(LocalError):
        Peer().send(get()).answer(1, b"", (name, b"x"))


@pytest.mark.parametrize("status", [100, 199, 1000])
def test_a_status_that_is_none_is_the_servers_mistake(status: int) -> None:
    with pytest.raises(LocalError):
        Peer().send(get()).answer(status=status)


def test_a_client_that_wants_no_table_is_told_once_that_it_has_none() -> None:
    peer = Peer(start=PREFACE + settings((Setting.HEADER_TABLE_SIZE, 0)), answers=b"yes").send(get() + get(3))
    first, second = [one.payload for one in peer.client.frames if one.kind == Frame.HEADERS]
    assert first == b"\x20" + second
    peer.send(settings((Setting.HEADER_TABLE_SIZE, 100)) + get(5))
    assert [one.payload for one in peer.client.frames if one.kind == Frame.HEADERS][2] == second


def test_that_there_is_no_table_is_told_by_whatever_comes_first() -> None:
    start = PREFACE + settings((Setting.HEADER_TABLE_SIZE, 0))
    waits = headers(1, request("POST", "/x", (b"expect", b"100-continue")), end=False)
    for first, begins in ((waits, b"\x20\x08\x03100"), (get(1), b"\x20" + CALL)):
        peer = Peer(start=start).send(first)
        for number in (1, 3):
            peer.send(get(number) if number > 1 else b"")
            peer.machine.begin(peer.streams[number], CALL)
            peer.machine.end(peer.streams[number], TRAILERS, peer.now)
        peer.read()
        blocks = [one.payload for one in peer.client.frames if one.kind == Frame.HEADERS]
        assert blocks[0] == begins
        assert all(block in (CALL, TRAILERS) for block in blocks[1:])


def test_a_push_may_be_allowed_and_is_never_made() -> None:
    for allowed in (0, 1):
        assert Peer(start=PREFACE + settings((Setting.ENABLE_PUSH, allowed))).send(get()).answer().status == 200


def test_answers_come_in_any_order() -> None:
    peer = Peer().send(get(1) + get(3) + get(5))
    for number in (3, 5, 1):
        assert peer.answer(number, b"%d" % number).body == b"%d" % number
    assert [one.number for one in peer.client.frames if one.kind == Frame.HEADERS] == [3, 5, 1]


def test_a_head_that_comes_again_means_the_same_as_long_as_the_table_is_the_same() -> None:
    peer = Peer(answers=b"yes")
    first = block(*request("GET", "/a")[:3]) + b"\x04\x02/a"
    peer.send(headers(1, first) + headers(3, first))
    assert [stream.head.path for stream in peer.streams.values()] == ["/a", "/a"]
    assert peer.streams[1].head is peer.streams[3].head
    table = block(*request()[:3]) + b"\x44\x02/b"  # :path: /b, put into the table
    again = block(*request()[:3]) + b"\xbe"  # what is first in the table
    peer.send(headers(5, table) + headers(7, again) + headers(9, again))
    peer.send(headers(11, block(*request()[:3]) + b"\x44\x02/c") + headers(13, again))
    paths = [stream.head.path for stream in peer.streams.values()]
    assert paths[2:] == ["/b", "/b", "/b", "/c", "/c"]


def test_the_same_block_with_and_without_a_body_is_two_requests() -> None:
    peer = Peer().send(get(1) + headers(3, request(), end=False) + get(5))
    assert [stream.head.length for stream in peer.streams.values()] == [0, None, 0]
    assert list(peer.bodies) == [1, 5]


def test_a_request_whose_headers_go_on_may_have_a_body_or_none() -> None:
    for ends in (True, False):
        written = block(*request("POST"))
        begun = headers(1, written[:9], end=ends, flags=0) + frame(Frame.CONTINUATION, END_HEADERS, 1, written[9:])
        peer = Peer().send(begun + (b"" if ends else data(1, b"body")))
        assert peer.bodies == {1: b"" if ends else b"body"}


def test_headers_with_a_priority_and_nothing_else_are_malformed() -> None:
    peer = Peer().send(frame(Frame.HEADERS, END_HEADERS | 0x20, 1, bytes(5)))
    assert peer.client.streams[1].reset == Code.PROTOCOL_ERROR
    assert peer.send(get(3)).answer(3).status == 200


def test_trailers_with_what_belongs_to_a_request_reset_their_stream() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False) + headers(1, [(b":path", b"/y")]))
    assert peer.client.streams[1].reset == Code.PROTOCOL_ERROR
    assert peer.gone == [1]


def test_what_comes_on_a_stream_that_was_malformed_is_dropped() -> None:
    peer = Peer().send(headers(1, [(b"", b"")], end=False) + data(1, b"late") + get(3))
    assert peer.ended_with is None
    assert peer.answer(3).status == 200


def test_a_mistake_behind_an_answer_resets_a_stream_for_which_nobody_waits() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False))
    peer.answer(status=401)
    peer.send(window_update(1, 0))
    assert peer.client.streams[1].reset == Code.PROTOCOL_ERROR
    assert peer.gone == []


def test_a_body_grows_frame_by_frame_unless_its_length_is_known() -> None:
    for length, grown in ((None, [1, 1]), (6, [])):
        said = [] if length is None else [(b"content-length", b"%d" % length)]
        peer = Peer().send(headers(1, request("POST", "/x", *said), end=False))
        peer.send(data(1, b"ab", end=False) + data(1, b"cd", end=False) + data(1, b"ef"))
        assert peer.grown == grown
        assert peer.bodies == {1: b"abcdef"}


# Limits, to the byte


def test_a_header_block_may_be_as_long_as_its_limit() -> None:
    limits = replace(LIMITS, head_bytes=600)
    empty = len(block(*request("GET", "/x", (b"a", b""))))
    for pieces in (1, 2):
        for size, taken in ((600, True), (601, False)):
            # Unpacked it is longer than the limit, so that even what is taken is refused with an answer.
            written = block(*request("GET", "/x", (b"a", bytes([65]) * (size - empty - 2))))
            assert len(written) == size
            sent = headers(1, written) if pieces == 1 else b""
            if pieces == 2:
                sent = headers(1, written[:500], flags=0) + frame(Frame.CONTINUATION, END_HEADERS, 1, written[500:])
            peer = Peer(limits).send(sent)
            if taken:
                assert peer.client.streams[1].status == 431
            else:
                assert peer.ended_with is Code.ENHANCE_YOUR_CALM
                assert peer.machine.error == "A header block is longer than 600 bytes."


def test_a_body_may_be_as_long_as_its_limit() -> None:
    limits = replace(LIMITS, body_bytes=100)
    for sizes, taken in (
        ((100,), True),
        ((60, 40), True),
        ((100, 0), True),
        ((101,), False),
        ((60, 41), False),
        ((101, 0), False),
    ):
        peer = Peer(limits).send(headers(1, request("POST"), end=False))
        for at, size in enumerate(sizes):
            peer.send(data(1, bytes(size), end=at == len(sizes) - 1))
        assert (1 in peer.bodies) is taken
        if not taken:
            assert peer.client.streams[1].status == 413
            assert str(peer.refused[0]).startswith("The body is longer than 100 bytes.")


def test_a_streamed_body_may_come_in_as_many_frames_as_its_limit() -> None:
    limits = replace(LIMITS, data_frames=100)
    peer = Peer(limits, streams=True).send(headers(1, request("POST"), end=False) + data(1, b"1", end=False) * 100)
    assert peer.gone == []
    assert len(peer.pieces) == 100


def test_answers_that_are_not_taken_may_be_as_long_as_their_limit() -> None:
    limits = replace(LIMITS, unsent_bytes=6000)
    peer = Peer(limits, start=PREFACE + settings(initial_window(0)), answers=bytes(3000))
    peer.send(get(1) + get(3) + get(5) + get(7))
    assert [number for number, got in peer.client.streams.items() if got.reset == Code.REFUSED_STREAM] == [7]


@pytest.mark.parametrize("length", [None, 100, 101])
def test_of_a_body_that_nobody_wants_so_much_is_read(length: int | None) -> None:
    said = [] if length is None else [(b"content-length", b"%d" % length)]
    peer = Peer(replace(LIMITS, discard_bytes=100)).send(headers(1, request("POST", "/x", *said), end=False))
    peer.answer(status=401)
    assert (peer.client.streams[1].reset == Code.NO_ERROR) is (length == 101)  # all too much, and known to be
    peer.send(data(1, bytes(100), end=False))
    assert (peer.client.streams[1].reset == Code.NO_ERROR) is (length == 101)
    if length is None:
        peer.send(data(1, b"1", end=False))
        assert peer.client.streams[1].reset == Code.NO_ERROR
    peer.send(data(1, b"") + get(3))  # what was on its way
    assert peer.answer(3).status == 200
    assert peer.ended_with is None


def test_a_body_of_which_too_much_has_come_ends_with_its_answer() -> None:
    for size, told in ((100, False), (101, True)):
        peer = Peer(replace(LIMITS, discard_bytes=100)).send(headers(1, request("POST"), end=False))
        peer.send(data(1, bytes(size), end=False))
        peer.answer(status=401)
        assert (peer.client.streams[1].reset == Code.NO_ERROR) is told


# Windows: what the client grants


def test_an_answer_comes_as_far_as_its_window_lets_it() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(4)), answers=b"0123456789").send(get())
    assert peer.body == b"0123"
    peer.send(window_update(1, 1))
    assert peer.body == b"01234"
    peer.send(window_update(1, 4))
    assert peer.body == b"012345678"
    assert not peer.client.streams[1].ended
    peer.send(window_update(1, 100))
    assert peer.body == b"0123456789"
    assert peer.client.streams[1].ended
    assert peer.machine.streams == {}


def test_a_window_of_one_byte_gets_an_answer_byte_by_byte() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(1)), answers=b"0123456789").send(get())
    for length in range(1, 10):
        assert peer.body == b"0123456789"[:length]
        peer.send(window_update(1, 1))
    assert peer.client.streams[1].ended


def test_a_smaller_initial_window_makes_windows_negative_and_they_are_made_up_for() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(6)), answers=b"0123456789").send(get())
    assert peer.body == b"012345"
    peer.send(settings(initial_window(2)))  # 4 too many were sent
    assert peer.streams[1].window == -4
    peer.send(window_update(1, 4))
    assert peer.body == b"012345"
    peer.send(window_update(1, 1))
    assert peer.body == b"0123456"
    peer.send(settings(initial_window(4)))
    assert peer.body == b"012345678"


def test_the_connections_window_is_shared_and_its_streams_take_turns() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(10**6)), answers=bytes(60_000)).send(get(1) + get(3))
    sent = {number: len(got.body) for number, got in peer.client.streams.items()}
    assert sent == {1: 60_000, 3: 5_535}
    peer.send(get(5) + window_update(0, 40_000))
    later = {number: len(got.body) for number, got in peer.client.streams.items()}
    assert later[3] + later[5] == 5_535 + 40_000
    assert abs(later[3] - 5_535 - later[5]) <= 16_384
    peer.send(window_update(0, 100_000))
    assert all(got.ended and len(got.body) == 60_000 for got in peer.client.streams.values())


def test_a_stream_without_room_does_not_hold_up_the_others() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(2)), answers=b"0123456789").send(get(1) + get(3))
    peer.send(window_update(3, 100))
    assert peer.client.streams[3].body == b"0123456789"
    assert peer.body == b"01"


def test_trailers_come_behind_a_body_that_had_to_wait() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(4))).send(post(1, b"call"))
    peer.machine.respond(peer.streams[1], CALL, b"message", TRAILERS, peer.now)
    peer.read()
    assert peer.client.streams[1].trailers is None
    peer.send(window_update(1, 3))
    got = peer.client.streams[1]
    assert (got.body, got.trailers, got.ended) == (b"message", {b"grpc-status": b"0"}, True)


def test_a_client_that_gives_up_an_answer_gets_no_more_of_it() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(4)), answers=b"0123456789").send(get())
    assert peer.machine.unsent_bytes == 6
    peer.send(rst_stream(1) + window_update(1, 100))
    assert peer.body == b"0123"
    assert peer.machine.unsent_bytes == 0
    assert peer.gone == []  # it was answered


# Windows: what we grant


def test_a_client_is_granted_more_once_it_has_used_half() -> None:
    limits = replace(LIMITS, window=100_000, connection_window=300_000)
    peer = Peer(limits).send(headers(1, request("POST"), end=False))
    granted = peer.client.granted.copy()
    for _ in range(5):
        peer.send(data(1, bytes(10_000), end=False))
    assert peer.client.granted == granted
    peer.send(data(1, b"1", end=False))
    assert peer.client.granted == {**granted, 1: 50_001}
    for _ in range(10):
        peer.send(data(1, bytes(10_000), end=False))
    assert peer.client.granted[0] == granted[0] + 150_001
    peer.send(data(1, b"end"))
    assert len(peer.bodies[1]) == 150_004


def test_padding_counts_for_windows_and_not_for_bodies() -> None:
    peer = Peer(replace(LIMITS, window=100_000)).send(headers(1, request("POST"), end=False))
    for _ in range(200):
        peer.send(frame(Frame.DATA, 0x8, 1, b"\xff" + b"x" + bytes(255)))
    assert peer.client.granted[1] == 50_115
    peer.send(data(1, b"y"))
    assert peer.bodies[1] == b"x" * 200 + b"y"


def test_who_sends_more_than_was_granted_is_stopped() -> None:
    peer = Peer(replace(LIMITS, window=100_000), streams=True)  # whose pieces nobody takes
    peer.send(headers(1, request("POST"), end=False))
    for _ in range(10):
        peer.send(data(1, bytes(10_000), end=False))
    assert 1 not in peer.client.streams
    peer.send(data(1, b"1", end=False))
    assert peer.client.streams[1].reset == Code.FLOW_CONTROL_ERROR
    assert peer.gone == [1]


# Bodies


def test_a_body_of_many_frames_costs_about_its_own_bytes() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False))
    tracemalloc.start()
    for _ in range(2000):
        peer.send(data(1, bytes(100), end=False))
        peer.client.frames.clear()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 500_000
    peer.send(data(1, b"end"))
    assert len(peer.bodies[1]) == 200_003


def test_a_frame_that_comes_byte_by_byte_is_read_once_it_is_whole() -> None:
    peer = Peer()
    for byte in post(1, b"body"):
        assert peer.bodies == {}
        peer.send(bytes([byte]))
    assert peer.bodies == {1: b"body"}


def test_what_waits_for_100_is_told_to_go_on() -> None:
    peer = Peer().send(headers(1, request("POST", "/x", (b"expect", b"100-continue")), end=False))
    (one,) = [one for one in peer.client.frames if one.kind == Frame.HEADERS]
    assert one.payload == b"\x08\x03100"
    assert peer.send(data(1, b"body")).answer().status == 200


def test_a_request_answered_early_is_read_to_its_end_and_dropped() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False))
    assert peer.answer(status=401).status == 401
    peer.send(data(1, bytes(10_000), end=False) + data(1, bytes(10)))
    assert peer.bodies == {}
    assert peer.client.streams[1].reset is None
    assert peer.machine.streams == {}
    assert peer.send(get(3)).answer(3).status == 200


@pytest.mark.parametrize("length", [None, 300_000])
def test_a_client_that_sends_on_and_on_behind_its_answer_is_told_to_stop(length: int | None) -> None:
    said = [] if length is None else [(b"content-length", b"%d" % length)]
    peer = Peer().send(headers(1, request("POST", "/x", *said), end=False))
    peer.answer(status=401)
    for _ in range(27):
        peer.send(data(1, bytes(10_000), end=False))
    assert peer.client.streams[1].reset == Code.NO_ERROR
    assert peer.machine.streams == {}
    assert peer.ended_with is None  # what was on its way is dropped
    assert peer.gone == []


def test_a_body_in_more_frames_than_may_be_is_refused() -> None:
    limits = replace(LIMITS, data_frames=100)
    peer = Peer(limits).send(headers(1, request("POST"), end=False) + data(1, b"1", end=False) * 100)
    assert peer.refused == []
    peer.send(data(1, b"1", end=False))
    assert peer.client.streams[1].status == 413
    peer.send(data(1, b"1", end=False))
    assert peer.client.streams[1].reset == Code.NO_ERROR
    assert (
        Peer(limits)
        .send(headers(1, request("POST"), end=False) + data(1, b"1", end=False) * 100 + data(1, b"1"))
        .bodies
    )


def test_a_streamed_body_in_more_frames_than_may_be_is_reset_unless_it_was_taken_meanwhile() -> None:
    limits = replace(LIMITS, data_frames=100, window=66_000)
    peer = Peer(limits, streams=True).send(headers(1, request("POST"), end=False) + data(1, b"1", end=False) * 100)
    peer.send(data(1, b"1", end=False))
    assert peer.client.streams[1].reset == Code.ENHANCE_YOUR_CALM
    peer = Peer(limits, streams=True).send(headers(1, request("POST"), end=False))
    for _ in range(3):
        peer.send(data(1, bytes(500), end=False) * 90)
        peer.machine.took(peer.streams[1])
    assert peer.gone == []


# Calls that stream


def test_a_streamed_body_is_given_out_as_it_comes_and_its_answer_goes_out_as_it_is_made() -> None:
    peer = Peer(streams=True).send(headers(1, request("POST"), end=False) + data(1, b"one", end=False))
    stream = peer.streams[1]
    peer.machine.begin(stream, CALL)
    peer.machine.send(stream, b"ONE", peer.now)
    peer.read()
    assert peer.body == b"ONE"
    peer.send(data(1, b"two", end=False) + data(1))
    assert peer.pieces == [(b"one", False), (b"two", False), (b"", True)]
    peer.machine.send(stream, b"TWO", peer.now)
    peer.machine.end(stream, TRAILERS, peer.now)
    peer.read()
    got = peer.client.streams[1]
    assert (got.body, got.trailers, got.ended) == (b"ONETWO", {b"grpc-status": b"0"}, True)
    assert peer.machine.streams == {}


def test_a_streamed_body_is_granted_more_only_when_it_was_taken() -> None:
    limits = replace(LIMITS, window=100_000)
    peer = Peer(limits, streams=True).send(headers(1, request("POST"), end=False))
    for _ in range(9):
        peer.send(data(1, bytes(10_000), end=False))
    assert 1 not in peer.client.granted
    peer.machine.took(peer.streams[1])
    peer.read()
    assert peer.client.granted[1] == 90_000


def test_a_streaming_client_that_goes_away_is_told_of_even_where_its_answer_has_begun() -> None:
    peer = Peer(streams=True).send(headers(1, request("POST"), end=False))
    peer.machine.begin(peer.streams[1], CALL)
    peer.send(rst_stream(1))
    assert peer.gone == [1]
    peer.machine.send(peer.streams[1], b"late", peer.now)
    peer.machine.end(peer.streams[1], TRAILERS, peer.now)
    peer.read()
    assert peer.body == b""


def test_a_streaming_call_without_a_body_is_told_of_its_end_at_once() -> None:
    peer = Peer(streams=True).send(get())
    assert peer.pieces == [(b"", True)]
    assert peer.bodies == {}


def test_what_a_call_says_while_its_window_is_shut_comes_in_its_order() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(2)), streams=True).send(headers(1, request("POST"), end=False))
    stream = peer.streams[1]
    peer.machine.begin(stream, CALL)
    for said in (b"ONE", b"TWO", b"THREE"):
        peer.machine.send(stream, said, peer.now)
    peer.read()
    assert peer.body == b"ON"
    assert peer.machine.unsent_bytes == 9
    for more, body in ((2, b"ONET"), (5, b"ONETWOTHR"), (2, b"ONETWOTHREE")):
        peer.send(window_update(1, more))
        assert peer.body == body
    assert not peer.client.streams[1].ended
    peer.machine.send(stream, b"", peer.now)
    peer.send(window_update(1, 10))
    peer.machine.send(stream, b"FOUR", peer.now)
    peer.machine.end(stream, TRAILERS, peer.now)
    peer.read()
    got = peer.client.streams[1]
    assert (got.body, got.trailers) == (b"ONETWOTHREEFOUR", {b"grpc-status": b"0"})


def test_a_call_that_streams_and_is_given_up_is_told_of() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(2)), streams=True).send(headers(1, request("POST"), end=False))
    peer.machine.begin(peer.streams[1], CALL)
    peer.machine.send(peer.streams[1], b"never taken", peer.now)
    for _ in range(77):
        peer.send(ping())
        peer.pass_time(1)
    assert peer.client.streams[1].reset == Code.CANCEL
    assert peer.gone == [1]
    peer.send(data(1, b"late", end=False))
    assert peer.ended_with is None


def test_a_call_may_be_ended_before_its_client_has_sent_all() -> None:
    peer = Peer(streams=True).send(headers(1, request("POST"), end=False))
    stream = peer.streams[1]
    peer.machine.begin(stream, CALL)
    peer.machine.end(stream, TRAILERS, peer.now)
    peer.send(data(1, b"late"))
    assert peer.client.streams[1].ended
    assert peer.pieces == []
    assert peer.machine.streams == {}


# What may be done so often. Each of these attacks has brought servers down.


def until_it_ends(peer: Peer, attack: Any, most: int) -> int:
    """How many times `attack(i)` was let through before the connection was ended."""
    for times in range(most):
        if peer.ended_with is not None:
            return times
        peer.send(attack(times))
    return most


def test_rapid_reset() -> None:
    peer = Peer()
    assert until_it_ends(peer, lambda i: get(2 * i + 1) + rst_stream(2 * i + 1), 100) == 11
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM
    assert peer.gone == [2 * i + 1 for i in range(11)]  # what was given out is taken back


@pytest.mark.parametrize(
    "provoke",
    [
        lambda number: window_update(number, 0),
        lambda number: window_update(number, 2**31 - 1),
        lambda number: data(number, b"more"),
        lambda number: frame(Frame.PRIORITY, 0, number, bytes(4)),
        lambda number: headers(number, [(b"a", b"b")]),
    ],
    ids=["no growth", "too large a window", "data behind the end", "half a priority", "headers behind the end"],
)
def test_resets_that_the_client_makes_the_server_send(provoke: Any) -> None:
    peer = Peer()
    assert until_it_ends(peer, lambda i: get(2 * i + 1) + provoke(2 * i + 1), 100) == 11
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM
    assert len(peer.gone) == 11


def test_malformed_requests_and_refused_streams_count_as_resets() -> None:
    assert until_it_ends(Peer(), lambda i: headers(2 * i + 1, [(b"", b"")]), 100) == 11
    assert until_it_ends(Peer(), lambda i: get(2 * i + 1), 100) == 8 + 11


@pytest.mark.parametrize(
    "attack",
    [lambda number: get(number) + rst_stream(number), lambda number: headers(number, [(b"", b"")])],
    ids=["by the client", "for a mistake"],
)
def test_resets_are_counted_by_the_second(attack: Any) -> None:
    peer = Peer()
    for second in range(5):
        peer.now += 1
        for i in range(10):
            peer.send(attack(20 * second + 2 * i + 1))
    assert peer.ended_with is None
    peer.now += 0.9
    peer.send(attack(201))
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM
    assert peer.machine.error == "More than 10 streams a second were reset."


def test_a_request_for_which_there_is_no_stream_is_not_refused_besides() -> None:
    peer = Peer()
    for number in range(1, 17, 2):
        peer.send(get(number))
    peer.send(get(17, "no-path"))
    assert peer.client.streams[17].reset == Code.REFUSED_STREAM
    assert peer.refused == []


@pytest.mark.parametrize(
    "attack",
    [
        lambda i: ping(),
        lambda i: settings(),
        lambda i: settings(initial_window(i)),
        lambda i: frame(Frame.SETTINGS, ACK),
        lambda i: frame(Frame.PRIORITY, 0, 1, bytes(5)),
        lambda i: window_update(0, 1),
        lambda i: frame(0xFA, 0, 0, b"unknown"),
        lambda i: ping(flags=ACK),
    ],
    ids=["ping", "settings", "windows", "acknowledgements", "priority", "window", "unknown", "pongs"],
)
def test_floods_of_frames_that_ask_for_nothing(attack: Any) -> None:
    peer = Peer()
    assert until_it_ends(peer, attack, 1000) == 50  # the first SETTINGS were one
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_frames_that_ask_for_nothing_are_counted_by_the_second() -> None:
    peer = Peer()
    for _ in range(5):
        peer.now += 1
        peer.send(ping() * 50)
    assert peer.ended_with is None
    peer.now += 0.9
    peer.send(ping())
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM
    assert peer.machine.error == "More than 50 frames a second ask for nothing."


@pytest.mark.parametrize("length", [16_385, 65_536, 65_541, 2**24 - 1])
def test_a_frame_that_says_it_is_longer_than_any_may_be_ends_the_connection(length: int) -> None:
    peer = Peer().send(headers(1, request("POST"), end=False) + frame(Frame.DATA, 0, 1, b"12345", length=length))
    assert peer.ended_with is Code.FRAME_SIZE_ERROR


def test_floods_on_a_stream() -> None:
    for attack in (
        lambda i: data(1, end=False),
        lambda i: frame(Frame.DATA, 0x8, 1, b"\x05" + bytes(5)),
        lambda i: window_update(1, 1),
    ):
        peer = Peer().send(headers(1, request("POST"), end=False))
        assert until_it_ends(peer, attack, 1000) == 50 + 16
        assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_floods_on_streams_that_are_no_more() -> None:
    for attack in (lambda i: data(1, b"late", end=False), lambda i: headers(1, [(b"a", b"b")])):
        peer = Peer().send(headers(1, request("POST"), end=False) + window_update(1, 0))
        assert peer.client.streams[1].reset == Code.PROTOCOL_ERROR
        assert until_it_ends(peer, attack, 1000) < 70
        assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_who_asks_may_also_say_something() -> None:
    peer = Peer(answers=b"yes")
    for number in range(1, 2001, 2):
        peer.send(get(number) + ping() * 4 + window_update(0, 3) * 4)
    assert peer.ended_with is None


def test_a_client_that_takes_a_large_answer_may_grant_its_windows_in_many_frames() -> None:
    peer = Peer(answers=bytes(3_000_000)).send(get())
    while not peer.client.streams[1].ended:
        peer.send(window_update(0, 8192) + window_update(1, 8192))
        assert peer.ended_with is None


def test_windows_granted_byte_by_byte_are_a_flood() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(0)), answers=bytes(1000)).send(get())
    assert until_it_ends(peer, lambda i: window_update(1, 1), 1000) == 66
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_a_flood_of_continuations() -> None:
    peer = Peer().send(headers(1, block(*request()), flags=0))
    assert until_it_ends(peer, lambda i: frame(Frame.CONTINUATION, 0, 1), 1000) == 33
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM
    assert peer.machine.error == "A header block has more than 32 CONTINUATION frames."
    peer = Peer().send(headers(1, block(*request()), flags=0))
    assert until_it_ends(peer, lambda i: frame(Frame.CONTINUATION, 0, 1, bytes(16_000)), 1000) == 5
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_an_hpack_bomb_takes_no_more_memory_than_headers_may() -> None:
    peer = Peer()
    block_of_it = block(*request()) + indexed(b"a", bytes([65]) * 4000) + b"\xbe" * 16_000  # 64 MB unpacked
    pieces = [block_of_it[at : at + 10_000] for at in range(0, len(block_of_it), 10_000)]
    bomb = headers(1, pieces[0], flags=0)
    for piece in pieces[1:-1]:
        bomb += frame(Frame.CONTINUATION, 0, 1, piece)
    bomb += frame(Frame.CONTINUATION, END_HEADERS, 1, pieces[-1])
    tracemalloc.start()
    peer.send(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 500_000
    assert peer.client.streams[1].status == 431
    assert peer.send(get(3)).answer(3).status == 200


def test_no_more_streams_are_open_than_may_be() -> None:
    peer = Peer()
    for number in range(1, 17, 2):
        peer.send(get(number))
    assert peer.client.streams == {}
    peer.send(get(17))
    assert peer.client.streams[17].reset == Code.REFUSED_STREAM
    peer.answer(1)
    peer.send(get(19))
    assert 19 in peer.streams


def test_streams_that_are_answered_and_not_taken_are_no_room_for_others() -> None:
    limits = replace(LIMITS, unsent_bytes=10_000, streams=100)
    peer = Peer(limits, start=PREFACE + settings(initial_window(0)), answers=bytes(3000))
    peer.send(b"".join(get(number) for number in range(1, 15, 2)))
    refused = [number for number, got in peer.client.streams.items() if got.reset == Code.REFUSED_STREAM]
    assert refused == [9, 11, 13]
    assert peer.machine.unsent_bytes == 12_000


def test_what_is_remembered_of_streams_that_are_no_more_is_little() -> None:
    peer = Peer(replace(LIMITS, resets=10**9))
    tracemalloc.start()
    for number in range(1, 8_001, 2):
        peer.machine.receive(headers(number, [(b"", b"")]), peer.now)
        assert peer.machine.next_event(peer.now) is None
        peer.machine.take()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


def test_heads_that_are_remembered_are_few_and_short() -> None:
    peer = Peer(answers=b"yes").send(headers(1, block(*request()) + indexed(b"a", b"b" * 500)))
    tracemalloc.start()
    for number in range(3, 2003, 4):
        peer.send(get(number, f"/{number}" + "x" * 900))
        peer.send(headers(number + 2, block(*request("GET", f"/{number}")) + b"\xbe" * 90))  # 45 kB unpacked
        peer.client = Client()
        peer.streams.clear()
        peer.bodies.clear()
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000
    assert most < 400_000


def test_the_last_stream_number_of_all_is_answered_and_none_comes_behind_it() -> None:
    peer = Peer(answers=b"yes").send(get(1) + get(2**31 - 1))
    assert peer.client.streams[2**31 - 1].status == 200
    peer.send(get(3))
    assert peer.ended_with is Code.STREAM_CLOSED


# Time


def test_a_preface_that_does_not_come_ends_the_connection() -> None:
    for begun in (b"", PREFACE[:5], PREFACE, PREFACE + settings()[:5]):
        peer = Peer(start=begun)
        peer.pass_time(10)
        assert peer.ended_with is None
        peer.pass_time(1)
        assert peer.ended_with is Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "begun",
    [get()[:4], get()[:20], headers(1, block(*request()), flags=0), ping()[:12]],
    ids=["a frame's head", "HEADERS", "no CONTINUATION", "PING"],
)
def test_a_head_that_does_not_come_whole_ends_the_connection(begun: bytes) -> None:
    peer = Peer().send(begun)
    peer.pass_time(10)
    assert peer.ended_with is None
    peer.pass_time(1)
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_a_head_that_comes_byte_by_byte_has_no_more_time() -> None:
    peer = Peer()
    for byte in get()[:-1]:
        peer.send(bytes([byte]))
        peer.pass_time(1)
    assert peer.ended_with is Code.ENHANCE_YOUR_CALM


def test_a_body_that_is_too_slow_is_refused_and_the_connection_goes_on() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False) + get(3))
    peer.pass_time(2)
    assert peer.refused == []
    peer.pass_time(1)
    assert peer.client.streams[1].status == 408
    assert [error.kind for error in peer.refused] == [Kind.SLOW]
    assert str(peer.refused[0]) == "The body came with fewer than 1024 bytes a second."
    assert peer.answer(3).status == 200


def test_a_body_within_a_frame_that_is_not_whole_counts() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False) + data(1, bytes(16_000))[:9])
    for _ in range(10):
        peer.send(bytes(1500))
        peer.pass_time(1)
    assert peer.refused == []
    peer.send(bytes(1000))
    assert len(peer.bodies[1]) == 16_000


def test_of_a_frame_that_is_not_whole_only_what_has_come_counts() -> None:
    for sent, number, seconds in ((9 + 4096, 1, 4), (9 + 4095, 1, 3), (9, 1, 2), (9 + 4096, 3, 2)):
        peer = Peer().send(headers(1, request("POST"), end=False) + get(5) + data(number, bytes(16_000))[:sent])
        peer.pass_time(seconds)
        assert peer.refused == []
        peer.pass_time(1)
        assert len(peer.refused) == 1


def test_a_frame_of_a_body_has_the_bodys_time_and_no_more() -> None:
    limits = replace(LIMITS, body_bytes_per_second=0)
    for sent in (9, 10, 1000):
        peer = Peer(limits).send(get(1) + headers(3, request("POST"), end=False) + data(3, bytes(16_000))[:sent])
        peer.pass_time(60)
        assert peer.ended_with is None
        peer.pass_time(1)
        assert peer.ended_with is Code.ENHANCE_YOUR_CALM
        assert peer.machine.error == "A frame took too long."


def test_a_body_may_not_take_for_ever() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False))
    for _ in range(70):
        peer.send(data(1, bytes(2000), end=False))
        peer.pass_time(1)
    assert peer.client.streams[1].status == 408
    assert "60 s" in str(peer.refused[0])


def test_a_stream_whose_window_stays_shut_is_given_up() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(0)), answers=bytes(3000)).send(get())
    for _ in range(76):
        assert peer.machine.streams
        peer.send(ping())  # the client lives
        peer.pass_time(1)
    assert peer.client.streams[1].reset == Code.CANCEL
    assert peer.machine.unsent_bytes == 0
    assert peer.machine.streams == {}


def test_a_stream_that_takes_its_answer_a_byte_at_a_time_is_given_up_and_one_that_is_slow_is_not() -> None:
    for step, given_up in ((1, True), (2000, False)):
        peer = Peer(start=PREFACE + settings(initial_window(0)), answers=bytes(200_000)).send(get())
        for _ in range(80):
            if 1 in peer.machine.streams:
                peer.send(window_update(1, step) + window_update(0, step))
            peer.pass_time(1)
        assert (peer.client.streams[1].reset == Code.CANCEL) is given_up


def test_an_answered_request_whose_body_does_not_end_is_given_up() -> None:
    peer = Peer().send(headers(1, request("POST"), end=False))
    peer.answer(status=401)
    for _ in range(61):
        assert peer.machine.streams
        peer.send(ping())
        peer.pass_time(1)
    assert peer.client.streams[1].reset == Code.NO_ERROR
    assert peer.machine.streams == {}
    peer.send(data(1, b"late"))
    assert peer.ended_with is None


def test_a_connection_without_streams_ends_after_its_idle_time() -> None:
    peer = Peer(answers=b"yes").send(get())
    peer.pass_time(75)
    assert peer.ended_with is None
    peer.pass_time(1)
    assert peer.client.goaways == [(1, Code.NO_ERROR)]
    assert not peer.machine.closes(peer.now + 5)
    assert peer.machine.closes(peer.now + 6)


def test_a_client_with_streams_that_gives_no_sign_of_life_is_asked_for_one() -> None:
    peer = Peer(streams=True).send(headers(1, request("POST"), end=False))
    peer.pass_time(75)
    assert not [one for one in peer.client.frames if one.kind == Frame.PING]
    peer.pass_time(1)
    (asked,) = [one for one in peer.client.frames if one.kind == Frame.PING]
    assert not asked.flags
    peer.send(ping(asked.payload, ACK))
    peer.pass_time(76 + 5)
    assert peer.ended_with is None
    peer.pass_time(1)
    assert peer.ended_with is Code.NO_ERROR
    assert peer.machine.error == "No sign of life came."
    assert peer.gone == [1]
    assert peer.is_in(State.LINGERING)


# The end


def test_a_server_that_drains_says_so_twice_and_answers_what_was_on_its_way() -> None:
    peer = Peer().send(get(1))
    peer.machine.last(peer.now)
    peer.read()
    assert peer.client.goaways == [(2**31 - 1, Code.NO_ERROR)]
    (asked,) = [one for one in peer.client.frames if one.kind == Frame.PING]
    assert not asked.flags
    peer.send(get(3) + ping(b"another.", ACK))
    assert len(peer.client.goaways) == 1
    peer.send(ping(asked.payload, ACK))
    assert peer.client.goaways[1:] == [(3, Code.NO_ERROR)]
    peer.send(post(5, b"too late"))
    assert 5 not in peer.streams
    assert peer.answer(1).status == 200
    assert peer.is_in(State.OPEN)
    assert peer.answer(3).status == 200
    assert peer.is_in(State.LINGERING)
    assert len(peer.client.goaways) == 2
    assert 5 not in peer.client.streams


def test_a_client_that_does_not_answer_a_ping_is_told_the_last_stream_after_a_second() -> None:
    peer = Peer().send(get(1))
    peer.machine.last(peer.now)
    peer.pass_time(2)
    assert peer.client.goaways == [(2**31 - 1, Code.NO_ERROR), (1, Code.NO_ERROR)]
    assert peer.answer(1).status == 200
    assert peer.is_in(State.LINGERING)


def test_a_connection_without_streams_drains_at_once() -> None:
    peer = Peer(answers=b"yes").send(get())
    peer.machine.last(peer.now)
    peer.machine.last(peer.now)
    peer.read()
    (asked,) = [one for one in peer.client.frames if one.kind == Frame.PING]
    peer.send(ping(asked.payload, ACK))
    assert peer.is_in(State.LINGERING)
    assert len(peer.client.goaways) == 2
    peer.machine.receive_end(peer.now)
    assert peer.machine.closes(peer.now)


def test_a_connection_that_has_not_begun_drains_at_once() -> None:
    peer = Peer(start=b"")
    peer.machine.last(peer.now)
    peer.read()
    assert peer.client.goaways == [(0, Code.NO_ERROR)]
    assert peer.is_in(State.LINGERING)


def test_who_acknowledges_a_ping_that_was_not_sent_ends_nothing() -> None:
    peer = Peer(answers=b"yes").send(ping(b"draining", ACK) + get())
    assert peer.body == b"yes"
    assert peer.ended_with is None


def test_a_client_that_leaves_and_gives_up_its_streams_is_let_go() -> None:
    peer = Peer().send(get(1) + goaway() + rst_stream(1))
    assert peer.is_in(State.LINGERING)
    assert peer.client.goaways == [(1, Code.NO_ERROR)]


def test_a_connection_that_has_ended_says_nothing_more() -> None:
    peer = Peer().send(get(1) + headers(3, request("POST"), end=False) + data(0))
    assert peer.is_in(State.LINGERING)
    peer.machine.last(peer.now)
    assert peer.machine.overdue(peer.now + 100) == []
    assert peer.machine.take() == b""


def test_a_client_that_closes_its_side_behind_its_mistake_is_told_nothing_more() -> None:
    peer = Peer().send(get(1) + data(0))
    assert len(peer.client.goaways) == 1
    assert peer.machine.receive_end(peer.now) == []
    assert peer.machine.take() == b""  # for which there is no way any more: our side is closed
    assert peer.is_in(State.CLOSED)


def test_a_mistake_leaves_nothing_unsent() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(0)), answers=bytes(3000)).send(get(1))
    assert peer.machine.unsent_bytes == 3000
    peer.send(data(0))
    assert peer.machine.unsent_bytes == 0


def test_a_client_that_leaves_gets_its_answers_first() -> None:
    peer = Peer().send(get(1) + goaway())
    assert peer.is_in(State.OPEN)
    assert peer.answer(1).status == 200
    assert peer.is_in(State.LINGERING)


def test_a_client_that_has_closed_its_side_gets_its_answers_and_what_it_had_begun_is_dropped() -> None:
    peer = Peer().send(get(1) + headers(3, request("POST"), end=False))
    for event in peer.machine.receive_end(peer.now):
        peer.take(event)
    assert peer.gone == [3]
    assert peer.answer(1).status == 200
    assert peer.is_in(State.CLOSED)


def test_a_client_that_has_closed_its_side_gets_no_more_than_its_windows_have_room_for() -> None:
    peer = Peer(start=PREFACE + settings(initial_window(4))).send(get(1) + get(3) + get(5))
    peer.answer(1, b"0123456789")
    peer.machine.receive_end(peer.now)
    assert list(peer.machine.streams) == [3, 5]  # the rest of the first cannot come any more
    assert peer.answer(3, b"0123456789").reset == Code.CANCEL
    assert peer.answer(5, b"0123").ended
    assert peer.machine.unsent_bytes == 0
    assert peer.is_in(State.CLOSED)


def test_a_mistake_ends_every_stream_and_nothing_more_is_read() -> None:
    peer = Peer().send(get(1) + headers(3, request("POST"), end=False) + data(0) + get(5))
    assert peer.gone == [1, 3]
    assert peer.client.goaways == [(3, Code.PROTOCOL_ERROR)]
    assert peer.machine.error == "DATA belong to a stream."
    peer.send(get(7))
    assert 5 not in peer.streams
    assert 7 not in peer.streams


def test_a_stream_cannot_be_answered_twice() -> None:
    peer = Peer().send(get(1))
    peer.answer(1)
    with pytest.raises((LocalError, KeyError)):
        peer.answer(1)
