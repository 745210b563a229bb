"""How many calls go on at once, per organization and provider: one that asks much must not take it all.

Calls beyond the limit wait in the order in which they came; where too many wait already, the next is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vespid_protocol.codes import Code
from vespid_runtime.models.types import ModelError

# For each call that may go on.
WAITING_PER_PLACE = 4


class _Lane:
    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        # Those inside and those that wait.
        self.present = 0


class Turnstile:
    """Of one process."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lanes: dict[tuple[str, str], _Lane] = {}

    @asynccontextmanager
    async def passed(self, organization_id: str, provider: str, timeout_ms: int) -> AsyncIterator[None]:
        """Inside it is this call's turn. Raises ModelError ENGINE_UNAVAILABLE: too many wait, or it waited too long."""
        key = (organization_id, provider)
        lane = self._lanes.setdefault(key, _Lane(self._places))
        if lane.present >= self._places * (1 + WAITING_PER_PLACE):
            raise _busy(provider, "too many calls are waiting")
        lane.present += 1
        try:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await lane.places.acquire()
            except TimeoutError:
                raise _busy(provider, f"no turn within {timeout_ms} ms") from None
            try:
                yield
            finally:
                lane.places.release()
        finally:
            lane.present -= 1
            if lane.present == 0:
                del self._lanes[key]

    @property
    def lanes(self) -> int:
        """For how many pairs something is going on."""
        return len(self._lanes)


def _busy(provider: str, reason: str) -> ModelError:
    return ModelError(Code.ENGINE_UNAVAILABLE, f"{provider}: {reason}", retry_after_ms=1_000)
