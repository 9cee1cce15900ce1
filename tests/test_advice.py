"""The sentences that say what to choose when."""

from __future__ import annotations

from typing import Any

from comparison.study.advice import advise


def cost(
    recipe: str, framework: str, mathematics: str, seconds: float, imports: float, memory: float
) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "framework": framework,
        "mathematics": mathematics,
        "fastest_epoch_seconds": seconds,
        "import_seconds": imports,
        "peak_memory_mb": memory,
    }


COSTS = [
    cost("a", "numpy", "relu", 0.5, 0.2, 500.0),
    cost("b", "torch", "relu", 0.7, 3.0, 1500.0),
    cost("c", "numpy", "deep", 0.6, 0.3, 520.0),
    cost("d", "torch", "deep", 0.8, 5.0, 1700.0),
    cost("e", "numpy", "sigmoid", 1.9, 0.4, 530.0),
    cost("f", "torch", "sigmoid", 0.9, 7.0, 1800.0),
    cost("g", "torch", "of torch alone", 99.0, 99.0, 9999.0),
]
LINES = [{"framework": "torch", "logical_lines": 110}, {"framework": "numpy", "logical_lines": 90}]


def pair(verdict: str, differs_in: list[str], first: str = "a", second: str = "b") -> dict[str, Any]:
    return {"first": first, "second": second, "verdict": verdict, "differs_in": differs_in}


def test_each_cost_ranks_the_frameworks_by_the_median_over_the_recipes_that_all_have() -> None:
    said = advise([], COSTS, [], LINES)
    assert (
        said[0]
        == (
            "What trains an epoch soonest in its readable form (plain code, no fast path), median over the 3 recipes that all "
            "have, timed while other runs went on beside: numpy 0.60 s and torch 0.80 s."  # of the means torch's is the smaller
        )
    )
    over = "median over the 3 recipes that all have, timed while other runs went on beside"
    assert said[1:] == [
        f"What starts soonest, from a fresh process to the imported trainer, {over}: numpy 0.3 s and torch 5.0 s.",
        f"What holds least memory while it trains, {over}: numpy 520 MB and torch 1,700 MB.",
        "What takes least writing, in logical lines (statements) of our trainers: numpy 90 and torch 110.",
    ]
    slow = [row | {"import_seconds": 60.0} if row["framework"] == "numpy" else row for row in COSTS]
    assert advise([], slow, [], LINES)[1].endswith("torch 5.0 s and numpy 60.0 s.")


def test_the_time_to_an_accuracy_is_told_of_those_that_got_there_from_every_seed() -> None:
    rows = [
        {
            "framework": "keras",
            "track": "best effort",
            "seeds": 10,
            "reached": 10,
            "seconds": 12.0,
            "interval": [11.0, 14.0],
        },
        {"framework": "numpy", "track": "readable", "seeds": 10, "reached": 10, "seconds": 3.84, "interval": None},
        {"framework": "torch", "track": "readable", "seeds": 10, "reached": 9, "seconds": 1.0, "interval": [0.9, 1.1]},
    ]
    said = advise([], COSTS, [], LINES, {"target": 0.97, "rows": rows})
    assert said[1] == (
        "From the start of the program to 97 % of held-out training images right, imports and compiling included, of what got "
        "there from all of 10 seeds, the median with its 95 % interval: numpy (readable) 3.8 s and keras (best effort) 12.0 s "
        "(11.0 to 14.0)."
    )
    assert len(advise([], COSTS, [], LINES, {"target": 0.97, "rows": rows[2:]})) == len(said) - 1


def test_recipes_that_not_every_framework_has_compare_nothing() -> None:
    assert "median over the one recipe that all have" in advise([], COSTS[:2], [], LINES)[0]
    apart = [COSTS[0], COSTS[3]]
    assert advise([], apart, [], LINES) == [
        "What takes least writing, in logical lines (statements) of our trainers: numpy 90 and torch 110."
    ]


def test_accuracy_decides_only_by_pairs_of_one_mathematics() -> None:
    of_defaults = [
        pair("different", ["epsilon", "l2"]), pair("equivalent", ["l2"], "c", "d"), pair("undecided", ["l2"], "e", "f"),
    ]  # fmt: skip
    said = advise(of_defaults, COSTS, [], LINES)
    assert said[0] == (
        "Of pairs of one network that differ in more than their frameworks, such as where weights start, 1 of 3 are shown to "
        "be equivalent; shown to differ: a with b, which differ in epsilon and l2; not decided: e with f. What differs there "
        "is a setting to make, and no framework to choose."
    )
    assert said[1:] == advise([], COSTS, [], LINES)
    assert advise([pair("different", [], "a", "c")], COSTS, [], LINES) == advise(
        [], COSTS, [], LINES
    )  # of one framework
    assert advise([pair("different", [])], COSTS, [], LINES)[0] == (
        "By accuracy, of 1 pair of one recipe written in two frameworks, shown to differ: a with b. "
        "Ask why before choosing by it."
    )


def test_only_what_is_shown_to_be_equivalent_leaves_nothing_to_choose() -> None:
    pairs = [pair("equivalent", []), pair("equivalent", [], "c", "d")]
    assert advise(pairs, COSTS, [], LINES)[0] == (
        "By accuracy, there is nothing to choose between frameworks: all of 2 pairs of one recipe written in two frameworks "
        "are shown to be equivalent."
    )


def test_what_is_undecided_concludes_nothing() -> None:
    said = advise([pair("equivalent", []), pair("undecided", [], "c", "d")], COSTS, [], LINES)[0]
    assert said == (
        "By accuracy, of 2 pairs of one recipe written in two frameworks, none is shown to differ. Not decided is c with d: "
        "no reason to choose, and none to take the frameworks for equal; more seeds would say."
    )
    said = advise(
        [pair("different", []), pair("undecided", [], "c", "d"), pair("undecided", [], "e", "f")], COSTS, [], LINES
    )[0]
    assert "shown to differ: a with b." in said
    assert "Not decided are c with d and e with f:" in said


def test_the_fast_paths_are_named_with_what_they_cost_once() -> None:
    tracks = [
        {"framework": "torch", "track": "readable", "epoch_seconds": 0.7, "paid_once_seconds": 0.0},
        {"framework": "keras", "track": "best effort", "epoch_seconds": 0.4, "paid_once_seconds": 2.0},
    ]
    said = advise([], COSTS, tracks, LINES)[1]
    assert "keras (best effort) with 0.40 s an epoch, after 2.0 s paid once; then torch (readable) 0.70 s." in said


def test_one_framework_leaves_nothing_to_choose() -> None:
    assert advise([], COSTS[:1], [], LINES) == []
