"""Memory that is allocated once and used at every step."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

# A cache line, and the width of an AVX-512 register: a load that begins elsewhere touches two lines.
ALIGNMENT = 64


def aligned(size: int, dtype: npt.DTypeLike) -> Array:
    """`[size]` of zeros that begin at a multiple of ALIGNMENT bytes."""
    item = np.dtype(dtype)
    memory = np.zeros(size * item.itemsize + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    numbers: Array = memory[start : start + size * item.itemsize].view(item)
    return numbers


class Buffer:
    """An array of whatever shape is asked for, in memory that grows to the largest so far."""

    def __init__(self) -> None:
        self._numbers: Array = aligned(0, np.float32)

    def shaped(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array of this shape, with what the last user left in it."""
        size = math.prod(shape)
        if len(self._numbers) < size or self._numbers.dtype != dtype:
            self._numbers = aligned(size, dtype)
        return self._numbers[:size].reshape(shape)
