"""The one table of recipes. A field means mathematics, never one framework's argument; the trainers translate.

There are no defaults, so that a row reads whole. `reported` is the accuracy in percent, from one unseeded run, of the
publication a row reproduces. What that publication leaves open is the documented default of the row's framework where it
has one, else what `torch-relu` has, and is named in `source`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from digits import network
from digits.contract import FRAMEWORKS, Framework
from digits.errors import ImpossibleRecipe, UnknownRecipe
from digits.network import BatchNorm, Conv, Dense, Dropout, MaxPool, Network, Relu, Sigmoid, shapes
from training import augmentation
from training.augmentation import (
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
)

WeightDraw = Literal["glorot_uniform", "he_uniform", "fan_in_uniform"]
BiasDraw = Literal["zeros", "fan_in_uniform"]
OptimizerName = Literal["adam", "rmsprop"]
Schedule = Literal["constant", "one_cycle"]

_NO_MATHEMATICS: Final = {"mathematics": False}  # the metadata of such a field; every other is mathematics


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row: a network from 28x28 pixels to 10 logits, and how it is trained.

    The loss is the mean cross-entropy of softmax(logits), plus `l2` times the sum of the squared weights (not biases) of
    every Dense and Conv but the last.
    """

    name: str = field(metadata=_NO_MATHEMATICS)
    framework: Framework = field(metadata=_NO_MATHEMATICS)
    network: Network
    weight_draw: WeightDraw  # ± sqrt(6 / (fan_in + fan_out)), sqrt(6 / fan_in), 1 / sqrt(fan_in)
    bias_draw: BiasDraw
    l2: float
    scaling: tuple[float, float]  # what pixels 0 and 255 become
    drawn: int  # digits that a program draws (training/drawn.py), added to the training images
    strangers: int  # what is no digit, drawn too (training/strangers.py), of which each digit is to be as probable
    augmentation: tuple[Augmentation, ...]  # what the training images go through, drawn anew at each epoch
    optimizer: OptimizerName
    learning_rate: float  # the highest, where it has a schedule
    schedule: Schedule  # of the learning rate, step by step: training/schedule.py
    beta_1: float  # decay of the mean of the gradients; 0 for rmsprop, which keeps none
    beta_2: float  # decay of the mean of their squares
    epsilon: float
    batch_size: int
    epochs: int
    validation_fraction: (
        float  # the last images of the training set, held out; 0: none, the curve is of the test images
    )
    seed: int = field(metadata=_NO_MATHEMATICS)
    keras_api: Literal["sequential", "functional"] | None = field(metadata=_NO_MATHEMATICS)  # how Keras is told
    reported: float | None = field(metadata=_NO_MATHEMATICS)
    source: str = field(metadata=_NO_MATHEMATICS)

    def __post_init__(self) -> None:
        """Raises ImpossibleRecipe, naming the field, what it takes and what it has."""
        possible: dict[str, tuple[bool, str]] = {
            "framework": (self.framework in FRAMEWORKS, " or ".join(FRAMEWORKS)),
            "weight_draw": (self.weight_draw in get_args(WeightDraw), " or ".join(get_args(WeightDraw))),
            "bias_draw": (self.bias_draw in get_args(BiasDraw), " or ".join(get_args(BiasDraw))),
            "l2": (0 <= self.l2 < math.inf, "a number of at least 0"),
            "scaling": (-math.inf < self.scaling[0] < self.scaling[1] < math.inf, "two numbers, the lower one first"),
            "drawn": (type(self.drawn) is int and self.drawn >= 0, "a whole number of at least 0"),
            "strangers": (type(self.strangers) is int and self.strangers >= 0, "a whole number of at least 0"),
            "optimizer": (self.optimizer in get_args(OptimizerName), " or ".join(get_args(OptimizerName))),
            "learning_rate": (0 <= self.learning_rate < math.inf, "a number of at least 0"),
            "schedule": (self.schedule in get_args(Schedule), " or ".join(get_args(Schedule))),
            "beta_1": (0 <= self.beta_1 < 1, "at least 0 and less than 1"),
            "beta_2": (0 <= self.beta_2 < 1, "at least 0 and less than 1"),
            "epsilon": (0 < self.epsilon < math.inf, "a number greater than 0"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "validation_fraction": (0 <= self.validation_fraction < 1, "at least 0 and less than 1"),
            "seed": (0 <= self.seed < 2**31, "at least 0 and less than 2**31"),
        }
        for name, (is_possible, expected) in possible.items():
            if not is_possible:
                raise ImpossibleRecipe(
                    f"The recipe {self.name} cannot be trained: {name} must be {expected}; it is {getattr(self, name)!r}."
                )
        try:
            shapes(self.network)
        except ImpossibleRecipe as error:
            raise ImpossibleRecipe(f"The recipe {self.name} cannot be trained: {error}") from error

    @property
    def pixel_step(self) -> float:
        """A pixel becomes pixel * pixel_step + pixel_low."""
        low, high = self.scaling
        return (high - low) / 255

    @property
    def pixel_low(self) -> float:
        return self.scaling[0]

    def to_data(self) -> dict[str, Any]:
        """Every field, as plain dictionaries, lists, strings and numbers."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        layers, augmentations = network.to_data(self.network), augmentation.to_data(self.augmentation)
        return fields | {"network": layers, "scaling": list(self.scaling), "augmentation": augmentations}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_data`, also after a way through JSON. A recipe from before anything was drawn draws nothing."""
        return cls(
            **{
                "drawn": 0,
                "strangers": 0,
                **data,
                "network": network.from_data(data["network"]),
                "scaling": tuple(data["scaling"]),
                "augmentation": augmentation.from_data(data["augmentation"]),
            }
        )


def _in_each_framework(recipe: Recipe) -> tuple[Recipe, Recipe, Recipe]:
    """One mathematics in all three: numpy-NAME, torch-NAME and keras-NAME."""
    return (
        dataclasses.replace(recipe, framework="numpy", name=f"numpy-{recipe.name}", keras_api=None),
        dataclasses.replace(recipe, framework="torch", name=f"torch-{recipe.name}", keras_api=None),
        dataclasses.replace(recipe, framework="keras", name=f"keras-{recipe.name}"),
    )


_BATCH_NORM: Final = BatchNorm(momentum=0.9, epsilon=1e-5)
HELD_OUT: Final = (
    5000 / 60000
)  # of what is meant to be served: on these it is told when to believe it (digits/confidence.py)


def _convolutions(first: int, second: int, third: int, fourth: int) -> Network:
    """Four layers of this many filters each, which a core trains within minutes."""
    return (
        *(Conv(filters=first, kernel=5, padding=2, bias=False), MaxPool(2), _BATCH_NORM, Relu()),
        *(Conv(filters=second, kernel=3, padding=0, bias=False), _BATCH_NORM, Relu()),
        *(Conv(filters=third, kernel=3, padding=0, bias=False), MaxPool(2), _BATCH_NORM, Relu()),
        *(Conv(filters=fourth, kernel=3, padding=0, bias=False), _BATCH_NORM, Relu()),
        Dense(10),
    )


_ROWS: Final = (
    Recipe(
        name="numpy-sigmoid",
        framework="numpy",
        network=(Dense(128), Sigmoid(), Dense(10)),
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api=None,
        reported=None,
        source="784-128 sigmoid-10 with forward and backward propagation of its own. Open: initialisation (Glorot and "
        "Bengio 2010), optimizer (Adam with the constants of its paper), and the rest as in torch-relu.",
    ),
    Recipe(
        name="numpy-relu",
        framework="numpy",
        network=(Dense(128), Relu(), Dense(10)),
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api=None,
        reported=None,
        source="No publication: torch-relu, constant for constant, in NumPy.",
    ),
    Recipe(
        name="numpy-deep",
        framework="numpy",
        network=(Dense(128), Relu(), Dense(20), Relu(), Dense(10)),
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(0.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=100,
        epochs=10,
        validation_fraction=0.1,
        seed=1,
        keras_api=None,
        reported=None,
        source="No publication: torch-deep, constant for constant, in NumPy.",
    ),
    Recipe(
        name="torch-relu",
        framework="torch",
        network=(Dense(128), Relu(), Dense(10)),
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api=None,
        reported=97.46,
        source="784-128 relu-10, Adam 1e-3, batch 32, 15 epochs, pixels in [-1, 1]. Open: initialisation, betas and "
        "epsilon (torch's defaults).",
    ),
    Recipe(
        name="torch-basic",
        framework="torch",
        network=(Dense(128), Sigmoid(), Dense(10)),
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api=None,
        reported=96.52,
        source="A sigmoid network, Adam. Open: initialisation and Adam's constants (torch's defaults); width, batch, epochs "
        "and scaling, for which torch has no default (as in torch-relu).",
    ),
    Recipe(
        name="torch-improved",
        framework="torch",
        network=(Dense(128), Relu(), Dropout(0.5), Dense(10)),
        weight_draw="he_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api=None,
        reported=95.96,
        source="Dropout, He initialisation, Adam. Open: the dropout's rate (0.5), He's distribution (uniform), biases and "
        "Adam's constants (torch's defaults); activation (relu, which He's is for); width, batch, epochs and scaling (as in "
        "torch-relu).",
    ),
    Recipe(
        name="torch-deep",
        framework="torch",
        network=(Dense(128), Relu(), Dense(20), Relu(), Dense(10)),
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(0.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=100,
        epochs=10,
        validation_fraction=0.1,
        seed=1,
        keras_api=None,
        reported=None,
        source="784-128 relu-20 relu-10, Adam, batch 100, 10 epochs, 10 % validation, pixels in [0, 1]. Open: "
        "initialisation and Adam's constants (torch's defaults); which images validate (the last).",
    ),
    Recipe(
        name="keras-sequential",
        framework="keras",
        network=(Dense(128), Relu(), Dense(10)),
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api="sequential",
        reported=96.43,
        source="784-128 relu-10 through the Sequential API, Adam 1e-3, batch 32, 15 epochs, pixels in [-1, 1]. Open: "
        "initialisation, betas and epsilon (Keras's defaults).",
    ),
    Recipe(
        name="keras-functional",
        framework="keras",
        network=(Dense(128), Relu(), Dense(10)),
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api="functional",
        reported=97.41,
        source="The same through the Functional API. Open: as in keras-sequential.",
    ),
    Recipe(
        name="keras-basic",
        framework="keras",
        network=(Dense(128), Sigmoid(), Dense(10)),
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="rmsprop",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.0,
        beta_2=0.9,
        epsilon=1e-7,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api="sequential",
        reported=96.76,
        source="A sigmoid network, RMSprop. Open: initialisation, RMSprop's constants and batch (Keras's defaults); width, "
        "epochs and scaling (as in torch-relu: Keras's default of one epoch is no training).",
    ),
    Recipe(
        name="keras-enhanced",
        framework="keras",
        network=(Dense(128), Relu(), Dropout(0.5), Dense(10)),
        weight_draw="he_uniform",
        bias_draw="zeros",
        l2=0.01,
        scaling=(-1.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        batch_size=32,
        epochs=15,
        validation_fraction=0.0,
        seed=1,
        keras_api="sequential",
        reported=96.83,
        source="Dropout, He initialisation, L2, Adam. Open: L2's factor (0.01), Adam's constants and batch (Keras's "
        "defaults); the dropout's rate, for which Keras has no default (0.5, torch's), He's distribution (uniform), activation "
        "(relu), width, epochs and scaling (as in torch-improved).",
    ),
    Recipe(
        name="keras-deep",
        framework="keras",
        network=(Dense(128), Relu(), Dense(20), Relu(), Dense(10)),
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(0.0, 1.0),
        drawn=0,
        strangers=0,
        augmentation=(),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="constant",
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        batch_size=100,
        epochs=10,
        validation_fraction=0.1,
        seed=1,
        keras_api="sequential",
        reported=None,
        source="784-128 relu-20 relu-10, Adam, batch 100, 10 epochs, 10 % validation, pixels in [0, 1]. Open: "
        "initialisation and Adam's constants (Keras's defaults); which images validate (the last, as Keras takes them).",
    ),
    *_in_each_framework(
        Recipe(
            name="conv",
            framework="torch",
            network=_convolutions(24, 48, 48, 96),  # 82,258 parameters
            weight_draw="he_uniform",
            bias_draw="zeros",
            l2=0.0,
            scaling=(0.0, 1.0),
            drawn=0,
            strangers=0,
            augmentation=(
                Affine(rotation=10.0, shift=1.0, scale=0.1, shear=8.0, probability=1.0),
                Elastic(sigma=4.0, alpha=16.0, probability=1.0),
            ),
            optimizer="adam",
            learning_rate=0.01,
            schedule="one_cycle",
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-8,
            batch_size=128,
            epochs=9,
            validation_fraction=HELD_OUT,
            seed=1,
            keras_api="sequential",
            reported=None,
            source="No publication: the best on MNIST that a core trains within minutes.",
        )
    ),
    *_in_each_framework(
        Recipe(
            name="robust",
            framework="torch",
            network=_convolutions(32, 64, 64, 128),  # 141,930 parameters
            weight_draw="he_uniform",
            bias_draw="zeros",
            l2=0.0,
            scaling=(0.0, 1.0),
            drawn=9_000,
            strangers=2_000,
            augmentation=(
                Thickness(thinner=1.0, thicker=1.6, probability=0.5),
                Affine(rotation=12.0, shift=1.5, scale=0.15, shear=12.0, probability=1.0),
                Affine(rotation=25.0, shift=5.0, scale=0.4, shear=15.0, probability=0.3),
                Elastic(sigma=4.0, alpha=20.0, probability=1.0),
                Elastic(sigma=0.7, alpha=4.0, probability=0.05),
                Outline(probability=0.12),
                Lines(most=3, width=2.0, amplitude=3.0, probability=0.1),
                Blots(size=1.2, share=0.2, probability=0.05),
                Stripes(width=10.0, probability=0.08),
                Occlusion(side=10.0, probability=0.05),
                Fog(density=2.5, probability=0.08),
                Contrast(background=0.7, least=0.25, probability=0.07),
                Blur(deviation=1.3, probability=0.07),
                Motion(length=8.0, probability=0.05),
                Noise(deviation=0.35, probability=0.05),
                Impulses(share=0.3, probability=0.06),
            ),
            optimizer="adam",
            learning_rate=0.01,
            schedule="one_cycle",
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-8,
            batch_size=128,
            epochs=28,
            validation_fraction=HELD_OUT,
            seed=1,
            keras_api="sequential",
            reported=None,
            source="No publication: digits that are not MNIST's, read as well as MNIST's. Chosen on held-out training images, "
            "as they are and changed in ways that resemble many of MNIST-C's (Mu and Gilmer 2019), and on drawn ones; that "
            "digits are drawn at all was decided after a look at what was wrong of fonts (docs/kinds.md).",
        )
    ),
    *_in_each_framework(
        Recipe(
            name="wide",
            framework="torch",
            network=(
                *(Dense(1024), _BATCH_NORM, Relu()),
                *(Dense(1024), _BATCH_NORM, Relu()),
                *(Dense(1024), _BATCH_NORM, Relu()),
                Dense(10),
            ),
            weight_draw="he_uniform",
            bias_draw="zeros",
            l2=0.0,
            scaling=(0.0, 1.0),
            drawn=0,
            strangers=0,
            augmentation=(
                Affine(rotation=10.0, shift=1.0, scale=0.1, shear=8.0, probability=1.0),
                Elastic(sigma=4.0, alpha=16.0, probability=1.0),
            ),
            optimizer="adam",
            learning_rate=2e-3,
            schedule="one_cycle",
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-8,
            batch_size=256,
            epochs=60,
            validation_fraction=0.0,
            seed=1,
            keras_api="sequential",
            reported=None,
            source="No publication: the best that dense layers give.",
        )
    ),
)

RECIPES: Final = {recipe.name: recipe for recipe in _ROWS}


NOT_MATHEMATICS: Final = tuple(
    field.name for field in dataclasses.fields(Recipe) if not field.metadata.get("mathematics", True)
)


def departures(recipe: Recipe) -> tuple[str, ...]:
    """The fields in which `recipe` is not what the row of its name says; none where no row has that name.

    The seed is none of them: it is no part of the mathematics, and a run from another seed is a whole run.
    """
    row = RECIPES.get(recipe.name, recipe)
    return tuple(
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name != "seed" and getattr(recipe, field.name) != getattr(row, field.name)
    )


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UnknownRecipe: there is none; the message names those there are.
    """
    if name not in RECIPES:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
