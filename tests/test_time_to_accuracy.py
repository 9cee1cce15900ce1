"""How long it takes from nothing to an accuracy: what counts as there, and what is said of many seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from conftest import require

from benchmarks.time_to_accuracy import FORMS, run, summary
from benchmarks.until_accurate import HELD_OUT, MOST_EPOCHS, TARGET
from digits import mnist
from digits.mnist import LabelledImages
from runtimes.device import CPU
from training import numpy_trainer
from training.recipes import RECIPES
from training.trainers import Split


def test_it_ends_with_the_first_epoch_after_which_enough_of_the_last_training_images_are_right() -> None:
    """As a training through all epochs has it, on the other images alone."""
    every = mnist.train_images()
    split = Split(
        train=LabelledImages(images=every.images[:-HELD_OUT], labels=every.labels[:-HELD_OUT]),
        held_out=LabelledImages(images=every.images[-HELD_OUT:], labels=every.labels[-HELD_OUT:]),
        held_out_is="",
    )
    found = run("numpy", "readable", 3)
    recipe = dataclasses.replace(RECIPES["torch-relu"], framework="numpy", seed=3, epochs=found["epochs"])
    history: list[float] = []
    numpy_trainer.train(
        recipe, split, device=CPU, threads=1, on_epoch=lambda epoch: history.append(epoch.held_out_accuracy)
    )
    assert max(history[:-1], default=0) < TARGET <= history[-1]
    assert found["accuracy"] == history[-1]
    assert (found["framework"], found["track"], found["seed"]) == ("numpy", "readable", 3)
    assert found["seconds"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_fast_paths_get_there_too(framework: str) -> None:
    require("torch" if framework == "torch" else "tensorflow")
    found = run(framework, "best effort", 1)
    assert found["accuracy"] >= TARGET
    assert 1 <= found["epochs"] < MOST_EPOCHS


def test_what_ends_early_is_told() -> None:
    with pytest.raises(SystemExit, match=r"^Error: none, readable, seed 1 ended before it was right often enough\.$"):
        run("none", "readable", 1)


def test_of_many_seeds_medians_are_said_with_the_interval_of_that_of_the_seconds() -> None:
    def one(framework: str, track: str, seconds: float, epochs: int, accuracy: float) -> dict[str, Any]:
        return {
            "framework": framework, "track": track, "seconds": seconds, "epochs": epochs, "accuracy": accuracy, "seed": 1,
        }  # fmt: skip

    numpys = [one("numpy", "readable", second, epochs=3 + second % 2, accuracy=0.971) for second in range(9, 0, -1)]
    numpys.append(one("numpy", "readable", 99.0, epochs=20, accuracy=0.9699))
    others = [one(framework, track, 5.0, 4, 0.97) for framework, track in FORMS[1:]]
    first, *rest = summary(others + numpys)
    assert first == {
        "framework": "numpy", "track": "readable", "seeds": 10, "seconds": 5.5, "interval": (2.0, 9.0), "epochs": 4.0,
        "reached": 9,
    }  # fmt: skip
    assert [(row["framework"], row["track"]) for row in rest] == list(FORMS[1:])
    assert {(row["seconds"], row["interval"], row["seeds"], row["reached"]) for row in rest} == {(5.0, None, 1, 1)}
