"""How long it takes from nothing to a network that reads 99 % of MNIST's test images, imports and all.

    python -m benchmarks.from_nothing [--rounds N]

One epoch, fixed beforehand, of a small network of convolutions, one mathematics in three frameworks, and in torch once more
with Adam written out (`lean_torch`). Each run is a process of its own, timed from its start to its end: Python, the framework's
import, the images, the epoch, and the 10,000 test images read. Rounds: each runs every trainer on one thread and on two, from
a seed of its own, in a new random order.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from digits import mnist
from digits.contract import Framework
from digits.machine import processor
from digits.network import BatchNorm, Conv, Dense, MaxPool, Relu, in_words, parameters
from training.recipes import RECIPES

THREADS: Final = (1, 2)
TRAINERS: Final[dict[str, tuple[Framework, str]]] = {  # their names, and their modules
    "numpy": ("numpy", "training.numpy_trainer"),
    "torch": ("torch", "training.torch_trainer"),
    "torch, lean": ("torch", "benchmarks.lean_torch"),
    "keras": ("keras", "training.keras_trainer"),
}
NORM: Final = BatchNorm(momentum=0.9, epsilon=1e-5)
# Chosen on held-out training images, of nine networks and four learning rates: the least time for 99 %.
RECIPE: Final = dataclasses.replace(
    RECIPES["torch-conv"],
    name="from-nothing",
    network=(
        *(Conv(filters=16, kernel=5, padding=0, bias=False), MaxPool(3), NORM, Relu()),
        *(Conv(filters=32, kernel=3, padding=0, bias=False), NORM, Relu()),
        *(Conv(filters=64, kernel=3, padding=0, bias=False), NORM, Relu(), MaxPool(2)),
        Dense(10),
    ),
    augmentation=(),
    learning_rate=0.02,
    batch_size=64,
    epochs=1,
)
TRAIN: Final = """
import importlib, json, sys, time
began = time.perf_counter()
from digits.card import Score
from runtimes.device import CPU
from training.recipes import Recipe
from training.trainers import Split
recipe = Recipe.from_data(json.loads(sys.argv[1]))
trainer = importlib.import_module(sys.argv[3])
imported = time.perf_counter()
from digits import mnist
split, history = Split(train=mnist.train_images(), held_out=mnist.test_images(), held_out_is="test images"), []
trainer.train(recipe, split, device=CPU, threads=int(sys.argv[2]), on_epoch=history.append)
facts = {"import": imported - began, "epoch": history[0].seconds, "accuracy": history[0].held_out_accuracy}
print(json.dumps(facts))
"""


def run(trainer: str, threads: int, seed: int) -> dict[str, Any]:
    """Seconds in all, of the import and of the epoch; the accuracy on the test images."""
    framework, module = TRAINERS[trainer]
    recipe = dataclasses.replace(RECIPE, framework=framework, seed=seed)
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(recipe.to_data()), str(threads), module],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    facts: dict[str, Any] = json.loads(process.stdout)
    return facts | {"seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each trainer on one thread and on two (default 5)"
    )
    rounds = parser.parse_args().rounds
    mnist.train_images()  # brought here first, where they are not yet
    found: dict[tuple[str, int], list[dict[str, Any]]] = {
        (trainer, threads): [] for threads in THREADS for trainer in TRAINERS
    }
    for seed in track(range(1, rounds + 1), "rounds", transient=True):
        for trainer, threads in random.sample(list(found), len(found)):
            found[trainer, threads].append(run(trainer, threads, seed))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(processor())
    network = f"{in_words(RECIPE.network)}, {parameters(RECIPE.network):,} parameters"
    table = Table(title=f"{network}; one epoch, batches of {RECIPE.batch_size}; {rounds} rounds")
    for column in ("trainer", "threads"):
        table.add_column(column)
    for column in ("s in all", "fastest", "slowest", "import", "epoch", "accuracy, %", "least", "most"):
        table.add_column(column, justify="right")
    for (trainer, threads), runs in found.items():
        seconds = [one["seconds"] for one in runs]
        right = [100 * one["accuracy"] for one in runs]
        table.add_row(
            trainer,
            str(threads),
            *(f"{number:.1f}" for number in (statistics.median(seconds), min(seconds), max(seconds))),
            *(f"{statistics.median(one[part] for one in runs):.1f}" for part in ("import", "epoch")),
            *(f"{number:.2f}" for number in (statistics.fmean(right), min(right), max(right))),
        )
    console.print(table)


if __name__ == "__main__":
    main()
