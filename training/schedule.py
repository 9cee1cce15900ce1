"""The learning rate of each step: a recipe's `schedule`."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from training.recipes import Recipe

# Of one cycle (Smith and Topin 2018), with the constants of torch's OneCycleLR: along a cosine from the highest rate / 25
# up to it in the first 30 % of the steps, and along a cosine down to a 10,000th of where it began.
RISING: Final = 0.3
FIRST: Final = 1 / 25
LAST: Final = FIRST / 1e4


def steps_of(recipe: Recipe, images: int) -> int:
    """How many steps training takes on this number of images."""
    return recipe.epochs * math.ceil(images / recipe.batch_size)


def learning_rates(recipe: Recipe, steps: int) -> npt.NDArray[np.float64]:
    """Of each step, `[steps]`."""
    if recipe.schedule == "constant":
        return np.full(steps, recipe.learning_rate)
    top = RISING * steps - 1  # the step of the highest rate; not always a whole number
    step = np.arange(steps)
    up = _cosine(FIRST, 1, step / top)
    down = _cosine(1, LAST, (step - top) / (steps - 1 - top))
    return np.asarray(recipe.learning_rate * np.where(step <= top, up, down), np.float64)


def _cosine(start: float, end: float, share: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """From `start` at a share of 0 to `end` at 1."""
    return end + (start - end) / 2 * (1 + np.cos(math.pi * share))
