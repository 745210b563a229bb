"""What the control plane forgets in time: answers older than their day, logins that ended a month ago."""

import asyncio
import contextlib

import structlog

from vespid.store.auth_sessions import prune_sessions
from vespid.store.idempotency import prune_keys
from vespid.store.pool import Database

log = structlog.get_logger("vespid.control.housekeeping")

INTERVAL_S = 600.0
BATCH = 1000


class Housekeeping:
    """Prunes now and then, in bounded steps; several processes may. A Service."""

    def __init__(self, database: Database, *, interval_s: float = INTERVAL_S) -> None:
        self._database = database
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first round is one interval away."""
        if self._task is None:
            self._task = asyncio.create_task(self._prune_forever(), name="control-housekeeping")

    async def stop(self) -> None:
        """End, in the middle of a round too: the next one finds what is left."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def prune(self) -> None:
        """One round."""
        while await prune_keys(self._database, BATCH) == BATCH:
            pass
        await prune_sessions(self._database, BATCH)

    async def _prune_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.prune()
            except Exception as error:  # noqa: BLE001 - Postgres may be away; nothing but space is lost meanwhile
                log.warning("housekeeping_failed", error=repr(error))
