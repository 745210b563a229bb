"""Runs that are due, stepped: at once where a wake tells of one, and by the sweep where none came.

Subscribed first and swept afterwards, so that what becomes due in between is found by one of the two.
"""

import asyncio
import contextlib

import structlog
from prometheus_client import Gauge

from vespid.bus.channels import parse_run_item
from vespid.bus.ports import Mail
from vespid.dispatch.stepper import Stepper
from vespid.store.failure import STORE_FAILED
from vespid.store.steps import StepStore
from vespid_protocol.ids import OrgId, RunId, is_uuid

log = structlog.get_logger("vespid.worker.continuations")

STEPPING = Gauge("vespid_runs_stepping", "Runs that this worker steps now")

# Runs waiting in this worker for one of its `concurrency` places; the rest is left to other workers and the sweep.
BACKLOG_MAX = 1_000


class Continuations:
    """A Service: `concurrency` steppers fed by the wake queue, and by `sweep`."""

    def __init__(self, stepper: Stepper, steps: StepStore, mail: Mail, *, queue: str, concurrency: int) -> None:
        self._stepper = stepper
        self._steps = steps
        self._mail = mail
        self._queue = queue
        self._concurrency = concurrency
        # Runs to step, each once, oldest first; a run that is being stepped may be here again.
        self._backlog: dict[RunId, OrgId] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        if self._tasks:
            return
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._listen(), name="wake-queue")]
        self._tasks += [loop.create_task(self._work(), name=f"stepper-{n}") for n in range(self._concurrency)]

    async def stop(self) -> None:
        """Finish the steps under way; what waits stays due in Postgres."""
        self._stopping = True
        if not self._tasks:
            return
        self._tasks[0].cancel()
        self._news.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def sweep(self, most: int = 200) -> int:
        """Take up runs that are due and that nobody told of; how many there were."""
        due = await self._steps.due(min(most, BACKLOG_MAX - len(self._backlog)))
        for run in due:
            self._add(OrgId(str(run.organization_id)), RunId(str(run.run_id)))
        return len(due)

    def _add(self, org_id: OrgId, run_id: RunId) -> None:
        if len(self._backlog) < BACKLOG_MAX:
            self._backlog[run_id] = org_id
            self._news.set()

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._mail.wakes(self._queue)) as wakes:
            async for batch in wakes:
                if not batch:
                    # Some may have been lost with Redis.
                    await self._sweep_quietly()
                for item in batch:
                    org_id, run_id = parse_run_item(item)
                    if is_uuid(org_id) and is_uuid(run_id):
                        self._add(org_id, run_id)
                    else:
                        log.warning("wake_unreadable", item=item[:100])

    async def _sweep_quietly(self) -> None:
        try:
            await self.sweep()
        except STORE_FAILED as error:
            log.warning("due_runs_not_read", error=str(error))

    async def _work(self) -> None:
        while not self._stopping:
            if not self._backlog:
                self._news.clear()
                await self._news.wait()
                continue
            run_id = next(iter(self._backlog))
            org_id = self._backlog.pop(run_id)
            with STEPPING.track_inprogress():
                try:
                    await self._stepper.step(org_id, run_id)
                except STORE_FAILED as error:
                    # It is still due.
                    log.warning("step_postponed", run_id=run_id, error=repr(error))
                except Exception:
                    # A bug of ours; one run must not end the stepping of all others. It is still due, too.
                    log.exception("step_lost", run_id=run_id)
