"""What is fuzzed: functions that take any bytes, and fail where the code under test does what it must not."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import hpack
import numpy as np
from frames import PREFACE, Client, settings
from machine_limits import NARROW, NARROW2

from digits.contract import Images
from digits.errors import PictureError
from digits.picture.file import decode
from digits.picture.finding import find_digit, find_digits
from serving.errors import Kind, RequestError
from serving.messages import Answer, Head, refusal
from serving.ports import http2 as two
from serving.ports.hpack import Broken, Decoder
from serving.ports.http1 import Body, Machine, State
from serving.protocols import v2, v2_grpc
from serving.protocols.classify import MULTIPART, media_type, read_picture
from serving.protocols.predict import read_request

Read = TypeVar("Read")

MAX_IMAGES: Final = 3
MAX_PIXELS: Final = 250_000
DATE: Final = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
ANSWER: Final = Answer(200, b"yes", ())


def predict(data: bytes) -> None:
    """A body of /predict."""
    found = _read(lambda: read_request(data, max_images=MAX_IMAGES).images)
    if found is not None:
        _check_images(found, json.loads(data)["images"])


def v2_json(data: bytes) -> None:
    """A body of an inference, all of it JSON."""
    found = _read(lambda: v2.read_infer(data, None, max_images=MAX_IMAGES).images)
    if found is not None:
        _check_images(found, json.loads(data)["inputs"][0]["data"])


def v2_binary(data: bytes) -> None:
    """The same with the header that says how long the JSON is: a byte for that header's length, the header, the body."""
    end = 1 + (data[0] % 8 if data else 0)
    header, body = data[1:end], data[end:]
    found = _read(lambda: v2.read_infer(body, header, max_images=MAX_IMAGES).images)
    if found is not None:
        document = json.loads(body[: int(header)]) if int(header) else {"inputs": [{}]}
        inside = document["inputs"][0].get("data")
        expected = body[int(header) :] if inside is None else inside
        _check_images(found, expected)


def grpc(data: bytes) -> None:
    """A ModelInferRequest: read with what is remembered of others, and without, it says the same."""
    quick = _read(lambda: v2_grpc.read_infer(data, max_images=MAX_IMAGES))
    whole = _read(lambda: v2_grpc.read_whole(data, max_images=MAX_IMAGES))
    assert (quick is None) == (whole is None)
    if quick is not None and whole is not None:
        assert quick[1:] == whole[1:]
        assert quick.images.shape == whole.images.shape
        assert quick.images.tobytes() == whole.images.tobytes()


def http1(data: bytes) -> None:
    """Two bytes that say how the rest is cut into pieces, and what a client sends: however it is cut, the same is read."""
    sent = data[2:]
    whole = _events([sent])
    assert _events(_cut(sent, data[:2])) == whole
    assert len(whole) <= 2 * len(sent) + 1


def http2(data: bytes) -> None:
    """The same behind HTTP/2's preface and SETTINGS; and what the machine writes is what a client may be sent."""
    sent = PREFACE + settings() + data[2:]
    whole, written = _events2([sent])
    assert _events2(_cut(sent, data[:2])) == (whole, written)
    Client().read(written)


def header_blocks(data: bytes) -> None:
    """Two header blocks, the first as long as the first byte says: the same fields as hpack reads, or neither reads any."""
    theirs, ours = hpack.Decoder(1 << 20), Decoder()
    end = 1 + (data[0] if data else 0)
    for block in (data[1:end], data[end:]):
        try:
            expected = [tuple(field) for field in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            try:
                ours.decode(block, max_bytes=1 << 20, max_fields=1 << 20)
            except Broken:
                return
            raise AssertionError("hpack cannot read it") from None
        assert ours.decode(block, max_bytes=1 << 20, max_fields=1 << 20) == (expected, True)


def picture(data: bytes) -> None:
    """A file that may be a picture; of a PNG the checksums are put right, so that what they guard is reached."""
    for body in {data, _with_checksums(data)}:
        try:
            warnings.simplefilter("error")  # as in tests: of NumPy's, none of which is meant
            warnings.filterwarnings("ignore", module="PIL[.]")
            shown = decode(body, max_pixels=MAX_PIXELS)
            assert 0 < shown.size[0] * shown.size[1] <= MAX_PIXELS
            digits = [find_digit(shown), *find_digits(shown)]
        except PictureError as error:
            refused = error
            assert 20 < len(str(refused)) < 400, str(refused)
            str(refused).encode()
            continue
        for digit in digits:
            assert digit.image.dtype == np.uint8
            assert digit.image.shape == (28, 28)
            assert digit.image.max() == 255
            assert 0 <= digit.box.left < digit.box.right <= shown.size[0]
            assert 0 <= digit.box.top < digit.box.bottom <= shown.size[1]


def upload(data: bytes) -> None:
    """A body of /classify behind a line that is its content type: the file in it, as it stands there, or a refusal."""
    kind, _, body = data.partition(b"\n")
    headers = {b"content-type": kind}
    found = _read(lambda: read_picture(body, headers))
    if found is not None:
        assert found in body
        if media_type(headers) != MULTIPART:
            assert found == body


def _with_checksums(png: bytes) -> bytes:
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return png
    right, at = [png[:8]], 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        right += [png[at:end], zlib.crc32(png[at + 4 : end]).to_bytes(4)]
        at = end + 4
    return b"".join(right)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "predict": predict,
    "v2_json": v2_json,
    "v2_binary": v2_binary,
    "grpc": grpc,
    "http1": http1,
    "http2": http2,
    "header_blocks": header_blocks,
    "picture": picture,
    "upload": upload,
}


def _cut(sent: bytes, sizes: bytes) -> list[bytes]:
    """Pieces of 1 to 256 bytes, as `sizes` says in turn."""
    pieces, at, turn = [], 0, 0
    while at < len(sent):
        size = 1 + sizes[turn % len(sizes)] if sizes else 1
        pieces.append(sent[at : at + size])
        at += size
        turn += 1
    return pieces


def _read(read: Callable[[], Read]) -> Read | None:
    try:
        return read()
    except RequestError as error:
        refused = error
    assert refused.kind is Kind.MALFORMED
    assert 0 < len(str(refused)) < 300, str(refused)
    str(refused).encode()
    return None


def _check_images(found: Images, sent: Any) -> None:
    """That they are what another reader of JSON makes of the same bytes."""
    assert found.dtype == np.uint8
    assert found.shape[1:] == (28, 28)
    assert 1 <= len(found) <= MAX_IMAGES
    pixels = list(_flat(sent))
    assert {type(pixel) for pixel in pixels} == {int}  # and bool is another
    assert found.ravel().tolist() == pixels


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | bytes):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value


def _events(pieces: list[bytes]) -> list[Any]:
    """What the machine makes of what a client sends in these pieces and then closes its side; each request is answered."""
    machine = Machine(NARROW, 0)
    events: list[Any] = []
    for piece in pieces:
        machine.receive(piece, 0)
        _answer_all(machine, events)
    machine.receive_end(0)
    _answer_all(machine, events)
    return events


def _answer_all(machine: Machine, events: list[Any]) -> None:
    event: Head | Body | RequestError | None
    while True:
        try:
            event = machine.next_event(0)
        except RequestError as error:
            event = error
        if event is None:
            return
        if isinstance(event, RequestError):
            assert len(str(event)) < 600
            events.append(event.kind)
            written = machine.refuse(event, 0, date=DATE)
            assert written.startswith(b"HTTP/1.1 ")
            assert b"connection: close" in written
            return
        events.append(event)
        if isinstance(event, Body):
            assert len(event.data) <= NARROW.body_bytes
            assert machine.answer(ANSWER, 0, date=DATE).startswith(b"HTTP/1.1 200 ")
        else:
            assert machine.state is State.HEAD_READ
            machine.accept(0)


def _events2(pieces: list[bytes]) -> tuple[list[Any], bytes]:
    """What the HTTP/2 machine makes of the same, and what it writes."""
    machine = two.Machine(NARROW2, 0)
    events: list[Any] = []
    written = b""
    for piece in pieces:
        machine.receive(piece, 0)
        while event := machine.next_event(0):
            stream = event.stream
            events.append((type(event).__name__, stream.number, stream.head, stream.received))
            match event:
                case two.Request():
                    machine.accept(stream, streams=stream.head.path == "/s")
                case two.Body():
                    assert len(event.data) <= NARROW2.body_bytes
                    events.append(event.data)
                    machine.answer(stream, Answer(200, event.data, ()), 0, date=DATE)
                case two.Refused():
                    events.append(str(event.error))
                    machine.answer(stream, refusal(event.error), 0, date=DATE)
                case two.Piece():
                    if not stream.answered:
                        machine.begin(stream, b"\x88")
                    machine.send(stream, event.data, 0)
                    machine.took(stream)
                    if event.last:
                        machine.end(stream, b"", 0)
        written += machine.take()
        assert len(machine.streams) <= NARROW2.streams
        assert machine.unsent_bytes == sum(len(one.unsent) - one.sent for one in machine.streams.values())
    if machine.error:
        assert len(machine.error) < 300
        assert not machine.streams
    return events, written
