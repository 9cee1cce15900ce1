"""torch's fast path: the forward and the backward pass through torch.compile."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # else what is paid once was paid by an earlier run

import torch
from torch import nn

from digits.mnist import LabelledImages
from training import torch_trainer
from training.recipes import Recipe


def compiled(recipe: Recipe, data: LabelledImages) -> tuple[nn.Sequential, Callable[[], object]]:
    """The model, and what trains it for an epoch."""
    pixels = torch_trainer.scaled(recipe, data.images)
    labels = torch.tensor(data.labels, dtype=torch.long)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = torch_trainer.build(recipe)
    torch_trainer.initialise(model, recipe, generator)
    optimizer = torch_trainer.make_optimizer(model, recipe, steps=0)

    @torch.compile
    def loss_of(batch: torch.Tensor, batch_labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch), batch_labels)

    def epoch() -> None:
        for batch in torch.split(torch.randperm(len(pixels), generator=generator), recipe.batch_size):
            optimizer.zero_grad()
            loss_of(pixels[batch], labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return model, epoch
