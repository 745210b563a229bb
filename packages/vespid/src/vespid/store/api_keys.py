"""API keys: rows without their values."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("api_keys")


class ApiKeyRow(msgspec.Struct, frozen=True):
    """A key, without its value."""

    id: UUID
    name: str
    role: str
    created_by_user_id: UUID
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


async def create_key(
    connection: asyncpg.Connection,
    key_id: UUID,
    org_id: UUID,
    name: str,
    role: str,
    token_sha256: bytes,
    created_by: UUID,
    expires_at: datetime | None,
) -> ApiKeyRow:
    record = await connection.fetchrow(
        QUERIES.create_key, key_id, org_id, name, role, token_sha256, created_by, expires_at
    )
    return ApiKeyRow(**record)


async def list_keys(
    connection: asyncpg.Connection, before: UUID | None, limit: int, text: str | None
) -> list[ApiKeyRow]:
    """The newest first; not the revoked ones. With `text`, those whose name has it."""
    return [ApiKeyRow(**record) for record in await connection.fetch(QUERIES.list_keys, before, limit, text)]


async def lock_key(connection: asyncpg.Connection, key_id: UUID) -> ApiKeyRow | None:
    """None for a key that is unknown or revoked."""
    record = await connection.fetchrow(QUERIES.lock_key, key_id)
    return None if record is None else ApiKeyRow(**record)


async def revoke_key(connection: asyncpg.Connection, key_id: UUID) -> None:
    await connection.execute(QUERIES.revoke_key, key_id)
