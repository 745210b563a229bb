"""What models took: written with the result that told it, read by run, and by organization over time."""

from datetime import date, datetime
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("usage")

GroupBy = Literal["day", "model", "workflow", "session"]


class UsageItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one try took, as it travels with its result (`vespid_i_record_usage`)."""

    engine_id: str | None = None
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    # Millionths of a US dollar; None: nobody knows.
    cost_micros: int | None = None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over tries. `cost_micros` None: of none of them is the cost known."""

    tries: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_micros: int | None
    # Of tries whose cost is not known.
    unpriced_tokens: int


class NodeUsage(Totals, frozen=True, kw_only=True):
    node_id: str
    provider: str
    model: str


class GroupUsage(Totals, frozen=True, kw_only=True):
    """One group; the fields of other ways to group are None."""

    # Of the group in the order of its list; the next page begins behind it.
    key: str
    day: date | None = None
    provider: str | None = None
    model: str | None = None
    family_id: UUID | None = None
    workflow_name: str | None = None
    session_id: UUID | None = None
    session_title: str | None = None


async def of_run(connection: asyncpg.Connection, org_id: UUID, run_id: UUID) -> list[NodeUsage]:
    """What a run took, by node and model."""
    rows = await connection.fetch(QUERIES.of_run, org_id, run_id)
    return [NodeUsage(**row) for row in rows]


async def in_total(connection: asyncpg.Connection, org_id: UUID, since: datetime, until: datetime) -> Totals:
    """What the organization took from `since` until just before `until`."""
    return Totals(**await connection.fetchrow(QUERIES.in_total, org_id, since, until))


async def by_group(
    connection: asyncpg.Connection,
    org_id: UUID,
    since: datetime,
    until: datetime,
    group_by: GroupBy,
    after: str | None,
    limit: int,
) -> list[GroupUsage]:
    """The same, group by group, in the order of their keys."""
    rows = await connection.fetch(getattr(QUERIES, f"by_{group_by}"), org_id, since, until, after, limit)
    return [GroupUsage(**row) for row in rows]
