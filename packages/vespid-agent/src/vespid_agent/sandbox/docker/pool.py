"""Containers that are ready before their task comes: made, started, and waiting for a script.

Each serves one task and is removed after it, like any other; nothing is shared. Its /work is a slot: an empty folder
that becomes the task's own by being renamed over it, which a mount does not notice. So a task whose folder holds files
already takes the ordinary way.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from vespid_agent.sandbox.docker.container import Container, Profile
from vespid_agent.sandbox.docker.engine import EngineError, EngineUnreachable

# Kinds of container that are kept ready: those that were asked for last.
PROFILES_KEPT = 4

Make = Callable[[Profile, Path], Awaitable[Container]]
Drop = Callable[[Container], Awaitable[None]]


class Pool:
    """`size` prepared containers for each of the profiles that were asked for last."""

    def __init__(self, make: Make, drop: Drop, slots: Path, size: int) -> None:
        self._make = make
        self._drop_container = drop
        self._slots = slots
        self._size = size
        # Least recently asked for first.
        self._ready: dict[Profile, list[tuple[Container, Path]]] = {}
        self._making: dict[Profile, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def take(self, profile: Profile, folder: Path) -> Container | None:
        """A prepared container with that folder at /work; None where there is none, or files are in the folder."""
        ready = self._ready.pop(profile, [])
        self._ready[profile] = ready
        taken: Container | None = None
        # Those whose engine was restarted meanwhile are gone.
        dead = [(container, slot) for container, slot in ready if not container.is_waiting]
        if dead:
            ready[:] = [pair for pair in ready if pair not in dead]
            self._start(self._drop(dead))
        if ready:
            container, slot = ready[-1]
            # Onto a folder that is not empty this fails, and changes nothing.
            with contextlib.suppress(OSError):
                os.rename(slot, folder)
                ready.pop()
                taken = container
        self._refill(profile)
        return taken

    def clear_slots(self) -> None:
        """What an earlier process left; its containers are gone."""
        shutil.rmtree(self._slots, ignore_errors=True)

    async def close(self) -> None:
        """Remove all that is ready."""
        self._is_closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for profile in tuple(self._ready):
            await self._drop(self._ready.pop(profile))
        self.clear_slots()

    def _refill(self, profile: Profile) -> None:
        if self._is_closed:
            return
        while len(self._ready) > PROFILES_KEPT:
            self._start(self._drop(self._ready.pop(next(iter(self._ready)))))
        missing = self._size - len(self._ready[profile]) - self._making.get(profile, 0)
        for _ in range(missing):
            self._making[profile] = self._making.get(profile, 0) + 1
            self._start(self._prepare(profile))

    async def _prepare(self, profile: Profile) -> None:
        slot = self._slots / secrets.token_hex(16)
        try:
            slot.mkdir(mode=0o700, parents=True)
            container = await self._make(profile, slot)
        except (EngineError, EngineUnreachable, OSError):
            # The task that comes meets the same, and tells it.
            shutil.rmtree(slot, ignore_errors=True)
            return
        finally:
            self._making[profile] -= 1
        if self._is_closed or profile not in self._ready:
            await self._drop([(container, slot)])
        else:
            self._ready[profile].append((container, slot))

    async def _drop(self, ready: list[tuple[Container, Path]]) -> None:
        for container, slot in ready:
            await self._drop_container(container)
            shutil.rmtree(slot, ignore_errors=True)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
