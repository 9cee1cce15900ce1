"""The one table of recipes. A field means mathematics, never one framework's argument; the trainers translate.

There are no defaults, so that a row reads whole. `reported` is the accuracy in percent, from one unseeded run, of the
publication a row reproduces. What that publication leaves open is the documented default of the row's framework where it
has one, else what `torch-relu` has, and is named in `source`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from digits.contract import FRAMEWORKS, Framework
from digits.errors import ImpossibleRecipe, UnknownRecipe

Activation = Literal["sigmoid", "relu"]
WeightDraw = Literal["glorot_uniform", "he_uniform", "fan_in_uniform"]
BiasDraw = Literal["zeros", "fan_in_uniform"]
OptimizerName = Literal["adam", "rmsprop"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row: a network of dense layers from 784 pixels to 10 logits, and how it is trained.

    The loss is the mean cross-entropy of softmax(logits), plus `l2` times the sum of the squared weights (not biases) of
    the hidden layers.
    """

    name: str
    framework: Framework
    hidden: tuple[int, ...]  # units of each hidden layer
    activation: Activation  # after each hidden layer
    dropout: (
        float  # share of each hidden layer's outputs that is set to 0 while training; the others grow by 1 / (1 - it)
    )
    weight_draw: WeightDraw  # ± sqrt(6 / (fan_in + fan_out)), sqrt(6 / fan_in), 1 / sqrt(fan_in)
    bias_draw: BiasDraw
    l2: float
    scaling: tuple[float, float]  # what pixels 0 and 255 become
    optimizer: OptimizerName
    learning_rate: float
    beta_1: float  # decay of the mean of the gradients; 0 for rmsprop, which keeps none
    beta_2: float  # decay of the mean of their squares
    epsilon: float
    batch_size: int
    epochs: int
    validation_fraction: (
        float  # the last images of the training set, held out; 0: none, the curve is of the test images
    )
    seed: int
    keras_api: Literal["sequential", "functional"] | None  # how Keras is told; no mathematics
    reported: float | None
    source: str

    def __post_init__(self) -> None:
        """Raises ImpossibleRecipe, naming the field, what it takes and what it has."""
        possible: dict[str, tuple[bool, str]] = {
            "framework": (self.framework in FRAMEWORKS, " or ".join(FRAMEWORKS)),
            "hidden": (all(units >= 1 for units in self.hidden), "at least 1 unit in each hidden layer"),
            "activation": (self.activation in get_args(Activation), " or ".join(get_args(Activation))),
            "dropout": (0 <= self.dropout < 1, "at least 0 and less than 1"),
            "weight_draw": (self.weight_draw in get_args(WeightDraw), " or ".join(get_args(WeightDraw))),
            "bias_draw": (self.bias_draw in get_args(BiasDraw), " or ".join(get_args(BiasDraw))),
            "l2": (0 <= self.l2 < math.inf, "a number of at least 0"),
            "scaling": (-math.inf < self.scaling[0] < self.scaling[1] < math.inf, "two numbers, the lower one first"),
            "optimizer": (self.optimizer in get_args(OptimizerName), " or ".join(get_args(OptimizerName))),
            "learning_rate": (0 <= self.learning_rate < math.inf, "a number of at least 0"),
            "beta_1": (0 <= self.beta_1 < 1, "at least 0 and less than 1"),
            "beta_2": (0 <= self.beta_2 < 1, "at least 0 and less than 1"),
            "epsilon": (0 < self.epsilon < math.inf, "a number greater than 0"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "validation_fraction": (0 <= self.validation_fraction < 1, "at least 0 and less than 1"),
            "seed": (0 <= self.seed < 2**31, "at least 0 and less than 2**31"),
        }
        for field, (is_possible, expected) in possible.items():
            if not is_possible:
                raise ImpossibleRecipe(
                    f"The recipe {self.name} cannot be trained: {field} must be {expected}; it is {getattr(self, field)!r}."
                )

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(fan_in, fan_out) of each dense layer."""
        units = [784, *self.hidden, 10]
        return list(itertools.pairwise(units))

    @property
    def pixel_step(self) -> float:
        """A pixel becomes pixel * pixel_step + pixel_low."""
        low, high = self.scaling
        return (high - low) / 255

    @property
    def pixel_low(self) -> float:
        return self.scaling[0]

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `dataclasses.asdict`, also after a way through JSON."""
        return cls(**{**data, "hidden": tuple(data["hidden"]), "scaling": tuple(data["scaling"])})


_ROWS: Final = (
    Recipe(
        name="numpy-sigmoid",
        framework="numpy",
        hidden=(128,),
        activation="sigmoid",
        dropout=0.0,
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128, 20),
        activation="relu",
        dropout=0.0,
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(0.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="sigmoid",
        dropout=0.0,
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.5,
        weight_draw="he_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128, 20),
        activation="relu",
        dropout=0.0,
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        l2=0.0,
        scaling=(0.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="sigmoid",
        dropout=0.0,
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(-1.0, 1.0),
        optimizer="rmsprop",
        learning_rate=1e-3,
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
        hidden=(128,),
        activation="relu",
        dropout=0.5,
        weight_draw="he_uniform",
        bias_draw="zeros",
        l2=0.01,
        scaling=(-1.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
        hidden=(128, 20),
        activation="relu",
        dropout=0.0,
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        l2=0.0,
        scaling=(0.0, 1.0),
        optimizer="adam",
        learning_rate=1e-3,
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
)

RECIPES: Final = {recipe.name: recipe for recipe in _ROWS}


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
