"""Approvals: what people are asked to allow, shown as it would run, and decided once.

Who decides names the hash of what they saw; the database compares it, the role and the state in one statement, and the
audit log is written in the same transaction.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.bus.channels import run_channel
from vespid.bus.org_news import tell_org
from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.runs import wake
from vespid.control.wire import iso, iso_or_none
from vespid.errors import ApiError, bad_request, forbidden, not_found
from vespid.store import approvals as rows
from vespid_protocol.ids import RunId, is_uuid

COMMENT_MAX_CHARS = 2_000


class DecidedBy(msgspec.Struct, frozen=True, rename="camel"):
    """Who decided; an API key acts in the name of its maker."""

    user_id: UUID
    api_key_id: UUID | None


class Approval(msgspec.Struct, frozen=True, rename="camel"):
    """One question to people. `by` is the least role that may decide; `tool` and `n` are of a tool's call."""

    id: UUID
    organization_id: UUID
    workflow_id: UUID
    run_id: UUID
    node_id: str
    node_type: str
    request_id: str
    kind: Literal["node", "tool"]
    tool: str | None
    n: int | None
    hash: str
    by: Literal["owner", "admin", "member"]
    may_decide: bool
    status: Literal["pending", "approved", "denied", "expired", "cancelled"]
    requested_by_user_id: UUID | None
    requested_at: str
    expires_at: str
    decided_by: DecidedBy | None
    decided_at: str | None
    comment: str | None


class ApprovalInFull(Approval, frozen=True, rename="camel"):
    """With `what` would run. Its canonical JSON (keys sorted, no spaces) is what `hash` is the SHA-256 of."""

    what: dict[str, Any]


class ApprovalPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first; what would run is shown by each one's own route."""

    approvals: list[Approval]
    next_cursor: str | None


class ApprovalAnswer(msgspec.Struct, frozen=True):
    """One approval."""

    approval: ApprovalInFull


class Decision(msgspec.Struct, frozen=True):
    """`hash`: of what was seen. Something else is not decided."""

    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    comment: Annotated[str, msgspec.Meta(max_length=COMMENT_MAX_CHARS)] | None = None


@get(
    "/v1/orgs/{org_id:str}/approvals",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listApprovals",
    tags=["approvals"],
)
async def list_approvals(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    status: Annotated[
        Literal["pending", "decided"] | None, QueryParameter(description="Those that wait, or those that do not.")
    ] = None,
    run_id: Annotated[str | None, QueryParameter(name="runId", description="Those of one run.")] = None,
) -> ApprovalPage:
    """What people are and were asked to allow."""
    if run_id is not None and not is_uuid(run_id):
        raise bad_request("This is not the id of a run.", field="runId")
    is_pending = None if status is None else status == "pending"
    run = None if run_id is None else UUID(run_id)
    async with tenant.transaction() as connection:
        found = await rows.list_approvals(connection, UUID(tenant.org_id), page.after_id(), run, is_pending, page.fetch)
    shown, next_cursor = page.cut(found, key=lambda row: row.id)
    return ApprovalPage([Approval(**_shown(tenant, row)) for row in shown], next_cursor)


@get(
    "/v1/orgs/{org_id:str}/approvals/{approval_id:str}",
    guards=[org_member],
    operation_id="getApproval",
    tags=["approvals"],
)
async def get_approval(approval_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> ApprovalAnswer:
    """One approval, with all that would run."""
    async with tenant.transaction() as connection:
        row = await rows.read_approval(connection, UUID(tenant.org_id), row_id(approval_id))
    if row is None:
        raise not_found()
    return ApprovalAnswer(_in_full(tenant, row))


@post(
    "/v1/orgs/{org_id:str}/approvals/{approval_id:str}/approve",
    guards=[org_member],
    status_code=200,
    responses=errors(409),
    operation_id="approve",
    tags=["approvals"],
)
async def approve(
    approval_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    data: JSONBody[Decision],
) -> ApprovalAnswer:
    """Allow it. It runs at once, unless there is more to decide before."""
    return await _decide(tenant, deps, row_id(approval_id), "approved", data)


@post(
    "/v1/orgs/{org_id:str}/approvals/{approval_id:str}/deny",
    guards=[org_member],
    status_code=200,
    responses=errors(409),
    operation_id="deny",
    tags=["approvals"],
)
async def deny(
    approval_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    data: JSONBody[Decision],
) -> ApprovalAnswer:
    """Do not allow it. A node fails with APPROVAL_DENIED; an agent is told that its call was not allowed, and why."""
    return await _decide(tenant, deps, row_id(approval_id), "denied", data)


async def _decide(
    tenant: TenantContext, deps: Deps, approval_id: UUID, verdict: rows.Verdict, decision: Decision
) -> ApprovalAnswer:
    org, principal = UUID(tenant.org_id), tenant.principal
    key = None if principal.api_key_id is None else UUID(principal.api_key_id)
    async with tenant.transaction() as connection:
        outcome = await rows.decide_approval(
            connection, org, approval_id, UUID(tenant.user_id), key, verdict, decision.hash, decision.comment
        )
        row = await rows.read_approval(connection, org, approval_id)
        if row is None or outcome == "not_found":
            raise not_found()
        if outcome != "decided":
            raise _refusal(tenant, row, outcome)
        action = AuditAction.APPROVAL_APPROVED if verdict == "approved" else AuditAction.APPROVAL_DENIED
        await audit(connection, tenant, action, approval_id, _told(row))
    run = RunId(str(row.run_id))
    if deps.fanout is not None:
        deps.fanout.publish(run_channel(run), b"0")
    tell_org(deps.fanout, tenant.org_id, "approvals", str(approval_id))
    wake(deps, tenant.org_id, run)
    return ApprovalAnswer(_in_full(tenant, row))


def _refusal(tenant: TenantContext, row: rows.ApprovalRow, outcome: rows.DecideOutcome) -> ApiError:
    if outcome == "forbidden":
        return forbidden(f"To decide this takes the role {row.by_role}.")
    if outcome == "other_hash":
        message = "This is not what would run. Look at it again, and decide about its hash."
        return ApiError(409, "CONFLICT", message, {"hash": row.hash, "status": row.status})
    shown = msgspec.to_builtins(_decided_by(row))
    details = {"status": row.status, "hash": row.hash, "decidedBy": shown, "decidedAt": iso_or_none(row.decided_at)}
    return ApiError(409, "CONFLICT", "There is nothing left to decide here.", details)


def _told(row: rows.ApprovalRow) -> dict[str, object]:
    told: dict[str, object] = {
        "hash": row.hash,
        "runId": str(row.run_id),
        "nodeId": row.node_id,
        "requestId": row.request_id,
        "kind": row.kind,
    }
    if row.tool is not None:
        told |= {"tool": row.tool, "n": row.n}
    return told if row.comment is None else {**told, "comment": row.comment}


def _decided_by(row: rows.ApprovalRow) -> DecidedBy | None:
    return None if row.decided_by_user_id is None else DecidedBy(row.decided_by_user_id, row.decided_by_api_key_id)


def _shown(tenant: TenantContext, row: rows.ApprovalRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "organization_id": row.organization_id,
        "workflow_id": row.workflow_id,
        "run_id": row.run_id,
        "node_id": row.node_id,
        "node_type": row.node_type,
        "request_id": row.request_id,
        "kind": row.kind,
        "tool": row.tool,
        "n": row.n,
        "hash": row.hash,
        "by": row.by_role,
        "may_decide": row.status == "pending" and tenant.has_role(row.by_role),
        "status": row.status,
        "requested_by_user_id": row.requested_by_user_id,
        "requested_at": iso(row.requested_at),
        "expires_at": iso(row.expires_at),
        "decided_by": _decided_by(row),
        "decided_at": iso_or_none(row.decided_at),
        "comment": row.comment,
    }


def _in_full(tenant: TenantContext, row: rows.ApprovalRow) -> ApprovalInFull:
    what: Any = msgspec.Raw((row.what or "{}").encode())
    return ApprovalInFull(**_shown(tenant, row), what=what)


routes = [list_approvals, get_approval, approve, deny]
