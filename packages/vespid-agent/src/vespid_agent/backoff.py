"""When to connect again: full jitter, so that a thousand agents never come back in lock-step."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_DELAY_S = 5.0
FACTOR = 1.6
CAP_S = 30.0


class Backoff:
    """`next()` gives the seconds to wait: a random part of 5 s, then of a bound that grows 1.6-fold up to 30 s."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._bound = FIRST_DELAY_S

    def next(self) -> float:
        delay = self._uniform(0.0, self._bound)
        self._bound = min(self._bound * FACTOR, CAP_S)
        return delay

    def reset(self) -> None:
        """The connection was good."""
        self._bound = FIRST_DELAY_S


def spread(at_least_s: float, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """A wait the server asked for: never shorter, and up to a fifth (at most 5 s) longer, lest all come at once."""
    return at_least_s + uniform(0.0, min(max(at_least_s * 0.2, 0.25), 5.0))
