"""What an organization's overview counts: what is live now, and what became of runs over time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("overview")


class AgentCounts(msgspec.Struct, frozen=True):
    online: int
    offline: int
    cordoned: int
    revoked: int
    # Of those that are online and given work.
    capacity: int
    in_flight: int


class QueueCounts(msgspec.Struct, frozen=True):
    runs_queued: int
    runs_running: int
    requests_pending: int
    requests_leased: int
    oldest_pending_s: float | None
    waiting_approvals: int


class Span(msgspec.Struct, frozen=True):
    """What became of runs within a time. A pair is the median and the 95th percentile; None: of no run."""

    accepted: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    run_ms: tuple[float, float] | None = None
    queue_ms: tuple[float, float] | None = None


async def count_agents(connection: asyncpg.Connection, org_id: UUID, stale_ms: int) -> AgentCounts:
    return AgentCounts(**await connection.fetchrow(QUERIES.count_agents, org_id, stale_ms))


async def count_queue(connection: asyncpg.Connection, org_id: UUID) -> QueueCounts:
    runs = await connection.fetchrow(QUERIES.count_unfinished_runs, org_id)
    requests = await connection.fetchrow(QUERIES.count_requests, org_id)
    return QueueCounts(
        runs_queued=runs["queued"],
        runs_running=runs["running"],
        requests_pending=requests["pending"],
        requests_leased=requests["leased"],
        oldest_pending_s=requests["oldest_pending_s"],
        waiting_approvals=await connection.fetchval(QUERIES.count_waiting_approvals, org_id),
    )


async def count_spans(
    connection: asyncpg.Connection, org_id: UUID, starts_ms: Sequence[int], length_ms: int
) -> list[Span]:
    """One for each start (epoch ms), all of the same length. They may leave gaps, but come in order."""
    if not starts_ms:
        return []
    lows = [_first_id(start) for start in starts_ms]
    highs = [_first_id(start + length_ms) for start in starts_ms]
    accepted = [row["accepted"] for row in await connection.fetch(QUERIES.count_accepted, org_id, lows, highs)]
    begin, end = _moment(starts_ms[0]), _moment(starts_ms[-1] + length_ms)
    ended = {row["n"]: row for row in await connection.fetch(QUERIES.count_ended, org_id, begin, end, length_ms)}
    return [
        _span(count, ended.get((start - starts_ms[0]) // length_ms))
        for start, count in zip(starts_ms, accepted, strict=True)
    ]


def _span(accepted: int, ended: asyncpg.Record | None) -> Span:
    if ended is None:
        return Span(accepted)
    return Span(
        accepted,
        ended["succeeded"],
        ended["failed"],
        ended["cancelled"],
        _pair(ended["run_ms"]),
        _pair(ended["queue_ms"]),
    )


def _pair(percentiles: Sequence[float] | None) -> tuple[float, float] | None:
    return None if percentiles is None else (float(percentiles[0]), float(percentiles[1]))


def _first_id(ms: int) -> UUID:
    """No id of that millisecond or later comes before it: a UUID of version 7 begins with its time."""
    return UUID(int=ms << 80)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
