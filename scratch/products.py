"""Matrix products in pieces for which OpenBLAS has a faster kernel."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from scratch.buffers import Array

# For processors with AVX-512 OpenBLAS has kernels that multiply matrices where they lie, with nothing copied into blocks
# first; they serve products of at most this many multiplications. Of a batch of 32 through 784 x 128 and back that saves a
# tenth of the step; of a convolution's forward pass, a sixth.
SMALL: Final = 1_000_000
WITH_SMALL_KERNELS: Final = ("SkylakeX", "Cooperlake", "SapphireRapids")


@functools.cache
def small_kernels() -> bool:
    """Whether NumPy's products come from an OpenBLAS that has them, for this processor."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:  # where nothing is trained
        return False
    return any(library.get("architecture") in WITH_SMALL_KERNELS for library in threadpool_info())


def is_small(multiplications: int) -> bool:
    return multiplications <= SMALL and small_kernels()


def product(left: Array, right: Array, out: Array) -> Array:
    """left @ right, in as many slices of rows as make each small."""
    rows = len(left)
    step = SMALL // right.size
    if rows <= step or step < 4 or not small_kernels():
        return np.matmul(left, right, out=out)
    slices = -(-rows // step)
    step = -(-rows // slices)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        np.matmul(left[part], right, out=out[part])
    return out
