"""What a wake queue tells of, worked on in this process: each thing once at a time, a bounded number at once.

Wakes may be lost and are only hints; whoever owns the things sweeps for what nobody told of, and adds it here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from vespid.bus.errors import BusError
from vespid.bus.ports import Mail
from vespid.store.failure import STORE_FAILED
from vespid_protocol.ids import OrgId, is_uuid

log = structlog.get_logger("vespid.dispatch.backlog")

# What waits in this process; more is left to other processes and the sweep.
BACKLOG_MAX = 1_000

_AWAY: tuple[type[Exception], ...] = (BusError, *STORE_FAILED)


class Backlog:
    """A Service: a listener to the queue, and `concurrency` workers."""

    def __init__(
        self,
        mail: Mail,
        queue: str,
        work: Callable[[OrgId, str], Awaitable[None]],
        *,
        concurrency: int,
        missed: Callable[[], Awaitable[object]],
    ) -> None:
        """`missed` is called when wakes may have been lost, and looks for what they told of."""
        self._mail = mail
        self._queue = queue
        self._work = work
        self._concurrency = concurrency
        self._missed = missed
        # By id, each once, oldest first; what is being worked on may be here again.
        self._waiting: dict[str, OrgId] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def room(self) -> int:
        """How much more it takes."""
        return BACKLOG_MAX - len(self._waiting)

    def add(self, org_id: OrgId, subject: str) -> None:
        """Work on it soon; without room it is left to the sweep."""
        if self.room > 0:
            self._waiting[subject] = org_id
            self._news.set()

    async def start(self) -> None:
        if self._tasks:
            return
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._listen(), name=f"{self._queue}-listener")]
        self._tasks += [loop.create_task(self._run(), name=f"{self._queue}-{n}") for n in range(self._concurrency)]

    async def stop(self) -> None:
        """Finish what is under way; what waits is as due as before."""
        self._stopping = True
        if not self._tasks:
            return
        self._tasks[0].cancel()
        self._news.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._mail.wakes(self._queue)) as wakes:
            async for batch in wakes:
                if not batch:
                    # Some may have been lost with Redis.
                    await self._look_for_missed()
                for item in batch:
                    org_id, _, subject = item.partition("/")
                    if is_uuid(org_id) and is_uuid(subject):
                        self.add(OrgId(org_id), subject)
                    else:
                        log.warning("wake_unreadable", queue=self._queue, item=item[:100])

    async def _look_for_missed(self) -> None:
        try:
            await self._missed()
        except STORE_FAILED as error:
            log.warning("missed_wakes_not_read", queue=self._queue, error=str(error))

    async def _run(self) -> None:
        while not self._stopping:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
                continue
            subject = next(iter(self._waiting))
            org_id = self._waiting.pop(subject)
            try:
                await self._work(org_id, subject)
            except _AWAY as error:
                # It is still due.
                log.warning("work_postponed", queue=self._queue, subject=subject, error=repr(error))
            except Exception:
                # A bug of ours; one of them must not end the work on all others. It is still due, too.
                log.exception("work_lost", queue=self._queue, subject=subject)
