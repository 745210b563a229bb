"""What the control feed says about people and organizations: written in the transaction of the change."""

from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("announcements")

SETTINGS_CHANGED = "settings_changed"


async def announce_member_removed(connection: asyncpg.Connection, org_id: UUID, user_id: UUID) -> None:
    """`member_removed`: the subject is the user; only what they hold in this organization ends."""
    await connection.execute(QUERIES.announce, org_id, "member_removed", str(user_id), b"{}")


async def announce_session_revoked(connection: asyncpg.Connection, session_id: UUID, user_id: UUID) -> None:
    """`session_revoked`: the subject is the login; it ends everywhere."""
    payload = msgspec.json.encode({"userId": str(user_id)})
    await connection.execute(QUERIES.announce, None, "session_revoked", str(session_id), payload)


async def announce_settings_changed(connection: asyncpg.Connection, org_id: UUID) -> None:
    """`settings_changed`: the subject is the organization; whoever keeps its settings reads them again."""
    await connection.execute(QUERIES.announce, org_id, SETTINGS_CHANGED, str(org_id), b"{}")


async def announce_key_revoked(connection: asyncpg.Connection, org_id: UUID, key_id: UUID) -> None:
    """`api_key_revoked`: the subject is the key."""
    await connection.execute(QUERIES.announce, org_id, "api_key_revoked", str(key_id), b"{}")
