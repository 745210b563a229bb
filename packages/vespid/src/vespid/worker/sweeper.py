"""The slow, sure way: what a lost notification, a dead process or a lost agent left behind is found here.

Each duty is one statement over an index; every worker runs them all, and rows locked by another are passed over. A
full batch is followed by the next at once. Nothing is judged lost before this process has been up for
`agent_lease_ms`: after an outage of the whole house the agents get that long to come back.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter

from vespid.bus.org_news import tell_org
from vespid.dispatch.house import House
from vespid.store.connections import sweep_leases, sweep_processes, trim_feed
from vespid.store.failure import STORE_FAILED
from vespid.worker.continuations import Continuations
from vespid_protocol.ids import ExecutorId, OrgId, RequestId

log = structlog.get_logger("vespid.worker.sweeper")

SWEPT = Counter("vespid_swept_total", "What sweeps found, by what was done about it", ["duty", "action"])

BATCH = 200
# Housekeeping that nobody waits for.
SELDOM_S = 600.0
EVENT_MONTHS_AHEAD = 3

_ENSURE_PARTITIONS = "select vespid_x_ensure_event_partitions($1)"


class Sweeper:
    """A Service: every duty once per `every_ms`, in turn."""

    def __init__(
        self,
        house: House,
        continuations: Continuations,
        claim_cloud: Callable[[], Awaitable[int]],
        fire_schedules: Callable[[], Awaitable[int]],
        *,
        every_ms: int,
        agent_lease_ms: int,
        most: int = BATCH,
    ) -> None:
        self._house = house
        self._continuations = continuations
        self._every_s = every_ms / 1000
        self._agent_lease_ms = agent_lease_ms
        self._most = most
        self._duties: tuple[tuple[str, Callable[[], Awaitable[int]]], ...] = (
            ("runs", continuations.sweep),
            ("cloud", claim_cloud),
            ("executions", self._sweep_executions),
            ("processes", self._sweep_processes),
            ("leases", self._sweep_leases),
            ("schedules", fire_schedules),
        )
        self._started_at = 0.0
        self._seldom_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._started_at = asyncio.get_running_loop().time()
            self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            for name, duty in self._duties:
                await self._do(name, duty)
            if asyncio.get_running_loop().time() >= self._seldom_at:
                self._seldom_at = asyncio.get_running_loop().time() + SELDOM_S
                await self._do("housekeeping", self._keep_house)
            await asyncio.sleep(self._every_s)

    async def _do(self, name: str, duty: Callable[[], Awaitable[int]]) -> None:
        try:
            while await duty() >= self._most:
                pass
        except STORE_FAILED as error:
            log.warning("sweep_postponed", duty=name, error=repr(error))
        except Exception:
            # A bug of ours in one duty; what the others find must not wait for its repair.
            log.exception("sweep_failed", duty=name)

    async def _sweep_executions(self) -> int:
        swept = await self._house.executions.sweep(self._most)
        offers: list[RequestId] = []
        for row in swept:
            SWEPT.labels("executions", row.action).inc()
            if row.action == "offer" and row.placement == "executor":
                offers.append(RequestId(row.request_id))
            elif row.action == "concluded":
                self._ended(RequestId(row.request_id), OrgId(str(row.organization_id)), row.run_id)
                if row.executor_id is not None and row.state_before != "pending":
                    self._house.scheduler.cancel_order(
                        row.request_id, str(row.executor_id), row.lease_epoch, "its time is over", is_over=True
                    )
        await self._house.scheduler.offer_pending(offers)
        return len(swept)

    async def _sweep_processes(self) -> int:
        if not self._may_judge():
            return 0
        found = await sweep_processes(self._house.db, self._agent_lease_ms)
        for row in found:
            SWEPT.labels("processes", row.action).inc()
            if row.action == "dead":
                log.warning("process_dead", process_id=str(row.process_id))
            elif row.action == "away" and row.executor_id is not None:
                # Nobody else would: its edge cannot withdraw it any more.
                org_id = None if row.organization_id is None else OrgId(str(row.organization_id))
                await self._house.scheduler.gone(ExecutorId(str(row.executor_id)), org_id, row.connection_epoch or 0)
                if org_id is not None:
                    tell_org(self._house.fanout, org_id, "agents", str(row.executor_id))
            elif row.request_id is not None and row.action == "concluded" and row.organization_id is not None:
                self._ended(RequestId(row.request_id), OrgId(str(row.organization_id)), row.run_id)
        return sum(1 for row in found if row.action not in ("dead", "away"))

    async def _sweep_leases(self) -> int:
        if not self._may_judge():
            return 0
        lost = await sweep_leases(self._house.db, self._most)
        offers: list[RequestId] = []
        for row in lost:
            SWEPT.labels("leases", row.action).inc()
            request_id, org_id = RequestId(row.request_id), OrgId(str(row.organization_id))
            if row.action == "concluded":
                self._ended(request_id, org_id, row.run_id)
            elif row.action == "reoffer":
                # The lost holder's room goes first, or the request would look as if it had a place.
                executor_id = None if row.executor_id is None else ExecutorId(str(row.executor_id))
                await self._house.scheduler.released(request_id, org_id, executor_id=executor_id)
                offers.append(request_id)
        await self._house.scheduler.offer_pending(offers)
        # A batch is counted by executors, this by leases: a full one is never missed, an extra look is cheap.
        return len(lost)

    async def _keep_house(self) -> int:
        await trim_feed(self._house.db)
        await self._house.db.fetchval_system(_ENSURE_PARTITIONS, EVENT_MONTHS_AHEAD)
        return 0

    def _ended(self, request_id: RequestId, org_id: OrgId, run_id: object) -> None:
        self._house.scheduler.launch_release(request_id, org_id)
        if run_id is not None:
            self._house.stepper.wake(org_id, str(run_id))

    def _may_judge(self) -> bool:
        up_ms = (asyncio.get_running_loop().time() - self._started_at) * 1000
        return up_ms >= self._agent_lease_ms
