"""A training with everything random handed in: starting weights, the images in their order, dropout's masks.

Each comes from a seed of its own, so that two trainings can have all but one in common (common random numbers), in
whatever framework they run. What is drawn does not depend on the recipe beyond its shapes: a starting weight is one number
between -1 and 1 times the recipe's bound, so that two recipes that start differently start from the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from digits.contract import PIXELS, Framework, Images
from digits.mnist import LabelledImages
from digits.network import BatchNorm, Conv, Dense, Dropout, arrays, with_inputs
from training.augmentation import augment
from training.recipes import Recipe
from training.train import split_for

Array = npt.NDArray[Any]
Precision = Literal["float32", "float64"]

_WEIGHTS: Final = 1  # in a generator's seed, what the numbers are for
_ORDER: Final = 2
_MASKS: Final = 3
_SAMPLE: Final = 4


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: the mathematics of `recipe` in `framework`, and the seed of each thing that is drawn.

    `shuffles` and `l2_means` are what frameworks do by default and no recipe says; Keras has no "decay".
    """

    recipe: Recipe  # its own framework and seed mean nothing here
    framework: Framework
    precision: Precision = "float32"
    weights: int
    order: int  # of the batches; and what the recipe draws and augments, it draws from this seed too
    masks: int
    sample: int | None = (
        None  # of the half of the training images that is trained on: s and -s are the two halves; None: all
    )
    shuffles: Literal["each epoch", "once"] = "each epoch"
    l2_means: Literal["penalty", "decay"] = (
        "penalty"  # l2 * sum(weights²) in the loss; l2 * each parameter in its gradient
    )
    keep: int = 5  # the answers after so many last epochs are kept
    nudge: Literal[-1, 0, 1] = 0  # starting weights by so many units in the last place: no more than rounding does

    def to_data(self) -> dict[str, Any]:
        """Plain data, without the recipe's words, nor a nudge of 0: outcomes from before there was any stay what they are."""
        data = asdict(self) | {
            "recipe": {name: value for name, value in self.recipe.to_data().items() if name not in _WORDS}
        }
        if not self.nudge:
            del data["nudge"]
        return data

    @property
    def key(self) -> str:
        """Of all that decides what comes out: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_data(), sort_keys=True).encode()).hexdigest()[:16]


_WORDS: Final = ("name", "framework", "seed", "keras_api", "reported", "source")


def starting_weights(training: Training) -> list[dict[str, Array]]:
    """Of each layer that holds any, by the names and with the shapes of `digits.network.arrays`."""
    recipe, found = training.recipe, list[dict[str, Array]]()
    for layer, shape in with_inputs(recipe.network):
        held = arrays(layer, shape)
        if not held:
            continue
        if isinstance(layer, BatchNorm):
            first = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
            found.append({name: np.full(size, first[name], training.precision) for name, size in held.items()})
            continue
        fan_in, fan_out = _fans(layer, shape)
        bounds = {"weight": BOUNDS[recipe.weight_draw](fan_in, fan_out)}
        bounds["bias"] = 0.0 if recipe.bias_draw == "zeros" else fan_in**-0.5
        drawn = {
            name: (
                bounds[name] * np.random.default_rng([_WEIGHTS, training.weights, len(found), i]).uniform(-1, 1, size)
            ).astype(training.precision)
            for i, (name, size) in enumerate(held.items())
        }
        if training.nudge:
            towards = np.array(training.nudge * math.inf, training.precision)
            drawn = {name: np.nextafter(array, towards) for name, array in drawn.items()}
        found.append(drawn)
    return found


BOUNDS: Final[dict[str, Callable[[int, int], float]]] = {  # as the recipes' weight_draw has them
    "glorot_uniform": lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out)),
    "he_uniform": lambda fan_in, fan_out: math.sqrt(6 / fan_in),
    "fan_in_uniform": lambda fan_in, fan_out: fan_in**-0.5,
}


def _fans(layer: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    match layer:
        case Dense(units=units):
            return math.prod(shape), units
        case Conv(filters=filters, kernel=kernel):
            return shape[0] * kernel**2, filters * kernel**2
    raise AssertionError(f"{layer} holds arrays, but no fans are known of it")


def orders(training: Training, images: int) -> Iterator[npt.NDArray[np.int64]]:
    """Of each epoch, the images in the order in which it sees them, `[images]`."""
    for epoch in range(training.recipe.epochs):
        of = 0 if training.shuffles == "once" else epoch
        yield np.random.default_rng([_ORDER, training.order, of]).permutation(images)


def masks(training: Training, epoch: int, images: int) -> list[npt.NDArray[np.bool_]]:
    """Of each Dropout, in order: what it keeps of the image that comes at each place of the epoch, `[images, units]`."""
    drops = [(layer, shape) for layer, shape in with_inputs(training.recipe.network) if isinstance(layer, Dropout)]
    return [
        np.random.default_rng([_MASKS, training.masks, epoch, i]).random((images, *shape), np.float32) >= layer.rate
        for i, (layer, shape) in enumerate(drops)
    ]


def training_images(training: Training) -> LabelledImages:
    """What the recipe trains on, drawn digits and strangers included; without what it holds out."""
    every = split_for(replace(training.recipe, seed=training.order)).train
    if training.sample is None:
        return every
    count = len(every.labels)
    shuffled = np.random.default_rng([_SAMPLE, abs(training.sample)]).permutation(count)
    half = shuffled[: count // 2] if training.sample > 0 else shuffled[count // 2 : count // 2 * 2]
    return LabelledImages(images=every.images[half], labels=every.labels[half])


def epochs(training: Training, images: Images) -> Iterator[Array]:
    """Of each epoch, pixels `[N, 784]` as the recipe scales them, augmented anew."""
    pixels = scaled(training, images)
    for epoch in range(training.recipe.epochs):
        if training.recipe.augmentation:
            augmented = augment(training.recipe.augmentation, images, seed=training.order, epoch=epoch)
            pixels = scaled(training, augmented)
        yield pixels


def scaled(training: Training, images: Images) -> Array:
    number = np.dtype(training.precision).type
    step, low = number(training.recipe.pixel_step), number(training.recipe.pixel_low)
    pixels: Array = images.reshape(-1, PIXELS) * step + low  # [N, 784]
    return pixels
