"""Calls of gRPC at the door, in front of models that take their time: no port, no framework."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import numpy as np
import pytest
from test_door import INFER as INFER_PATH
from test_door import KEY, Own, infer_body, until_idle

from digits.contract import Images, Probabilities
from serving.batching import Batcher
from serving.conversations import AT_ONCE
from serving.errors import Kind, RequestError
from serving.messages import Answer, Conversation, Exchange, Head, Headers
from serving.protocols import grpc, protos
from serving.protocols.v2_grpc import INFER, RESPONSE
from serving.routes import CALLS

SERVICE: Final = "/inference.GRPCInferenceService/"
STREAMED: Final = protos.message("inference.ModelStreamInferResponse")
HEALTH: Final = protos.message("grpc.health.v1.HealthCheckResponse")


def infer_message(model: str = "first", images: int = 1, **fields: Any) -> bytes:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [images, 28, 28]}
    message: bytes = INFER(
        model_name=model, inputs=[tensor], raw_input_contents=[bytes(784 * images)], **fields
    ).SerializeToString()
    return message


class Carried:
    """A connection that takes whatever is sent over it."""

    def __init__(self, door: Own) -> None:
        self.door = door
        self.sent: list[bytes] = []
        self.resumed = 0

    def send(self, number: int, message: bytes) -> None:
        self.sent.append(grpc.message_of(message))

    def end(self, number: int, headers: Headers) -> None:
        raise AssertionError("the door ends a call by its answer")

    def resume(self, number: int) -> None:
        self.resumed += 1


class Calls(Own):
    """A door, and calls of it."""

    def call(self, method: str, headers: dict[bytes, bytes] | None = None) -> Exchange:
        """One that is admitted."""
        path = method if method.startswith("/") else SERVICE + method
        lines = {b"content-type": b"application/grpc"} | (headers or {})
        head = Head("POST", path.encode(), path, "", lines, False, None, True, False)
        exchange = Exchange(head, address="10.0.0.1", port="data", reply=lambda _, answer: self.answers.append(answer))
        exchange.is_call = True
        self.door.admit(exchange, foreign=False)
        return exchange

    def say(self, method: str, message: bytes = b"", headers: dict[bytes, bytes] | None = None) -> Exchange:
        """A call with its one message."""
        exchange = self.call(method, headers)
        self.handle(exchange, grpc.framed(message))
        return exchange

    def open(self, method: str, headers: dict[bytes, bytes] | None = None) -> tuple[Exchange, Conversation, Carried]:
        """A call that streams."""
        exchange = self.call(method, headers)
        assert exchange.streams
        carried = Carried(self)
        exchange.stream = Conversation(carried, 1)
        self.door.handle(exchange)
        return exchange, exchange.stream, carried

    def count(self) -> list[tuple[str, int, str]]:
        """From here on: what the metrics are told of each answer, its route, status and model."""
        counted: list[tuple[str, int, str]] = []

        def answered(exchange: Exchange, status: int) -> None:
            counted.append((exchange.route.rpartition("/")[2], status, exchange.model))

        self.metrics.answered = answered  # type: ignore[method-assign]
        return counted


def status_of(answer: Answer) -> tuple[int, str]:
    headers = dict(answer.headers)
    return int(headers[b"grpc-status"]), headers.get(b"grpc-message", b"").decode()


def responses(carried: Carried) -> list[str]:
    """What came of a stream: the id of each answer, or the sentence of each refusal."""
    found = [STREAMED.FromString(message) for message in carried.sent]
    return [one.error_message or one.infer_response.id for one in found]


# One message, one answer


def test_a_call_is_answered_with_one_message_and_counted_by_its_method_and_model() -> None:
    async def test() -> None:
        own = Calls()
        counted = own.count()
        own.say("ModelInfer", infer_message(images=3, id="me"))
        await until_idle()
        (answer,) = own.answers
        assert (answer.status, answer.headers) == (200, ((b"content-type", b"application/grpc"),))
        response = RESPONSE.FromString(grpc.message_of(answer.body))
        assert (response.model_name, response.model_version, response.id) == ("first", "1", "me")
        np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[0], "<f4"), np.full(30, 0.1, "<f4"))
        assert counted == [("ModelInfer", 200, "first.onnx")]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("message", "status", "code", "sentence"),
    [
        (infer_message(images=3), 400, 3, "Too many images: at most 2 in one request, got 3."),
        (b"\xff", 400, 3, "The 1 bytes are no inference.ModelInferRequest."),
    ],
)
def test_a_refusal_has_a_code_of_grpc_and_is_counted_with_rests_status(
    message: bytes, status: int, code: int, sentence: str
) -> None:
    async def test() -> None:
        own = Calls(max_images="2")
        counted = own.count()
        own.say("ModelInfer", message)
        (answer,) = own.answers
        assert status_of(answer) == (code, sentence)
        assert answer.body == b""
        assert counted == [("ModelInfer", status, "")]

    asyncio.run(test())


def test_what_fails_in_the_server_is_internal_and_says_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        own = Calls()
        own.models.named = lambda name, version=None: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        own.say("ModelInfer", infer_message())
        assert status_of(own.answers[0]) == (13, "The server failed; its log says why.")

    asyncio.run(test())
    assert "ZeroDivisionError" in caplog.text


def test_a_method_that_there_is_not_is_unimplemented_and_every_other_is_found() -> None:
    own = Calls(control="on", control_keys=KEY)
    for path in ("/inference.GRPCInferenceService/TraceSetting", "/x", "/v2", "/inference.GRPCInferenceService/"):
        with pytest.raises(RequestError) as refused:
            own.call(path)
        assert (refused.value.kind, str(refused.value)) == (Kind.UNSUPPORTED, f"There is no method {path}.")
    for route in CALLS:
        assert own.call(route.pattern, {b"x-api-key": KEY.encode()}).route == route.pattern


def test_over_http_1_the_path_of_a_call_is_refused_with_what_it_needs() -> None:
    own = Own()
    with pytest.raises(RequestError) as refused:
        own.admit(SERVICE + "ModelInfer")
    assert refused.value.kind is Kind.MEDIA_TYPE
    assert str(refused.value).endswith("which comes over HTTP/2 with content-type: application/grpc.")


def test_calls_need_the_keys_that_requests_need() -> None:
    own = Calls(keys=KEY, control="on", control_keys=KEY + "-2")
    for route in CALLS:
        given = {b"authorization": b"Bearer " + (KEY + "-2" if route.control else KEY).encode()}
        own.call(route.pattern, given)
        if route.open:
            own.call(route.pattern)
            continue
        with pytest.raises(RequestError) as refused:
            own.call(route.pattern, {b"x-api-key": KEY.encode()} if route.control else None)
        assert refused.value.kind is Kind.UNAUTHENTICATED
    assert {route.pattern.rpartition("/")[2] for route in CALLS if route.open} == {
        "ServerLive", "ServerReady", "Check", "Watch",
    }  # fmt: skip
    assert {route.answers for route in CALLS if route.control} == {"call_load", "call_unload"}


def test_control_is_forbidden_where_it_is_off() -> None:
    with pytest.raises(RequestError, match="SAMEDIGIT_CONTROL=on") as refused:
        Calls().call("RepositoryModelLoad")
    assert grpc.CODES[refused.value.kind] is grpc.Code.PERMISSION_DENIED


# Deadlines, and clients that go away


def test_a_calls_deadline_counts_in_the_queue() -> None:
    async def test() -> None:
        own = Calls()
        own.say("ModelInfer", infer_message(), {b"grpc-timeout": b"1m"})
        own.say("ModelInfer", infer_message(), {b"grpc-timeout": b"10S"})
        time.sleep(0.002)  # the loop has no time for them yet
        await until_idle()
        code, sentence = status_of(own.answers[0])
        assert code == grpc.Code.DEADLINE_EXCEEDED
        assert sentence.startswith("The request expired after ")
        assert own.statuses() == [503, 200]
        assert own.shed("expired") == 1

    asyncio.run(test())


def test_a_deadline_that_passed_before_the_message_came_is_exceeded() -> None:
    async def test() -> None:
        own = Calls()
        exchange = own.call("ModelInfer", {b"grpc-timeout": b"1u"})
        time.sleep(0.001)
        own.handle(exchange, grpc.framed(infer_message()))
        await until_idle()
        assert status_of(own.answers[0])[0] == grpc.Code.DEADLINE_EXCEEDED

    asyncio.run(test())


def test_a_deadline_that_is_none_is_refused_by_the_head() -> None:
    with pytest.raises(RequestError, match="grpc-timeout takes up to eight digits"):
        Calls().call("ModelInfer", {b"grpc-timeout": b"soon"})


class Counting:
    """A runtime that says how many images it was asked for."""

    def __init__(self) -> None:
        self.images: list[int] = []

    def predict(self, images: Images) -> Probabilities:
        self.images.append(len(images))
        return np.full((len(images), 10), 0.1, np.float32)


def test_a_call_that_is_cancelled_leaves_the_queue() -> None:
    async def test() -> None:
        own, runtime = Calls(), Counting()
        object.__setattr__(own.models.opened["first"], "batcher", Batcher(runtime, own.models.settings))
        exchange = own.say("ModelInfer", infer_message(images=5))
        own.say("ModelInfer", infer_message(images=2))
        own.door.leave(exchange)
        await until_idle()
        assert runtime.images == [2]
        assert own.statuses() == [200]

    asyncio.run(test())


def test_calls_and_requests_of_rest_run_together_out_of_one_queue() -> None:
    async def test() -> None:
        own, runtime = Calls(), Counting()
        object.__setattr__(own.models.opened["first"], "batcher", Batcher(runtime, own.models.settings))
        own.say("ModelInfer", infer_message(images=2))
        own.ask(INFER_PATH, infer_body(3))
        _, call, carried = own.open("ModelStreamInfer")
        call.received(grpc.framed(infer_message(images=4, id="s")))
        await until_idle()
        assert runtime.images == [9]
        assert own.statuses() == [200, 200]
        assert responses(carried) == ["s"]

    asyncio.run(test())


def test_a_crowded_model_is_unavailable() -> None:
    async def test() -> None:
        own = Calls(max_waiting="1")
        own.fill("first")
        await until_idle()
        own.fill("first")
        own.say("ModelInfer", infer_message())
        assert status_of(own.answers[0]) == (
            14, "Too many requests wait for this model (SAMEDIGIT_MAX_WAITING).",
        )  # fmt: skip
        assert own.shed("waiting") == 1

    asyncio.run(test())


def test_a_model_without_room_is_unavailable_and_says_when_to_try_again() -> None:
    async def test() -> None:
        own = Calls(max_queue="1")
        own.fill("first")
        own.say("ModelInfer", infer_message())
        (answer,) = own.answers
        assert status_of(answer)[0] == grpc.Code.UNAVAILABLE
        assert dict(answer.headers)[b"grpc-retry-pushback-ms"] == b"1000"
        assert own.shed("queue") == 1

    asyncio.run(test())


# Streamed inference


def test_requests_of_a_stream_are_answered_in_their_order_each_counted_by_its_model() -> None:
    async def test() -> None:
        own = Calls()
        counted = own.count()
        exchange, call, carried = own.open("ModelStreamInfer")
        for number, model in enumerate(["second", "first", "nothing", "second", "echo", "first"]):
            if model == "nothing":
                call.received(grpc.framed(b"\xff"))
            else:
                call.received(grpc.framed(infer_message(model, id=str(number))))
        call.half_closed()
        assert not exchange.answered
        await until_idle()
        assert responses(carried) == ["0", "1", "The 1 bytes are no inference.ModelInferRequest.", "3", "4", "5"]
        assert own.answers == [Answer(200, b"", (*grpc.HEADERS, (b"grpc-status", b"0")))]
        assert sorted(counted) == sorted(
            [("ModelStreamInfer", 200, model) for model in ("first.onnx", "second.onnx") for _ in range(2)]
            + [("ModelStreamInfer", 400, ""), ("ModelStreamInfer", 200, ""), ("ModelStreamInfer", 200, "")]
        )

    asyncio.run(test())


def test_a_refused_request_of_a_stream_has_its_id_and_the_next_is_answered() -> None:
    async def test() -> None:
        own = Calls(max_queue="1")
        own.fill("first")
        _, call, carried = own.open("ModelStreamInfer")
        call.received(grpc.framed(infer_message(id="mine")))
        call.received(grpc.framed(infer_message("second", id="next")))
        await until_idle()
        refused, answered = (STREAMED.FromString(message) for message in carried.sent)
        assert refused.error_message.startswith("The queue is full")
        assert refused.infer_response.id == "mine"
        assert (answered.error_message, answered.infer_response.id) == ("", "next")

    asyncio.run(test())


def test_a_stream_takes_so_many_requests_at_once_and_goes_on_when_they_are_answered() -> None:
    async def test() -> None:
        own = Calls()
        _, call, carried = own.open("ModelStreamInfer")
        for number in range(AT_ONCE):
            assert not call.paused
            call.received(grpc.framed(infer_message(id=str(number))))
        assert call.paused
        await until_idle()
        assert not call.paused
        assert carried.resumed == 1
        assert responses(carried) == [str(number) for number in range(AT_ONCE)]

    asyncio.run(test())


@pytest.mark.parametrize("limit", ["max_requests", "max_request_bytes", "max_rate"])
def test_every_request_of_a_stream_is_admitted_as_one_that_comes_alone(limit: str) -> None:
    size = len(grpc.framed(infer_message()))
    value = {"max_requests": 2, "max_request_bytes": size + 10, "max_rate": 2}[limit]
    more = {"max_body_bytes": str(size)} if limit == "max_request_bytes" else {}

    async def test() -> None:
        own = Calls(**{limit: str(value)}, **more)
        _, call, carried = own.open("ModelStreamInfer")
        for _ in range(2):
            call.received(grpc.framed(infer_message()))
        await until_idle()
        first, second = responses(carried)
        assert first == ""
        assert "requests are under way" in second or "fill their room" in second or "requests a second" in second

    asyncio.run(test())


def test_the_place_of_every_request_of_a_stream_is_free_again() -> None:
    async def test() -> None:
        own = Calls(max_requests="3")
        for ending in ("answered", "left", "refused") * 3:
            exchange, call, carried = own.open("ModelStreamInfer")
            call.received(grpc.framed(infer_message()))
            call.received(grpc.framed(infer_message()))
            if ending == "answered":
                call.half_closed()
                await until_idle()
                assert responses(carried) == ["", ""]
            elif ending == "left":
                own.door.leave(exchange)
            else:
                own.door.refuse(exchange, RequestError(Kind.TOO_LARGE, "Too much."))
            await until_idle()
            assert len(carried.sent) == (2 if ending == "answered" else 0)
            assert not own.door._conversations
        own.open("ModelStreamInfer")

    asyncio.run(test())


def test_nothing_of_a_stream_runs_or_is_sent_once_its_client_is_gone() -> None:
    async def test() -> None:
        own, runtime = Calls(), Counting()
        object.__setattr__(own.models.opened["first"], "batcher", Batcher(runtime, own.models.settings))
        counted = own.count()
        exchange, call, carried = own.open("ModelStreamInfer")
        for _ in range(3):
            call.received(grpc.framed(infer_message()))
        own.door.leave(exchange)
        await until_idle()
        assert runtime.images == []
        assert carried.sent == []
        assert own.answers == []
        assert [status for _, status, _ in counted] == [499] * 4

    asyncio.run(test())


def test_a_streams_deadline_counts_for_each_of_its_requests() -> None:
    async def test() -> None:
        own = Calls()
        _, call, carried = own.open("ModelStreamInfer", {b"grpc-timeout": b"1m"})
        call.received(grpc.framed(infer_message()))
        time.sleep(0.002)
        await until_idle()
        assert responses(carried)[0].startswith("The request expired after ")

    asyncio.run(test())


def test_a_compressed_request_of_a_stream_is_refused() -> None:
    async def test() -> None:
        own = Calls()
        _, call, carried = own.open("ModelStreamInfer")
        call.received(b"\x01\x00\x00\x00\x01a")
        assert responses(carried) == ["The body must not be compressed; send it as it is."]

    asyncio.run(test())


def test_a_stream_without_a_request_ends_well() -> None:
    own = Calls()
    _, call, carried = own.open("ModelStreamInfer")
    call.half_closed()
    assert carried.sent == []
    assert status_of(own.answers[0])[0] == 0


def test_when_the_server_is_stopped_a_stream_ends_with_the_answers_to_what_was_asked() -> None:
    async def test() -> None:
        own = Calls()
        _, call, carried = own.open("ModelStreamInfer")
        idle = own.open("ModelStreamInfer")
        call.received(grpc.framed(infer_message(id="1")))
        call.received(grpc.framed(infer_message(id="2")))
        own.door.drain()
        assert call.paused
        assert [status_of(answer) for answer in own.answers] == [(14, "The server is being stopped.")]
        await until_idle()
        assert responses(carried) == ["1", "2"]
        assert [status_of(answer)[0] for answer in own.answers] == [14, 14]
        assert idle[2].sent == []

    asyncio.run(test())


# Health and reflection


def health(own: Calls, service: str) -> Any:
    request = protos.message("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()
    own.say("/grpc.health.v1.Health/Check", request)
    return own.answers.pop()


def ready(own: Calls, reason: str | None) -> None:
    own.models.why_not_ready = lambda: reason  # type: ignore[attr-defined]


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "grpc.health.v1.Health"])
def test_health_is_that_of_the_server(service: str) -> None:
    own = Calls()
    for reason, status in ((None, "SERVING"), ("Every model was unloaded.", "NOT_SERVING")):
        ready(own, reason)
        found = HEALTH.FromString(grpc.message_of(health(own, service).body))
        assert found.status == HEALTH.ServingStatus.Value(status)


def test_the_health_of_a_service_that_there_is_not_is_not_found() -> None:
    own = Calls()
    ready(own, None)
    code, sentence = status_of(health(own, "nothing"))
    assert code == grpc.Code.NOT_FOUND
    assert sentence == "No service 'nothing' is here; there is inference.GRPCInferenceService."


def watch(own: Calls, service: str) -> tuple[Exchange, Conversation, Carried]:
    exchange, call, carried = own.open("/grpc.health.v1.Health/Watch")
    call.received(grpc.framed(protos.message("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()))
    call.half_closed()
    return exchange, call, carried


def watched(carried: Carried) -> list[str]:
    return [HEALTH.ServingStatus.Name(HEALTH.FromString(message).status) for message in carried.sent]


def test_watch_says_health_at_once_and_when_it_changes_until_the_server_is_stopped() -> None:
    own = Calls(max_requests="1")
    ready(own, None)
    carried, unknown = watch(own, "")[2], watch(own, "nothing")[2]
    exchange, _, gone = watch(own, "")
    own.door.leave(exchange)
    for reason in (None, "Every model was unloaded.", "Every model was unloaded.", None):
        ready(own, reason)
        own.door.tell()
    assert watched(carried) == ["SERVING", "NOT_SERVING", "SERVING"]
    assert watched(unknown) == ["SERVICE_UNKNOWN"]
    assert watched(gone) == ["SERVING"]
    ready(own, "The server is being stopped.")
    own.door.drain()
    assert watched(carried) == ["SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING"]
    assert [status_of(answer) for answer in own.answers] == [(14, "The server is being stopped.")] * 2


@pytest.mark.parametrize("messages", [0, 2])
def test_watch_takes_one_message(messages: int) -> None:
    own = Calls()
    ready(own, None)
    _, call, _ = own.open("/grpc.health.v1.Health/Watch")
    if messages:
        call.received(grpc.framed(b""))
    last = call.half_closed if messages == 0 else lambda: call.received(grpc.framed(b""))
    with pytest.raises(RequestError, match="One message was expected"):
        last()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_question_after_question(version: str) -> None:
    own = Calls()
    _, call, carried = own.open(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    request = protos.message("grpc.reflection.v1.ServerReflectionRequest")
    for _ in range(2):
        call.received(grpc.framed(request(list_services="").SerializeToString()))
    call.half_closed()
    found = [protos.message("grpc.reflection.v1.ServerReflectionResponse").FromString(one) for one in carried.sent]
    assert [len(one.list_services_response.service) for one in found] == [4, 4]
    assert status_of(own.answers[0])[0] == 0
