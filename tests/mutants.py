"""Whether the tests would notice: small mistakes, put one at a time into the modules that do no input or output.

    python tests/mutants.py [NAME ...]     as `make mutants` does; NAME: as in serving.batching.*

mutmut makes the mistakes (`[tool.mutmut]` in pyproject.toml) and runs, for each, the tests that come past it. Printed are, for
each module, how many were noticed, and those that were not; fewer than GOAL of them is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
GOAL: Final = 0.9
NOTICED: Final = ("killed", "timeout", "segfault", "suspicious")
UNKNOWN: Final = ("not checked", "skipped")


def main() -> None:
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    names = sys.argv[1:]
    _check_test_ids()
    # mutmut forks after the tests have run once. Threads of torch are not there in what it forks, which would wait for them
    # until its time is up: a mistake that nobody noticed.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [mutmut, "run", "--max-children", str(os.cpu_count() or 1), *names]
    run = subprocess.run(command, cwd=PROJECT, env=alone)
    if run.returncode != 0:
        raise SystemExit(run.returncode)
    results = subprocess.run(
        [mutmut, "results", "--all", "true"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    outcomes = dict(line.strip().rsplit(": ", 1) for line in results.stdout.splitlines() if ": " in line)
    made: Counter[str] = Counter()
    noticed: Counter[str] = Counter()
    living = []
    for name, outcome in outcomes.items():
        if outcome in UNKNOWN:
            continue
        module = name.partition(".x")[0]
        made[module] += 1
        if outcome in NOTICED:
            noticed[module] += 1
        else:
            living.append((name, outcome))
    for name, outcome in living:
        shown = subprocess.run([mutmut, "show", name], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
        changed = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        print(f"{name}: {outcome}", *changed, sep="\n    ")
    for module, number in made.items():
        print(f"{module}: {noticed[module]} of {number} mistakes noticed, {noticed[module] / number:.1%}")
    if any(noticed[module] < GOAL * number for module, number in made.items()):
        raise SystemExit(f"Fewer than {GOAL:.0%} of a module's.")


def _check_test_ids() -> None:
    """mutmut cannot run a test whose id has a backslash, and takes that for a mistake that was noticed."""
    told = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mutmut"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *told["pytest_add_cli_args"]]
    collected = subprocess.run(
        [*command, *told["pytest_add_cli_args_test_selection"]], cwd=PROJECT, capture_output=True, text=True
    )
    if collected.returncode != 0:
        raise SystemExit(collected.stdout + collected.stderr)
    if wrong := [line for line in collected.stdout.splitlines() if "::" in line and "\\" in line]:
        raise SystemExit("\n".join(["Name these parameters (ids=...), without backslashes:", *wrong]))


if __name__ == "__main__":
    main()
