"""How long a step of training takes: scratch against torch and scikit-learn, side by side.

    python -m benchmarks.training [--rounds N]

Dense: 784-128-10 with relu and with sigmoid, Adam, batches of 32. Convolutions: the network of the conv recipes, Adam, batches
of 128, nothing drawn. Each round times every trainer, in a new random order, so that what else the machine does hits all
alike: an epoch of the 60,000 training images, or for the convolutions of the first 12,800. scratch and torch run the very
loops of their trainers. torch's Adam is the fused one. Where a processor is slow with subnormal numbers, so is torch, unless it
is told to flush them to 0: both are shown. scikit-learn's epoch is a `fit` of one iteration that goes on from the last
(`warm_start`). All have one thread, the convolutions then two: torch's own, and in scratch a replica for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from digits import mnist
from digits.machine import processor
from digits.network import Dense, Relu, in_words
from training import numpy_trainer, torch_trainer
from training.recipes import Recipe, find_recipe

Epoch = Callable[[], object]

IMAGES: Final = 60_000
CONV_IMAGES: Final = 12_800


def scratch_epoch(recipe: Recipe, images: int, *, threads: int = 1) -> Epoch:
    data = mnist.train_images()
    pixels, labels = numpy_trainer.scaled(recipe, data.images[:images]), data.labels[:images]
    generator = np.random.default_rng(recipe.seed)
    model = numpy_trainer.build(recipe, generator)
    numpy_trainer.initialise(model, recipe, generator)
    optimizer = numpy_trainer.make_optimizer(model, recipe, steps=0)
    replicas = numpy_trainer.on_threads(model, recipe, threads)
    return lambda: numpy_trainer.train_epoch(replicas, optimizer, recipe, pixels, labels, generator)


def torch_epoch(recipe: Recipe, images: int, *, flush: bool) -> Epoch:
    data = mnist.train_images()
    pixels = torch_trainer.scaled(recipe, data.images[:images])
    labels = torch.tensor(data.labels[:images], dtype=torch.long)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = torch_trainer.build(recipe)
    torch_trainer.initialise(model, recipe, generator)
    optimizer = torch_trainer.make_optimizer(model, recipe, steps=0)

    def epoch() -> None:
        torch.set_flush_denormal(flush)
        torch_trainer.train_epoch(model, optimizer, recipe, pixels, labels, generator)
        torch.set_flush_denormal(False)  # it holds for NumPy too

    return epoch


def sklearn_epoch(recipe: Recipe) -> Epoch:
    images = mnist.train_images()
    pixels = numpy_trainer.scaled(recipe, images.images)
    model = MLPClassifier(
        hidden_layer_sizes=[layer.units for layer in recipe.network if isinstance(layer, Dense)][:-1],
        activation="relu" if Relu() in recipe.network else "logistic",
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
        for name in ("numpy-relu", "numpy-sigmoid"):
            recipe = find_recipe(name)
            epochs = {
                "scratch": scratch_epoch(recipe, IMAGES),
                "torch": torch_epoch(recipe, IMAGES, flush=False),
                "torch, subnormals flushed": torch_epoch(recipe, IMAGES, flush=True),
                "scikit-learn": sklearn_epoch(recipe),
            }
            title = f"{in_words(recipe.network)}, batches of {recipe.batch_size}, one thread"
            compare(title, epochs, steps=IMAGES // recipe.batch_size, rounds=rounds, console=console)
        recipe = dataclasses.replace(find_recipe("numpy-conv"), schedule="constant")
        for threads, said in [(1, "one thread"), (2, "two threads")]:
            torch.set_num_threads(threads)
            epochs = {
                "scratch": scratch_epoch(recipe, CONV_IMAGES, threads=threads),
                "torch, subnormals flushed": torch_epoch(recipe, CONV_IMAGES, flush=True),
            }
            title = f"{in_words(recipe.network)}, batches of {recipe.batch_size}, {said}"
            compare(title, epochs, steps=CONV_IMAGES // recipe.batch_size, rounds=rounds, console=console)


if __name__ == "__main__":
    main()
