"""Trainings with every random number given: the same in every framework, and resumed where they were cut short."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits import mnist
from digits.errors import StudyError
from digits.network import BatchNorm, Conv, Dense, MaxPool, Relu, dense_network
from training.given import draws
from training.given.draws import Precision, Training
from training.given.runs import Outcome, do, read, run_all
from training.recipes import RECIPES, Recipe
from training.targets import STRANGER

# A fortieth of the training images: short, and with a last batch that is smaller.
SHORT = dataclasses.replace(
    RECIPES["keras-enhanced"],
    network=dense_network((64,), "relu", 0.2),
    epochs=2,
    batch_size=64,
    validation_fraction=0.975,
)
RMSPROP = dataclasses.replace(
    SHORT, network=dense_network((16,), "sigmoid"), optimizer="rmsprop", beta_1=0.0, beta_2=0.9
)
# Everything that a recipe of convolutions has: what it draws, augmentation, a cycle of learning rates.
CONVOLUTIONS = dataclasses.replace(
    RECIPES["torch-robust"],
    network=(
        *(Conv(filters=4, kernel=5, padding=2, bias=False), MaxPool(2), BatchNorm(momentum=0.9, epsilon=1e-5), Relu()),
        *(Conv(filters=8, kernel=3, padding=0, bias=True), MaxPool(2), Relu()),
        *(Dense(16), BatchNorm(momentum=0.9, epsilon=1e-5), Relu(), Dense(10)),
    ),
    drawn=300,
    strangers=100,
    epochs=2,
    validation_fraction=0.975,
)


def given(recipe: Recipe = SHORT, seed: int = 1, **changed: object) -> Training:
    return replace(
        Training(recipe=recipe, framework="numpy", weights=seed, order=seed, masks=seed, keep=2),
        **changed,  # type: ignore[arg-type]
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [SHORT, RMSPROP, CONVOLUTIONS], ids=["adam, dropout, L2", "rmsprop", "convolutions"])
def test_in_float64_not_one_answer_differs_between_frameworks(recipe: Recipe, tmp_path: Path) -> None:
    trainings = [given(recipe, framework=framework, precision="float64") for framework in ("numpy", "torch", "keras")]
    ours, torchs, kerass = (one.digits for one in run_all(trainings, tmp_path, jobs=1))
    assert ours.shape == (2, 10_000)
    assert (ours[-1] == mnist.test_images().labels).mean() > 0.5
    assert (ours != torchs).sum() == 0
    assert (ours != kerass).sum() == 0


@pytest.mark.slow
def test_what_l2_means_in_torch_is_one_mathematics_in_numpy_and_torch(tmp_path: Path) -> None:
    recipe = replace(SHORT, l2=0.01)
    trainings = [
        given(recipe, framework=framework, precision="float64", l2_means="decay") for framework in ("numpy", "torch")
    ]
    ours, torchs = (one.digits for one in run_all(trainings, tmp_path, jobs=1))
    assert (ours[-1] == mnist.test_images().labels).mean() > 0.5
    assert (ours != torchs).sum() == 0


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    first, second = given(), given(seed=2)
    told: list[tuple[str, int, int]] = []

    def on_done(outcome: Outcome, done: int, total: int) -> None:
        told.append((outcome.training.key, done, total))

    (alone,) = run_all([first], tmp_path, jobs=1, on_done=on_done)
    before = (tmp_path / f"{first.key}.json").stat().st_mtime_ns
    again, new, twice = run_all([first, second, second], tmp_path, jobs=2, on_done=on_done)
    assert (tmp_path / f"{first.key}.json").stat().st_mtime_ns == before
    assert told == [(first.key, 1, 1), (second.key, 2, 2)]
    assert np.array_equal(alone.digits, again.digits)
    assert np.array_equal(new.digits, twice.digits)
    assert not np.array_equal(new.digits, again.digits)
    assert again.seconds > 0
    (tmp_path / f"{first.key}.npz").write_bytes(b"half")
    with pytest.raises(StudyError, match=r"cannot be read .* Delete it"):
        read(tmp_path, first)
    with pytest.raises(StudyError, match="A training failed"):
        run_all([given(keep=0)], tmp_path, jobs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        (SHORT, {"weights": 2}),
        (SHORT, {"order": 2}),
        (SHORT, {"masks": 2}),
        (SHORT, {"sample": 1}),
        (SHORT, {"shuffles": "once"}),
        (SHORT, {"l2_means": "decay"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_thing_that_is_given_changes_what_comes_out(recipe: Recipe, change: dict[str, Any]) -> None:
    one, other = do(given(recipe)), do(given(recipe, **change))
    assert not np.array_equal(one["digits"], other["digits"])
    assert np.array_equal(one["digits"], do(given(recipe))["digits"])


def test_recipes_start_from_the_same_numbers() -> None:
    torchs = replace(SHORT, weight_draw="fan_in_uniform", bias_draw="fan_in_uniform")
    glorots = replace(SHORT, weight_draw="glorot_uniform", bias_draw="zeros")
    for mine, other in zip(draws.starting_weights(given(torchs)), draws.starting_weights(given(glorots)), strict=True):
        fan_in, fan_out = mine["weight"].shape
        ratio = (6 / (fan_in + fan_out)) ** 0.5 * fan_in**0.5
        assert other["weight"] == pytest.approx(ratio * mine["weight"], rel=1e-6)
        assert np.abs(mine["weight"]).max() == pytest.approx(fan_in**-0.5, rel=0.05)
        assert mine["weight"].dtype == np.float32
        assert not other["bias"].any()
        assert 0 < np.abs(mine["bias"]).max() <= fan_in**-0.5
    first, second = (draws.starting_weights(given(seed=seed))[0]["weight"] for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_nudge_moves_each_starting_weight_by_its_last_bit(precision: Precision) -> None:
    plain, up, down = (
        draws.starting_weights(given(precision=precision, nudge=nudge))[0]["weight"] for nudge in (0, 1, -1)
    )
    assert up.dtype == precision
    np.testing.assert_array_equal(np.spacing(np.abs(plain)) >= up - plain, True)
    assert (up > plain).all()
    assert (down < plain).all()
    np.testing.assert_array_equal(np.nextafter(down, plain), plain)
    assert "nudge" not in given().to_data()


def test_an_order_is_another_one_at_each_epoch_unless_it_is_drawn_once() -> None:
    first, second = draws.orders(given(), 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second)
    first, second = draws.orders(given(shuffles="once"), 100)
    assert np.array_equal(first, second)


def test_masks_keep_their_share() -> None:
    (mask,) = draws.masks(given(), 0, 5000)
    assert mask.shape == (5000, 64)
    assert mask.mean() == pytest.approx(0.8, abs=0.01)
    assert not np.array_equal(mask, draws.masks(given(), 1, 5000)[0])
    assert draws.masks(given(RMSPROP), 0, 10) == []


def test_two_samples_of_the_training_images_are_its_halves() -> None:
    every = draws.training_images(given())
    assert every.images.shape == (1500, 28, 28)
    assert len(every.labels) == 1500
    halves = [draws.training_images(given(sample=sample)) for sample in (3, -3)]
    assert [len(half.labels) for half in halves] == [750, 750]
    both = [(bytes(image), label) for half in halves for image, label in zip(half.images, half.labels, strict=True)]
    assert sorted(both) == sorted(zip(map(bytes, every.images), every.labels, strict=True))


def test_an_epoch_sees_every_image_scaled_and_augmented_anew_where_the_recipe_augments() -> None:
    images = draws.training_images(given()).images
    first, second = draws.epochs(given(), images)
    assert first.shape == (1500, 784)
    assert first.dtype == np.float32
    assert (first.min(), first.max()) == pytest.approx(SHORT.scaling)
    assert np.array_equal(first, second)
    augmented = replace(SHORT, augmentation=CONVOLUTIONS.augmentation)
    first, second = draws.epochs(given(augmented, precision="float64"), images)
    assert first.dtype == np.float64
    assert not np.array_equal(first, second)
    again, _ = draws.epochs(given(augmented, precision="float64", weights=2), images)
    assert np.array_equal(first, again)
    other, _ = draws.epochs(given(augmented, precision="float64", order=2), images)
    assert not np.array_equal(first, other)


def test_what_a_recipe_draws_is_trained_on_by_the_seed_of_the_order() -> None:
    one, other = (draws.training_images(given(CONVOLUTIONS, order=order)) for order in (1, 2))
    assert one.images.shape == (1900, 28, 28)
    assert (one.labels == STRANGER).sum() == 100
    assert np.array_equal(one.images[:1500], draws.training_images(given()).images)
    assert not np.array_equal(one.images[1500:1800], other.images[1500:1800])


def test_a_key_is_of_all_that_decides_what_comes_out() -> None:
    keys = {
        given(**change).key
        for change in (
            {}, {"weights": 2}, {"order": 2}, {"masks": 2}, {"sample": 1}, {"shuffles": "once"}, {"l2_means": "decay"},
            {"framework": "torch"}, {"precision": "float64"}, {"keep": 1}, {"recipe": replace(SHORT, epsilon=1e-3)},
            {"nudge": 1}, {"nudge": -1},
        )
    }  # fmt: skip
    assert len(keys) == 13
    assert given(replace(SHORT, name="other", source="words", seed=9, framework="torch")).key == given().key
