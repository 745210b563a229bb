"""Whether and when the agent connects again, by how its last socket or attempt ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vespid_protocol import effects as fx
from vespid_protocol.backoff import backoff
from vespid_protocol.codes import FINAL_CLOSE_CODES, CloseCode, Code

SUPERSEDED_WAIT_MS = (30_000, 60_000)
SUPERSEDED_MAX = 3
SUPERSEDED_WINDOW_MS = 600_000

_FINAL_REFUSALS = frozenset({Code.EXECUTOR_TOKEN_INVALID, Code.EXECUTOR_REVOKED, Code.PROTOCOL_UNSUPPORTED})


class Comeback:
    """Full jitter with growing pauses; a server's wish wins, and some ends are final."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._backoff = backoff(random)
        self._superseded: deque[int] = deque(maxlen=SUPERSEDED_MAX)

    def welcomed(self) -> None:
        """It worked: the pauses begin anew."""
        self._backoff = backoff(self._random)

    def closed(self, code: int, reason: str, now: int) -> tuple[fx.Effect, ...]:
        """Answers `Reconnect` or `Exit`."""
        if code in FINAL_CLOSE_CODES:
            return (fx.Exit(str(code), reason),)
        if code == CloseCode.SUPERSEDED:
            self._superseded.append(now)
            if len(self._superseded) == SUPERSEDED_MAX and now - self._superseded[0] <= SUPERSEDED_WINDOW_MS:
                return (fx.Exit(str(code), "another process keeps using this credential"),)
            low, high = SUPERSEDED_WAIT_MS
            return (fx.Reconnect(low + int(self._random() * (high - low))),)
        again = fx.Reconnect(next(self._backoff))
        return (fx.Shrink(), again) if code == CloseCode.TOO_BIG else (again,)

    def refused(self, code: str | None, reason: str, retry_after_ms: int | None) -> tuple[fx.Effect, ...]:
        """The upgrade was refused with this error code (None: no answer of ours, or none at all)."""
        if code in _FINAL_REFUSALS:
            return (fx.Exit(str(code), reason),)
        delay = next(self._backoff)
        if retry_after_ms is not None:
            # The server's wish is the least; the jitter comes on top, so that not all come at once.
            delay += retry_after_ms
        return (fx.Reconnect(delay),)
