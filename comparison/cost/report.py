"""The page of costs: one HTML file that needs nothing else, of what serving, starting and training take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup

from comparison import figures, page
from comparison.cost import plots
from comparison.cost.numbers import Smaller, read_numbers
from comparison.cost.starts import Starts, read_starts
from comparison.reading import of_this_version, read_json, row_of
from comparison.words import join
from digits.contract import BACKENDS
from digits.store import StoredModel
from loadtests.open_test import RESULTS_FILE, Peak
from loadtests.protocols import PROTOCOLS

TEMPLATE: Final = "cost/report.html.j2"
_AGAIN: Final = "Run it again: samedigit loadtest --scenario open"


def write_costs(results: Path, models: Sequence[StoredModel], target: Path) -> Path:
    """Writes what the folder `results` says of costs, and what `models` took to train, to the file `target`.

    Returns:
        `target`.

    Raises:
        ResultsMissing: results are there and cannot be read.
        ReportError: `target` cannot be written.
    """
    page.write(_render(models, read_peaks(results), read_starts(results), read_numbers(results)), target)
    return target


def read_peaks(folder: Path) -> list[Peak]:
    """What the servers of the open scenario in `folder` took; empty where it was not run.

    Raises:
        ResultsMissing: it cannot be read.
    """
    path = folder / RESULTS_FILE
    with of_this_version(path, _AGAIN):
        return [row_of(Peak, one) for one in (read_json(path, _AGAIN) or {"peaks": []})["peaks"]]


def _render(
    models: Sequence[StoredModel],
    peaks: Sequence[Peak],
    starts: Sequence[Starts],
    numbers: Sequence[Sequence[Smaller]],
) -> str:
    tested = list(dict.fromkeys(peak.recipe for peak in peaks))
    return page.render(
        TEMPLATE,
        models=models,
        backends=BACKENDS,
        protocols=[name for name in PROTOCOLS if any(peak.protocol == name for peak in peaks)],
        all_protocols=list(PROTOCOLS),
        dashes=figures.BACKEND_DASHES,
        colours=figures.BACKEND_COLOURS,
        colours_on_dark=figures.BACKEND_COLOURS_ON_DARK,
        findings=[*_of_serving(peaks), *_of_starts(starts), *_of_numbers(numbers), *_of_training(models)],
        recipes=tested,
        peaks={
            recipe: {
                backend: {peak.protocol: peak for peak in peaks if (peak.recipe, peak.backend) == (recipe, backend)}
                for backend in BACKENDS
                if any((peak.recipe, peak.backend) == (recipe, backend) for peak in peaks)
            }
            for recipe in tested
        },
        cpu_pictures=[
            (recipe, Markup(plots.cpu([peak for peak in peaks if peak.recipe == recipe], name=f"cpu-{i}")))
            for i, recipe in enumerate(tested)
        ],
        starts=starts,
        start_pictures=[
            (recipe, Markup(plots.starts([one for one in starts if one.recipe == recipe], name=f"starts-{i}")))
            for i, recipe in enumerate(dict.fromkeys(one.recipe for one in starts))
        ],
        numbers=numbers,
        number_pictures=[
            (rows[0].model.partition(":")[0], Markup(plots.numbers(rows, name=f"numbers-{i}")))
            for i, rows in enumerate(numbers)
        ],
    )


def _of_serving(peaks: Sequence[Peak]) -> list[str]:
    """The least and the most that a model's million predictions take."""
    found = []
    for recipe in dict.fromkeys(peak.recipe for peak in peaks):
        ranked = sorted((peak for peak in peaks if peak.recipe == recipe), key=lambda peak: peak.server_cpu_us)
        least, most = ranked[0], ranked[-1]
        finding = f"A million predictions of {recipe} take {least.server_cpu_us:,.0f} CPU seconds {_way(least)}"
        if most is not least:
            times = most.server_cpu_us / least.server_cpu_us
            finding += f", and up to {most.server_cpu_us:,.0f} {_way(most)}: {times:.1f} times"
        found.append(f"{finding}.")
    return found


def _way(peak: Peak) -> str:
    return f"through {peak.backend} over {peak.protocol}"


def _of_starts(starts: Sequence[Starts]) -> list[str]:
    """From the soonest to the latest backend, over whichever protocol answered first, with files warm; and cold."""
    found = []
    for recipe in dict.fromkeys(one.recipe for one in starts):
        for files in ("warm", "cold"):
            medians = {
                one.backend: min(one.medians.values()) for one in starts if (one.recipe, one.files) == (recipe, files)
            }
            if medians:
                listed = join(
                    f"{backend} {medians[backend]:.2f} s" for backend in sorted(medians, key=medians.__getitem__)
                )
                found.append(f"From a start to the first right answer of {recipe}, files {files}: {listed}.")
    return found


def _of_numbers(numbers: Sequence[Sequence[Smaller]]) -> list[str]:
    """What each model's smaller forms save, the fastest first, and which of them are shown to read more or less."""
    found = []
    for original, *others in numbers:
        others.sort(key=lambda one: one.ratios[1])
        saved = join(
            f"{one.numbers} takes {one.ratios[1]:.2f} of the time for one image at {one.bytes / original.bytes:.2f} of the size"
            for one in others
        )
        moved = []
        for one in others:
            assert one.paired is not None, "only an original has none"
            low, high = (100 * bound for bound in one.paired.interval)
            if not low <= 0 <= high:
                moved.append(f"{one.numbers} by {100 * one.paired.difference:+.2f} points ({low:+.2f} to {high:+.2f})")
        told = (
            f"accuracy moves, with 95 % intervals that hold at once, {join(moved)}"
            if moved
            else "none is shown to move accuracy"
        )
        found.append(f"Beside float32, for {original.model.partition(':')[0]} {saved}; {told}.")
    return found


def _of_training(models: Sequence[StoredModel]) -> list[str]:
    if len(models) < 2:
        return []
    ranked = sorted(models, key=lambda model: model.card.train_seconds)
    listed = join(f"{model.recipe} {model.card.train_seconds:,.0f} s" for model in ranked)
    return [f"Training took {listed}: one run of each, so this compares recipes, and not frameworks."]
