"""People: accounts, and what they are members of."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.pool import Database
from vespid.store.queries import load

QUERIES = load("users")


class UserRow(msgspec.Struct, frozen=True):
    """A person, without the password's hash."""

    id: UUID
    email: str
    display_name: str | None
    is_system_admin: bool
    created_at: datetime


class LoginRow(msgspec.Struct, frozen=True):
    """What a login is verified against."""

    user: UserRow
    password_hash: str


class OrganizationOfUser(msgspec.Struct, frozen=True):
    """An organization, the user's role in it, and its stored settings (JSON; None: all defaults)."""

    id: UUID
    slug: str
    name: str
    role: str
    settings: bytes | None


async def create_user(
    connection: asyncpg.Connection, user_id: UUID, email: str, display_name: str | None, password_hash: str
) -> UserRow | None:
    """None where the address is taken."""
    record = await connection.fetchrow(QUERIES.create_user, user_id, email, display_name, password_hash)
    return None if record is None else UserRow(**record)


async def find_user(database: Database, user_id: UUID) -> UserRow | None:
    record = await database.fetchrow_system(QUERIES.find_user, user_id)
    return None if record is None else UserRow(**record)


async def find_login(database: Database, email: str) -> LoginRow | None:
    record = await database.fetchrow_system(QUERIES.find_login, email)
    if record is None:
        return None
    fields = dict(record)
    password_hash = fields.pop("password_hash")
    return LoginRow(UserRow(**fields), password_hash)


async def replace_password_hash(database: Database, user_id: UUID, old: str, new: str) -> None:
    await database.execute_system(QUERIES.replace_password_hash, user_id, old, new)


async def list_organizations(database: Database, user_id: UUID) -> list[OrganizationOfUser]:
    """The oldest membership first."""
    return [OrganizationOfUser(**record) for record in await database.fetch_system(QUERIES.list_organizations, user_id)]
