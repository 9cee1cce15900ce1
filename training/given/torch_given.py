"""A given training in torch: the trainer's own steps, with the draws handed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from digits.contract import Images, Labels
from training import torch_trainer as trainer
from training.given.draws import Array, Training, epochs, masks, orders, starting_weights
from training.schedule import steps_of
from training.trainers import BLOCK


class GivenDropout(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.mask = torch.empty(0)  # of the batch, [B, units]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.mask.to(inputs) / (1 - self.rate) if self.training else inputs


def train(training: Training, images: Images, labels: Labels) -> Iterator[nn.Sequential]:
    """The model after each epoch, one and the same, trained on images `[N, 28, 28]` and labels `[N]`."""
    recipe = training.recipe
    model = trainer.build(recipe).to(getattr(torch, training.precision))
    with torch.no_grad():
        for own, given in zip(trainer.arrays(model), starting_weights(training), strict=True):
            for name, array in own.items():
                array.copy_(torch.from_numpy(given[name]))
    for i, module in enumerate(model):
        if isinstance(module, nn.Dropout):
            model[i] = GivenDropout(module.p)
    optimizer = trainer.make_optimizer(model, recipe, steps=steps_of(recipe, len(labels)))
    if training.l2_means == "decay":
        for group in optimizer.param_groups:
            group["weight_decay"] = recipe.l2
        recipe = replace(recipe, l2=0.0)
    drops = [module for module in model if isinstance(module, GivenDropout)]
    answers = torch.from_numpy(labels.astype(np.int64))
    with trainer.reproducibly(threads=1):
        seen = zip(orders(training, len(labels)), epochs(training, images), strict=True)
        for epoch, (order, pixels) in enumerate(seen):
            every = torch.from_numpy(pixels)
            kept = [torch.from_numpy(mask) for mask in masks(training, epoch, len(labels))]
            model.train()
            for start in range(0, len(labels), recipe.batch_size):
                batch = torch.from_numpy(order[start : start + recipe.batch_size])
                for drop, mask in zip(drops, kept, strict=True):
                    drop.mask = mask[start : start + recipe.batch_size]
                trainer.train_step(model, optimizer, recipe, every[batch], answers[batch])
            model.eval()
            yield model


@torch.inference_mode()
def digits_of(model: nn.Sequential, pixels: Array) -> Array:
    """The most probable digit of each image, uint8 `[N]`, of pixels `[N, 784]`."""
    blocks = torch.split(torch.from_numpy(pixels), BLOCK)
    return np.concatenate([model(block).argmax(dim=1).numpy() for block in blocks]).astype(np.uint8)
