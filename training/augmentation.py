"""Augmentation as mathematics: what is drawn anew for each image in each epoch, once for all three frameworks.

A recipe holds a tuple of augmentations, which an image passes through in their order. Affine and Elastic that follow one
another are one map of the plane, and one bilinear sampling with zeros outside. In between pixels are real numbers in
[0, 1]; at the end they are rounded to whole ones again.

An image's random numbers follow from the seed, the epoch and the image's place among the images alone, and BLAS works on one
thread, as on two it rounds otherwise: so every framework trains on the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from digits.contract import PIXELS, SIDE, Images
from digits.errors import ImpossibleRecipe
from digits.sampling import Floats, affine_points, sample

BLOCK: Final = (
    64  # images drawn and changed at once: an array of their pixels takes 200 kB, so that a few stay in the cache
)
SMEARED: Final = 8  # places whose mean is taken for motion
DROPPED: Final = 1e-4  # share of a smooth field's variance that may be left out: 1 % of its deviation


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Slanted, turned, sized and moved about the centre. Each number is uniform from minus to plus what is given."""

    rotation: float  # degrees
    shift: float  # pixels, downwards and to the right each
    scale: float  # share: the drawing is 1 - scale to 1 + scale as large
    shear: float  # degrees by which an upright line leans
    probability: float  # that an image is changed at all; so too below

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            rotation=(0 <= self.rotation <= 180, "from 0 to 180 degrees"),
            shift=(0 <= self.shift <= SIDE, f"from 0 to {SIDE} pixels"),
            scale=(0 <= self.scale < 1, "a share, at least 0 and less than 1"),
            shear=(0 <= self.shear < 90, "at least 0 and less than 90 degrees"),
        )


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """Each pixel displaced by a smooth random field (Simard, Steinkraus and Platt 2003).

    Theirs: for rows and columns each, uniform numbers in [-1, 1], one a pixel, convolved with a Gaussian whose values sum
    to 1, times alpha. Sums of many such numbers are normal, so a normal field of the same covariance is drawn:
    alpha² / 3 / (4 pi sigma²) * exp(-distance² / (4 sigma²)).
    """

    sigma: float  # pixels: the Gaussian's deviation
    alpha: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            sigma=(0.5 <= self.sigma < math.inf, "a number of at least 0.5 pixels"),
            alpha=(0 <= self.alpha < math.inf, "a number of at least 0 pixels"),
        )


@dataclass(frozen=True, kw_only=True)
class Thickness:
    """Strokes thinner or thicker at each of their sides by pixels uniform from -thinner to thicker.

    One pixel thicker is the largest of a pixel and its four neighbours, one thinner their smallest; between whole numbers
    of pixels, as far between the two images.
    """

    thinner: float  # pixels
    thicker: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            thinner=(0 <= self.thinner <= SIDE, f"from 0 to {SIDE} pixels"),
            thicker=(0 <= self.thicker <= SIDE, f"from 0 to {SIDE} pixels"),
        )


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The edges alone, brightest at 1: w (thicker - x) + (1 - w) (x - thinner), with w uniform from 0 to 1.

    `thicker` and `thinner` are by one pixel. With w = 1 the edge is outside of what was drawn, and a line becomes two; with
    w = 0 it is inside, and a thin line stays; with w = 1/2 it is the morphological gradient. A half of the images are made
    black and white first, at one half, and their w is 0 or 1: a line of one pixel, as edge detectors draw it.
    """

    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Convolved with a Gaussian, whose deviation is uniform from 0 to what is given."""

    deviation: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, deviation=(0 <= self.deviation < math.inf, "a number of at least 0 pixels"))


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Smeared along a line in any direction: the mean over its points, its length uniform from 0 to what is given."""

    length: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, length=(0 <= self.length <= SIDE, f"from 0 to {SIDE} pixels"))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The image x becomes b + (1 - b) c x: brighter in its background, paler in its ink."""

    background: float  # brightness: b is uniform from 0 to it
    least: float  # share of the contrast that is left: c is uniform from it to 1
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            background=(0 <= self.background <= 1, "from 0 to 1"),
            least=(0 <= self.least <= 1, "from 0 to 1"),
        )


@dataclass(frozen=True, kw_only=True)
class Fog:
    """A smooth field f in [0, 1] laid over the image x: (x + d f) / (1 + d), with d uniform from 0 to `density`.

    The field is the sum of normal ones, of covariance exp(-distance² / (4 s²)) for s = 8, 4, 2 and 1 pixels and deviations
    of 8, 4, 2 and 1, moved and scaled to reach from 0 to 1.
    """

    density: float
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, density=(0 <= self.density < math.inf, "a number of at least 0"))


@dataclass(frozen=True, kw_only=True)
class Blots:
    """Where a smooth field is high, pixels are covered by one brightness: a share of them up to `share`.

    The brightness is 1 for one half of the images and 0 for the other: spots and gaps. The field's covariance is
    exp(-distance² / (4 size²)).
    """

    size: float  # pixels
    share: float  # of the pixels, uniform from 0 to it
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            size=(0.5 <= self.size < math.inf, "a number of at least 0.5 pixels"),
            share=(0 <= self.share < 1, "at least 0 and less than 1"),
        )


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A bright line across the image in any direction, at any place: straight, or zigzag; whole, or dotted.

    The zigzag's amplitude is uniform from 0 to `amplitude`, its period from 4 to 12 pixels; a half of the lines are dotted,
    with a period from 2 to 6 pixels, half of it bright. The width is uniform from 1 to `width`.
    """

    most: int  # lines in an image, from 1 to it, each number as likely
    width: float  # pixels
    amplitude: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(
            self,
            most=(isinstance(self.most, int) and 1 <= self.most <= SIDE, f"a whole number from 1 to {SIDE}"),
            width=(1 <= self.width <= SIDE, f"from 1 to {SIDE} pixels"),
            amplitude=(0 <= self.amplitude <= SIDE, f"from 0 to {SIDE} pixels"),
        )


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Parallel stripes in any direction, in which the image x becomes |s - x|, with s uniform from 0 to 1.

    Stripes are as wide as the gaps between them: uniform from 2 pixels to `width`.
    """

    width: float  # pixels
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, width=(2 <= self.width <= SIDE, f"from 2 to {SIDE} pixels"))


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """A rectangle of one brightness, uniform in [0, 1], whose centre lies anywhere in the image."""

    side: float  # pixels: height and width are uniform from 0 to it
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, side=(0 <= self.side <= SIDE, f"from 0 to {SIDE} pixels"))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Normal noise on every pixel, its deviation uniform from 0 to what is given."""

    deviation: float  # of brightness in [0, 1]
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, deviation=(0 <= self.deviation < math.inf, "a number of at least 0"))


@dataclass(frozen=True, kw_only=True)
class Impulses:
    """Single pixels that become 0 or 1, as likely: a share of them uniform from 0 to `share`."""

    share: float
    probability: float

    def __post_init__(self) -> None:
        _refuse_impossible(self, share=(0 <= self.share <= 1, "from 0 to 1"))


Augmentation = (
    Affine
    | Elastic
    | Thickness
    | Outline
    | Blur
    | Motion
    | Contrast
    | Fog
    | Blots
    | Lines
    | Stripes
    | Occlusion
    | Noise
    | Impulses
)
KINDS: Final[dict[str, type[Augmentation]]] = {kind.__name__.lower(): kind for kind in get_args(Augmentation)}


def _refuse_impossible(augmentation: Any, **possible: tuple[bool, str]) -> None:
    """Raises ImpossibleRecipe, naming the field, what it takes and what it has."""
    possible["probability"] = (0 <= augmentation.probability <= 1, "from 0 to 1")
    for field, (is_possible, expected) in possible.items():
        if not is_possible:
            raise ImpossibleRecipe(
                f"The augmentation {type(augmentation).__name__.lower()} cannot be drawn: {field} must be {expected}; "
                f"it is {getattr(augmentation, field)!r}."
            )


def to_data(augmentations: tuple[Augmentation, ...]) -> list[dict[str, Any]]:
    """Plain dictionaries: `{"augmentation": "affine", "rotation": 10.0, ...}`."""
    return [{"augmentation": type(each).__name__.lower(), **dataclasses.asdict(each)} for each in augmentations]


def from_data(data: list[dict[str, Any]]) -> tuple[Augmentation, ...]:
    """The inverse of `to_data`, also after a way through JSON.

    Raises:
        ImpossibleRecipe: no such augmentation, fields that it does not have or lacks, or an impossible value.
    """
    return tuple(_from_data(dict(each)) for each in data)


def _from_data(fields: dict[str, Any]) -> Augmentation:
    name = fields.pop("augmentation", None)
    if name not in KINDS:
        raise ImpossibleRecipe(f"There is no augmentation {name!r}; there are {', '.join(KINDS)}.")
    kind = KINDS[name]
    expected = [field.name for field in dataclasses.fields(kind)]
    if set(fields) != set(expected):
        raise ImpossibleRecipe(
            f"The augmentation {name} has the fields {', '.join(expected)}; got {', '.join(fields) or 'none'}."
        )
    for field, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ImpossibleRecipe(
                f"The augmentation {name} cannot be drawn: {field} must be a number; it is {value!r}."
            )
    return kind(**fields)


def augment(augmentations: tuple[Augmentation, ...], images: Images, *, seed: int, epoch: int) -> Images:
    """The images as an epoch trains on them.

    Args:
        augmentations: what the images pass through, in this order.
        images: uint8 [N, 28, 28].
        seed: the recipe's.
        epoch: from 0.

    Returns:
        uint8 [N, 28, 28], new; without augmentations the images themselves.
    """
    if not augmentations:
        return images
    augmented = np.empty_like(images)
    with threadpool_limits(1, user_api="blas"):
        for number, first in enumerate(range(0, len(images), BLOCK)):
            part = images[first : first + BLOCK]
            pixels = np.zeros((BLOCK, SIDE, SIDE), np.float32)  # a whole block: N changes no image's random numbers
            np.multiply(part, np.float32(1 / 255), out=pixels[: len(part)])
            pixels = _augmented(augmentations, pixels, np.random.default_rng([seed, epoch, number]))[: len(part)]
            pixels *= 255
            augmented[first : first + BLOCK] = np.rint(np.clip(pixels, 0, 255, out=pixels), out=pixels)
    return augmented


def _augmented(augmentations: tuple[Augmentation, ...], pixels: Floats, random: np.random.Generator) -> Floats:
    for moves, group in itertools.groupby(augmentations, lambda each: isinstance(each, Affine | Elastic)):
        if moves:
            pixels = sample(pixels, *_points(list(group), len(pixels), random))
            continue
        for augmentation in group:
            chosen = np.flatnonzero(random.random(len(pixels), np.float32) < augmentation.probability)
            if chosen.size:
                pixels[chosen] = np.clip(_changed(augmentation, pixels[chosen], random), 0, 1)
    return pixels


# -- Where pixels come from --------------------------------------------------------------------------------------------------


def _points(moves: list[Any], count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """The points of the old images that the new ones' pixels are taken from: rows and columns, [count, 28, 28].

    The last augmentation was done last, so it is undone first. A field belongs to the pixels of the new image.
    """
    matrices = np.broadcast_to(np.eye(2, dtype=np.float32), (count, 2, 2))
    shifts = np.zeros((count, 2), np.float32)
    fields: Floats | None = None
    for move in reversed(moves):
        chosen = random.random(count, np.float32) < move.probability
        if isinstance(move, Elastic):
            fields = np.zeros((count, 2, PIXELS), np.float32) if fields is None else fields
            fields[chosen] += draw_fields(move, 2 * int(chosen.sum()), random).reshape(-1, 2, PIXELS)
            continue
        undo, start = draw_affine(move, chosen.astype(np.float32), random)
        matrices, shifts = undo @ matrices, (undo @ shifts[:, :, None])[:, :, 0] + start
        fields = undo @ fields if fields is not None else None
    rows, columns = affine_points(matrices, shifts)
    if fields is not None:
        rows += fields[:, 0].reshape(rows.shape)
        columns += fields[:, 1].reshape(columns.shape)
    return rows, columns


def draw_affine(augmentation: Affine, chosen: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """For each image the map from the new image to the old one about the centre: p -> matrix @ p + shift.

    Args:
        augmentation: the ranges.
        chosen: float32 [N]: 1 for the images that are changed, 0 for the others, whose map is the identity.
        random: where the numbers come from.

    Returns:
        matrices, float32 [N, 2, 2], of (row, column); shifts, float32 [N, 2], in pixels.
    """
    drawn = random.uniform(-1, 1, (5, len(chosen))).astype(np.float32) * chosen
    turn = np.radians(augmentation.rotation * drawn[0])
    size = 1 + augmentation.scale * drawn[1]
    lean = np.tan(np.radians(augmentation.shear * drawn[2]))
    cosine, sine = np.cos(turn), np.sin(turn)
    # What is drawn moves by shift + size * R @ S, with S leaning rightwards going up and R turning clockwise, as
    # (row, column): S = [[1, 0], [-lean, 1]], R = [[cos, sin], [-sin, cos]]. The inverse is S^-1 @ R^T / size.
    undo = np.empty((len(chosen), 2, 2), np.float32)
    undo[:, 0, 0], undo[:, 0, 1] = cosine, -sine
    undo[:, 1, 0], undo[:, 1, 1] = sine + lean * cosine, cosine - lean * sine
    undo /= size[:, None, None]
    shift = augmentation.shift * drawn[3:].T
    return undo, -(undo @ shift[:, :, None])[:, :, 0]


def draw_fields(augmentation: Elastic, count: int, random: np.random.Generator) -> Floats:
    """Displacements in pixels: float32 [count, 784]."""
    deviation = augmentation.alpha / math.sqrt(3) / (2 * math.sqrt(math.pi) * augmentation.sigma)
    fields = smooth_fields(augmentation.sigma, count, random)
    fields *= np.float32(deviation)
    return fields


def smooth_fields(sigma: float, count: int, random: np.random.Generator) -> Floats:
    """Normal fields of covariance exp(-distance² / (4 sigma²)): float32 [count, 784].

    This is white noise convolved with a Gaussian of deviation sigma, on a plane without border. It is drawn as a sum of
    its principal components (Karhunen and Loève): few of them hold nearly all of a smooth field's variance.
    """
    components = _components(sigma)
    return random.standard_normal((count, len(components)), np.float32) @ components


@functools.cache
def _components(sigma: float) -> Floats:
    """The principal components, each times its deviation: float32 [K, 784], of all but DROPPED of the variance."""
    line = np.arange(SIDE)
    covariance = np.exp(-((line[:, None] - line) ** 2) / (4 * sigma**2))  # along one axis; the field's is their product
    variances, vectors = np.linalg.eigh(covariance)
    products = np.clip(np.outer(variances, variances).reshape(-1), 0, None)
    order = np.argsort(-products, kind="stable")
    kept = order[: 1 + np.searchsorted(np.cumsum(products[order]), (1 - DROPPED) * products.sum())]
    components = np.einsum("ri,cj->ijrc", vectors, vectors).reshape(PIXELS, PIXELS)[kept]
    return np.asarray(components * np.sqrt(products[kept])[:, None], np.float32)


# -- What pixels become ------------------------------------------------------------------------------------------------------


def _changed(augmentation: Augmentation, pixels: Floats, random: np.random.Generator) -> Floats:
    """The images after one augmentation, every one of them changed: float32 [n, 28, 28], not yet held to [0, 1]."""

    def uniform(low: float, high: float) -> Floats:
        """A number for each image, [n, 1, 1]."""
        return random.uniform(low, high, (len(pixels), 1, 1)).astype(np.float32)

    match augmentation:
        case Thickness(thinner=thinner, thicker=thicker):
            return _thickened(pixels, uniform(-thinner, thicker))
        case Outline():
            hard = uniform(0, 1) < 0.5
            weight = uniform(0, 1)
            pixels = np.where(hard, (pixels >= 0.5).astype(np.float32), pixels)
            weight = np.where(hard, np.rint(weight), weight)
            outside = _neighbours(pixels, np.maximum) - pixels
            inside = pixels - _neighbours(pixels, np.minimum)
            edges: Floats = inside + weight * (outside - inside)
            edges /= np.maximum(edges.max(axis=(1, 2), keepdims=True), np.float32(1 / 255))
            return edges
        case Blur(deviation=deviation):
            return _blurred(pixels, uniform(0, deviation))
        case Motion(length=length):
            return _smeared(pixels, uniform(0, length), uniform(0, math.pi))
        case Contrast(background=background, least=least):
            low = uniform(0, background)
            return low + (1 - low) * uniform(least, 1) * pixels
        case Fog(density=density):
            drawn = uniform(0, density)
            return np.asarray((pixels + drawn * _fog(len(pixels), random)) / (1 + drawn), np.float32)
        case Blots(size=size, share=share):
            field = smooth_fields(size, len(pixels), random).reshape(pixels.shape)
            return _covered(pixels, field, uniform(0, share), (uniform(0, 1) < 0.5).astype(np.float32))
        case Lines(most=most, width=width, amplitude=amplitude):
            number = random.integers(1, most + 1, (len(pixels), 1, 1))
            for line in range(most):
                drawn = _line(uniform, width, amplitude)
                pixels = np.where(line < number, np.maximum(pixels, drawn), pixels)
            return pixels
        case Stripes(width=width):
            _, across = _along_and_across(uniform)
            period = 2 * uniform(2, width)
            striped = (across + period * uniform(0, 1)) % period < period / 2
            return np.where(striped, np.abs(uniform(0, 1) - pixels), pixels)
        case Occlusion(side=side):
            down = np.abs(_LINE[:, None] - uniform(0, SIDE - 1)) < uniform(0, side / 2)
            right = np.abs(_LINE - uniform(0, SIDE - 1)) < uniform(0, side / 2)
            return np.where(down & right, uniform(0, 1), pixels)
        case Noise(deviation=deviation):
            return pixels + uniform(0, deviation) * random.standard_normal(pixels.shape, np.float32)
        case Impulses(share=share):
            drawn = random.random(pixels.shape, np.float32)
            hit = uniform(0, share)
            return np.where(drawn < hit, (drawn < hit / 2).astype(np.float32), pixels)
        case _:
            raise AssertionError(f"{augmentation} changes where pixels come from")


_LINE: Final = np.arange(SIDE, dtype=np.float32)


def _neighbours(pixels: Floats, choose: np.ufunc) -> Floats:
    """The largest or smallest of each pixel and its four neighbours; outside there is nothing to choose from."""
    chosen = pixels.copy()
    choose(chosen[:, 1:], pixels[:, :-1], out=chosen[:, 1:])
    choose(chosen[:, :-1], pixels[:, 1:], out=chosen[:, :-1])
    choose(chosen[:, :, 1:], pixels[:, :, :-1], out=chosen[:, :, 1:])
    choose(chosen[:, :, :-1], pixels[:, :, 1:], out=chosen[:, :, :-1])
    return chosen


def _thickened(pixels: Floats, by: Floats) -> Floats:
    """Thicker by so many pixels, [n, 1, 1], where they are positive; thinner where they are negative."""
    for choose, steps in ((np.maximum, by), (np.minimum, -by)):
        for step in range(math.ceil(steps.max())):
            pixels = pixels + np.clip(steps - step, 0, 1) * (_neighbours(pixels, choose) - pixels)
    return pixels


def _blurred(pixels: Floats, deviation: Floats) -> Floats:
    """Convolved with Gaussians of the deviations [n, 1, 1], with zeros outside."""
    precision = 0.5 / np.maximum(deviation, np.float32(0.1)) ** 2  # at 0.1 pixels a neighbour weighs e^-50
    weights = np.exp(-precision * (_LINE[:, None] - _LINE) ** 2)  # [n, 28, 28]
    weights /= weights[:, SIDE // 2].sum(axis=-1)[:, None, None]
    return np.asarray(weights @ pixels @ weights, np.float32)


def _smeared(pixels: Floats, length: Floats, angle: Floats) -> Floats:
    """The mean over SMEARED places along a line; length in pixels and angle, [n, 1, 1]."""
    down, right = length * np.sin(angle), length * np.cos(angle)
    total: Floats = np.zeros_like(pixels)
    for step in np.linspace(-0.5, 0.5, SMEARED, dtype=np.float32):
        rows = np.broadcast_to(_LINE[:, None] + step * down, pixels.shape)
        total += sample(pixels, rows, np.broadcast_to(_LINE + step * right, pixels.shape))
    return total / np.float32(SMEARED)


def _fog(count: int, random: np.random.Generator) -> Floats:
    """Fields that reach from 0 to 1: float32 [count, 28, 28]."""
    field: Floats = np.zeros((count, PIXELS), np.float32)
    for sigma in (8, 4, 2, 1):
        field += np.float32(sigma) * smooth_fields(sigma, count, random)
    field -= field.min(axis=1, keepdims=True)
    field /= field.max(axis=1, keepdims=True)
    return field.reshape(count, SIDE, SIDE)


def _covered(pixels: Floats, field: Floats, share: Floats, brightness: Floats) -> Floats:
    """The brightness where the field is among its highest `share` of values, with a soft edge; all but field [n, 1, 1]."""
    ranked = np.sort(field.reshape(-1, PIXELS), axis=1)
    border = np.take_along_axis(ranked, ((PIXELS - 1) * (1 - share[:, :, 0])).astype(np.intp), axis=1)
    cover: Floats = np.clip((field - border[:, :, None]) * 4, 0, 1)
    return pixels + cover * (brightness - pixels)


def _along_and_across(uniform: Any) -> tuple[Floats, Floats]:
    """Each pixel's coordinates in pixels, [n, 28, 28], in an image turned by any angle about its centre."""
    angle = uniform(0, 2 * math.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    down, right = _LINE[:, None] - (SIDE - 1) / 2, _LINE - (SIDE - 1) / 2
    return cosine * right + sine * down, cosine * down - sine * right


def _line(uniform: Any, width: float, amplitude: float) -> Floats:
    """The brightness of a line in each image, [n, 28, 28]."""
    along, across = _along_and_across(uniform)
    phase = along / uniform(4, 12) + uniform(0, 1)
    zigzag = 4 * np.abs(phase - np.floor(phase) - np.float32(0.5)) - 1  # in [-1, 1]
    across = across - uniform(-10, 10) - uniform(0, amplitude) * zigzag
    phase = along / uniform(2, 6) + uniform(0, 1)
    bright = (phase - np.floor(phase) < 0.5) | (uniform(0, 1) < 0.5)
    line: Floats = np.clip(uniform(1, width) / 2 + np.float32(0.5) - np.abs(across), 0, 1) * bright
    return line
