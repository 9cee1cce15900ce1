"""How a weight starts. Each draws from the generator it is given: no hidden randomness.

`fan_in` is how many inputs each output is a sum over, `fan_out` how many outputs each input goes into.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def glorot_uniform(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    fan_out: int,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating]:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16."""
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return generator.uniform(-limit, limit, shape).astype(dtype)


def he_uniform(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    fan_out: int,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating]:
    """Uniform in ±sqrt(6 / fan_in): He et al. 2015, eq. 10, for layers followed by relu."""
    limit = np.sqrt(6.0 / fan_in)
    return generator.uniform(-limit, limit, shape).astype(dtype)


def fan_in_uniform(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    fan_out: int,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating]:
    """Uniform in ±1 / sqrt(fan_in): LeCun et al. 1998, and what torch.nn.Linear starts with."""
    limit = 1.0 / np.sqrt(fan_in)
    return generator.uniform(-limit, limit, shape).astype(dtype)
