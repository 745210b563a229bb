"""What the edge does when an executor says hello, changes, or leaves; its work goes to grants, results and streams."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import structlog

from vespid.bus.channels import EDGES
from vespid.bus.messages import Superseded, encode
from vespid.bus.org_news import tell_org
from vespid.dispatch.house import House
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.grants import Grants
from vespid.gateway.edge.inflight import InFlight
from vespid.gateway.edge.memory import HostMemory
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.results import Results
from vespid.gateway.edge.streams import Streams
from vespid.gateway.edge.turn_hosts import is_turn
from vespid.gateway.edge.turns import Turns
from vespid.settings import GatewaySettings
from vespid.store.connections import HeldLease, HelloItem, disconnect, hello, is_revoked, set_draining
from vespid.store.failure import STORE_AWAY
from vespid.tasks import Tasks
from vespid_protocol import effects as fx
from vespid_protocol.connection import Event
from vespid_protocol.frames import (
    PROTOCOL_VERSION,
    ExecuteEvent,
    ExecuteResult,
    Hello,
    MemorySyncResult,
    SessionOpened,
    TurnDelta,
    TurnError,
    TurnEvent,
    TurnFinal,
    Welcome,
)
from vespid_protocol.gateway_peer import Strikes
from vespid_protocol.ids import ExecutorId, OrgId, RequestId
from vespid_protocol.offers import fitting

log = structlog.get_logger("vespid.gateway.edge.desk")

STRIKES_KEPT = 10_000

_REVOKED = (Event.REVOKED, "this agent was revoked")
_REPLACED = (Event.REPLACED, "a newer connection stands")


class EdgeDesk:
    """`connection.Desk` for the whole edge."""

    def __init__(
        self,
        house: House,
        settings: GatewaySettings,
        registry: Registry,
        grants: Grants,
        results: Results,
        streams: Streams,
        turns: Turns,
        memory: HostMemory,
        tasks: Tasks,
    ) -> None:
        self._house = house
        self._settings = settings
        self._registry = registry
        self._grants = grants
        self._results = results
        self._streams = streams
        self._turns = turns
        self._memory = memory
        self._tasks = tasks
        # Executors that did not take their work, across connections; the longest unheard of first.
        self._strikes: OrderedDict[ExecutorId, Strikes] = OrderedDict()

    # --- work --------------------------------------------------------------------------------------------------------

    def declined(self, connection: Connection, request_id: RequestId, lease_epoch: int | None) -> None:
        in_flight = connection.in_flight.get(request_id)
        if in_flight is not None and lease_epoch in (None, in_flight.lease_epoch):
            del connection.in_flight[request_id]
            self._tasks.start(self._grants.declined(connection.executor_id, in_flight))

    def progress(self, connection: Connection, frame: ExecuteEvent, lease_epoch: int | None) -> None:
        if connection.registering is None:
            self._streams.came(connection, frame, lease_epoch)
        else:
            # Callbacks of one future are called in the order in which they were added.
            connection.registering.add_done_callback(lambda _done: self._streams.came(connection, frame, lease_epoch))

    def result(self, connection: Connection, frame: ExecuteResult, lease_epoch: int | None) -> None:
        self._results.came(connection, frame, lease_epoch)

    def session(self, connection: Connection, frame: fx.SessionReply) -> None:
        if isinstance(frame, MemorySyncResult):
            self._memory.answered(connection, frame)
        elif type(frame) in _SESSION_FRAMES:
            _SESSION_FRAMES[type(frame)](self._turns, connection, frame)

    # --- the connection ----------------------------------------------------------------------------------------------

    def register(self, connection: Connection, hello: Hello, *, is_first: bool) -> None:
        # What it said before its hello is settled first, or it would be counted as still being out; what comes from now
        # on waits until it is known what it holds.
        earlier = self._results.under_way(connection)
        if is_first:
            connection.registering = asyncio.get_running_loop().create_future()
        self._tasks.start(self._register(connection, hello, earlier, is_first=is_first))

    def not_taken(self, connection: Connection) -> None:
        strikes = self._strikes.setdefault(connection.executor_id, Strikes())
        self._strikes.move_to_end(connection.executor_id)
        while len(self._strikes) > STRIKES_KEPT:
            self._strikes.popitem(last=False)
        if strikes.add(connection.now_ms):
            log.warning("executor_paused", executor_id=connection.executor_id)

    def routable_changed(self, connection: Connection, *, is_draining: bool) -> None:
        if is_draining:
            self._tasks.start(self._drain(connection))
        self._registry.report(connection)

    def over(self, connection: Connection) -> None:
        self._registry.remove(connection)
        self._memory.over(connection)
        self._tasks.start(self._disconnect(connection))

    def paused_until(self, executor_id: ExecutorId) -> int:
        """Monotonic ms before which an executor is given nothing."""
        strikes = self._strikes.get(executor_id)
        return 0 if strikes is None else strikes.paused_until

    # --- inner -------------------------------------------------------------------------------------------------------

    async def _register(
        self, connection: Connection, said: Hello, earlier: Collection[asyncio.Future[None]], *, is_first: bool
    ) -> None:
        try:
            if is_first and earlier:
                await asyncio.wait(earlier)
            await self._registered(connection, said, is_first=is_first)
        finally:
            if is_first and connection.registering is not None:
                waiting, connection.registering = connection.registering, None
                waiting.set_result(None)

    async def _registered(self, connection: Connection, said: Hello, *, is_first: bool) -> None:
        try:
            leases = await hello(self._house.db, connection.executor_id, _item(connection, said, reconciles=is_first))
        except STORE_AWAY as error:
            # Unregistered it would be a socket that gets nothing; a new one starts afresh.
            log.warning("hello_failed", executor_id=connection.executor_id, error=repr(error))
            connection.end(Event.SHUT_DOWN, "the gateway could not register this connection")
            return
        if connection.is_over:
            return
        if leases and leases[0].action == "stale":
            known = await is_revoked(self._house.db, connection.executor_id)
            connection.end(*(_REVOKED if known else _REPLACED))
            return
        connection.capacity = said.room if connection.org_id is not None else min(said.room, connection.capacity)
        if is_first:
            older = self._registry.add(connection)
            if older is connection:
                connection.end(*_REPLACED)
                return
            if older is not None:
                older.end(*superseded_by(older, said.instance_id))
            self._house.fanout.publish(
                EDGES, encode(Superseded(connection.executor_id, connection.connection_epoch, said.instance_id))
            )
            connection.attach(self._welcome(connection))
        for lease in leases:
            await self._reconcile(connection, lease)
        if is_first:
            await self._attach_turns(connection, said)
        else:
            self._turns.hosts.copies(connection, said)
        if is_first and connection.paused_until_ms > connection.now_ms:
            connection.wheel.plan(connection, connection.paused_until_ms)
        self._registry.report(connection)

    async def _reconcile(self, connection: Connection, lease: HeldLease) -> None:
        """One lease that Postgres holds for this executor, or one that only the agent believes in."""
        request_id = RequestId(lease.request_id)
        if lease.action == "foreign":
            connection.cancel(request_id, "leased to somebody else, or over")
        elif lease.action == "resend":
            await self._grants.resend(connection, lease)
        elif lease.action in ("continues", "waits", "cancelling"):
            if request_id not in connection.in_flight:
                in_flight = connection.in_flight[request_id] = InFlight.of_lease(lease, connection.pool)
                await self._grants.mask(in_flight, lease.secret_refs)
            if lease.action == "cancelling":
                connection.cancel(request_id, "cancelled")
        else:
            org_id = OrgId(str(lease.organization_id))
            await self._house.scheduler.released(request_id, org_id, executor_id=connection.executor_id)
            if lease.action == "reoffer":
                await self._house.scheduler.offer_pending([request_id])
            elif lease.run_id is not None:
                self._house.stepper.wake(org_id, str(lease.run_id))

    async def _attach_turns(self, connection: Connection, said: Hello) -> None:
        try:
            await self._turns.hosts.attach(connection, said)
        except STORE_AWAY as error:
            # Its turns are found by their deadlines, or by what the host says of them.
            log.warning("turns_not_attached", executor_id=connection.executor_id, error=repr(error))

    async def _drain(self, connection: Connection) -> None:
        try:
            await set_draining(self._house.db, connection.executor_id, connection.connection_epoch)
        except STORE_AWAY as error:
            log.warning("drain_not_noted", executor_id=connection.executor_id, error=repr(error))

    async def _disconnect(self, connection: Connection) -> None:
        try:
            await disconnect(
                self._house.db, connection.executor_id, connection.connection_epoch, self._settings.agent_lease_ms
            )
        except STORE_AWAY as error:
            # Its edge is this process: when its lease passes, or at its next connection, it is put right.
            log.warning("disconnect_not_noted", executor_id=connection.executor_id, error=repr(error))
        if connection.org_id is not None:
            tell_org(self._house.fanout, connection.org_id, "agents", connection.executor_id)
        # Behind it: who is looked for now must not be found here.
        self._turns.hosts.over(connection)

    def _welcome(self, connection: Connection) -> Welcome:
        settings = self._settings
        return Welcome(
            protocol_version=PROTOCOL_VERSION,
            connection_epoch=connection.connection_epoch,
            executor_id=connection.executor_id,
            organization_id=connection.org_id,
            server_time=server_time(),
            heartbeat_ms=settings.heartbeat_ms,
            stale_ms=settings.gateway_agent_stale_ms,
            lease_ms=settings.agent_lease_ms,
            max_frame_bytes=settings.max_frame_bytes,
            max_in_flight=connection.capacity,
            tags=connection.tags,
        )


def server_time() -> str:
    """Now, as it stands on the wire."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def superseded_by(older: Connection, newer_instance: str | None) -> tuple[Event, str]:
    ours = None if older.peer.hello is None else older.peer.hello.instance_id
    if ours is not None and ours == newer_instance:
        return Event.REPLACED, "replaced by a newer socket of this process"
    return Event.SUPERSEDED, "another process uses this credential"


def _item(connection: Connection, said: Hello, *, reconciles: bool) -> HelloItem:
    can = said.capabilities
    return HelloItem(
        connection_epoch=connection.connection_epoch,
        agent_version=said.agent_version,
        name=said.name,
        kinds=None if can is None else can.kinds,
        connectors=None if can is None else can.connectors,
        engines=None if can is None else can.engines,
        backends=None if can is None else can.backends,
        reported_tags=() if can is None or can.tags is None else can.tags,
        # What a managed one may do at once was said when it was issued.
        max_in_flight=None if connection.org_id is None else said.room,
        protocol_version=PROTOCOL_VERSION if said.speaks_v2 else 1,
        instance_id=said.instance_id,
        journal_id=said.journal_id,
        in_flight=[held for held in said.in_flight or () if not is_turn(held.request_id)] if reconciles else None,
        unacked=[request for request in said.unacked or () if not is_turn(request)],
        capabilities={} if can is None else fitting(can),
    )


# A `memory_query_result` is not among them: the server searches its own copy, and asks no host.
_SESSION_FRAMES: dict[type, Callable[[Turns, Connection, Any], None]] = {
    SessionOpened: Turns.opened,
    TurnDelta: Turns.delta,
    TurnEvent: Turns.event,
    TurnFinal: Turns.ended,
    TurnError: Turns.ended,
}
