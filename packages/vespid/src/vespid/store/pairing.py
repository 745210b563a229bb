"""Pairing: a token that an organization hands out becomes an agent, once.

The caller is unknown but for the token, whose first half names the organization. Setting that organization as the
tenant shows a caller nothing: every statement here is guarded by the hash of the whole token.
"""

from datetime import datetime
from enum import Enum
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("pairing")


class PairingRefused(Enum):
    """Why a pairing token makes no agent."""

    INVALID = "unknown, or used already"
    EXPIRED = "expired"


class NewAgent(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    name: str
    agent_version: str | None
    token_sha256: bytes
    # JSON, as the agent gave it.
    capabilities: bytes
    kinds: list[str] | None
    connectors: list[str] | None
    engines: list[str] | None
    reported_tags: list[str]
    max_in_flight: int


class PairingToken(msgspec.Struct, frozen=True):
    """The token that an agent was made from."""

    id: UUID
    created_by_user_id: UUID | None


async def create_pairing_token(
    connection: asyncpg.Connection,
    token_id: UUID,
    organization_id: UUID,
    token_sha256: bytes,
    user_id: UUID,
    lifetime_ms: int,
) -> datetime:
    """When the token expires."""
    expires_at: datetime = await connection.fetchval(
        QUERIES.create_pairing_token, token_id, organization_id, token_sha256, user_id, lifetime_ms
    )
    return expires_at


class PairingTokenRow(msgspec.Struct, frozen=True):
    """How a token stands."""

    id: UUID
    expires_at: datetime
    used_at: datetime | None
    # What it has become.
    executor_id: UUID | None


async def read_pairing_token(
    connection: asyncpg.Connection, organization_id: UUID, token_id: UUID
) -> PairingTokenRow | None:
    record = await connection.fetchrow(QUERIES.read_pairing_token, organization_id, token_id)
    return None if record is None else PairingTokenRow(**record)


async def pair(
    connection: asyncpg.Connection, pairing_token_sha256: bytes, new: NewAgent
) -> PairingToken | PairingRefused:
    """Consume the token and create the agent, in the caller's transaction: both are there, or neither."""
    token = await connection.fetchrow(QUERIES.lock_pairing_token, new.organization_id, pairing_token_sha256)
    if token is None or token["is_used"]:
        return PairingRefused.INVALID
    if token["is_expired"]:
        return PairingRefused.EXPIRED
    await connection.execute(
        QUERIES.create_agent,
        new.id,
        new.organization_id,
        new.name,
        new.agent_version,
        new.token_sha256,
        new.capabilities,
        new.kinds,
        new.connectors,
        new.engines,
        new.reported_tags,
        new.max_in_flight,
        token["created_by_user_id"],
    )
    await connection.execute(QUERIES.use_pairing_token, token["id"], new.id)
    return PairingToken(token["id"], token["created_by_user_id"])
