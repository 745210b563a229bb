"""Invitations: a token for one address, good once and for three days."""

from typing import Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody

from vespid.control.accounts import Email
from vespid.control.audit import AuditAction, audit, audit_as
from vespid.control.context import TenantContext, org_admin, origin_of, row_id, signed_in
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.members import RoleKey
from vespid.control.openapi import created, errors
from vespid.control.orgs import Membership, shown_membership
from vespid.control.pagination import Page, provide_page
from vespid.control.principal import Principal
from vespid.control.rate_limit import FAILURES_LIMITED, failures_limited, subjects_of
from vespid.control.wire import iso, iso_or_none
from vespid.errors import conflict, forbidden, not_found
from vespid.store import invitations as rows
from vespid.store import orgs
from vespid.store.idempotency import enter_tenant
from vespid_protocol.ids import IdInvalid, OrgId, create_token, hash_token, new_id, parse_token

INVITATION_LIFE_S = 72 * 3600
TOKEN_PREFIX = "vin"  # noqa: S105


class NewInvitation(msgspec.Struct, frozen=True, rename="camel"):
    """Who is invited, as what."""

    email: Email
    role_key: RoleKey


class Invitation(msgspec.Struct, frozen=True, rename="camel"):
    """An invitation; its token is shown only where it is made."""

    id: UUID
    organization_id: UUID
    email: str
    role_key: str
    status: Literal["pending", "accepted", "revoked", "expired"]
    invited_by_user_id: UUID | None
    created_at: str
    expires_at: str
    accepted_at: str | None


class InvitationWithToken(Invitation, frozen=True, rename="camel"):
    """The same, this once, with its token."""

    token: str


class InvitationCreated(msgspec.Struct, frozen=True):
    """The invitation; the token is not shown again."""

    invitation: InvitationWithToken


class InvitationPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    invitations: list[Invitation]
    next_cursor: str | None


class InvitationRevoked(msgspec.Struct, frozen=True):
    """The token is worth nothing any more."""

    ok: bool


class InvitationAccepted(msgspec.Struct, frozen=True):
    """The caller is a member now."""

    membership: Membership


@post(
    "/v1/orgs/{org_id:str}/invitations",
    status_code=201,
    guards=[org_admin],
    operation_id="createInvitation",
    tags=["invitations"],
)
async def create_invitation(
    tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps], data: JSONBody[NewInvitation]
) -> InvitationCreated:
    """Invite an address. Only an owner invites an owner."""
    if data.role_key == "owner" and not tenant.has_role("owner"):
        raise forbidden("Only an owner invites an owner.")
    token = create_token(tenant.org_id, TOKEN_PREFIX)
    async with tenant.transaction() as connection:
        row = await rows.create_invitation(
            connection,
            UUID(new_id()),
            UUID(tenant.org_id),
            data.email.lower(),
            data.role_key,
            hash_token(token),
            UUID(tenant.user_id),
            INVITATION_LIFE_S,
        )
        details = {"email": row.email, "role": row.role}
        await audit(connection, tenant, AuditAction.INVITATION_CREATED, row.id, details)
    shown = msgspec.structs.asdict(_shown(row, deps.now_ms()))
    return InvitationCreated(InvitationWithToken(**shown, token=token))


@get(
    "/v1/orgs/{org_id:str}/invitations",
    guards=[org_admin],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listInvitations",
    tags=["invitations"],
)
async def list_invitations(
    tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps], page: NamedDependency[Page]
) -> InvitationPage:
    """The invitations of the organization, the newest first."""
    async with tenant.transaction() as connection:
        found = await rows.list_invitations(connection, page.after_id(), page.fetch)
    shown, next_cursor = page.cut(found, key=lambda row: row.id)
    return InvitationPage([_shown(row, deps.now_ms()) for row in shown], next_cursor)


@delete(
    "/v1/orgs/{org_id:str}/invitations/{invitation_id:str}",
    status_code=200,
    guards=[org_admin],
    operation_id="revokeInvitation",
    tags=["invitations"],
)
async def revoke_invitation(tenant: NamedDependency[TenantContext], invitation_id: FromPath[str]) -> InvitationRevoked:
    """Take an invitation back that nobody has accepted."""
    async with tenant.transaction() as connection:
        if not await rows.revoke_invitation(connection, row_id(invitation_id)):
            raise not_found(message="There is no such open invitation.")
        await audit(connection, tenant, AuditAction.INVITATION_REVOKED, invitation_id)
    return InvitationRevoked(ok=True)


@post(
    "/v1/invitations/{token:str}/accept",
    status_code=200,
    guards=[signed_in],
    opt=IDEMPOTENT | FAILURES_LIMITED,
    responses=created(InvitationAccepted, 200) | errors(403, 404, 409),
    operation_id="acceptInvitation",
    tags=["invitations"],
)
async def accept_invitation(
    request: Request[Any, Any, Any],
    deps: NamedDependency[Deps],
    principal: NamedDependency[Principal],
    token: FromPath[str],
    once: NamedDependency[Once],
) -> Response[Any]:
    """Become a member. The invitation must be for the caller's own address."""
    origin = origin_of(request)
    try:
        parsed = parse_token(token)
    except IdInvalid:
        parsed = None

    async def accept(connection: Any) -> InvitationAccepted:
        if parsed is None:
            raise _unknown()
        org_id, user_id = OrgId(parsed.subject), UUID(principal.user_id)
        await enter_tenant(connection, org_id)
        row = await rows.lock_by_token(connection, UUID(org_id), parsed.sha256)
        if row is None or row.revoked_at is not None:
            raise _unknown()
        if row.email != principal.email:
            raise forbidden("This invitation is for another address.")
        if row.accepted_at is not None:
            raise conflict("This invitation was accepted already.")
        membership = await orgs.create_membership(connection, UUID(org_id), user_id, row.role)
        if membership is None:
            raise conflict("You are a member of this organization already.")
        await rows.accept_invitation(connection, row.id, user_id)
        details = {"role": row.role}
        await audit_as(connection, org_id, principal, origin, AuditAction.INVITATION_ACCEPTED, row.id, details)
        return InvitationAccepted(shown_membership(membership))

    async with failures_limited(deps, "invitation", subjects_of(request), valid_always_passes=True):
        return await once(accept, status=200)


def _unknown() -> Exception:
    return not_found("INVITATION_NOT_FOUND", "There is no such invitation, or it has expired.")


def _shown(row: rows.InvitationRow, now_ms: int) -> Invitation:
    status: Literal["pending", "accepted", "revoked", "expired"] = "pending"
    if row.accepted_at is not None:
        status = "accepted"
    elif row.revoked_at is not None:
        status = "revoked"
    elif row.expires_at.timestamp() * 1000 <= now_ms:
        status = "expired"
    return Invitation(
        id=row.id,
        organization_id=row.organization_id,
        email=row.email,
        role_key=row.role,
        status=status,
        invited_by_user_id=row.invited_by_user_id,
        created_at=iso(row.created_at),
        expires_at=iso(row.expires_at),
        accepted_at=iso_or_none(row.accepted_at),
    )


routes = [create_invitation, list_invitations, revoke_invitation, accept_invitation]
