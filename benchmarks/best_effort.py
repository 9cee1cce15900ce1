"""Two tracks side by side: each trainer's readable form, and the same mathematics on its framework's fast path.

    python -m benchmarks.best_effort [--rounds N] [--json FILE]

784-128 relu-10, Adam, batches of 32, the 60,000 training images, one thread. Rounds: each times one epoch of every form,
in a new random order. What is paid once (compiling, tracing, the first epoch beyond a later one) is a column of its own.

    numpy    scratch has no other path: its readable form is its fast one
    torch    readable: tensors in place of a DataLoader, fused Adam. Fast: the forward and backward pass through torch.compile
    keras    readable: fit over tf.data. Fast: jit_compile (XLA), 75 steps per execution
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.fast_torch import compiled
from benchmarks.results import write_results
from benchmarks.training import IMAGES, scratch_epoch, torch_epoch
from digits import mnist
from training.recipes import RECIPES

with contextlib.suppress(ImportError):  # torch has it on Linux alone
    import triton  # noqa: F401  # before TensorFlow, whose LLVM otherwise makes triton's abort

from benchmarks.fast_keras import FAST, fitted  # isort: skip  # it imports TensorFlow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each form (default 5)")
    parser.add_argument("--json", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    recipe = RECIPES["torch-relu"]
    keras_recipe = dataclasses.replace(recipe, keras_api="sequential")
    images = mnist.train_images()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        epochs = {
            ("numpy", "readable"): scratch_epoch(recipe, IMAGES),
            ("torch", "readable"): torch_epoch(recipe, IMAGES, flush=False),
            ("torch", "best effort"): compiled(recipe, images)[1],
            ("keras", "readable"): fitted(keras_recipe, images)[1],
            ("keras", "best effort"): fitted(keras_recipe, images, **FAST)[1],
        }
        first = {form: _seconds(epoch) for form, epoch in epochs.items()}
        seconds: dict[tuple[str, str], list[float]] = {form: [] for form in epochs}
        for _ in track(range(arguments.rounds), "epochs", transient=True):
            for form in random.sample(list(epochs), len(epochs)):
                seconds[form].append(_seconds(epochs[form]))
    rows = []
    for (framework, track_name), times in seconds.items():
        median = statistics.median(times)
        readable = statistics.median(t / r for t, r in zip(times, seconds[framework, "readable"], strict=True))
        scratch = statistics.median(t / s for t, s in zip(times, seconds["numpy", "readable"], strict=True))
        rows.append(
            {
                "framework": framework,
                "track": track_name,
                "epoch_seconds": median,
                "paid_once_seconds": max(0.0, first[framework, track_name] - median),
                "against_readable": readable,
                "against_scratch": scratch,
            }
        )
    _show(rows, arguments.rounds)
    if arguments.json:
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        write_results({"made_at": made_at, "rounds": arguments.rounds, "rows": rows}, arguments.json)


def _seconds(epoch: Callable[[], object]) -> float:
    started = time.perf_counter()
    epoch()
    return time.perf_counter() - started


def _show(rows: list[dict[str, Any]], rounds: int) -> None:
    table = Table(title=f"784-128 relu-10, Adam, batch 32, one thread, {rounds} rounds")
    for column in ("framework", "track"):
        table.add_column(column)
    for column in ("s per epoch", "paid once, s", "x readable", "x scratch"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row["epoch_seconds"], row["paid_once_seconds"], row["against_readable"], row["against_scratch"])
        table.add_row(row["framework"], row["track"], *(f"{number:.2f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
