"""Approvals: questions to people, and their decisions. The waits are executions; see migration 0006."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("approvals")

Verdict = Literal["approved", "denied"]
# `late`: somebody decided it before, its time is over, or its run needs it no more.
DecideOutcome = Literal["decided", "not_found", "forbidden", "other_hash", "late"]


class ApprovalRow(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    request_id: str
    run_id: UUID
    workflow_id: UUID
    node_id: str
    node_type: str
    kind: Literal["node", "tool"]
    # Of a tool's call.
    n: int | None
    tool: str | None
    by_role: Literal["owner", "admin", "member"]
    # Canonical JSON of what would run; None in lists.
    what: str | None
    hash: str
    requested_by_user_id: UUID | None
    requested_at: datetime
    expires_at: datetime
    status: Literal["pending", "approved", "denied", "expired", "cancelled"]
    decided_by_user_id: UUID | None
    decided_by_api_key_id: UUID | None
    comment: str | None
    decided_at: datetime | None


async def list_approvals(
    connection: asyncpg.Connection,
    org_id: UUID,
    before: UUID | None,
    run_id: UUID | None,
    is_pending: bool | None,
    limit: int,
) -> list[ApprovalRow]:
    """The newest first. `is_pending`: those that wait, or those that do not; None: all."""
    rows = await connection.fetch(QUERIES.list_approvals, org_id, before, run_id, is_pending, limit)
    return [ApprovalRow(**row) for row in rows]


async def read_approval(connection: asyncpg.Connection, org_id: UUID, approval_id: UUID) -> ApprovalRow | None:
    row = await connection.fetchrow(QUERIES.read_approval, org_id, approval_id)
    return None if row is None else ApprovalRow(**row)


async def decide_approval(
    connection: asyncpg.Connection,
    org_id: UUID,
    approval_id: UUID,
    person: UUID,
    api_key: UUID | None,
    verdict: Verdict,
    seen_hash: str,
    comment: str | None,
) -> DecideOutcome:
    """Decide, in the caller's transaction. Who comes too late, has no say, or saw something else changes nothing."""
    outcome: DecideOutcome = await connection.fetchval(
        QUERIES.decide_approval, org_id, approval_id, person, api_key, verdict, seen_hash, comment
    )
    return outcome
