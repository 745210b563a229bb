"""Who did what to which object, when, from where: one code for the API and the client socket."""

import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from vespid.dispatch.callers import Principal
from vespid.store import audit as rows
from vespid_protocol.ids import OrgId, new_id
from vespid_protocol.text import clean_text

if TYPE_CHECKING:
    import asyncpg

_USER_AGENT_MAX = 400


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
    SESSION_RESET = "session.reset"
    RUN_CREATED = "run.created"
    RUN_CANCELLED = "run.cancelled"
    RUN_RETRIED = "run.retried"
    APPROVAL_APPROVED = "approval.approved"
    APPROVAL_DENIED = "approval.denied"


class Origin(msgspec.Struct, frozen=True):
    """From where a request came."""

    request_id: str
    ip: str | None
    user_agent: str | None

    @classmethod
    def of(cls, request_id: str, ip: str | None, user_agent: str | None) -> "Origin":
        """As it is told: what somebody calls their program is cleaned and bounded."""
        return cls(request_id, ip or None, clean_text(user_agent)[0][:_USER_AGENT_MAX] if user_agent else None)


class Doer(msgspec.Struct, frozen=True):
    """Who acts in an organization, and from where."""

    principal: Principal
    origin: Origin


async def audit_as(
    connection: "asyncpg.Connection",
    org_id: OrgId,
    principal: Principal | None,
    origin: Origin,
    action: AuditAction,
    object_id: str | UUID,
    details: Mapping[str, object] | None = None,
) -> None:
    """Tell what is done, in the transaction that does it; None: nobody was signed in. Details hold no secret."""
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
