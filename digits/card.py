"""The card: what is known about a stored model, as plain data. It is the metadata of the BentoML model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from digits.confidence import Confidence
from digits.contract import Backend, Framework, Labels, Probabilities


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training images."""

    loss: float  # mean over the epoch, while the weights change
    accuracy: float  # the same, in [0, 1]
    held_out_accuracy: float  # at the epoch's end, on images never trained on, in [0, 1]
    seconds: float  # of training, without the held-out accuracy


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many of the test images a stored file gets right."""

    correct: int
    total: int

    @classmethod
    def of(cls, probabilities: Probabilities, labels: Labels) -> Score:
        """Right is an image whose label is its most probable digit."""
        return cls(correct=int((probabilities.argmax(axis=1) == labels).sum()), total=len(labels))

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.total


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is stored beside a model's files."""

    recipe: dict[str, Any]  # every field of the recipe as it was trained
    departures: tuple[str, ...]  # those of them that are not as the recipe's row has them; without any, a whole run
    framework: Framework
    seed: int
    device: str
    parameters: int
    history: tuple[Epoch, ...]
    held_out: str  # which images history's held_out_accuracy is of
    scores: dict[Backend, Score]  # of the stored file, through the runtime that serves it
    largest_difference: dict[Backend, float]  # in probability, from the trained model itself, over all test images
    bytes: dict[Backend, int]  # size of what each backend opens
    files: dict[str, str]  # path in the model's folder -> sha256
    data: dict[str, str]  # MNIST file -> sha256 of its contents
    versions: dict[str, str]  # package -> version
    machine: str
    threads: int
    trained_at: str  # ISO 8601, UTC
    train_seconds: float  # the epochs alone
    export_seconds: float
    # Of kinds of digits that are not MNIST's (digits/kinds/table.py); none where they were not read.
    beyond: dict[str, Score] = field(default_factory=dict)
    # When to believe it; none where no training images were held out to tell by.
    confidence: Confidence | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the run was what its recipe says. From which seed does not matter: that is no part of the mathematics."""
        return not self.departures

    @property
    def departed(self) -> dict[str, Any]:
        """What each departure was trained with: `{"epochs": 1}`."""
        return {name: self.recipe.get(name) for name in self.departures}

    @property
    def departed_in_words(self) -> str:
        """The same to be read: `epochs 1`."""
        return ", ".join(f"{name} {value}" for name, value in self.departed.items())

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends that have a file to open."""
        return tuple(self.scores)

    @property
    def accuracy(self) -> float:
        """The mean over the backends, in [0, 1]: they hold the same weights, and differ by rounding at most."""
        return sum(score.accuracy for score in self.scores.values()) / len(self.scores)

    @property
    def accuracy_beyond(self) -> float | None:
        """The mean over the kinds that are not MNIST's, in [0, 1]; None where they were not read."""
        return sum(score.accuracy for score in self.beyond.values()) / len(self.beyond) if self.beyond else None

    @property
    def merit(self) -> tuple[float, float]:
        """By which one model comes before another: how well it reads digits that are not MNIST's, then MNIST's own.

        A user's are not MNIST's. A model of which only the latter is known comes after those that have read others.
        """
        return self.accuracy_beyond or 0.0, self.accuracy

    def to_data(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        data = dataclasses.asdict(self)
        data["history"] = list(data["history"])
        data["departures"] = list(data["departures"])
        data["recipe"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.recipe.items()
            if value is not None  # which BentoML refuses as metadata
        }
        if self.confidence is None:
            del data["confidence"]
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Card:
        """The inverse of `to_data`. A card from before departures were written down counts as a whole run's, and
        one from before kinds were has none; so too with confidence.

        Raises:
            TypeError: a field is missing, or unknown.
        """
        fields = dict(data)
        fields["departures"] = tuple(data.get("departures", ()))
        fields["history"] = tuple(Epoch(**epoch) for epoch in data["history"])
        fields["scores"] = {backend: Score(**score) for backend, score in data["scores"].items()}
        fields["beyond"] = {kind: Score(**score) for kind, score in data.get("beyond", {}).items()}
        if "confidence" in data:
            fields["confidence"] = Confidence(**data["confidence"])
        return cls(**fields)
