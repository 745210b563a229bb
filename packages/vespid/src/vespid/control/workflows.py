"""Workflows: drafts that change, revisions that are published and never do again.

A DSL is validated as a whole whenever it is written, so that what is stored can be run, and once more when it is
published, because the connectors of the day may be others than when the draft was saved.
"""

from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import msgspec
from litestar import Request, Response, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.webhooks import Webhook, first_webhook
from vespid.control.wire import iso, iso_or_none
from vespid.domain import cron
from vespid.domain.workflow import Trigger, WorkflowInvalid, parse
from vespid.domain.workflow import Workflow as ParsedWorkflow
from vespid.errors import ApiError, conflict, not_found
from vespid.store import workflows as rows
from vespid_protocol.ids import new_id
from vespid_runtime.connectors import Registry, registry

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class NewWorkflow(msgspec.Struct, frozen=True, rename="camel"):
    """A workflow to be; its first revision is a draft."""

    name: Name
    dsl: dict[str, Any]
    editor_state: dict[str, Any] | None = None


class WorkflowChange(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What of a draft changes; what is left out stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    dsl: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    editor_state: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    # That of the draft that was read; where it has changed since, nothing is overwritten.
    version: int | msgspec.UnsetType = msgspec.UNSET


class Workflow(msgspec.Struct, frozen=True, rename="camel"):
    """One revision. Those of one family are the same workflow over time."""

    id: UUID
    organization_id: UUID
    family_id: UUID
    revision: int
    source_workflow_id: UUID | None
    name: str
    status: str
    version: int
    dsl: dict[str, Any]
    editor_state: dict[str, Any] | None
    created_by_user_id: UUID | None
    published_at: str | None
    created_at: str
    updated_at: str


class WorkflowAnswer(msgspec.Struct, frozen=True):
    """One revision."""

    workflow: Workflow


class PublishedAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was published; `webhook` at a family's first publish only, for its token is shown once."""

    workflow: Workflow
    webhook: Webhook | msgspec.UnsetType = msgspec.UNSET


class WorkflowPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    workflows: list[Workflow]
    next_cursor: str | None


@post(
    "/v1/orgs/{org_id:str}/workflows",
    guards=[org_admin],
    opt=IDEMPOTENT,
    operation_id="createWorkflow",
    tags=["workflows"],
)
async def create_workflow(
    data: JSONBody[NewWorkflow], tenant: NamedDependency[TenantContext], once: NamedDependency[Once]
) -> Response[WorkflowAnswer]:
    """Begin a workflow, as the draft of its first revision."""
    validated(data.dsl)

    async def create(connection: asyncpg.Connection) -> WorkflowAnswer:
        workflow = await rows.create_workflow(
            connection,
            rows.NewWorkflow(
                id=UUID(new_id()),
                organization_id=UUID(tenant.org_id),
                name=data.name,
                dsl=msgspec.json.encode(data.dsl),
                editor_state=None if data.editor_state is None else msgspec.json.encode(data.editor_state),
                user_id=UUID(tenant.user_id),
            ),
        )
        await audit(connection, tenant, AuditAction.WORKFLOW_CREATED, workflow.id, {"name": workflow.name})
        return WorkflowAnswer(_shown(workflow))

    return await once(create)


@get(
    "/v1/orgs/{org_id:str}/workflows",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listWorkflows",
    tags=["workflows"],
)
async def list_workflows(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    status: Annotated[Literal["draft", "published"] | None, QueryParameter(description="Only these.")] = None,
    name: Annotated[
        str | None, QueryParameter(max_length=200, description="Only those with this in their name.")
    ] = None,
    newest: Annotated[
        bool, QueryParameter(description="Of the revisions of one workflow only the newest that `status` lets through.")
    ] = False,
) -> WorkflowPage:
    """Every revision of every workflow, the newest first."""
    only = rows.WorkflowFilter(status=status, name=name or None, newest=newest)
    async with tenant.transaction() as connection:
        found = await rows.list_workflows(connection, page.after_id(), only, page.fetch)
    shown, next_cursor = page.cut(found, key=lambda workflow: workflow.id)
    return WorkflowPage([_shown(workflow) for workflow in shown], next_cursor)


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}",
    guards=[org_member],
    operation_id="getWorkflow",
    tags=["workflows"],
)
async def get_workflow(workflow_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> WorkflowAnswer:
    """One revision."""
    row = row_id(workflow_id)
    async with tenant.transaction() as connection:
        workflow = await rows.read_workflow(connection, row)
    if workflow is None:
        raise not_found()
    return WorkflowAnswer(_shown(workflow))


@get(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/revisions",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listWorkflowRevisions",
    tags=["workflows"],
)
async def list_revisions(
    workflow_id: FromPath[str], tenant: NamedDependency[TenantContext], page: NamedDependency[Page]
) -> WorkflowPage:
    """The revisions of the family that this one belongs to, the newest first."""
    row = row_id(workflow_id)
    async with tenant.transaction() as connection:
        if await rows.read_workflow(connection, row) is None:
            raise not_found()
        found = await rows.list_revisions(connection, row, page.after_seq(), page.fetch)
    shown, next_cursor = page.cut(found, key=lambda workflow: workflow.revision)
    return WorkflowPage([_shown(workflow) for workflow in shown], next_cursor)


@put(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}",
    guards=[org_admin],
    responses=errors(409),
    operation_id="changeWorkflow",
    tags=["workflows"],
)
async def change_workflow(
    workflow_id: FromPath[str], data: JSONBody[WorkflowChange], tenant: NamedDependency[TenantContext]
) -> WorkflowAnswer:
    """Change a draft. What is published does not change: make a new draft of it.

    With `version`, that of the draft as it was read, a draft that somebody has changed since is refused with 409.
    """
    row = row_id(workflow_id)
    if data.dsl is not msgspec.UNSET:
        validated(data.dsl)
    async with tenant.transaction() as connection:
        draft = await _locked_draft(connection, row)
        if data.version not in (msgspec.UNSET, draft.version):
            if _is_already_so(draft, data):
                # The same once more, from somebody who did not get the answer.
                return WorkflowAnswer(_shown(draft))
            message = f"The draft has changed since: it is at version {draft.version}, not {data.version}."
            raise ApiError(409, "CONFLICT", message, {"version": draft.version})
        workflow = await rows.change_draft(
            connection,
            row,
            name=None if data.name is msgspec.UNSET else data.name,
            dsl=None if data.dsl is msgspec.UNSET else msgspec.json.encode(data.dsl),
            editor_state=None if data.editor_state is msgspec.UNSET else msgspec.json.encode(data.editor_state),
        )
        if workflow is None:
            raise not_found()
        await audit(connection, tenant, AuditAction.WORKFLOW_CHANGED, row, {"version": workflow.version})
    return WorkflowAnswer(_shown(workflow))


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/publish",
    guards=[org_admin],
    status_code=200,
    responses=errors(409),
    operation_id="publishWorkflow",
    tags=["workflows"],
)
async def publish_workflow(
    workflow_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    request: Request[Any, Any, Any],
) -> PublishedAnswer:
    """Make a draft runnable, for good; its trigger begins to fire."""
    row = row_id(workflow_id)
    user_id = UUID(tenant.user_id)
    async with tenant.transaction() as connection:
        draft = await _locked_draft(connection, row)
        parsed = validated(msgspec.json.decode(draft.dsl))
        await rows.lock_family(connection, draft.family_id)
        workflow = await rows.publish_workflow(connection, row, user_id)
        if workflow is None:
            raise not_found()
        await rows.plan_schedule(connection, workflow, user_id, _schedule_of(parsed.trigger, deps.now_ms()))
        webhook: Webhook | None = None
        if parsed.trigger.type == "trigger.webhook":
            webhook = await first_webhook(connection, workflow.organization_id, workflow.family_id, request)
        await audit(connection, tenant, AuditAction.WORKFLOW_PUBLISHED, row, {"revision": workflow.revision})
    return PublishedAnswer(_shown(workflow), msgspec.UNSET if webhook is None else webhook)


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/drafts",
    guards=[org_admin],
    opt=IDEMPOTENT,
    operation_id="createWorkflowDraft",
    tags=["workflows"],
)
async def create_draft(
    workflow_id: FromPath[str], tenant: NamedDependency[TenantContext], once: NamedDependency[Once]
) -> Response[WorkflowAnswer]:
    """A new revision, as a draft with the content of this one."""
    row = row_id(workflow_id)

    async def create(connection: asyncpg.Connection) -> WorkflowAnswer:
        source = await rows.read_workflow(connection, row)
        if source is None:
            raise not_found()
        draft = await rows.create_revision(connection, UUID(new_id()), source, UUID(tenant.user_id))
        details = {"sourceWorkflowId": str(row), "revision": draft.revision}
        await audit(connection, tenant, AuditAction.WORKFLOW_DRAFT_CREATED, draft.id, details)
        return WorkflowAnswer(_shown(draft))

    return await once(create)


async def _locked_draft(connection: asyncpg.Connection, workflow_id: UUID) -> rows.WorkflowRow:
    workflow = await rows.lock_workflow(connection, workflow_id)
    if workflow is None:
        raise not_found()
    if workflow.status != "draft":
        raise conflict("This revision is published and does not change. Make a new draft of it.")
    return workflow


def _is_already_so(draft: rows.WorkflowRow, asked: WorkflowChange) -> bool:
    shown = _shown(draft)
    return (
        asked.name in (msgspec.UNSET, shown.name)
        and asked.dsl in (msgspec.UNSET, shown.dsl)
        and asked.editor_state in (msgspec.UNSET, shown.editor_state)
    )


def validated(dsl: dict[str, Any]) -> ParsedWorkflow:
    """The workflow that a DSL describes. Raises ApiError 400 with everything that is wrong with it."""
    try:
        return parse(dsl, check_connector=why_no_action, needs_secret=needs_secret)
    except WorkflowInvalid as invalid:
        raise ApiError(400, "BAD_REQUEST", "The workflow is not valid.", invalid.details()) from None


@cache
def _connectors() -> Registry:
    return registry()


def why_no_action(connector_id: str, action_id: str | None) -> str | None:
    """None where this server can run the action (None: any of the connector's), else what is wrong with its name."""
    connector = _connectors().connectors.get(connector_id)
    if connector is None:
        return f"There is no connector {connector_id!r}; there are {', '.join(sorted(_connectors().ids()))}."
    actions = sorted(action.id for action in connector.actions)
    if action_id is not None and action_id not in actions:
        return f"The connector {connector_id!r} has no action {action_id!r}; it has {', '.join(actions)}."
    return None


def needs_secret(connector_id: str) -> bool:
    """Whether nothing can be done with the connector without one."""
    connector = _connectors().connectors.get(connector_id)
    return connector is not None and connector.requires_secret


def _schedule_of(trigger: Trigger, now_ms: int) -> rows.Schedule | None:
    if trigger.type != "trigger.cron" or trigger.cron is None:
        return None
    next_at = cron.next_at(trigger.cron, trigger.timezone, now_ms)
    if next_at is None:
        return None
    return rows.Schedule(trigger.cron, trigger.timezone, datetime.fromtimestamp(next_at / 1000, UTC))


def _shown(workflow: rows.WorkflowRow) -> Workflow:
    return Workflow(
        id=workflow.id,
        organization_id=workflow.organization_id,
        family_id=workflow.family_id,
        revision=workflow.revision,
        source_workflow_id=workflow.source_workflow_id,
        name=workflow.name,
        status=workflow.status,
        version=workflow.version,
        dsl=msgspec.json.decode(workflow.dsl, type=dict[str, Any]),
        editor_state=None
        if workflow.editor_state is None
        else msgspec.json.decode(workflow.editor_state, type=dict[str, Any] | None),
        created_by_user_id=workflow.created_by_user_id,
        published_at=iso_or_none(workflow.published_at),
        created_at=iso(workflow.created_at),
        updated_at=iso(workflow.updated_at),
    )


routes = [
    create_workflow,
    list_workflows,
    get_workflow,
    list_revisions,
    change_workflow,
    publish_workflow,
    create_draft,
]
