"""Bindings: rows of `agent_bindings`. Each change is told in the control feed, for those who keep them (`Bindings`)."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.domain.binding import Binding, Dimension, read_match
from vespid.store.queries import load

QUERIES = load("bindings")
_ANNOUNCE = load("announcements").announce

# How many an organization may have.
BINDINGS_MAX = 1_000
CHANGED = "agent_bindings_changed"


class BindingRow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    agent_id: str
    priority: int
    dimension: Dimension
    # JSON, undecoded, here and below.
    match: bytes
    metadata: bytes
    created_by_user_id: UUID | None
    created_at: datetime
    updated_at: datetime


class NewBinding(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    agent_id: str
    priority: int
    dimension: Dimension
    match: bytes
    metadata: bytes
    user_id: UUID


async def list_bindings(
    connection: asyncpg.Connection, org_id: UUID, before: UUID | None, limit: int
) -> list[BindingRow]:
    return [_row(record) for record in await connection.fetch(QUERIES.list_bindings, org_id, before, limit)]


async def all_bindings(connection: asyncpg.Connection, org_id: UUID) -> list[Binding]:
    """What routing asks, in no order."""
    return [
        Binding(
            id=str(row.id),
            agent_id=row.agent_id,
            priority=row.priority,
            dimension=row.dimension,
            match=read_match(row.dimension, msgspec.json.decode(row.match, type=dict[str, object])),
        )
        for row in await list_bindings(connection, org_id, None, BINDINGS_MAX)
    ]


async def create_binding(connection: asyncpg.Connection, new: NewBinding) -> BindingRow | None:
    """None where the organization has BINDINGS_MAX."""
    record = await connection.fetchrow(
        QUERIES.create_binding,
        new.id,
        new.organization_id,
        new.agent_id,
        new.priority,
        new.dimension,
        new.match,
        new.metadata,
        new.user_id,
        BINDINGS_MAX,
    )
    if record is None:
        return None
    await _announce(connection, new.organization_id, new.id)
    return _row(record)


async def lock_binding(connection: asyncpg.Connection, org_id: UUID, binding_id: UUID) -> BindingRow | None:
    """The row, which stays as it is until the transaction ends."""
    record = await connection.fetchrow(QUERIES.lock_binding, org_id, binding_id)
    return None if record is None else _row(record)


async def change_binding(connection: asyncpg.Connection, changed: BindingRow) -> BindingRow:
    """Write what may change of a binding that is locked."""
    record = await connection.fetchrow(
        QUERIES.change_binding,
        changed.organization_id,
        changed.id,
        changed.agent_id,
        changed.priority,
        changed.dimension,
        changed.match,
        changed.metadata,
    )
    await _announce(connection, changed.organization_id, changed.id)
    return _row(record)


async def delete_binding(connection: asyncpg.Connection, org_id: UUID, binding_id: UUID) -> bool:
    """False where there is no such binding."""
    if await connection.fetchval(QUERIES.delete_binding, org_id, binding_id) is None:
        return False
    await _announce(connection, org_id, binding_id)
    return True


async def _announce(connection: asyncpg.Connection, org_id: UUID, binding_id: UUID) -> None:
    await connection.execute(_ANNOUNCE, org_id, CHANGED, str(binding_id), b"{}")


def _row(record: asyncpg.Record) -> BindingRow:
    return BindingRow(**record)
