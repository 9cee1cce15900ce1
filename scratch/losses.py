"""Losses: value and gradient in one pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scratch.buffers import Array


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
    # The ufuncs' own reductions: np.max, np.sum and np.mean of so small an array are mostly their wrappers.
    # The row's largest is subtracted first, so that exp cannot overflow.
    shifted = logits - np.maximum.reduce(logits, axis=1, keepdims=True)  # [N, C]
    of_labels = shifted[rows, labels]
    exponentials = np.exp(shifted, out=shifted)
    sums = np.add.reduce(exponentials, axis=1, keepdims=True)  # at least 1, so that log cannot overflow
    loss = float(np.add.reduce(np.log(sums[:, 0]) - of_labels)) / len(labels)
    gradient = np.divide(exponentials, sums, out=exponentials)
    gradient[rows, labels] -= 1
    gradient /= len(labels)
    return loss, gradient


def soft_cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """The same where the targets are probabilities: the mean of -sum(targets * log softmax(logits)), and its gradient.

    Args:
        logits: `[N, C]`.
        targets: `[N, C]`, each row a distribution.

    Returns:
        The loss in nats, and the gradient `[N, C]`, which is (probabilities - targets) / N.
    """
    shifted = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = np.add.reduce(exponentials, axis=1, keepdims=True)
    loss = float(np.add.reduce(np.log(sums[:, 0]) - np.einsum("nc,nc->n", targets, shifted))) / len(logits)
    gradient = np.divide(exponentials, sums, out=exponentials)
    gradient -= targets
    gradient /= len(logits)
    return loss, gradient
