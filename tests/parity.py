"""What one framework makes of given weights and batches: the other half of test_parity.py, in a process of its own.

    python tests/parity.py FRAMEWORK CASES.json INPUTS.npz ANSWERS.npz

The steps are those of the trainer itself (`train_step`, or Keras's `train_on_batch`); only dropout's draw is replaced, by a
given mask. A network with BatchNorm is compared in float64: torch sums a batch in float32 one number after the other, which
puts its answers 1e-4 from its own in float64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from digits import network
from digits.contract import Labels
from digits.network import arrays, with_inputs
from training.recipes import Recipe
from training.targets import STRANGER
from training.trainers import Weights

Arrays = dict[str, npt.NDArray[Any]]
MOMENTUM = 0.9  # of SGD, which no recipe has


def weights_of(inputs: Arrays, recipe: Recipe) -> Weights:
    """The given weights of a network of the recipe's shape."""
    held = [arrays(layer, shape) for layer, shape in with_inputs(recipe.network)]
    return [{name: inputs[f"{name} {shape}"] for name, shape in layer.items()} for layer in held if layer]


def dtype_of(recipe: Recipe) -> type[np.float32] | type[np.float64]:
    """In which a network is compared."""
    return np.float64 if any(isinstance(layer, network.BatchNorm) for layer in recipe.network) else np.float32


def rate_of(recipe: Recipe) -> float:
    """The dropout's; 0 without one."""
    return next((layer.rate for layer in recipe.network if isinstance(layer, network.Dropout)), 0.0)


def numpy_answers(recipe: Recipe, optimizer: str, inputs: Arrays, batches: list[tuple[Any, Labels]]) -> Arrays:
    from scratch.layers import Dropout
    from scratch.network import Network
    from scratch.optimizers import SGD
    from training import numpy_trainer as trainer

    class Shown:
        """An optimizer that moves nothing and keeps the gradients it is shown."""

        learning_rate = 0.0

        def step(self, gradients: Any) -> None:
            self.gradients = gradients.copy()

    model = Network(trainer.build(recipe, np.random.default_rng(1)).layers, dtype=dtype_of(recipe))
    for own, given in zip(trainer.arrays(model), weights_of(inputs, recipe), strict=True):
        for name, array in own.items():
            array[:] = given[name]
    mask = inputs["mask"] / np.float32(1 - rate_of(recipe))
    for layer in model.layers:
        if isinstance(layer, Dropout):
            masked: Any = layer
            masked.draw_mask = lambda outputs: mask[: len(outputs)]
    trainer.set_training(model, True)
    shown = Shown()
    logits, loss = trainer.train_step(model, shown, recipe, *batches[0])
    answers = {"logits": logits.copy(), "loss": np.array(loss), "parameters": np.array(len(model.parameters))}
    answers["gradients"] = shown.gradients
    if optimizer == "sgd":
        moving: Any = SGD(model.parameters, learning_rate=recipe.learning_rate, momentum=MOMENTUM)
    else:
        moving = trainer.make_optimizer(model, recipe, steps=len(batches))
    losses = [trainer.train_step(model, moving, recipe, *batch)[1] for batch in batches]
    return answers | {"losses": np.array(losses), "weights": all_of(trainer.get_weights(model))}


def torch_answers(recipe: Recipe, optimizer: str, inputs: Arrays, batches: list[tuple[Any, Labels]]) -> Arrays:
    import torch
    from torch import nn

    from training import torch_trainer as trainer

    class Masked(nn.Module):
        def forward(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs * torch.tensor(inputs["mask"][: len(outputs)]) / (1 - rate_of(recipe))

    torch.set_num_threads(1)
    model = trainer.with_weights(recipe, weights_of(inputs, recipe))
    if dtype_of(recipe) == np.float64:
        model.double()
    for i, layer in enumerate(model):
        if isinstance(layer, nn.Dropout):
            model[i] = Masked()
    model.train()
    tensors = [(torch.tensor(pixels), torch.tensor(labels, dtype=torch.long)) for pixels, labels in batches]
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    logits, loss = trainer.train_step(model, still, recipe, *tensors[0])
    moved: list[Any] = [module for module in model if list(module.parameters())]
    gradients = [  # torch keeps a Dense layer's weight [out, in]
        (module.weight.grad.numpy().T if isinstance(module, nn.Linear) else module.weight.grad.numpy())
        if parameter is module.weight
        else parameter.grad.numpy()
        for module in moved
        for parameter in module.parameters()
    ]
    answers = {
        "logits": logits.numpy(),
        "loss": loss.numpy(),
        "parameters": np.array(sum(parameter.numel() for parameter in model.parameters())),
        "gradients": flat(gradients),
    }
    if optimizer == "sgd":
        moving: Any = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=MOMENTUM)
    else:
        moving = trainer.make_optimizer(model, recipe, steps=len(batches))
    losses = [trainer.train_step(model, moving, recipe, *batch)[1].item() for batch in tensors]
    return answers | {"losses": np.array(losses), "weights": all_of(trainer.get_weights(model))}


def keras_answers(recipe: Recipe, optimizer: str, inputs: Arrays, batches: list[tuple[Any, Labels]]) -> Arrays:
    from training import keras_trainer as trainer  # isort: skip  # first: it sets Keras's backend
    import keras
    import tensorflow as tf

    class Masked(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, rate: float, seed: int) -> None:
            super().__init__()
            self.rate = rate

        def call(self, outputs: Any, training: bool = False) -> Any:
            return outputs * inputs["mask"][:32] / (1 - self.rate) if training else outputs

    keras.config.set_floatx(dtype_of(recipe).__name__)
    keras.config.set_dtype_policy(dtype_of(recipe).__name__)
    dropout = keras.layers.Dropout
    keras.layers.Dropout = Masked
    try:
        model = trainer.with_weights(recipe, weights_of(inputs, recipe))
    finally:
        keras.layers.Dropout = dropout
    cross_entropy = trainer.loss_of(recipe)
    held = [
        (variable, axes)
        for layer in trainer.arrays(model)
        for name, (variable, axes) in layer.items()
        if name not in ("mean", "variance")
    ]
    variables = [variable.value for variable, _ in held]
    with tf.GradientTape() as tape:
        logits = model(batches[0][0], training=True)
        loss = tf.reduce_mean(cross_entropy(batches[0][1], logits)) + sum(model.losses)
    gradients = tape.gradient(loss, variables)
    answers = {
        "logits": logits.numpy(),
        "loss": loss.numpy(),
        "parameters": np.array(sum(variable.value.numpy().size for variable in model.trainable_variables)),
        "gradients": flat(one.numpy().transpose(axes) for one, (_, axes) in zip(gradients, held, strict=True)),
    }
    trainer.compile_model(model, recipe, steps=len(batches))
    if optimizer == "sgd":
        model.optimizer = keras.optimizers.SGD(recipe.learning_rate, momentum=MOMENTUM)
    losses = []
    for pixels, labels in batches:
        model.reset_metrics()  # the loss that train_on_batch gives is a mean since the last reset
        losses.append(model.train_on_batch(pixels, labels, return_dict=True)["loss"])
    return answers | {"losses": np.array(losses), "weights": all_of(trainer.get_weights(model))}


def flat(held: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One after the other in one row."""
    return np.concatenate([array.ravel() for array in held])


def all_of(weights: Weights) -> npt.NDArray[Any]:
    """Weight, bias, weight, bias, ... in one row, running means and variances too."""
    return flat(array for layer in weights for array in layer.values())


def main() -> None:
    framework, cases_file, inputs_file, answers_file = sys.argv[1:]
    with open(cases_file) as file:
        cases = json.load(file)
    with np.load(inputs_file, allow_pickle=False) as loaded:
        inputs: Arrays = dict(loaded)
    answer = {"numpy": numpy_answers, "torch": torch_answers, "keras": keras_answers}[framework]
    answers: Arrays = {}
    for name, case in cases.items():
        recipe = Recipe.from_data(case["recipe"])
        dtype = dtype_of(recipe)
        pixels = inputs["images"].reshape(-1, 784) * dtype(recipe.pixel_step) + dtype(recipe.pixel_low)
        labels = inputs["labels"].copy()
        if recipe.strangers:
            labels[5::9] = STRANGER
        batches = [(pixels[i : i + 32], labels[i : i + 32]) for i in range(0, len(pixels), 32)]
        for key, value in answer(recipe, case["optimizer"], inputs, batches).items():
            answers[f"{name}/{key}"] = value
    np.savez(answers_file, allow_pickle=False, **answers)


if __name__ == "__main__":
    main()
