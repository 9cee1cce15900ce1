"""How load comes: from so many callers who wait for their answers, or by itself, whatever becomes of what came before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

ScenarioName = Literal["closed", "open"]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Closed:
    """Each of `users` callers asks again once it is answered: a server that stalls is asked less meanwhile."""

    users: int


@dataclass(frozen=True)
class Open:
    """Requests arrive by themselves, `rate` a second on average, at moments that do not depend on the server.

    As telephone calls do: the gaps are independent and exponential (a Poisson process). A latency counts from the moment at
    which its request was due, so that whoever delays it, the server or the client, is in the figure.
    """

    rate: float

    def moments(self, seconds: float, *, seed: int) -> Times:
        """When requests are due, in seconds from the beginning, ascending, all within `seconds`."""
        random = np.random.default_rng(seed)
        # Given their number, the moments of a Poisson process are uniform and independent.
        return np.sort(random.uniform(0, seconds, random.poisson(self.rate * seconds)))


Scenario = Closed | Open
