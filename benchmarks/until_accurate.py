"""Trains until held-out images are read well enough, and says so: the process that benchmarks.time_to_accuracy times.

python -m benchmarks.until_accurate FRAMEWORK TRACK SEED
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Final

from digits import mnist
from digits.card import Epoch
from digits.contract import FRAMEWORKS, Framework, Images, Labels
from digits.mnist import LabelledImages
from runtimes.device import CPU
from training.recipes import RECIPES, Recipe
from training.trainers import Split, load_trainer

TARGET: Final = 0.97
HELD_OUT: Final = 5000  # of the training images, the last
MOST_EPOCHS: Final = 20


def main() -> None:
    name, track, seed = sys.argv[1:]
    framework: Framework = next(one for one in FRAMEWORKS if one == name)
    recipe = dataclasses.replace(RECIPES["torch-relu"], framework=framework, seed=int(seed), epochs=MOST_EPOCHS)
    if framework == "keras":
        recipe = dataclasses.replace(recipe, keras_api="sequential")
    every = mnist.train_images()
    train = LabelledImages(images=every.images[:-HELD_OUT], labels=every.labels[:-HELD_OUT])
    held_out = LabelledImages(images=every.images[-HELD_OUT:], labels=every.labels[-HELD_OUT:])
    done = 0

    def tell(accuracy: float) -> None:
        nonlocal done
        done += 1
        if accuracy >= TARGET or done == MOST_EPOCHS:
            print(json.dumps({"epochs": done, "accuracy": accuracy}), flush=True)
            os._exit(0)  # how long a framework takes to end is not asked

    if track == "readable":
        split = Split(train=train, held_out=held_out, held_out_is=f"last {HELD_OUT:,} training images")

        def on_epoch(epoch: Epoch) -> None:
            tell(epoch.held_out_accuracy)

        load_trainer(recipe.framework).train(recipe, split, device=CPU, threads=1, on_epoch=on_epoch)
    else:
        epoch, accuracy = fast(recipe, train)
        while True:
            epoch()
            tell(accuracy(held_out.images, held_out.labels))


def fast(recipe: Recipe, train: LabelledImages) -> tuple[Callable[[], object], Callable[[Images, Labels], float]]:
    """What trains for an epoch on the framework's fast path, and what says how much is read."""
    if recipe.framework == "torch":
        import torch

        from benchmarks.fast_torch import compiled
        from training import torch_trainer

        torch.set_num_threads(1)
        model, epoch = compiled(recipe, train)
        return epoch, lambda images, labels: torch_trainer.accuracy(model, recipe, images, labels)
    from benchmarks.fast_keras import FAST, fitted

    network, fit = fitted(recipe, train, **FAST)

    def accuracy(images: Images, labels: Labels) -> float:
        from training import keras_trainer

        return float((keras_trainer.predict(network, recipe, images).argmax(axis=1) == labels).mean())

    return fit, accuracy


if __name__ == "__main__":
    main()
