"""The torch trainer: an explicit loop over batches."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA has no deterministic matrix product

import numpy as np
import torch
from torch import nn
from torch.utils import deterministic

from digits import network
from digits.card import Epoch
from digits.contract import PIXELS, SIDE, Images, Labels, Probabilities
from digits.network import INPUT, with_inputs
from runtimes.device import Device
from training.augmentation import augment
from training.onnx_file import write_onnx
from training.recipes import Recipe
from training.schedule import steps_of
from training.targets import TARGETS
from training.trainers import BLOCK, OnEpoch, Split, Weights


def build(recipe: Recipe) -> nn.Sequential:
    modules: list[nn.Module] = []
    if not isinstance(recipe.network[0], network.Dense):
        modules.append(nn.Unflatten(1, INPUT))  # [N, 784] -> [N, 1, 28, 28]
    for layer, shape in with_inputs(recipe.network):
        match layer:
            case network.Dense(units=units):
                if modules and len(shape) == 3:
                    modules.append(nn.Flatten())
                modules.append(nn.Linear(math.prod(shape), units))
            case network.Conv(filters=filters, kernel=kernel, padding=padding, bias=bias):
                modules.append(nn.Conv2d(shape[0], filters, kernel, padding=padding, bias=bias))
            case network.MaxPool(size=size):
                modules.append(nn.MaxPool2d(size))
            case network.BatchNorm(momentum=momentum, epsilon=epsilon):  # torch's momentum is the share of the batch
                kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
                modules.append(kind(shape[0], eps=epsilon, momentum=1 - momentum))
            case network.Dropout(rate=rate):
                modules.append(nn.Dropout(rate))
            case network.Relu():
                modules.append(nn.ReLU())
            case network.Sigmoid():
                modules.append(nn.Sigmoid())
    return nn.Sequential(*modules).to(memory_format=torch.channels_last)  # which convolves faster on a CPU


def initialise(model: nn.Sequential, recipe: Recipe, generator: torch.Generator) -> None:
    for module in weighted(model):
        fan_in = module.weight[0].numel()
        if recipe.weight_draw == "glorot_uniform":
            nn.init.xavier_uniform_(module.weight, generator=generator)
        elif recipe.weight_draw == "he_uniform":
            nn.init.kaiming_uniform_(module.weight, generator=generator)
        else:
            nn.init.uniform_(module.weight, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        if module.bias is None:
            continue
        if recipe.bias_draw == "zeros":
            nn.init.zeros_(module.bias)
        else:
            nn.init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)


def make_optimizer(model: nn.Sequential, recipe: Recipe, *, steps: int) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(
            model.parameters(), lr=recipe.learning_rate, alpha=recipe.beta_2, eps=recipe.epsilon
        )
    else:
        optimizer = torch.optim.Adam(
            model.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.beta_1, recipe.beta_2),
            eps=recipe.epsilon,
            fused=True,  # one kernel for the whole update, on the CPU too
        )
    if recipe.schedule == "one_cycle":
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.learning_rate, total_steps=steps, cycle_momentum=False
        )
        optimizer.register_step_post_hook(lambda *_: cycle.step())
    return optimizer


def train(recipe: Recipe, split: Split, *, device: Device, threads: int = 1, on_epoch: OnEpoch) -> nn.Sequential:
    torch.manual_seed(recipe.seed)  # dropout takes no generator
    generator = torch.Generator().manual_seed(recipe.seed)
    model = build(recipe)
    initialise(model, recipe, generator)
    model.to(str(device))
    optimizer = make_optimizer(model, recipe, steps=steps_of(recipe, len(split.train.labels)))
    pixels = scaled(recipe, split.train.images).to(str(device))  # [60000, 784]
    labels = torch.tensor(split.train.labels, dtype=torch.long, device=str(device))  # [60000]

    with reproducibly(threads):
        for epoch in range(recipe.epochs):
            started = time.perf_counter()
            if recipe.augmentation:
                images = augment(recipe.augmentation, split.train.images, seed=recipe.seed, epoch=epoch)
                pixels = scaled(recipe, images).to(str(device))
            loss, correct = train_epoch(model, optimizer, recipe, pixels, labels, generator)
            seconds = time.perf_counter() - started
            on_epoch(
                Epoch(
                    loss=loss,
                    accuracy=correct / len(labels),
                    held_out_accuracy=accuracy(model, recipe, split.held_out.images, split.held_out.labels),
                    seconds=seconds,
                )
            )
    return model.cpu()


def train_epoch(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
) -> tuple[float, int]:
    """One pass in a new random order: the mean loss, and how many answers were right on the way."""
    total_loss = torch.zeros((), device=pixels.device)  # summed where the model is: reading a number waits for the GPU
    correct = torch.zeros((), dtype=torch.long, device=pixels.device)
    order = torch.randperm(len(pixels), generator=generator).to(pixels.device)
    model.train()
    for batch in torch.split(order, recipe.batch_size):
        batch_labels = labels[batch]
        logits, loss = train_step(model, optimizer, recipe, pixels[batch], batch_labels)
        total_loss += loss * len(batch)
        correct += (logits.argmax(dim=1) == batch_labels).sum()
    model.eval()
    return total_loss.item() / len(pixels), int(correct.item())


def train_step(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, recipe: Recipe, pixels: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the weights once; the logits `[B, 10]` and the loss are those before."""
    logits = model(pixels)
    loss = nn.functional.cross_entropy(logits, torch.tensor(TARGETS).to(logits)[labels] if recipe.strangers else labels)
    if recipe.l2:  # not weight_decay, which would add l2 * weight to the gradients, and to those of the biases too
        for module in weighted(model)[:-1]:
            loss = loss + recipe.l2 * module.weight.square().sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    optimizer.step()
    return logits.detach(), loss.detach()


def accuracy(model: nn.Sequential, recipe: Recipe, images: Images, labels: Labels) -> float:
    return float((predict(model, recipe, images).argmax(axis=1) == labels).mean())


@torch.inference_mode()
def predict(model: nn.Sequential, recipe: Recipe, images: Images) -> Probabilities:
    device = next(model.parameters()).device
    blocks = (scaled(recipe, images[start : start + BLOCK]) for start in range(0, len(images), BLOCK))
    return np.concatenate([model(block.to(device)).softmax(dim=1).cpu().numpy() for block in blocks])


def scaled(recipe: Recipe, images: Images) -> torch.Tensor:
    return torch.tensor(images).reshape(-1, PIXELS).float() * recipe.pixel_step + recipe.pixel_low  # [N, 784]


def weighted(model: nn.Sequential) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in model if isinstance(module, nn.Linear | nn.Conv2d)]


def sees_gpu(index: int) -> bool:
    return index < torch.cuda.device_count()


def arrays(model: nn.Sequential) -> list[dict[str, torch.Tensor]]:
    """What each layer holds, as `digits.network.arrays` has it; views of the model's own."""
    found: list[dict[str, torch.Tensor | None]] = []
    for module in model:
        match module:
            case nn.Linear(weight=weight, bias=bias):
                found.append({"weight": weight.T, "bias": bias})  # torch keeps [out, in]
            case nn.Conv2d(weight=weight, bias=bias):
                found.append({"weight": weight, "bias": bias})
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                running = {"mean": module.running_mean, "variance": module.running_var}
                found.append({"scale": module.weight, "shift": module.bias, **running})
    return [{name: array.detach() for name, array in one.items() if array is not None} for one in found]


def get_weights(model: nn.Sequential) -> Weights:
    return [{name: array.numpy().copy() for name, array in layer.items()} for layer in arrays(model)]


def with_weights(recipe: Recipe, weights: Weights) -> nn.Sequential:
    model = build(recipe)
    for layer, given in zip(arrays(model), weights, strict=True):
        for name, array in layer.items():
            array.copy_(torch.tensor(given[name]))
    return model.eval()


class Served(nn.Module):
    """The whole contract: images in, probabilities out."""

    def __init__(self, model: nn.Sequential, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.step = recipe.pixel_step
        self.low = recipe.pixel_low

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(start_dim=1).float() * self.step + self.low  # [N, 784]
        return torch.softmax(self.model(pixels), dim=1)


EXAMPLE = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)  # two images: torch.export takes a size of 1 for a constant
ANY_NUMBER = {"images": {0: torch.export.Dim("N", min=1)}}


def export_native(model: nn.Sequential, recipe: Recipe, path: Path) -> None:
    program = torch.export.export(Served(model, recipe).eval(), (EXAMPLE,), dynamic_shapes=ANY_NUMBER)
    program.example_inputs = None  # the one part of the file that would be a pickle
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the source lines of the machine that exported
    with warnings.catch_warnings():  # about weights in channels_last, in which the runtime takes half the time
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, path)


def export_onnx(model: nn.Sequential, recipe: Recipe, path: Path) -> None:
    # The exporter warns about torchvision's operators, which no model here uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    exported = torch.onnx.export(
        Served(model, recipe).eval(),
        (EXAMPLE,),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=ANY_NUMBER,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    write_onnx(exported.model_proto, path)


@contextlib.contextmanager
def reproducibly(threads: int) -> Iterator[None]:
    """This number of threads, and only algorithms that add in a fixed order.

    By `set_deterministic_debug_mode`, since `use_deterministic_algorithms` imports torch's compiler, two seconds. New memory is
    not filled, as it is by default then: nothing here reads it before it is written.
    """
    memory: Any = deterministic  # whose one attribute torch types nowhere
    before, filled = torch.get_num_threads(), memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.set_deterministic_debug_mode("default")
        torch.set_num_threads(before)
