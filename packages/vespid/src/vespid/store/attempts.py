"""Attempts of a run's nodes, for people to look at: where each is, and what became of it."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("attempts")


class AttemptRow(msgspec.Struct, frozen=True):
    request_id: str
    node_id: str
    attempt: int
    kind: str
    placement: str
    state: str
    executor_id: UUID | None
    executor_name: str | None
    waiting_reason: str | None
    wait_until: datetime
    created_at: datetime
    granted_at: datetime | None
    finished_at: datetime | None
    error: str | None


async def list_attempts(
    connection: asyncpg.Connection, org_id: UUID, run_id: UUID, after: str | None, unfinished: bool, limit: int
) -> list[AttemptRow]:
    """By request id; `after`: what stands behind the run's id in the last one that was read."""
    found = await connection.fetch(QUERIES.list_attempts, org_id, run_id, after, unfinished, limit)
    return [AttemptRow(**row) for row in found]
