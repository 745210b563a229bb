"""Webhook tokens: one per family of workflows, stored as a hash; and the deliveries that they have brought."""

from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("webhooks")


class Webhook(msgspec.Struct, frozen=True):
    """What a token stands for: the newest published revision of its family."""

    organization_id: UUID
    family_id: UUID
    workflow_id: UUID
    published_by_user_id: UUID | None


async def create_webhook_token(
    connection: asyncpg.Connection, organization_id: UUID, family_id: UUID, token_sha256: bytes
) -> bool:
    """False where the family has one already, which stays."""
    created = await connection.fetchval(QUERIES.create_webhook_token, organization_id, family_id, token_sha256)
    return created is not None


async def rotate_webhook_token(connection: asyncpg.Connection, family_id: UUID, token_sha256: bytes) -> bool:
    """False where the family has none. The old token is unknown from the commit on."""
    return await connection.fetchval(QUERIES.rotate_webhook_token, family_id, token_sha256) is not None


async def find_webhook(connection: asyncpg.Connection, token_sha256: bytes) -> Webhook | None:
    """Across organizations: the token is all that the caller has shown."""
    record = await connection.fetchrow(QUERIES.find_webhook, token_sha256)
    return None if record is None else Webhook(**record)


async def remember_delivery(
    connection: asyncpg.Connection, webhook: Webhook, delivery_sha256: bytes, run_id: UUID
) -> UUID:
    """The run that belongs to the delivery: `run_id`, or the one that an earlier delivery of the same name started."""
    await connection.execute(QUERIES.forget_old_deliveries, webhook.organization_id, webhook.family_id)
    key = (webhook.organization_id, webhook.family_id, delivery_sha256)
    remembered: UUID | None = await connection.fetchval(QUERIES.remember_delivery, *key, run_id)
    if remembered is None:
        remembered = await connection.fetchval(QUERIES.read_delivery, *key)
    if remembered is None:
        raise LookupError("a delivery vanished between two statements")
    return remembered
