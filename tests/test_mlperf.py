"""MLPerf's load generator against a server: what is read of its summary, and what it is not believed."""

from __future__ import annotations

import pytest
from conftest import require
from test_arrivals import serving

from benchmarks import mlperf
from benchmarks.mlperf import ScenarioName, read_summary, run_scenario
from digits.errors import LoadTestError

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
90.0th percentile latency (ns) : 6044827
Result is : VALID
  Min duration satisfied : Yes
  Early stopping satisfied : Yes
Early Stopping Result:
 * Processed at least 64 queries (695).
 * Early stopping 90.0th percentile estimate: 7804739
"""


def test_the_latency_is_what_early_stopping_holds_and_not_what_the_sample_gave() -> None:
    outcome = read_summary("SingleStream", SUMMARY, answered=695, right=0.97)
    assert outcome.figure == pytest.approx(7.804739)
    assert outcome.unit == "ms at p90"
    assert (outcome.is_valid, outcome.early_stopping, outcome.queries) == (True, True, 695)
    invalid = SUMMARY.replace("VALID", "INVALID").replace("stopping satisfied : Yes", "stopping satisfied : NO")
    outcome = read_summary("SingleStream", invalid, answered=695, right=0.97)
    assert (outcome.is_valid, outcome.early_stopping) == (False, False)


def test_a_summary_without_its_figure_is_told() -> None:
    with pytest.raises(LoadTestError, match="has no 'Samples per second'"):
        read_summary("Offline", SUMMARY, answered=1, right=1.0)


@pytest.mark.slow
def test_a_run_whose_answers_are_wrong_is_refused() -> None:
    """The server calls every digit a nought."""
    require("mlperf_loadgen")
    with serving() as url, pytest.raises(LoadTestError, match=r"only \d+\.\d % of the digits were right"):
        run_scenario(
            "SingleStream", url=url, protocol="predict", path="/predict/numpy", seconds=0.2, rate=100.0, bound_ms=100.0
        )


@pytest.mark.slow
def test_a_run_with_an_answer_that_never_came_is_refused() -> None:
    require("mlperf_loadgen")
    refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"
    with serving(answer=refusal) as url, pytest.raises(LoadTestError, match="no right answer: status 503"):
        run_scenario(
            "Server", url=url, protocol="predict", path="/predict/numpy", seconds=0.2, rate=500.0, bound_ms=100.0
        )


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream"])
def test_a_run_is_as_long_as_it_was_asked_to_be_however_soon_queries_are_answered(
    scenario: ScenarioName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes a tenth of a millisecond, and calls every digit a nought."""
    require("mlperf_loadgen")
    monkeypatch.setattr(mlperf, "RIGHT_AT_LEAST", 0.0)
    with serving() as url:
        outcome = run_scenario(
            scenario, url=url, protocol="predict", path="/predict/numpy", seconds=2.0, rate=100.0, bound_ms=100.0
        )
    assert outcome.is_valid, outcome.summary
