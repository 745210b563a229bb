"""This process's lease in Postgres: the one heartbeat that others judge it by."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

import structlog

from vespid.store.connections import end_process, renew_process
from vespid.store.failure import STORE_FAILED
from vespid.store.pool import Database
from vespid_protocol.ids import ProcessId

log = structlog.get_logger("vespid.dispatch.presence")


class ProcessLease:
    """Renews the lease until `stop`, which gives it up in order. A Service.

    `lost` callbacks are told when the lease had passed before it was renewed (the process was stopped, or cut off from
    Postgres): others may have declared its sockets lost and its work free, so it must let go of them.
    """

    def __init__(
        self,
        db: Database,
        process_id: ProcessId,
        kind: Literal["gateway", "worker"],
        address: str | None,
        *,
        lease_ms: int,
        renew_ms: int,
        agent_lease_ms: int,
    ) -> None:
        self._db = db
        self._process_id = process_id
        self._kind: Literal["gateway", "worker"] = kind
        self._address = address
        self._lease_ms = lease_ms
        self._renew_s = renew_ms / 1000
        self._agent_lease_ms = agent_lease_ms
        self._lost: list[Callable[[], None]] = []
        self._renewing: asyncio.Task[None] | None = None

    def when_lost(self, tell: Callable[[], None]) -> None:
        """Have `tell` called whenever the lease was found to have passed."""
        self._lost.append(tell)

    async def start(self) -> None:
        if self._renewing is None:
            await self._renew()
            self._renewing = asyncio.create_task(self._keep(), name="process-lease")

    async def stop(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is None:
            return
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        try:
            await end_process(self._db, self._process_id, self._agent_lease_ms)
        except STORE_FAILED as error:
            # It runs out by itself.
            log.warning("lease_not_ended", error=str(error))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                if not await self._renew():
                    log.warning("lease_had_passed", process_id=self._process_id)
                    for tell in self._lost:
                        tell()
            except STORE_FAILED as error:
                log.warning("lease_not_renewed", error=str(error))

    async def _renew(self) -> bool:
        return await renew_process(self._db, self._process_id, self._kind, self._address, self._lease_ms)
