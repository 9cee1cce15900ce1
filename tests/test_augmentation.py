"""Augmentation: the mathematics against other libraries, what is drawn, and that every framework gets the same bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from conftest import require
from threadpoolctl import threadpool_info, threadpool_limits

from digits import mnist
from digits.contract import Images
from digits.errors import ImpossibleRecipe
from digits.sampling import affine_points, sample
from training.augmentation import (
    BLOCK,
    KINDS,
    Affine,
    Augmentation,
    Blots,
    Blur,
    Contrast,
    Elastic,
    Fog,
    Impulses,
    Lines,
    Motion,
    Noise,
    Occlusion,
    Outline,
    Stripes,
    Thickness,
    augment,
    draw_affine,
    draw_fields,
    from_data,
    smooth_fields,
    to_data,
)

AFFINE = Affine(rotation=10, shift=1, scale=0.1, shear=8, probability=1)
ELASTIC = Elastic(sigma=4, alpha=16, probability=1)
LINES = Lines(most=3, width=2, amplitude=3, probability=1)
EVERY: tuple[Augmentation, ...] = (
    Thickness(thinner=1, thicker=1.5, probability=1),
    AFFINE,
    ELASTIC,
    Outline(probability=1),
    Blur(deviation=1.5, probability=1),
    Motion(length=8, probability=1),
    Contrast(background=0.5, least=0.3, probability=1),
    Fog(density=2, probability=1),
    Blots(size=1.5, share=0.2, probability=1),
    LINES,
    Stripes(width=8, probability=1),
    Occlusion(side=14, probability=1),
    Noise(deviation=0.3, probability=1),
    Impulses(share=0.3, probability=1),
)


def name(augmentation: Augmentation) -> str:
    return type(augmentation).__name__.lower()


each_kind = pytest.mark.parametrize("augmentation", EVERY, ids=name)


@pytest.fixture(scope="module")
def images() -> Images:
    return mnist.train_images().images[:300]


def random() -> np.random.Generator:
    return np.random.default_rng(7)


def drawn_maps(augmentation: Affine, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return draw_affine(augmentation, np.ones(count, np.float32), random())


# -- Sampling -----------------------------------------------------------------------------------------------------------------


def far_points(count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Points inside of the images and well outside."""
    points = random().uniform(-6, 33, (2, count, 28, 28)).astype(np.float32)
    return points[0], points[1]


def test_sampling_is_torchs_grid_sample(images: Images) -> None:
    require("torch")
    import torch

    rows, columns = far_points(len(images))
    expected = torch.nn.functional.grid_sample(
        torch.tensor(images[:, None] / np.float32(255)),
        torch.from_numpy(np.stack([columns, rows], axis=-1) * np.float32(2 / 27) - 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    np.testing.assert_allclose(
        sample(images / np.float32(255), rows, columns), expected[:, 0].numpy(), rtol=0, atol=1e-5
    )


def test_sampling_at_whole_coordinates_gives_the_pixels_and_outside_zeros(images: Images) -> None:
    rows, columns = np.mgrid[-3:31, -3:31].astype(np.float32)
    count = len(images)
    sampled = sample(images, np.broadcast_to(rows, (count, 34, 34)), np.broadcast_to(columns, (count, 34, 34)))
    np.testing.assert_array_equal(sampled, np.pad(images, ((0, 0), (3, 3), (3, 3))))


def test_sampling_takes_images_of_other_sizes_between_their_pixels() -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    rows = np.array([[0.5, 1.25, 2.5, -1]], np.float32)
    columns = np.array([[0.5, 2, 3, 0]], np.float32)
    np.testing.assert_allclose(sample(image, rows, columns), [[2.5, 7, 5.5, 0]])
    assert sample(image[:0], rows[:0], columns[:0]).shape == (0, 4)


# -- Affine -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotation", "down", "right", "scale", "shear"),
    [(20, 0, 0, 1, 0), (0, 2, -3, 1, 0), (0, 0, 0, 1.3, 0), (0, 0, 0, 1, 25), (-15, 1.5, 0.25, 0.8, -12)],
)
def test_an_affine_map_is_torchvisions(
    images: Images, rotation: float, down: float, right: float, scale: float, shear: float
) -> None:
    require("torch", "torchvision")
    import torch
    from torchvision.transforms.functional import InterpolationMode, affine

    expected = affine(
        torch.tensor(images[:20, None] / np.float32(255)),
        angle=rotation,
        translate=[right, down],
        scale=scale,
        shear=[shear, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    ranges = Affine(rotation=40, shift=5, scale=0.5, shear=40, probability=1)
    shares = np.array([rotation / 40, (scale - 1) / 0.5, shear / 40, down / 5, right / 5])
    matrices, shifts = draw_affine(ranges, np.ones(20, np.float32), Told(shares))
    sampled = sample(images[:20] / np.float32(255), *affine_points(matrices, shifts))
    np.testing.assert_allclose(sampled, expected[:, 0].numpy(), rtol=0, atol=2e-5)


class Told(np.random.Generator):
    """Gives the numbers it was told, the same for each image."""

    def __init__(self, numbers: npt.NDArray[np.float64]) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = numbers

    def uniform(self, low: Any = 0, high: Any = 1, size: Any = None) -> Any:
        return np.broadcast_to(self.numbers[:, None], size)


def test_a_drawn_affine_map_is_kerass(images: Images) -> None:
    require("keras", "tensorflow")
    import keras

    matrices, shifts = drawn_maps(Affine(rotation=30, shift=4, scale=0.4, shear=20, probability=1), len(images))
    points = affine_points(matrices, shifts)
    # Keras's eight numbers: x' = a0 x + a1 y + a2, y' = b0 x + b1 y + b2, about the corner, columns first.
    swapped = matrices[:, ::-1, ::-1]
    start = shifts[:, ::-1] + 13.5 - swapped.sum(axis=-1) * 13.5
    transform = np.concatenate([swapped, start[:, :, None]], axis=-1).reshape(-1, 6)
    expected = keras.ops.image.affine_transform(
        images[..., None] / np.float32(255),
        np.pad(transform, ((0, 0), (0, 2))).astype(np.float32),
        interpolation="bilinear",
        fill_mode="constant",
        fill_value=0.0,
        data_format="channels_last",
    )
    np.testing.assert_allclose(
        sample(images / np.float32(255), *points), np.asarray(expected)[..., 0], rtol=0, atol=2e-5
    )


def test_an_affine_maps_numbers_fill_their_ranges_evenly_and_are_zero_on_average() -> None:
    matrices, shifts = drawn_maps(Affine(rotation=0, shift=2, scale=0, shear=0, probability=1), 20_000)
    assert (matrices == np.eye(2)).all()
    for axis in (0, 1):
        counts, _ = np.histogram(shifts[:, axis], bins=10, range=(-2, 2))
        assert counts.sum() == 20_000
        assert abs(counts - 2000).max() < 200  # 4.7 deviations
        assert abs(shifts[:, axis].mean()) < 0.03  # 3.7 deviations
    assert abs((shifts[:, 0] * shifts[:, 1]).mean()) < 0.04  # each image's two are independent


@pytest.mark.parametrize("field", ["rotation", "shear", "scale"])
def test_angles_and_sizes_fill_their_ranges_evenly(field: str) -> None:
    nothing = Affine(rotation=0, shift=0, scale=0, shear=0, probability=1)
    matrices, _ = drawn_maps(dataclasses.replace(nothing, **{field: 0.3}), 20_000)
    drawn = {
        "rotation": np.degrees(np.arctan2(-matrices[:, 0, 1], matrices[:, 0, 0])),
        "shear": np.degrees(np.arctan(matrices[:, 1, 0])),
        "scale": 1 / matrices[:, 0, 0] - 1,
    }[field]
    counts, _ = np.histogram(drawn, bins=10, range=(-0.30001, 0.30001))
    assert counts.sum() == 20_000
    assert abs(counts - 2000).max() < 200


def test_images_do_not_drift(images: Images) -> None:
    """The centre of mass stays where it is, on average over draws."""

    def centre(of: Images) -> npt.NDArray[np.float64]:
        mass = of.sum(axis=(1, 2))
        line = np.arange(28)
        return np.array([((of.sum(axis=axis) @ line) / mass).mean() for axis in (2, 1)])

    many = np.concatenate([images] * 20)
    moved = augment((AFFINE, ELASTIC), many, seed=1, epoch=0)
    np.testing.assert_allclose(centre(moved), centre(many), atol=0.05)


# -- Elastic ------------------------------------------------------------------------------------------------------------------


def test_an_elastic_field_has_the_covariance_of_simards_smoothed_uniform_numbers() -> None:
    """Uniform numbers on a plane larger than the image, convolved with a Gaussian whose values sum to 1, times alpha."""
    alpha, sigma, reach = 16.0, 3.0, 15
    line = np.arange(-reach, 28 + reach)
    gaussian = np.exp(-((np.arange(28)[:, None] - line) ** 2) / (2 * sigma**2))
    gaussian /= gaussian.sum(axis=1, keepdims=True)
    along = gaussian @ gaussian.T  # of one axis
    expected = alpha**2 / 3 * np.einsum("ik,jl->ijkl", along, along).reshape(784, 784)

    fields = draw_fields(Elastic(sigma=sigma, alpha=alpha, probability=1), 30_000, random())
    found = fields.T @ fields / len(fields)
    scale = expected[0, 0]
    np.testing.assert_allclose(found / scale, expected / scale, atol=0.04)  # 4.9 deviations at the diagonal
    np.testing.assert_allclose(np.diag(found).mean() / scale, 1, atol=0.01)
    assert abs(fields.mean(axis=0)).max() < 5 * np.sqrt(scale / len(fields))


def test_a_rough_field_keeps_its_variance() -> None:
    fields = smooth_fields(0.5, 4000, random())
    assert abs((fields**2).mean() - 1) < 0.01


def test_affine_and_elastic_are_one_sampling_and_the_last_one_was_done_last(images: Images) -> None:
    """Two samplings would blur twice; the drawing is first slanted, then displaced."""
    count = BLOCK
    together = augment((AFFINE, ELASTIC), images[:count], seed=3, epoch=2)
    generator = np.random.default_rng([3, 2, 0])
    generator.random(count, np.float32)
    fields = draw_fields(ELASTIC, 2 * count, generator).reshape(count, 2, 28, 28)
    generator.random(count, np.float32)
    matrices, shifts = draw_affine(AFFINE, np.ones(count, np.float32), generator)
    grid = np.mgrid[:28, :28] - 13.5 + fields  # [N, 2, 28, 28]
    points = np.einsum("nij,njrc->nirc", matrices, grid) + shifts[:, :, None, None] + 13.5
    expected = sample(images[:count], points[:, 0].astype(np.float32), points[:, 1].astype(np.float32))
    assert abs(together - expected).max() <= 0.5 + 1e-2


def test_two_affine_maps_are_done_one_after_the_other(images: Images) -> None:
    moved = Affine(rotation=0, shift=3, scale=0, shear=0, probability=1)
    turned = Affine(rotation=45, shift=0, scale=0, shear=0, probability=1)
    drawn = augment((turned, moved), images[:BLOCK], seed=1, epoch=0)
    generator = np.random.default_rng([1, 0, 0])
    always = np.ones(BLOCK, np.float32)
    generator.random(BLOCK, np.float32)
    _, shift = draw_affine(moved, always, generator)
    generator.random(BLOCK, np.float32)
    turn, _ = draw_affine(turned, always, generator)
    grid = np.mgrid[:28, :28] - 13.5 + shift[:, :, None, None]
    points = (np.einsum("nij,njrc->nirc", turn, grid) + 13.5).astype(np.float32)
    expected = sample(images[:BLOCK], points[:, 0], points[:, 1])
    assert abs(drawn - expected).max() <= 0.5 + 1e-2


# -- What every kind keeps to -------------------------------------------------------------------------------------------------


@each_kind
def test_the_same_seed_and_epoch_give_the_same_bytes_and_another_gives_others(
    images: Images, augmentation: Augmentation
) -> None:
    def drawn(seed: int, epoch: int) -> bytes:
        return augment((augmentation,), images, seed=seed, epoch=epoch).tobytes()

    first = drawn(1, 0)
    assert first == drawn(1, 0)
    assert first != images.tobytes()
    assert len({first, drawn(1, 1), drawn(2, 0), drawn(0, 1)}) == 4


def test_the_bytes_are_the_same_on_however_many_threads_blas_works() -> None:
    """NumPy's trainer keeps it to as many as it is told, and the others leave it at as many as there are cores."""
    elastic = (
        Affine(rotation=10, shift=1, scale=0.1, shear=8, probability=1),
        Elastic(sigma=4, alpha=16, probability=1),
    )
    images = mnist.train_images().images[:2000]
    drawn = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            assert {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"} == {threads}
            drawn.append(augment(elastic, images, seed=1, epoch=0))
    assert np.array_equal(drawn[0], drawn[1])


@each_kind
def test_each_image_has_its_own_draw_whatever_other_images_come_with_it(
    images: Images, augmentation: Augmentation
) -> None:
    """At the borders of blocks too."""
    one = np.repeat(images[:1], 2 * BLOCK + 3, axis=0)
    drawn = augment((augmentation,), one, seed=1, epoch=0)
    assert len({image.tobytes() for image in drawn}) > 0.5 * len(one)  # of outlines a half is one of two

    whole = augment((augmentation,), images, seed=1, epoch=0)
    for count in (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3):
        part = augment((augmentation,), images[:count], seed=1, epoch=0)
        np.testing.assert_array_equal(part, whole[:count])


@each_kind
def test_of_images_as_many_change_as_the_probability_says(images: Images, augmentation: Augmentation) -> None:
    many = np.concatenate([images] * 10)
    rare = augment((dataclasses.replace(augmentation, probability=0.2),), many, seed=1, epoch=0)
    always = augment((augmentation,), many, seed=1, epoch=0)

    def changed(after: Images) -> float:
        return float((after != many).any(axis=(1, 2)).mean())

    assert abs(changed(rare) - 0.2 * changed(always)) < 0.03  # 4 deviations
    never = augment((dataclasses.replace(augmentation, probability=0),), many, seed=1, epoch=0)
    np.testing.assert_array_equal(never, many)


@pytest.mark.parametrize(
    "identity",
    [
        Affine(rotation=0, shift=0, scale=0, shear=0, probability=1),
        Elastic(sigma=4, alpha=0, probability=1),
        Thickness(thinner=0, thicker=0, probability=1),
        Blur(deviation=0, probability=1),
        Motion(length=0, probability=1),
        Contrast(background=0, least=1, probability=1),
        Fog(density=0, probability=1),
        Occlusion(side=0, probability=1),
        Noise(deviation=0, probability=1),
        Impulses(share=0, probability=1),
    ],
    ids=name,
)
def test_an_augmentation_of_nothing_leaves_every_bit(images: Images, identity: Augmentation) -> None:
    np.testing.assert_array_equal(augment((identity,), images, seed=1, epoch=0), images)


def test_images_come_back_as_they_went_in_and_stay_what_they_were(images: Images) -> None:
    before = images.copy()
    after = augment(EVERY, images, seed=1, epoch=0)
    np.testing.assert_array_equal(images, before)
    assert after.dtype == np.uint8
    assert after.shape == images.shape
    assert augment(EVERY, images[:0], seed=1, epoch=0).shape == (0, 28, 28)
    np.testing.assert_array_equal(augment((), images, seed=1, epoch=0), images)


# -- What each kind does -------------------------------------------------------------------------------------------------------


def square() -> Images:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10:18, 10:18] = 255
    return image


def test_thicker_and_thinner_by_whole_pixels_are_scipys_dilation_and_erosion(images: Images) -> None:
    require("scipy")
    from scipy import ndimage

    from training.augmentation import _thickened

    cross = ndimage.generate_binary_structure(2, 1)[None]
    pixels = images[:50].astype(np.float32)
    one = np.ones((50, 1, 1), np.float32)
    thicker = ndimage.grey_dilation(ndimage.grey_dilation(pixels, footprint=cross), footprint=cross)
    thinner = ndimage.grey_erosion(pixels, footprint=cross, mode="nearest")
    np.testing.assert_array_equal(_thickened(pixels, one + one), thicker)
    np.testing.assert_array_equal(_thickened(pixels, -one), thinner)
    between = (pixels + ndimage.grey_dilation(pixels, footprint=cross)) / 2
    np.testing.assert_array_equal(_thickened(pixels, one * np.float32(0.5)), between)


def test_strokes_become_at_most_as_thin_and_as_thick_as_said() -> None:
    many = np.repeat(square(), 2000, axis=0)
    drawn = augment((Thickness(thinner=0.5, thicker=2, probability=1),), many, seed=1, epoch=0)
    height = drawn[:, :, 14].sum(axis=1) / 255  # 8 pixels before
    assert 7 <= height.min() < 7.01
    assert 11.98 < height.max() <= 12
    assert abs((height < 8).mean() - 0.5 / 2.5) < 0.04


def test_blur_is_scipys_gaussian_filter(images: Images) -> None:
    require("scipy")
    from scipy import ndimage

    from training.augmentation import _blurred

    pixels = images[:20].astype(np.float32)
    expected = ndimage.gaussian_filter(pixels, 1.5, axes=(1, 2), mode="constant", truncate=9)
    np.testing.assert_allclose(_blurred(pixels, np.full((20, 1, 1), 1.5, np.float32)), expected, rtol=0, atol=1e-3)


def test_motion_is_the_mean_of_scipys_shifted_images(images: Images) -> None:
    require("scipy")
    from scipy import ndimage

    from training.augmentation import _smeared

    pixels = images[:10].astype(np.float32)
    six = np.full((10, 1, 1), 6, np.float32)
    smeared = _smeared(pixels, six, np.full((10, 1, 1), np.radians(30), np.float32))
    places = [(step * 3, step * 6 * np.cos(np.radians(30))) for step in np.linspace(-0.5, 0.5, 8)]
    shifted = [ndimage.shift(pixels, (0, -down, -right), order=1, mode="grid-constant") for down, right in places]
    np.testing.assert_allclose(smeared, np.mean(shifted, axis=0), rtol=0, atol=1e-3)


def test_an_outline_is_between_the_inner_and_the_outer_edge_of_an_area() -> None:
    drawn = augment((Outline(probability=1),), np.repeat(square(), 500, axis=0), seed=1, epoch=0)
    outer, inner = drawn[:, 9, 12].astype(int), drawn[:, 10, 12].astype(int)
    assert (np.maximum(outer, inner) == 255).all()
    assert abs((outer == 255).mean() - 0.5) < 0.09
    assert min(outer.min(), inner.min()) < 10
    edges = np.zeros((28, 28), bool)
    edges[9:19, 9:19] = True
    edges[11:17, 11:17] = False
    edges[[9, 9, 18, 18], [9, 18, 9, 18]] = False  # a corner is no neighbour
    np.testing.assert_array_equal((drawn > 0).any(axis=0), edges)


def test_a_half_of_the_outlines_are_lines_of_one_pixel_black_on_white(images: Images) -> None:
    many = np.repeat(images[:1], 500, axis=0)
    drawn = augment((Outline(probability=1),), many, seed=1, epoch=0)
    hard = ((drawn == 0) | (drawn == 255)).all(axis=(1, 2))
    assert abs(hard.mean() - 0.5) < 0.09
    ink = images[0] >= 128
    inside = np.array([(line[ink] == 255).any() for line in drawn[hard]])
    outside = np.array([(line[~ink] == 255).any() for line in drawn[hard]])
    assert (inside != outside).all()  # never both
    assert abs(inside.mean() - 0.5) < 0.13


def test_contrast_keeps_the_order_of_brightness_and_its_range() -> None:
    many = np.repeat(square(), 2000, axis=0)
    drawn = augment((Contrast(background=0.6, least=0.25, probability=1),), many, seed=1, epoch=0) / 255
    low, high = drawn[:, 0, 0], drawn[:, 14, 14]
    assert 0 <= low.min() < 0.01
    assert 0.59 < low.max() <= 0.605
    share = (high - low) / (1 - low)
    assert 0.24 < share.min() < 0.27
    assert 0.24 < share[low > 0.5].min() < 0.3  # of what the background leaves
    assert 0.98 < share.max() <= 1


def test_fog_reaches_from_nothing_to_its_density(images: Images) -> None:
    blank = np.zeros((500, 28, 28), np.uint8)
    drawn = augment((Fog(density=3, probability=1),), blank, seed=1, epoch=0) / 255
    brightest = drawn.max(axis=(1, 2))  # d / (1 + d)
    assert (drawn.min(axis=(1, 2)) == 0).all()
    assert brightest.min() < 0.05
    assert 0.73 < brightest.max() < 0.755


def test_blots_cover_their_share_and_are_bright_or_dark() -> None:
    grey = np.full((2000, 28, 28), 100, np.uint8)
    drawn = augment((Blots(size=2, share=0.4, probability=1),), grey, seed=1, epoch=0)
    covered = (drawn != 100).mean(axis=(1, 2))
    assert abs(covered.mean() - 0.2) < 0.01
    assert covered.max() < 0.41
    spots = (drawn > 100).any(axis=(1, 2)).mean()
    gaps = (drawn < 100).any(axis=(1, 2)).mean()
    assert abs(spots - 0.5) < 0.05
    assert abs(gaps - 0.5) < 0.05


def test_lines_cross_the_image_at_their_width() -> None:
    blank = np.zeros((2000, 28, 28), np.uint8)
    drawn = augment((Lines(most=1, width=1, amplitude=0, probability=1),), blank, seed=1, epoch=0) / 255
    ink = drawn.sum(axis=(1, 2))  # a line of one pixel's width holds its length
    assert 28 < np.quantile(ink, 0.9) < 40
    assert 11 < np.quantile(ink, 0.2) < 18  # dotted ones hold half of it
    wider = augment((Lines(most=3, width=3, amplitude=3, probability=1),), blank, seed=1, epoch=0) / 255
    assert wider.sum() > 2 * drawn.sum()


def test_stripes_turn_brightness_around_in_half_of_the_image() -> None:
    blank = np.zeros((1000, 28, 28), np.uint8)
    drawn = augment((Stripes(width=6, probability=1),), blank, seed=1, epoch=0)
    assert abs((drawn > 0).mean() - 0.5) < 0.02
    full = augment((Stripes(width=6, probability=1),), blank + np.uint8(255), seed=1, epoch=0)
    np.testing.assert_array_equal(full, 255 - drawn)


def test_an_occlusion_is_one_rectangle_of_one_brightness(images: Images) -> None:
    grey = np.full((1000, 28, 28), 100, np.uint8)
    drawn = augment((Occlusion(side=12, probability=1),), grey, seed=1, epoch=0)
    for image in drawn:
        rows, columns = np.nonzero(image != 100)
        if rows.size:
            part = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert max(part.shape) <= 12
            assert (part == part[0, 0]).all()
    brightness = drawn[drawn != 100]
    assert brightness.min() < 5
    assert brightness.max() > 250


def test_noise_has_its_deviation_and_impulses_their_share() -> None:
    grey = np.full((1000, 28, 28), 128, np.uint8)
    noisy = augment((Noise(deviation=0.1, probability=1),), grey, seed=1, epoch=0) / 255
    deviation = noisy.std(axis=(1, 2))
    assert abs(deviation.mean() - 0.05) < 0.003
    assert abs(noisy.mean() - 128 / 255) < 1e-3
    hit = augment((Impulses(share=0.4, probability=1),), grey, seed=1, epoch=0)
    assert set(np.unique(hit)) == {0, 128, 255}
    assert abs((hit == 0).mean() - 0.1) < 0.005
    assert abs((hit == 255).mean() - 0.1) < 0.005


# -- As data -------------------------------------------------------------------------------------------------------------------


def test_every_kind_survives_the_way_through_json() -> None:
    assert {type(augmentation) for augmentation in EVERY} == set(KINDS.values())
    data = to_data(EVERY)
    assert data[1] == {
        "augmentation": "affine", "rotation": 10, "shift": 1, "scale": 0.1, "shear": 8, "probability": 1
    }  # fmt: skip
    assert from_data(json.loads(json.dumps(data))) == EVERY


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"augmentation": "swirl"}, "There is no augmentation 'swirl'; there are affine, elastic, thickness,"),
        ({}, "There is no augmentation None; there are affine"),
        ({"augmentation": "outline"}, "The augmentation outline has the fields probability; got none."),
        (
            {"augmentation": "blur", "deviation": 1, "probability": 1, "depth": 2},
            "The augmentation blur has the fields deviation, probability; got deviation, probability, depth.",
        ),
        (
            {"augmentation": "blur", "deviation": -1, "probability": 1},
            "The augmentation blur cannot be drawn: deviation must be a number of at least 0 pixels; it is -1.",
        ),
        (
            {"augmentation": "blur", "deviation": "1", "probability": 1},
            "The augmentation blur cannot be drawn: deviation must be a number; it is '1'.",
        ),
    ],
)
def test_what_is_no_augmentation_is_refused_in_a_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ImpossibleRecipe) as refused:
        from_data([data])
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("augmentation", "field", "impossible"),
    [(each, "probability", 1.01) for each in EVERY]
    + [
        (each, field.name, value)
        for each in EVERY
        for field in dataclasses.fields(each)
        for value in (-1, float("nan"), float("inf"))
    ]
    + [
        (AFFINE, "scale", 1),
        (AFFINE, "shear", 90),
        (ELASTIC, "sigma", 0.4),
        (LINES, "most", 0),
        (LINES, "most", 1.5),
    ],
    ids=str,
)
def test_impossible_values_are_refused(augmentation: Augmentation, field: str, impossible: float) -> None:
    with pytest.raises(
        ImpossibleRecipe, match=rf"^The augmentation {name(augmentation)} cannot be drawn: {field} must be "
    ):
        dataclasses.replace(cast(Any, augmentation), **{field: impossible})
