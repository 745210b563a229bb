"""When to connect again: full jitter, so that a thousand agents never come back in lock-step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

FIRST_MS = 5_000
FACTOR = 1.6
CAP_MS = 30_000


def backoff(random: Callable[[], float]) -> Iterator[int]:
    """Delays in ms without end: a random part of 5 s, then of a bound that grows 1.6-fold up to 30 s.

    `random` gives numbers in [0, 1).
    """
    bound: float = FIRST_MS
    while True:
        yield int(random() * bound)
        bound = min(bound * FACTOR, CAP_MS)
