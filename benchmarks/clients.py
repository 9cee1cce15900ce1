"""Clients of HTTP/1.1 as a network has them: well-bred ones, whose every answer is checked, and those that a server must come
through. A behaviour is what one client does from the connection that it opens to its end.
"""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from digits.contract import Images, Probabilities
from digits.picture.file import decode
from digits.picture.finding import find_digit
from serving.ports.http1 import TRICKLE_SECONDS

HOST: Final = "127.0.0.1"
ANSWER_SECONDS: Final = 30  # after which an answer counts as lost
SHED: Final = (429, 503)
LARGE_BODY: Final = 200_000
PAUSE_SECONDS: Final = 1.3  # of a body that is kept half sent: longer than what a server does once a second
MAX_FAULTS: Final = 20  # kept as text
# Files whose headers are true: a BMP of noise, and one that says it has 3.6 gigapixels.
_BMP: Final = struct.Struct("<2sIIIIiiHHIIiiII")
NOISE: Final = _BMP.pack(b"BM", 54 + 3 * 256**2, 0, 54, 40, 256, 256, 1, 24, 0, 3 * 256**2, 0, 0, 0, 0) + random.Random(
    1
).randbytes(3 * 256**2)
BOMB: Final = _BMP.pack(b"BM", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(1000)


class Fault(Exception):
    """The server did what it must not do."""


class Lost(Fault):
    """A request was not answered."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, and what its model answers."""

    api_port: int
    data_port: int
    model: str  # recipe.backend
    images: Images
    digits: npt.NDArray[np.int64]  # of each image
    pictures: Sequence[tuple[bytes, int]] = ()  # files, and the digit in each

    def backend(self) -> str:
        return self.model.partition(".")[2]


def pictures_of(images: Images, predict: Callable[[Images], Probabilities]) -> list[tuple[bytes, int]]:
    """Images as PNG files, ten times as large, and the digit that a model reads in each once it is found."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).resize((280, 280), Image.Resampling.BICUBIC).save(file, "png")
        files.append(file.getvalue())
    found = np.stack([find_digit(decode(file, max_pixels=280**2)).image for file in files])
    return list(zip(files, predict(found).argmax(axis=1).tolist(), strict=True))


@dataclass
class Tally:
    """What clients of one behaviour saw."""

    visits: int = 0
    right: int = 0  # answers that are the model's own
    shed: int = 0  # 429 or 503 with Retry-After
    refused: int = 0  # what had to be refused, and was
    failed: int = 0  # anything else
    faults: list[str] = field(default_factory=list)  # of these, the first
    lost_at: list[float] = field(default_factory=list)  # of these, when requests were seen to be lost: time.monotonic()

    def fault(self, text: str) -> None:
        self.failed += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[bytes, bytes]  # names in lower case
    body: bytes


class Connection:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError once the connection is gone, of which uvloop makes a RuntimeError."""
        if self.writer.transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        self.writer.write(data)

    async def send(self, *pieces: bytes, pause: float = 0) -> None:
        for piece in pieces:
            self.write(piece)
            if pause:
                await asyncio.sleep(pause)
        await self.writer.drain()

    async def answer(self) -> Answer:
        """The next answer.

        Raises:
            Lost: none came.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await self.reader.readuntil(b"\r\n\r\n")
                line, *lines = head[:-4].split(b"\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
                body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise Lost(f"no answer: {error!r}") from error
        return Answer(int(line.split()[1]), headers, body)

    async def end(self) -> None:
        """Waits until the server closes the connection.

        Raises:
            Fault: it does not, or sends more.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                rest = await self.reader.read()
        except ConnectionError:
            return
        except TimeoutError:
            raise Fault("the connection was not closed") from None
        if rest:
            raise Fault(f"more came than was asked for: {rest[:80]!r}")

    def reset(self) -> None:
        """Goes away without a word: RST."""
        own: socket.socket | None = self.writer.get_extra_info("socket")
        if own is not None:  # else the server was gone before us
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def connect(port: int) -> Connection:
    return Connection(*await asyncio.open_connection(HOST, port, limit=1 << 20))


# Requests, and whether the answer to one is right


@dataclass(frozen=True)
class Question:
    request: bytes
    digits: list[int]
    read: Callable[[Answer], list[int]]

    def check(self, answer: Answer, tally: Tally) -> None:
        """Counts the answer.

        Raises:
            Fault: it is neither right nor shed.
        """
        if answer.status in SHED and b"retry-after" in answer.headers:
            tally.shed += 1
            return
        if answer.status != 200:
            raise Fault(f"{answer.status} in place of 200: {answer.body[:120]!r}")
        found = self.read(answer)
        if found != self.digits:
            raise Fault(f"the digits {found[:10]} in place of {self.digits[:10]}")
        tally.right += 1


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def pick(target: Target, dice: random.Random, number: int) -> tuple[Images, list[int]]:
    chosen = np.array([dice.randrange(len(target.images)) for _ in range(number)])
    return target.images[chosen], target.digits[chosen].tolist()


def raw(target: Target, images: Images, *headers: str) -> bytes:
    """A head for raw images in the body."""
    infer = f"/v2/models/{target.model}/infer"
    return head(infer, "Content-Type: application/octet-stream", "Inference-Header-Content-Length: 0", *headers)


def v2_binary(target: Target, dice: random.Random, number: int = 1) -> Question:
    images, digits = pick(target, dice, number)
    body = images.tobytes()
    return Question(raw(target, images, f"Content-Length: {len(body)}") + body, digits, _digits_of_binary)


def v2_json(target: Target, dice: random.Random, number: int = 1) -> Question:
    images, digits = pick(target, dice, number)
    path = f"/v2/models/{target.model}/infer"
    return Question(_json(path, v2_body(images)), digits, lambda answer: digits_of_json(answer.body))


def v2_body(images: Images) -> bytes:
    """Of an inference of the Open Inference Protocol, all of it JSON."""
    tensor = {"name": "images", "shape": images.shape, "datatype": "UINT8", "data": images.ravel().tolist()}
    return orjson.dumps({"inputs": [tensor]})


def predict(target: Target, dice: random.Random, number: int = 1) -> Question:
    images, digits = pick(target, dice, number)
    body = orjson.dumps({"images": images.tolist(), "model": target.model.partition(".")[0]})
    return Question(_json(f"/predict/{target.backend()}", body), digits, _digits_of_predict)


def chunked(target: Target, dice: random.Random, size: int, number: int = 1) -> Question:
    """Raw images in chunks of `size` bytes."""
    images, digits = pick(target, dice, number)
    request = raw(target, images, "Transfer-Encoding: chunked") + chunks(images.tobytes(), size)
    return Question(request, digits, _digits_of_binary)


def chunks(body: bytes, size: int) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def classify(target: Target, dice: random.Random) -> Question:
    picture, digit = dice.choice(target.pictures)
    request = head(f"/classify?model={target.model}", f"Content-Length: {len(picture)}") + picture
    return Question(request, [digit], _digits_of_predict)


def _json(path: str, body: bytes) -> bytes:
    return head(path, "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def _digits_of_binary(answer: Answer) -> list[int]:
    start = int(answer.headers[b"inference-header-content-length"])
    for output in orjson.loads(answer.body[:start])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        if output["name"] == "digits":
            found: list[int] = np.frombuffer(answer.body[start:end], "<i8").tolist()
            return found
        start = end
    raise Fault("the answer has no digits")


def digits_of_json(body: bytes) -> list[int]:
    """In the answer to such a body."""
    outputs = {output["name"]: output["data"] for output in orjson.loads(body)["outputs"]}
    found: list[int] = outputs["digits"]
    return found


def _digits_of_predict(answer: Answer) -> list[int]:
    return [prediction["digit"] for prediction in orjson.loads(answer.body)["predictions"]]


# Behaviours. Each opens a connection of its own.

Behaviour = Callable[[Target, random.Random, Tally], Awaitable[None]]


async def _ask(target: Target, dice: random.Random, tally: Tally, make: Callable[..., Question], port: int) -> None:
    """Several requests on one connection, one after the other."""
    connection = await connect(port)
    try:
        for _ in range(dice.randint(1, 20)):
            question = make(target, dice, dice.choice((1, 1, 1, 8)))
            await connection.send(question.request)
            question.check(await connection.answer(), tally)
    finally:
        connection.writer.close()


async def asks_binary(target: Target, dice: random.Random, tally: Tally) -> None:
    await _ask(target, dice, tally, v2_binary, dice.choice((target.data_port, target.data_port, target.api_port)))


async def asks_json(target: Target, dice: random.Random, tally: Tally) -> None:
    await _ask(target, dice, tally, v2_json, dice.choice((target.data_port, target.api_port)))


async def asks_predict(target: Target, dice: random.Random, tally: Tally) -> None:
    await _ask(target, dice, tally, predict, dice.choice((target.data_port, target.api_port)))


async def asks_classify(target: Target, dice: random.Random, tally: Tally) -> None:
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    try:
        for _ in range(dice.randint(1, 3)):
            question = classify(target, dice)
            await connection.send(question.request)
            question.check(await connection.answer(), tally)
    finally:
        connection.writer.close()


async def sends_chunks(target: Target, dice: random.Random, tally: Tally) -> None:
    """Of two bytes to some hundred; at times with a pause amid them."""
    connection = await connect(dice.choice((target.data_port, target.data_port, target.api_port)))
    try:
        for size in (2, dice.randint(3, 300), 10_000):
            question = chunked(target, dice, size)
            cut = dice.randrange(1, len(question.request))
            await connection.send(question.request[:cut], question.request[cut:], pause=dice.choice((0, 0.01)))
            question.check(await connection.answer(), tally)
    finally:
        connection.writer.close()


async def pipelines(target: Target, dice: random.Random, tally: Tally) -> None:
    connection = await connect(target.data_port)
    try:
        questions = [dice.choice((v2_binary, v2_json, predict))(target, dice) for _ in range(dice.randint(2, 12))]
        await connection.send(b"".join(question.request for question in questions))
        for question in questions:
            question.check(await connection.answer(), tally)
    finally:
        connection.writer.close()


async def half_closes(target: Target, dice: random.Random, tally: Tally) -> None:
    """Says that it has no more to send, and still gets every answer, and then the end."""
    connection = await connect(target.data_port)
    try:
        questions = [v2_binary(target, dice) for _ in range(dice.randint(1, 8))]
        await connection.send(b"".join(question.request for question in questions))
        if connection.writer.transport.is_closing():
            raise Lost("the connection is gone")
        connection.writer.write_eof()
        for question in questions:
            question.check(await connection.answer(), tally)
        await connection.end()
    finally:
        connection.writer.close()


async def sends_slowly(target: Target, dice: random.Random, tally: Tally) -> None:
    """A head and a body that come in pieces, over half a second."""
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    try:
        question = v2_binary(target, dice)
        size = len(question.request) // 8 + 1
        pieces = [question.request[start : start + size] for start in range(0, len(question.request), size)]
        began = time.monotonic()
        await connection.send(*pieces, pause=0.07)
        took = time.monotonic() - began
        answer = await connection.answer()
        if answer.status == 408 and took > TRICKLE_SECONDS:  # the machine held us up for so long: then that is right
            tally.refused += 1
        else:
            question.check(answer, tally)
    finally:
        connection.writer.close()


async def stays_idle(target: Target, dice: random.Random, tally: Tally) -> None:
    """Asks, does nothing for a while, and asks again."""
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    try:
        for pause in (dice.uniform(1, 4), 0):
            question = v2_binary(target, dice)
            await connection.send(question.request)
            question.check(await connection.answer(), tally)
            await asyncio.sleep(pause)
    finally:
        connection.writer.close()


async def scrapes(target: Target, dice: random.Random, tally: Tally) -> None:
    """What a monitor asks, once a second."""
    for port, path in ((target.api_port, "/metrics"), (target.data_port, "/v2/health/live")):
        connection = await connect(port)
        try:
            await connection.send(head(path, "Connection: close", method="GET"))
            answer = await connection.answer()
            if answer.status != 200:
                raise Fault(f"{path} answers {answer.status}")
            tally.right += 1
        finally:
            connection.writer.close()
    await asyncio.sleep(1)


async def drops_body(target: Target, dice: random.Random, tally: Tally) -> None:
    """Sends a large body but for its last byte, waits longer than a second, and goes."""
    connection = await connect(dice.choice((target.data_port, target.data_port, target.api_port)))
    sent = raw(target, target.images[:0], f"Content-Length: {LARGE_BODY}") + bytes(LARGE_BODY - 1)
    await connection.send(sent)
    await asyncio.sleep(PAUSE_SECONDS)
    if dice.random() < 0.5:
        connection.reset()
    else:
        connection.writer.close()


async def drops_tiny_chunks(target: Target, dice: random.Random, tally: Tally) -> None:
    """The same in chunks of two bytes, of which the last does not come."""
    connection = await connect(target.data_port)
    body = chunks(bytes(dice.randint(1000, LARGE_BODY // 4)), 2)
    await connection.send(raw(target, target.images[:0], "Transfer-Encoding: chunked") + body[:-5])
    await asyncio.sleep(PAUSE_SECONDS)
    connection.writer.close()


async def vanishes(target: Target, dice: random.Random, tally: Tally) -> None:
    """Goes amid its request, or before its answer: RST."""
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    request = v2_binary(target, dice, 64).request * dice.choice((1, 5))
    await connection.send(request[: dice.choice((len(request), dice.randrange(1, len(request))))])
    await asyncio.sleep(dice.choice((0, 0.002)))
    connection.reset()


async def drops_a_picture(target: Target, dice: random.Random, tally: Tally) -> None:
    """Sends half a picture, or all of it, slowly or at once, and goes before the answer."""
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    request = head("/classify", f"Content-Length: {len(NOISE)}", "Content-Type: image/bmp") + NOISE
    end = dice.choice((len(request), dice.randrange(200, len(request))))
    await connection.send(request[: end // 2], request[end // 2 : end], pause=dice.choice((0, 0.2)))
    await asyncio.sleep(dice.choice((0, 0.01)))
    connection.reset()


async def never_reads(target: Target, dice: random.Random, tally: Tally) -> None:
    """Asks for many answers, reads none of them, and goes."""
    connection = await connect(target.data_port)
    question = v2_json(target, dice)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    connection.write(question.request * 40)
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    connection.reset()


async def talks_garbage(target: Target, dice: random.Random, tally: Tally) -> None:
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    try:
        await connection.send(bytes(dice.randrange(256) for _ in range(dice.randint(1, 400))) + b"\r\n\r\n")
        if (await connection.answer()).status < 400:
            raise Fault("garbage was answered as if it were a request")
        tally.refused += 1
        await connection.end()
    except ConnectionError:
        pass
    finally:
        connection.writer.close()


MALFORMED: Final[Sequence[tuple[bytes, int]]] = (
    (head("/v2/models/none.onnx/infer", "Content-Length: 2") + b"{}", 404),
    (head("/predict/onnx", "Content-Type: application/json", "Content-Length: 1") + b"{", 400),
    (head("/predict/onnx", "Content-Type: text/plain", "Content-Length: 1") + b"{", 415),
    (head("/predict/onnx", method="GET"), 405),
    (head("/v2/nothing", method="GET"), 404),
    (head("/predict/onnx", "Content-Length: 1000000000000"), 413),
    (head("/classify", "Content-Length: 5") + b"hello", 415),
    (head("/classify?x=1", "Content-Length: 5") + b"hello", 400),
    (head("/classify", f"Content-Length: {len(BOMB)}") + BOMB, 413),
    (head("/compare", "Content-Length: 5", "Content-Type: text/html") + b"hello", 415),
    (head("/ui/nothing.js", method="GET"), 404),
)  # fmt: skip


async def asks_wrongly(target: Target, dice: random.Random, tally: Tally) -> None:
    connection = await connect(dice.choice((target.data_port, target.api_port)))
    try:
        request, status = dice.choice(MALFORMED)
        await connection.send(request)
        answer = await connection.answer()
        if answer.status in SHED and b"retry-after" in answer.headers:
            tally.shed += 1
        elif answer.status == status:
            tally.refused += 1
        else:
            raise Fault(f"{answer.status} in place of {status} to {request[:40]!r}")
    finally:
        connection.writer.close()
