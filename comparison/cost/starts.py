"""What `python -m loadtests.cold_start` left in a folder of results: seconds from a start to the first right answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from comparison.intervals import Interval, median_interval
from comparison.reading import of_this_version, read_json, row_of
from digits.contract import Backend
from loadtests.cold_start import RESULTS_FILE, Files, FirstAnswer
from loadtests.protocols import PROTOCOLS, ProtocolName

_AGAIN: Final = "Run it again: python -m loadtests.cold_start"


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Of one model through one backend, with files warm or cold."""

    recipe: str
    backend: Backend
    files: Files
    number: int
    medians: dict[ProtocolName, float]  # seconds
    intervals: dict[ProtocolName, Interval | None]  # of the median; None: too few starts for 95 %


def read_starts(folder: Path) -> list[Starts]:
    """By model, backend and files, in the order of the results; empty if there are none.

    Raises:
        ResultsMissing: they cannot be read.
    """
    path = folder / RESULTS_FILE
    data = read_json(path, _AGAIN)
    if data is None:
        return []
    with of_this_version(path, _AGAIN):
        answers = [row_of(FirstAnswer, one) for one in data["answers"]]
    found = []
    for recipe, backend, files in sorted({(one.recipe, one.backend, one.files) for one in answers}):
        of_it = [one.seconds for one in answers if (one.recipe, one.backend, one.files) == (recipe, backend, files)]
        seconds = {name: [one[name] for one in of_it] for name in PROTOCOLS}
        found.append(
            Starts(
                recipe=recipe,
                backend=backend,
                files=files,
                number=len(of_it),
                medians={name: float(np.median(each)) for name, each in seconds.items()},
                intervals={name: median_interval(each) for name, each in seconds.items()},
            )
        )
    return found
