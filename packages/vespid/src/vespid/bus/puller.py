"""Blocking reads from one list, on a line of their own, into an inbox of this process."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from vespid.bus.address import Address
from vespid.bus.connection import CONNECT_S, RECONNECT_CAP_S, RECONNECT_FIRST_S, Log
from vespid.bus.errors import BusError
from vespid.bus.line import Line

BLOCK_S = 5
# Longer than a blocking read lasts: past it the server is stuck, not quiet.
STUCK_S = 8.0


class Puller:
    """Takes what is pushed to a list, a batch whenever one is `wanted`. A connection that replaces one is a `gap`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        batch: int,
        wanted: Callable[[], Awaitable[None]],
        take: Callable[[Sequence[bytes]], None],
        gap: Callable[[], None],
        log: Log | None,
    ) -> None:
        self._address = Address(url)
        self._key = key
        self._batch = batch
        self._wanted = wanted
        self._take = take
        self._gap = gap
        self._log = log
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"pull {self._key}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        delay = RECONNECT_FIRST_S
        been_lost = False
        while True:
            try:
                line = await Line.open(self._address, "vespid-pull", CONNECT_S)
                delay = RECONNECT_FIRST_S
                try:
                    if been_lost:
                        self._gap()
                    await self._pull(line)
                finally:
                    line.close()
            except (BusError, TimeoutError) as error:
                if self._log is not None:
                    self._log.warning("redis reader lost", key=self._key, error=str(error) or "no answer")
            been_lost = True
            await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311 - spreads reconnects, no secret
            delay = min(delay * 2, RECONNECT_CAP_S)

    async def _pull(self, line: Line) -> None:
        while True:
            await self._wanted()
            async with asyncio.timeout(STUCK_S):
                reply = await line.ask("BLMPOP", BLOCK_S, 1, self._key, "LEFT", "COUNT", self._batch)
            if isinstance(reply, list) and isinstance(reply[1], list):
                self._take([item for item in reply[1] if isinstance(item, bytes)])
