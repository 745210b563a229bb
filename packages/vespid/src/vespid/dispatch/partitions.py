"""Upkeep of the capacity book's partitions that this process uses: expired reservations, leaks, and life after a loss.

A partition whose Redis was emptied is cold: nothing is granted in it until every edge has said again what it holds and
the leases that stand in Postgres are in. Whoever meets a cold one warms it.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import structlog

from vespid.bus.channels import EDGES
from vespid.bus.choice import LeasedRow, Next
from vespid.bus.errors import BusError
from vespid.bus.messages import CapacityReported, ReportCapacity, encode
from vespid.bus.ports import Capacity, Fanout
from vespid.store.connections import live_gateways
from vespid.store.executions import ExecutionStore
from vespid.store.failure import STORE_FAILED
from vespid.store.pool import Database
from vespid.store.turns import live_turns
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, new_id

log = structlog.get_logger("vespid.dispatch.partitions")

SWEEP_S = 1.0
COMPARE_S = 10.0
# A partition that nobody asked anything of for so long is left to others.
ACTIVE_S = 120.0
# How long to wait for the edges' reports before going on without the missing ones (they may be dead).
REPORTS_S = 2.0

_LEASE_PAGE = 1_000

_FAILED: tuple[type[Exception], ...] = (BusError, *STORE_FAILED)

# None: the managed partition.
Partition = OrgId | None


class Partitions:
    """A Service."""

    def __init__(
        self, db: Database, executions: ExecutionStore, capacity: Capacity, fanout: Fanout, process_id: ProcessId
    ) -> None:
        self._db = db
        self._executions = executions
        self._capacity = capacity
        self._fanout = fanout
        self._process_id = process_id
        # When each was last used, by loop time.
        self._used: dict[Partition, float] = {}
        self._forward: Callable[[Iterable[Next]], Awaitable[None]] = _drop
        # Warming under way, and the reports it waits for, by nonce.
        self._warming: dict[Partition, asyncio.Task[None]] = {}
        self._reports: dict[str, tuple[set[ProcessId], asyncio.Event]] = {}
        self._upkeep: asyncio.Task[None] | None = None

    def forward_to(self, forward: Callable[[Iterable[Next]], Awaitable[None]]) -> None:
        """Who is told of waiters whose turn comes by the upkeep."""
        self._forward = forward

    async def start(self) -> None:
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._keep(), name="partition-upkeep")

    async def stop(self) -> None:
        tasks = [*self._warming.values()]
        if self._upkeep is not None:
            tasks.append(self._upkeep)
            self._upkeep = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def used(self, partition: Partition) -> None:
        """Somebody in this process has asked something of it."""
        self._used[partition] = asyncio.get_running_loop().time()

    def warm(self, partition: Partition) -> "asyncio.Task[None]":
        """It is cold: begin its life anew, once at a time. The task is done when it is warm, or could not be warmed."""
        task = self._warming.get(partition)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._warm(partition), name="warm-partition")
            self._warming[partition] = task
            task.add_done_callback(lambda _task: self._warming.pop(partition, None))
        return task

    async def warm_if_cold(self, partition: Partition) -> None:
        """Begin its life now rather than with the first dispatch. Raises BusUnavailable."""
        if await self._capacity.generation(partition) is None:
            self.warm(partition)

    def reported(self, report: CapacityReported) -> None:
        """An edge has said again what it holds."""
        waited = self._reports.get(report.nonce)
        if waited is not None:
            missing, complete = waited
            missing.discard(report.process_id)
            if not missing:
                complete.set()

    async def _warm(self, partition: Partition) -> None:
        try:
            while True:
                life = await self._capacity.prepare(partition)
                await self._collect_reports(partition)
                as_of_ms, rows = await self._leased([partition])
                await self._forward(await self._capacity.rebuild(partition, rows[partition], as_of_ms, life=life))
                if await self._capacity.generation(partition) is not None:
                    break
                # It was emptied again meanwhile: what the edges reported is lost, so they are asked once more.
            log.info("partition_warm", partition=partition or "managed", leases=len(rows[partition]))
        except _FAILED as error:
            # The next ask finds it cold again.
            log.warning("partition_stays_cold", partition=partition or "managed", error=repr(error))

    async def _collect_reports(self, partition: Partition) -> None:
        nonce, complete = new_id(), asyncio.Event()
        missing = set(await live_gateways(self._db))
        if not missing:
            return
        self._reports[nonce] = (missing, complete)
        try:
            self._fanout.publish(EDGES, encode(ReportCapacity(partition, self._process_id, nonce)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORTS_S):
                    await complete.wait()
        finally:
            del self._reports[nonce]

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        compare_at = loop.time() + COMPARE_S
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            self._used = {partition: used for partition, used in self._used.items() if now - used < ACTIVE_S}
            try:
                for partition in tuple(self._used):
                    await self._forward(await self._capacity.sweep(partition))
                if now >= compare_at and self._used:
                    compare_at = now + COMPARE_S
                    await self._compare()
            except _FAILED as error:
                log.warning("partition_upkeep_postponed", error=repr(error))

    async def _compare(self) -> None:
        """Make reservations equal to what Postgres says is leased."""
        partitions = tuple(self._used)
        as_of_ms, rows = await self._leased(partitions)
        for partition in partitions:
            if await self._capacity.generation(partition) is None:
                self.warm(partition)
            else:
                await self._forward(await self._capacity.rebuild(partition, rows[partition], as_of_ms))

    async def _leased(self, partitions: Iterable[Partition]) -> tuple[int, dict[Partition, list[LeasedRow]]]:
        """Leases of these partitions, and the epoch ms before which they were read."""
        wanted = set(partitions)
        found: defaultdict[Partition, list[LeasedRow]] = defaultdict(list)
        as_of_ms = await self._executions.now_ms()
        after = ""
        while True:
            page = await self._executions.live_leases(after, _LEASE_PAGE)
            for row in page:
                owner = OrgId(str(row.organization_id))
                leased = LeasedRow(RequestId(row.request_id), owner, ExecutorId(str(row.executor_id)), row.pool)
                if owner in wanted:
                    found[owner].append(leased)
                if row.pool == "managed" and None in wanted:
                    found[None].append(leased)
            if len(page) < _LEASE_PAGE:
                break
            after = page[-1].request_id
        # A session's turn takes room like any other request.
        session = UUID(int=0)
        while True:
            turns = await live_turns(self._db, session, _LEASE_PAGE)
            for turn in turns:
                owner = OrgId(str(turn.organization_id))
                leased = LeasedRow(turn.request_id, owner, ExecutorId(str(turn.executor_id)), turn.pool)
                if owner in wanted:
                    found[owner].append(leased)
                if turn.pool == "managed" and None in wanted:
                    found[None].append(leased)
            if len(turns) < _LEASE_PAGE:
                return as_of_ms, found
            session = turns[-1].session_id


async def _drop(_handed: Iterable[Next]) -> None:
    """Before a scheduler is there; the reservations come back by themselves."""
