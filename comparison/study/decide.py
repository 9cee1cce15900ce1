"""Is it the framework, or its defaults? What is trained to decide it, and what the outcomes say.

1. The same mathematics: one training in NumPy, torch and Keras, everything random handed in (`training.given`).
2. The defaults: what differs between frameworks if nobody says otherwise, one at a time, inside NumPy, with common random
   numbers: both sides start from the same numbers and see the same batches.
3. Where variance comes from: trainings that differ in one thing alone that is drawn.

Accuracies are in [0, 1], on the test images, of the mean over the last epochs that were kept (`Training.keep`): the accuracy
of one epoch jumps by some tenths of a point from one to the next, and the mean over epochs asks the same with fewer seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from digits.contract import FRAMEWORKS
from training.given.draws import Precision, Training
from training.recipes import Recipe

POWER: Final = 0.9
PILOT: Final = 5  # seeds, from whose spread the plan says how many it takes
ELSEWHERE: Final = 1000  # added to a seed: another draw of the same thing
PRECISIONS: Final[tuple[Precision, ...]] = ("float64", "float32")

# What each recipe of dense layers has that no other has: an architecture, an activation, a way to start, an optimizer.
MATHEMATICS: Final = ("torch-deep", "torch-relu", "keras-enhanced", "keras-basic", "torch-improved", "numpy-sigmoid")
SMALLEST: Final = "numpy-deep"  # the recipe that trains soonest: of it the defaults and the components are asked


def given(recipe: Recipe, seed: int) -> Training:
    """In NumPy, everything drawn from one seed."""
    return Training(recipe=recipe, framework="numpy", weights=seed, order=seed, masks=seed)


def same_mathematics(recipe: Recipe, seed: int = 1) -> list[Training]:
    """One training in each framework and precision."""
    return [
        replace(given(recipe, seed), framework=framework, precision=precision)
        for precision in PRECISIONS
        for framework in FRAMEWORKS
    ]


@dataclass(frozen=True, kw_only=True)
class Default:
    """Something that frameworks do differently if nobody says otherwise, with the two trainings that differ in it alone."""

    name: str
    first_is: str
    second_is: str
    first: Training
    second: Training


L2: Final = 1e-4  # for the one default that is about it


def defaults(recipe: Recipe, seed: int) -> list[Default]:
    base = given(replace(recipe, weight_draw="fan_in_uniform", bias_draw="fan_in_uniform", epsilon=1e-8, l2=0.0), seed)
    keras_start = replace(base.recipe, weight_draw="glorot_uniform", bias_draw="zeros")
    with_l2 = replace(base, recipe=replace(base.recipe, l2=L2))
    return [
        Default(
            name="where weights start",
            first_is="torch: uniform within 1 / sqrt(fan_in), biases too",
            second_is="Keras: Glorot's uniform, biases 0",
            first=base,
            second=replace(base, recipe=keras_start),
        ),
        Default(
            name="Adam's epsilon",
            first_is="torch: 1e-8",
            second_is="Keras: 1e-7",
            first=base,
            second=replace(base, recipe=replace(base.recipe, epsilon=1e-7)),
        ),
        Default(
            name="shuffling",
            first_is="torch's DataLoader: another order at each epoch",
            second_is="Keras's fit with a seed: one order, at every epoch",
            first=base,
            second=replace(base, shuffles="once"),
        ),
        Default(
            name="what L2 means",
            first_is=f"Keras's L2({L2:g}): added to the loss, weights of hidden layers",
            second_is=f"torch's weight_decay={L2:g}: added to every gradient",
            first=with_l2,
            second=replace(with_l2, l2_means="decay"),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that is drawn, with two trainings that differ in it alone."""

    name: str
    first: Training
    second: Training


def sources(recipe: Recipe, seed: int) -> list[Source]:
    base = given(recipe, seed)
    return [
        Source(name="starting weights", first=base, second=replace(base, weights=seed + ELSEWHERE)),
        Source(name="order of batches", first=base, second=replace(base, order=seed + ELSEWHERE)),
        Source(name="sample of training images", first=replace(base, sample=seed), second=replace(base, sample=-seed)),
        Source(name="framework", first=base, second=replace(base, framework="torch")),
    ]
