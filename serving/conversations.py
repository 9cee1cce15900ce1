"""Calls whose messages come and go one after another, over their `Conversation`: inference, watched health, reflection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from serving.errors import Kind, RequestError
from serving.messages import Answer, Exchange
from serving.models import ServedModels
from serving.protocols import grpc, grpc_control, protos, reflection

AT_ONCE: Final = 16  # requests of one call that are under way; further ones wait for their answers

Finish = Callable[[Exchange, Answer], None]

_DONE: Final = Answer(200, b"", grpc.HEADERS + grpc.OK)


class Streaming(Protocol):
    """What answers a call that streams."""

    def tell(self) -> None:
        """Says what has changed by itself. Due every second."""
        ...

    def drain(self) -> None:
        """Ends the call, once what was asked is answered: the server is being stopped."""
        ...


class StreamedInfer:
    """Requests are under way together, and answered in their order. One that is refused does not end the call.

    Args:
        ask: answers one request of the call, which is an exchange of its own: now or later, and never raises.
        leave: nobody waits for it any more.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        ask: Callable[[Exchange], None],
        leave: Callable[[Exchange], None],
        finish: Finish,
    ) -> None:
        assert exchange.stream is not None
        self._exchange = exchange
        self._conversation = conversation = exchange.stream
        self._ask = ask
        self._leave = leave
        self._finish = finish
        self._asked: deque[Exchange] = deque()  # in their order
        self._answers: dict[Exchange, bytes] = {}  # of those that others come before
        self._end: Answer | None = None  # what ends the call, once everything is answered
        conversation.received = self._receive
        conversation.half_closed = lambda: self._end_with(_DONE)
        conversation.left = self._stop

    def _receive(self, message: bytes) -> None:
        call = self._exchange
        one = Exchange(call.head, address=call.address, port=call.port, reply=self._reply)
        one.route, one.key, one.expires_ns, one.is_call = call.route, call.key, call.expires_ns, True
        one.body = message
        self._asked.append(one)
        if len(self._asked) >= AT_ONCE:
            self._conversation.paused = True
        self._ask(one)

    def _reply(self, one: Exchange, answer: Answer) -> None:
        self._answers[one] = answer.body
        asked, answers = self._asked, self._answers
        while asked and asked[0] in answers:
            self._conversation.send(answers.pop(asked.popleft()))
        self._settle()

    def _end_with(self, answer: Answer) -> None:
        self._end = self._end or answer
        self._settle()

    def _settle(self) -> None:
        if self._end is not None:
            if not self._asked:
                self._finish(self._exchange, self._end)
        elif self._conversation.paused and len(self._asked) < AT_ONCE:
            self._conversation.resume()

    def _stop(self) -> None:
        asked = list(self._asked)
        self._asked.clear()
        self._answers.clear()
        for one in asked:
            self._leave(one)

    def tell(self) -> None:
        pass

    def drain(self) -> None:
        self._conversation.paused = True
        self._end_with(_stopped())


class Watch:
    """Says whether a service answers, at once and whenever that changes."""

    def __init__(self, exchange: Exchange, *, served: ServedModels, finish: Finish) -> None:
        assert exchange.stream is not None
        self._exchange = exchange
        self._conversation = conversation = exchange.stream
        self._served = served
        self._finish = finish
        self._service: str | None = None  # None: the request has not come
        self._said = b""
        conversation.received = self._receive
        conversation.half_closed = self._half_close

    def _receive(self, message: bytes) -> None:
        if self._service is not None:
            raise RequestError(Kind.UNSUPPORTED, "One message was expected, another came.")
        self._service = protos.read(grpc_control.WATCHED, grpc.message_of(message)).service
        self.tell()

    def _half_close(self) -> None:
        if self._service is None:
            raise RequestError(Kind.UNSUPPORTED, "One message was expected, none came.")

    def tell(self) -> None:
        if self._service is not None:
            found = grpc_control.health(self._served, self._service) or grpc_control.unknown_health()
            message = found.SerializeToString()
            if message != self._said:
                self._said = message
                self._conversation.send(grpc.framed(message))

    def drain(self) -> None:
        self.tell()
        self._finish(self._exchange, _stopped())


class Reflection:
    """Answers question after question."""

    def __init__(self, exchange: Exchange, *, finish: Finish) -> None:
        assert exchange.stream is not None
        self._exchange = exchange
        self._conversation = conversation = exchange.stream
        self._finish = finish
        conversation.received = self._receive
        conversation.half_closed = lambda: finish(exchange, _DONE)

    def _receive(self, message: bytes) -> None:
        self._conversation.send(grpc.framed(reflection.answer(grpc.message_of(message))))

    def tell(self) -> None:
        pass

    def drain(self) -> None:
        self._finish(self._exchange, _stopped())


def _stopped() -> Answer:
    return grpc.refusal(RequestError(Kind.BUSY, "The server is being stopped.", retry_after_seconds=1))
