"""The batcher: what runs together, who gets which answer, and what happens when too much comes. Without a server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import numpy as np
import pytest

from digits.contract import Images, Probabilities
from serving.batching import Batcher, Counted
from serving.errors import Kind, RequestError
from serving.messages import Exchange, Head
from serving.settings import Settings, read_settings

Outcome = Probabilities | RequestError


@dataclass
class Runtime:
    """Answers an image whose first pixels spell n with a row that spells n, and keeps what it was given."""

    seconds: float = 0
    fails: bool = False
    batches: list[list[int]] = field(default_factory=list)
    on_predict: Callable[[], None] = lambda: None

    def predict(self, images: Images) -> Probabilities:
        numbers = numbers_of(images)
        self.batches.append(numbers)
        self.on_predict()
        time.sleep(self.seconds)
        if self.fails:
            raise ValueError("no")
        return np.repeat(np.array(numbers, np.float32)[:, None], 10, axis=1)


@dataclass
class Asked:
    """A request and what came of it."""

    numbers: list[int]
    exchange: Exchange
    outcomes: list[Outcome] = field(default_factory=list)

    def is_right(self) -> bool:
        (outcome,) = self.outcomes  # once
        assert not isinstance(outcome, RequestError), outcome
        return outcome.shape == (len(self.numbers), 10) and outcome[:, 7].tolist() == self.numbers

    def error(self) -> RequestError:
        (outcome,) = self.outcomes
        assert isinstance(outcome, RequestError)
        return outcome


def images_of(numbers: list[int]) -> Images:
    images = np.zeros((len(numbers), 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.array(numbers) // 256, np.array(numbers) % 256
    return images


def numbers_of(images: Images) -> list[int]:
    found: list[int] = (images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]).tolist()
    return found


def settings(*, max_batch: int = 8, max_queue: int = 1000, deadline_ms: int = 60_000) -> Settings:
    return read_settings(
        {
            "SAMEDIGIT_MAX_BATCH": str(max_batch),
            "SAMEDIGIT_MAX_QUEUE": str(max_queue),
            "SAMEDIGIT_DEADLINE_MS": str(deadline_ms),
        }
    )


HEAD: Final = Head("POST", b"/", "/", "", {}, False, 0, True, False)


def ask(batcher: Batcher, *numbers: int, timeout_us: int = 0) -> Asked:
    exchange = Exchange(HEAD, address="10.0.0.1", port="data", reply=lambda exchange, answer: None)
    asked = Asked(list(numbers), exchange)
    batcher.submit(images_of(asked.numbers), asked.outcomes.append, exchange=exchange, timeout_us=timeout_us)
    return asked


async def until_idle() -> None:
    """Turns the loop more often than any test here has batches."""
    for _ in range(100):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def test_a_lone_request_runs_at_once_and_alone() -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings())
        for number in range(3):
            asked = ask(batcher, number)
            assert asked.outcomes == []  # never before submit returns
            await asyncio.sleep(0)  # one turn of the loop, and no waiting for others
            assert asked.is_right()
        assert runtime.batches == [[0], [1], [2]]

    run(test)


def test_what_waits_runs_together_in_the_order_in_which_it_came() -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings())
        asked = [ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4)]
        await asyncio.sleep(0)
        assert runtime.batches == [[1, 2, 3, 4]]
        assert all(one.is_right() for one in asked)

    run(test)


def test_what_comes_while_a_batch_runs_makes_the_next_one() -> None:
    async def test() -> None:
        asked: list[Asked] = []

        def more() -> None:
            if len(runtime.batches) == 1:
                asked.extend([ask(batcher, 10), ask(batcher, 11)])

        runtime = Runtime(on_predict=more)
        batcher = Batcher(runtime, settings())
        asked.append(ask(batcher, 1))
        await until_idle()
        assert runtime.batches == [[1], [10, 11]]
        assert all(one.is_right() for one in asked)

    run(test)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([1] * 20, [8, 8, 4]),
        ([3, 3, 3, 3], [6, 6]),
        ([8, 1], [8, 1]),
        ([1, 8], [1, 8]),
        ([20, 1, 1], [20, 2]),  # a request is never divided, and runs alone if it is larger than a batch
        ([1, 20, 1], [1, 20, 1]),
        ([4, 4, 4], [8, 4]),
        ([7, 2, 1], [7, 3]),  # nobody overtakes
    ],
)
def test_a_batch_is_never_larger_than_allowed_unless_one_request_is(sizes: list[int], batches: list[int]) -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings(max_batch=8))
        numbers = iter(range(sum(sizes)))
        asked = [ask(batcher, *(next(numbers) for _ in range(size))) for size in sizes]
        await until_idle()
        assert [len(batch) for batch in runtime.batches] == batches
        assert [number for batch in runtime.batches for number in batch] == list(range(sum(sizes)))
        assert all(one.is_right() for one in asked)

    run(test)


def test_with_batches_of_one_every_request_runs_alone() -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings(max_batch=1))
        asked = [ask(batcher, number) for number in range(5)]
        await until_idle()
        assert runtime.batches == [[0], [1], [2], [3], [4]]
        assert all(one.is_right() for one in asked)

    run(test)


def test_between_two_batches_others_have_their_turn() -> None:
    """The loop reads sockets, and other models run, before the next batch does."""

    async def test() -> None:
        order: list[str] = []
        runtime = Runtime(on_predict=lambda: order.append("this"))
        other = Runtime(on_predict=lambda: order.append("other"))
        batcher, beside = Batcher(runtime, settings(max_batch=1)), Batcher(other, settings(max_batch=1))
        for number in range(3):
            ask(batcher, number)
        for number in range(3):
            ask(beside, number)
        await until_idle()
        assert order == ["this", "other"] * 3

    run(test)


def test_every_answer_belongs_to_its_images_whatever_comes_when() -> None:
    async def test() -> None:
        random, runtime = Random(3), Runtime()
        batcher = Batcher(runtime, settings(max_batch=32, max_queue=100_000))
        asked: list[Asked] = []
        numbers = iter(range(50_000))
        for _ in range(1500):
            for _ in range(random.randint(0, 6)):
                asked.append(ask(batcher, *(next(numbers) for _ in range(random.choice([1, 1, 1, 2, 5, 17, 30])))))
            await asyncio.sleep(0)
        while not asked[-1].outcomes:
            await asyncio.sleep(0)
        assert len(asked) > 4000
        assert all(one.is_right() for one in asked)
        assert len({len(batch) for batch in runtime.batches}) > 10
        ran = [number for batch in runtime.batches for number in batch]
        assert ran == sorted(ran)

    run(test)


# Too much, or too late


def test_a_full_queue_refuses_with_503_and_says_when_to_come_again() -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings(max_queue=5))
        asked = [ask(batcher, 1, 2), ask(batcher, 3, 4)]
        with pytest.raises(RequestError) as refused:
            ask(batcher, 5, 6)
        assert refused.value.kind is Kind.BUSY
        assert refused.value.retry_after_seconds == 1
        assert str(refused.value) == "The queue is full: 4 images wait for this model. Try again."
        asked.append(ask(batcher, 7))  # which fits
        with pytest.raises(RequestError):
            ask(batcher, 8)
        await until_idle()
        asked += [ask(batcher, 9, 10), ask(batcher, 11, 12, 13)]  # there is room again, for as many
        await until_idle()
        assert all(one.is_right() for one in asked)
        assert runtime.batches == [[1, 2, 3, 4, 7], [9, 10, 11, 12, 13]]
        assert batcher.statistics.failure.count == 2

    run(test)


def test_a_request_larger_than_the_queue_is_taken_when_nobody_waits() -> None:
    async def test() -> None:
        batcher = Batcher(Runtime(), settings(max_queue=2))
        asked = ask(batcher, *range(50))
        with pytest.raises(RequestError, match="The queue is full: 50 images wait"):
            ask(batcher, 1)
        await until_idle()
        assert asked.is_right()

    run(test)


@pytest.mark.parametrize(("deadline_ms", "timeout_us"), [(20, 0), (60_000, 20_000), (20, 60_000_000)])
def test_a_request_that_waited_too_long_is_refused_and_not_run(deadline_ms: int, timeout_us: int) -> None:
    """By the server's deadline or by its own timeout, whichever is shorter; the time in the queue counts."""

    async def test() -> None:
        runtime = Runtime(seconds=0.05)
        batcher = Batcher(runtime, settings(max_batch=1, deadline_ms=deadline_ms))
        first = ask(batcher, 1, timeout_us=timeout_us)
        late = [ask(batcher, number, timeout_us=timeout_us) for number in (2, 3)]
        await until_idle()
        assert first.is_right()
        for one in late:
            assert one.error().kind is Kind.EXPIRED
            assert one.error().retry_after_seconds == 1
            assert str(one.error()).startswith("The request expired after ")
            assert int(str(one.error()).split()[4]) >= 50_000  # us, at least while the first one ran
        assert runtime.batches == [[1]]
        assert batcher.statistics.failure.count == 2
        assert batcher.statistics.failure.ns >= 2 * 50_000_000
        after = ask(batcher, 4, timeout_us=timeout_us)
        await until_idle()
        assert after.is_right()

    run(test)


def test_an_expired_request_takes_nobodys_place_in_a_batch() -> None:
    async def test() -> None:
        runtime = Runtime(seconds=0.02)
        batcher = Batcher(runtime, settings(max_batch=2))
        first = ask(batcher, 1, 2)
        late = ask(batcher, 3, timeout_us=1000)
        others = [ask(batcher, 4), ask(batcher, 5)]
        await until_idle()
        assert late.error().kind is Kind.EXPIRED
        assert all(one.is_right() for one in [first, *others])
        assert runtime.batches == [[1, 2], [4, 5]]

    run(test)


def test_when_all_that_waits_has_expired_nothing_runs_and_the_next_request_does() -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings())
        late = [ask(batcher, number, timeout_us=1) for number in range(3)]
        time.sleep(0.001)
        await until_idle()
        assert [one.error().kind for one in late] == [Kind.EXPIRED] * 3
        assert runtime.batches == []
        asked = ask(batcher, 9)
        await until_idle()
        assert asked.is_right()

    run(test)


# A runtime that fails


def test_a_failure_is_everybodys_500_and_the_next_batch_works(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        runtime = Runtime(fails=True)
        batcher = Batcher(runtime, settings(max_batch=3))
        asked = [ask(batcher, number) for number in range(5)]
        await asyncio.sleep(0)
        for one in asked[:3]:
            assert one.error().kind is Kind.FAILED
            assert str(one.error()) == "The model failed; the server's log says why."
        runtime.fails = False
        await until_idle()
        assert all(one.is_right() for one in asked[3:])
        assert batcher.statistics.failure.count == 3
        assert batcher.statistics.success.count == 2
        assert batcher.statistics.images == 2
        assert list(batcher.statistics.batches) == [2]

    with caplog.at_level(logging.ERROR, "samedigit"):
        run(test)
    (record,) = caplog.records
    assert record.getMessage() == "A batch of 3 requests failed"
    assert record.exc_info is not None


# Statistics


def test_the_statistics_add_up() -> None:
    async def test() -> None:
        runtime = Runtime(seconds=0.01)
        batcher = Batcher(runtime, settings(max_batch=4))
        began, began_ns = time.time_ns(), time.monotonic_ns()
        asked = [ask(batcher, 1, 2), ask(batcher, 3), ask(batcher, 4), ask(batcher, 5, 6, 7), ask(batcher, 8)]
        await until_idle()
        took = time.monotonic_ns() - began_ns
        assert all(one.is_right() for one in asked)
        found = batcher.statistics
        assert found.images == 8
        assert {images: batches.count for images, batches in found.batches.items()} == {4: 2}
        assert took > found.batches[4].ns > 20_000_000
        parts = [found.queue, found.compute_input, found.compute_infer, found.compute_output]
        assert [part.count for part in [found.success, *parts]] == [5] * 5
        assert all(part.ns > 0 for part in parts)
        assert found.success.ns == sum(part.ns for part in parts)
        # Three requests saw the runtime's 10 ms once, and two, which waited, another time.
        assert found.compute_infer.ns >= 5 * 10_000_000
        assert found.queue.ns >= 2 * 10_000_000
        assert found.success.ns <= 5 * took
        assert found.failure == Counted(0, 0)
        assert began <= found.last_ns <= time.time_ns()

    run(test)


def test_each_size_of_batch_is_counted_by_itself() -> None:
    async def test() -> None:
        batcher = Batcher(Runtime(), settings(max_batch=8))
        for size in (1, 2, 2, 8, 1, 1):
            ask(batcher, *range(size))
            await until_idle()
        assert {size: one.count for size, one in batcher.statistics.batches.items()} == {1: 3, 2: 2, 8: 1}
        assert batcher.statistics.images == 15

    run(test)
