"""Idempotency keys: a claim, and the answer that was given to it."""

from uuid import UUID

import asyncpg
import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("idempotency")


class Claim(msgspec.Struct, frozen=True):
    """A key that was used before. Without a status, its request has not been answered yet."""

    body_sha256: bytes
    resource_id: UUID
    status: int | None
    answer: bytes | None


async def lock_scope(connection: asyncpg.Connection, scope_sha256: bytes) -> None:
    """Hold the key until the transaction ends."""
    await connection.execute(QUERIES.lock_scope, scope_sha256)


async def find_claim(connection: asyncpg.Connection, scope_sha256: bytes) -> Claim | None:
    record = await connection.fetchrow(QUERIES.find_answer, scope_sha256)
    return None if record is None else Claim(**record)


async def claim(
    connection: asyncpg.Connection, scope_sha256: bytes, org_id: OrgId | None, body_sha256: bytes, resource_id: UUID
) -> None:
    org = UUID(org_id) if org_id is not None else None
    await connection.execute(QUERIES.claim_key, scope_sha256, org, body_sha256, resource_id)


async def store_answer(connection: asyncpg.Connection, scope_sha256: bytes, status: int, answer: bytes) -> None:
    await connection.execute(QUERIES.store_answer, scope_sha256, status, answer)


async def enter_tenant(connection: asyncpg.Connection, org_id: OrgId | None) -> None:
    """For the rest of the transaction, act for this organization, or for none."""
    await connection.execute(QUERIES.enter_tenant, str(UUID(org_id)) if org_id is not None else "")


async def prune_keys(database: Database, limit: int) -> int:
    """Forget answers that are older than their day; answers how many."""
    forgotten: int = await database.fetchval_system(QUERIES.prune_keys, limit)
    return forgotten
