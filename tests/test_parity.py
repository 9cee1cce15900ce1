"""The same weights and batches give the same numbers in all three frameworks, at float32 rounding.

What a framework computes differently by design is a row of its own at the end, not a wider tolerance.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import PROJECT, require
from parity import weights_of
from scipy import stats

from digits.contract import Framework
from digits.mnist import LabelledImages
from digits.network import BatchNorm, Conv, Dense, Dropout, MaxPool, Relu, Sigmoid, arrays, dense_network, with_inputs
from scratch.optimizers import Adam, RMSprop
from training import numpy_trainer
from training.recipes import RECIPES, Recipe
from training.trainers import NEEDS

pytestmark = pytest.mark.slow

Arrays = dict[str, npt.NDArray[Any]]
STEPS = 8
# After STEPS steps of up to 0.01. Float32 sums of 784 products in another order differ by about 1e-6 of their size; an
# epsilon of 1e-3 keeps Adam and RMSprop from dividing such a difference by a gradient that is smaller still.
EPSILON = 1e-3

SMALL = dataclasses.replace(
    RECIPES["torch-relu"],
    network=dense_network((32,), "relu"),
    epsilon=EPSILON,
    learning_rate=0.01,
    name="small",
    keras_api="sequential",
)
DROPPED = dataclasses.replace(SMALL, network=dense_network((32,), "relu", 0.5))
# Every kind of layer, with and without padding and bias, pooling that leaves out a row and a column, and all orders in use.
IMAGES = dataclasses.replace(
    SMALL,
    scaling=(0.0, 1.0),
    network=(
        Conv(filters=4, kernel=5, padding=2, bias=False), MaxPool(2), BatchNorm(momentum=0.9, epsilon=1e-3), Relu(),
        Conv(filters=6, kernel=3, padding=0, bias=True), Sigmoid(), Conv(filters=5, kernel=3, padding=1, bias=False),
        BatchNorm(momentum=0.8, epsilon=1e-2), Relu(), MaxPool(5), Dense(16), BatchNorm(momentum=0.7, epsilon=1e-3), Relu(),
        Dense(10),
    ),
)  # fmt: skip


def without_dropout(recipe: Recipe) -> Recipe:
    kept = tuple(layer for layer in recipe.network if not isinstance(layer, Dropout))
    return dataclasses.replace(recipe, network=kept)


CASES: dict[str, tuple[Recipe, str]] = {
    "sgd, sigmoid": (dataclasses.replace(SMALL, network=dense_network((32,), "sigmoid")), "sgd"),
    "sgd, two hidden layers": (
        dataclasses.replace(SMALL, network=dense_network((32, 20), "relu"), scaling=(0.0, 1.0)),
        "sgd",
    ),
    "sgd, L2": (dataclasses.replace(SMALL, l2=0.01), "sgd"),
    "sgd, dropout": (DROPPED, "sgd"),
    "adam": (SMALL, "adam"),
    "adam, L2": (dataclasses.replace(SMALL, l2=0.01), "adam"),
    "adam, dropout": (DROPPED, "adam"),
    "rmsprop": (dataclasses.replace(SMALL, optimizer="rmsprop", beta_2=0.9, learning_rate=0.001), "rmsprop"),
    "sgd, convolutions": (IMAGES, "sgd"),
    "adam, one cycle": (dataclasses.replace(SMALL, schedule="one_cycle"), "adam"),
    **{
        name: (without_dropout(recipe), recipe.optimizer)
        for name, recipe in RECIPES.items()
        if recipe.framework == "torch" or f"torch-{name.partition('-')[2]}" not in RECIPES  # one of each mathematics
    },
}
STEPPED = [name for name in CASES if name not in RECIPES]


def assert_close(found: npt.NDArray[Any], expected: npt.NDArray[Any], what: str = "") -> None:
    rtol, atol = (2e-5, 2e-6) if found.dtype == np.float32 else (1e-9, 1e-10)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


def answers_of(framework: str, cases: dict[str, tuple[Recipe, str]], inputs: Arrays, folder: Path) -> Arrays:
    """What tests/parity.py answers, by `case/what`."""
    data = {name: {"recipe": recipe.to_data(), "optimizer": kind} for name, (recipe, kind) in cases.items()}
    (folder / "cases.json").write_text(json.dumps(data))
    np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
    answers = folder / f"{framework}.npz"
    process = subprocess.run(
        [sys.executable, "tests/parity.py", framework, folder / "cases.json", folder / "inputs.npz", answers],
        cwd=PROJECT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    with np.load(answers, allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.fixture(scope="module")
def inputs(test_set: LabelledImages) -> Arrays:
    """Weights of every layer shape that occurs, real images for STEPS batches of 32, and a dropout mask."""
    generator = np.random.default_rng(0)
    held = {
        named
        for recipe, _ in CASES.values()
        for layer, shape in with_inputs(recipe.network)
        for named in arrays(layer, shape).items()
    }
    given: Arrays = {"images": test_set.images[: 32 * STEPS], "labels": test_set.labels[: 32 * STEPS]}
    for name, shape in sorted(held):
        limit = np.sqrt(6 / np.prod(shape[:1] if len(shape) == 2 else shape[1:])) if name == "weight" else 0.1
        drawn = generator.uniform(-limit, limit, shape).astype(np.float32)
        given[f"{name} {shape}"] = drawn + np.float32(name in ("scale", "variance"))
    given["mask"] = (generator.random((32, 32)) < 0.5).astype(np.float32)
    return given


@pytest.fixture(scope="module")
def answers(inputs: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    folder = tmp_path_factory.mktemp("parity")
    for packages in NEEDS.values():
        require(*packages)
    return {framework: answers_of(framework, CASES, inputs, folder) for framework in NEEDS}


@pytest.mark.parametrize("other", ["torch", "keras"])
@pytest.mark.parametrize("case", CASES)
def test_parameters_logits_loss_and_gradients_are_those_of_numpy(
    case: str, other: str, answers: dict[str, Arrays]
) -> None:
    ours, theirs = answers["numpy"], answers[other]
    assert ours[f"{case}/parameters"] == theirs[f"{case}/parameters"]
    for what in ("logits", "loss", "gradients"):
        assert_close(theirs[f"{case}/{what}"], ours[f"{case}/{what}"], what)
    assert np.abs(ours[f"{case}/gradients"]).max() > 1e-3


@pytest.mark.parametrize("other", ["torch", "keras"])
@pytest.mark.parametrize("case", [case for case in STEPPED if case.startswith("sgd")])
def test_losses_and_weights_after_several_steps_of_sgd_are_those_of_numpy(
    case: str, other: str, answers: dict[str, Arrays]
) -> None:
    assert_same_training(answers[other], answers["numpy"], case)


@pytest.mark.parametrize("case", [case for case in STEPPED if not case.startswith("sgd")])
def test_losses_and_weights_after_several_steps_of_adam_and_rmsprop_in_torch_are_those_of_numpy(
    case: str, answers: dict[str, Arrays]
) -> None:
    assert_same_training(answers["torch"], answers["numpy"], case)


def assert_same_training(theirs: Arrays, ours: Arrays, case: str) -> None:
    for what in ("losses", "weights"):  # Keras keeps its learning rate in float32, and with it the steps' rounding
        np.testing.assert_allclose(theirs[f"{case}/{what}"], ours[f"{case}/{what}"], rtol=2e-5, atol=2e-6, err_msg=what)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 1.1 * EPSILON},
        {"learning_rate": 0.0101},
        {"beta_1": 0.901},
        {"beta_2": 0.9991},
        {"l2": 0.0101},
        {"scaling": (-1.0, 1.001)},
        {"network": dense_network((32,), "sigmoid")},
        {"network": dense_network((32,), "relu", 0.4)},
        {"schedule": "one_cycle"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_one_constant_changed_on_one_side_is_noticed(
    change: dict[str, Any], answers: dict[str, Arrays], inputs: Arrays, tmp_path: Path
) -> None:
    case = "adam, dropout" if "0.4" in str(change) else "adam, L2" if "l2" in change else "adam"
    recipe, kind = CASES[case]
    changed = answers_of("numpy", {case: (dataclasses.replace(recipe, **change), kind)}, inputs, tmp_path)
    with pytest.raises(AssertionError):
        assert_same_training(answers["torch"], changed, case)


def test_one_bias_changed_on_one_side_is_noticed(answers: dict[str, Arrays], inputs: Arrays, tmp_path: Path) -> None:
    changed = {
        **inputs,
        "bias (10,)": inputs["bias (10,)"] + np.float32(1e-4) * np.eye(1, 10, dtype=np.float32)[0],
    }
    answered = answers_of("numpy", {"adam": CASES["adam"]}, changed, tmp_path)
    with pytest.raises(AssertionError):
        assert_same_training(answers["torch"], answered, "adam")


# Initialisation: the same distribution, drawn by each framework's own generator.


@pytest.mark.parametrize("framework", ["numpy", "torch", "keras"])
@pytest.mark.parametrize(
    ("draw", "limit"),
    [("glorot_uniform", (6 / (784 + 128)) ** 0.5), ("he_uniform", (6 / 784) ** 0.5), ("fan_in_uniform", 784**-0.5)],
)
def test_weights_and_biases_start_from_the_distribution_that_the_recipe_names(
    framework: Framework, draw: str, limit: float, tmp_path: Path
) -> None:
    require(*NEEDS[framework])
    code = """
import dataclasses, sys, numpy as np
from training.recipes import RECIPES
from training.trainers import Split, load_trainer
from digits.contract import Framework
from digits.mnist import LabelledImages
from runtimes.device import CPU
framework, draw, target = sys.argv[1:]
recipe = dataclasses.replace(
    RECIPES["torch-relu"], weight_draw=draw, bias_draw="fan_in_uniform", learning_rate=0.0, epochs=1, framework=framework
)
one = LabelledImages(images=np.zeros((1, 28, 28), np.uint8), labels=np.zeros(1, np.uint8))
trainer = load_trainer(framework)
split = Split(train=one, held_out=one, held_out_is="one image")
model = trainer.train(recipe, split, device=CPU, on_epoch=lambda epoch: None)  # which moves nothing
np.savez(target, **trainer.get_weights(model)[0])
"""
    target = tmp_path / "weights.npz"
    subprocess.run([sys.executable, "-c", code, framework, draw, target], cwd=PROJECT, check=True, timeout=100)
    with np.load(target) as drawn:
        for name, bound in (("weight", limit), ("bias", 784**-0.5)):
            scaled = drawn[name].ravel() / bound
            assert np.abs(scaled).max() <= 1 + 1e-6
            assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 1e-4


# Different by design. Keras writes its epsilons elsewhere than their papers and torch do:
#
#   Adam      lr' * mean / (sqrt(variance) + epsilon), with both corrections in lr': the paper's "epsilon hat". It is the
#             other formula with epsilon / sqrt(1 - beta_2**t), so that at the first steps a Keras epsilon counts for more.
#   RMSprop   lr * gradient / sqrt(variance + epsilon), the epsilon inside the root.


class KerasAdam(Adam):
    def step(self, gradients: npt.NDArray[Any]) -> None:
        given = self._epsilon
        self._epsilon = given / (1 - self._beta_2 ** (self._steps + 1)) ** 0.5
        super().step(gradients)
        self._epsilon = given


class KerasRMSprop(RMSprop):
    def step(self, gradients: npt.NDArray[Any]) -> None:
        self._variance[:] = self._decay * self._variance + (1 - self._decay) * np.square(gradients)
        self._parameters -= self.learning_rate * gradients / np.sqrt(self._variance + self._epsilon)


def keras_formula(recipe: Recipe, inputs: Arrays) -> npt.NDArray[np.float32]:
    """The weights after the same steps with scratch, but Keras's place for epsilon."""
    model = numpy_trainer.with_weights(recipe, weights_of(inputs, recipe))
    optimizer = (
        KerasRMSprop(model.parameters, learning_rate=recipe.learning_rate, decay=recipe.beta_2, epsilon=recipe.epsilon)
        if recipe.optimizer == "rmsprop"
        else KerasAdam(
            model.parameters,
            learning_rate=recipe.learning_rate,
            beta_1=recipe.beta_1,
            beta_2=recipe.beta_2,
            epsilon=recipe.epsilon,
        )
    )
    pixels = numpy_trainer.scaled(recipe, inputs["images"])
    for i in range(0, len(pixels), 32):
        numpy_trainer.train_step(model, optimizer, recipe, pixels[i : i + 32], inputs["labels"][i : i + 32])
    return model.parameters.astype(np.float32)


@pytest.mark.parametrize("case", ["adam", "adam, L2", "rmsprop"])
def test_keras_adds_epsilon_elsewhere_and_nothing_else_differs(
    case: str, answers: dict[str, Arrays], inputs: Arrays
) -> None:
    found = answers["keras"][f"{case}/weights"]
    assert_close(found, keras_formula(CASES[case][0], inputs))
    with pytest.raises(AssertionError):
        assert_close(found, answers["numpy"][f"{case}/weights"])


def test_the_sequential_and_the_functional_api_train_to_the_same_weights(tmp_path: Path) -> None:
    require(*NEEDS["keras"])
    code = """
import dataclasses, sys, numpy as np
from training import keras_trainer as trainer
from training.recipes import RECIPES
from training.train import split_for
from runtimes.device import CPU
both = [RECIPES["keras-sequential"], RECIPES["keras-functional"]]
assert dataclasses.replace(both[0], name="", keras_api=None, reported=None, source="") == dataclasses.replace(
    both[1], name="", keras_api=None, reported=None, source=""
)
weights = []
for recipe in both:
    recipe = dataclasses.replace(recipe, epochs=1)
    model = trainer.train(recipe, split_for(recipe), device=CPU, on_epoch=lambda epoch: None)
    weights.append(trainer.get_weights(model))
for one, other in zip(*weights, strict=True):
    assert all((one[name] == other[name]).all() for name in one)
print("identical")
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False
    )
    assert process.stdout == "identical\n", process.stderr
