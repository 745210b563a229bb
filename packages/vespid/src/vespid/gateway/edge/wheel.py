"""Deadlines of all connections on one wheel: a connection is looked at when its peer says so, not with every other."""

import asyncio
import contextlib
from typing import Protocol

# Coarse on purpose: many connections are looked at in one go.
SLOT_MS = 250


class Watched(Protocol):
    """What may be on the wheel."""

    def look(self, now_ms: int) -> None:
        """Its time has come (monotonic ms)."""


class Wheel:
    """A Service. `plan` says when a connection has to be looked at; the earliest plan counts."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Watched]] = {}
        self._planned: dict[Watched, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._turn(), name="wheel")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def plan(self, connection: Watched, due_ms: int) -> None:
        """Look at it at `due_ms` (monotonic ms), unless it is planned for earlier."""
        slot = due_ms // SLOT_MS + 1
        planned = self._planned.get(connection)
        if planned is not None:
            if planned <= slot:
                return
            self._slots[planned].discard(connection)
        self._planned[connection] = slot
        self._slots.setdefault(slot, set()).add(connection)

    def forget(self, connection: Watched) -> None:
        """It is over."""
        planned = self._planned.pop(connection, None)
        if planned is not None:
            self._slots[planned].discard(connection)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        done = int(loop.time() * 1000) // SLOT_MS
        while True:
            await asyncio.sleep(SLOT_MS / 1000)
            now_ms = int(loop.time() * 1000)
            while done < now_ms // SLOT_MS:
                done += 1
                for connection in self._slots.pop(done, ()):
                    self._planned.pop(connection, None)
                    connection.look(now_ms)
