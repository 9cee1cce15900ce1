"""Frames of HTTP/2 as a client sends them, right or wrong, and what a server sends read back."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from hpack import Decoder

from serving.ports.http2 import Code, Frame, Setting

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

# What a server's frames may say: by type, the flags that have a meaning.
FLAGS: Final[dict[int, int]] = {
    Frame.DATA: END_STREAM,
    Frame.HEADERS: END_STREAM | END_HEADERS,
    Frame.CONTINUATION: END_HEADERS,
    Frame.SETTINGS: ACK,
    Frame.PING: ACK,
}
OF_THE_CONNECTION: Final = (Frame.SETTINGS, Frame.PING, Frame.GOAWAY)

Field = tuple[bytes, bytes]


class Sent(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    number: int
    payload: bytes


def frame(kind: int, flags: int = 0, number: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """`length`: what it says of its payload, if not the truth."""
    said = len(payload) if length is None else length
    return struct.pack(">BHBBL", said >> 16, said & 0xFFFF, kind, flags, number) + payload


def string(text: bytes) -> bytes:
    """A string of HPACK, without Huffman's code."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    written, length = [127], length - 127
    while length >= 128:
        written.append(length & 127 | 128)
        length >>= 7
    return bytes([*written, length]) + text


def literal(name: bytes, value: bytes) -> bytes:
    """A field that leaves the table as it is, whatever is in it."""
    return b"\x00" + string(name) + string(value)


def indexed(name: bytes, value: bytes) -> bytes:
    """A field that is put into the table."""
    return b"\x40" + string(name) + string(value)


def block(*fields: Field) -> bytes:
    return b"".join(literal(*field) for field in fields)


def request(method: str = "GET", path: str = "/x", *further: Field, authority: str | None = "x") -> list[Field]:
    host = [] if authority is None else [(b":authority", authority.encode("latin-1"))]
    return [
        (b":method", method.encode("latin-1")),
        (b":scheme", b"http"),
        *host,
        (b":path", path.encode("latin-1")),
        *further,
    ]


def headers(number: int, fields: Iterable[Field] | bytes, *, end: bool = True, flags: int = END_HEADERS) -> bytes:
    written = fields if isinstance(fields, bytes) else block(*fields)
    return frame(Frame.HEADERS, flags | (END_STREAM if end else 0), number, written)


def get(number: int = 1, path: str = "/x", *further: Field) -> bytes:
    return headers(number, request("GET", path, *further))


def post(number: int = 1, body: bytes = b"", *further: Field, path: str = "/x") -> bytes:
    """With its body in one frame."""
    return headers(number, request("POST", path, *further), end=False) + data(number, body)


def data(number: int = 1, payload: bytes = b"", *, end: bool = True) -> bytes:
    return frame(Frame.DATA, END_STREAM if end else 0, number, payload)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(Frame.SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def window_update(number: int, more: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, 0, number, struct.pack(">L", more))


def rst_stream(number: int, code: int = Code.CANCEL) -> bytes:
    return frame(Frame.RST_STREAM, 0, number, struct.pack(">L", code))


def ping(payload: bytes = b"a ping..", flags: int = 0) -> bytes:
    return frame(Frame.PING, flags, 0, payload)


def goaway(last: int = 0, code: int = Code.NO_ERROR) -> bytes:
    return frame(Frame.GOAWAY, 0, 0, struct.pack(">LL", last, code))


def initial_window(size: int) -> tuple[int, int]:
    return Setting.INITIAL_WINDOW_SIZE, size


def padded(payload: bytes, padding: int = 7) -> bytes:
    return bytes([padding]) + payload + bytes(padding)


def frames(sent: bytes) -> Iterator[Sent]:
    """Every frame of what was sent; all must be whole."""
    at = 0
    while at < len(sent):
        high, low, kind, flags, number = struct.unpack_from(">BHBBL", sent, at)
        length = high << 16 | low
        yield Sent(kind, flags, number, sent[at + 9 : at + 9 + length])
        at += 9 + length
    assert at == len(sent)


class Got(NamedTuple):
    """What a server sent on one stream."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    trailers: dict[bytes, bytes] | None
    ended: bool
    reset: int | None  # the code


class Client:
    """Reads what a server sends over one connection, and holds it to what may come when."""

    def __init__(self) -> None:
        self.streams: dict[int, Got] = {}
        self.goaways: list[tuple[int, int]] = []  # last stream, code
        self.pongs: list[bytes] = []
        self.frames: list[Sent] = []
        self.granted: dict[int, int] = {}  # by stream; 0: the connection
        self._decoder = Decoder()
        self._begun: Sent | None = None  # HEADERS that go on

    def read(self, sent: bytes) -> None:
        for one in frames(sent):
            self.frames.append(one)
            assert (self._begun is not None) == (one.kind == Frame.CONTINUATION)
            assert one.flags & ~FLAGS.get(one.kind, 0) == 0
            assert (one.number == 0) == (one.kind in OF_THE_CONNECTION) or one.kind == Frame.WINDOW_UPDATE
            match one.kind:
                case Frame.HEADERS | Frame.CONTINUATION:
                    self._read_headers(one)
                case Frame.DATA:
                    got = self.streams[one.number]
                    assert not got.ended
                    assert got.trailers is None
                    self.streams[one.number] = got._replace(
                        body=got.body + one.payload, ended=bool(one.flags & END_STREAM)
                    )
                case Frame.RST_STREAM:
                    empty = Got(0, {}, b"", None, False, None)
                    code = int.from_bytes(one.payload, "big")
                    assert self.streams.get(one.number, empty).reset is None, "reset twice"
                    self.streams[one.number] = self.streams.get(one.number, empty)._replace(reset=code)
                case Frame.GOAWAY:
                    last, code = struct.unpack_from(">LL", one.payload)
                    self.goaways.append((last, code))
                case Frame.PING:
                    if one.flags & ACK:
                        self.pongs.append(one.payload)
                case Frame.WINDOW_UPDATE:
                    more = int.from_bytes(one.payload, "big")
                    assert more > 0
                    self.granted[one.number] = self.granted.get(one.number, 0) + more

    def _read_headers(self, one: Sent) -> None:
        if self._begun is not None:
            assert one.number == self._begun.number
            one = Sent(one.kind, self._begun.flags | one.flags, one.number, self._begun.payload + one.payload)
        self._begun = None if one.flags & END_HEADERS else one
        if self._begun is not None:
            return
        fields = dict(self._decoder.decode(one.payload, raw=True))
        ended = bool(one.flags & END_STREAM)
        if b":status" in fields:
            status = int(fields.pop(b":status"))
            if status >= 200:
                assert one.number not in self.streams
                self.streams[one.number] = Got(status, fields, b"", None, ended, None)
        else:
            assert ended
            self.streams[one.number] = self.streams[one.number]._replace(trailers=fields, ended=True)
