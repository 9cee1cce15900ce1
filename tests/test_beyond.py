"""Digits that are not MNIST's, read by two models of seconds. How much of each kind, says a table in the tests' output."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from conftest import bentoml_home

from digits.card import Score
from digits.contract import EXPORTED
from digits.errors import KindMissing
from digits.kinds import pictures
from digits.kinds.table import KINDS
from digits.mnist import LabelledImages
from digits.store import find_model
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU

CONVOLUTIONS, DENSE = MODELS = "torch-conv", "numpy-sigmoid"
IMAGES, PICTURES, HUGE_PICTURES = 200, 50, 5  # of MNIST's, of which most kinds are made
GROUPS: Final = {kind.name: kind.group for kind in KINDS}
Scores = dict[str, dict[str, Score]]  # by kind and model


@pytest.fixture(scope="module")
def scores(drawn_home: Path, test_set: LabelledImages) -> Scores:
    some = LabelledImages(images=test_set.images[:IMAGES], labels=test_set.labels[:IMAGES])
    found: Scores = {}
    with pytest.MonkeyPatch.context() as patch, bentoml_home(drawn_home):
        patch.setattr(pictures, "PICTURES", PICTURES)
        patch.setattr(pictures, "HUGE_PICTURES", HUGE_PICTURES)
        runtimes = {
            name: open_runtime("onnx", find_model(name).folder / EXPORTED["onnx"], device=CPU) for name in MODELS
        }
        for kind in KINDS:
            try:
                digits = kind.digits(some).digits
            except KindMissing:  # of fonts, where the machine has none of that kind
                continue
            found[kind.name] = {
                name: Score.of(predict_all(runtime, digits.images), digits.labels) for name, runtime in runtimes.items()
            }
    return found


def test_a_small_network_reads_every_kind_of_picture_nearly_as_well_as_mnist(
    scores: Scores, record_property: Any
) -> None:
    """It reads 98.5 % of MNIST's test images: what a kind of picture costs beyond that is lost where the digit is found."""
    rows = [f"{'kind':22}{'images':>6}" + "".join(f"{name:>15}" for name in MODELS)]
    for kind, of in scores.items():
        rows += [f"{kind:22}{of[DENSE].total:6}" + "".join(f"{of[name].accuracy:15.1%}" for name in MODELS)]
    record_property("table", "\n".join(["Digits that are not MNIST's, read by two models trained for seconds", *rows]))
    of_pictures = {kind: of[CONVOLUTIONS].accuracy for kind, of in scores.items() if GROUPS[kind] == "pictures"}
    assert len(of_pictures) >= 13
    assert {kind: accuracy for kind, accuracy in of_pictures.items() if accuracy < 0.92} == {}


def test_it_reads_other_peoples_digits_and_a_dense_one_does_not(scores: Scores) -> None:
    foreign = [of for kind, of in scores.items() if GROUPS[kind] == "foreign"]
    assert foreign
    for of in foreign:
        assert of[CONVOLUTIONS].accuracy > 0.8 > of[DENSE].accuracy
