"""How long a step of training takes: scratch against torch and scikit-learn, side by side.

    python -m benchmarks.training [--rounds N]

Dense: 784-128-10 with relu and with sigmoid, Adam, batches of 32. Convolutions: 24 of 5x5, pool, 48 of 3x3, 48 of 3x3, pool,
96 of 3x3, each followed by batch normalisation and relu, then 10; Adam, batches of 128. Each round times every trainer, in a
new random order, so that what else the machine does hits all alike: an epoch of the 60,000 training images, or for the
convolutions of the first 12,800. scratch and torch run the very loops of their trainers. torch's Adam is the fused one, its
convolutions are in the layout that is fastest for it (channels_last). Where a processor is slow with subnormal numbers, so is
torch, unless it is told to flush them to 0: both are shown. scikit-learn's epoch is a `fit` of one iteration that goes on from
the last (`warm_start`). All have one thread, the convolutions then two: torch's own, and in scratch a replica for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import nn

from digits import mnist
from scratch.images import Conv, Flatten, MaxPool, ToImages
from scratch.layers import BatchNorm, Dense, Relu
from scratch.network import Network
from scratch.replicas import Replicas
from training import numpy_trainer, torch_trainer
from training.recipes import Recipe, find_recipe

Epoch = Callable[[], object]

CONV_IMAGES: Final = 12_800


def scratch_epoch(recipe: Recipe) -> Epoch:
    images = mnist.train_images()
    pixels = numpy_trainer.scaled(recipe, images.images)
    generator = np.random.default_rng(recipe.seed)
    model = numpy_trainer.build(recipe, generator)
    numpy_trainer.initialise(model, recipe, generator)
    optimizer = numpy_trainer.make_optimizer(model, recipe)
    return lambda: numpy_trainer.train_epoch(model, optimizer, recipe, pixels, images.labels, generator)


def scratch_conv(generator: np.random.Generator) -> Network:
    model = Network(
        [
            *(ToImages(1, 28, 28), Conv(1, 24, 5, 28, 28, 2, False), MaxPool(2), BatchNorm(24, 0.9, 1e-5), Relu()),
            *(Conv(24, 48, 3, 14, 14, 0, False), BatchNorm(48, 0.9, 1e-5), Relu()),
            *(Conv(48, 48, 3, 12, 12, 0, False), MaxPool(2), BatchNorm(48, 0.9, 1e-5), Relu()),
            *(Conv(48, 96, 3, 5, 5, 0, False), BatchNorm(96, 0.9, 1e-5), Relu()),
            *(Flatten(), Dense(96 * 3 * 3, 10)),
        ]
    )
    for layer in model.layers:
        if isinstance(layer, Conv | Dense):
            fan_in = layer.weight[0].size if isinstance(layer, Conv) else layer.fan_in
            layer.weight[:] = generator.uniform(-(fan_in**-0.5), fan_in**-0.5, layer.weight.shape)
    return model


def scratch_conv_epoch(recipe: Recipe, *, threads: int) -> Epoch:
    images = mnist.train_images()
    pixels = numpy_trainer.scaled(recipe, images.images[:CONV_IMAGES])
    generator = np.random.default_rng(recipe.seed)
    networks = [scratch_conv(generator) for _ in range(threads)]
    model = Replicas(networks) if threads > 1 else networks[0]
    optimizer = numpy_trainer.make_optimizer(model, recipe)
    labels = images.labels[:CONV_IMAGES]
    return lambda: numpy_trainer.train_epoch(model, optimizer, recipe, pixels, labels, generator)


def torch_epoch(recipe: Recipe, *, flush: bool) -> Epoch:
    model = torch_trainer.build(recipe)
    torch_trainer.initialise(model, recipe, torch.Generator().manual_seed(recipe.seed))
    return torch_epoch_of(model, recipe, 60_000, flush=flush)


def torch_conv_epoch(recipe: Recipe) -> Epoch:
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 24, 5, padding=2, bias=False), nn.MaxPool2d(2)),
        *(nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.Conv2d(48, 48, 3, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.Conv2d(48, 96, 3, bias=False), nn.BatchNorm2d(96), nn.ReLU(), nn.Flatten(), nn.Linear(96 * 3 * 3, 10)),
    )
    return torch_epoch_of(model.to(memory_format=torch.channels_last), recipe, CONV_IMAGES, flush=True)


def torch_epoch_of(model: nn.Sequential, recipe: Recipe, number: int, *, flush: bool) -> Epoch:
    images = mnist.train_images()
    pixels = torch_trainer.scaled(recipe, images.images[:number])
    labels = torch.tensor(images.labels[:number], dtype=torch.long)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch_trainer.make_optimizer(model, recipe)

    def epoch() -> None:
        torch.set_flush_denormal(flush)
        torch_trainer.train_epoch(model, optimizer, recipe, pixels, labels, generator)
        torch.set_flush_denormal(False)  # it holds for NumPy too

    return epoch


def sklearn_epoch(recipe: Recipe) -> Epoch:
    images = mnist.train_images()
    pixels = numpy_trainer.scaled(recipe, images.images)
    model = MLPClassifier(
        hidden_layer_sizes=recipe.hidden,
        activation={"sigmoid": "logistic", "relu": "relu"}[recipe.activation],
        solver="adam",
        alpha=0,
        batch_size=recipe.batch_size,
        learning_rate_init=recipe.learning_rate,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
        shuffle=True,
        max_iter=1,
        warm_start=True,
        random_state=recipe.seed,
    )

    def epoch() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one epoch is not convergence, says scikit-learn at each
            model.fit(pixels, images.labels)

    return epoch


def processor() -> str:
    """Its name, and whether it has AVX-512, on which much depends."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = said.get("model name") or platform.processor() or platform.machine()
    avx512 = "avx512f" in said["flags"].split() if "flags" in said else None
    return name + {True: ", with AVX-512", False: ", without AVX-512", None: ""}[avx512]


def compare(title: str, epochs: dict[str, Epoch], *, steps: int, rounds: int, console: Console) -> None:
    for epoch in epochs.values():
        epoch()  # warm-up
    milliseconds: dict[str, list[float]] = {name: [] for name in epochs}  # per step
    for _ in track(range(rounds), title, transient=True):
        for name in random.sample(list(epochs), len(epochs)):
            started = time.perf_counter()
            epochs[name]()
            milliseconds[name].append((time.perf_counter() - started) / steps * 1e3)
    table = Table(title=f"{title}, {rounds} rounds")
    table.add_column("trainer")  # medians, and the ratio round by round
    for column in ("ms per step", "fastest", "slowest", "of scratch's", "least", "most"):
        table.add_column(column, justify="right")
    for name, times in milliseconds.items():
        ratios = [t / s for t, s in zip(times, milliseconds["scratch"], strict=True)]
        numbers = [statistics.median(times), min(times), max(times)]
        shown = [statistics.median(ratios), min(ratios), max(ratios)]
        table.add_row(name, *(f"{number:.3g}" for number in numbers), *(f"{ratio:.2f}x" for ratio in shown))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each trainer (default 7)")
    rounds = parser.parse_args().rounds
    console = Console()
    console.print(processor())
    with threadpool_limits(1, user_api="blas"):
        torch.set_num_threads(1)
        for activation in ("relu", "sigmoid"):
            recipe = find_recipe("numpy-sigmoid" if activation == "sigmoid" else "torch-relu")
            epochs = {
                "scratch": scratch_epoch(recipe),
                "torch": torch_epoch(recipe, flush=False),
                "torch, subnormals flushed": torch_epoch(recipe, flush=True),
                "scikit-learn": sklearn_epoch(recipe),
            }
            title = f"784-128 {activation}-10, batches of {recipe.batch_size}, one thread"
            compare(title, epochs, steps=60_000 // recipe.batch_size, rounds=rounds, console=console)
        recipe = dataclasses.replace(find_recipe("torch-relu"), learning_rate=0.01, batch_size=128)
        for threads, said in [(1, "one thread"), (2, "two threads")]:
            torch.set_num_threads(threads)
            epochs = {
                "scratch": scratch_conv_epoch(recipe, threads=threads),
                "torch, subnormals flushed": torch_conv_epoch(recipe),
            }
            title = f"conv, batches of {recipe.batch_size}, {said}"
            compare(title, epochs, steps=CONV_IMAGES // recipe.batch_size, rounds=rounds, console=console)


if __name__ == "__main__":
    main()
