"""Members: rows of `memberships`, and what ends with one."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("members")


class MemberRow(msgspec.Struct, frozen=True):
    """A person's place in the organization."""

    user_id: UUID
    email: str
    display_name: str | None
    role: str
    created_at: datetime


async def list_members(
    connection: asyncpg.Connection, after: UUID | None, limit: int, text: str | None
) -> list[MemberRow]:
    """By user id: the oldest accounts first. With `text`, those whose address or name has it."""
    return [MemberRow(**record) for record in await connection.fetch(QUERIES.list_members, after, limit, text)]


async def lock_owners(connection: asyncpg.Connection, org_id: UUID) -> list[UUID]:
    """The owners, held until the transaction ends."""
    return [record["user_id"] for record in await connection.fetch(QUERIES.lock_owners, org_id)]


async def lock_member(connection: asyncpg.Connection, org_id: UUID, user_id: UUID) -> MemberRow | None:
    record = await connection.fetchrow(QUERIES.lock_member, org_id, user_id)
    return None if record is None else MemberRow(**record)


async def change_role(connection: asyncpg.Connection, org_id: UUID, user_id: UUID, role: str) -> None:
    """The member's keys are lowered with it."""
    await connection.execute(QUERIES.change_role, org_id, user_id, role)
    await connection.execute(QUERIES.lower_keys_of, org_id, user_id, role)


async def remove_member(connection: asyncpg.Connection, org_id: UUID, user_id: UUID) -> list[UUID]:
    """The member's keys are revoked; answers which."""
    revoked = await connection.fetch(QUERIES.revoke_keys_of, org_id, user_id)
    await connection.execute(QUERIES.remove_member, org_id, user_id)
    return [record["id"] for record in revoked]
