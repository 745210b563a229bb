"""The audit log. `audit` writes, as does `dispatch.audit`; GET /v1/orgs/:orgId/audit-log reads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from vespid.control.context import TenantContext, org_admin
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.dispatch.audit import AuditAction, audit_as
from vespid.store import audit as rows

if TYPE_CHECKING:
    import asyncpg

__all__ = ["AuditAction", "audit", "audit_as", "list_audit_log", "routes"]


async def audit(
    connection: "asyncpg.Connection",
    tenant: TenantContext,
    action: AuditAction,
    object_id: str | UUID,
    details: Mapping[str, object] | None = None,
) -> None:
    """Tell what the caller does, in the transaction that does it. Details hold no secret."""
    await audit_as(connection, tenant.org_id, tenant.principal, tenant.origin, action, object_id, details)


class Actor(msgspec.Struct, frozen=True, rename="camel"):
    """Who did it; an API key acts in the name of its maker."""

    user_id: UUID | None
    api_key_id: UUID | None


class AuditEntry(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that was done."""

    id: UUID
    actor: Actor
    action: str
    object_type: str
    object_id: str
    details: dict[str, object]
    ip: str | None
    user_agent: str | None
    request_id: str | None
    created_at: str


class AuditPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    entries: list[AuditEntry]
    next_cursor: str | None


@get(
    "/v1/orgs/{org_id:str}/audit-log",
    guards=[org_admin],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listAuditLog",
    tags=["audit"],
)
async def list_audit_log(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    object_type: Annotated[
        str | None, QueryParameter(name="objectType", max_length=64, description="Only about such objects: `agent`.")
    ] = None,
    object_id: Annotated[
        str | None, QueryParameter(name="objectId", max_length=254, description="Only about this object.")
    ] = None,
    actor_user_id: Annotated[
        UUID | None, QueryParameter(name="actorUserId", description="Only what this person did, or a key of theirs.")
    ] = None,
) -> AuditPage:
    """What was done in this organization, the newest first. For owners and admins."""
    async with tenant.transaction() as connection:
        found = await rows.list_entries(
            connection,
            page.after_id(),
            page.fetch,
            object_type=object_type or None,
            object_id=object_id or None,
            actor_user_id=actor_user_id,
        )
    shown, next_cursor = page.cut(found, key=lambda entry: entry.id)
    return AuditPage([_shown(entry) for entry in shown], next_cursor)


def _shown(entry: rows.EntryRow) -> AuditEntry:
    return AuditEntry(
        id=entry.id,
        actor=Actor(entry.actor_user_id, entry.actor_api_key_id),
        action=entry.action,
        object_type=entry.object_type,
        object_id=entry.object_id,
        details=msgspec.json.decode(entry.details, type=dict[str, object]),
        ip=entry.ip,
        user_agent=entry.user_agent,
        request_id=entry.request_id,
        created_at=iso(entry.created_at),
    )


routes = [list_audit_log]
