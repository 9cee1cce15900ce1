"""Trains what it takes to say whether it is the framework or its defaults, and says it: `samedigit study --decide`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from comparison.study.contrasts import (
    CONFIRMING,
    OTHERS,
    PAIRS,
    PILOT,
    Between,
    ByWriters,
    Component,
    Confirmed,
    Decided,
    Default,
    Plan,
    Same,
    Source,
    answer,
    between,
    by_writers,
    components,
    confirmed,
    decided,
    defaults,
    in_framework,
    plan,
    rounding,
    same,
    same_mathematics,
    sentence,
    sources,
)
from digits import mnist
from training.given.draws import Training
from training.given.runs import Outcome, run_all
from training.recipes import Recipe

# What each recipe of dense layers has that no other has: an architecture, an activation, a way to start, an optimizer. Those of
# convolutions take hours in float64, and are asked for by name.
MATHEMATICS: Final = ("keras-deep", "torch-relu", "keras-enhanced", "keras-basic", "torch-improved", "numpy-sigmoid")
SMALLEST: Final = "numpy-deep"  # the recipe that trains soonest: of it the defaults and the components are asked


def _sides(contrasts: Iterable[Sequence[Default | Source]]) -> list[Training]:
    return [training for of_seed in contrasts for one in of_seed for training in (one.first, one.second)]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `samedigit study --decide` ends with."""

    recipe: str  # of the defaults and of the components
    same: tuple[Same, ...]
    defaults: tuple[Decided, ...]
    confirmed: tuple[Confirmed, ...]
    frameworks: tuple[Between, ...]
    components: tuple[Component, ...]
    plan: Plan
    pairs: int  # seeds of the components
    by_writers: ByWriters | None  # None: it is not known who wrote the test images
    trainings: int
    seconds: float  # of them all, one after the other
    machines: tuple[str, ...]
    versions: dict[str, str]

    @property
    def sentence(self) -> str:
        return sentence(self.recipe, self.frameworks, self.defaults)

    @property
    def answer(self) -> str:
        return answer(self.frameworks, self.defaults)

    @property
    def rounding(self) -> str | None:
        """None where no mathematics was asked of."""
        return rounding(self.same) if self.same else None


def decide(
    folder: Path,
    *,
    recipe: Recipe,
    mathematics: Sequence[Recipe],
    jobs: int,
    most_seconds: float,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_done: Callable[[Outcome, int, int], None] = lambda outcome, done, total: None,
) -> Decision:
    """Trains what it takes, but for what `folder` has already, and says what came out.

    Args:
        folder: of the outcomes.
        recipe: of the defaults and of the components.
        mathematics: recipes to train in every framework with everything given.
        jobs: processes at once, each on one thread.
        most_seconds: that the seeds beyond the pilot's may take, unless they are as few as the pilot's.
        on_plan: called once the pilot has said how many seeds it takes.
        on_done: called after each training with how many of the part are done, of how many.

    Raises:
        NotInstalled: a framework is missing.
        DataError: MNIST cannot be had, or the file of who wrote it is not what it should be.
        StudyError: the folder cannot be read or written, or a training failed; what is finished is kept.
    """
    labels, writers = mnist.test_images().labels, mnist.test_writers()
    found: dict[str, Outcome] = {}

    def run(trainings: Sequence[Training]) -> list[Outcome]:
        outcomes = run_all(trainings, folder, jobs=jobs, on_done=on_done)
        found.update((outcome.training.key, outcome) for outcome in outcomes)
        return outcomes

    run(_sides(defaults(recipe, seed) for seed in range(1, PILOT + 1)))
    planned = plan(recipe, found, labels, most_seconds=most_seconds, jobs=jobs)
    contrasts = [defaults(recipe, seed) for seed in range(PILOT + 1, PILOT + 1 + planned.seeds)]
    elsewhere = [
        [in_framework(defaults(recipe, seed), framework) for seed in range(1, CONFIRMING + 1)] for framework in OTHERS
    ]
    drawn = [sources(recipe, seed) for seed in range(1, max(PILOT, min(planned.seeds, PAIRS)) + 1)]
    given_all = [same_mathematics(one) for one in mathematics]
    others = [*(training for of in elsewhere for training in _sides(of)), *_sides(drawn), *chain(*given_all)]
    here = {training.key for training in _sides(contrasts)} | found.keys()
    planned = replace(planned, others=len({training.key for training in others} - here))
    on_plan(planned)

    run(_sides(contrasts))
    rows = decided(contrasts, found, labels)
    run([training for of in elsewhere for training in _sides(of)])
    run(_sides(drawn))
    exact = [
        each
        for one, trainings in zip(mathematics, given_all, strict=True)
        for each in same(one.name, run(trainings), labels)
    ]
    pairs = between(drawn, found, labels)
    of_writers = None
    if writers is not None:
        pairs_of_writers = between(drawn, found, labels, writers=writers)
        rows_of_writers = decided(contrasts, found, labels, writers=writers)
        of_writers = by_writers(
            list(zip(pairs, pairs_of_writers, strict=True)), list(zip(rows, rows_of_writers, strict=True))
        )
    return Decision(
        recipe=recipe.name,
        same=tuple(exact),
        defaults=tuple(rows),
        confirmed=tuple(each for of in elsewhere for each in confirmed(of, found, labels, rows)),
        frameworks=tuple(pairs),
        components=tuple(components(drawn, found, labels, writers=writers)),
        plan=planned,
        pairs=len(drawn),
        by_writers=of_writers,
        trainings=len(found),
        seconds=sum(outcome.seconds for outcome in found.values()),
        machines=tuple(sorted({outcome.machine for outcome in found.values()})),
        versions=next(iter(found.values())).versions,
    )
