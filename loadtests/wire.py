"""Requests as bytes and answers from bytes, over HTTP/1.1 and over HTTP/2: for clients that must cost little.

A connection has one request under way at a time. What comes back is kept whole; `digit` reads it, then or later. Sockets are
the clients' own: `exchange` is for those that wait for each answer.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hpack import Decoder, Encoder

from digits.contract import SIDE, Images
from loadtests.client import request_bytes
from loadtests.protocols import PROTOCOLS, ProtocolName, WrongAnswer
from serving.protocols.v2_grpc import INFER

END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"\r\ncontent-length:"  # in lower case
MOST_HEAD: Final = 65_536
OutcomeName = Literal["right", "wrong", "failed"]

# HTTP/2: its preface, kinds of frames, and flags.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
WELL: Final = b"grpc-status\x010"  # in the trailers of an answer of ours, as its machine writes them


class Unreadable(WrongAnswer):
    """What came ends the connection: it is no answer, or the server says that it goes away."""


@dataclass(frozen=True)
class Requests:
    """The requests of one protocol to one path, in the order of the images; over HTTP/2 what comes before and in each."""

    protocol: ProtocolName
    whole: Sequence[bytes]  # over HTTP/1.1 the request, over HTTP/2 the body
    first_headers: bytes = b""  # a header block, of a connection's first request
    headers: bytes = b""  # of all others, whose fields are in the table then

    def __len__(self) -> int:
        return len(self.whole)


def write_requests(protocol: ProtocolName, host: str, path: str, images: Images) -> Requests:
    """What asks for each of `images` at `path`: of gRPC the method, and behind it the model's name."""
    asked = PROTOCOLS[protocol]
    bodies = [asked.write(image) for image in images]
    if not asked.is_call:
        headers = {"Host": host, **asked.headers}
        return Requests(protocol, [request_bytes("POST", path, body, headers) for body in bodies])
    method, _, model = path.rpartition("/")
    fields = [
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", host), *asked.headers.items(),
    ]  # fmt: skip
    encoder = Encoder()
    first, others = encoder.encode(fields), encoder.encode(fields)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}
    messages = [
        INFER(model_name=model, inputs=[tensor], raw_input_contents=[body]).SerializeToString() for body in bodies
    ]
    return Requests(protocol, [len(message).to_bytes(5, "big") + message for message in messages], first, others)


class Http1:
    """One connection of HTTP/1.1."""

    greeting: Final = b""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._received = b""

    def request(self, number: int) -> bytes:
        """The bytes that ask for the image of that number."""
        return self._requests.whole[number]

    def receive(self, piece: bytes) -> bytes | None:
        """The whole answer, once it is there. Raises Unreadable."""
        answer = self._received + piece if self._received else piece
        end = answer.find(END_OF_HEAD)
        if end >= 0:
            head = answer[:end].lower()
            length = head.partition(LENGTH)[2].partition(b"\r")[0].strip()
            if not head.startswith(b"http/1.") or not length.isdigit():
                raise Unreadable(f"not an answer of HTTP/1.1 with its length: {answer[:200]!r}")
            if len(answer) >= end + len(END_OF_HEAD) + int(length):
                self._received = b""
                return answer
        elif not answer.startswith(b"HTTP/1."[: len(answer)]) or len(answer) > MOST_HEAD:
            raise Unreadable(f"not an answer of HTTP/1.1: {answer[:200]!r}")
        self._received = answer
        return None

    def to_send(self) -> bytes:
        """What the connection itself has to say, apart from requests."""
        return b""


class Http2:
    """One connection of HTTP/2 to a server of ours: an answer's trailers are read as its machine writes them."""

    # Settings as they are by default, and room for answers that need never be widened.
    greeting: Final = (
        PREFACE
        + (0).to_bytes(3, "big") + bytes((SETTINGS, 0)) + bytes(4)
        + (4).to_bytes(3, "big") + bytes((WINDOW_UPDATE, 0)) + bytes(4) + (2**31 - 65_536).to_bytes(4, "big")
    )  # fmt: skip

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._stream = -1
        self._received = b""
        self._answer = b""  # the frames of the answer so far
        self._to_send = b""

    def request(self, number: int) -> bytes:
        block = self._requests.first_headers if self._stream < 0 else self._requests.headers
        self._stream += 2
        body = self._requests.whole[number]
        return frame(HEADERS, END_HEADERS, self._stream, block) + frame(DATA, END_STREAM, self._stream, body)

    def receive(self, piece: bytes) -> bytes | None:
        received = self._received + piece if self._received else piece
        at, whole = 0, None
        while len(received) - at >= 9:
            end = at + 9 + int.from_bytes(received[at : at + 3], "big")
            if len(received) < end:
                break
            kind, flags = received[at + 3], received[at + 4]
            if kind in (DATA, HEADERS):
                self._answer += received[at:end]
                if flags & END_STREAM:
                    whole, self._answer = self._answer, b""
            elif kind == RST_STREAM:
                whole, self._answer = received[at:end], b""
            elif kind == GOAWAY:
                raise Unreadable(f"the server ends the connection: {received[at:end]!r}")
            elif kind == SETTINGS and not flags & ACK:
                self._to_send += frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self._to_send += frame(PING, ACK, 0, received[at + 9 : end])
            at = end
        self._received = received[at:]
        return whole

    def to_send(self) -> bytes:
        said, self._to_send = self._to_send, b""
        return said


Connection = Http1 | Http2


def connection_of(requests: Requests) -> Connection:
    return Http2(requests) if PROTOCOLS[requests.protocol].is_call else Http1(requests)


def exchange(connection: socket.socket, wire: Connection, number: int) -> bytes:
    """Asks for the image of that number, and waits for the whole answer.

    Raises:
        OSError: the connection failed, or was closed.
        Unreadable: what came ends the connection.
    """
    connection.sendall(wire.request(number))
    answer = None
    while answer is None:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError("no answer: the connection was closed")
        answer = wire.receive(piece)
        if said := wire.to_send():
            connection.sendall(said)
    return answer


def closes(answer: bytes) -> bool:
    """Whether a whole answer of HTTP/1.1 is the last one of its connection."""
    return answer.startswith(b"HTTP/1.") and b"\r\nconnection: close" in answer.partition(END_OF_HEAD)[0].lower()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def digit(protocol: ProtocolName, answer: bytes) -> int:
    """The digit of a whole answer.

    Raises:
        WrongAnswer: it is no prediction, or has another status.
    """
    asked = PROTOCOLS[protocol]
    if asked.is_call:
        return asked.read(_message(answer), {})
    head, _, body = answer.partition(END_OF_HEAD)
    status, *lines = head.split(b"\r\n")
    if status[9:12] != b"200":
        raise WrongAnswer(f"status {status[9:12].decode('latin-1')}: {body[:200]!r}")
    headers = {}
    for line in lines:
        name, _, said = line.partition(b":")
        headers[name.decode("latin-1").title()] = said.strip().decode("latin-1")
    return asked.read(body, headers)


def _message(answer: bytes) -> bytes:
    """The one message of an answer's frames, whose trailers say that all is well. Raises WrongAnswer."""
    data, trailers, at = b"", b"", 0
    while at < len(answer):
        end = at + 9 + int.from_bytes(answer[at : at + 3], "big")
        if answer[at + 3] == DATA:
            data += answer[at + 9 : end]
        elif answer[at + 3] == HEADERS and answer[at + 4] & END_STREAM:
            trailers = answer[at + 9 : end]
        at = end
    if WELL not in trailers:
        raise WrongAnswer(f"the call failed: {_fields(trailers)}")
    if len(data) < 5 or data[0] or len(data) != 5 + int.from_bytes(data[1:5], "big"):
        raise WrongAnswer(f"not one message: {data[:200]!r}")
    return data[5:]


def _fields(block: bytes) -> str:
    try:
        return ", ".join(f"{name!s}: {value!s}" for name, value in Decoder().decode(block)) or "no trailers"
    except Exception:  # hpack's own, of many kinds: only words are at stake
        return repr(block[:200])
