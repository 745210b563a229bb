"""What a run has sent where: each attempt of each node that is carried out somewhere, or asked of people."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter

from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso, iso_or_none
from vespid.errors import not_found
from vespid.store import attempts as rows
from vespid.store.runs import read_progress


class Attempt(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt of a node. `grantedAt`: since when its executor has it; `executorName`: null where it has none."""

    request_id: str
    node_id: str
    attempt: int
    kind: str
    placement: str
    state: str
    executor_id: UUID | None
    executor_name: str | None
    # Why it is not placed yet, as in `node_waiting`, and until when it waits.
    waiting_reason: str | None
    wait_until: str
    created_at: str
    granted_at: str | None
    finished_at: str | None
    error: str | None


class AttemptPage(msgspec.Struct, frozen=True, rename="camel"):
    """By `requestId`."""

    attempts: list[Attempt]
    next_cursor: str | None


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/attempts",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listRunAttempts",
    tags=["runs"],
)
async def list_run_attempts(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    unfinished: Annotated[bool, QueryParameter(description="Only those that are not over.")] = False,
) -> AttemptPage:
    """What a run has sent where, and what became of it."""
    workflow, run, org = row_id(workflow_id), row_id(run_id), UUID(tenant.org_id)
    async with tenant.transaction() as connection:
        if await read_progress(connection, org, workflow, run) is None:
            raise not_found()
        found = await rows.list_attempts(connection, org, run, page.after_key(), unfinished, page.fetch)
    shown, next_cursor = page.cut(found, key=lambda row: row.request_id[len(str(run)) + 1 :])
    return AttemptPage([_shown(row) for row in shown], next_cursor)


def _shown(row: rows.AttemptRow) -> Attempt:
    return Attempt(
        request_id=row.request_id,
        node_id=row.node_id,
        attempt=row.attempt,
        kind=row.kind,
        placement=row.placement,
        state=row.state,
        executor_id=row.executor_id,
        executor_name=row.executor_name,
        waiting_reason=row.waiting_reason,
        wait_until=iso(row.wait_until),
        created_at=iso(row.created_at),
        granted_at=iso_or_none(row.granted_at),
        finished_at=iso_or_none(row.finished_at),
        error=row.error,
    )


routes = [list_run_attempts]
