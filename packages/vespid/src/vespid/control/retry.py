"""A run that is over, tried again as a new run: the same revision and input, and the results that still stand.

The new run, the results it takes over, the audit and the answer to its Idempotency-Key are one commit.
"""

from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from vespid.bus.org_news import tell_org
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import errors
from vespid.control.run_view import shown_run
from vespid.control.runs import RunAnswer, require_created, wake
from vespid.dispatch.plans import Plans, WorkflowMissing
from vespid.domain.plan import Plan
from vespid.domain.retry import nodes_with_results, taken_over
from vespid.domain.run_state import RunState, decode_state, encode_state
from vespid.errors import bad_request, conflict, not_found
from vespid.store import runs as rows
from vespid_protocol.ids import RunId, WorkflowId, new_id


class RetryBody(msgspec.Struct, frozen=True, rename="camel"):
    """From where on it is to run again. Without it: from what had not succeeded."""

    from_node_id: str | None = None


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/runs/{run_id:str}/retry",
    guards=[org_member],
    opt=IDEMPOTENT,
    responses=errors(409),
    operation_id="retryRun",
    tags=["runs"],
)
async def retry_run(
    workflow_id: FromPath[str],
    run_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    once: NamedDependency[Once],
    data: JSONBody[RetryBody | None] = None,
) -> Response[RunAnswer]:
    """Start a new run that takes over what a finished one has done. What succeeded, and does not come after what runs
    again, is not done again."""
    workflow, run, org = row_id(workflow_id), row_id(run_id), UUID(tenant.org_id)
    from_node_id = None if data is None else data.from_node_id
    plan = await _plan_of(deps, tenant, workflow)
    new_run_id = RunId(new_id())
    is_new = False

    async def create(connection: asyncpg.Connection) -> RunAnswer:
        nonlocal is_new
        before = await rows.read_run(connection, org, workflow, run)
        if before is None:
            raise not_found()
        new = _new_run(deps, tenant, before, new_run_id, _retry_of(plan, before, from_node_id))
        (created,) = await rows.create_runs(connection, [new])
        require_created(created)
        details = {"newRunId": new_run_id, "fromNodeId": from_node_id}
        await audit(connection, tenant, AuditAction.RUN_RETRIED, run, details)
        is_new = True
        return RunAnswer(shown_run(new, created.created_at))

    answer = await once(create)
    if is_new:
        wake(deps, tenant.org_id, new_run_id)
        tell_org(deps.fanout, tenant.org_id, "runs", new_run_id)
    return answer


async def _plan_of(deps: Deps, tenant: TenantContext, workflow: UUID) -> Plan:
    plans = deps.plans if deps.plans is not None else Plans(deps.database)
    try:
        return await plans.get(tenant.org_id, WorkflowId(str(workflow)))
    except WorkflowMissing:
        # What was not published has no runs.
        raise not_found() from None


def _retry_of(plan: Plan, before: rows.RunRow, from_node_id: str | None) -> rows.Retry:
    """What the new run begins with. Raises ApiError 400, and 409 where there is nothing to try again, or not yet."""
    if before.finished_at is None:
        raise conflict("The run is not over. Cancel it first, or wait for its end.")
    if from_node_id is not None and from_node_id not in plan.by_id:
        raise bad_request("The workflow has no such node.", field="fromNodeId")
    state = RunState() if before.cursor is None else decode_state(before.cursor)
    taken = taken_over(plan, state, str(before.id), from_node_id)
    if len(taken.nodes) == len(plan.nodes):
        raise conflict("Everything in this run succeeded. Name the node from which it is to run again.")
    return rows.Retry(
        run_id=str(before.id),
        from_node_id=from_node_id,
        cursor=msgspec.Raw(encode_state(taken)),
        nodes=nodes_with_results(plan, taken),
    )


def _new_run(deps: Deps, tenant: TenantContext, before: rows.RunRow, run_id: RunId, retry: rows.Retry) -> rows.NewRun:
    return rows.NewRun(
        org=tenant.org_id,
        id=run_id,
        workflow_id=str(before.workflow_id),
        trigger_type="api" if tenant.principal.api_key_id is not None else "manual",
        max_attempts=deps.settings.retry_attempts,
        user_id=tenant.user_id,
        input=None if before.input is None else msgspec.Raw(before.input),
        retry=retry,
    )


routes = [retry_run]
