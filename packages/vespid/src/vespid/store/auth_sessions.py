"""Logins and refresh tokens, and the one round trip that authorizes a request."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.group_read import GroupRead
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("auth_sessions")


class Standing(msgspec.Struct, frozen=True):
    """Whether a login lives, and what its user is in the organization that was asked about."""

    session_live: bool
    role: str | None


class ApiKeyStanding(msgspec.Struct, frozen=True):
    """A living API key; it acts in the name of the member who made it."""

    id: UUID
    role: str
    user_id: UUID
    email: str


class Login(msgspec.Struct, frozen=True):
    """The login that a refresh token belongs to."""

    session_id: UUID
    user_id: UUID
    email: str
    rotated: bool
    # Seconds since the token was rotated; 0 while it is not.
    rotated_ago_s: float
    live: bool

    def is_usable(self, grace_s: float) -> bool:
        """Whether the login lives and the token is its newest, or was until a moment ago."""
        return self.live and (not self.rotated or self.rotated_ago_s <= grace_s)


class Asked(msgspec.Struct, frozen=True):
    """A login, and the organization (None: in none) that its user's role is wanted of."""

    session_id: UUID
    user_id: UUID
    org_id: UUID | None


class Authorizer:
    """Tells how logins stand, at the moment of asking: nothing is remembered. A Service.

    Every request of the control plane asks this, so those that come together are one statement.
    """

    def __init__(self, database: Database, *, connections: int = 2) -> None:
        self._reads: GroupRead[Asked, Standing] = GroupRead(
            database, _authorize, connections=connections, name="authorize"
        )

    async def start(self) -> None:
        await self._reads.start()

    async def stop(self) -> None:
        await self._reads.stop()

    async def standing(self, session_id: UUID, user_id: UUID, org_id: OrgId | None) -> Standing:
        """Raises DatabaseUnavailable."""
        return await self._reads.answer(Asked(session_id, user_id, UUID(org_id) if org_id is not None else None))


async def _authorize(connection: asyncpg.Connection, asked: Sequence[Asked]) -> list[Standing]:
    records = await connection.fetch(
        QUERIES.authorize,
        [one.session_id for one in asked],
        [one.user_id for one in asked],
        [one.org_id for one in asked],
    )
    return [Standing(record["session_live"], record["role"]) for record in records]


async def authorize_api_key(database: Database, org_id: UUID, token_sha256: bytes) -> ApiKeyStanding | None:
    """None for a key that is unknown, revoked or expired."""
    record = await database.fetchrow_system(QUERIES.authorize_api_key, org_id, token_sha256)
    return None if record is None else ApiKeyStanding(**record)


async def open_session(
    connection: asyncpg.Connection,
    session_id: UUID,
    user_id: UUID,
    life_s: int,
    token_sha256: bytes,
    ip: str | None,
    user_agent: str | None,
) -> None:
    await connection.execute(QUERIES.open_session, session_id, user_id, life_s, token_sha256, ip, user_agent)


async def find_by_refresh_token(database: Database, token_sha256: bytes) -> Login | None:
    record = await database.fetchrow_system(QUERIES.find_by_refresh_token, token_sha256)
    return None if record is None else Login(**record)


async def rotate_refresh_token(
    connection: asyncpg.Connection, token_sha256: bytes, successor_sha256: bytes, life_s: int
) -> None:
    """Make the successor the login's token. Called by two at once, one rotates and both hold the same successor."""
    await connection.execute(QUERIES.rotate_refresh_token, token_sha256, successor_sha256, life_s)


async def revoke_session(connection: asyncpg.Connection, session_id: UUID, user_id: UUID, reason: str) -> bool:
    """False where it was revoked before."""
    return await connection.fetchval(QUERIES.revoke_session, session_id, user_id, reason) is not None


async def revoke_all_sessions(connection: asyncpg.Connection, user_id: UUID, reason: str) -> list[UUID]:
    """The ids of those that lived until now."""
    return [record["id"] for record in await connection.fetch(QUERIES.revoke_all_sessions, user_id, reason)]


async def prune_sessions(database: Database, limit: int) -> None:
    await database.execute_system(QUERIES.prune_sessions, limit)
