"""Models of one layer that answer the same digit whatever they see, stored in a moment: to tell versions apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from digits import store
from digits.card import Card, Score
from digits.confidence import Confidence
from digits.contract import CLASSES, PIXELS
from digits.misread import Misread
from digits.store import StoredModel


def keep(
    recipe: str,
    digit: int,
    *,
    day: int = 1,
    correct: int = 9000,
    beyond: tuple[int, ...] = (),
    departures: tuple[str, ...] = (),
    confidence: Confidence | None = None,
    misread: Misread | None = None,
) -> StoredModel:
    """Stores a version of `recipe`, trained on this day of a month, for the NumPy backend alone.

    Args:
        correct: of 10,000 test images.
        beyond: of 10,000 of each kind that is not MNIST's.
    """

    def fill(folder: Path) -> Card:
        np.savez(
            folder / "model.npz",
            pixel_step=np.float32(1),
            pixel_low=np.float32(0),
            activation="relu",
            weight_0=np.zeros((PIXELS, CLASSES), np.float32),
            bias_0=np.eye(CLASSES, dtype=np.float32)[digit] * 20,
        )
        if misread is not None:
            misread.write(folder)
        return dataclasses.replace(
            card_of(),
            recipe={"name": recipe},
            departures=departures,
            scores={"numpy": Score(correct=correct, total=10_000)},
            bytes={"numpy": store.size(folder)},
            files=store.hashes(folder),
            trained_at=f"2026-01-{day:02}T00:00:00+00:00",
            beyond={f"kind {i}": Score(correct=one, total=10_000) for i, one in enumerate(beyond)},
            confidence=confidence,
        )

    return store.save(recipe, fill=fill)


def card_of() -> Card:
    """The card of such a model, but for what is its own."""
    return Card(
        recipe={},
        departures=(),
        framework="numpy",
        seed=1,
        device="cpu",
        parameters=PIXELS * CLASSES + CLASSES,
        history=(),
        held_out="test images",
        scores={},
        largest_difference={"numpy": 0.0},
        bytes={},
        files={},
        data={},
        versions={},
        machine="",
        threads=1,
        trained_at="",
        train_seconds=1.0,
        export_seconds=1.0,
    )


def alter(model: StoredModel) -> None:
    """Changes one byte of what the NumPy backend opens."""
    file = model.path("numpy")
    contents = bytearray(file.read_bytes())
    contents[-100] ^= 1
    file.chmod(0o600)
    file.write_bytes(contents)
