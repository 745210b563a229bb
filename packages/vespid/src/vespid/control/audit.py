"""Who did what to which object, when, from where. `audit` writes; GET /v1/orgs/:orgId/audit-log reads."""

import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide

from vespid.control.context import Origin, TenantContext, org_admin
from vespid.control.pagination import Page, provide_page
from vespid.control.principal import Principal
from vespid.control.wire import iso
from vespid.store import audit as rows
from vespid_protocol.ids import OrgId, new_id

if TYPE_CHECKING:
    import asyncpg


class AuditAction(StrEnum):
    """Everything that is told. A name is an object and what happened to it, and is never changed."""

    ORGANIZATION_CREATED = "organization.created"
    SETTINGS_CHANGED = "settings.changed"
    MEMBER_ROLE_CHANGED = "member.role_changed"
    MEMBER_REMOVED = "member.removed"
    INVITATION_CREATED = "invitation.created"
    INVITATION_REVOKED = "invitation.revoked"
    INVITATION_ACCEPTED = "invitation.accepted"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"
    PAIRING_TOKEN_CREATED = "pairing_token.created"  # noqa: S105
    AGENT_PAIRED = "agent.paired"
    AGENT_TAGS_CHANGED = "agent.tags_changed"
    AGENT_REVOKED = "agent.revoked"
    AGENT_CORDONED = "agent.cordoned"
    AGENT_UNCORDONED = "agent.uncordoned"
    AGENT_TOKEN_ROTATED = "agent.token_rotated"  # noqa: S105
    SECRET_CREATED = "secret.created"  # noqa: S105
    SECRET_REPLACED = "secret.replaced"  # noqa: S105
    SECRET_DELETED = "secret.deleted"  # noqa: S105
    WORKFLOW_CREATED = "workflow.created"
    WORKFLOW_CHANGED = "workflow.changed"
    WORKFLOW_PUBLISHED = "workflow.published"
    WORKFLOW_DRAFT_CREATED = "workflow.draft_created"
    WEBHOOK_ROTATED = "webhook.rotated"
    AGENT_BINDING_CREATED = "agent_binding.created"
    AGENT_BINDING_CHANGED = "agent_binding.changed"
    AGENT_BINDING_DELETED = "agent_binding.deleted"
    SESSION_CREATED = "session.created"
    RUN_CREATED = "run.created"
    RUN_CANCELLED = "run.cancelled"


async def audit(
    connection: "asyncpg.Connection",
    tenant: TenantContext,
    action: AuditAction,
    object_id: str | UUID,
    details: Mapping[str, object] | None = None,
) -> None:
    """Tell what the caller does, in the transaction that does it. Details hold no secret."""
    await audit_as(connection, tenant.org_id, tenant.principal, tenant.origin, action, object_id, details)


async def audit_as(
    connection: "asyncpg.Connection",
    org_id: OrgId,
    principal: Principal | None,
    origin: Origin,
    action: AuditAction,
    object_id: str | UUID,
    details: Mapping[str, object] | None = None,
) -> None:
    """The same where there is no TenantContext: the organization is just being made, joined, or paired with."""
    await rows.record(
        connection,
        rows.NewEntry(
            id=UUID(new_id()),
            organization_id=UUID(org_id),
            actor_user_id=UUID(principal.user_id) if principal is not None else None,
            actor_api_key_id=UUID(principal.api_key_id) if principal is not None and principal.api_key_id else None,
            action=action.value,
            object_type=action.value.partition(".")[0],
            object_id=str(object_id),
            details=msgspec.json.encode(details or {}),
            ip=_ip_or_none(origin.ip),
            user_agent=origin.user_agent,
            request_id=origin.request_id,
        ),
    )


def _ip_or_none(text: str | None) -> str | None:
    # A unix socket, or a proxy's whim: not every peer has an address that Postgres takes for one.
    try:
        return str(ipaddress.ip_address(text.partition("%")[0])) if text else None
    except ValueError:
        return None


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
async def list_audit_log(tenant: NamedDependency[TenantContext], page: NamedDependency[Page]) -> AuditPage:
    """What was done in this organization, the newest first. For owners and admins."""
    async with tenant.transaction() as connection:
        found = await rows.list_entries(connection, page.after_id(), page.fetch)
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
