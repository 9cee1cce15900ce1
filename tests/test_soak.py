"""A minute of what `python -m benchmarks.soak` does for half an hour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from conftest import Expected, require, require_recipe
from servers import folder_of, serving

from benchmarks.clients import Target, pictures_of
from benchmarks.crowd import BAD, GOOD
from benchmarks.results import write_results
from benchmarks.soak import NUMBERS, Sample, soak, verdict
from digits.contract import EXPORTED
from digits.errors import LoadTestError
from digits.mnist import LabelledImages
from runtimes.backends import open_runtime
from runtimes.device import CPU

SECONDS: Final = 60
# In a minute the allocator has not settled to the 2 % of the long run. A server that keeps the bodies of clients which left
# after a second grows by half in this time.
ALLOWED_GROWTH: Final = 0.1


@pytest.mark.slow
def test_memory_stays_level_under_a_minute_of_mixed_traffic_and_every_answer_is_right(
    trained_home: Path, test_set: LabelledImages, expected: Expected
) -> None:
    require("onnxruntime")
    require_recipe("torch-relu")
    digits = expected("torch-relu", 1000).argmax(axis=1)
    runtime = open_runtime("onnx", folder_of(trained_home, "torch-relu") / EXPORTED["onnx"], device=CPU)
    with serving(trained_home, {"SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_MODELS": "torch-relu"}) as server:
        target = Target(
            api_port=server.port,
            data_port=server.data_port,
            model="torch-relu.onnx",
            images=test_set.images[:1000],
            digits=digits,
            pictures=pictures_of(test_set.images[:100], runtime.predict),
        )
        samples, tallies = soak(target, server.started, seconds=SECONDS)
        log = server.log.read_text()
    found = verdict(samples)
    assert {name: tally.faults for name, tally in tallies.items() if tally.failed} == {}
    assert all(tally.right > 0 for name, tally in tallies.items() if name in GOOD)  # so that nobody was idle
    assert all(tally.visits > 20 for tally in tallies.values())
    assert found.growth < ALLOWED_GROWTH, f"{found.before_bytes / 1e6:.1f} MB became {found.after_bytes / 1e6:.1f}"
    assert "Traceback" not in log


def test_every_behaviour_takes_part() -> None:
    assert set(NUMBERS) == set(GOOD | BAD)


@pytest.mark.parametrize(("seconds", "window"), [(60, 15), (1800, 60)])
def test_the_verdict_compares_the_second_window_with_the_last(seconds: int, window: int) -> None:
    def level(second: int) -> int:
        if second < window:
            return 50  # the first fills what is filled once
        if second < 2 * window:
            return 100
        return 103 if second >= seconds - window else 500

    samples = [Sample(second, level(second), 0, 0) for second in range(seconds + 1)]
    found = verdict(samples)
    assert (found.before_bytes, found.after_bytes, found.window_seconds) == (100, 103, window)
    assert found.growth == pytest.approx(0.03)


def test_a_moment_with_more_under_way_does_not_decide() -> None:
    samples = [Sample(second, 900 if second in (130, 1790) else 100, 0, 0) for second in range(1801)]
    assert verdict(samples).growth == 0


def test_results_replace_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "results" / "soak.json"
    write_results({"met": True}, file)
    file.with_suffix(".part").mkdir()  # where it would be written
    with pytest.raises(LoadTestError, match="Give another file: --json"):
        write_results({"met": False}, file)
    assert json.loads(file.read_text()) == {"met": True}
    file.with_suffix(".part").rmdir()
    write_results({"met": False}, file)
    assert json.loads(file.read_text()) == {"met": False}
    assert list(file.parent.iterdir()) == [file]
