"""Everything a process needs to move work: database, bus, stores, scheduler and stepper, put together once.

A gateway, a worker, or both in one process (`vespid up`) stand on one `House`. Shared, it also shares what it knows:
the state of runs between two steps, and the shortcut by which a message to oneself takes no trip through Redis.
"""

import time
from typing import Literal

import structlog

from vespid.bus.capacity import RedisCapacity
from vespid.bus.connection import Connection
from vespid.bus.fanout import RedisFanout
from vespid.bus.mail import RedisMail
from vespid.bus.messages import CapacityReported
from vespid.dispatch.delivery import Delivery
from vespid.dispatch.inbox import Inbox
from vespid.dispatch.metering import Meter
from vespid.dispatch.organizations import Organizations
from vespid.dispatch.partitions import Partitions
from vespid.dispatch.plans import Plans
from vespid.dispatch.presence import ProcessLease
from vespid.dispatch.scheduler import Scheduler
from vespid.dispatch.stepper import CloudRunner, Stepper, StepperSettings
from vespid.domain.price import Prices
from vespid.service import Service, Stack
from vespid.settings import RunSettings
from vespid.store.executions import ExecutionStore
from vespid.store.pool import Database
from vespid.store.steps import StepStore
from vespid_protocol.ids import OrgId, ProcessId, new_id

log = structlog.get_logger("vespid.dispatch.house")


def epoch_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


class House:
    """A Service. Its parts are attributes, started in the order in which they stand on each other."""

    def __init__(
        self,
        settings: RunSettings,
        kind: Literal["gateway", "worker"],
        *,
        address: str | None = None,
        remote_nodes: bool = True,
    ) -> None:
        """`address` is the base URL of the process's internal HTTP, where it has one."""
        self.settings = settings
        self.process_id = ProcessId(new_id())
        self.db = Database(
            settings.database_url,
            max_size=settings.database_pool_size,
            statement_cache_size=settings.database_statement_cache,
            application_name=f"vespid-{kind}",
        )
        self.connection = Connection(settings.redis_url, name=f"vespid-{kind}", log=log)
        self.capacity = RedisCapacity(self.connection)
        self.mail = RedisMail(self.connection, settings.redis_url, self.process_id, log=log)
        self.fanout = RedisFanout(self.connection, settings.redis_url, log=log)
        self.executions = ExecutionStore(self.db)
        self.steps = StepStore(self.db)
        self.organizations = Organizations(self.db, default_max_in_flight=settings.gateway_org_max_inflight)
        self.plans = Plans(self.db)
        self.partitions = Partitions(self.db, self.executions, self.capacity, self.fanout, self.process_id)
        self.delivery = Delivery(self.capacity, self.mail, self.fanout, self.process_id)
        self.scheduler = Scheduler(
            self.executions,
            self.capacity,
            self.mail,
            self.fanout,
            self.delivery,
            self.organizations,
            self.partitions,
            wake_run=self._wake_run,
        )
        self.meter = Meter(Prices.parse(settings.model_prices))
        self.inbox = Inbox(self.mail)
        self.inbox.handle(CapacityReported, self.partitions.reported)
        self.lease = ProcessLease(
            self.db,
            self.process_id,
            kind,
            address,
            lease_ms=settings.process_lease_ms,
            renew_ms=settings.process_renew_ms,
            agent_lease_ms=settings.agent_lease_ms,
        )
        self._remote_nodes = remote_nodes
        self.stepper = self._stepper(None)
        self._stack = Stack(
            [
                self.db,
                self.connection,
                self.mail,
                self.fanout,
                self.delivery,
                self.steps,
                self.executions,
                self.lease,
                self.partitions,
                self.scheduler,
                self.inbox,
            ]
        )

    def run_cloud_with(self, cloud: CloudRunner) -> None:
        """Work of the server's own kinds runs in this process from now on; said before `start`."""
        self.stepper = self._stepper(cloud)

    async def start(self) -> None:
        await self._stack.start()

    async def stop(self) -> None:
        await self._stack.stop()

    async def is_ready(self) -> bool:
        """Whether Postgres and Redis answer."""
        return self.connection.connected and await self.db.is_ready()

    def _stepper(self, cloud: CloudRunner | None) -> Stepper:
        settings = self.settings
        return Stepper(
            self.db,
            self.steps,
            self.executions,
            self.plans,
            self.organizations,
            self.scheduler,
            self.mail,
            self.fanout,
            self.meter,
            StepperSettings(
                retry_backoff_ms=settings.retry_backoff_ms,
                node_timeout_ms=settings.node_exec_timeout_ms,
                event_payload_max_chars=settings.event_payload_max_chars,
                github_api_base_url=settings.github_api_base_url,
                queue=settings.continuation_queue_name,
                remote_nodes=self._remote_nodes,
            ),
            now_ms=epoch_ms,
            cloud=cloud,
        )

    def _wake_run(self, org_id: OrgId, run_id: str) -> None:
        self.stepper.wake(org_id, run_id)


class Borrowed:
    """A house that somebody else starts and stops, as a Service among one's own."""

    async def start(self) -> None:
        """Nothing: its owner has started it."""

    async def stop(self) -> None:
        """Nothing: its owner will stop it."""


def own_or_borrowed(house: House, *, borrowed: bool) -> Service:
    """What stands for the house in a service's own stack."""
    return Borrowed() if borrowed else house
