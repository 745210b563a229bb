"""What other processes and people tell this edge: cancels, newer connections elsewhere, reports, revokes, tags."""

import msgspec
import structlog

from vespid.bus import messages
from vespid.bus.channels import EDGES
from vespid.bus.errors import BusError
from vespid.bus.messages import CancelOrder, CancelTurn, CapacityReported, ReportCapacity, Superseded
from vespid.dispatch.house import House
from vespid.gateway.edge.desk import superseded_by
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.tokens import Tokens
from vespid.gateway.edge.turns import Turns
from vespid.store.connections import FeedRow, revoke_leases
from vespid.store.failure import STORE_AWAY
from vespid.tasks import Tasks
from vespid_protocol.connection import Event
from vespid_protocol.ids import ExecutorId, OrgId, RequestId

log = structlog.get_logger("vespid.gateway.edge.orders")


class _Tags(msgspec.Struct, frozen=True):
    """Payload of `executor_tags`."""

    tags: tuple[str, ...]


_decode_tags = msgspec.json.Decoder(_Tags).decode


class Orders:
    """A Service while it listens to the channel of all edges; the feed is handed in row by row."""

    def __init__(self, house: House, registry: Registry, tokens: Tokens, turns: Turns, tasks: Tasks) -> None:
        self._house = house
        self._registry = registry
        self._tokens = tokens
        self._turns = turns
        self._tasks = tasks
        self._leave: object = None

    async def start(self) -> None:
        if self._leave is None:
            self._leave = await self._house.fanout.subscribe(EDGES, self._heard)

    async def stop(self) -> None:
        leave, self._leave = self._leave, None
        if callable(leave):
            await leave()

    def _heard(self, data: bytes | None) -> None:
        if data is None:
            # A gap: cancels that were missed are acted on by their deadlines, supersessions by the next stale frame.
            return
        try:
            message = messages.decode(data)
        except msgspec.DecodeError:
            log.warning("order_unreadable")
            return
        if isinstance(message, CancelOrder):
            self._cancel(message)
        elif isinstance(message, CancelTurn):
            self._turns.cancel(message)
        elif isinstance(message, Superseded):
            self._supersede(message)
        elif isinstance(message, ReportCapacity):
            self._tasks.start(self._report(message))

    def _cancel(self, order: CancelOrder) -> None:
        connection = self._registry.get(order.executor_id)
        if connection is None:
            return
        connection.cancel(order.request_id, order.reason)
        held = connection.in_flight.get(order.request_id)
        if order.is_over and held is not None and held.lease_epoch == order.lease_epoch:
            del connection.in_flight[order.request_id]
            connection.peer.release(order.request_id)

    def _supersede(self, newer: Superseded) -> None:
        connection = self._registry.get(newer.executor_id)
        if connection is not None and connection.connection_epoch < newer.connection_epoch:
            connection.end(*superseded_by(connection, newer.instance_id))

    async def _report(self, order: ReportCapacity) -> None:
        try:
            for connection in self._registry.of_partition(order.org_id):
                if not connection.is_over:
                    await self._registry.report_now(connection)
            await self._house.mail.send(order.reply_to, CapacityReported(self._house.process_id, order.nonce))
        except BusError as error:
            log.warning("capacity_not_reported", error=str(error))

    # --- the control feed --------------------------------------------------------------------------------------------

    def read(self, row: FeedRow) -> None:
        """One row of the feed."""
        if not row.kind.startswith("executor_"):
            return
        executor_id = ExecutorId(row.subject_id)
        connection = self._registry.get(executor_id)
        if row.kind in ("executor_revoked", "executor_disabled"):
            for socket in self._registry.sockets_of(executor_id):
                socket.end(Event.REVOKED, "this agent was revoked")
            self._tasks.start(self._revoke(executor_id))
            self._tasks.start(self._turns.hosts.revoked(executor_id))
        elif row.kind == "executor_token_rotated":
            self._tokens.rotated(executor_id)
        elif connection is not None and row.kind == "executor_tags":
            connection.tags = _decode_tags(row.payload).tags
            self._registry.report(connection)
        elif connection is not None and row.kind in ("executor_cordoned", "executor_uncordoned"):
            connection.cordoned = row.kind == "executor_cordoned"
            self._registry.report(connection)

    async def _revoke(self, executor_id: ExecutorId) -> None:
        """Every gateway does this; the second finds nothing left."""
        try:
            for lost in await revoke_leases(self._house.db, executor_id):
                org_id = OrgId(str(lost.organization_id))
                request_id = RequestId(lost.request_id)
                await self._house.scheduler.released(request_id, org_id)
                if lost.action == "reoffer":
                    await self._house.scheduler.offer_pending([request_id])
                elif lost.run_id is not None:
                    self._house.stepper.wake(org_id, str(lost.run_id))
        except STORE_AWAY as error:
            # Its leases expire by the sweep.
            log.warning("revoked_leases_remain", executor_id=executor_id, error=repr(error))
