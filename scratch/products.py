"""Matrix products in pieces for which OpenBLAS has a faster kernel."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from threadpoolctl import threadpool_info

from scratch.buffers import Array

# For processors with AVX-512 OpenBLAS has kernels that multiply matrices where they lie, with nothing copied into blocks
# first; they serve products of at most this many multiplications. Of a batch of 32 through 784 x 128 and back that saves a
# tenth of the step; of a convolution's forward pass, a sixth.
SMALL: Final = 1_000_000
WITH_SMALL_KERNELS: Final = ("SkylakeX", "Cooperlake", "SapphireRapids")


@functools.cache
def small_kernels() -> bool:
    """Whether NumPy's products come from an OpenBLAS that has them, for this processor."""
    return any(library.get("architecture") in WITH_SMALL_KERNELS for library in threadpool_info())


def is_small(multiplications: int) -> bool:
    return multiplications <= SMALL and small_kernels()


def product(left: Array, right: Array, out: Array) -> Array:
    """left @ right, as a stack of as few slices of rows as make each product small."""
    pieces = _pieces(len(left), right.size)
    if pieces == 1:
        return np.matmul(left, right, out=out)
    np.matmul(left.reshape(pieces, -1, left.shape[1]), right, out=out.reshape(pieces, -1, out.shape[1], copy=False))
    return out


@functools.cache
def _pieces(rows: int, of_each: int) -> int:
    """How many slices of equally many rows, at least 4, make each small; 1 where none do."""
    if not small_kernels():
        return 1
    return next((n for n in range(1, rows // 4 + 1) if rows % n == 0 and rows // n * of_each <= SMALL), 1)
