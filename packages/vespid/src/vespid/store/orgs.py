"""Organizations: how one begins, and its settings."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("orgs")


class OrganizationRow(msgspec.Struct, frozen=True):
    """An organization."""

    id: UUID
    slug: str
    name: str
    created_at: datetime


class MembershipRow(msgspec.Struct, frozen=True):
    """A member's place in an organization."""

    organization_id: UUID
    user_id: UUID
    role: str
    created_at: datetime


async def create_organization(
    connection: asyncpg.Connection, org_id: UUID, slug: str, name: str
) -> OrganizationRow | None:
    """None where the slug is taken. The transaction must act for `org_id`."""
    record = await connection.fetchrow(QUERIES.create_organization, org_id, slug, name)
    return None if record is None else OrganizationRow(**record)


async def create_membership(
    connection: asyncpg.Connection, org_id: UUID, user_id: UUID, role: str
) -> MembershipRow | None:
    """None where the user is a member already."""
    record = await connection.fetchrow(QUERIES.create_membership, org_id, user_id, role)
    return None if record is None else MembershipRow(**record)


async def read_settings(connection: asyncpg.Connection, org_id: UUID) -> bytes | None:
    """What was set, as JSON; None where nothing was."""
    settings: bytes | None = await connection.fetchval(QUERIES.read_settings, org_id)
    return settings


async def lock_settings(connection: asyncpg.Connection, org_id: UUID) -> bytes:
    """What was set, held until the transaction ends."""
    settings: bytes = await connection.fetchval(QUERIES.lock_settings, org_id)
    return settings


async def replace_settings(connection: asyncpg.Connection, org_id: UUID, settings: bytes, user_id: UUID) -> None:
    await connection.execute(QUERIES.replace_settings, org_id, settings, user_id)
