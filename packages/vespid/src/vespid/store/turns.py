"""Turns: messages that want an answer, leased to hosts. `vespid.domain.turn` is the machine; migration 0005 guards it.

`TurnStore` groups callers: what several of them ask for at the same time goes as one call and one commit.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.domain.selector import Pool
from vespid.store.group import GroupCommit
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid.store.usage import UsageItem
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, SessionId

QUERIES = load("turns")

MAX_TRIES = 3

_encode = msgspec.json.Encoder().encode

LostReason = Literal["closed", "silent", "revoked", "unopened", "omitted", "declined"]


class TurnToPlace(msgspec.Struct, frozen=True):
    """A turn that wants a host. The next lease is under `turn_epoch + 1`."""

    user_seq: int
    turn_epoch: int
    # Hosts that had it and were lost.
    tries: int
    state: str
    # Whose hosts may have it; None: the organization's own first, then the managed ones.
    pool: Pool | None
    requirement: bytes
    only_executor_id: UUID | None
    pinned_executor_id: UUID | None
    pinned_pool: Pool | None
    pin_policy: Literal["sticky", "home"]
    lost_executor_id: UUID | None
    lost_reason: str | None
    # How long ago that was.
    lost_ms: int | None
    waits_for: UUID | None
    waiting_reason: str | None
    created_at: datetime
    priority: int


class HostCopy(msgspec.Struct, frozen=True, rename="camel"):
    """What a host has of a session: of which generation, up to whose answer, and up to which version of its memory."""

    generation: int
    history_seq: int
    memory_version: int


class LeaseTurn(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Lease this turn to that executor on that connection, under the new `epoch`."""

    org: OrgId
    session: SessionId
    seq: int
    epoch: int
    executor: ExecutorId
    connection_epoch: int
    edge: ProcessId
    have: HostCopy | None = None


class LeasedTurn(msgspec.Struct, frozen=True):
    """The lease stands. JSON columns undecoded."""

    # The row of `sessions`, and `have_seq`: up to where the host's copy of the history is good (null: not at all).
    session: bytes
    user_id: UUID | None
    # {message, attachments?}
    payload: bytes
    # [{kind, level, message, payload}]: tool events of earlier tries; None: there was none.
    prior: bytes | None
    # [{seq, role, content}] and [{path, version, sha256, content}]; None: the host's copy is good.
    history: bytes | None
    memory: bytes | None
    is_pin_moved: bool
    remaining_ms: int


class NotLeased(msgspec.Struct, frozen=True):
    """`refused`: not on this executor, choose again. `gone`: it does not want a host any more."""

    outcome: Literal["refused", "gone"]


class SessionEventItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event, short keys as `vespid_i_append_session_events` reads them: type, level, payload.

    `s`: the host's own number of it; under one lease a number is taken once.
    """

    t: str
    l: str = "info"  # noqa: E741
    p: object = None
    s: int | None = None


class AppendTurnEvents(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    org: OrgId
    session: SessionId
    seq: int
    epoch: int
    executor: ExecutorId
    events: tuple[SessionEventItem, ...]


class TurnAppended(msgspec.Struct, frozen=True):
    """`fenced`: the turn is not that executor's, or it ended."""

    outcome: Literal["appended", "fenced"]
    event_seq: int | None


class ChangedDocument(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One file of memory; `content` None: it was deleted."""

    path: str
    sha256: str
    content: str | None
    # Equal for names of one file (`vespid_runtime.memory.paths.same_file_key`); None: in lower case.
    file_key: str | None = None


class FinishTurn(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The end that a host announced."""

    org: OrgId
    session: SessionId
    seq: int
    epoch: int
    executor: ExecutorId
    connection_epoch: int
    status: Literal["answered", "failed"]
    # Events that came before the end and are not committed yet.
    tail: tuple[SessionEventItem, ...] = ()
    # Payload of `agent_final`.
    answer: msgspec.Raw | None = None
    code: str | None = None
    message: str | None = None
    memory: tuple[ChangedDocument, ...] = ()
    # What a model took to make it; written where the end counts.
    usage: UsageItem | None = None


class TurnFinished(msgspec.Struct, frozen=True):
    """Every outcome but `stale` is acknowledged. `is_ours`: the sender's own copy of the history is good now."""

    outcome: Literal["applied", "cancelled", "duplicate", "fenced", "unknown", "stale"]
    # Of the answering event, where one was written.
    event_seq: int | None
    created_at: datetime | None
    has_next: bool
    is_ours: bool
    memory_version: int | None
    # What a model took was written with it.
    is_metered: bool


class LoseTurn(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Give a host up. With `connection_epoch` only while no newer connection of that executor stands."""

    org: OrgId
    session: SessionId
    seq: int
    epoch: int
    executor: ExecutorId
    reason: LostReason
    connection_epoch: int | None = None


class TurnLost(msgspec.Struct, frozen=True):
    """`gone`: it was not that executor's any more."""

    outcome: Literal["place", "failed", "cancelled", "gone"]
    event_seq: int | None
    has_next: bool


class HeldTurn(msgspec.Struct, frozen=True):
    """A turn that is with an executor (`is_held`), or waits for it while it is busy."""

    session_id: UUID
    organization_id: UUID
    user_seq: int
    turn_epoch: int
    pool: Pool | None
    state: str
    is_held: bool


class Attach(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a connection's hello says of turns."""

    connection_epoch: int
    edge: ProcessId
    running: tuple[RequestId, ...] = ()
    unacked: tuple[RequestId, ...] = ()
    is_base: bool
    same_journal: bool


class Attached(msgspec.Struct, frozen=True):
    """What became of one turn: see `vespid_x_attach_turns`. `foreign` has nothing but the two ids."""

    request_id: RequestId
    action: Literal["continues", "waits", "cancelling", "place", "failed", "cancelled", "foreign"]
    session_id: UUID
    organization_id: UUID | None
    user_seq: int | None
    turn_epoch: int | None
    pool: Pool | None
    event_seq: int | None
    remaining_ms: int | None


class SweptTurn(msgspec.Struct, frozen=True):
    """`place`: it wants a host. `ended`: stop it where it ran, and look at the session."""

    session_id: UUID
    organization_id: UUID
    action: Literal["place", "ended"]
    request_id: RequestId
    executor_id: UUID | None
    pool: Pool | None
    event_seq: int | None


class LiveTurn(msgspec.Struct, frozen=True):
    """A turn that is with a host."""

    session_id: UUID
    request_id: RequestId
    organization_id: UUID
    pool: Pool
    executor_id: UUID


class TurnStore:
    """A Service: `start` opens the grouped connections."""

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._db = db
        self._leases: GroupCommit[LeaseTurn, LeasedTurn | NotLeased] = GroupCommit(
            db, _lease, key=_session_of, connections=connections, name="lease-turns"
        )
        self._finishes: GroupCommit[FinishTurn, TurnFinished] = GroupCommit(
            db, _finish, key=_session_of, connections=connections, name="finish-turns"
        )
        self._appends: GroupCommit[AppendTurnEvents, TurnAppended] = GroupCommit(
            db, _append, key=_session_of, connections=1, name="append-turn-events"
        )
        self._losses: GroupCommit[LoseTurn, TurnLost] = GroupCommit(
            db, _lose, key=_session_of, connections=1, name="lose-turns"
        )

    async def start(self) -> None:
        for group in (self._leases, self._finishes, self._appends, self._losses):
            await group.start()

    async def stop(self) -> None:
        for group in (self._leases, self._finishes, self._appends, self._losses):
            await group.stop()

    async def look(self, org_id: OrgId, session_id: SessionId) -> TurnToPlace | None:
        """The turn of this session that wants a host now."""
        row = await self._db.fetchrow_system(QUERIES.look_at_session, UUID(org_id), UUID(session_id))
        return None if row is None else TurnToPlace(**row)

    async def lease(self, lease: LeaseTurn) -> LeasedTurn | NotLeased:
        """Committed before the first byte of the turn may be sent."""
        return await self._leases.submit(lease)

    async def append_events(self, append: AppendTurnEvents) -> TurnAppended:
        """Persist tool events."""
        return await self._appends.submit(append)

    async def finish(self, finish: FinishTurn) -> TurnFinished:
        """Commit the answer, what the turn changed in memory, and the turn's end, at once."""
        return await self._finishes.submit(finish)

    async def lose(self, loss: LoseTurn) -> TurnLost:
        """Give a host up: the turn is placed again, or fails."""
        return await self._losses.submit(loss)

    async def note_waiting(
        self, org_id: OrgId, session_id: SessionId, seq: int, epoch: int, reason: str, busy: ExecutorId | None
    ) -> int | None:
        """Say that it waits, once; the session's event_seq where that was said now."""
        noted: int | None = await self._db.fetchval_system(
            QUERIES.note_turn_waiting,
            UUID(org_id),
            UUID(session_id),
            seq,
            epoch,
            reason,
            None if busy is None else UUID(busy),
        )
        return noted

    async def fail_unplaced(
        self, org_id: OrgId, session_id: SessionId, seq: int, epoch: int, code: str, message: str, details: bytes | None
    ) -> int | None:
        """Nobody can have it; the session's event_seq, None where it does not want a host any more."""
        failed: int | None = await self._db.fetchval_system(
            QUERIES.fail_unplaced_turn, UUID(org_id), UUID(session_id), seq, epoch, code, message, details
        )
        return failed

    async def is_cut_off(self, executor_id: ExecutorId, *, waiting_since: datetime, within_ms: int) -> bool:
        """Whether a host that is not there went with its gateway and is about to come back, to a turn that has waited
        less than that time."""
        return bool(await self._db.fetchval_system(QUERIES.is_cut_off, UUID(executor_id), within_ms, waiting_since))

    async def of_executor(self, executor_id: ExecutorId) -> list[HeldTurn]:
        """Turns that are with an executor, and those that wait for it."""
        return [HeldTurn(**row) for row in await self._db.fetch_system(QUERIES.turns_of_executor, UUID(executor_id))]

    async def attach(self, executor_id: ExecutorId, said: Attach) -> list[Attached]:
        """Compare what a hello says of turns with those that we hold for that executor."""
        rows = await self._db.fetch_system(QUERIES.attach_turns, UUID(executor_id), _encode(said))
        return [Attached(**row) for row in rows]

    async def put_memory(
        self, org_id: OrgId, session_id: SessionId, executor_id: ExecutorId, docs: Sequence[ChangedDocument]
    ) -> int | None:
        """Documents that the pinned host pushed; the memory's version, None where it is not pinned there."""
        version: int | None = await self._db.fetchval_system(
            QUERIES.put_memory, UUID(org_id), UUID(session_id), UUID(executor_id), _encode(docs)
        )
        return version

    async def sweep(self, most: int = 200) -> list[SweptTurn]:
        """Act on turns whose time has come. A full batch means that there may be more."""
        return [SweptTurn(**row) for row in await self._db.fetch_system(QUERIES.sweep_turns, most)]


async def live_turns(db: Database, after: UUID, most: int) -> list[LiveTurn]:
    """A page of the turns that are with hosts, by session id."""
    return [LiveTurn(**row) for row in await db.fetch_system(QUERIES.live_turns, after, most)]


def _session_of(item: LeaseTurn | FinishTurn | AppendTurnEvents | LoseTurn) -> str:
    return item.session


async def _lease(connection: asyncpg.Connection, items: Sequence[LeaseTurn]) -> list[LeasedTurn | NotLeased]:
    answers = await connection.fetch(QUERIES.lease_turns, [_encode(item) for item in items])
    return [
        LeasedTurn(**{field: answer[field] for field in LeasedTurn.__struct_fields__})
        if answer["outcome"] == "leased"
        else NotLeased(answer["outcome"])
        for answer in answers
    ]


async def _append(connection: asyncpg.Connection, items: Sequence[AppendTurnEvents]) -> list[TurnAppended]:
    answers = await connection.fetch(QUERIES.append_turn_events, [_encode(item) for item in items])
    return [TurnAppended(**answer) for answer in answers]


async def _finish(connection: asyncpg.Connection, items: Sequence[FinishTurn]) -> list[TurnFinished]:
    answers = await connection.fetch(QUERIES.finish_turns, [_encode(item) for item in items])
    return [TurnFinished(**answer) for answer in answers]


async def _lose(connection: asyncpg.Connection, items: Sequence[LoseTurn]) -> list[TurnLost]:
    answers = await connection.fetch(QUERIES.lose_turns, [_encode(item) for item in items])
    return [TurnLost(**answer) for answer in answers]
