"""Clients of HTTP/2 and gRPC as a network has them, as `clients` has those of HTTP/1.1.

The well-bred ones speak by `h2`, which takes nothing from a server that RFC 9113 forbids.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from benchmarks.clients import (
    ANSWER_SECONDS,
    PAUSE_SECONDS,
    SHED,
    Connection,
    Fault,
    Lost,
    Tally,
    Target,
    connect,
    digits_of_json,
    pick,
    v2_body,
)
from benchmarks.serving_client import MODEL_INFER
from serving.protocols import protos
from serving.protocols.grpc import PREFIX, Code, framed
from serving.protocols.v2_grpc import INFER, RESPONSE

STREAM_INFER: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
STREAMED: Final = protos.message("inference.ModelStreamInferResponse")
SHED_CODES: Final = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
MOST_AT_ONCE: Final = 16  # streams
FLOOD: Final = 20_000  # frames, which is more than any server may take in a second

Fields = list[tuple[bytes, bytes]]


@dataclass
class Reply:
    """What came on one stream."""

    headers: dict[bytes, bytes]
    body: bytes = b""
    ended: bool = False
    reset: ErrorCodes | int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[b":status"])

    @property
    def code(self) -> int:
        """Of gRPC."""
        return int(self.headers[b"grpc-status"])


class Streams:
    """A client's end of an HTTP/2 connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.machine = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.replies: dict[int, Reply] = {}
        self.ended: ErrorCodes | int | None = None  # why the server says that it ends the connection

    @classmethod
    async def open(cls, port: int, *, window: int | None = None) -> Self:
        """With `window` bytes that each stream may bring before more is granted."""
        streams = cls(await connect(port))
        if window is not None:
            streams.machine.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
            streams.machine.local_settings.acknowledge()  # h2 tells what is acknowledged alone
        streams.machine.initiate_connection()
        streams.write()
        return streams

    def write(self) -> None:
        self.connection.write(self.machine.data_to_send())

    async def ask(self, fields: Fields, body: bytes = b"", *, end: bool = True) -> int:
        """Opens a stream, and says its number. The body is sent as the server's windows allow."""
        number: int = self.machine.get_next_available_stream_id()
        self.machine.send_headers(number, fields, end_stream=end and not body)
        self.replies[number] = Reply({})
        await self.say(number, body, end=end)
        return number

    async def say(self, number: int, data: bytes, *, end: bool) -> None:
        while data:
            room = min(self.machine.local_flow_control_window(number), self.machine.max_outbound_frame_size)
            if room <= 0:
                await self.take()
                continue
            self.machine.send_data(number, data[:room], end_stream=end and room >= len(data))
            data = data[room:]
        self.write()

    async def reply(self, number: int) -> Reply:
        """What came on a stream, once that is all.

        Raises:
            Lost: it was reset, or the connection ended.
        """
        reply = self.replies[number]
        while not reply.ended:
            if reply.reset is not None:
                raise Lost(f"stream {number} was reset: {reply.reset!r}")
            await self.take()
        return self.replies.pop(number)

    async def message(self, number: int) -> bytes | None:
        """The next message on a stream; None: it has ended."""
        reply = self.replies[number]
        while True:
            size = PREFIX + int.from_bytes(reply.body[1:PREFIX], "big")
            if len(reply.body) >= max(PREFIX, size):
                found, reply.body = reply.body[PREFIX:size], reply.body[size:]
                return found
            if reply.ended:
                if reply.body:
                    raise Fault(f"a stream ended amid a message: {reply.body[:40]!r}")
                return None
            if reply.reset is not None:
                raise Lost(f"stream {number} was reset: {reply.reset!r}")
            await self.take()

    async def take(self) -> None:
        """Takes what comes next, whatever it is.

        Raises:
            Lost: the server has closed the connection.
            Fault: it sent what RFC 9113 forbids.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                data = await self.connection.reader.read(1 << 16)
        except (OSError, TimeoutError) as error:
            raise Lost(f"no answer: {error!r}") from error
        if not data:
            raise Lost(f"the connection was closed: {self.ended!r}")
        try:
            events = self.machine.receive_data(data)
        except ProtocolError as error:
            raise Fault(f"HTTP/2 was broken: {error!r}") from error
        for event in events:
            self._take(event)
        self.write()

    def _take(self, event: Any) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = event.error_code
            return
        reply = self.replies.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, DataReceived):
            self.machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if reply is None:
            return
        match event:
            case ResponseReceived() | TrailersReceived():
                reply.headers |= dict(event.headers)
            case DataReceived():
                reply.body += event.data
            case StreamEnded():
                reply.ended = True
            case StreamReset():
                reply.reset = event.error_code

    async def end(self) -> int | None:
        """Waits until the server closes the connection, whatever else it sends, and gives the code of its last GOAWAY.

        Raises:
            Fault: it does not.
        """
        received = b""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while data := await self.connection.reader.read(1 << 16):
                    received += data
        except TimeoutError:
            raise Fault("the connection was not closed") from None
        except ConnectionError:
            pass
        code = None
        while len(received) >= 9:
            length = 9 + int.from_bytes(received[:3], "big")
            if received[3] == GoAwayFrame.type:
                code = int.from_bytes(received[13:17], "big")
            received = received[length:]
        return code

    def close(self) -> None:
        self.connection.writer.close()


def post(path: str, *further: tuple[bytes, bytes]) -> Fields:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"localhost"), (b":path", path.encode())]
    return [*fields, *further]


def call(method: str, *further: tuple[bytes, bytes]) -> Fields:
    return post(method, (b"te", b"trailers"), (b"content-type", b"application/grpc"), *further)


# Requests, and whether the answer to one is right


@dataclass(frozen=True)
class Question:
    fields: Fields
    body: bytes
    digits: list[int]
    read: Callable[[Reply], list[int]]

    def check(self, reply: Reply, tally: Tally) -> None:
        """Counts the answer.

        Raises:
            Fault: it is neither right nor shed.
        """
        status = reply.headers.get(b"grpc-status")
        if reply.status in SHED or (status is not None and int(status) in SHED_CODES):
            tally.shed += 1
            return
        if reply.status != 200 or status not in (None, b"0"):
            raise Fault(f"{reply.headers} {reply.body[:120]!r} in place of an answer")
        found = self.read(reply)
        if found != self.digits:
            raise Fault(f"the digits {found[:10]} in place of {self.digits[:10]}")
        tally.right += 1


def v2_json(target: Target, dice: random.Random, number: int = 1) -> Question:
    images, digits = pick(target, dice, number)
    fields = post(f"/v2/models/{target.model}/infer", (b"content-type", b"application/json"))
    return Question(fields, v2_body(images), digits, lambda reply: digits_of_json(reply.body))


def infer_message(target: Target, dice: random.Random, number: int = 1) -> tuple[bytes, list[int]]:
    """A message of ModelInfer, raw or typed, and the right digits."""
    images, digits = pick(target, dice, number)
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [number, 28, 28]}
    contents: dict[str, Any] = {"raw_input_contents": [images.tobytes()]}
    if dice.random() < 0.25:
        tensor["contents"], contents = {"uint_contents": images.ravel().tolist()}, {}
    message: bytes = INFER(model_name=target.model, inputs=[tensor], **contents).SerializeToString()
    return message, digits


def model_infer(target: Target, dice: random.Random, number: int = 1) -> Question:
    message, digits = infer_message(target, dice, number)
    deadline = ((b"grpc-timeout", b"30S"),) if dice.random() < 0.5 else ()
    return Question(call(MODEL_INFER, *deadline), framed(message), digits, _digits_of_call)


def _digits_of_call(reply: Reply) -> list[int]:
    return digits_of(RESPONSE.FromString(reply.body[PREFIX:]))


def digits_of(response: Any) -> list[int]:
    """Of a ModelInferResponse."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "digits":
            found: list[int] = np.frombuffer(raw, "<i8").tolist()
            return found
    raise Fault("the answer has no digits")


# Behaviours. Each opens a connection of its own to the data port, which alone speaks HTTP/2.


async def _ask(target: Target, dice: random.Random, tally: Tally, make: Callable[..., Question]) -> None:
    """A few rounds of streams at once, with windows that hold an answer or only a part of one."""
    streams = await Streams.open(target.data_port, window=dice.choice((None, None, 100)))
    try:
        for _ in range(dice.randint(1, 4)):
            questions = [make(target, dice, dice.choice((1, 1, 8))) for _ in range(dice.randint(1, MOST_AT_ONCE))]
            numbers = [await streams.ask(question.fields, question.body) for question in questions]
            for question, number in zip(questions, numbers, strict=True):
                question.check(await streams.reply(number), tally)
    finally:
        streams.close()


async def asks(target: Target, dice: random.Random, tally: Tally) -> None:
    """REST over HTTP/2."""
    await _ask(target, dice, tally, v2_json)


async def calls(target: Target, dice: random.Random, tally: Tally) -> None:
    """Calls of gRPC, one message each way."""
    await _ask(target, dice, tally, model_infer)


async def streams(target: Target, dice: random.Random, tally: Tally) -> None:
    """One call with many messages, answered in the order in which they were sent; at times with a pause amid them."""
    connection = await Streams.open(target.data_port)
    try:
        number = await connection.ask(call(STREAM_INFER), end=False)
        for _ in range(dice.randint(1, 3)):
            asked = [infer_message(target, dice, dice.choice((1, 4))) for _ in range(dice.randint(1, MOST_AT_ONCE))]
            await connection.say(number, b"".join(framed(message) for message, _ in asked), end=False)
            for _, digits in asked:
                came = await connection.message(number)
                if came is None:
                    raise Lost("the stream ended before its answers")
                answer = STREAMED.FromString(came)
                if "SAMEDIGIT_MAX_" in answer.error_message:  # which a message of a stream is told in words alone
                    tally.shed += 1
                    continue
                if answer.error_message:
                    raise Fault(answer.error_message)
                if digits_of(answer.infer_response) != digits:
                    raise Fault(f"other digits than {digits}")
                tally.right += 1
            await asyncio.sleep(dice.choice((0, PAUSE_SECONDS)))
        connection.machine.end_stream(number)
        connection.write()
        if (code := (await connection.reply(number)).code) != Code.OK:
            raise Fault(f"the stream ended with {code}")
    finally:
        connection.close()


async def cancels(target: Target, dice: random.Random, tally: Tally) -> None:
    """Asks much, wants a part of it no more, and is answered the rest."""
    connection = await Streams.open(target.data_port)
    try:
        questions = [model_infer(target, dice, dice.choice((1, 8))) for _ in range(MOST_AT_ONCE)]
        numbers = [await connection.ask(question.fields, question.body) for question in questions]
        for number in numbers[::2]:
            if not connection.replies[number].ended:
                connection.machine.reset_stream(number, ErrorCodes.CANCEL)
        connection.write()
        for question, number in list(zip(questions, numbers, strict=True))[1::2]:
            question.check(await connection.reply(number), tally)
    finally:
        connection.close()


async def vanishes(target: Target, dice: random.Random, tally: Tally) -> None:
    """Goes amid its calls, or before their answers: RST."""
    connection = await Streams.open(target.data_port)
    for _ in range(dice.randint(1, MOST_AT_ONCE)):
        question = dice.choice((model_infer, v2_json))(target, dice, 8)
        await connection.ask(
            question.fields, question.body[: dice.randrange(1, len(question.body))], end=dice.random() < 0.5
        )
    await asyncio.sleep(dice.choice((0, 0.002)))
    connection.connection.reset()


async def leaves_a_call_open(target: Target, dice: random.Random, tally: Tally) -> None:
    """Opens calls, of which none ends: a stream with answers, a large body without its last byte. Then it is gone."""
    connection = await Streams.open(target.data_port)
    stream = await connection.ask(call(STREAM_INFER), framed(infer_message(target, dice)[0]), end=False)
    await connection.ask(call(MODEL_INFER), framed(infer_message(target, dice, 250)[0])[:-1], end=False)
    if await connection.message(stream) is None:
        raise Lost("the stream ended before its answer")
    tally.right += 1
    await asyncio.sleep(PAUSE_SECONDS)
    if dice.random() < 0.5:
        connection.connection.reset()
    else:
        connection.close()


async def never_opens_its_window(target: Target, dice: random.Random, tally: Tally) -> None:
    """Asks for many answers, and has room for none of them."""
    connection = await Streams.open(target.data_port, window=0)
    for _ in range(64):
        question = v2_json(target, dice)
        await connection.ask(question.fields, question.body)
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    connection.connection.reset()


async def floods(target: Target, dice: random.Random, tally: Tally) -> None:
    """Frames that ask for nothing and cost the server something, until it says that it is enough."""
    connection = await Streams.open(target.data_port)
    try:
        ping = PingFrame(0, opaque_data=bytes(8)).serialize()
        settings = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1000}).serialize()
        opened = HeadersFrame(1, data=b"\x82").serialize()  # a header block that goes on, and on
        flood = dice.choice(
            (ping * FLOOD, settings * FLOOD, opened + ContinuationFrame(1, data=b"").serialize() * FLOOD, None)
        )
        if flood is None:
            fields = call(MODEL_INFER)
            for _ in range(FLOOD // 10):  # rapid reset
                number = connection.machine.get_next_available_stream_id()
                connection.machine.send_headers(number, fields)
                connection.machine.reset_stream(number, ErrorCodes.CANCEL)
            flood = connection.machine.data_to_send()
        # None: the connection was reset before that could be read
        if (code := await _provoke(connection, flood, tally)) not in (ErrorCodes.ENHANCE_YOUR_CALM, None):
            raise Fault(f"a flood ended with the code {code}")
    finally:
        connection.close()


async def _provoke(connection: Streams, sent: bytes, tally: Tally) -> int | None:
    """Sends what a server has to end the connection for, and gives the code with which it does."""
    code = None
    with contextlib.suppress(ConnectionError):
        connection.connection.write(sent)
        code = await connection.end()
    tally.refused += 1
    return code


async def talks_garbage(target: Target, dice: random.Random, tally: Tally) -> None:
    """A right preface, and frames that nobody understands."""
    connection = await Streams.open(target.data_port)
    try:
        sent = b""
        for _ in range(dice.randint(1, 20)):
            kind, flags, number = dice.randrange(10), dice.randrange(256), dice.choice((0, 1, 2, 3, 2**31 - 1))
            payload = dice.randbytes(dice.choice((0, 4, 5, 8, 100)))
            head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big")
            sent += head + payload
        await _provoke(connection, sent + bytes(9), tally)  # DATA on stream 0: a mistake in any case
    finally:
        connection.close()


async def calls_wrongly(target: Target, dice: random.Random, tally: Tally) -> None:
    connection = await Streams.open(target.data_port)
    try:
        message, _ = infer_message(target, dice)
        unknown = INFER.FromString(message)
        unknown.model_name = "none.onnx"
        fields, body, code = dice.choice((
            (call(MODEL_INFER), framed(unknown.SerializeToString()), Code.NOT_FOUND),
            (call(MODEL_INFER), framed(message[:-1]), Code.INVALID_ARGUMENT),
            (call(MODEL_INFER), b"\x01" + framed(message)[1:], Code.UNIMPLEMENTED),
            (call(MODEL_INFER), framed(message)[:-1], Code.UNIMPLEMENTED),
            (call("/inference.GRPCInferenceService/Nothing"), framed(b""), Code.UNIMPLEMENTED),
            (call("/nothing.Service/Nothing"), framed(b""), Code.UNIMPLEMENTED),
            (call(MODEL_INFER, (b"grpc-timeout", b"soon")), framed(message), Code.INVALID_ARGUMENT),
            (call(MODEL_INFER, (b"content-length", b"1000000000000")), b"", Code.RESOURCE_EXHAUSTED),
        ))  # fmt: skip
        reply = await connection.reply(await connection.ask(fields, body, end=b"content-length" not in dict(fields)))
        if reply.code != code:
            raise Fault(f"{reply.headers} in place of {code!r} to {fields[3:]}")
        tally.refused += 1
    finally:
        connection.close()
