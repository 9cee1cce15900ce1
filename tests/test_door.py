"""The door in front of models that stand still: no port, no framework."""

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

JSON: Final = {b"content-type": b"application/json"}
IMAGES: Final[Images] = np.zeros((1, 28, 28), np.uint8)


class Slow:
    def predict(self, images: Images) -> Probabilities:
        time.sleep(0.002)  # more than is soon
        return np.full((len(images), 10), 0.1, np.float32)


class Model:
    def __init__(self, recipe: str) -> None:
        self.recipe, self.version, self.tag = recipe, "1", f"{recipe}:1"


class Models:
    """Two of one backend, each with its queue; the first answers without a name. One request may wait for each."""

    def __init__(self) -> None:
        self.settings = read_settings({"SAMEDIGIT_MAX_WAITING": "1"})
        self.opened = {recipe: self._open(recipe) for recipe in ("first", "second")}

    def _open(self, recipe: str) -> Opened:
        batcher = Batcher(Slow(), self.settings)
        return Opened(cast(Any, Model(recipe)), "onnx", batcher, cast(Any, None), cast(Any, None))

    def find(self, backend: Backend, name: str | None) -> Opened:
        return self.opened[name or "first"]


class Own:
    def __init__(self) -> None:
        self.models = Models()
        self.metrics = Metrics()
        self.door = Door(cast(ServedModels, self.models), metrics=self.metrics)
        self.answers: list[Answer] = []

    def admit(self) -> Exchange:
        head = Head("POST", b"/predict/onnx", "/predict/onnx", "", JSON, False, 4000, True, False)
        exchange = Exchange(head, address="10.0.0.1", port="data", reply=lambda _, answer: self.answers.append(answer))
        self.door.admit(exchange, foreign=False)
        return exchange

    def handle(self, exchange: Exchange, model: str | None) -> None:
        """Its body is whole, and names this model."""
        exchange.body = orjson.dumps({"images": IMAGES.tolist()} | ({} if model is None else {"model": model}))
        self.door.handle(exchange)

    def fill(self, recipe: str) -> None:
        waiting = Exchange(Head("POST", b"/", "/", "", {}, False, 0, True, False), address="", port="", reply=nobody)
        self.models.opened[recipe].batcher.submit(IMAGES, lambda _: None, exchange=waiting)

    def shed(self) -> int:
        (line,) = [
            line
            for line in self.metrics.exposition([], 0).decode().splitlines()
            if line.startswith('samedigit_shed_total{reason="waiting"')
        ]
        return int(line.rpartition(" ")[2])


async def warm() -> Own:
    """One whose models have run, so that it is known how long they take."""
    own = Own()
    for recipe in own.models.opened:
        own.fill(recipe)
    await until_idle()
    return own


async def until_idle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def nobody(exchange: Exchange, answer: Answer) -> None:
    raise AssertionError("it was not asked to answer")


def test_a_model_that_only_the_body_names_is_asked_for_room_once_that_is_known() -> None:
    async def test() -> None:
        own = await warm()
        own.fill("second")
        own.handle(own.admit(), "second")
        (refused,) = own.answers
        assert refused.status == 503
        assert (b"retry-after", b"1") in refused.headers
        assert b"Too many requests wait for this model" in refused.body
        assert own.shed() == 1
        own.handle(own.admit(), "first")
        await until_idle()
        assert [answer.status for answer in own.answers] == [503, 200]

    asyncio.run(test())


def test_what_was_admitted_for_the_model_that_answers_without_a_name_is_not_refused_again() -> None:
    async def test() -> None:
        own = await warm()
        admitted = own.admit()
        own.fill("first")
        own.handle(admitted, None)
        await until_idle()
        assert [answer.status for answer in own.answers] == [200]

    asyncio.run(test())


def test_without_a_name_the_head_alone_is_refused() -> None:
    async def test() -> None:
        own = await warm()
        own.fill("first")
        with pytest.raises(RequestError) as refused:
            own.admit()
        assert refused.value.kind is Kind.BUSY
        assert own.shed() == 1

    asyncio.run(test())
