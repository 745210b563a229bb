"""Hosts with turns: what they still have when they connect, and when they are given up.

A host whose socket closes, that is revoked, or that says nothing at all for five seconds has no turn any more: the turn
goes elsewhere, and what the host says of it later counts only until somebody else is leased it.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from prometheus_client import Counter

from vespid.dispatch.house import House
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.turn_ends import TurnEnds
from vespid.gateway.edge.turn_leases import TurnLeases
from vespid.store.failure import STORE_AWAY
from vespid.store.turns import Attach, Attached, HostCopy, LoseTurn, LostReason, TurnStore
from vespid.tasks import Tasks
from vespid_protocol.frames import Hello, SessionCancel
from vespid_protocol.ids import (
    ExecutorId,
    IdInvalid,
    OrgId,
    RequestId,
    SessionId,
    parse_turn_request_id,
    turn_request_id,
)

log = structlog.get_logger("vespid.gateway.edge.turn_hosts")

HOSTS_LOST = Counter("vespid_turn_hosts_lost_total", "Hosts given up in the middle of a turn", ["reason"])

# A host that has a turn is asked whether it lives, and given up where it says nothing at all.
WATCH_S = 1.0
PROBE_AFTER_MS = 2_000
SILENT_MS = 5_000
# A host that said it has no room is asked again no sooner.
DECLINED_S = 1.0
COPIES_MAX = 4_096


class TurnHosts:
    """A Service: the watch over hosts that have a turn."""

    def __init__(self, house: House, store: TurnStore, leases: TurnLeases, ends: TurnEnds, tasks: Tasks) -> None:
        self._house = house
        self._store = store
        self._leases = leases
        self._ends = ends
        self._tasks = tasks
        # Connections with a turn that runs.
        self._hosts: set[Connection] = set()
        self._watch: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._hosts))

    def add(self, connection: Connection) -> None:
        """It has a turn now."""
        self._hosts.add(connection)

    async def start(self) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch(), name="turn-hosts")

    async def stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    # --- connections -------------------------------------------------------------------------------------------------

    @staticmethod
    def copies(connection: Connection, said: Hello) -> None:
        """Every hello says which sessions the host has, and how much of each."""
        connection.copies = {
            SessionId(session.session_id): HostCopy(session.generation, session.history_seq, session.memory_version)
            for session in (said.open_sessions or ())[:COPIES_MAX]
        }

    async def attach(self, connection: Connection, said: Hello) -> None:
        """After the first hello: which turns it still has, which are lost, and which it must stop."""
        self.copies(connection, said)
        running = tuple(RequestId(held.request_id) for held in said.in_flight or () if is_turn(held.request_id))
        rows = await self._store.attach(
            connection.executor_id,
            Attach(
                connection_epoch=connection.connection_epoch,
                edge=self._house.process_id,
                running=running,
                unacked=tuple(RequestId(request) for request in said.unacked or () if is_turn(request)),
                is_base=not said.speaks_v2,
                same_journal=said.speaks_v2 and connection.journal_id in (None, said.journal_id),
            ),
        )
        for row in rows:
            await self._attached(connection, row)

    def over(self, connection: Connection) -> None:
        """Its socket is gone: what ran there goes elsewhere, and who waited for it need not wait."""
        self._hosts.discard(connection)
        self._tasks.start(self._lose_all(connection))

    async def lose(self, connection: Connection, turn: HostedTurn, reason: LostReason) -> None:
        """Give this host up for a turn: it goes elsewhere, or fails."""
        self._ends.over(connection, turn)
        connection.copies.pop(turn.session_id, None)
        loss = LoseTurn(
            org=turn.org_id,
            session=turn.session_id,
            seq=turn.seq,
            epoch=turn.epoch,
            executor=connection.executor_id,
            reason=reason,
            connection_epoch=connection.connection_epoch,
        )
        try:
            await self._lose(loss, turn.request_id)
        except STORE_AWAY as error:
            # The sweep finds turns whose executor is lost, and those whose time is over.
            log.warning("turn_loss_not_noted", request_id=turn.request_id, error=repr(error))

    async def revoked(self, executor_id: ExecutorId) -> None:
        """Nothing more of it counts. Every gateway does this; the second finds nothing left."""
        try:
            for held in await self._store.of_executor(executor_id):
                org_id, session_id = OrgId(str(held.organization_id)), SessionId(str(held.session_id))
                if held.is_held:
                    loss = LoseTurn(
                        org=org_id,
                        session=session_id,
                        seq=held.user_seq,
                        epoch=held.turn_epoch,
                        executor=executor_id,
                        reason="revoked",
                    )
                    await self._lose(loss, turn_request_id(session_id, held.user_seq, held.turn_epoch))
                else:
                    self._leases.place_again(org_id, session_id)
        except STORE_AWAY as error:
            # The sweep finds turns whose executor is revoked.
            log.warning("revoked_turns_remain", executor_id=executor_id, error=repr(error))

    # --- inner -------------------------------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for connection in tuple(self._hosts):
                if connection.is_over or not connection.turns:
                    self._hosts.discard(connection)
                    continue
                quiet_ms = connection.now_ms - connection.peer.last_heard
                if quiet_ms >= SILENT_MS:
                    for turn in tuple(connection.turns.values()):
                        if not turn.ending:
                            self._tasks.start(self.lose(connection, turn, "silent"))
                elif quiet_ms >= PROBE_AFTER_MS:
                    connection.probe()

    async def _lose_all(self, connection: Connection) -> None:
        for turn in tuple(connection.turns.values()):
            await self.lose(connection, turn, "closed")
        try:
            for held in await self._store.of_executor(connection.executor_id):
                if not held.is_held:
                    self._leases.place_again(OrgId(str(held.organization_id)), SessionId(str(held.session_id)))
        except STORE_AWAY as error:
            # The sweep looks at those that wait.
            log.warning("waiting_turns_not_told", executor_id=connection.executor_id, error=repr(error))

    async def _lose(self, loss: LoseTurn, request_id: RequestId) -> None:
        lost = await self._store.lose(loss)
        if lost.outcome == "gone":
            return
        HOSTS_LOST.labels(loss.reason).inc()
        if lost.event_seq is not None:
            self._ends.moved(loss.session, lost.event_seq)
        await self._house.scheduler.released(request_id, loss.org, executor_id=loss.executor)
        if lost.has_next:
            self._leases.place_again(loss.org, loss.session, DECLINED_S if loss.reason == "declined" else 0.0)

    async def _attached(self, connection: Connection, row: Attached) -> None:
        if row.action == "foreign" or row.organization_id is None or row.user_seq is None or row.turn_epoch is None:
            # A managed host of another organization's session is not told whose it is.
            org_id = connection.org_id or OrgId("")
            send_cancel(connection, row.request_id, SessionId(str(row.session_id)), org_id)
            return
        org_id, session_id = OrgId(str(row.organization_id)), SessionId(str(row.session_id))
        if row.event_seq is not None:
            self._ends.moved(session_id, row.event_seq)
        if row.action in ("place", "failed", "cancelled"):
            await self._house.scheduler.released(row.request_id, org_id, executor_id=connection.executor_id)
            self._leases.place_again(org_id, session_id)
            return
        if row.request_id not in connection.turns:
            connection.turns[row.request_id] = HostedTurn(
                request_id=row.request_id,
                org_id=org_id,
                session_id=session_id,
                seq=row.user_seq,
                epoch=row.turn_epoch,
                pool=connection.pool,
            )
            self._hosts.add(connection)
        if row.action == "cancelling":
            send_cancel(connection, row.request_id, session_id, org_id)


def send_cancel(connection: Connection, request_id: RequestId, session_id: SessionId, org_id: OrgId) -> None:
    """Have a host stop a turn."""
    # What it makes of the turn it stops is not what the session's history says.
    connection.copies.pop(session_id, None)
    connection.forward(SessionCancel(request_id=request_id, organization_id=org_id, session_id=session_id))


def is_turn(request_id: str) -> bool:
    """Whether a requestId names a try of a turn rather than an attempt of a node."""
    try:
        parse_turn_request_id(request_id)
    except IdInvalid:
        return False
    return True
