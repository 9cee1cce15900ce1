"""Weights in smaller numbers: what the files hold, that they still answer as the contract says, and what is said of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import bentoml_home, require
from scipy import stats
from small_models import card_of

from comparison.calibration import ece_by_chance
from comparison.cost.numbers import BATCHES, compare_numbers, keep_numbers, paired, read_numbers, speed
from digits import store
from digits.card import Card, Score
from digits.contract import CLASSES, Images, Labels, Probabilities
from digits.errors import ExportError, ResultsMissing
from digits.mnist import LabelledImages
from digits.store import StoredModel, find_model, served_models
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
from training import numpy_trainer
from training.recipes import RECIPES
from training.smaller import NUMBERS, Numbers, _require_probabilities, store_smaller, write_smaller

WEIGHTS = {
    "int8-dynamic": onnx.TensorProto.UINT8,
    "int8-static": onnx.TensorProto.INT8,
    "float16": onnx.TensorProto.FLOAT16,
}
SMALLER = {"int8-dynamic": 0.4, "int8-static": 0.4, "float16": 0.6}  # of the original's bytes, at most
FAR = {"int8-dynamic": 0.1, "int8-static": 0.1, "float16": 0.005}  # from the original's probabilities, at most


def exported(recipe: str, path: Path) -> Path:
    """The recipe's network with the weights that it starts from."""
    require("onnxruntime")
    row = RECIPES[recipe]
    generator = np.random.default_rng(1)
    model = numpy_trainer.build(row, generator)
    numpy_trainer.initialise(model, row, generator)
    numpy_trainer.export_onnx(model, row, path)
    return path


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("recipe", ["numpy-relu", "numpy-conv"])
def test_a_smaller_file_holds_smaller_numbers_and_keeps_the_contract(
    recipe: str, numbers: Numbers, tmp_path: Path, test_set: LabelledImages
) -> None:
    original, smaller = exported(recipe, tmp_path / "model.onnx"), tmp_path / "smaller.onnx"
    write_smaller(original, smaller, numbers)
    assert smaller.stat().st_size < SMALLER[numbers] * original.stat().st_size
    held = {tensor.data_type for tensor in onnx.load(smaller).graph.initializer if np.prod(tensor.dims) > 1000}
    assert held == {WEIGHTS[numbers]}
    exact, runtime = open_runtime("onnx", original, device=CPU), open_runtime("onnx", smaller, device=CPU)
    for number in (1, 7, 500):
        probabilities = runtime.predict(test_set.images[:number])
        assert probabilities.shape == (number, CLASSES)
        assert probabilities.dtype == np.float32
        assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-5
        assert np.abs(probabilities - exact.predict(test_set.images[:number])).max() < FAR[numbers]


def test_sums_that_are_off_are_told() -> None:
    good = np.full((3, CLASSES), 0.1, np.float32)
    _require_probabilities(good, "a")
    good[1] *= np.float32(1.0001)
    with pytest.raises(ExportError, match=r"a: expected probabilities that add up to 1, .* off by up to 0\.0001"):
        _require_probabilities(good, "a")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredModel]:
    """A whole run of a recipe that holds training images out, in a store of its own."""
    recipe = RECIPES["numpy-relu"]

    def fill(folder: Path) -> Card:
        exported("numpy-relu", folder / "model.onnx")
        return dataclasses.replace(
            card_of(),
            recipe={"name": "numpy-relu", "validation_fraction": 0.1, "epochs": recipe.epochs},
            departures=(),
            scores={"onnx": Score(correct=1000, total=10_000)},
            bytes={"onnx": store.size(folder / "model.onnx")},
            files=store.hashes(folder),
        )

    with bentoml_home(tmp_path_factory.mktemp("home")):
        yield store.save("numpy-relu", fill=fill)


def test_a_smaller_model_has_a_card_of_its_own_and_is_served_only_by_name(
    stored: StoredModel, test_set: LabelledImages
) -> None:
    smaller = store_smaller(stored, "int8-static")
    assert smaller.recipe == "numpy-relu-int8-static"
    answers = predict_all(open_runtime("onnx", smaller.path("onnx"), device=CPU), test_set.images)
    assert smaller.card.scores == {"onnx": Score.of(answers, test_set.labels)}
    assert 0 < smaller.card.largest_difference["onnx"] < 0.1
    assert smaller.card.bytes["onnx"] < 0.4 * stored.card.bytes["onnx"]
    assert (smaller.card.recipe["numbers"], smaller.card.recipe["weights_of"]) == ("int8-static", stored.tag)
    assert smaller.card.confidence is not None
    assert smaller.card.confidence.held_out == 6_000  # a tenth of the training images
    smaller.verify("onnx")
    assert find_model("numpy-relu-int8-static").tag == smaller.tag
    assert [model.tag for model in served_models()] == [stored.tag]


def test_each_format_is_compared_with_the_original(stored: StoredModel, test_set: LabelledImages) -> None:
    float16 = store_smaller(stored, "float16")
    first, second, third = compare_numbers(stored, [float16, store_smaller(stored, "int8-static")])
    assert (first.numbers, second.numbers, third.numbers) == ("float32", "float16", "int8-static")
    assert (first.paired, set(first.ratios.values())) == (None, {1.0})
    assert second.paired is not None
    assert 0.9 < second.paired.agree <= 1
    exact, rounded = (
        predict_all(open_runtime("onnx", one.path("onnx"), device=CPU), test_set.images) for one in (stored, float16)
    )
    assert first.ece_by_chance == ece_by_chance(exact)
    assert second.ece_by_chance == ece_by_chance(rounded)
    assert second.paired == paired(rounded, exact, test_set.labels, formats=2)
    assert [one.model for one in (first, second)] == [stored.tag, float16.tag]
    assert [one.bytes for one in (first, second)] == [stored.card.bytes["onnx"], float16.card.bytes["onnx"]]
    assert set(first.intervals.values()) == {None}
    assert 0.1 < first.microseconds[64] < first.microseconds[1] < 100_000  # of an image
    assert (second.correct, second.total) == (float16.card.scores["onnx"].correct, 10_000)
    for number in BATCHES:
        interval = second.intervals[number]
        assert interval is not None
        assert interval[0] <= second.ratios[number] <= interval[1]


def test_what_was_compared_is_kept_for_the_page_of_costs_and_replaced_when_it_is_compared_again(
    stored: StoredModel, tmp_path: Path
) -> None:
    rows = compare_numbers(stored, [store_smaller(stored, "float16")])
    keep_numbers(rows, tmp_path)
    assert read_numbers(tmp_path) == [rows]
    other = [dataclasses.replace(row, model=f"other-{row.model}") for row in rows]
    keep_numbers(other, tmp_path)
    again = [rows[0], dataclasses.replace(rows[1], correct=1)]
    keep_numbers(again, tmp_path)
    assert read_numbers(tmp_path) == [again, other]
    for broken in ('[[{"model": "a"}]]', "[["):
        (tmp_path / "numbers.json").write_text(broken)
        with pytest.raises(
            ResultsMissing, match=r"numbers\.json .*Delete it, and run it again: samedigit quantize MODEL$"
        ):
            read_numbers(tmp_path)


def test_calls_of_one_image_and_of_many_are_timed_in_microseconds() -> None:
    """Of a runtime that takes two milliseconds whatever is asked."""
    asked: list[Images] = []

    class Slow:
        def predict(self, images: Images) -> Probabilities:
            asked.append(images)
            time.sleep(0.002)
            return np.full((len(images), CLASSES), 0.1, np.float32)

    images = np.arange(200, dtype=np.uint8)[:, None, None] + np.zeros((1, 28, 28), np.uint8)
    found = speed({"slow": Slow()}, images, rounds=2)["slow"]
    assert [len(one) for one in asked] == ([1] * 220 + [64] * 33) * 2
    np.testing.assert_array_equal(asked[119], images[19:20])  # a hundred beginnings, in turn
    np.testing.assert_array_equal(asked[220 + 7], images[7:71])
    assert {number: len(rounds) for number, rounds in found.items()} == {1: 2, 64: 2}
    assert all(2000 < each < 20_000 for rounds in found.values() for each in rounds)


def answering(digits: list[int]) -> Probabilities:
    return np.eye(CLASSES, dtype=np.float32)[digits]


def test_a_paired_difference_counts_what_only_one_gets_right() -> None:
    labels: Labels = np.zeros(100, np.uint8)
    ours = answering([0] * 90 + [1] * 10)  # 5 and 8 gained; 7 of 10 lost, 3 wrong in both
    theirs = answering([1] * 2 + [0] * 95 + [2] * 3)
    found = paired(ours, theirs, labels)
    assert (found.gained, found.lost) == (2, 7)
    assert found.agree == 0.88  # not where both are wrong, but say another digit
    assert found.difference == pytest.approx(-0.05)
    assert found.p == pytest.approx(stats.binomtest(2, 9).pvalue)
    middle, spread = -5 / 102, 11 / 102  # by hand
    half = 1.959964 * np.sqrt((spread - middle**2) / 102)
    assert found.interval == pytest.approx((middle - half, middle + half))
    of_three = paired(ours, theirs, labels, formats=3)
    half = 2.393980 * np.sqrt((spread - middle**2) / 102)  # the normal's quantile at 1 - 0.05 / 6
    assert of_three.interval == pytest.approx((middle - half, middle + half))
    assert of_three.p == pytest.approx(3 * stats.binomtest(2, 9).pvalue)
    assert paired(ours, theirs, labels, formats=9).p == 1
    same = paired(ours, ours, labels)
    assert (same.p, same.difference, same.agree) == (1.0, 0.0, 1.0)


def test_the_intervals_of_all_formats_hold_at_once_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    labels: Labels = np.zeros(500, np.uint8)
    at_once = 0
    for _ in range(1500):
        known = random.random(500) > 0.05  # by the original
        original, found = answering((~known).astype(int).tolist()), []
        for gained in (0.2, 0.4, 0.6):  # of what it does not know; of what it knows each loses 1 in 100
            right = np.where(known, random.random(500) > 0.01, random.random(500) < gained)
            low, high = paired(answering((~right).astype(int).tolist()), original, labels, formats=3).interval
            found.append(low <= 0.05 * gained - 0.95 * 0.01 <= high)
        at_once += all(found)
    assert 0.935 < at_once / 1500 < 0.98


def test_the_interval_of_a_paired_difference_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    labels: Labels = np.zeros(500, np.uint8)
    covered = []
    for _ in range(1500):
        draw = random.random(500)  # 3 % gained, 1 % lost, 5 % wrong in both
        ours = answering(np.where((draw < 0.01) | (draw > 0.95), 1, 0).tolist())
        theirs = answering(np.where((draw >= 0.01) & (draw < 0.04) | (draw > 0.95), 1, 0).tolist())
        low, high = paired(ours, theirs, labels).interval
        covered.append(low < 0.02 < high)
    assert 0.935 < np.mean(covered) < 0.975
