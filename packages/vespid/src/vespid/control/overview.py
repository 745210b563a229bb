"""How an organization is doing: its agents, its queue, and what became of its runs over time."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from vespid.control.context import TenantContext, org_member
from vespid.control.deps import Deps
from vespid.control.overviews import Window
from vespid.control.wire import iso
from vespid.store.overview import Span


class AgentsNow(msgspec.Struct, frozen=True, rename="camel"):
    """Each agent is online, offline or revoked; `capacity` is of those online that are given work."""

    online: int
    offline: int
    cordoned: int
    revoked: int
    capacity: int
    in_flight: int


class QueueNow(msgspec.Struct, frozen=True, rename="camel"):
    """Runs that are not over, the requests they wait for, and what people are asked."""

    runs_queued: int
    runs_running: int
    requests_pending: int
    requests_leased: int
    # Null where none is pending.
    oldest_pending_seconds: int | None
    waiting_approvals: int


class Bucket(msgspec.Struct, frozen=True, rename="camel"):
    """From `at` on. `runsStarted` were accepted then; the others ended then, whenever they began. Times are of those
    that ended: from the first start to the end (not of cancelled ones), and until the first start. Null: of none."""

    at: str
    runs_started: int
    runs_succeeded: int
    runs_failed: int
    runs_cancelled: int
    run_p50_ms: int | None
    run_p95_ms: int | None
    queue_p50_ms: int | None
    queue_p95_ms: int | None


class OverviewAnswer(msgspec.Struct, frozen=True):
    """Counted a few seconds ago at most, longer where there is very much; the last bucket is not over."""

    agents: AgentsNow
    queue: QueueNow
    buckets: list[Bucket]


@get("/v1/orgs/{org_id:str}/overview", guards=[org_member], operation_id="readOverview", tags=["orgs"])
async def read_overview(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    window: Annotated[
        Window, QueryParameter(description="How far back: 60 buckets of a minute, 48 of 30 minutes, 56 of 3 hours.")
    ] = "1h",
) -> OverviewAnswer:
    """How the organization is doing, now and over time."""
    counted = await deps.overviews.get(
        deps.database,
        tenant.org_id,
        window,
        now_ms=deps.now_ms(),
        stale_ms=deps.settings.gateway_agent_stale_ms,
    )
    agents, queue = counted.agents, counted.queue
    return OverviewAnswer(
        AgentsNow(agents.online, agents.offline, agents.cordoned, agents.revoked, agents.capacity, agents.in_flight),
        QueueNow(
            queue.runs_queued,
            queue.runs_running,
            queue.requests_pending,
            queue.requests_leased,
            None if queue.oldest_pending_s is None else max(0, round(queue.oldest_pending_s)),
            queue.waiting_approvals,
        ),
        [_bucket(start, span) for start, span in counted.spans],
    )


def _bucket(start_ms: int, span: Span) -> Bucket:
    return Bucket(
        iso(datetime.fromtimestamp(start_ms / 1000, UTC)),
        span.accepted,
        span.succeeded,
        span.failed,
        span.cancelled,
        *_rounded(span.run_ms),
        *_rounded(span.queue_ms),
    )


def _rounded(pair: tuple[float, float] | None) -> tuple[int | None, int | None]:
    # Clocks of two processes may tell a start before its run.
    return (None, None) if pair is None else (max(0, round(pair[0])), max(0, round(pair[1])))


routes = [read_overview]
