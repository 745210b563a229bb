"""The connections of this process, and what Redis is told of them.

One connection per executor; a newer one supersedes the older, and the late end of the older changes nothing. Reports to
Redis of one executor never overtake each other: while one is under way, the next is only remembered.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import structlog
from prometheus_client import Gauge

from vespid.bus.choice import ExecutorPresence
from vespid.bus.errors import BusError
from vespid.bus.messages import Withdrawn
from vespid.bus.org_news import tell_org
from vespid.bus.ports import Capacity, Fanout
from vespid.dispatch.partitions import Partitions
from vespid.dispatch.scheduler import Scheduler
from vespid.domain.selector import Capabilities
from vespid.gateway.edge.connection import Connection
from vespid.store.connections import announce
from vespid.store.failure import STORE_AWAY
from vespid.store.pool import Database
from vespid.tasks import Tasks
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId

log = structlog.get_logger("vespid.gateway.edge.registry")

# How long after Redis did not answer it is told again.
AGAIN_S = 1.0

CONNECTED = Gauge("vespid_executors_connected", "Executors whose socket this gateway holds")


class Registry:
    """Who is connected here."""

    def __init__(
        self,
        db: Database,
        capacity: Capacity,
        scheduler: Scheduler,
        fanout: Fanout,
        partitions: Partitions,
        process_id: ProcessId,
        tasks: Tasks,
    ) -> None:
        self._db = db
        self._capacity = capacity
        self._scheduler = scheduler
        self._fanout = fanout
        self._partitions = partitions
        self._process_id = process_id
        self._tasks = tasks
        self._connections: dict[ExecutorId, Connection] = {}
        # Every socket, also of those that have not said hello.
        self._sockets: defaultdict[ExecutorId, set[Connection]] = defaultdict(set)
        # By partition: an organization, or None for the managed ones.
        self._partition_members: defaultdict[OrgId | None, set[Connection]] = defaultdict(set)
        # Reports under way; True: there is news since it began.
        self._reporting: dict[Connection, bool] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections.values()))

    def __len__(self) -> int:
        return len(self._connections)

    def opened(self, connection: Connection) -> None:
        """Its socket is there; it has not said hello."""
        self._sockets[connection.executor_id].add(connection)

    def closed(self, connection: Connection) -> None:
        """Its socket is gone."""
        sockets = self._sockets[connection.executor_id]
        sockets.discard(connection)
        if not sockets:
            del self._sockets[connection.executor_id]

    def sockets_of(self, executor_id: ExecutorId) -> tuple[Connection, ...]:
        """All its sockets on this edge."""
        return tuple(self._sockets.get(executor_id, ()))

    def get(self, executor_id: ExecutorId) -> Connection | None:
        return self._connections.get(executor_id)

    def add(self, connection: Connection) -> Connection | None:
        """Make it the executor's connection; answers the one it supersedes. An older one than what is there is not
        taken: it answers itself."""
        standing = self._connections.get(connection.executor_id)
        if standing is not None and standing.connection_epoch > connection.connection_epoch:
            return connection
        self._connections[connection.executor_id] = connection
        self._partition_members[connection.org_id].add(connection)
        if standing is not None:
            self._partition_members[standing.org_id].discard(standing)
        CONNECTED.set(len(self._connections))
        return standing

    def remove(self, connection: Connection) -> None:
        """It is over. A newer one of the same executor stays."""
        self._partition_members[connection.org_id].discard(connection)
        if not self._partition_members[connection.org_id]:
            del self._partition_members[connection.org_id]
        if self._connections.get(connection.executor_id) is connection:
            del self._connections[connection.executor_id]
        CONNECTED.set(len(self._connections))
        self._tasks.start(self._withdraw(connection))

    def of_partition(self, org_id: OrgId | None) -> tuple[Connection, ...]:
        return tuple(self._partition_members.get(org_id, ()))

    def report(self, connection: Connection) -> None:
        """Tell Redis how it stands with this executor."""
        if connection in self._reporting:
            self._reporting[connection] = True
            return
        self._reporting[connection] = False
        self._tasks.start(self._report(connection))

    def withdrawn(self, news: Withdrawn) -> None:
        """Somebody took this edge for gone; it lives, and so does the connection."""
        connection = self._connections.get(news.executor_id)
        if connection is not None and connection.connection_epoch == news.connection_epoch:
            self.report(connection)

    async def report_now(self, connection: Connection) -> None:
        """The same, and wait until it is told. Raises BusUnavailable."""
        self._partitions.used(connection.org_id)
        try:
            handed = await self._capacity.upsert(self._presence(connection))
        finally:
            if connection.is_over:
                # It ended meanwhile, and Redis may have read its withdrawal before this.
                self._tasks.start(self._withdraw(connection))
        await self._scheduler.forward(handed)

    async def _report(self, connection: Connection) -> None:
        try:
            while True:
                self._reporting[connection] = False
                if connection.is_over:
                    return
                is_told = await self._tell_redis(connection)
                # Also while Redis is away: people see what is connected.
                if not (await self._announce(connection) and is_told):
                    await asyncio.sleep(AGAIN_S)
                elif not self._reporting[connection]:
                    return
        finally:
            del self._reporting[connection]

    async def _tell_redis(self, connection: Connection) -> bool:
        try:
            await self.report_now(connection)
            await self._partitions.warm_if_cold(connection.org_id)
        except BusError as error:
            # Until it is told: a Redis that comes back with its data asks nobody to report again.
            log.warning("report_postponed", executor_id=connection.executor_id, error=str(error))
            return False
        return True

    async def _announce(self, connection: Connection) -> bool:
        """Who sees it online may count on its being chosen, so Redis is told first."""
        if connection.announced or self.get(connection.executor_id) is not connection:
            return True
        try:
            await announce(self._db, connection.executor_id, connection.connection_epoch)
        except STORE_AWAY as error:
            log.warning("announcement_postponed", executor_id=connection.executor_id, error=repr(error))
            return False
        connection.announced = True
        if connection.org_id is not None:
            tell_org(self._fanout, connection.org_id, "agents", connection.executor_id)
        return True

    async def _withdraw(self, connection: Connection) -> None:
        while True:
            try:
                handed = await self._capacity.remove(
                    connection.executor_id, connection.org_id, connection.connection_epoch
                )
                await self._scheduler.forward(handed)
            except BusError as error:
                # Nobody else would withdraw it while this process lives.
                log.warning("withdrawal_postponed", executor_id=connection.executor_id, error=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def _presence(self, connection: Connection) -> ExecutorPresence:
        hello = connection.peer.hello
        can = None if hello is None else hello.capabilities
        return ExecutorPresence(
            executor_id=connection.executor_id,
            org_id=connection.org_id,
            connection_epoch=connection.connection_epoch,
            edge_id=self._process_id,
            capacity=connection.capacity,
            routable=connection.routable,
            capabilities=Capabilities.of(
                kinds=None if can is None else can.kinds,
                connectors=None if can is None else can.connectors,
                engines=None if can is None else can.engines,
                backends=None if can is None else can.backends,
                tags=connection.tags,
            ),
        )
