"""A model's pace: what is made of the times of its batches, and how those are taken. With times that a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from digits.contract import Images, Probabilities
from serving.pace import CALLS, SIZE_NS, Pace, measure, pace_of
from serving.settings import Settings, read_settings

DENSE = {1: 12, 2: 13, 4: 16, 8: 25, 16: 42, 32: 74, 64: 138, 128: 270, 256: 530}  # us, as onnxruntime's
HEAVY_CALL = {1: 220, 2: 222, 4: 225, 8: 230, 16: 245, 32: 290, 64: 350, 128: 500, 256: 760}  # as TensorFlow's
CONVOLUTIONS = {1: 93, 2: 168, 4: 336, 8: 672, 16: 1344, 32: 2688, 64: 5376, 128: 10752}


def pace(times_us: dict[int, int], budget_ms: int = 10, *, cores: int = 2) -> Pace:
    return pace_of({size: 1000 * us for size, us in times_us.items()}, budget_ns=1_000_000 * budget_ms, cores=cores)


@pytest.mark.parametrize("times_us", [DENSE, HEAVY_CALL])
def test_a_model_that_gains_by_every_image_more_has_batches_as_large_as_they_may_be_and_all_on_the_loop(
    times_us: dict[int, int],
) -> None:
    found = pace(times_us)
    assert (found.batch, found.piece) == (256, 256)
    assert found.short > 256
    assert found.times_ns[256] == 1000 * times_us[256]


def test_what_is_short_may_run_together_though_it_gains_little() -> None:
    """Nobody waits for it, and the server has one turn less."""
    gains_little = {**DENSE, 128: 240}  # each of 256 images takes nine hundredths less, turn and all
    assert pace(gains_little).batch == 256


def test_a_model_that_takes_as_long_for_every_image_has_small_batches_and_long_ones_leave_the_loop() -> None:
    found = pace(CONVOLUTIONS)
    assert found.batch == 16  # where a turn of the server costs less than a tenth
    assert found.piece == 16  # of a large request: more at once gains nothing, and takes memory
    assert found.short == 3  # 0.3 ms


def test_on_one_core_a_slow_model_has_short_batches_on_the_loop_and_only_large_requests_leave_it() -> None:
    found = pace(CONVOLUTIONS, cores=1)
    assert (found.batch, found.piece, found.short) == (8, 8, 11)
    found = pace({1: 2000, 2: 2200, 4: 2500, 8: 3000}, cores=1)  # nothing is short
    assert (found.batch, found.piece, found.short) == (8, 8, 0)
    assert pace(DENSE, cores=1) == pace(DENSE, cores=2)


@pytest.mark.parametrize(
    ("times_us", "budget_ms", "expected"),
    [
        ({1: 50_000}, 10, (1, 1, 0)),  # it must run, however long that takes
        ({1: 2000, 2: 4000, 4: 8000, 8: 16_000}, 10, (1, 1, 0)),
        ({1: 2000, 2: 2200, 4: 2500, 8: 3000, 16: 12_000}, 10, (8, 8, 0)),
        ({1: 2000, 2: 2200, 4: 2500, 8: 3000, 16: 12_000}, 20, (8, 8, 0)),  # 16 would fit, and not pay
        ({1: 2000, 2: 2200, 4: 2500, 8: 3000, 16: 5000}, 20, (16, 16, 0)),
        ({1: 2000, 2: 2200, 4: 2500, 8: 3000, 16: 5000}, 1, (1, 1, 0)),
        ({1: 12}, 10, (1, 1, 83)),  # max_batch 1
        ({1: 500, 2: 510, 4: 520, 8: 540, 16: 580, 32: 660}, 10, (32, 32, 48)),
        ({1: 400, 2: 800}, 10, (2, 2, 0)),
        ({1: 200, 2: 400}, 10, (2, 2, 1)),
    ],
)
def test_batches_grow_as_far_as_they_pay_within_the_budget(
    times_us: dict[int, int], budget_ms: int, expected: tuple[int, int, int]
) -> None:
    found = pace(times_us, budget_ms)
    assert (found.batch, found.piece, found.short) == expected


@dataclass
class Timed:
    """Takes as long as `takes_us` says of its n-th batch of so many images; nothing passes but that."""

    takes_us: Callable[[int, int], int]
    now_ns: int = 0
    ran: list[int] = field(default_factory=list)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def predict(self, images: Images) -> Probabilities:
        assert images.shape[1:] == (28, 28)
        assert images.dtype == np.uint8
        self.now_ns += 1000 * self.takes_us(len(images), self.ran.count(len(images)))
        self.ran.append(len(images))
        return np.zeros((len(images), 10), np.float32)


def measured(
    monkeypatch: pytest.MonkeyPatch, takes_us: Callable[[int, int], int], settings: Settings
) -> tuple[Timed, Pace]:
    timed = Timed(takes_us)
    monkeypatch.setattr("serving.pace.time", timed)
    return timed, measure(timed, settings)


def settings(**values: int) -> Settings:
    return read_settings({f"SAMEDIGIT_{name.upper()}": str(value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [1, 2]), (100, [1, 2, 4, 8, 16, 32, 64, 100]), (256, [1, 2, 4, 8, 16, 32, 64, 128, 256])],
)
def test_batches_are_tried_up_to_the_largest_that_may_be(
    monkeypatch: pytest.MonkeyPatch, max_batch: int, sizes: list[int]
) -> None:
    timed, found = measured(monkeypatch, lambda size, call: 10 + size, settings(max_batch=max_batch))
    assert timed.ran == [size for size in sizes for _ in range(CALLS)]
    assert found.times_ns == {size: 10_000 + 1000 * size for size in sizes}
    assert found.batch == max_batch


def test_no_batch_is_tried_beyond_the_first_that_outruns_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, _ = measured(monkeypatch, lambda size, call: 3000 + 800 * size, settings(batch_budget_ms=5))
    assert sorted(set(timed.ran)) == [1, 2, 4]
    assert timed.now_ns < 3 * 2 * SIZE_NS  # in all


def test_no_batch_is_tried_beyond_the_first_that_is_long_and_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, found = measured(monkeypatch, lambda size, call: CONVOLUTIONS[size], settings(batch_budget_ms=10))
    assert sorted(set(timed.ran)) == [1, 2, 4, 8, 16]
    assert found == pace(CONVOLUTIONS)


def test_a_model_that_takes_seconds_is_run_twice_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, found = measured(monkeypatch, lambda size, call: 3_000_000, settings())
    assert timed.ran == [1, 1]
    assert found.batch == 1


def test_a_busy_moment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes_us(size: int, call: int) -> int:
        return 50_000 if call == 0 and size in (1, 8) else DENSE[size]

    _, found = measured(monkeypatch, takes_us, settings())
    assert found.batch == 256
    assert found.times_ns == {size: 1000 * us for size, us in DENSE.items()}


def test_a_batch_is_taken_to_be_no_slower_than_its_halves_and_a_smaller_one_no_slower_than_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    takes_us = {**DENSE, 16: 30_000, 64: 900}
    _, found = measured(monkeypatch, lambda size, call: takes_us[size], settings())
    assert found.batch == 256
    expected = {**DENSE, 16: 50, 32: 74, 64: 148}
    assert found.times_ns == {size: 1000 * us for size, us in expected.items()}
    takes_us = {**DENSE, 2: 24, 4: 40, 8: 21}
    _, found = measured(monkeypatch, lambda size, call: takes_us[size], settings())
    expected = {**DENSE, 2: 21, 4: 21, 8: 21}
    assert found.times_ns == {size: 1000 * us for size, us in expected.items()}
