"""Digits that are not MNIST's: how severe each change is, what a picture and a font become, what a folder may hold."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from conftest import PROJECT, python, require
from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image
from scipy.ndimage import gaussian_filter, label, map_coordinates, sobel

from digits.contract import Images, Labels
from digits.errors import DataError, KindMissing
from digits.kinds import corruptions, drawn
from digits.kinds.boxed import boxed
from digits.kinds.corruptions import Change
from digits.kinds.filters import canny, gaussian
from digits.kinds.fonts import faces_in
from digits.kinds.idx import pairs
from digits.kinds.table import KINDS, Kind
from digits.mnist import LabelledImages

CHANGED: Final = [kind for kind in KINDS if kind.needs_nothing]
BY_NAME: Final = {kind.name: kind for kind in KINDS}
CENTRE: Final = 13.5


def random() -> np.random.Generator:
    return np.random.default_rng(1)


def grey(value: int, count: int = 300) -> Images:
    return np.full((count, 28, 28), value, np.uint8)


def bar(count: int = 300) -> Images:
    """An upright bar around the centre, four pixels wide."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 7:21, 12:16] = 255
    return images


def centre_of_mass(images: Images) -> npt.NDArray[np.float64]:
    """[N, 2]: row, column."""
    mass = images.sum(axis=(1, 2))
    rows = (images.sum(axis=2) * np.arange(28)).sum(axis=1) / mass
    columns = (images.sum(axis=1) * np.arange(28)).sum(axis=1) / mass
    return np.stack([rows, columns], axis=1)


def lean(images: Images) -> npt.NDArray[np.float64]:
    """By how many columns a drawing moves per row downwards, by its second moments: [N]."""
    offsets = np.arange(28) - CENTRE
    across = (images * offsets[:, None] * offsets).sum(axis=(1, 2))
    along = (images.sum(axis=2) * offsets**2).sum(axis=1)
    leaning: npt.NDArray[np.float64] = across / along
    return leaning


def angle(images: Images) -> npt.NDArray[np.float64]:
    """In radians, of the longer axis of what is drawn from the upright: [N]."""
    offsets = np.arange(28) - CENTRE
    down = (images.sum(axis=2) * offsets**2).sum(axis=1)
    right = (images.sum(axis=1) * offsets**2).sum(axis=1)
    both = (images * offsets[:, None] * offsets).sum(axis=(1, 2))
    turned: npt.NDArray[np.float64] = np.arctan2(2 * both, down - right) / 2
    return turned


# What holds for every kind that MNIST's test images are changed into


@pytest.mark.parametrize("kind", CHANGED, ids=lambda kind: kind.name)
def test_a_changed_kind_is_images_of_the_same_digits_and_not_the_same_images(
    kind: Kind, test_set: LabelledImages
) -> None:
    some = LabelledImages(images=test_set.images[:200], labels=test_set.labels[:200])
    before = some.images.copy()
    digits = kind.digits(some).digits
    assert digits.images.dtype == np.uint8
    assert digits.images.shape == (200, 28, 28)
    np.testing.assert_array_equal(digits.labels, some.labels)
    np.testing.assert_array_equal(some.images, before)  # what it was made of is as it was
    unchanged = (digits.images == before).all(axis=(1, 2))
    assert unchanged.mean() < 0.2  # a square hides background, a shift by up to 3 pixels is none
    np.testing.assert_array_equal(kind.digits(some).digits.images, digits.images)


@pytest.mark.parametrize("kind", CHANGED, ids=lambda kind: kind.name)
def test_no_image_is_as_good_as_one(kind: Kind) -> None:
    none = LabelledImages(images=np.zeros((0, 28, 28), np.uint8), labels=np.zeros(0, np.uint8))
    assert kind.digits(none).digits.images.shape == (0, 28, 28)


def test_the_same_kind_is_the_same_in_another_process(test_set: LabelledImages) -> None:
    code = """
import hashlib
from digits import mnist
from digits.kinds.table import KINDS
from digits.mnist import LabelledImages
test_set = mnist.test_images()
some = LabelledImages(images=test_set.images[:50], labels=test_set.labels[:50])
digest = hashlib.sha256()
for kind in KINDS:
    if kind.needs_nothing:
        digest.update(kind.digits(some).digits.images.tobytes())
print(digest.hexdigest())
"""
    assert python(code, environment={"PYTHONHASHSEED": "1"}) == python(code, environment={"PYTHONHASHSEED": "2"})


def test_each_kind_has_random_numbers_of_its_own(test_set: LabelledImages) -> None:
    """The same images, changed by chance alone in the same way under two names."""
    some = LabelledImages(images=test_set.images[:100], labels=test_set.labels[:100])
    row = BY_NAME["moved"]
    other = Kind("elsewhere", row.group, row.about, row.source, row.made, row.resembles, row.make)
    assert (row.digits(some).digits.images != other.digits(some).digits.images).any()


def test_the_table_has_the_fifteen_corruptions_of_the_paper_in_its_order() -> None:
    assert [kind.name for kind in KINDS if kind.group == "corruptions"] == [
        *("shot noise", "impulse noise", "glass blur", "motion blur", "shear", "scale", "rotate", "brightness"),
        *("translate", "stripe", "fog", "spatter", "dotted line", "zigzag", "canny edges"),
    ]
    assert len(BY_NAME) == len(KINDS)


# Corruptions, by their severities in the paper


def test_shot_noise_is_poisson_noise_of_three_photons() -> None:
    photons = corruptions.shot_noise(grey(85), random()) / 85  # a third of white: one photon on average
    assert {*np.unique(photons)} == {0.0, 1.0, 2.0, 3.0}
    expected = np.array([np.exp(-1), np.exp(-1), np.exp(-1) / 2])
    found = np.array([(photons == count).mean() for count in (0, 1, 2)])
    np.testing.assert_allclose(found, expected, atol=0.005)
    assert not corruptions.shot_noise(grey(0), random()).any()


def test_impulse_noise_makes_a_pixel_in_six_black_or_white() -> None:
    noisy = corruptions.impulse_noise(grey(100), random())
    assert {*np.unique(noisy)} == {0, 100, 255}
    assert (noisy == 0).mean() == pytest.approx(0.085, abs=0.003)
    assert (noisy == 255).mean() == pytest.approx(0.085, abs=0.003)


def test_glass_blur_spreads_a_point_by_its_two_blurs_and_some_steps() -> None:
    points = np.zeros((2000, 28, 28), np.uint8)
    points[:, 14, 14] = 255
    spread = corruptions.glass_blur(points, random()).mean(axis=0)
    offsets = np.arange(28)
    middle = (spread.sum(axis=1) * offsets).sum() / spread.sum()
    variance = (spread.sum(axis=1) * (offsets - middle) ** 2).sum() / spread.sum()
    assert variance > 2 * 0.7**2 + 0.1  # more than the blurs alone
    assert variance < 2 * 0.7**2 + 1.5
    still = gaussian(gaussian(points[:1], 0.7), 0.7)[0]
    assert abs(corruptions.glass_blur(points[:1], random())[0] - still).max() > 5


def test_motion_blur_smears_a_point_over_half_a_gaussian_within_45_degrees() -> None:
    points = np.zeros((500, 28, 28), np.uint8)
    points[:, 14, 24] = 255
    smeared = corruptions.motion_blur(points, random()).astype(float)
    away = centre_of_mass(smeared.astype(np.uint8)) - (14, 24)
    lengths = np.hypot(*away.T)
    steps = np.arange(21)
    weights = np.exp(-(steps**2) / 18)
    assert lengths.mean() == pytest.approx((weights * steps).sum() / weights.sum(), abs=0.15)  # 2.1 pixels
    degrees = np.rad2deg(np.arctan2(away[:, 0], -away[:, 1]))
    assert abs(degrees).max() < 49  # of whole pixels
    assert degrees.std() == pytest.approx(90 / np.sqrt(12), rel=0.1)  # uniform over 90 degrees
    assert smeared.sum(axis=(1, 2)) == pytest.approx(255, rel=0.03)


def test_shear_leans_by_the_sine_of_its_angle_to_both_sides() -> None:
    sheared = corruptions.shear(bar(), random())
    leaning = lean(sheared)
    assert abs(leaning) == pytest.approx(np.sin(0.4), abs=0.005)
    assert 0.4 < (leaning > 0).mean() < 0.6
    height = (sheared.sum(axis=2) > 0).sum(axis=1)
    assert height == pytest.approx(14 / np.cos(0.4), abs=1.5)


def test_scale_shrinks_to_seven_tenths() -> None:
    shrunk = corruptions.scale(bar(3), random())
    assert shrunk.sum() / bar(3).sum() == pytest.approx(0.49, abs=0.01)
    np.testing.assert_allclose(centre_of_mass(shrunk), CENTRE, atol=0.01)


def test_rotate_turns_by_23_degrees_to_both_sides() -> None:
    turned = angle(corruptions.rotate(bar(), random()))
    assert abs(turned) == pytest.approx(0.4, abs=0.01)
    assert 0.4 < (turned > 0).mean() < 0.6


def test_brightness_adds_half_the_range() -> None:
    np.testing.assert_array_equal(corruptions.brightness(grey(40, 1), random()), grey(168, 1))
    np.testing.assert_array_equal(corruptions.brightness(grey(200, 1), random()), grey(255, 1))


def test_translate_moves_by_three_pixels_along_both_axes() -> None:
    moved = centre_of_mass(corruptions.translate(bar(), random())) - CENTRE
    assert {*map(tuple, moved.round(6).tolist())} == {(-3.0, -3.0), (-3.0, 3.0), (3.0, -3.0), (3.0, 3.0)}


def test_stripe_inverts_the_left_and_the_right_quarter(test_set: LabelledImages) -> None:
    before = test_set.images[:5]
    after = corruptions.stripe(before, random())
    np.testing.assert_array_equal(after[:, :, 7:21], before[:, :, 7:21])
    np.testing.assert_array_equal(after[:, :, :7], 255 - before[:, :, :7])
    np.testing.assert_array_equal(after[:, :, 21:], 255 - before[:, :, 21:])


def test_fog_keeps_a_quarter_of_the_contrast_and_covers_the_rest(test_set: LabelledImages) -> None:
    """(x + 3 f) / 4, f over the whole of a map in [0, 1]."""
    images = np.repeat(test_set.images[:1], 400, axis=0)
    brightest = images[0].max() / 255
    fogged = corruptions.fog(images, random()).astype(float)
    nothing = corruptions.fog(np.where(images > 0, images.max(), 0).astype(np.uint8), random()).astype(float)
    inked = images[0] == images[0].max()
    np.testing.assert_array_equal(fogged[:, inked], nothing[:, inked])  # the same fog, which knows nothing of the digit
    blank = images[0] == 0
    fog = fogged[:, blank] / 255 * (brightest + 3) / brightest / 3
    assert 0 <= fog.min() < 0.2
    assert 0.8 < fog.max() <= 1.01
    assert 0.4 < fog.mean() < 0.6
    here, there = np.zeros((2, 50, 28, 28), np.uint8)
    here[:, 14, 14] = there[:, 20, 20] = 255
    contrast = corruptions.fog(here, random())[:, 14, 14].astype(int) - corruptions.fog(there, random())[:, 14, 14]
    np.testing.assert_allclose(contrast, 255 / 4, atol=1)


def test_a_map_of_fog_halves_its_heights_by_the_square_of_the_decay_at_each_step() -> None:
    maps = corruptions._plasma(40, random())
    np.testing.assert_array_equal(maps.min(axis=(1, 2)), 0)
    np.testing.assert_array_equal(maps.max(axis=(1, 2)), 1)

    def roughness(step: int) -> float:
        """Of the middles of squares of so many pixels: what they have beyond the mean of their corners."""
        rows = maps[:, ::step, ::step] + np.roll(maps[:, ::step, ::step], -1, 1)
        means = (rows + np.roll(rows, -1, 2)) / 4
        return float((maps[:, step // 2 :: step, step // 2 :: step] - means).std())

    for step in (4, 8, 16, 32):
        assert roughness(2 * step) / roughness(step) == pytest.approx(1.4**2, rel=0.1)


def test_the_fogs_of_one_map_are_alike_where_they_meet_alone() -> None:
    clouds = corruptions._clouds(8, random())
    np.testing.assert_array_equal(clouds[:, 0, 0], clouds[0, 0, 0])
    assert len({cloud[20, 10].item() for cloud in clouds}) == 8


def test_spatter_covers_with_dark_grey(test_set: LabelledImages) -> None:
    spotted = corruptions.spatter(grey(255), random())
    covered = spotted < 255
    assert 0.1 < covered.mean() < 0.3
    assert spotted.min() == 63
    on_black = corruptions.spatter(grey(0), random())
    np.testing.assert_array_equal(on_black > 0, covered)
    assert on_black.max() == 63


def test_a_dotted_line_has_two_columns_of_four_and_runs_from_side_to_side() -> None:
    lines = corruptions.dotted_line(grey(0), random())
    drawn_columns = lines.any(axis=(0, 1))
    np.testing.assert_array_equal(np.flatnonzero(drawn_columns), [*(c for c in range(27) if c // 2 % 2)])
    assert (lines.max(axis=1)[:, drawn_columns] > 190).all()  # whatever its slope
    heights = np.array([centre_of_mass(lines[:, :, [c]].repeat(28, axis=2))[:, 0] for c in (2, 26)])
    assert heights.min() < 3
    assert heights.max() > 24


def test_a_zigzag_is_two_pixels_high_and_eight_long() -> None:
    zigzags = corruptions.zigzag(grey(0, 3000), random())
    starts = centre_of_mass(zigzags[:, :, :28])[:, 0]
    level = zigzags[(abs(starts - 13) < 1)]
    assert not zigzags[:, :, :1].any()
    straight = [zigzag for zigzag in level if lean(zigzag[None])[0] == pytest.approx(0, abs=0.02)]
    ridge = np.array([zigzag.argmax(axis=0)[2:25] for zigzag in straight]).astype(float)
    waves = np.abs(np.fft.rfft(ridge[:, :16] - ridge[:, :16].mean(axis=1, keepdims=True), axis=1))
    assert np.median(waves.argmax(axis=1)) == 2  # twice in sixteen columns
    assert np.median(np.ptp(ridge, axis=1)) == pytest.approx(4, abs=1)


def test_a_line_fades_with_its_distance_and_ends_where_it_ends() -> None:
    here = np.array([10.0], np.float32)
    line = corruptions._line(here, here, here + 5, here)[0]
    np.testing.assert_allclose(line[10, 10:15], 1)
    np.testing.assert_allclose(line[11, 12], 1 + np.log(1 - 1 / 2.3))
    assert not line[12].any()  # beyond 2.3 * (1 - 1 / e)
    assert not line[:, :10].any()
    assert not line[:, 15:].any()
    assert not corruptions._line(here, here, here, here + 5).any()  # upright: no length from left to right


def test_canny_finds_the_outline_of_a_square_one_pixel_wide() -> None:
    images = np.zeros((1, 28, 28), np.uint8)
    images[0, 8:20, 8:20] = 255
    edges = corruptions.canny_edges(images, random())[0]
    assert {*np.unique(edges)} == {0, 255}
    assert not edges[10:18, 10:18].any()
    assert not edges[:6].any()
    for line in (edges[10], edges[:, 10]):  # across a side, where it is straight
        np.testing.assert_array_equal(np.flatnonzero(line), [8, 19])
    assert not corruptions.canny_edges(grey(255, 1), random()).any()


def test_canny_keeps_what_is_weak_only_where_it_hangs_together_with_what_is_strong() -> None:
    images = np.zeros((2, 28, 28), np.float32)
    ramp = np.linspace(0.12, 0.02, 28, dtype=np.float32)  # fades to the right
    images[:, 14:] = ramp
    images[1, :, :10] = 0  # without its strong end
    whole, weak = canny(images, sigma=1.0, low=0.05, high=0.28)
    assert whole[:, 15:18].any()
    assert not weak[:, 14:18].any()


def canny_pixel_by_pixel(image: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The same by SciPy's filters and a loop, with the limits 0.1 and 0.2."""
    inside = gaussian_filter(np.ones((28, 28)), 1, mode="constant")
    smooth = gaussian_filter(image, 1, mode="constant") / inside
    down, right = sobel(smooth, axis=0), sobel(smooth, axis=1)
    length = np.hypot(down, right)
    length[[0, -1]], length[:, [0, -1]] = 0, 0
    kept = np.zeros((28, 28), np.bool_)
    for row in range(1, 27):
        for column in range(1, 27):
            towards = np.array([down[row, column], right[row, column]])
            step = towards / max(abs(towards).max(), 1e-12)  # to the side of the square around the pixel
            along = [(row - step[0], row + step[0]), (column - step[1], column + step[1])]
            beside = map_coordinates(length, along, order=1)
            kept[row, column] = (length[row, column] >= beside - 1e-6).all()
    kept &= length >= 0.1
    parts, _ = label(kept, np.ones((3, 3)))
    strong: npt.NDArray[np.bool_] = np.isin(parts, np.unique(parts[kept & (length >= 0.2)])) & kept
    return strong


@pytest.mark.parametrize("brightness", [1, 1 / 12])  # in the dark its limits cut
def test_canny_agrees_with_one_that_goes_pixel_by_pixel(brightness: float, test_set: LabelledImages) -> None:
    images = (test_set.images[:20] * brightness).astype(np.uint8)
    ours = corruptions.canny_edges(images, random()) > 0
    theirs = np.array([canny_pixel_by_pixel(image / 255) for image in images])
    assert ours.sum() > 1000
    assert (ours != theirs).sum() <= 10  # what lies within rounding of a limit


def test_a_gaussian_has_its_variance_and_keeps_the_mean() -> None:
    noise = random().random((3, 28, 28)).astype(np.float32)
    for sigma in (0.7, 1.5):
        expected = [gaussian_filter(image, sigma, mode="nearest", truncate=4) for image in noise]
        np.testing.assert_allclose(gaussian(noise, sigma), expected, atol=1e-6)


# Drawn otherwise


def test_a_thicker_pen_adds_a_pixel_on_each_side_and_a_thinner_one_takes_a_half() -> None:
    widths = {change.__name__: change(bar(1), random())[0, 14].sum() / 255 for change in (drawn.thicker, drawn.thinner)}
    assert widths["thicker"] == pytest.approx(6, abs=0.5)
    assert widths["thinner"] == pytest.approx(3, abs=0.5)


def test_a_pen_at_the_edge_of_the_image_stays_there() -> None:
    np.testing.assert_array_equal(drawn.thinner(grey(255, 1), random()), grey(255, 1))
    np.testing.assert_array_equal(drawn.thicker(grey(0, 1), random()), grey(0, 1))


def test_moved_images_go_up_to_three_whole_pixels_along_each_axis() -> None:
    moved = (centre_of_mass(drawn.moved(bar(2000), random())) - CENTRE).round(6)
    assert {*moved[:, 0]} == {*moved[:, 1]} == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}


def test_turned_images_go_up_to_thirty_degrees() -> None:
    turned = np.rad2deg(angle(drawn.turned(bar(2000), random())))
    assert 29 < turned.max() < 30.5
    assert -30.5 < turned.min() < -29
    assert turned.std() == pytest.approx(60 / np.sqrt(12), rel=0.05)


def test_smaller_images_are_between_three_fifths_and_four() -> None:
    square = np.zeros((2000, 28, 28), np.uint8)
    square[:, 4:24, 4:24] = 255
    sides = np.sqrt(drawn.smaller(square, random()).sum(axis=(1, 2)) / square[0].sum())
    assert 0.58 < sides.min() < 0.62
    assert 0.78 < sides.max() < 0.82


def test_a_square_is_hidden_within_the_box_of_the_digit() -> None:
    hidden = drawn.partly_hidden(grey(255, 3000), random()) == 0
    assert (hidden.sum(axis=(1, 2)) == 36).all()
    assert (hidden.any(axis=2).sum(axis=1) == 6).all()
    seen = hidden.any(axis=0)
    assert seen[4:24, 4:24].all()
    assert seen.sum() == 400


def test_dimmed_images_have_two_fifths_of_their_brightness() -> None:
    np.testing.assert_array_equal(drawn.dimmed(grey(200, 1), random()), grey(80, 1))


# Brought to 28 by 28


def test_a_digit_is_brought_into_a_box_of_twenty_with_its_mass_in_the_middle() -> None:
    picture = np.zeros((200, 300), np.uint8)
    picture[20:120, 200:250] = 130  # twice as high as wide, far from the middle
    image = boxed(picture)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert (len(rows), len(columns)) == (20, 10)
    np.testing.assert_allclose(centre_of_mass(image[None])[0], CENTRE, atol=0.5)
    assert image.max() == 255
    assert image.dtype == np.uint8


def test_what_is_heavy_on_one_side_is_centred_by_its_mass_and_stays_inside() -> None:
    picture = np.zeros((40, 40), np.uint8)
    picture[:, 0] = 1
    picture[30:, :] = 255
    image = boxed(picture)
    assert np.flatnonzero(image.any(axis=1))[-1] < 23  # lifted: its mass is at the bottom
    top_heavy = boxed(picture[::-1])
    np.testing.assert_array_equal(np.flatnonzero(top_heavy.any(axis=1)), 27 - np.flatnonzero(image.any(axis=1))[::-1])


def test_a_picture_is_scaled_as_pillow_scales_it_by_cubic_convolution() -> None:
    for shape in ((8, 5), (61, 93), (20, 20)):
        picture = random().random(shape) * 200 + 1
        height, width = (round(side * 20 / max(shape)) for side in shape)
        scaled = Image.fromarray(picture.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(scaled).clip(0) * 255 / np.asarray(scaled).max()
        image = boxed(picture)
        top, left = np.flatnonzero(image.any(axis=1))[0], np.flatnonzero(image.any(axis=0))[0]
        np.testing.assert_allclose(image[top : top + height, left : left + width], expected, atol=1)


def test_a_picture_without_ink_is_no_digit() -> None:
    with pytest.raises(ValueError, match="expected a picture with ink"):
        boxed(np.zeros((5, 5), np.uint8))


def test_scikit_learns_digits_are_all_there() -> None:
    require("sklearn")
    digits = BY_NAME["scikit-learn"].digits(LabelledImages(images=grey(0, 0), labels=np.zeros(0, np.uint8))).digits
    assert digits.images.shape == (1797, 28, 28)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (digits.images.max(axis=(1, 2)) == 255).all()
    sides = digits.images.any(axis=2).sum(axis=1).max(), digits.images.any(axis=1).sum(axis=1).max()
    assert sides == (20, 20)


def test_without_scikit_learn_or_pillow_a_kind_is_missing_and_says_what_to_do(
    without: Callable[..., dict[str, str]],
) -> None:
    code = """
import numpy as np
from digits.errors import KindMissing
from digits.kinds.table import KINDS
from digits.mnist import LabelledImages
none = LabelledImages(images=np.zeros((0, 28, 28), np.uint8), labels=np.zeros(0, np.uint8))
for kind in KINDS:
    try:
        kind.digits(none)
    except KindMissing as error:
        print(f"{kind.name} {error}")
"""
    said = python(code, environment=without("sklearn")).splitlines()
    without_fonts = [line for line in said if "fonts" not in line]  # of which a machine may have none
    assert without_fonts == [
        "scikit-learn needs scikit-learn, whose package holds these digits: pip install scikit-learn"
    ]


# Fonts

DEJAVU: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def font(
    target: Path,
    *,
    name: str = "Test Sans",
    style: str = "Regular",
    text: str = "0123456789",
    change: Callable[[TTFont], object] = lambda font: None,
    flavor: str | None = None,
) -> Path:
    """A face with the letters of `text` from DejaVu Sans, changed, in the file `target`."""
    made = TTFont(DEJAVU)
    subsetter = subset.Subsetter(subset.Options(notdef_outline=True, hinting=False))
    subsetter.populate(text=text)
    subsetter.subset(made)
    for number, value in ((1, name), (2, style), (4, f"{name} {style}"), (16, name), (17, style)):
        made["name"].setName(value, number, 3, 1, 0x409)
        made["name"].setName(value, number, 1, 0, 0)
    change(made)
    made.flavor = flavor
    target.parent.mkdir(parents=True, exist_ok=True)
    made.save(target)
    return target


def panose(number: int) -> Callable[[TTFont], object]:
    def change(made: TTFont) -> None:
        made["OS/2"].panose.bFamilyType = number

    return change


def test_a_face_has_ten_digits_in_their_order(tmp_path: Path) -> None:
    font(tmp_path / "one.ttf")
    (face,) = faces_in((tmp_path,))
    assert face.name == "Test Sans"
    assert not face.handwritten
    assert face.images.shape == (10, 28, 28)
    assert (face.images.max(axis=(1, 2)) == 255).all()
    assert face.images[1].any(axis=0).sum() < face.images[0].any(axis=0).sum()  # a 1 is narrower than a 0
    np.testing.assert_allclose(centre_of_mass(face.images), CENTRE, atol=0.51)
    six, nine = face.images[6].astype(int), face.images[9].astype(int)
    assert abs(six - nine[::-1, ::-1]).mean() < abs(six - nine).mean() / 2  # a 9 is a 6 upside down


@pytest.mark.parametrize(
    ("text", "name", "style", "change"),
    [
        ("abc", "Letters Alone", "Regular", lambda font: None),
        ("012345678", "No Nine", "Regular", lambda font: None),
        ("0123456789", "Test Sans", "Oblique", lambda font: None),
        ("0123456789", "Test Barcode", "Regular", lambda font: None),
        ("0123456789", "Told by PANOSE", "Regular", panose(5)),
        (
            "0123456789",
            "One Glyph for All",
            "Regular",
            lambda font: [table.cmap.update(dict.fromkeys(range(48, 58), "one")) for table in font["cmap"].tables],
        ),
        (
            "0123456789",
            "Two Alike",
            "Regular",
            lambda font: [table.cmap.update({48: "eight"}) for table in font["cmap"].tables],
        ),
    ],
)
def test_a_face_without_ten_upright_digits_does_not_count(
    text: str, name: str, style: str, change: Callable[[TTFont], object], tmp_path: Path
) -> None:
    font(tmp_path / "other.ttf", name=name, style=style, text=text, change=change)
    with pytest.raises(KindMissing, match="no upright face with ten digits"):
        faces_in((tmp_path,))
    font(tmp_path / "good.ttf")
    assert [face.name for face in faces_in((tmp_path, tmp_path / "none"))] == ["Test Sans"]


def test_a_face_counts_once_in_whatever_format_and_under_whatever_name(tmp_path: Path) -> None:
    def hinted(made: TTFont) -> None:  # drawn a little otherwise
        made["glyf"]["five"] = made["glyf"]["parenleft"]

    first = font(tmp_path / "a" / "one.ttf")
    font(tmp_path / "b" / "one.woff", flavor="woff")
    font(tmp_path / "c" / "same.ttf", name="Another Name")
    font(tmp_path / "d" / "one.ttf", text="0123456789(", change=hinted)
    (face,) = faces_in((tmp_path,))
    assert face.name == "Test Sans"
    assert face.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()


def test_every_face_of_a_collection_is_read_with_its_own_class(tmp_path: Path) -> None:
    def handwritten(made: TTFont) -> None:
        made["glyf"]["five"] = made["glyf"]["parenleft"]
        made["OS/2"].panose.bFamilyType = 3

    collection = TTCollection()
    collection.fonts = [
        TTFont(font(tmp_path / "parts" / "one.part")),
        TTFont(font(tmp_path / "parts" / "two.part", name="Test Two", text="0123456789(", change=handwritten)),
    ]
    collection.save(tmp_path / "both.ttc")
    assert {face.name: face.handwritten for face in faces_in((tmp_path,))} == {"Test Sans": False, "Test Two": True}


def test_what_cannot_be_read_as_a_font_is_passed_over(tmp_path: Path) -> None:
    whole = font(tmp_path / "whole.ttf").read_bytes()
    (tmp_path / "text.ttf").write_text("not a font")
    (tmp_path / "empty.otf").write_bytes(b"")
    (tmp_path / "half.ttf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header.ttf").write_bytes(whole[:5])
    (tmp_path / "collection.ttc").write_bytes(b"ttcf" + whole[4:40])
    assert [face.name for face in faces_in((tmp_path,))] == ["Test Sans"]


def test_handwriting_is_told_by_the_file_its_package_or_its_name(tmp_path: Path) -> None:
    def turn(made: TTFont) -> None:  # so that its digits are its own
        made["glyf"]["one"] = made["glyf"]["seven"]
        made["glyf"]["seven"] = made["glyf"]["two"]
        made["glyf"]["two"] = made["glyf"]["three"]
        made["glyf"]["three"] = made["glyf"]["parenleft"]

    def lighter(made: TTFont) -> None:
        made["glyf"]["five"] = made["glyf"]["parenleft"]

    def heavier(made: TTFont) -> None:
        made["glyf"]["six"] = made["glyf"]["parenleft"]
        made["OS/2"].panose.bFamilyType = 3

    text = "0123456789("
    font(tmp_path / "print.ttf", text=text)
    font(tmp_path / "named.ttf", name="Some Handlettering", text=text, change=turn)
    packed = font(tmp_path / "package" / "files" / "web.woff", name="Web", text=text, change=lighter, flavor="woff")
    (packed.parent.parent / "metadata.json").write_text('{"category": "handwriting"}')
    font(tmp_path / "classed.ttf", name="Classed", text=text, change=heavier)
    handwritten = {face.name: face.handwritten for face in faces_in((tmp_path,))}
    assert handwritten == {"Test Sans": False, "Some Handlettering": True, "Web": True, "Classed": True}


def test_fonts_are_two_kinds_with_ten_images_a_face(tmp_path: Path, test_set: LabelledImages) -> None:
    font(tmp_path / "one.ttf")
    made = BY_NAME["printed fonts"].digits(test_set, fonts=[tmp_path])
    assert made.digits.images.shape == (10, 28, 28)
    assert made.digits.labels.tolist() == [*range(10)]
    assert [face.name for face in made.faces] == ["Test Sans"]
    with pytest.raises(KindMissing, match=f"no face in {tmp_path} is of handwriting"):
        BY_NAME["handwriting fonts"].digits(test_set, fonts=[tmp_path])


# A user's folder


def idx(array: npt.NDArray[Any]) -> bytes:
    number = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">HBB{array.ndim}I", 0, number, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


LABELS: Final[Labels] = np.array([3, 1, 4], np.uint8)


def images_of(count: int = 3, side: int = 28) -> Images:
    return random().integers(0, 256, (count, side, side), np.uint8)


def test_a_pair_is_read_gzipped_or_not_and_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images_of()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    ((name, digits),) = pairs(tmp_path)
    assert name == "t10k"
    np.testing.assert_array_equal(digits.images, images_of())
    np.testing.assert_array_equal(digits.labels, LABELS)
    assert digits.labels.dtype == np.uint8


def test_qmnists_labels_are_read_by_their_first_column(tmp_path: Path) -> None:
    labels = np.array([[3, 9, 100, 0, 0, 0, 0, 0], [1] * 8, [4] * 8], np.int32)
    (tmp_path / "qmnist-test-images-idx3-ubyte").write_bytes(idx(images_of()))
    (tmp_path / "qmnist-test-labels-idx2-int").write_bytes(idx(labels))
    ((name, digits),) = pairs(tmp_path)
    assert name == "qmnist-test"
    np.testing.assert_array_equal(digits.labels, LABELS)


def test_emnists_images_are_put_right(tmp_path: Path) -> None:
    (tmp_path / "emnist-digits-test-images-idx3-ubyte").write_bytes(idx(images_of()))
    (tmp_path / "emnist-digits-test-labels-idx1-ubyte").write_bytes(idx(LABELS))
    ((_, digits),) = pairs(tmp_path)
    np.testing.assert_array_equal(digits.images, images_of().transpose(0, 2, 1))


def test_every_pair_of_a_folder_is_read(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images_of()))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    assert [name for name, _ in pairs(tmp_path)] == ["t10k", "train"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (None, idx(LABELS), "holds no file of images"),
        (idx(images_of()), None, "has no labels beside it"),
        (idx(images_of(side=16)), idx(LABELS), "holds images of 16 by 16 pixels; expected 28 by 28"),
        (idx(images_of()[0]), idx(LABELS), "expected 28 by 28"),
        (idx(images_of(2)), idx(LABELS), "holds 3 labels, and .* 2 images: not a pair"),
        (idx(images_of()), idx(np.array([3, 1, 10], np.uint8)), "no digits, the first of them 10; expected 0 to 9"),
        (idx(images_of()), idx(np.array([[3], [-1], [2]], np.int32)), "the first of them -1"),
        (idx(images_of())[:-1], idx(LABELS), "truncated: expected 2,368 bytes, got 2,367"),
        (idx(images_of()) + b"?", idx(LABELS), "longer than it says"),
        (idx(images_of())[:6], idx(LABELS), "ends within its header, after 6 bytes"),
        (idx(images_of()), b"", "ends within its header, after 0 bytes"),
        (b"\x89PNG" + bytes(100), idx(LABELS), "not of this format: it begins with 89 50 4e 47"),
        (idx(images_of(0)), idx(LABELS[:0]), "holds no images"),
    ],
)
def test_a_folder_that_holds_no_digits_is_refused(
    images: bytes | None, labels: bytes | None, message: str, tmp_path: Path
) -> None:
    if images is not None:
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match=message):
        [*pairs(tmp_path)]


def test_a_truncated_gzip_file_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images_of()))[:-9])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(DataError, match="not a whole gzip file"):
        [*pairs(tmp_path)]
    with pytest.raises(DataError, match="No such file or directory"):
        [*pairs(tmp_path / "nowhere")]


def test_the_documents_have_the_table_and_its_picture() -> None:
    page = (PROJECT / "docs" / "kinds.md").read_text()
    for kind in KINDS:
        alike = ", ".join(kind.resembles) or "-"
        assert f"| {kind.name} | {kind.about} | {kind.source} | {alike} |" in page
    with Image.open(PROJECT / "docs" / "kinds.png") as picture:
        assert picture.width > 800


_: Change = corruptions.fog  # every row's change has this type
