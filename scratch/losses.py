"""Losses: value and gradient in one pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scratch.layers import Array, softmax


def softmax_cross_entropy(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """The mean cross-entropy of softmax(logits), and its gradient by the logits.

    Softmax and cross-entropy together have the gradient (probabilities - one-hot labels) / N, which neither overflows
    nor divides by a small probability (Bishop 2006, eq. 4.109).

    Args:
        logits: `[N, C]`.
        labels: `[N]`, in 0..C-1.

    Returns:
        The loss in nats, and the gradient `[N, C]`.
    """
    rows = np.arange(len(labels))
    probabilities = softmax(logits)  # [N, C]
    tiny = np.finfo(probabilities.dtype).tiny  # log(0) would make the epoch's mean infinite
    loss = -float(np.log(np.maximum(probabilities[rows, labels], tiny)).mean())
    gradient = probabilities
    gradient[rows, labels] -= 1
    gradient /= len(labels)
    return loss, gradient
