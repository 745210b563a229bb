"""Invitations: rows that wait for somebody to accept them."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("invitations")


class InvitationRow(msgspec.Struct, frozen=True):
    """An invitation, without its token."""

    id: UUID
    organization_id: UUID
    email: str
    role: str
    invited_by_user_id: UUID | None
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


async def create_invitation(
    connection: asyncpg.Connection,
    invitation_id: UUID,
    org_id: UUID,
    email: str,
    role: str,
    token_sha256: bytes,
    invited_by: UUID,
    life_s: int,
) -> InvitationRow:
    record = await connection.fetchrow(
        QUERIES.create_invitation, invitation_id, org_id, email, role, token_sha256, invited_by, life_s
    )
    return InvitationRow(**record)


async def list_invitations(connection: asyncpg.Connection, before: UUID | None, limit: int) -> list[InvitationRow]:
    """The newest first."""
    return [InvitationRow(**record) for record in await connection.fetch(QUERIES.list_invitations, before, limit)]


async def revoke_invitation(connection: asyncpg.Connection, invitation_id: UUID) -> bool:
    """False where it is unknown, accepted or revoked already."""
    return await connection.fetchval(QUERIES.revoke_invitation, invitation_id) is not None


async def lock_by_token(connection: asyncpg.Connection, org_id: UUID, token_sha256: bytes) -> InvitationRow | None:
    """None for a token that is unknown or expired."""
    record = await connection.fetchrow(QUERIES.lock_by_token, org_id, token_sha256)
    return None if record is None else InvitationRow(**record)


async def accept_invitation(connection: asyncpg.Connection, invitation_id: UUID, user_id: UUID) -> None:
    await connection.execute(QUERIES.accept_invitation, invitation_id, user_id)
