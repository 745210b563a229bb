"""The runs of the whole organization: a list with filters, and one run found by its id alone."""

from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter

from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.pagination import Page, provide_page
from vespid.control.runs import RunAnswer, RunPage, one_run, page_of_runs
from vespid.store import runs as rows


@get(
    "/v1/orgs/{org_id:str}/runs",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listOrgRuns",
    tags=["runs"],
)
async def list_org_runs(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    page: NamedDependency[Page],
    status: Annotated[rows.RunStatus | None, QueryParameter(description="Only these.")] = None,
    workflow_id: Annotated[
        UUID | None, QueryParameter(name="workflowId", description="Only those of this revision.")
    ] = None,
    trigger_type: Annotated[
        rows.TriggerType | None, QueryParameter(name="triggerType", description="Only those that began so.")
    ] = None,
) -> RunPage:
    """The runs of every workflow, the newest first. Outputs of nodes are left out here."""
    org, after = UUID(tenant.org_id), page.after_id()
    only = rows.RunFilter(status=status, workflow_id=workflow_id, trigger_type=trigger_type)
    return await page_of_runs(
        deps, tenant, page, lambda connection: rows.list_org_runs(connection, org, only, after, page.fetch)
    )


@get("/v1/orgs/{org_id:str}/runs/{run_id:str}", guards=[org_member], operation_id="getOrgRun", tags=["runs"])
async def get_org_run(
    run_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> RunAnswer:
    """One run, whichever workflow it is of."""
    org, run = UUID(tenant.org_id), row_id(run_id)
    return RunAnswer(await one_run(deps, tenant, lambda connection: rows.read_any_run(connection, org, run)))


routes = [list_org_runs, get_org_run]
