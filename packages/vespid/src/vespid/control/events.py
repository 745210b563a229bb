"""A run's events, page by page. Live: `stream`."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter

from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.errors import bad_request, not_found
from vespid.store import runs as rows

_MAX_SEQ = 2**62


class RunEvent(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that happened; `seq` counts from 1 per run, without gaps."""

    id: UUID
    seq: int
    organization_id: UUID
    workflow_id: UUID
    run_id: UUID
    attempt_count: int
    event_type: str
    node_id: str | None
    node_type: str | None
    level: str
    message: str | None
    payload: Any
    created_at: str


class EventPage(msgspec.Struct, frozen=True, rename="camel"):
    """The oldest first. On the last page so far `nextCursor` is null; go on from there with `afterSeq`."""

    events: list[RunEvent]
    next_cursor: str | None


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/events",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listRunEvents",
    tags=["runs"],
)
async def list_run_events(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    after_seq: Annotated[
        int | None, QueryParameter(name="afterSeq", ge=0, le=_MAX_SEQ, description="Events behind this one.")
    ] = None,
) -> EventPage:
    """What happened in a run, in order. `cursor` or `afterSeq` says from where on."""
    from_cursor = page.after_seq()
    if from_cursor is not None and after_seq is not None:
        raise bad_request("Give either cursor or afterSeq.", field="afterSeq")
    after = from_cursor if from_cursor is not None else after_seq or 0
    workflow, run = row_id(workflow_id), row_id(run_id)
    async with tenant.transaction() as connection:
        if await rows.read_progress(connection, UUID(tenant.org_id), workflow, run) is None:
            raise not_found()
        found = await rows.list_events(connection, run, after, page.fetch)
    shown, next_cursor = page.cut(found, key=lambda event: event.seq)
    return EventPage([event_of(row) for row in shown], next_cursor)


def event_of(row: rows.EventRow) -> RunEvent:
    """The event as it is answered and streamed; its payload goes through undecoded."""
    return RunEvent(
        id=row.id,
        seq=row.seq,
        organization_id=row.organization_id,
        workflow_id=row.workflow_id,
        run_id=row.run_id,
        attempt_count=row.attempt_count,
        event_type=row.event_type,
        node_id=row.node_id,
        node_type=row.node_type,
        level=row.level,
        message=row.message,
        payload=None if row.payload is None else msgspec.Raw(row.payload),
        created_at=iso(row.created_at),
    )


def seq_after(last_event_id: str | None, after_seq: int | None) -> int:
    """Where a stream goes on: behind the last event that the client saw, else where it asks to. Raises ApiError 400."""
    if last_event_id is None:
        return after_seq or 0
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > len(str(_MAX_SEQ)) - 1:
        raise bad_request("Last-Event-ID is the id of an event of this stream.", field="Last-Event-ID")
    return int(last_event_id)


routes = [list_run_events]
