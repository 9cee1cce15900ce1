"""How long it takes from nothing to a network that reads 99 % of MNIST's test images, imports and all.

    python -m benchmarks.from_nothing [--rounds N]

One epoch, fixed beforehand, of a small network of convolutions, one mathematics in three frameworks. Each run is a process of
its own, timed from its start to its end: Python, the framework's import, the images, the epoch, and the 10,000 test images
read. Rounds: each runs every framework on one thread and on two, from a seed of its own, in a new random order.
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

from benchmarks.training import processor
from digits import mnist
from digits.contract import FRAMEWORKS, Framework
from digits.network import BatchNorm, Conv, Dense, MaxPool, Relu, in_words, parameters
from training.recipes import RECIPES

THREADS: Final = (1, 2)
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
import json, sys, time
began = time.perf_counter()
from digits.card import Score
from runtimes.device import CPU
from training.recipes import Recipe
from training.trainers import Split, load_trainer
recipe = Recipe.from_data(json.loads(sys.argv[1]))
trainer = load_trainer(recipe.framework)
imported = time.perf_counter()
from digits import mnist
split, history = Split(train=mnist.train_images(), held_out=mnist.test_images(), held_out_is="test images"), []
trainer.train(recipe, split, device=CPU, threads=int(sys.argv[2]), on_epoch=history.append)
facts = {"import": imported - began, "epoch": history[0].seconds, "accuracy": history[0].held_out_accuracy}
print(json.dumps(facts))
"""


def run(framework: Framework, threads: int, seed: int) -> dict[str, Any]:
    """Seconds in all, of the import and of the epoch; the accuracy on the test images."""
    recipe = dataclasses.replace(RECIPE, framework=framework, seed=seed)
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(recipe.to_data()), str(threads)],
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
        "--rounds", type=int, default=5, help="runs of each framework on one thread and on two (default 5)"
    )
    rounds = parser.parse_args().rounds
    mnist.train_images()  # brought here first, where they are not yet
    found: dict[tuple[Framework, int], list[dict[str, Any]]] = {
        (framework, threads): [] for threads in THREADS for framework in FRAMEWORKS
    }
    for seed in track(range(1, rounds + 1), "rounds", transient=True):
        for framework, threads in random.sample(list(found), len(found)):
            found[framework, threads].append(run(framework, threads, seed))
    console = Console()
    console.print(processor())
    network = f"{in_words(RECIPE.network)}, {parameters(RECIPE.network):,} parameters"
    table = Table(title=f"{network}; one epoch, batches of {RECIPE.batch_size}; {rounds} rounds")
    for column in ("framework", "threads"):
        table.add_column(column)
    for column in ("s in all", "fastest", "slowest", "import", "epoch", "accuracy, %", "least", "most"):
        table.add_column(column, justify="right")
    for (framework, threads), runs in found.items():
        seconds = [one["seconds"] for one in runs]
        right = [100 * one["accuracy"] for one in runs]
        table.add_row(
            framework,
            str(threads),
            *(f"{number:.1f}" for number in (statistics.median(seconds), min(seconds), max(seconds))),
            *(f"{statistics.median(one[part] for one in runs):.1f}" for part in ("import", "epoch")),
            *(f"{number:.2f}" for number in (statistics.fmean(right), min(right), max(right))),
        )
    console.print(table)


if __name__ == "__main__":
    main()
