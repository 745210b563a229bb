"""Tasks that have an owner: started by it, awaited by it, and an error that nobody waits for is told."""

import asyncio
from collections.abc import Coroutine

import structlog

log = structlog.get_logger("vespid.tasks")


class Tasks:
    """The tasks of one service. After `close` nothing new starts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def open(self) -> None:
        """Tasks may be started (again)."""
        self._closed = False

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run `work`; after `close` it is dropped."""
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def close(self, timeout_s: float | None = None) -> None:
        """Start nothing more, wait for what runs, and cancel what runs longer than `timeout_s`."""
        self._closed = True
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=self._name, exc_info=error)
