"""Throwing away the folders of runs that nobody has used for long."""

import asyncio
import threading
import time

from vespid_agent.logs import Logger
from vespid_agent.sandbox.removal import empty
from vespid_agent.sandbox.workdir import Workdirs

SWEEP_EVERY_S = 600.0


class Retention:
    """A duty of the agent's process, from its start."""

    def __init__(self, workdirs: Workdirs, hours: int, log: Logger) -> None:
        self._workdirs = workdirs
        self._seconds = hours * 3600
        self._log = log
        # Told once: what could not be removed is tried again at every sweep.
        self._told: set[str] = set()
        self._stop = threading.Event()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.sweep()
                await asyncio.sleep(SWEEP_EVERY_S)
        finally:
            # A thread is not cancelled; this one looks here between two files, and the next process goes on.
            self._stop.set()

    async def sweep(self) -> None:
        before = time.time() - self._seconds
        try:
            for name in await asyncio.to_thread(self._workdirs.unused_since, before):
                self._workdirs.discard(name, before)
            stayed = await asyncio.to_thread(empty, self._workdirs.gone, self._stop)
        except OSError as error:
            self._tell(str(self._workdirs.root), error)
            return
        for name, why in stayed.items():
            self._tell(str(self._workdirs.gone / name), why)

    def _tell(self, path: str, error: OSError) -> None:
        if path not in self._told:
            self._told.add(path)
            self._log.warning("workdir_not_removed", path=path, reason=error.strerror or str(error))
