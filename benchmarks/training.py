"""How long an epoch of training takes: scratch against torch and scikit-learn, side by side.

    python -m benchmarks.training [--rounds N]

The same recipe (784-128-10, Adam, batches of 32) on the 60,000 training images, one thread each, in rounds: each round
times one epoch of every trainer, in a new random order, so that what else the machine does hits all alike. scratch and
torch run the very loops of their trainers; torch's Adam is the fused one. scikit-learn's epoch is a `fit` of one iteration
that goes on from the last (`warm_start`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from digits import mnist
from digits.network import Dense, Relu
from training import numpy_trainer, torch_trainer
from training.recipes import Recipe, find_recipe


def scratch_epoch(recipe: Recipe) -> Callable[[], object]:
    images = mnist.train_images()
    pixels = numpy_trainer.scaled(recipe, images.images)
    generator = np.random.default_rng(recipe.seed)
    model = numpy_trainer.build(recipe, generator)
    numpy_trainer.initialise(model, recipe, generator)
    optimizer = numpy_trainer.make_optimizer(model, recipe, steps=0)
    return lambda: numpy_trainer.train_epoch(model, optimizer, recipe, pixels, images.labels, generator)


def torch_epoch(recipe: Recipe) -> Callable[[], object]:
    images = mnist.train_images()
    pixels = torch_trainer.scaled(recipe, images.images)
    labels = torch.tensor(images.labels, dtype=torch.long)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = torch_trainer.build(recipe)
    torch_trainer.initialise(model, recipe, generator)
    optimizer = torch_trainer.make_optimizer(model, recipe, steps=0)
    torch.set_num_threads(1)
    return lambda: torch_trainer.train_epoch(model, optimizer, recipe, pixels, labels, generator)


def sklearn_epoch(recipe: Recipe) -> Callable[[], object]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each trainer (default 7)")
    rounds = parser.parse_args().rounds
    console = Console()
    for activation in ("sigmoid", "relu"):
        recipe = find_recipe("numpy-sigmoid" if activation == "sigmoid" else "torch-relu")
        with threadpool_limits(1):
            epochs = {
                "scratch": scratch_epoch(recipe),
                "torch, fused Adam": torch_epoch(recipe),
                "scikit-learn": sklearn_epoch(recipe),
            }
            for epoch in epochs.values():
                epoch()  # warm-up
            seconds: dict[str, list[float]] = {name: [] for name in epochs}
            for _ in track(range(rounds), f"784-128 {activation}-10", transient=True):
                for name in random.sample(list(epochs), len(epochs)):
                    started = time.perf_counter()
                    epochs[name]()
                    seconds[name].append(time.perf_counter() - started)
        table = Table(title=f"784-128 {activation}-10, Adam, batch 32, one thread, {rounds} rounds")
        table.add_column("trainer")
        for column in ("s per epoch, median", "fastest", "slowest", "against scratch, median of rounds"):
            table.add_column(column, justify="right")
        for name, times in seconds.items():
            ratio = statistics.median(t / s for t, s in zip(times, seconds["scratch"], strict=True))
            table.add_row(
                name, f"{statistics.median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}", f"{ratio:.2f}x"
            )
        console.print(table)


if __name__ == "__main__":
    main()
