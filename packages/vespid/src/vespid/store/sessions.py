"""Sessions as people see them: created, written to, cancelled, reset, read. Their turns are in `turns`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.domain.binding import Routed
from vespid.domain.selector import Pool
from vespid.domain.session_key import Scope
from vespid.domain.session_options import EngineChoice
from vespid.store.group import GroupCommit
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid.store.turns import TurnToPlace
from vespid_protocol.ids import ExecutorId, OrgId, RequestId, SessionId, UserId, turn_request_id

QUERIES = load("sessions")

_encode = msgspec.json.Encoder().encode

SendOutcome = Literal["accepted", "repeated", "busy", "not_found"]


class NewSession(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A session as `vespid_create_session` reads it."""

    org: OrgId
    id: SessionId
    user_id: UserId | None
    session_key: str
    scope: Scope
    title: str | None = None
    routed_agent_id: str | None = None
    binding_id: str | None = None
    # What bindings are matched against when a message comes.
    routing: msgspec.Raw | None = None
    # The selector as it was written, and what follows from it.
    executor_selector: msgspec.Raw | None = None
    pool: Pool | None = None
    only_executor_id: ExecutorId | None = None
    required_tags: tuple[str, ...] = ()
    # `vespid.domain.selector.Requirement`.
    requirement: msgspec.Raw
    engine: EngineChoice
    tools_allow: tuple[str, ...] = ()
    limits: msgspec.Raw | None = None
    prompt_system: str | None = None
    prompt_instructions: str | None = None
    on_busy: Literal["queue", "reject", "interrupt"] | None = None
    on_host_lost: Literal["rerun", "fail"] | None = None
    pin_policy: Literal["sticky", "home"] | None = None
    turn_timeout_ms: int


class SessionRow(msgspec.Struct, frozen=True):
    """A row of `sessions`; JSON columns undecoded."""

    id: UUID
    organization_id: UUID
    created_by_user_id: UUID | None
    session_key: str
    scope: Scope
    title: str | None
    status: str
    routed_agent_id: str | None
    binding_id: UUID | None
    routing: bytes
    pinned_executor_id: UUID | None
    pinned_pool: Pool | None
    executor_selector: bytes | None
    pool: Pool | None
    only_executor_id: UUID | None
    required_tags: list[str]
    requirement: bytes
    engine_id: str
    engine: bytes
    tools_allow: list[str]
    limits: bytes
    prompt_system: str | None
    prompt_instructions: str | None
    on_busy: Literal["queue", "reject", "interrupt"]
    on_host_lost: Literal["rerun", "fail"]
    pin_policy: Literal["sticky", "home"]
    turn_timeout_ms: int
    generation: int
    event_seq: int
    history_from: int
    last_turn_seq: int
    memory_version: int
    created_at: datetime
    updated_at: datetime
    last_activity_at: datetime


class SessionEventRow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    session_id: UUID
    seq: int
    # The message whose turn it belongs to.
    turn_seq: int | None
    event_type: str
    level: str
    idempotency_key: str | None
    payload: bytes | None
    created_at: datetime


class OpenTurn(msgspec.Struct, frozen=True):
    """The turn that is with a host."""

    request_id: RequestId
    user_seq: int
    turn_epoch: int
    state: str
    executor_id: UUID
    edge_id: UUID


class SessionStanding(msgspec.Struct, frozen=True):
    """How a session stands: what `session_state` tells, how far its events go, and what runs."""

    event_seq: int
    scope: Scope
    pinned_executor_id: UUID | None
    pinned_pool: Pool | None
    routed_agent_id: str | None
    turn: OpenTurn | None


class NewMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A message as `vespid_send_messages` reads it."""

    org: OrgId
    session: SessionId
    user: UserId | None
    # {message, attachments?}
    payload: msgspec.Raw
    key: str | None = None
    # Where its sender's bindings route it; None: leave it where it is.
    routed: Routed | None = None


class CancelledTurn(msgspec.Struct, frozen=True, rename="camel"):
    """What a host has to stop."""

    request_id: RequestId
    executor_id: ExecutorId
    pool: Pool


class Sent(msgspec.Struct, frozen=True):
    """What became of a message. `accepted` and `repeated` have the event that stands for it.

    `is_next`: no other turn is before it; then `wanted` is what it wants of a host. `cancelled`: what it interrupted.
    """

    outcome: SendOutcome
    seq: int | None = None
    id: UUID | None = None
    payload: bytes | None = None
    created_at: datetime | None = None
    is_next: bool = False
    cancelled: tuple[CancelledTurn, ...] = ()
    wanted: TurnToPlace | None = None


class Ended(msgspec.Struct, frozen=True):
    """What a cancel or reset did. `seq`: the session's event_seq now. `has_next`: a message wants a host."""

    seq: int
    cancelled: tuple[CancelledTurn, ...]
    has_next: bool


_decode_cancelled = msgspec.json.Decoder(tuple[CancelledTurn, ...]).decode


class MessageSender:
    """Puts messages down, several callers' as one commit. A Service: `start` opens the grouped connections."""

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._messages: GroupCommit[NewMessage, Sent] = GroupCommit(
            db, _send, key=lambda message: message.session, connections=connections, name="send-messages"
        )

    async def start(self) -> None:
        await self._messages.start()

    async def stop(self) -> None:
        await self._messages.stop()

    async def send(self, message: NewMessage) -> Sent:
        """It is durable when this returns. Raises what `GroupCommit.submit` raises."""
        return await self._messages.submit(message)


async def create_session(connection: asyncpg.Connection, session: NewSession) -> tuple[SessionRow, bool]:
    """The session, and whether it was made now; an existing one of that key is answered as it stands."""
    made = await connection.fetchrow(QUERIES.create_session, _encode(session))
    row = await read_session(connection, UUID(session.org), made["id"])
    if row is None:
        raise RuntimeError("a session that was just created is not there")
    return row, made["is_new"]


async def read_session(connection: asyncpg.Connection, org_id: UUID, session_id: UUID) -> SessionRow | None:
    row = await connection.fetchrow(QUERIES.read_session, org_id, session_id)
    return None if row is None else SessionRow(**row)


async def find_session(connection: asyncpg.Connection, org_id: UUID, session_key: str) -> SessionRow | None:
    row = await connection.fetchrow(QUERIES.find_session, org_id, session_key)
    return None if row is None else SessionRow(**row)


async def list_sessions(
    connection: asyncpg.Connection, org_id: UUID, before: UUID | None, limit: int, text: str | None = None
) -> list[SessionRow]:
    """Newest first, from before that id on. With `text`, those whose title or key has it."""
    return [SessionRow(**row) for row in await connection.fetch(QUERIES.list_sessions, org_id, before, limit, text)]


async def retitle_session(
    connection: asyncpg.Connection, org_id: UUID, session_id: UUID, title: str | None
) -> SessionRow | None:
    row = await connection.fetchrow(QUERIES.retitle_session, org_id, session_id, title)
    return None if row is None else SessionRow(**row)


async def list_events(
    connection: asyncpg.Connection, session_id: UUID, after_seq: int, limit: int, *, max_bytes: int
) -> list[SessionEventRow]:
    """Events in the order of `seq`, which is the order of their commits: at least one if there is any, and no more than
    `limit`, nor than have payloads of `max_bytes` together. The caller has looked whose session it is.
    """
    found = await connection.fetch(QUERIES.list_events, session_id, after_seq, limit, max_bytes)
    return [SessionEventRow(**row) for row in found]


async def read_standing(connection: asyncpg.Connection, org_id: UUID, session_id: UUID) -> SessionStanding | None:
    row = await connection.fetchrow(QUERIES.read_standing, org_id, session_id)
    return None if row is None else standing_of(SessionId(str(session_id)), row)


def standing_of(session_id: SessionId, row: asyncpg.Record) -> SessionStanding:
    """A row with the columns of `read_standing`."""
    turn = None
    if row["executor_id"] is not None:
        turn = OpenTurn(
            turn_request_id(session_id, row["user_seq"], row["turn_epoch"]),
            row["user_seq"],
            row["turn_epoch"],
            row["state"],
            row["executor_id"],
            row["edge_id"],
        )
    return SessionStanding(
        row["event_seq"], row["scope"], row["pinned_executor_id"], row["pinned_pool"], row["routed_agent_id"], turn
    )


async def cancel_turn(connection: asyncpg.Connection, org_id: UUID, session_id: UUID) -> Ended | None:
    """Stop what runs; where nothing runs yet, the message that waits. None: no such session."""
    return _ended(await connection.fetchrow(QUERIES.cancel_turn, org_id, session_id))


async def reset_session(connection: asyncpg.Connection, org_id: UUID, session_id: UUID, *, clear: bool) -> Ended | None:
    """Let the agent begin anew; `clear` forgets what was said. None: no such session."""
    return _ended(await connection.fetchrow(QUERIES.reset_session, org_id, session_id, clear))


def _ended(row: asyncpg.Record | None) -> Ended | None:
    return None if row is None else Ended(row["seq"], _decode_cancelled(row["cancelled"]), row["has_next"])


async def _send(connection: asyncpg.Connection, messages: Sequence[NewMessage]) -> list[Sent]:
    answers = await connection.fetch(QUERIES.send_messages, [_encode(message) for message in messages])
    return [
        Sent(
            answer["outcome"],
            answer["seq"],
            answer["id"],
            answer["payload"],
            answer["created_at"],
            answer["is_next"],
            _decode_cancelled(answer["cancelled"]),
            _wanted(answer) if answer["outcome"] == "accepted" and answer["is_next"] else None,
        )
        for answer in answers
    ]


def _wanted(answer: asyncpg.Record) -> TurnToPlace:
    return TurnToPlace(
        user_seq=answer["seq"],
        turn_epoch=0,
        tries=0,
        state="queued",
        pool=answer["pool"],
        requirement=answer["requirement"],
        only_executor_id=answer["only_executor_id"],
        pinned_executor_id=answer["pinned_executor_id"],
        pinned_pool=answer["pinned_pool"],
        pin_policy=answer["pin_policy"],
        lost_executor_id=None,
        lost_reason=None,
        lost_ms=None,
        waits_for=None,
        waiting_reason=None,
        created_at=answer["created_at"],
        priority=0,
    )
