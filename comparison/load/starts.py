"""What `python -m loadtests.cold_start` left in a folder of results: seconds from a start to the first right answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy import stats

from comparison.intervals import Interval
from digits.contract import Backend
from digits.errors import ResultsMissing
from loadtests.cold_start import RESULTS_FILE, Files, FirstAnswer
from loadtests.protocols import PROTOCOLS, ProtocolName

CONFIDENCE: Final = 0.95
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


def median_interval(values: list[float]) -> Interval | None:
    """At least 95 %, between two of the values: by how many can lie below a median (Thompson 1936). None: too few values."""
    ordered = np.sort(values)
    number = len(ordered)
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, number, 0.5))
    # The median lies between the rank-th smallest and largest unless fewer than `rank` lie on one side.
    if rank < 1:
        return None
    return float(ordered[rank - 1]), float(ordered[number - rank])


def read_starts(folder: Path) -> list[Starts]:
    """By model, backend and files, in the order of the results; empty if there are none.

    Raises:
        ResultsMissing: they cannot be read.
    """
    path = folder / RESULTS_FILE
    try:
        answers = [FirstAnswer(**one) for one in json.loads(path.read_bytes())["answers"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultsMissing(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsMissing(f"{path} is not of this version of Samedigit: {error}. {_AGAIN}") from error
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
