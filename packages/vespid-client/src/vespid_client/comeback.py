"""Coming back after a lost connection: random pauses up to a bound that doubles, until patience is at its end.

Whoever shows to people what is followed can have itself told of both.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from vespid_client.errors import ApiError, ConnectionFailed

FIRST_S = 0.5
CAP_S = 15.0


@dataclass(frozen=True)
class LineWatch:
    """Who is told that a connection was lost (None: the server ended it in good order), and that it is back."""

    on_lost: Callable[[ApiError | ConnectionFailed | None], None]
    on_back: Callable[[], None]


class Comeback:
    """Of one thing that is followed. `patience_s`: how long nothing at all may be heard."""

    def __init__(
        self, patience_s: float, watch: LineWatch | None = None, now: Callable[[], float] | None = None
    ) -> None:
        self._patience_s = patience_s
        self._watch = watch
        self._is_lost = False
        self._now = now or asyncio.get_running_loop().time
        self._heard_at = self._now()
        self._bound_s = FIRST_S

    def heard(self) -> None:
        """The server has said something."""
        self._heard_at = self._now()
        self._bound_s = FIRST_S
        if self._is_lost:
            self._is_lost = False
            if self._watch is not None:
                self._watch.on_back()

    async def wait(self, error: ApiError | ConnectionFailed | None) -> None:
        """Wait before the next try. Raises the error where another try is of no use, or patience is at its end.

        None: the server ended the stream in good order, as one that stops does.
        """
        if isinstance(error, ApiError) and error.status not in (429, 502, 503, 504):
            raise error
        if error is not None and self._now() - self._heard_at > self._patience_s:
            raise error
        if not self._is_lost:
            self._is_lost = True
            if self._watch is not None:
                self._watch.on_lost(error)
        pause = random.uniform(0, self._bound_s)  # noqa: S311
        self._bound_s = min(self._bound_s * 2, CAP_S)
        asked = error.retry_after if isinstance(error, ApiError) else None
        await asyncio.sleep(max(pause, min(asked or 0.0, CAP_S)))
