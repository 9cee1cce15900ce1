"""What smaller numbers cost and give, beside the model that they come from: size, speed, accuracy, agreement, calibration."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import binomtest, norm

from comparison import page
from comparison.calibration import Calibration, ece_by_chance, measure
from comparison.intervals import CONFIDENCE, Interval, log_interval
from comparison.reading import of_this_version, read_json, row_of
from digits import mnist
from digits.contract import Images, Labels, Probabilities
from digits.store import StoredModel
from runtimes.backends import Runtime, open_runtime, predict_all
from runtimes.device import CPU

RESULTS_FILE: Final = "numbers.json"
ROUNDS: Final = 9
BATCHES: Final = {1: 200, 64: 30}  # images in a call -> calls in a round


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One format's answers to the test images against the original's."""

    gained: int  # right here, wrong there
    lost: int  # wrong here, right there
    agree: float  # share of images of which both say the same digit, in [0, 1]
    difference: float  # in accuracy, in [-1, 1]; positive: better than the original
    interval: (
        Interval  # of the difference, over test images; those of all the model's formats hold at once in 95 of 100
    )
    p: float  # McNemar's exact test, times the formats (Bonferroni)


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """A model in some numbers; of the original `paired` is None and each ratio 1."""

    model: str  # recipe:version
    numbers: str
    bytes: int
    correct: int
    total: int
    calibration: Calibration
    ece_by_chance: Interval  # 95 %, of what these probabilities would show if they meant just what they say
    paired: Paired | None
    microseconds: dict[int, float]  # images in a call -> of an image, the median of rounds
    ratios: dict[int, float]  # its time by the original's
    intervals: dict[int, Interval | None]  # 95 %, of this ratio alone, over rounds


def keep_numbers(rows: Sequence[Smaller], results: Path) -> None:
    """Puts what `compare_numbers` gave into the folder, in place of what is there of the same original.

    Raises:
        ResultsMissing: what is there cannot be read.
        ReportError: it cannot be written.
    """
    kept = {of_model[0].model: of_model for of_model in read_numbers(results)} | {rows[0].model: list(rows)}
    data = [[asdict(row) for row in of_model] for of_model in kept.values()]
    page.write(json.dumps(data, indent=1) + "\n", results / RESULTS_FILE)


def read_numbers(results: Path) -> list[list[Smaller]]:
    """For each original that the folder has, its rows; nothing where there are none.

    Raises:
        ResultsMissing: they cannot be read.
    """
    path = results / RESULTS_FILE
    with of_this_version(path, _AGAIN):
        return [[_row(row) for row in of_model] for of_model in read_json(path, _AGAIN) or []]


_AGAIN: Final = "Delete it, and run it again: samedigit quantize MODEL"


def _row(data: dict[str, Any]) -> Smaller:
    """JSON knows keys of text, and lists, alone."""

    def interval(bounds: list[float] | None) -> Interval | None:
        return None if bounds is None else (bounds[0], bounds[1])

    def by_number(name: str) -> dict[int, Any]:
        return {int(number): value for number, value in data[name].items()}

    paired = data["paired"]
    changed = {
        "calibration": row_of(Calibration, data["calibration"]),
        "ece_by_chance": interval(data["ece_by_chance"]),
        "paired": paired and row_of(Paired, {**paired, "interval": interval(paired["interval"])}),
        "microseconds": by_number("microseconds"),
        "ratios": by_number("ratios"),
        "intervals": {number: interval(bounds) for number, bounds in by_number("intervals").items()},
    }
    return row_of(Smaller, {**data, **changed})


def compare_numbers(original: StoredModel, others: Sequence[StoredModel]) -> list[Smaller]:
    """The original first. One thread, in this process; rounds in which all take turns, in a random order."""
    test_images = mnist.test_images()
    models = [original, *others]
    runtimes = {model.tag: open_runtime("onnx", model.path("onnx"), device=CPU) for model in models}
    times = speed(runtimes, test_images.images)
    answers = {tag: predict_all(runtime, test_images.images) for tag, runtime in runtimes.items()}
    found = []
    for model in models:
        ours, theirs = times[model.tag], times[original.tag]
        ratios = {number: np.divide(ours[number], theirs[number]) for number in BATCHES}
        found.append(
            Smaller(
                model=model.tag,
                numbers=model.card.recipe.get("numbers", "float32"),
                bytes=model.card.bytes["onnx"],
                correct=model.card.scores["onnx"].correct,
                total=model.card.scores["onnx"].total,
                calibration=measure(answers[model.tag], test_images.labels),
                ece_by_chance=ece_by_chance(answers[model.tag]),
                paired=None
                if model is original
                else paired(answers[model.tag], answers[original.tag], test_images.labels, formats=len(others)),
                microseconds={number: float(np.median(each)) / number for number, each in ours.items()},
                ratios={number: math.exp(float(np.log(each).mean())) for number, each in ratios.items()},
                intervals={
                    number: None if model is original else log_interval(each) for number, each in ratios.items()
                },
            )
        )
    return found


def paired(ours: Probabilities, theirs: Probabilities, labels: Labels, *, formats: int = 1) -> Paired:
    """The interval is Bonett and Price's (2012) for paired proportions: an image is added to each way of differing.

    Args:
        formats: that are compared with the same original, over which interval and p are corrected (Bonferroni).
    """
    digits, others = ours.argmax(axis=1), theirs.argmax(axis=1)
    gained = int(((digits == labels) & (others != labels)).sum())
    lost = int(((digits != labels) & (others == labels)).sum())
    number = len(labels) + 2
    middle, spread = (gained - lost) / number, (gained + lost + 2) / number
    half = float(norm.isf((1 - CONFIDENCE) / 2 / formats)) * math.sqrt((spread - middle**2) / number)
    return Paired(
        gained=gained,
        lost=lost,
        agree=float((digits == others).mean()),
        difference=(gained - lost) / len(labels),
        interval=(middle - half, middle + half),
        p=min(1.0, formats * float(binomtest(gained, gained + lost).pvalue)) if gained + lost else 1.0,
    )


def speed(
    runtimes: Mapping[str, Runtime], images: Images, *, rounds: int = ROUNDS
) -> dict[str, dict[int, list[float]]]:
    """Microseconds of a call, the median of each round's, by the number of its images."""
    chance = random.Random(1)
    found: dict[str, dict[int, list[float]]] = {name: {number: [] for number in BATCHES} for name in runtimes}
    for _ in range(rounds):
        for name in chance.sample(list(runtimes), len(runtimes)):
            for number, calls in BATCHES.items():
                taken = []
                for call in range(calls + calls // 10):
                    some = images[call % 100 : call % 100 + number]
                    began = time.perf_counter()
                    runtimes[name].predict(some)
                    taken.append(time.perf_counter() - began)
                found[name][number].append(1e6 * float(np.median(taken[calls // 10 :])))
    return found
