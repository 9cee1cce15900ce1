"""When a model should be believed, and the test images that it gets wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from digits import mnist
from digits.card import Card
from digits.confidence import Confidence, at_temperature, find_confidence, find_threshold, fit_temperature
from digits.contract import Labels, Probabilities
from digits.errors import ModelDamaged
from digits.misread import Misread
from digits.mnist import LabelledImages
from digits.store import find_model
from training import train
from training.recipes import RECIPES


def answers(*sureness: float, wrong: tuple[int, ...] = ()) -> tuple[Probabilities, Labels]:
    """Probabilities whose answers are given with these; of the places `wrong` the label is another one."""
    probabilities = np.repeat((1 - np.array(sureness, np.float32))[:, None] / 9, 10, axis=1)
    digits = np.arange(len(sureness)) % 10
    probabilities[np.arange(len(sureness)), digits] = sureness
    labels = digits.astype(np.uint8)
    labels[list(wrong)] = (labels[list(wrong)] + 1) % 10
    return probabilities.astype(np.float32), labels


def test_a_threshold_leaves_999_of_1000_right_and_no_more_out_than_that_takes() -> None:
    sureness = np.linspace(0.999, 0.2, 3000)
    probabilities, labels = answers(*sureness, wrong=(1000, 1500, 2500, 2600, 2700))
    threshold = find_threshold(probabilities, labels)
    accepted = probabilities.max(axis=1) > threshold
    assert accepted.sum() == 2500  # of which two are wrong; with the third there would be three in 2,501
    assert threshold == probabilities[2500].max()


def test_answers_of_one_probability_are_believed_together_or_not_at_all() -> None:
    probabilities, labels = answers(*[0.9] * 1500, *[0.8] * 1000, wrong=(2000, 2001, 2499))
    assert find_threshold(probabilities, labels) == pytest.approx(0.8)  # not some of the thousand
    _, all_right = answers(*[0.9] * 1500, *[0.8] * 1000)
    assert find_threshold(probabilities, all_right) == 0.0  # nobody is left out
    probabilities, labels = answers(*[0.9] * 10, *[0.8] * 2000, wrong=(0, 2007, 2008, 2009))
    assert find_threshold(probabilities, labels) == 1.0  # though 1 of the first 2,000 is


def test_a_model_that_is_never_right_enough_is_never_believed() -> None:
    probabilities, labels = answers(*[1.0] * 10, *[0.9] * 10, wrong=(0, 15))
    assert find_threshold(probabilities, labels) == 1.0
    found = find_confidence(probabilities, labels, probabilities, labels)
    assert (found.accepted, found.accuracy, found.left_out) == (0, None, 1.0)
    assert not found.believes(np.ones((1, 10), np.float32)).any()


def test_confidence_says_what_its_threshold_gives_on_the_test_images() -> None:
    held_out, held_out_labels = answers(*np.linspace(0.99, 0.3, 1000), wrong=(700, 800, 900))
    test, test_labels = answers(0.99, 0.95, 0.9, 0.31, wrong=(1,))
    found = find_confidence(held_out, held_out_labels, test, test_labels)
    assert (found.held_out, found.accepted, found.accepted_correct, found.total) == (1000, 3, 2, 4)
    assert found.left_out == 0.25
    assert found.accuracy == pytest.approx(2 / 3)
    calibrated = found.calibrated(test)
    assert found.believes(calibrated).tolist() == [True, True, True, False]
    assert calibrated == pytest.approx(at_temperature(test, found.temperature))


def test_the_temperature_is_the_one_that_scipy_finds() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 3, (2000, 10))
    labels = (logits + generator.gumbel(0, 2, logits.shape)).argmax(axis=1).astype(np.uint8)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    rows = np.arange(len(labels))
    oracle = minimize_scalar(
        lambda temperature: -log_softmax(logits / temperature, axis=1)[rows, labels].mean(),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert fit_temperature(probabilities, labels) == pytest.approx(oracle.x, rel=1e-3)
    assert oracle.x == pytest.approx(2, rel=0.1)  # as they were drawn
    assert at_temperature(probabilities, 2.0) == pytest.approx(softmax(logits / 2, axis=1), abs=1e-5)


@given(arrays.arrays(np.float32, (4, 10), elements=st.floats(0, 1, width=32)), st.floats(0.05, 20))
def test_a_temperature_changes_no_answer_and_gives_probabilities(greys: Probabilities, temperature: float) -> None:
    probabilities = ((greys + 1e-3) / (greys + 1e-3).sum(axis=1, keepdims=True)).astype(np.float32)
    calibrated = at_temperature(probabilities, temperature)
    assert calibrated.sum(axis=1) == pytest.approx(1, abs=1e-5)
    rows = np.arange(4)
    assert calibrated.max(axis=1) == pytest.approx(calibrated[rows, probabilities.argmax(axis=1)])


def test_misread_images_are_kept_with_what_was_read(tmp_path: Path) -> None:
    probabilities, labels = answers(0.9, 0.9, 0.9, 0.9, wrong=(1, 3))
    images = np.arange(4 * 784, dtype=np.int64).reshape(4, 28, 28).astype(np.uint8)
    Misread.of(probabilities, LabelledImages(images=images, labels=labels)).write(tmp_path)
    found = Misread.read(tmp_path)
    assert found is not None
    assert found.places.tolist() == [1, 3]
    assert found.labels.tolist() == [2, 4]
    assert found.digits.tolist() == [1, 3]
    assert (found.images == images[[1, 3]]).all()


def test_a_model_of_before_has_neither(tmp_path: Path) -> None:
    assert Misread.read(tmp_path) is None


@pytest.mark.slow
def test_a_run_that_holds_images_out_knows_when_to_believe_it_and_another_does_not(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, test_set: LabelledImages
) -> None:
    monkeypatch.setattr("training.export.FRAMEWORKS", ("numpy",))  # the other formats take their time
    few = LabelledImages(images=test_set.images[:6000], labels=test_set.labels[:6000])
    monkeypatch.setattr(mnist, "train_images", lambda: few)
    without = dataclasses.replace(RECIPES["numpy-relu"], epochs=1)
    holds_out = dataclasses.replace(without, validation_fraction=0.25)
    of_all, of_some = (
        train.train_and_store(recipe, device="cpu", on_epoch=lambda epoch: None) for recipe in (without, holds_out)
    )
    assert of_all.card.confidence is None
    found = of_some.card.confidence
    assert found is not None
    assert (found.held_out, found.total) == (1500, 10_000)
    assert 0.05 < found.temperature < 20
    assert 0 < found.accepted < 10_000
    assert found.accuracy is not None
    assert found.accuracy > of_some.card.accuracy + 0.02
    misread = of_some.misread()
    assert misread is not None
    assert len(misread.places) == of_some.card.scores["numpy"].total - of_some.card.scores["numpy"].correct
    assert (misread.labels == test_set.labels[misread.places]).all()
    assert (misread.digits != misread.labels).all()
    assert find_model("numpy-relu").card.confidence == found
    assert Card.from_data(json.loads(json.dumps(of_some.card.to_data()))).confidence == found
    assert isinstance(found, Confidence)
    (of_some.folder / "misread.npz").write_bytes(b"others")
    with pytest.raises(ModelDamaged, match=r"misread\.npz is not the file that was stored"):
        of_some.misread()
