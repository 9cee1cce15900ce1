"""The one table of recipes. A field means mathematics, never one framework's argument; the trainers translate.

There are no defaults, so that a row reads whole. `reported` is the accuracy in percent, from one unseeded run, of the
publication a row reproduces. What that publication leaves open is the documented default of the row's framework, and is
named in `source`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

from digits.contract import Framework
from digits.errors import UnknownRecipe

Activation = Literal["sigmoid", "relu"]
WeightDraw = Literal["glorot_uniform", "fan_in_uniform"]
BiasDraw = Literal["zeros", "fan_in_uniform"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row: a network of dense layers from 784 pixels to 10 logits, and how it is trained.

    The loss is the mean cross-entropy of softmax(logits); the optimizer is Adam.
    """

    name: str
    framework: Framework
    hidden: tuple[int, ...]  # units of each hidden layer
    activation: Activation  # after each hidden layer
    weight_draw: WeightDraw  # glorot_uniform: ±sqrt(6 / (fan_in + fan_out)); fan_in_uniform: ±1 / sqrt(fan_in)
    bias_draw: BiasDraw
    scaling: tuple[float, float]  # what pixels 0 and 255 become
    learning_rate: float
    beta_1: float
    beta_2: float
    epsilon: float
    batch_size: int
    epochs: int
    seed: int
    reported: float | None
    source: str

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


_ROWS: Final = (
    Recipe(
        name="numpy-sigmoid",
        framework="numpy",
        hidden=(128,),
        activation="sigmoid",
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        scaling=(-1.0, 1.0),
        learning_rate=1e-3,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        seed=1,
        reported=None,
        source="784-128 sigmoid-10 with forward and backward propagation of its own. Open: initialisation (Glorot and "
        "Bengio 2010), optimizer (Adam with the constants of its paper), and the rest as in torch-relu.",
    ),
    Recipe(
        name="torch-relu",
        framework="torch",
        hidden=(128,),
        activation="relu",
        weight_draw="fan_in_uniform",
        bias_draw="fan_in_uniform",
        scaling=(-1.0, 1.0),
        learning_rate=1e-3,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        batch_size=32,
        epochs=15,
        seed=1,
        reported=97.46,
        source="784-128 relu-10, Adam 1e-3, batch 32, 15 epochs, pixels in [-1, 1]. Open: initialisation, betas and "
        "epsilon (torch's defaults).",
    ),
    Recipe(
        name="keras-sequential",
        framework="keras",
        hidden=(128,),
        activation="relu",
        weight_draw="glorot_uniform",
        bias_draw="zeros",
        scaling=(-1.0, 1.0),
        learning_rate=1e-3,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        batch_size=32,
        epochs=15,
        seed=1,
        reported=96.43,
        source="784-128 relu-10 through the Sequential API, Adam 1e-3, batch 32, 15 epochs, pixels in [-1, 1]. Open: "
        "initialisation, betas and epsilon (Keras's defaults).",
    ),
)

RECIPES: Final = {recipe.name: recipe for recipe in _ROWS}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UnknownRecipe: there is none; the message names those there are.
    """
    if name not in RECIPES:
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
