"""The batcher: what runs together, who gets which answer, and what happens when too much comes. Without a server."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, cast

import numpy as np
import pytest

from digits.contract import Images, Probabilities
from serving.batching import Batcher, Counted
from serving.errors import Kind, RequestError
from serving.messages import Exchange, Head
from serving.pace import Pace
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


# Room: asked before a request's body is read


@dataclass
class Clock:
    """Stands still, but for what a batch of so many images takes."""

    takes_ns: dict[int, int] = field(default_factory=dict)
    now_ns: int = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("serving.batching.time", clock)
    return clock


async def batcher_that_ran(clock: Clock, *batches: tuple[int, int], max_waiting: int = 1) -> Batcher:
    """One that has run batches of (images, microseconds), at most 8 images together, one after the other."""
    runtime = Runtime(on_predict=lambda: setattr(clock, "now_ns", clock.now_ns + 1000 * took[0]))
    took = [0]
    values = {"SAMEDIGIT_MAX_BATCH": "8", "SAMEDIGIT_MAX_WAITING": str(max_waiting)}
    batcher = Batcher(runtime, read_settings(values))
    for images, microseconds in batches:
        took[0] = microseconds
        asked = ask(batcher, *range(images))
        await until_idle()
        assert asked.is_right()
    return batcher


def has_room(batcher: Batcher) -> bool:
    """Whether one more request may wait; and if not, that it is said and counted as it should be."""
    failed = batcher.statistics.failure.count
    refused = None
    try:
        batcher.check_room()
    except RequestError as error:
        refused = error
    assert batcher.statistics.failure == Counted(failed + (refused is not None), 0)
    if refused is None:
        return True
    assert (refused.kind, refused.retry_after_seconds) == (Kind.BUSY, 1)
    assert str(refused) == "Too many requests wait for this model (SAMEDIGIT_MAX_WAITING)."
    return False


@pytest.mark.parametrize("max_waiting", [1, 3])
def test_some_may_wait_however_long_they_take_and_no_more(clock: Clock, max_waiting: int) -> None:
    async def test() -> None:
        batcher = await batcher_that_ran(clock, (1, 50_000), max_waiting=max_waiting)
        for number in range(max_waiting):
            assert has_room(batcher)
            ask(batcher, number)
        assert not has_room(batcher)
        await until_idle()
        assert has_room(batcher)

    run(test)


@pytest.mark.parametrize(
    ("ran", "waiting", "room"),
    [
        ([], 100, True),  # nothing is known yet
        ([(8, 8_000)], 16, True),  # 16 ms
        ([(8, 8_000)], 24, False),
        ([(8, 10_000)], 16, True),  # 20 ms is soon
        ([(8, 10_020)], 16, False),
        ([(8, 8_000), (1, 4_000)], 17, True),  # two whole batches, and what is left
        ([(8, 8_000), (1, 4_020)], 17, False),
        ([(8, 8_000), (8, 18_000)], 16, True),  # 10 ms each: a fifth of what is new
        ([(8, 8_000), (8, 18_200)], 16, False),
        ([(1, 6_000)], 24, True),  # larger batches than were seen are taken to be as fast
        ([(1, 6_000)], 32, False),
        ([(1, 6_000), (3, 12_000)], 8, True),  # as the next smaller one, that is
        ([(1, 6_000), (3, 12_000)], 16, False),
        ([(3, 24_000)], 1, True),  # of smaller ones nothing is known
        ([(8, 100_000), (1, 2_400)], 8, True),  # no more than in proportion to what is known of smaller ones
        ([(8, 100_000), (1, 2_600)], 8, False),
        ([(8, 100_000), (3, 4_800)], 8, True),
        ([(8, 100_000), (3, 10_200)], 8, False),
    ],
)
def test_more_may_wait_if_they_will_have_run_within_twenty_milliseconds(
    clock: Clock, ran: list[tuple[int, int]], waiting: int, room: bool
) -> None:
    async def test() -> None:
        batcher = await batcher_that_ran(clock, *ran)
        for number in range(waiting):
            ask(batcher, number)
        assert (batcher.requests_waiting, batcher.images_waiting) == (waiting, waiting)
        assert has_room(batcher) is room

    run(test)


async def crowded_batcher(clock: Clock, images: int = 1) -> Batcher:
    """Of 20 requests that may wait: full, and somebody was refused. Then all have run, in batches of 10 ms."""
    batcher = await batcher_that_ran(clock, (1, 10_000), max_waiting=20)
    assert waiting_until_refused(batcher, images) == 20
    await until_idle()
    return batcher


def waiting_until_refused(batcher: Batcher, images: int = 1) -> int:
    """How many requests of as many images wait in the end."""
    while has_room(batcher):
        ask(batcher, *range(images))
    return batcher.requests_waiting


@pytest.mark.parametrize(("images", "may_wait"), [(1, 16), (4, 16), (5, 8)])
def test_once_somebody_was_refused_only_a_few_may_wait(images: int, may_wait: int, clock: Clock) -> None:
    async def test() -> None:
        batcher = await crowded_batcher(clock, images)
        for _ in range(3):
            assert waiting_until_refused(batcher, images) == may_wait
            await until_idle()

    run(test)


def test_of_a_crowd_no_more_may_wait_than_otherwise(clock: Clock) -> None:
    async def test() -> None:
        batcher = await batcher_that_ran(clock, (1, 30_000), max_waiting=3)
        for _ in range(3):
            assert waiting_until_refused(batcher) == 3
            assert not has_room(batcher)
            await until_idle()

    run(test)


@pytest.mark.parametrize(("images", "may_wait"), [(4, 21), (5, 8)])
def test_only_what_is_small_has_twenty_milliseconds(images: int, may_wait: int, clock: Clock) -> None:
    """Eight images take 2 ms: one may come as long as ten batches wait, or as eight requests do."""

    async def test() -> None:
        batcher = await batcher_that_ran(clock, (8, 2_000), (images, 2_000), max_waiting=8)
        assert waiting_until_refused(batcher, images) == may_wait

    run(test)


@pytest.mark.parametrize(("found_room", "may_wait"), [(3, 16), (4, 20)])  # and 16 more while it is asked how many
def test_once_as_many_in_a_row_found_room_as_may_wait_all_of_them_may_again(
    found_room: int, may_wait: int, clock: Clock
) -> None:
    async def test() -> None:
        batcher = await crowded_batcher(clock)
        for number in range(found_room):
            assert has_room(batcher)
            ask(batcher, number)
            await until_idle()
        assert waiting_until_refused(batcher) == may_wait

    run(test)


@pytest.mark.parametrize(("later_ns", "may_wait"), [(999_999_999, 16), (1_000_000_000, 20)])
def test_a_second_after_the_last_refusal_as_many_may_wait_as_before(later_ns: int, may_wait: int, clock: Clock) -> None:
    async def test() -> None:
        batcher = await crowded_batcher(clock)
        assert waiting_until_refused(batcher) == 16
        refused_ns = clock.now_ns
        await until_idle()
        clock.now_ns = refused_ns + later_ns
        assert waiting_until_refused(batcher) == may_wait

    run(test)


@pytest.mark.parametrize(("later_ns", "may_wait"), [(999_999_999, 3), (1_000_000_000, 81)])
def test_for_a_second_after_a_refusal_nobody_has_twenty_milliseconds(
    later_ns: int, may_wait: int, clock: Clock
) -> None:
    """Eight images take 2 ms: one may come as long as ten batches wait."""

    async def test() -> None:
        batcher = await batcher_that_ran(clock, (8, 2_000), (1, 2_000), max_waiting=3)
        assert waiting_until_refused(batcher) == 81
        refused_ns = clock.now_ns
        await until_idle()
        for number in range(3):  # it is no crowd any more
            assert has_room(batcher)
            ask(batcher, number)
            await until_idle()
        clock.now_ns = refused_ns + later_ns
        assert waiting_until_refused(batcher) == may_wait

    run(test)


def test_in_a_crowd_more_than_a_few_may_wait_if_they_will_have_run_within_a_millisecond(clock: Clock) -> None:
    async def test() -> None:
        batcher = await crowded_batcher(clock)
        cast(Runtime, batcher._runtime).on_predict = lambda: setattr(clock, "now_ns", clock.now_ns + 500_000)
        for size in (8, 1) * 90:  # until both are known to take that long
            ask(batcher, *range(size))
            await until_idle()
        assert waiting_until_refused(batcher) == 17  # two batches of eight are 1 ms

    run(test)


def test_what_has_expired_takes_no_room_in_the_queue_any_more(clock: Clock) -> None:
    async def test() -> None:
        batcher = Batcher(Runtime(), settings(max_queue=4))
        late = ask(batcher, 1, 2, 3, 4, timeout_us=1000)
        clock.now_ns += 1_000_001
        await until_idle()
        assert late.error().kind is Kind.EXPIRED
        assert str(late.error()) == "The request expired after 1000 us in the queue."
        assert late.error().retry_after_seconds == 1
        assert batcher.statistics.failure == Counted(1, 1_000_001)
        assert (batcher.requests_waiting, batcher.images_waiting) == (0, 0)
        asked = [ask(batcher, 5), ask(batcher, 6, 7, 8)]  # all that the queue holds
        await until_idle()
        assert all(one.is_right() for one in asked)

    run(test)


def test_who_has_waited_exactly_as_long_as_he_may_is_run(clock: Clock) -> None:
    async def test() -> None:
        batcher = Batcher(Runtime(), settings(deadline_ms=2))
        asked = [ask(batcher, 1), ask(batcher, 2, timeout_us=2000), ask(batcher, 3, timeout_us=3000)]
        late = ask(batcher, 4, timeout_us=1999)
        clock.now_ns += 2_000_000
        await until_idle()
        assert all(one.is_right() for one in asked)
        assert late.error().kind is Kind.EXPIRED

    run(test)


def test_whose_client_is_gone_is_neither_run_nor_called_nor_counted(clock: Clock) -> None:
    async def test() -> None:
        runtime = Runtime()
        batcher = Batcher(runtime, settings(max_batch=2))
        asked = [ask(batcher, number) for number in range(4)]
        for one in (asked[0], asked[2]):
            one.exchange.gone = True
        await until_idle()
        assert runtime.batches == [[1, 3]]  # the places of those who left are others'
        assert [len(one.outcomes) for one in asked] == [0, 1, 0, 1]
        assert (batcher.requests_waiting, batcher.images_waiting) == (0, 0)
        assert batcher.statistics.failure == Counted(0, 0)

    run(test)


def test_an_exchange_says_what_it_waited_and_what_its_batch_took(clock: Clock) -> None:
    async def test() -> None:
        runtime = Runtime(on_predict=lambda: setattr(clock, "now_ns", clock.now_ns + 70))
        batcher = Batcher(runtime, settings())
        first = ask(batcher, 1)
        clock.now_ns += 500
        second = ask(batcher, 2)
        clock.now_ns += 30
        await until_idle()
        assert [(one.exchange.queue_ns, one.exchange.run_ns) for one in (first, second)] == [(530, 70), (30, 70)]
        found = batcher.statistics
        assert (found.queue, found.compute_infer) == (Counted(2, 560), Counted(2, 140))
        assert found.success == Counted(2, 700)
        assert found.batches == {2: Counted(1, 70)}
        assert found.last_ns == clock.now_ns

    run(test)


def test_batches_are_joined_as_bytes_in_one_array_that_is_used_again() -> None:
    given: list[Images] = []

    class Keeping:
        def predict(self, images: Images) -> Probabilities:
            given.append(images)
            return np.zeros((len(images), 10), np.float32)

    async def test() -> None:
        batcher = Batcher(Keeping(), settings())
        for numbers in ([1, 2], [3, 4, 5]):
            for number in numbers:
                ask(batcher, number)
            await until_idle()
            assert given[-1].dtype == np.uint8
            assert numbers_of(given[-1]) == numbers
        assert np.shares_memory(given[0], given[1])

    run(test)


# A model whose batches are long: they run in a thread, and the loop goes on


SLOW: Final = Pace(batch=4, piece=8, short=2, times_ns={1: 100_000, 2: 200_000, 4: 400_000, 8: 800_000})


class Held(Runtime):
    """Runs when the test lets it, but for batches of one or two images, which run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def predict(self, images: Images) -> Probabilities:
        self.threads.append(threading.get_ident())
        if len(images) > SLOW.short:
            self.begun.release()
            assert self.let.acquire(timeout=20)
        return super().predict(images)

    def thread(self) -> threading.Thread:
        """The one in which the last batch runs."""
        (found,) = [thread for thread in threading.enumerate() if thread.ident == self.threads[-1]]
        return found

    async def has_begun(self) -> None:
        while not self.begun.acquire(blocking=False):
            await asyncio.sleep(0.001)


async def until_answered(*asked: Asked) -> None:
    async with asyncio.timeout(20):
        while not all(one.outcomes for one in asked):
            await asyncio.sleep(0.001)


def test_what_is_short_runs_on_the_loop_and_what_is_long_in_one_other_thread() -> None:
    async def test() -> None:
        runtime = Held()
        batcher = Batcher(runtime, settings(), SLOW)
        for size in (2, 3, 1, 4, 2, 3):
            asked = ask(batcher, *range(size))
            runtime.let.release()
            await until_answered(asked)
            assert asked.is_right()
            runtime.let.acquire(blocking=False)  # by whoever has not needed it
        here = threading.get_ident()
        assert [thread == here for thread in runtime.threads] == [True, False, True, False, True, False]
        assert len(set(runtime.threads)) == 2

    run(test)


def test_while_a_long_batch_runs_other_models_answer_and_what_comes_for_it_waits() -> None:
    async def test() -> None:
        runtime, fast = Held(), Runtime()
        batcher, beside = Batcher(runtime, settings(), SLOW), Batcher(fast, settings())
        first = ask(batcher, 1, 2, 3)
        await runtime.has_begun()
        later = [ask(batcher, number) for number in (4, 5, 6, 7, 8, 9)]
        for number in range(20):
            other = ask(beside, number)
            await asyncio.sleep(0)
            assert other.is_right()
        assert (batcher.requests_waiting, batcher.images_waiting) == (6, 6)
        assert first.outcomes == []
        runtime.let.release()
        await until_answered(first)
        await runtime.has_begun()  # the next batch
        assert [one.outcomes for one in later] == [[]] * 6
        assert runtime.begun.acquire(blocking=False) is False  # and no other beside it
        assert batcher.requests_waiting == 2
        runtime.let.release()
        await until_answered(*later)
        assert all(one.is_right() for one in [first, *later])
        assert runtime.batches == [
            [1, 2, 3],
            [4, 5, 6, 7],
            [8, 9],
        ]  # the last one, short, on the loop: nobody overtakes

    run(test)


def test_a_request_larger_than_a_piece_runs_in_pieces_and_is_answered_and_counted_whole() -> None:
    async def test() -> None:
        runtime = Held()
        batcher = Batcher(runtime, settings(), SLOW)
        asked = [ask(batcher, *range(19)), ask(batcher, 100)]
        runtime.let.release(3)
        await until_answered(*asked)
        assert all(one.is_right() for one in asked)
        assert runtime.batches == [list(range(8)), list(range(8, 16)), [16, 17, 18], [100]]
        assert {size: one.count for size, one in batcher.statistics.batches.items()} == {19: 1, 1: 1}
        assert batcher.statistics.images == 20
        assert batcher.statistics.success.count == 2

    run(test)


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1)])
def test_a_failure_in_the_thread_is_everybodys_500_and_the_next_batch_works(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        def fail() -> None:
            if len(runtime.batches) == 1:
                raise failure

        runtime = Held()
        runtime.on_predict = fail
        runtime.let.release(2)
        batcher = Batcher(runtime, settings(), SLOW)
        asked = [ask(batcher, 1, 2), ask(batcher, 3), ask(batcher, 4, 5, 6)]
        await until_answered(*asked)
        assert [one.error().kind for one in asked[:2]] == [Kind.FAILED] * 2
        assert asked[2].is_right()
        assert (batcher.statistics.failure.count, batcher.statistics.success.count) == (2, 1)

    with caplog.at_level(logging.ERROR, "samedigit"):
        run(test)
    (record,) = caplog.records
    assert record.getMessage() == "A batch of 2 requests failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


@pytest.mark.parametrize("fails", [False, True])
def test_whose_client_goes_while_its_batch_runs_is_not_called_and_the_others_are(fails: bool) -> None:
    async def test() -> None:
        runtime = Held()
        runtime.fails = fails
        batcher = Batcher(runtime, settings(), SLOW)
        asked = [ask(batcher, 1, 2), ask(batcher, 3), ask(batcher, 4)]
        await runtime.has_begun()
        asked[1].exchange.gone = True
        waits = ask(batcher, 5)
        waits.exchange.gone = True
        runtime.let.release()
        await until_answered(asked[0], asked[2])
        await until_idle()
        assert [len(one.outcomes) for one in [*asked, waits]] == [1, 0, 1, 0]
        assert runtime.batches == [[1, 2, 3, 4]]
        assert fails or all(one.is_right() for one in (asked[0], asked[2]))

    run(test)


def test_what_expires_while_a_long_batch_runs_is_refused_and_not_run() -> None:
    async def test() -> None:
        runtime = Held()
        batcher = Batcher(runtime, settings(), SLOW)
        first = ask(batcher, 1, 2, 3)
        await runtime.has_begun()
        late, patient = ask(batcher, 4, timeout_us=1000), ask(batcher, 5)
        await asyncio.sleep(0.002)
        runtime.let.release()
        await until_answered(first, late, patient)
        assert first.is_right()
        assert patient.is_right()
        assert late.error().kind is Kind.EXPIRED
        assert runtime.batches == [[1, 2, 3], [5]]

    run(test)


def test_an_exchange_and_the_statistics_have_the_times_of_a_batch_that_ran_in_the_thread(clock: Clock) -> None:
    async def test() -> None:
        runtime = Held()
        runtime.on_predict = lambda: setattr(clock, "now_ns", clock.now_ns + 70)
        batcher = Batcher(runtime, settings(), SLOW)
        first = ask(batcher, 1, 2)
        clock.now_ns += 500
        second = ask(batcher, 3)
        clock.now_ns += 30
        runtime.let.release()
        async with asyncio.timeout(20):
            while not second.outcomes:
                await asyncio.sleep(0)
        assert [(one.exchange.queue_ns, one.exchange.run_ns) for one in (first, second)] == [(530, 70), (30, 70)]
        found = batcher.statistics
        assert (found.queue, found.compute_infer, found.success) == (Counted(2, 560), Counted(2, 140), Counted(2, 700))
        assert found.batches == {3: Counted(1, 70)}
        assert found.last_ns == clock.now_ns

    run(test)


@pytest.mark.parametrize(
    ("waiting", "later_ns", "room"),
    [
        (1, 0, True),  # 16 ms
        (2, 0, False),
        (2, 3_999_999, False),
        (2, 4_000_000, True),  # of what runs half is over
        (2, 200_000_000, True),  # it takes longer than it should: no less than nothing is left of it
        (3, 200_000_000, False),
    ],
)
def test_who_asks_for_room_is_told_of_what_runs_and_what_it_leaves(
    clock: Clock, waiting: int, later_ns: int, room: bool
) -> None:
    """Four images take 8 ms as they were measured, and as many run: one such batch more is soon, two are not."""

    async def test() -> None:
        runtime = Held()
        values = {"SAMEDIGIT_MAX_BATCH": "8", "SAMEDIGIT_MAX_WAITING": "1"}
        slower = replace(SLOW, times_ns={size: 20 * ns for size, ns in SLOW.times_ns.items()})
        batcher = Batcher(runtime, read_settings(values), slower)
        asked = [ask(batcher, 1, 2, 3, 4)]
        await runtime.has_begun()
        asked += [ask(batcher, 1, 2, 3, 4) for _ in range(waiting)]
        clock.now_ns += later_ns
        assert has_room(batcher) is room
        runtime.let.release(10)
        await until_answered(*asked)

    run(test)


def test_a_batcher_that_is_dropped_while_its_batch_runs_answers_it_and_then_is_gone_with_its_thread() -> None:
    async def test() -> None:
        runtime = Held()
        batcher = Batcher(runtime, settings(), SLOW)
        gone = weakref.ref(batcher)
        asked = [ask(batcher, 1, 2, 3)]
        await runtime.has_begun()
        thread = runtime.thread()
        asked.append(ask(batcher, 4, 5, 6))
        del batcher
        gc.collect()
        assert gone() is not None
        runtime.let.release(2)
        await until_answered(*asked)
        assert all(one.is_right() for one in asked)
        async with asyncio.timeout(20):
            while gone() is not None:  # nothing waits for the collector
                await asyncio.sleep(0.001)
            while thread.is_alive():
                await asyncio.sleep(0.001)

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_a_loop_that_ends_while_a_batch_runs_leaves_nothing_behind() -> None:
    async def test() -> None:
        ask(Batcher(runtime, settings(), SLOW), 1, 2, 3)
        await runtime.has_begun()

    runtime = Held()
    run(test)
    thread = runtime.thread()
    runtime.let.release()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert runtime.batches == [[1, 2, 3]]


def test_every_answer_belongs_to_its_images_whether_its_batch_was_short_or_long() -> None:
    async def test() -> None:
        random, runtime = Random(5), Runtime()
        batcher = Batcher(runtime, settings(max_queue=100_000), SLOW)
        asked: list[Asked] = []
        numbers = iter(range(50_000))
        for _ in range(400):
            for _ in range(random.randint(0, 3)):
                asked.append(ask(batcher, *(next(numbers) for _ in range(random.choice([1, 1, 2, 3, 5, 20])))))
            await asyncio.sleep(0)
        await until_answered(*asked)
        assert all(one.is_right() for one in asked)
        ran = [number for batch in runtime.batches for number in batch]
        assert ran == sorted(ran)

    run(test)
