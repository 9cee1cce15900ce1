"""torch for a short training: Adam written out, since making one of torch.optim's imports torch's compiler, two seconds."""

from __future__ import annotations

import time
from typing import cast

import torch
from torch import nn

from digits.card import Epoch
from runtimes.device import Device
from training import torch_trainer
from training.recipes import Recipe
from training.schedule import learning_rates, steps_of
from training.trainers import OnEpoch, Split


class Adam:
    """Kingma and Ba 2015, as torch.optim.Adam has it."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, steps: int) -> None:
        self._parameters = list(model.parameters())
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._rates = learning_rates(recipe, steps).tolist()
        self._betas, self._epsilon = (recipe.beta_1, recipe.beta_2), recipe.epsilon
        self._step = 0

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        rate = self._rates[self._step]
        self._step += 1
        first, second = self._betas
        rate, unbiased = rate / (1 - first**self._step), 1 - second**self._step
        for parameter, mean, square in zip(self._parameters, self._means, self._squares, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            parameter.addcdiv_(mean, (square / unbiased).sqrt_().add_(self._epsilon), value=-rate)


def train(recipe: Recipe, split: Split, *, device: Device, threads: int = 1, on_epoch: OnEpoch) -> nn.Sequential:
    """As torch_trainer's, of a recipe with Adam and without augmentation."""
    generator = torch.Generator().manual_seed(recipe.seed)
    model = torch_trainer.build(recipe)
    torch_trainer.initialise(model, recipe, generator)
    model.to(str(device))
    adam = Adam(model, recipe, steps=steps_of(recipe, len(split.train.labels)))
    optimizer = cast(torch.optim.Optimizer, adam)  # of which no more than its two methods is asked
    pixels = torch_trainer.scaled(recipe, split.train.images).to(str(device))
    labels = torch.tensor(split.train.labels, dtype=torch.long, device=str(device))
    with torch_trainer.reproducibly(threads):
        for _ in range(recipe.epochs):
            started = time.perf_counter()
            loss, correct = torch_trainer.train_epoch(model, optimizer, recipe, pixels, labels, generator)
            seconds = time.perf_counter() - started
            right = torch_trainer.accuracy(model, recipe, split.held_out.images, split.held_out.labels)
            on_epoch(Epoch(loss=loss, accuracy=correct / len(labels), held_out_accuracy=right, seconds=seconds))
    return model.cpu()
