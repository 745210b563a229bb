"""Runs: started, looked at, cancelled. What happens in one is in `events` and `stream`.

201 means that the run's row is committed and due. The wake-up that follows only makes it quick: with Redis away the
sweep finds the run.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from vespid.bus.channels import run_item
from vespid.bus.org_news import tell_org
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.errors import DATABASE_AWAY
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.run_view import Run, inline_output, run_of, shown_run
from vespid.errors import ApiError, conflict, not_found
from vespid.store import runs as rows
from vespid.store.group import GroupStopped, OutcomeUnknown
from vespid.store.usage import of_run
from vespid_protocol.ids import OrgId, RunId

# How long a commit of unknown outcome is tried to be settled before the caller is told that it is unknown.
SETTLE_S = 2.0
_SETTLE_PAUSE_S = 0.1


class NewRun(msgspec.Struct, frozen=True, rename="camel"):
    """What the run is given."""

    input: Any = None


class RunAnswer(msgspec.Struct, frozen=True):
    """One run."""

    run: Run


class RunPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first. Outputs of nodes are left out here."""

    runs: list[Run]
    next_cursor: str | None


class NodeOutput(msgspec.Struct, frozen=True):
    """What the node answered, in full."""

    output: Any


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs",
    guards=[org_member],
    opt=IDEMPOTENT,
    responses=errors(409),
    operation_id="startRun",
    tags=["runs"],
)
async def start_run(
    workflow_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    once: NamedDependency[Once],
    data: JSONBody[NewRun | None] = None,
) -> Response[RunAnswer]:
    """Start a published workflow."""
    workflow = row_id(workflow_id)
    claim = await once.claim()
    if claim.answer is not None:
        return claim.answer
    new = rows.NewRun(
        org=tenant.org_id,
        id=RunId(str(claim.resource_id)),
        workflow_id=str(workflow),
        trigger_type="api" if tenant.principal.api_key_id is not None else "manual",
        max_attempts=deps.settings.retry_attempts,
        user_id=tenant.user_id,
        input=None if data is None or data.input is None else msgspec.Raw(msgspec.json.encode(data.input)),
    )
    created = await accept_run(deps, new)
    return await once.settle(RunAnswer(shown_run(new, created.created_at)))


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listRuns",
    tags=["runs"],
)
async def list_runs(
    workflow_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    page: NamedDependency[Page],
) -> RunPage:
    """The runs of one revision, the newest first."""
    workflow, org, after = row_id(workflow_id), UUID(tenant.org_id), page.after_id()

    async def read(connection: asyncpg.Connection) -> list[rows.RunRow]:
        if not await rows.workflow_exists(connection, org, workflow):
            raise not_found()
        return await rows.list_runs(connection, org, workflow, after, page.fetch)

    return await page_of_runs(deps, tenant, page, read)


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}",
    guards=[org_member],
    operation_id="getRun",
    tags=["runs"],
)
async def get_run(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
) -> RunAnswer:
    """One run: how far it is, what it waits for, what its nodes answered."""
    return await _read_run(tenant, deps, row_id(workflow_id), row_id(run_id))


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/cancel",
    guards=[org_member],
    status_code=200,
    operation_id="cancelRun",
    tags=["runs"],
)
async def cancel_run(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
) -> RunAnswer:
    """End a run; what it has running on agents is cancelled there. A finished run stays as it is."""
    workflow, run = row_id(workflow_id), row_id(run_id)
    async with tenant.transaction() as connection:
        if await rows.read_run(connection, UUID(tenant.org_id), workflow, run) is None:
            raise not_found()
        requested = await rows.cancel_run(connection, UUID(tenant.org_id), run) == "requested"
        if requested:
            await audit(connection, tenant, AuditAction.RUN_CANCELLED, run)
    if requested:
        wake(deps, tenant.org_id, RunId(str(run)))
    return await _read_run(tenant, deps, workflow, run)


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/nodes/{node_id:str}/output",
    guards=[org_member],
    operation_id="getNodeOutput",
    tags=["runs"],
)
async def get_node_output(
    workflow_id: FromPath[str], run_id: FromPath[str], node_id: FromPath[str], tenant: NamedDependency[TenantContext]
) -> NodeOutput:
    """What a node answered, uncut. 404 while it has not."""
    workflow, run, org = row_id(workflow_id), row_id(run_id), UUID(tenant.org_id)
    async with tenant.transaction() as connection:
        row = await rows.read_run(connection, org, workflow, run)
        if row is None:
            raise not_found()
        end = await rows.read_node_end(connection, org, run, node_id)
    if end is not None:
        return NodeOutput(None if end.output is None else msgspec.Raw(end.output))
    # Conditions and joins have no execution; what they found is in the cursor.
    inline = inline_output(row, node_id)
    if inline is None:
        raise not_found(message="This node has no output, or not yet.")
    return NodeOutput(inline)


async def accept_run(deps: Deps, new: rows.NewRun) -> rows.Created:
    """Commit a run and have it stepped. Raises ApiError 404, 409, and 503 QUEUE_UNAVAILABLE: then there is no run.

    A commit of which the outcome is unknown is repeated under the same id, which makes no second run; where it stays
    unknown the 503 says so, and repeating the request with its Idempotency-Key is safe.
    """
    if deps.runs is None:
        raise _queue_unavailable()
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    is_unknown = False
    while True:
        try:
            created = await deps.runs.create(new)
            break
        except OutcomeUnknown:
            is_unknown = True
        except (GroupStopped, *DATABASE_AWAY):
            if not is_unknown:
                raise _queue_unavailable() from None
        if asyncio.get_running_loop().time() >= deadline:
            raise _queue_unavailable(details={"unknown": True, "runId": new.id})
        await asyncio.sleep(_SETTLE_PAUSE_S)
    require_created(created)
    if created.step is None:
        wake(deps, new.org, new.id)
        tell_org(deps.fanout, new.org, "runs", new.id)
    return created


def require_created(created: rows.Created) -> None:
    """Raises ApiError where the run was refused."""
    if created.outcome == "not_found":
        raise not_found()
    if created.outcome == "not_published":
        raise conflict("Only a published workflow runs.")


def wake(deps: Deps, org_id: OrgId, run_id: RunId) -> None:
    """Have a worker look at the run now rather than at its next sweep."""
    if deps.mail is not None:
        deps.mail.wake(deps.settings.continuation_queue_name, run_item(org_id, run_id))


async def one_run(
    deps: Deps, tenant: TenantContext, read: Callable[[asyncpg.Connection], Awaitable[rows.RunRow | None]]
) -> Run:
    """All of the run that is read: what it waits for, what its nodes answered, what its models took. Raises 404."""
    async with tenant.transaction() as connection:
        run = await read(connection)
        if run is None:
            raise not_found()
        blocked = await rows.list_blocked(connection, run.organization_id, [run.id])
        outputs = await rows.list_outputs(connection, run.organization_id, run.id)
        usage = await of_run(connection, run.organization_id, run.id)
    return await run_of(deps, run, blocked.get(run.id, []), outputs, usage)


async def page_of_runs(
    deps: Deps, tenant: TenantContext, page: Page, read: Callable[[asyncpg.Connection], Awaitable[list[rows.RunRow]]]
) -> RunPage:
    """A page of the runs that are read, each with what it waits for."""
    async with tenant.transaction() as connection:
        shown, next_cursor = page.cut(await read(connection), key=lambda run: run.id)
        blocked = await rows.list_blocked(connection, UUID(tenant.org_id), [run.id for run in shown])
    return RunPage([await run_of(deps, run, blocked.get(run.id, []), {}) for run in shown], next_cursor)


async def _read_run(tenant: TenantContext, deps: Deps, workflow: UUID, run_id: UUID) -> RunAnswer:
    org = UUID(tenant.org_id)
    return RunAnswer(await one_run(deps, tenant, lambda connection: rows.read_run(connection, org, workflow, run_id)))


def _queue_unavailable(details: dict[str, object] | None = None) -> ApiError:
    message = "The run cannot be accepted at the moment. Try again."
    return ApiError(503, "QUEUE_UNAVAILABLE", message, details, headers={"Retry-After": "1"})


routes = [start_run, list_runs, get_run, cancel_run, get_node_output]
