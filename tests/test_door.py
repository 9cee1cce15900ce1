"""The door in front of models that take their time: no port, no framework."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

import numpy as np
import orjson
import pytest

from digits.contract import Backend, Images, Probabilities
from serving.batching import Batcher
from serving.door import Door
from serving.errors import Kind, RequestError
from serving.messages import Answer, Exchange, Head
from serving.metrics import Metrics
from serving.models import ServedModels
from serving.opening import Opened
from serving.settings import read_settings

PREDICT: Final = "/predict/onnx"
INFER: Final = "/v2/models/first/infer"
KEY: Final = "the-key-of-this-test"


class Slow:
    def predict(self, images: Images) -> Probabilities:
        time.sleep(0.025)  # more than who waits has patience for
        return np.full((len(images), 10), 0.1, np.float32)


class Model:
    def __init__(self, recipe: str) -> None:
        self.recipe, self.version, self.tag = recipe, "1", f"{recipe}:1"


class Models:
    """Two of one backend, each with its queue; the first answers without a name."""

    def __init__(self, **settings: str) -> None:
        self.settings = read_settings({f"SAMEDIGIT_{name.upper()}": value for name, value in settings.items()})
        self.opened = {recipe: self._open(recipe) for recipe in ("first", "second")}

    def _open(self, recipe: str) -> Opened:
        batcher = Batcher(Slow(), self.settings)
        return Opened(cast(Any, Model(recipe)), "onnx", batcher, cast(Any, None), cast(Any, None))

    def find(self, backend: Backend, name: str | None) -> Opened:
        return self.opened[name or "first"]

    def named(self, name: str, version: str | None = None) -> Opened:
        return self.opened[name]


class Own:
    """A door, its answers in their order, and what it counted."""

    def __init__(self, **settings: str) -> None:
        self.models = Models(**settings)
        self.metrics = Metrics()
        self.door = Door(cast(ServedModels, self.models), metrics=self.metrics)
        self.answers: list[Answer] = []

    def admit(
        self,
        path: str = PREDICT,
        headers: dict[bytes, bytes] | None = None,
        *,
        method: str = "POST",
        foreign: bool = False,
    ) -> Exchange:
        lines = {b"content-type": b"application/json"} | (headers or {})
        head = Head(method, path.encode(), path, "", lines, False, 4000, True, False)
        exchange = Exchange(head, address="10.0.0.1", port="data", reply=lambda _, answer: self.answers.append(answer))
        self.door.admit(exchange, foreign=foreign)
        return exchange

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Its body is whole."""
        exchange.body = body
        self.door.handle(exchange)

    def ask(self, path: str, body: bytes) -> None:
        raw = {b"inference-header-content-length": b"0"}
        self.handle(self.admit(path, {} if body.startswith(b"{") else raw), body)

    def fill(self, recipe: str) -> None:
        """Lets one request wait for a model."""
        waiting = Exchange(Head("POST", b"/", "/", "", {}, False, 0, True, False), address="", port="", reply=nobody)
        self.models.opened[recipe].batcher.submit(np.zeros((1, 28, 28), np.uint8), lambda _: None, exchange=waiting)

    def shed(self, reason: str) -> int:
        lines = self.metrics.exposition([], 0).decode().splitlines()
        return sum(
            int(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f'samedigit_shed_total{{reason="{reason}"')
        )

    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


async def warm(**settings: str) -> Own:
    """One whose models have run, so that it is known how long they take."""
    own = Own(**settings)
    for recipe in own.models.opened:
        own.fill(recipe)
        await until_idle()
    return own


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def nobody(exchange: Exchange, answer: Answer) -> None:
    raise AssertionError("it was not asked to answer")


def predict_body(images: int = 1, model: str | None = None) -> bytes:
    return orjson.dumps(
        {"images": np.zeros((images, 28, 28), int).tolist()} | ({} if model is None else {"model": model})
    )


def infer_body(images: int = 1, **parameters: int) -> bytes:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [images, 28, 28], "data": [0] * (784 * images)}
    return orjson.dumps({"inputs": [tensor], "parameters": parameters})


# How many images


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, predict_body),
        ("/echo", predict_body),
        (INFER, infer_body),
        (INFER, lambda images: bytes(784 * images)),
        ("/v2/models/echo/infer", infer_body),
    ],
    ids=["predict", "echo", "infer in JSON", "infer in binary", "infer echo"],
)
def test_every_route_takes_as_many_images_as_is_set_and_no_more(path: str, body: Any) -> None:
    async def test() -> None:
        own = Own(max_images="2")
        own.ask(path, body(3))
        own.ask(path, body(2))
        await until_idle()
        assert own.statuses() == [400, 200]
        assert b"at most 2 in one request, got 3" in own.answers[0].body

    asyncio.run(test())


# Places


@pytest.mark.parametrize("ending", ["answered", "refused", "left"])
def test_a_place_is_free_again_however_a_request_ends(ending: str) -> None:
    async def test() -> None:
        own = Own(max_requests="1")
        first = own.admit()
        with pytest.raises(RequestError, match="1 requests are under way"):
            own.admit()
        if ending == "answered":
            own.handle(first, predict_body())
            await until_idle()
        elif ending == "refused":
            own.handle(first, b"{")
        else:
            own.door.leave(first)
        own.admit()
        assert own.statuses() == {"answered": [200], "refused": [400], "left": []}[ending]

    asyncio.run(test())


# Room in a model's queue


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_a_model_without_room_refuses_by_the_head_alone(path: str) -> None:
    async def test() -> None:
        own = await warm(max_waiting="1")
        own.admit(path)
        own.fill("first")
        with pytest.raises(RequestError, match="Too many requests wait for this model") as refused:
            own.admit(path)
        assert refused.value.kind is Kind.BUSY
        assert own.shed("waiting") == 1
        own.admit(path.replace("first", "second") if path is INFER else "/echo")

    asyncio.run(test())


def test_a_model_that_only_the_body_names_is_asked_for_room_once_that_is_known() -> None:
    async def test() -> None:
        own = await warm(max_waiting="1")
        own.fill("second")
        own.ask(PREDICT, predict_body(model="second"))
        (refused,) = own.answers
        assert refused.status == 503
        assert (b"retry-after", b"1") in refused.headers
        assert b"Too many requests wait for this model" in refused.body
        assert own.shed("waiting") == 1
        own.ask(PREDICT, predict_body(model="first"))
        await until_idle()
        assert own.statuses() == [503, 200]

    asyncio.run(test())


def test_what_was_admitted_for_the_model_that_answers_without_a_name_is_not_refused_again() -> None:
    async def test() -> None:
        own = await warm(max_waiting="1")
        admitted = own.admit()
        own.fill("first")
        own.handle(admitted, predict_body())
        await until_idle()
        assert own.statuses() == [200]

    asyncio.run(test())


@pytest.mark.parametrize(("path", "body"), [(INFER, infer_body()), (PREDICT, predict_body())])
def test_a_full_queue_of_images_is_counted_as_shed(path: str, body: bytes) -> None:
    async def test() -> None:
        own = Own(max_queue="1")
        own.fill("first")
        own.ask(path, body)
        assert own.statuses() == [503]
        assert b"The queue is full" in own.answers[0].body
        assert own.shed("queue") == 1

    asyncio.run(test())


def test_a_requests_own_time_limit_reaches_the_queue_and_what_expires_is_counted_as_shed() -> None:
    async def test() -> None:
        own = Own()
        own.ask(INFER, infer_body(timeout=1000))
        own.ask(INFER, infer_body())
        time.sleep(0.002)  # the loop has no time for them yet
        await until_idle()
        assert own.statuses() == [503, 200]
        assert b"The request expired after" in own.answers[0].body
        assert own.shed("expired") == 1

    asyncio.run(test())


# Keys


def test_the_door_asks_for_a_key_for_its_own_pages_and_for_those_of_others() -> None:
    own = Own(keys=KEY)
    for path, foreign in ((PREDICT, False), ("/schema.json", True)):
        with pytest.raises(RequestError) as refused:
            own.admit(path, foreign=foreign)
        assert refused.value.kind is Kind.UNAUTHENTICATED
        assert own.admit(path, {b"x-api-key": KEY.encode()}, foreign=foreign).held
    assert not own.admit("/v2/health/live", method="GET").held
