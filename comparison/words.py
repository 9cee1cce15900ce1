"""How figures and lists are written in a sentence, and what the reports call things."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ECHO: Final = "echo"  # the backend of a run against the door without a model
FRAMEWORK_NAMES: Final = {"numpy": "NumPy", "torch": "torch", "keras": "Keras"}
NO_WRITERS: Final = (
    "Whether this holds for other people's digits is not known: who wrote the test images stands in QMNIST's "
    "qmnist-test-labels-idx2-int.gz, which was not beside MNIST's files."
)


def format_ms(milliseconds: float) -> str:
    """At least three digits that count, never an exponent."""
    decimals = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{decimals}f}"


def format_percent(fraction: float) -> str:
    """In percent, without the sign. Two decimals: one image in 10,000."""
    return f"{100 * fraction:.2f}"


def format_ratio(ratio: float) -> str:
    """Two decimals, or as many as show on which side of 1 it lies."""
    decimals = next((places for places in range(2, 6) if round(ratio, places) != 1), 2)
    return f"{ratio:,.{decimals}f}"


def format_range(ratios: tuple[float, float]) -> str:
    """From the least to the most, one decimal."""
    return " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in ratios))


def join(words: Iterable[str], last: str = "and") -> str:
    """a; a and b; a, b and c. Each word once."""
    *first, final = dict.fromkeys(words)
    return f"{', '.join(first)} {last} {final}" if first else final
