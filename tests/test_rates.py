"""What is made of an open scenario's points; every figure here is made up or simulated, and none is a measurement."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_report import made_up_models, write_made_up_results

from comparison.intervals import log_interval
from comparison.load import plots
from comparison.load.choice import choices
from comparison.load.rates import (
    Arrived,
    Rates,
    crossing,
    in_words,
    read_rates,
    summarise_rates,
)
from comparison.load.results import Comparison, compare, read_results
from comparison.words import format_ratio
from digits.contract import Backend
from digits.errors import ResultsMissing
from loadtests.open_test import BOUNDS_MS, COLUMNS, Peak, Point
from loadtests.protocols import ProtocolName

POINT = Point(
    model="torch-relu:1", backend="onnx", protocol="grpc", round=1, share=0.5, rate=500.0, requests=1000, failures=0,
    correct=980, first_failure=None, p50_ms=1.0, p99_ms=2.0, late_p99_ms=0.05, client_busy=0.3,
)  # fmt: skip
PEAK = Peak(
    model="torch-relu:1", recipe="torch-relu", framework="torch", backend="onnx", protocol="grpc", users=16,
    requests_per_second=1000.0, failures=0, first_failure=None, client_busy=0.5, server_cpu_us=80.0,
    server_memory_mb=150.0, start_to_ready_seconds=2.0, latencies="open/torch-relu.onnx.grpc.csv",
)  # fmt: skip


def a_round(p99s: dict[float, float | None], *, number: int = 1, backend: Backend = "onnx", **more: Any) -> list[Point]:
    """Points with these p99s by rate."""
    return [
        replace(POINT, backend=backend, round=number, share=rate / 1000, rate=rate, p99_ms=p99_ms, **more)
        for rate, p99_ms in p99s.items()
    ]


def arrived(rounds: Sequence[dict[float, float | None]], *, backend: Backend = "onnx", **more: Any) -> Arrived:
    points = [point for i, p99s in enumerate(rounds) for point in a_round(p99s, number=i + 1, backend=backend, **more)]
    return Arrived(peak=replace(PEAK, backend=backend), points=tuple(points), folder=Path())


def rates_of(*each: Arrived) -> Rates:
    return Rates(
        made_at="2026-01-01T00:00:00+00:00", machine="made up", pinning="none", seconds=1.0, rounds=3,
        bounds_ms=BOUNDS_MS, versions={}, arrived=each,
    )  # fmt: skip


def test_the_rate_is_where_the_p99_crosses_the_bound_between_two_rates() -> None:
    found = crossing(a_round({250: 1.0, 500: 2.0, 1000: 50.0}), 10.0)  # 10 is halfway from 2 to 50, in logarithms
    assert found.end == "between"
    assert found.rate == pytest.approx(750.0)


def test_a_p99_of_less_than_a_millisecond_is_as_good_as_any() -> None:
    assert crossing(a_round({250: 0.2, 500: 0.5, 1000: 2.0}), 1.0).rate == pytest.approx(750.0)


def test_a_p99_that_falls_with_the_rate_is_taken_as_noise() -> None:
    """20 and 5 become 10 at both: within 10 ms there, though the first alone is not."""
    found = crossing(a_round({250: 1.0, 500: 20.0, 750: 4.0, 1000: 1000.0}), 10.0)
    assert found.end == "between"
    assert 750 < found.rate < 1000


def test_over_many_noisy_rounds_the_rate_is_near_where_the_true_p99_crosses_the_bound() -> None:
    """The true p99 grows exponentially and is 10 ms at 850 requests a second; each that is measured is off by a third or so."""
    generator = np.random.default_rng(0)
    rates = (250, 500, 750, 1250)

    def measured() -> dict[float, float | None]:
        return {rate: 10 * math.exp((rate - 850) / 150 + generator.normal(0, 0.3)) for rate in rates}

    found = [crossing(a_round(measured()), 10.0) for _ in range(400)]
    assert {one.end for one in found} == {"between"}
    assert stats.gmean([one.rate for one in found]) == pytest.approx(850, rel=0.01)


def test_where_more_than_one_in_a_hundred_failed_the_bound_is_not_met() -> None:
    found = crossing(a_round({500: 2.0, 1000: None}), 100.0)
    assert found.end == "between"
    assert found.rate == pytest.approx(500 + 500 * math.log(50) / math.log(2500))  # None: 5 s


@pytest.mark.parametrize(
    ("late_p99_ms", "client_busy", "end", "rate"),
    [(2.4, 0.89, "between", 750.0), (2.6, 0.5, "above", 500.0), (0.1, 0.95, "above", 500.0)],
)
def test_where_the_client_was_the_limit_the_rate_is_a_least_one(
    late_p99_ms: float, client_busy: float, end: str, rate: float
) -> None:
    """Late by a quarter of the bound, or computing for nine tenths of the time, at the rate where the bound is left."""
    points = a_round({250: 1.0, 500: 2.0, 1000: 50.0}, late_p99_ms=late_p99_ms, client_busy=client_busy)
    found = crossing(points, 10.0)
    assert found.end == end
    assert found.rate == pytest.approx(rate)


def test_what_lies_outside_of_the_measured_rates_is_said_so() -> None:
    above = crossing(a_round({250: 1.0, 500: 2.0, 750: 2.0}), 10.0)
    assert (above.end, above.rate) == ("above", 750)
    assert crossing(a_round({250: 11.0, 500: 12.0}), 10.0).end == "below"
    assert crossing(a_round({250: 11.0, 500: 12.0}, late_p99_ms=9.0), 10.0).end == "unknown"


def test_an_answer_has_an_interval_over_rounds_and_words_for_what_is_not_known() -> None:
    inside: dict[float, float | None] = {500: 2.0, 1000: 50.0}
    high: dict[float, float | None] = {500: 1.0, 1000: 2.0}
    low: dict[float, float | None] = {500: 20.0, 1000: 50.0}
    known = arrived([inside, {500: 2.0, 1100: 50.0}, {500: 2.0, 1200: 50.0}]).answer(10.0)
    assert known.rates == pytest.approx((750, 800, 850))
    assert known.rate == pytest.approx(stats.gmean([750, 800, 850]))
    logs = np.log([750, 800, 850])
    expected = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert known.interval == pytest.approx(np.exp(expected))
    assert in_words(known) == "799"
    for rounds, words in (([inside, high], "at least 866"), ([inside, low], "below 612"), ([high, low], "not known")):
        answer = arrived(rounds).answer(10.0)
        assert answer.interval is None
        assert in_words(answer) == words
    behind = arrived([inside, {500: 20.0, 1000: 50.0}], late_p99_ms=9.0).answer(10.0)  # late at the lowest rate
    assert (behind.at_least, behind.at_most, in_words(behind), behind.bound_ms) == (True, True, "not known", 10.0)


def test_a_ratio_is_paired_by_round_and_as_wide_as_all_pairs_together_ask() -> None:
    """What a round does to all backends alike is in no ratio."""
    factors = (1.0, 0.5, 1.5)

    def through(backend: Backend, rate: float, noise: Sequence[float]) -> Arrived:
        each = [rate * factor * (1 + error) for factor, error in zip(factors, noise, strict=True)]
        return arrived([{one / 2: 1.0, one * 1.5: 100.0} for one in each], backend=backend)

    rates = rates_of(
        through("onnx", 2000, (0.0, 0.01, -0.01)),
        through("numpy", 1000, (0.01, -0.01, 0.0)),
        through("torch", 1980, (0, 0, 0)),
    )
    assert all(one.answer(10.0).is_known for one in rates.arrived)
    by_backend = {one.second: one for one in rates.ratios("torch-relu:1", "grpc", 10.0)}
    assert by_backend.keys() == {"numpy", "torch"}
    assert all(one.first == "onnx" for one in by_backend.values())
    numpy = by_backend["numpy"]
    assert numpy.ratio == pytest.approx(2, rel=0.01)
    logs = np.log([2 / 1.01, 2 * 1.01 / 0.99, 2 * 0.99])
    low, high = stats.t.interval(1 - 0.05 / 3, 2, logs.mean(), stats.sem(logs))
    assert numpy.interval == pytest.approx((math.exp(low), math.exp(high)))
    assert numpy.is_shown
    assert not by_backend["torch"].is_shown
    (said,) = summarise_rates(rates, 10.0)
    assert "onnx carries" in said
    assert "shown to be more than numpy (2.00 times), not shown to be more than torch" in said


def test_the_intervals_of_all_ratios_hold_at_once_as_often_as_they_say() -> None:
    """Four backends that carry as much, five rounds: in 5 of 100 load tests at most one is shown to carry more than another."""
    generator = np.random.default_rng(0)
    backends: tuple[Backend, ...] = ("numpy", "torch", "tensorflow", "onnx")

    def through(backend: Backend) -> Arrived:
        each = 1000 * np.exp(generator.normal(0, 0.2, 5))
        return arrived([{one / 2: 1.0, one * 1.5: 100.0} for one in each.tolist()], backend=backend)

    tests = 500
    wrong = 0
    for _ in range(tests):
        ratios = rates_of(*(through(backend) for backend in backends)).ratios("torch-relu:1", "grpc", 10.0)
        assert len(ratios) == 3
        wrong += any(ratio.is_shown for ratio in ratios)
    assert 1 <= wrong <= stats.binom.ppf(0.999, tests, 0.05)


def test_for_each_protocol_all_models_with_two_backends_are_in_one_sentence() -> None:
    """The first model has one backend, the second's client was too slow, the third's backends are as fast, the fourth's not."""

    def through(model: str, backend: Backend, rates: Sequence[float]) -> Arrived:
        points = [
            replace(point, model=model)
            for number, rate in enumerate(rates, start=1)
            for point in a_round({rate / 2: 1.0, rate * 1.5: 100.0}, number=number, backend=backend)
        ]
        return Arrived(peak=replace(PEAK, model=model, backend=backend), points=tuple(points), folder=Path())

    limited = arrived([{500: 1.0, 1000: 2.0}] * 3, backend="torch")
    slow = [
        replace(one, peak=replace(one.peak, model="slow:1")) for one in (limited, arrived([{500: 1.0, 900: 50.0}] * 3))
    ]
    rates = rates_of(
        through("alone:1", "onnx", (900, 1000, 1100)),
        *slow,
        through("alike:v:2", "onnx", (900, 1000, 1100)), through("alike:v:2", "numpy", (1100, 900, 980)),
        through("apart:1", "torch", (300, 330, 310)), through("apart:1", "onnx", (900, 1000, 1100)),
        through("apart:1", "numpy", (1100, 900, 980)),
    )  # fmt: skip
    assert summarise_rates(rates, 10.0) == [
        "With 99 of 100 answered within 10 ms, over grpc: "
        "for alike onnx carries 997 requests a second, but not shown to be more than numpy; "
        "for apart onnx carries 997 requests a second, which is shown to be more than torch (3.18 times), not shown to be more "
        "than numpy; "
        "for slow it is not known which carries most, since the client was too slow to tell, or the rates that were tried do "
        "not reach far enough."
    ]


def test_nothing_is_ranked_where_one_rate_is_a_least_one() -> None:
    known = arrived([{500: 2.0, 1000: 50.0}] * 2)
    limited = arrived([{500: 1.0, 1000: 2.0}] * 2, backend="torch")
    rates = rates_of(known, arrived([{500: 2.0, 900: 50.0}] * 2, backend="numpy"), limited)
    assert rates.ratios("torch-relu:1", "grpc", 10.0) == ()
    assert "not known which carries most" in summarise_rates(rates, 10.0)[0]


def test_a_backend_that_passed_the_bound_at_the_lowest_rate_is_named_beside_those_compared() -> None:
    rates = rates_of(
        arrived([{500: 2.0, 1000: 50.0}] * 2),
        arrived([{500: 2.0, 900: 50.0}] * 2, backend="numpy"),
        arrived([{450: 20.0, 900: 50.0}] * 2, backend="torch"),
    )
    (said,) = summarise_rates(rates, 10.0)
    assert said.endswith("shown to be more than numpy (1.07 times), and not compared with torch (below 450).")


def over(protocol: ProtocolName, rate: float, *, backend: Backend = "onnx") -> Arrived:
    """Three rounds in which the p99 crosses 10 ms at about that rate."""
    rounds: list[dict[float, float | None]] = [
        {0.5 * rate * factor: 1.0, 1.5 * rate * factor: 100.0} for factor in (1.0, 1.02, 0.98)
    ]
    points = [
        point
        for i, p99s in enumerate(rounds)
        for point in a_round(p99s, number=i + 1, backend=backend, protocol=protocol)
    ]
    return Arrived(peak=replace(PEAK, backend=backend, protocol=protocol), points=tuple(points), folder=Path())


def test_protocols_are_compared_for_one_model_and_backend_as_backends_are() -> None:
    rates = rates_of(over("grpc", 2000), over("predict", 1000), over("grpc", 10, backend="numpy"))
    (ratio,) = rates.ratios_of_protocols("torch-relu:1", "onnx", 10.0)
    assert (ratio.first, ratio.second) == ("grpc", "predict")
    assert ratio.ratio == pytest.approx(2)
    assert ratio.is_shown  # by round the ratio is the same
    assert rates.ratios_of_protocols("torch-relu:1", "numpy", 10.0) == ()


def test_the_choice_says_what_carries_most_how_often_that_is_shown_and_where_it_is_not_known(
    made_up_comparison: Comparison,
) -> None:
    rates = rates_of(
        over("grpc", 2000), over("predict", 1000), over("grpc", 500, backend="numpy"), over("predict", 250, backend="numpy"),
    )  # fmt: skip
    framework, backend, protocol = choices(made_up_comparison, rates, None)
    assert framework.answer.startswith("By accuracy, these figures do not say")
    assert "study --decide" in framework.how_sure
    assert backend.answer == (
        "onnx, shown by 2 of 2 comparisons: 4.00 times as many requests a second with 99 of 100 answered within 10 ms as "
        "another."
    )
    assert backend.how_sure == (
        "2 comparisons over 3 rounds; shown is a 95 % interval above 1, which few have by chance, but among many comparisons "
        "one may. Ahead, by chance or not: onnx."
    )
    assert protocol.answer.startswith(
        "grpc, shown by 2 of 2 comparisons: 2.00 times as many requests a second with 99 of 100"
    )
    noisy: list[dict[float, float | None]] = [{400 * factor: 1.0, 900 * factor: 100.0} for factor in (1.0, 1.2, 0.8)]
    alike = rates_of(arrived(noisy), arrived(noisy[::-1], backend="numpy"))
    _, backend, _ = choices(made_up_comparison, alike, None)
    assert backend.answer == (
        "It is not shown to matter: none carries more requests a second with 99 of 100 answered within 10 ms than another, "
        "beyond chance."
    )
    assert backend.how_sure.startswith("1 comparison over 3 rounds; shown is a 95 % interval above 1")
    once = rates_of(over("grpc", 2000), over("grpc", 1000, backend="torch"), over("grpc", 2000, backend="numpy"))
    _, backend, _ = choices(made_up_comparison, once, None)
    assert "shown by 1 of 2 comparisons: 2.00 times" in backend.answer
    assert backend.answer.endswith("as another. The others show no difference.")
    limited = arrived([{500: 1.0, 1000: 2.0}] * 2)
    rates = rates_of(limited, arrived([{500: 1.0, 1000: 2.0}] * 2, backend="numpy"))
    _, backend, _ = choices(made_up_comparison, rates, None)
    assert "answered one caller soonest" in backend.answer  # nothing is ranked by what was not reached
    assert "One run of each" in backend.how_sure
    rates = rates_of(
        over("grpc", 2000),
        over("grpc", 500, backend="numpy"),
        over("predict", 1000),
        over("predict", 3000, backend="numpy"),
    )
    framework, backend, _ = choices(
        made_up_comparison, rates, {"answer": "By accuracy, any", "trainings": 40, "recipe": "numpy-deep"}
    )
    assert backend.answer.startswith("numpy (1 of 2) and onnx (1), shown by 2 of 2 comparisons: ")
    assert framework.answer == "By accuracy, any."
    assert framework.how_sure.startswith("40 trainings, most of numpy-deep,")


@pytest.fixture
def made_up_comparison(tmp_path: Path) -> Comparison:
    models = made_up_models()
    write_made_up_results(tmp_path, models)
    return compare(read_results(tmp_path), models)


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for error in (0.05, 0.2):
        samples = np.exp(random.normal(math.log(700), 0.2, size=(4000, 4)))
        found = [log_interval(sample, error=error) for sample in samples]
        covered = np.mean([interval is not None and interval[0] < 700 < interval[1] for interval in found])
        assert covered == pytest.approx(1 - error, abs=3 * math.sqrt(error * (1 - error) / 4000))
    assert log_interval([5.0]) is None


def written(folder: Path, requests: int = 400) -> Path:
    """Two rounds of two rates, with the latencies: 1, 2, ... ms at the first, ten times as long at the second."""
    points = []
    (folder / "open").mkdir(parents=True)
    with (folder / PEAK.latencies).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in (1, 2):
            for share, slowness in ((0.25, 1.0), (1.0, 10.0)):
                failures = 5 * int(share)
                rate = {"round": number, "share": share, "rate": 1000 * share}
                points.append(replace(POINT, requests=requests, failures=failures, **rate))  # type: ignore[arg-type]
                for i in range(requests):
                    failed = i < failures
                    writer.writerow(
                        (number, share, i / 1000, 0.01, slowness * (i + 1), "failed" if failed else "right")
                    )
    document = {
        "made_at": "2026-01-01T00:00:00+00:00", "machine": "made up", "pinning": "none", "seconds": 1.0,
        "rounds": 2, "bounds_ms": BOUNDS_MS, "versions": {"numpy": "2"}, "peaks": [asdict(PEAK)],
        "points": [asdict(point) for point in points],
    }  # fmt: skip
    (folder / "open.json").write_text(json.dumps(document))
    return folder


def test_percentiles_are_of_all_rounds_and_told_where_ten_requests_were_slower(tmp_path: Path) -> None:
    rates = read_rates(written(tmp_path, requests=600))
    assert rates is not None
    quarter, whole = rates.arrived[0].levels
    assert (quarter.requests, quarter.failures, whole.failures) == (1200, 0, 10)
    assert quarter.p50_ms == 300  # of 1, 1, 2, 2, ... 600, 600
    assert quarter.p99_ms == 594
    assert quarter.p999_ms is None  # 1.2 requests were slower
    assert whole.p50_ms == 3050  # five of each round failed, and were so slower than all
    assert quarter.rounds_p99_ms == (2.0, 2.0)
    assert quarter.mean_p99_ms == pytest.approx(2.0)
    unlike = replace(
        rates.arrived[0], points=tuple(replace(one, p99_ms=2.0**one.round) for one in rates.arrived[0].points)
    )
    assert unlike.levels[0].mean_p99_ms == pytest.approx(8**0.5)  # of 2 and 4, in logarithms
    unknown = replace(
        unlike, points=tuple(replace(one, p99_ms=None if one.round == 1 else 4.0) for one in unlike.points)
    )
    assert unknown.levels[0].mean_p99_ms is None
    busy = replace(
        rates.arrived[0],
        points=tuple(
            replace(one, late_p99_ms=3.0 / one.round, client_busy=one.round / 4) for one in rates.arrived[0].points
        ),
    ).levels[0]
    assert (busy.late_p99_ms, busy.client_busy) == (3.0, 0.5)  # the worst round of each
    many = read_rates(written(tmp_path / "many", requests=5000))
    assert many is not None
    assert many.arrived[0].levels[0].p999_ms == 4995  # of 1, 1, ... 5000, 5000, of which ten were slower
    few = read_rates(written(tmp_path / "few", requests=400))
    assert few is not None
    assert few.arrived[0].levels[0].p99_ms is None  # 8 were slower


def test_the_line_of_a_backend_is_broken_where_a_p99_is_not_known(tmp_path: Path) -> None:
    rates = read_rates(written(tmp_path, requests=600))
    assert rates is not None
    level = rates.arrived[0].levels[0]
    found = [
        replace(level, rate=rate, p99_ms=ms)
        for rate, ms in ((100, 1.0), (200, 2.0), (300, None), (400, 4.0), (500, 5.0))
    ]
    once = replace(level, rate=600, rounds_p99_ms=(0.5,))  # the other round did not try it
    for levels, moves_and_lines in (
        (found, (2, 2)),
        ([one for one in found if one.p99_ms], (1, 3)),
        ([*found[:2], once], (1, 1)),
    ):
        svg = plots.latency_against_rate({"onnx": tuple(levels)}, name="rates")
        (line,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--onnx\)', svg)
        assert (line.count("M "), line.count("L ")) == moves_and_lines


@pytest.mark.parametrize(
    ("ratio", "shown"), [(1.62, "1.62"), (1.0034, "1.003"), (0.99996, "0.99996"), (1.0, "1.00"), (9, "9.00")]
)
def test_a_ratio_shows_on_which_side_of_1_it_lies(ratio: float, shown: str) -> None:
    assert format_ratio(ratio) == shown


def test_results_that_are_not_there_or_not_of_this_version_are_told(tmp_path: Path) -> None:
    assert read_rates(tmp_path) is None
    folder = written(tmp_path / "results")
    with (folder / PEAK.latencies).open("a") as file:
        file.write("1,0.25,1,1,1,right\n")
    rates = read_rates(folder)
    assert rates is not None
    with pytest.raises(ResultsMissing, match="not of this load test"):
        _ = rates.arrived[0].levels
    (folder / PEAK.latencies).write_text("something,else\n")
    with pytest.raises(
        ResultsMissing, match=r"onnx.grpc.csv cannot be read: expected the header round,share,\S+\. Run it again"
    ):
        _ = rates.arrived[0].levels
    (folder / PEAK.latencies).write_text("")
    with pytest.raises(ResultsMissing, match=r"expected the header"):
        _ = rates.arrived[0].levels
    (folder / "open.json").write_text("{}")
    with pytest.raises(ResultsMissing, match=r"open.json lacks .points.: .* another version.*Run it again"):
        read_rates(folder)
    (folder / "open.json").write_text("{")
    with pytest.raises(ResultsMissing, match=r"not valid JSON.*Run it again"):
        read_rates(folder)
