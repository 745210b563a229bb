"""The audit log's rows."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("audit")


class NewEntry(msgspec.Struct, frozen=True):
    """What is written; `details` is JSON."""

    id: UUID
    organization_id: UUID
    actor_user_id: UUID | None
    actor_api_key_id: UUID | None
    action: str
    object_type: str
    object_id: str
    details: bytes
    ip: str | None
    user_agent: str | None
    request_id: str | None


class EntryRow(msgspec.Struct, frozen=True):
    """What is read."""

    id: UUID
    actor_user_id: UUID | None
    actor_api_key_id: UUID | None
    action: str
    object_type: str
    object_id: str
    details: bytes
    ip: str | None
    user_agent: str | None
    request_id: str | None
    created_at: datetime


async def record(connection: asyncpg.Connection, entry: NewEntry) -> None:
    """Add an entry, in the transaction of what it tells of."""
    await connection.execute(QUERIES.record, *msgspec.structs.astuple(entry))


async def list_entries(
    connection: asyncpg.Connection,
    before: UUID | None,
    limit: int,
    *,
    object_type: str | None = None,
    object_id: str | None = None,
    actor_user_id: UUID | None = None,
) -> list[EntryRow]:
    """The newest first; of what is named only that."""
    asked = (before, limit, object_type, object_id, actor_user_id)
    return [EntryRow(**row) for row in await connection.fetch(QUERIES.list_entries, *asked)]
