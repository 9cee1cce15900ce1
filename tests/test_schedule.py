"""A recipe's learning rates: one formula, and what each framework takes at each step."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import python, require

from training.recipes import RECIPES
from training.schedule import learning_rates, steps_of

CYCLE = dataclasses.replace(RECIPES["torch-relu"], schedule="one_cycle", learning_rate=0.01)


def test_a_constant_rate_stays() -> None:
    np.testing.assert_array_equal(learning_rates(RECIPES["torch-relu"], 4), np.full(4, 1e-3))


def test_the_steps_of_a_training_count_a_batch_that_is_not_full() -> None:
    recipe = dataclasses.replace(CYCLE, epochs=3, batch_size=32)
    assert [steps_of(recipe, images) for images in (1, 32, 33, 60_000)] == [3, 3, 6, 5625]


@pytest.mark.parametrize("steps", [10, 100, 3752])
def test_one_cycle_begins_at_a_25th_reaches_the_top_after_three_tenths_and_ends_near_nothing(steps: int) -> None:
    rates = learning_rates(CYCLE, steps)
    assert rates.shape == (steps,)
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] == pytest.approx(0.01 / 25 / 1e4)
    assert rates[round(0.3 * steps) - 1] == rates.max() == pytest.approx(0.01, rel=1e-4)
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 101])
def test_torch_takes_these_rates(steps: int) -> None:
    require("torch")
    import torch

    from training import torch_trainer

    model = torch_trainer.build(CYCLE)
    optimizer = torch_trainer.make_optimizer(model, CYCLE, steps=steps)
    taken = []
    for _ in range(steps):
        taken.append(optimizer.param_groups[0]["lr"])
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    np.testing.assert_allclose(taken, learning_rates(CYCLE, steps), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 1e-15)])
def test_keras_takes_these_rates(precision: str, tolerance: float) -> None:
    require("keras", "tensorflow")
    printed = python(
        """
import dataclasses, json, sys, numpy as np
from training import keras_trainer as trainer
from training.recipes import RECIPES
recipe = dataclasses.replace(RECIPES["keras-sequential"], schedule="one_cycle", learning_rate=0.01)
trainer.keras.config.set_floatx(sys.argv[1])
model = trainer.build(recipe)
trainer.compile_model(model, recipe, steps=10)
taken = []
for _ in range(10):
    taken.append(float(model.optimizer.learning_rate.numpy()))
    model.train_on_batch(np.zeros((2, 784), np.float32), np.zeros(2, np.uint8))
print(json.dumps(taken))
""",
        precision,
    )
    np.testing.assert_allclose(json.loads(printed), learning_rates(CYCLE, 10), rtol=tolerance)
