"""When a model should be believed: its probabilities calibrated, and the threshold below which it is unsure.

Both are found on held-out training images: neither what a model was trained on, of which it is too sure, nor test images, of
which nothing could be said afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from digits.contract import CLASSES, Labels, Probabilities

RIGHT: Final = 0.999  # of what is accepted, on held-out images
COLDEST, HOTTEST = 0.05, 20.0  # temperatures outside would make every answer certain, or all digits alike
HALVINGS: Final = 40  # of the range of log temperatures, until what is left is nothing
SMALLEST: Final = float(np.finfo(np.float32).tiny)  # stands for a probability that float32 rounded to 0


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How sure a model's answers have to be, and what that gives on the test images."""

    temperature: float  # by which its logits are divided; above 1: it was too sure of itself
    threshold: float  # an answer whose calibrated probability is above it is believed
    held_out: int  # images on which both were found
    accepted: int  # of the test images: how many are believed,
    accepted_correct: int  # how many of these are right,
    total: int  # and of how many

    @property
    def left_out(self) -> float:
        """The share of the test images of which the model is unsure, in [0, 1]."""
        return 1 - self.accepted / self.total

    @property
    def accuracy(self) -> float | None:
        """Of what is accepted, in [0, 1]; None where nothing is."""
        return self.accepted_correct / self.accepted if self.accepted else None

    def calibrated(self, probabilities: Probabilities) -> Probabilities:
        """What the model's probabilities [N, 10] are at its temperature."""
        return at_temperature(probabilities, self.temperature)

    def believes(self, calibrated: Probabilities) -> npt.NDArray[np.bool_]:
        """Of which images [N] the digit should be believed."""
        sure: npt.NDArray[np.bool_] = calibrated.max(axis=1) > self.threshold
        return sure


def find_confidence(
    held_out: Probabilities, held_out_labels: Labels, test: Probabilities, test_labels: Labels
) -> Confidence:
    """The temperature and the threshold for a model that gives these probabilities, [N, 10] each."""
    temperature = fit_temperature(held_out, held_out_labels)
    threshold = find_threshold(at_temperature(held_out, temperature), held_out_labels)
    calibrated = at_temperature(test, temperature)
    accepted = calibrated.max(axis=1) > threshold
    return Confidence(
        temperature=temperature,
        threshold=threshold,
        held_out=len(held_out_labels),
        accepted=int(accepted.sum()),
        accepted_correct=int((calibrated.argmax(axis=1) == test_labels)[accepted].sum()),
        total=len(test_labels),
    )


def find_threshold(calibrated: Probabilities, labels: Labels) -> float:
    """The lowest threshold with at least 99.9 % right of the answers above it; 1 where there is none.

    An answer is as probable as its digit. Answers of one probability stay together.
    """
    order = np.argsort(-calibrated.max(axis=1), kind="stable")
    answers = calibrated[order].max(axis=1)  # from the surest on
    right = np.cumsum(calibrated[order].argmax(axis=1) == labels[order])
    is_last = np.append(answers[1:] < answers[:-1], True)  # of its probability
    enough = is_last & (right >= RIGHT * np.arange(1, len(answers) + 1))
    if not enough.any():
        return 1.0
    first_out = int(np.flatnonzero(enough)[-1]) + 1
    return float(answers[first_out]) if first_out < len(answers) else 0.0


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The temperature with the smallest negative log-likelihood (Guo et al. 2017, section 4.2), between 0.05 and 20.

    That is convex in b = 1 / temperature. Its slope there is the mean over images of E[z] - z_label, with logits z and the
    expectation under softmax(b z); the slope's zero is found by halving. If every answer is right there is none, and the
    lower bound comes back.

    Raises:
        ValueError: as `check`.
    """
    check(probabilities, labels)
    logits = _logits(probabilities)  # [N, 10]
    of_labels = logits[np.arange(len(labels)), labels]  # [N]
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = ((_softmax(logits / np.exp(middle)) * logits).sum(axis=1) - of_labels).mean()
        if slope > 0:  # less of b, more of temperature
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def at_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """softmax(logits / temperature); no answer changes, only how sure it is. float32 [N, 10]."""
    return _softmax(_logits(probabilities) / temperature).astype(np.float32)


def check(probabilities: Probabilities, labels: Labels) -> None:
    """Sees that these are probabilities of these labels.

    Raises:
        ValueError: they are not; the message says what was expected.
    """
    if labels.ndim != 1 or len(labels) == 0 or labels.max() >= CLASSES:
        raise ValueError(f"expected labels as one or more digits in one row, got an array of shape {labels.shape}")
    if probabilities.shape != (len(labels), CLASSES):
        raise ValueError(
            f"expected probabilities of shape {(len(labels), CLASSES)} for these labels, got {probabilities.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():  # not so for NaN either
        raise ValueError("expected probabilities between 0 and 1, got others or NaN; logits take a softmax first")


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares


def _logits(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Logits up to a constant for each image, which softmax does not see."""
    logits: npt.NDArray[np.float64] = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    return logits
