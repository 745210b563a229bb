"""When a request is made again: never where it could do something twice.

What reads, replaces or deletes may be repeated as it is. What creates is repeated under one `Idempotency-Key`, chosen
once per call, so that the server answers what it did the first time. What shows a token once is never repeated: a
second try would lose the token of the first.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vespid_client.errors import ApiError, ConnectionFailed, VespidError


class Repeat(Enum):
    """Whether a route's request may be made again when nobody knows what became of the first."""

    SAFE = "safe"
    KEYED = "keyed"
    NEVER = "never"


# Answers that another try may change: a proxy's, and 503 where the server says when to come back.
_PASSING = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """How often and how patiently. Pauses are random up to a bound that doubles; `Retry-After` goes before."""

    # Tries in all, the first included.
    tries: int = 5
    first_s: float = 0.2
    cap_s: float = 5.0
    # A server that asks for more than this is not waited for.
    longest_s: float = 30.0

    def pauses(self) -> Iterator[float]:
        """A pause for each try after the first, in seconds."""
        bound = self.first_s
        for _ in range(self.tries - 1):
            yield random.uniform(0, bound)  # noqa: S311
            bound = min(bound * 2, self.cap_s)


def pause_before_next(error: VespidError, repeat: Repeat, pause: float, retries: Retries) -> float | None:
    """Seconds to wait before the next try; None where there is to be none."""
    if repeat is Repeat.NEVER:
        return None
    if isinstance(error, ConnectionFailed):
        return pause
    if not isinstance(error, ApiError) or error.status not in _PASSING:
        return None
    if error.retry_after is None:
        # A 503 that says nothing of coming back is something that is not set up.
        return pause if error.status in (502, 504) else None
    return None if error.retry_after > retries.longest_s else max(pause, error.retry_after)
