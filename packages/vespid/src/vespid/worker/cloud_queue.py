"""Wakes for pending work of the server's own kinds: written where no process had room, or by one that runs none."""

import asyncio
import contextlib

import structlog

from vespid.bus.ports import Mail
from vespid.store.failure import STORE_FAILED
from vespid.worker.cloud import Cloud

log = structlog.get_logger("vespid.worker.cloud_queue")


class CloudQueue:
    """A Service."""

    def __init__(self, mail: Mail, cloud: Cloud, queue: str) -> None:
        self._mail = mail
        self._cloud = cloud
        self._queue = queue
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="cloud-queue")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._mail.wakes(self._queue)) as wakes:
            async for _batch in wakes:
                try:
                    await self._cloud.claim()
                except STORE_FAILED as error:
                    log.warning("cloud_claim_postponed", error=str(error))
