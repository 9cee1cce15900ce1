"""How long each framework takes from nothing to 97 % of held-out training images, imports and compiling included.

    python -m benchmarks.time_to_accuracy [--seeds N] [--json FILE]

784-128 relu-10, Adam, batches of 32, one thread; trained on 55,000 images, asked after each epoch of the last 5,000 training
images, and ended by the first epoch after which 97 % of these are right. Each is a process of its own, timed from its start;
each seed runs every form, in a new random order. The readable forms are the trainers themselves; the fast paths those of
benchmarks.best_effort. How many epochs it takes is a matter of chance: the interval of the median is over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.results import write_results
from benchmarks.until_accurate import HELD_OUT, MOST_EPOCHS, TARGET
from comparison.intervals import median_interval
from digits import mnist
from digits.machine import processor

FORMS: Final = (
    ("numpy", "readable"),
    ("torch", "readable"),
    ("torch", "best effort"),
    ("keras", "readable"),
    ("keras", "best effort"),
)


def run(framework: str, form: str, seed: int) -> dict[str, Any]:
    """The seconds, and how many epochs it took to which accuracy."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.until_accurate", framework, form, str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.kill()
    if not line:
        raise SystemExit(f"Error: {framework}, {form}, seed {seed} ended before it was right often enough.")
    found: dict[str, Any] = json.loads(line)
    return {"framework": framework, "track": form, "seed": seed, "seconds": seconds, **found}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each form: medians, with the interval of that of the seconds."""
    rows = []
    for framework, form in FORMS:
        of_it = [one for one in runs if (one["framework"], one["track"]) == (framework, form)]
        seconds = [one["seconds"] for one in of_it]
        rows.append(
            {
                "framework": framework,
                "track": form,
                "seeds": len(of_it),
                "seconds": statistics.median(seconds),
                "interval": median_interval(seconds),
                "epochs": statistics.median(one["epochs"] for one in of_it),
                "reached": sum(one["accuracy"] >= TARGET for one in of_it),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="of each form (default 10)")
    parser.add_argument("--json", type=Path, help="write every run and the table there too")
    arguments = parser.parse_args()
    mnist.train_images()  # brought here first, where they are not yet
    runs = []
    for seed in track(range(1, arguments.seeds + 1), "seeds", transient=True):
        for framework, form in random.sample(FORMS, len(FORMS)):
            runs.append(run(framework, form, seed))
    rows = summary(runs)
    console = Console()
    console.print(processor())
    table = Table(title=f"784-128 relu-10 until {100 * TARGET:g} % of {HELD_OUT:,} held-out images, one thread")
    for column in ("framework", "track"):
        table.add_column(column)
    for column in ("s, median", "95 %", "epochs, median", f"reached, within {MOST_EPOCHS}"):
        table.add_column(column, justify="right")
    for row in rows:
        interval = row["interval"]
        covers = "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
        reached = f"{row['reached']} of {row['seeds']}"
        table.add_row(row["framework"], row["track"], f"{row['seconds']:.1f}", covers, f"{row['epochs']:g}", reached)
    console.print(table)
    if arguments.json:
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"made_at": made_at, "processor": processor(), "target": TARGET, "held_out": HELD_OUT}
        write_results({**about, "rows": rows, "runs": runs}, arguments.json)


if __name__ == "__main__":
    main()
