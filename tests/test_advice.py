"""The sentences that say what to choose when."""

from __future__ import annotations

from typing import Any

from comparison.study.advice import advise

COSTS: list[dict[str, Any]] = [
    {"recipe": "a", "framework": "numpy", "fastest_epoch_seconds": 0.5, "import_seconds": 0.2, "peak_memory_mb": 500.0},
    {
        "recipe": "b",
        "framework": "torch",
        "fastest_epoch_seconds": 0.7,
        "import_seconds": 3.0,
        "peak_memory_mb": 1500.0,
    },
    {
        "recipe": "c",
        "framework": "torch",
        "fastest_epoch_seconds": 0.9,
        "import_seconds": 5.0,
        "peak_memory_mb": 1700.0,
    },
]
LINES = [{"framework": "torch", "logical_lines": 110}, {"framework": "numpy", "logical_lines": 90}]


def pair(verdict: str, differs_in: list[str]) -> dict[str, Any]:
    return {"first": "a", "second": "b", "verdict": verdict, "differs_in": differs_in}


def test_each_cost_ranks_the_frameworks_by_the_median_over_their_recipes() -> None:
    said = advise([], COSTS, [], LINES)
    assert said[0].endswith("median over its recipes: numpy 0.50 s and torch 0.80 s.")
    assert said[1].endswith("numpy 0.2 s and torch 4.0 s.")
    assert said[2].endswith("numpy 500 MB and torch 1,600 MB.")
    assert said[3].endswith("numpy 90 and torch 110.")
    assert len(said) == 4


def test_accuracy_decides_only_by_pairs_of_one_mathematics() -> None:
    assert "none is shown to differ" in advise([pair("undecided", [])], COSTS, [], LINES)[0]
    assert "a and b" in advise([pair("different", [])], COSTS, [], LINES)[0]
    assert advise([pair("different", ["epsilon"])], COSTS, [], LINES) == advise([], COSTS, [], LINES)


def test_the_fast_paths_are_named_with_what_they_cost_once() -> None:
    tracks = [
        {"framework": "torch", "track": "readable", "epoch_seconds": 0.7, "paid_once_seconds": 0.0},
        {"framework": "keras", "track": "best effort", "epoch_seconds": 0.4, "paid_once_seconds": 2.0},
    ]
    said = advise([], COSTS, tracks, LINES)[1]
    assert "keras (best effort) with 0.40 s an epoch, after 2.0 s paid once; then torch, readable, 0.70 s." in said


def test_one_framework_leaves_nothing_to_choose() -> None:
    assert advise([], COSTS[:1], [], LINES) == []
