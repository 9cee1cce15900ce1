"""What is said to choose a framework by."""

from __future__ import annotations

from typing import Any

from comparison.study.advice import Price, advise, prices


def cost(recipe: str, framework: str, work: str, seconds: float, imports: float, memory: float) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "framework": framework,
        "work": work,
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
COUNTED = [
    {"framework": "torch", "logical_lines": 110, "installed_mb": 1143.6},
    {"framework": "numpy", "logical_lines": 90, "installed_mb": None},
    {"framework": "keras", "logical_lines": 1, "installed_mb": 1.0},  # of which there is no recipe
]


def pair(verdict: str, differs_in: list[str], first: str = "a", second: str = "b") -> dict[str, Any]:
    return {"first": first, "second": second, "verdict": verdict, "differs_in": differs_in}


def test_each_price_is_the_median_over_the_networks_that_all_have_and_says_in_how_many_it_is_the_least() -> None:
    exact = "counted, not estimated"
    assert prices(COSTS, None, None, COUNTED) == [
        Price(
            of="an epoch, as plain code",
            takes={"numpy": "0.60 s", "torch": "0.80 s"},  # of the means torch's is the smaller
            least="numpy",
            sure="least in 2 of the 3 networks that all have",
        ),
        Price(
            of="importing the trainer",
            takes={"numpy": "0.3 s", "torch": "5.0 s"},
            least="numpy",
            sure="least in 3 of the 3 networks that all have",
        ),
        Price(
            of="memory while it trains",
            takes={"numpy": "520 MB", "torch": "1,700 MB"},
            least="numpy",
            sure="least in 3 of the 3 networks that all have",
        ),
        Price(of="on disk, without what it needs", takes={"torch": "1,144 MB"}, least="torch", sure=exact),
        Price(of="statements in our trainer", takes={"torch": "110", "numpy": "90"}, least="numpy", sure=exact),
    ]
    twice = [*COSTS, cost("h", "torch", "relu", 0.72, 3.0, 1500.0), cost("i", "torch", "relu", 0.74, 3.0, 1500.0)]
    assert prices(twice, None, None, COUNTED)[0].takes["torch"] == "0.80 s"  # of rows it would be 0.74
    slow = [row | {"import_seconds": 60.0} if row["framework"] == "numpy" else row for row in COSTS]
    assert prices(slow, None, None, COUNTED)[1].least == "torch"


def test_what_not_every_framework_has_to_compute_compares_nothing() -> None:
    assert prices(COSTS[:2], None, None, COUNTED)[0].sure == "of the one network that all have"
    apart = [COSTS[0], COSTS[3]]
    assert [row.of for row in prices(apart, None, None, COUNTED)] == [
        "on disk, without what it needs",
        "statements in our trainer",
    ]


def reached(
    framework: str, seconds: float, interval: list[float] | None, *, of: int = 9, track: str = "readable"
) -> Any:
    return {
        "framework": framework,
        "track": track,
        "seeds": 9,
        "reached": of,
        "seconds": seconds,
        "interval": interval,
    }


def test_the_time_to_an_accuracy_is_of_the_sooner_form_that_got_there_from_every_seed() -> None:
    rows = [
        reached("keras", 12.0, [11.0, 14.0]),
        reached("keras", 8.1, [6.7, 9.5], track="best effort"),
        reached("numpy", 3.84, [3.0, 4.6]),
        reached("torch", 5.8, [5.1, 7.7]),
        reached("torch", 1.0, [0.9, 1.1], of=8, track="best effort"),
    ]

    def found(rows: list[Any]) -> Price:
        return prices(COSTS, None, {"target": 0.97, "rows": rows}, COUNTED)[0]

    assert found(rows) == Price(
        of="from the start to 97 % of held-out images right, compiling included",
        takes={"numpy": "3.8 s (3.0 to 4.6)", "torch": "5.8 s (5.1 to 7.7)", "keras": "8.1 s (6.7 to 9.5)"},
        least="numpy",
        sure="medians of 9 seeds; its 95 % interval lies below every other",
    )
    overlapping = [*rows[:2], reached("numpy", 3.84, [3.0, 5.1]), rows[3]]
    assert found(overlapping).sure == "medians of 9 seeds; 95 % intervals overlap: not decided"
    of_few = [reached("numpy", 3.84, None), rows[3]]
    assert found(of_few).takes["numpy"] == "3.8 s"
    assert found(of_few).sure == "medians of 9 seeds: too few for an interval"
    assert found([rows[2], rows[4]]).of == "an epoch, as plain code"  # one alone has nothing to be compared with


def test_the_fastest_path_of_each_is_named_with_what_it_takes_once() -> None:
    rows = [
        {"framework": "torch", "epoch_seconds": 0.89, "paid_once_seconds": 2.5},
        {"framework": "torch", "epoch_seconds": 0.7, "paid_once_seconds": 0.06},
        {"framework": "numpy", "epoch_seconds": 0.75, "paid_once_seconds": 0.0},
    ]
    assert prices(COSTS, {"rounds": 5, "rows": rows}, None, COUNTED)[1] == Price(
        of="an epoch on its fastest path, and what that takes once",
        takes={"torch": "0.70 s, 0.1 s once", "numpy": "0.75 s, 0.0 s once"},
        least="torch",
        sure="medians of 5 rounds side by side, of an epoch alone",
    )


def test_accuracy_decides_only_by_pairs_of_one_mathematics() -> None:
    of_defaults = [
        pair("different", ["epsilon", "l2"]), pair("equivalent", ["l2"], "c", "d"), pair("undecided", ["l2"], "e", "f"),
    ]  # fmt: skip
    said = advise(of_defaults, COSTS)
    assert said[0] == (
        "Of pairs of one network that differ in more than their frameworks, such as where weights start, 1 of 3 are shown to "
        "be equivalent; shown to differ: a with b, which differ in epsilon and l2; not decided: e with f. What differs there "
        "is a setting to make, and no framework to choose."
    )
    assert said[1:] == []
    assert advise([pair("different", [], "a", "c")], COSTS) == []  # of one framework
    assert advise([pair("different", [])], COSTS)[0] == (
        "By accuracy, of 1 pair of one recipe written in two frameworks, shown to differ: a with b. "
        "Ask why before choosing by it."
    )


def test_only_what_is_shown_to_be_equivalent_leaves_nothing_to_choose() -> None:
    pairs = [pair("equivalent", []), pair("equivalent", [], "c", "d")]
    assert advise(pairs, COSTS)[0] == (
        "By accuracy, there is nothing to choose between frameworks: all of 2 pairs of one recipe written in two frameworks "
        "are shown to be equivalent."
    )


def test_what_is_undecided_concludes_nothing() -> None:
    said = advise([pair("equivalent", []), pair("undecided", [], "c", "d")], COSTS)[0]
    assert said == (
        "By accuracy, of 2 pairs of one recipe written in two frameworks, none is shown to differ. Not decided is c with d: "
        "no reason to choose, and none to take the frameworks for equal; more seeds would say."
    )
    said = advise([pair("different", []), pair("undecided", [], "c", "d"), pair("undecided", [], "e", "f")], COSTS)[0]
    assert "shown to differ: a with b." in said
    assert "Not decided are c with d and e with f:" in said


def test_one_framework_leaves_nothing_to_choose() -> None:
    assert advise([], COSTS[:1]) == []
    assert prices(COSTS[:1], None, None, COUNTED) == []
