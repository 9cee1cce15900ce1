"""Digits that a program draws, and how they come among the training images."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from conftest import require

from digits import mnist
from digits.contract import FRAMEWORKS, Images
from digits.kinds.boxed import BOX
from digits.kinds.strangers import LIKE_DIGITS
from digits.mnist import LabelledImages
from training.drawn import _curve, _distance, _path, draw, drawn_digits
from training.recipes import RECIPES
from training.skeletons import SKELETONS, Skeleton, oval
from training.strangers import LETTERS, drawn_strangers
from training.targets import STRANGER, TARGETS
from training.train import split_for

EACH = [(digit, name) for digit, skeletons in SKELETONS.items() for name in skeletons]
each_skeleton = pytest.mark.parametrize(("digit", "name"), EACH, ids=lambda part: str(part).replace(" ", "-"))
OF_TWO_PIECES = {(0, "dotted"), (5, "separate hat")}  # which a bold pen joins


@functools.cache
def some(digit: int, name: str) -> Images:
    return draw(SKELETONS[digit][name], np.random.default_rng(1))


# -- What is drawn -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_bytes_and_another_one_others() -> None:
    first, again, other = drawn_digits(200, seed=1), drawn_digits(200, seed=1), drawn_digits(200, seed=2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, other.labels)
    assert (first.images != other.images).any(axis=(1, 2)).all()


def test_fewer_digits_are_the_first_of_more() -> None:
    """At the borders of blocks too: 900 are more than a block of each skeleton of a three."""
    more = drawn_digits(900, seed=3)
    for count in (0, 1, 9, 473):
        fewer = drawn_digits(count, seed=3)
        assert fewer.images.shape == (count, 28, 28)
        np.testing.assert_array_equal(fewer.images, more.images[:count])
        np.testing.assert_array_equal(fewer.labels, more.labels[:count])
    assert len({image.tobytes() for image in more.images}) == 900


def test_every_digit_is_drawn_as_often_and_in_each_of_its_skeletons_as_often() -> None:
    drawn = drawn_digits(400, seed=1)
    assert drawn.images.dtype == drawn.labels.dtype == np.uint8
    assert np.bincount(drawn.labels, minlength=10).tolist() == [40] * 10
    for digit, skeletons in SKELETONS.items():
        own = drawn.images[drawn.labels == digit]
        for number, skeleton in enumerate(skeletons.values()):
            expected = draw(skeleton, np.random.default_rng([1, digit, number, 0]))
            turns = own[number :: len(skeletons)]
            np.testing.assert_array_equal(turns, expected[: len(turns)])
            assert len(turns) >= 40 // len(skeletons)


def test_there_are_skeletons_of_every_digit_and_no_two_alike() -> None:
    assert list(SKELETONS) == list(range(10))
    every = [skeleton for skeletons in SKELETONS.values() for skeleton in skeletons.values()]
    assert len(set(every)) == len(every) >= 60
    assert min(map(len, SKELETONS.values())) >= 5


@each_skeleton
def test_a_drawn_digit_stands_in_the_box_as_mnists_do(digit: int, name: str) -> None:
    images = some(digit, name)
    assert images.dtype == np.uint8
    assert (images.max(axis=(1, 2)) == 255).all()
    for image in images:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert BOX - 2 <= max(height, width) <= BOX  # the outermost line of pixels may round to nothing
        grey = image.astype(np.float64)
        centre = [(grey.sum(axis=axis) * np.arange(28)).sum() / grey.sum() for axis in (0, 1)]
        assert max(abs(np.array(centre) - 13.5)) < 0.6  # half a pixel, and less where the box ends


@each_skeleton
def test_the_strokes_of_a_digit_hang_together(digit: int, name: str) -> None:
    require("scipy")
    from scipy import ndimage

    parts = {ndimage.label(image > 32, np.ones((3, 3)))[1] for image in some(digit, name)}
    assert parts <= ({1, 2} if (digit, name) in OF_TWO_PIECES else {1})


@each_skeleton
def test_a_skeleton_lies_in_its_box_and_varies(digit: int, name: str) -> None:
    path = _path(SKELETONS[digit][name])
    vertices = path.curve @ path.points
    assert vertices.min() > -0.2
    assert vertices.max() < 1.2
    assert np.ptp(vertices[:, 1]) > 0.95
    images = some(digit, name)
    assert len({image.tobytes() for image in images}) == len(images)


def test_pens_are_thin_and_bold() -> None:
    ink = drawn_digits(600, seed=1).images.mean(axis=(1, 2)) / 255
    assert np.quantile(ink, 0.05) < 0.06
    assert np.quantile(ink, 0.95) > 0.2


# -- How ---------------------------------------------------------------------------------------------------------------------


def test_a_ring_of_eight_points_is_round_and_two_points_are_a_straight_line() -> None:
    ring = oval(0.5, 0.5, 0.5, 0.5)
    vertices = _curve(ring) @ np.array(ring)
    assert len(vertices) == 33
    np.testing.assert_allclose(np.hypot(*(vertices - 0.5).T), 0.5, atol=0.004)
    np.testing.assert_array_equal(vertices[0], vertices[-1])
    np.testing.assert_array_equal(_curve(((0, 0), (1, 1))), np.eye(2))


def test_a_curve_passes_through_its_points() -> None:
    points = np.array([(0, 0), (0.3, 0.8), (0.9, 0.4), (1, 1)])
    vertices = _curve(tuple(map(tuple, points))) @ points
    np.testing.assert_allclose(vertices[::4], points, atol=1e-12)


@pytest.mark.parametrize("flat", [False, True])
def test_the_distance_is_that_from_the_nearest_point_of_a_stroke(flat: bool) -> None:
    """In half axes of a tip of 6 by 2 pixels, turned by 30 degrees; held against many points of the strokes."""
    bent: Skeleton = (((0, 0), (0.4, 0.7), (1, 0.2)), ((1, 0.2), (0.5, 1)))
    path = _path(bent)
    assert path.ends.tolist() == [[True, False], *[[False, False]] * 6, [False, False], [False, True]]
    vertices = (path.curve @ path.points)[None] * np.float32(30) + np.float32(9)
    angle = np.radians(30)
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / np.array([[3], [1]])
    found = _distance(path, vertices, axes[None].astype(np.float32), flat=np.array([flat]))[0]

    share = np.linspace(0, 1, 400)[:, None]
    dense = np.concatenate([vertices[0, a] + share * (vertices[0, b] - vertices[0, a]) for a, b in path.pieces])
    line = np.arange(0, 48, 3)
    pixels = np.stack(np.meshgrid(line, line), axis=-1)  # [16, 16, 2] of (x, y)
    away = np.linalg.norm((pixels[:, :, None] - dense) @ axes.T, axis=-1)  # [16, 16, 4000]
    expected = away.min(axis=-1)
    found = found[::3, ::3]
    if not flat:
        np.testing.assert_allclose(found, expected, atol=0.04)
        return
    cut = found > expected + 0.04
    at_an_end = np.isin(away.argmin(axis=-1), (0, len(dense) - 1))
    assert not (cut & ~at_an_end).any()
    assert 30 < cut.sum() >= at_an_end.sum() - 4  # some are abreast of an end


# -- Among the training images -----------------------------------------------------------------------------------------------


# -- What is no digit -----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_strangers_and_fewer_are_the_first_of_more() -> None:
    first, again, other = drawn_strangers(200, seed=1), drawn_strangers(200, seed=1), drawn_strangers(200, seed=2)
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any(axis=(1, 2)).all()
    for count in (0, 1, 159, 170):
        fewer = drawn_strangers(count, seed=1)
        np.testing.assert_array_equal(fewer.images, first.images[:count])


def test_strangers_are_all_different_and_have_one_label_for_which_no_digit_is_likelier_than_another() -> None:
    strangers = drawn_strangers(1600, seed=1)
    assert strangers.images.dtype == strangers.labels.dtype == np.uint8
    assert set(strangers.labels.tolist()) == {STRANGER}
    np.testing.assert_allclose(TARGETS[STRANGER], 0.1)
    np.testing.assert_array_equal(TARGETS[:STRANGER], np.eye(10))
    assert len({image.tobytes() for image in strangers.images}) == 1600


def test_a_stranger_stands_in_the_box_as_digits_do() -> None:
    for image in drawn_strangers(320, seed=1).images:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.max() == 255
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20


def test_no_letter_is_one_that_some_hand_writes_like_a_digit() -> None:
    assert LIKE_DIGITS.isdisjoint(name[0] for name in LETTERS if len(name) == 1 or " of " in name)


@pytest.fixture
def a_thousand(monkeypatch: pytest.MonkeyPatch) -> LabelledImages:
    """In place of all training images: to read those takes a second each time."""
    whole = mnist.train_images()
    few = LabelledImages(images=whole.images[:1000], labels=whole.labels[:1000])
    monkeypatch.setattr(mnist, "train_images", lambda: few)
    return few


@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_what_is_drawn_comes_after_mnists_and_what_is_held_out_is_mnists_alone(
    fraction: float, a_thousand: LabelledImages
) -> None:
    recipe = dataclasses.replace(RECIPES["torch-relu"], drawn=30, strangers=20, seed=5, validation_fraction=fraction)
    split, without = split_for(recipe), split_for(dataclasses.replace(recipe, drawn=0, strangers=0))
    kept = len(without.train.labels)
    drawn, strangers = drawn_digits(30, seed=5), drawn_strangers(20, seed=5)
    assert kept == (900 if fraction else 1000)
    np.testing.assert_array_equal(without.train.images, a_thousand.images[:kept])
    np.testing.assert_array_equal(without.train.labels, a_thousand.labels[:kept])
    np.testing.assert_array_equal(
        split.train.images, np.concatenate([without.train.images, drawn.images, strangers.images])
    )
    np.testing.assert_array_equal(
        split.train.labels, np.concatenate([without.train.labels, drawn.labels, strangers.labels])
    )
    np.testing.assert_array_equal(split.held_out.images, without.held_out.images)
    np.testing.assert_array_equal(split.held_out.labels, without.held_out.labels)
    assert split.held_out_is == without.held_out_is


def test_all_three_frameworks_get_the_same_of_what_is_drawn_and_every_seed_its_own(a_thousand: LabelledImages) -> None:
    robust = [RECIPES[f"{framework}-robust"] for framework in FRAMEWORKS]
    first, *others = (split_for(dataclasses.replace(recipe, drawn=20, strangers=20)).train for recipe in robust)
    kept = len(first.labels) - 40
    for other in others:
        np.testing.assert_array_equal(first.images, other.images)
        np.testing.assert_array_equal(first.labels, other.labels)
    again = split_for(dataclasses.replace(robust[0], drawn=20, strangers=20, seed=2)).train
    np.testing.assert_array_equal(first.images[:kept], again.images[:kept])
    assert (first.images[kept:] != again.images[kept:]).any(axis=(1, 2)).all()


def test_robust_alone_draws_digits_and_strangers() -> None:
    drawing = {
        recipe.name: (recipe.drawn, recipe.strangers) for recipe in RECIPES.values() if recipe.drawn or recipe.strangers
    }
    assert set(drawing) == {f"{framework}-robust" for framework in FRAMEWORKS}
    assert len(set(drawing.values())) == 1
