"""The benchmark's Adam against torch's own, and what it does not import."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from training.recipes import RECIPES
from training.schedule import steps_of

torch = pytest.importorskip("torch")


def test_adam_written_out_moves_the_parameters_as_torch_optim_does() -> None:
    from benchmarks.lean_torch import Adam
    from training import torch_trainer

    recipe = dataclasses.replace(RECIPES["torch-conv"], epochs=1)
    steps = steps_of(recipe, 20 * recipe.batch_size)
    models = [torch_trainer.build(recipe) for _ in range(2)]
    for model in models:
        torch_trainer.initialise(model, recipe, torch.Generator().manual_seed(1))
    theirs = torch_trainer.make_optimizer(models[1], recipe, steps=steps)
    optimizers: list[Any] = [Adam(models[0], recipe, steps=steps), theirs]
    random = torch.Generator().manual_seed(2)
    for _ in range(steps):
        gradients = [torch.empty_like(one).normal_(generator=random) for one in models[0].parameters()]
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_lean_training_does_not_import_torchs_compiler() -> None:
    program = """
import dataclasses, sys
import numpy as np
from benchmarks import lean_torch
from digits.mnist import LabelledImages
from runtimes.device import CPU
from training.recipes import RECIPES
from training.trainers import Split
images = LabelledImages(images=np.zeros((64, 28, 28), np.uint8), labels=np.zeros(64, np.uint8))
recipe = dataclasses.replace(RECIPES["torch-conv"], augmentation=(), epochs=2, batch_size=32)
split, history = Split(train=images, held_out=images, held_out_is="the same"), []
lean_torch.train(recipe, split, device=CPU, on_epoch=history.append)
print(len(history), history[-1].held_out_accuracy, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "1.0", "False"]
