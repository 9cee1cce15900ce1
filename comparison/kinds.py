"""What the models read of digits that are not MNIST's, side by side: from their cards, and from what was evaluated since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from comparison.intervals import Interval, wilson
from digits.card import Card, Score
from digits.kinds.table import KINDS
from digits.store import StoredModel
from training.evaluate import Reading, trained_like


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model's reading of one kind; without a score where it was not read."""

    score: Score | None
    trained_like: tuple[str, ...]  # the model's augmentations that resemble the kind, and drawn digits where they do

    @property
    def accuracy(self) -> float | None:
        return None if self.score is None else self.score.accuracy

    @property
    def interval(self) -> Interval | None:
        return None if self.score is None else wilson(self.score.correct, self.score.total)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind, and how each model reads it."""

    name: str
    group: str
    about: str
    cells: tuple[Cell, ...]  # a model each

    @property
    def images(self) -> tuple[int, ...]:
        """Of how many the models were asked: one number, or as many as machines had fonts."""
        return tuple(sorted({cell.score.total for cell in self.cells if cell.score is not None}))

    @property
    def is_whole(self) -> bool:
        return all(cell.score is not None for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One model over several kinds, each of which counts alike. Accuracies, in [0, 1]."""

    mean: float
    worst: float
    worst_kind: str


def rows(models: Sequence[StoredModel], kept: Mapping[str, Sequence[Reading]]) -> tuple[Row, ...]:
    """A row of every kind that any of `models` was asked, in the order of the table of kinds, then those of users.

    Args:
        models: whose cards hold some.
        kept: what was evaluated since, by model; it counts in place of what a card says.
    """
    readings = {model.tag: {one.kind: one for one in kept.get(model.tag, ()) if one.score} for model in models}
    groups: dict[str, tuple[str, str]] = {kind.name: (kind.group, kind.about) for kind in KINDS}
    for of_model in readings.values():
        groups.update({one.kind: (one.group, one.about) for one in of_model.values() if one.kind not in groups})
    found = []
    for name, (group, about) in groups.items():
        cells = tuple(_cell(model.card, readings[model.tag].get(name), name) for model in models)
        if any(cell.score for cell in cells):
            found.append(Row(name=name, group=group, about=about, cells=cells))
    return tuple(found)


def _cell(card: Card, reading: Reading | None, name: str) -> Cell:
    alike = next((trained_like(kind, card.recipe) for kind in KINDS if kind.name == name), ())
    return Cell(score=reading.score if reading else card.beyond.get(name), trained_like=alike)


def spreads(found: Sequence[Row]) -> list[Spread] | None:
    """Of each model, over the kinds that every model was asked; None where there is no such kind."""
    whole = [row for row in found if row.is_whole]
    if not whole:
        return None
    result = []
    for number in range(len(whole[0].cells)):
        accuracies = {row.name: row.cells[number].accuracy or 0.0 for row in whole}
        worst = min(accuracies, key=lambda name: accuracies[name])
        result.append(Spread(mean=fmean(accuracies.values()), worst=accuracies[worst], worst_kind=worst))
    return result
