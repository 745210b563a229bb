"""How many bad frames a peer may send: the twentieth within a minute ends its socket, on either of the two."""

from __future__ import annotations

from vespid_protocol.connection import BAD_FRAMES_MAX, BAD_FRAMES_WINDOW_MS


class BadFrames:
    """Those of one socket; times are monotonic ms."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: list[int] = []

    def one_more(self, now: int) -> bool:
        """Count one. True: it was one too many."""
        self._at.append(now)
        del self._at[:-BAD_FRAMES_MAX]
        return len(self._at) == BAD_FRAMES_MAX and now - self._at[0] < BAD_FRAMES_WINDOW_MS
