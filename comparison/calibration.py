"""Whether a model's probabilities mean what they say: of the answers given with 0.9, are nine in ten right?

`probabilities` are float32 [N, 10] and `labels` uint8 [N] throughout. To look at a recipe with many seeds, measure each
run and take `mean_of`; a reliability curve takes the runs' probabilities one after the other, the labels repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from comparison.intervals import Interval
from digits.confidence import SMALLEST, at_temperature, check, fit_temperature
from digits.contract import CLASSES, Labels, Probabilities

BINS: Final = 15
DRAWS: Final = 400  # of answers, for what chance alone gives


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities are from what they should be; smaller is better in each."""

    ece: float  # expected calibration error, in [0, 1]
    nll: float  # negative log-likelihood of the label, in nats
    brier: float  # in [0, 2]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers given with about the same probability. Bins without any answer are left out of a curve."""

    low: float  # of the probability of the answer; belongs to the bin below
    high: float
    confidence: float  # the mean of that probability
    accuracy: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A run on the test images, before and after its logits were divided by a temperature fitted on held-out images."""

    temperature: float  # above 1: the model was too sure of itself
    before: Calibration
    after: Calibration


def measure(probabilities: Probabilities, labels: Labels) -> Calibration:
    """ECE: the gap between accuracy and confidence, weighed by the share of images, over 15 bins of equal width (Guo et
    al. 2017, "On Calibration of Modern Neural Networks", equation 3). It depends on the bins; NLL and Brier do not.
    NLL: the mean of -log(probability of the label), with probabilities of 0 taken as float32's smallest normal number.
    Brier: the mean over images of the sum over digits of (probability - (1 for the label, 0 else))² (Brier 1950).

    Raises:
        ValueError: the probabilities are not [N, 10] and in [0, 1], or the labels are not N digits.
    """
    check(probabilities, labels)
    curve = reliability(probabilities, labels)
    each = probabilities.astype(np.float64)
    of_label = each[np.arange(len(labels)), labels]
    return Calibration(
        ece=sum(abs(part.accuracy - part.confidence) * part.images for part in curve) / len(labels),
        nll=float(-np.log(np.maximum(of_label, SMALLEST)).mean()),
        brier=float(((each - np.eye(CLASSES)[labels]) ** 2).sum(axis=1).mean()),
    )


def ece_by_chance(probabilities: Probabilities, *, seed: int = 1) -> Interval:
    """The ECE, in [0, 1], that these probabilities would show if they meant just what they say: in 95 of 100 test sets.

    Each answer is drawn right with its own probability, as often as DRAWS (Vaicenavicius et al. 2019, "Evaluating model
    calibration in classification", call it the consistency of a calibration estimate). It is never 0: a bin of n answers
    misses its confidence c by about sqrt(c (1 - c) / n).

    Raises:
        ValueError: the probabilities are not [N, 10] and in [0, 1].
    """
    check(probabilities, np.zeros(len(probabilities), np.uint8))
    confidence = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(_bins(confidence), kind="stable")
    confidence = confidence[order]
    starts = np.flatnonzero(np.diff(_bins(confidence), prepend=-1))
    random = np.random.default_rng(seed)
    eces = [
        np.abs(np.add.reduceat((random.random(len(confidence)) < confidence) - confidence, starts)).sum()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(eces, (0.025, 0.975)) / len(confidence)
    return float(low), float(high)


def _bins(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Of each answer its bin, from 0."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def reliability(probabilities: Probabilities, labels: Labels) -> list[Bin]:
    """The reliability curve, from the least sure answers to the surest: accuracy against confidence in each bin.

    Raises:
        ValueError: as `measure`.
    """
    check(probabilities, labels)
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = _bins(confidence)
    return [
        Bin(
            low=index / BINS,
            high=(index + 1) / BINS,
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
            images=int(inside.sum()),
        )
        for index in range(BINS)
        if (inside := bins == index).any()
    ]


def scale(
    probabilities: Probabilities,
    labels: Labels,
    *,
    held_out_probabilities: Probabilities,
    held_out_labels: Labels,
) -> Scaled:
    """The test images before and after temperature scaling.

    The held-out images must be neither trained on nor test images, or the temperature promises too much.

    Raises:
        ValueError: as `measure`.
    """
    temperature = fit_temperature(held_out_probabilities, held_out_labels)
    after = measure(at_temperature(probabilities, temperature), labels)
    return Scaled(temperature=temperature, before=measure(probabilities, labels), after=after)


def mean_of(calibrations: Sequence[Calibration]) -> Calibration:
    """The mean of each measure over runs, which is not what the runs would give as one ensemble."""
    return Calibration(
        ece=float(np.mean([each.ece for each in calibrations])),
        nll=float(np.mean([each.nll for each in calibrations])),
        brier=float(np.mean([each.brier for each in calibrations])),
    )
