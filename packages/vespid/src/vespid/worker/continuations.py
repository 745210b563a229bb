"""Runs that are due, stepped: at once where a wake tells of one, and by the sweep where none came.

Subscribed first and swept afterwards, so that what becomes due in between is found by one of the two.
"""

from prometheus_client import Gauge

from vespid.bus.ports import Mail
from vespid.dispatch.backlog import Backlog
from vespid.dispatch.stepper import Stepper
from vespid.store.steps import StepStore
from vespid_protocol.ids import OrgId, RunId

STEPPING = Gauge("vespid_runs_stepping", "Runs that this worker steps now")


class Continuations:
    """A Service: `concurrency` steppers fed by the wake queue, and by `sweep`."""

    def __init__(self, stepper: Stepper, steps: StepStore, mail: Mail, *, queue: str, concurrency: int) -> None:
        self._stepper = stepper
        self._steps = steps
        self._backlog = Backlog(mail, queue, self._step, concurrency=concurrency, missed=self.sweep)

    async def start(self) -> None:
        await self._backlog.start()

    async def stop(self) -> None:
        """Finish the steps under way; what waits stays due in Postgres."""
        await self._backlog.stop()

    async def sweep(self, most: int = 200) -> int:
        """Take up runs that are due and that nobody told of; how many there were."""
        due = await self._steps.due(min(most, self._backlog.room))
        for run in due:
            self._backlog.add(OrgId(str(run.organization_id)), str(run.run_id))
        return len(due)

    async def _step(self, org_id: OrgId, run_id: str) -> None:
        with STEPPING.track_inprogress():
            await self._stepper.step(org_id, RunId(run_id))
