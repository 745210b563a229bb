"""The organization a request acts in, and the guards that let it in.

Guards run before the body is read, so membership is checked before the body, as the contract asks. A `TenantContext`
can only be had from the guard that checked the membership; a handler receives it by naming a parameter `tenant`.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from litestar.datastructures import State
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Scope

from vespid.control.deps import Deps
from vespid.control.principal import (
    Connection,
    Principal,
    authenticate,
    principal_of,
    require_allowed_origin,
    set_principal,
)
from vespid.control.rate_limit import failures_limited, subjects_of
from vespid.control.request_id import request_id_of
from vespid.dispatch.audit import Origin
from vespid.errors import ApiError, forbidden, not_found
from vespid.store.pool import Database
from vespid_protocol.ids import OrgId, UserId, is_uuid

if TYPE_CHECKING:
    import asyncpg

ROLES = ("member", "admin", "owner")
_TENANT = "vespid_tenant"
# Only the membership check below holds this.
_CHECKED = object()


class TenantContext:
    """A caller who was found to be a member, and the organization they act in."""

    __slots__ = ("_database", "org_id", "origin", "principal", "role")

    def __init__(
        self, checked: object, database: Database, org_id: OrgId, principal: Principal, role: str, origin: Origin
    ) -> None:
        if checked is not _CHECKED:
            raise TypeError("a TenantContext comes from the membership check only")
        self._database = database
        self.org_id = org_id
        self.principal = principal
        self.role = role
        self.origin = origin

    @property
    def user_id(self) -> UserId:
        """The member, or the member in whose name an API key acts."""
        return self.principal.user_id

    def transaction(self) -> "AbstractAsyncContextManager[asyncpg.Connection]":
        """A transaction that sees this organization's rows and no others."""
        return self._database.tenant(self.org_id)

    def has_role(self, role: str) -> bool:
        """Whether the caller's role is this one or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def is_role(text: str) -> bool:
    """Whether the text names a role."""
    return text in ROLES


def row_id(text: str, code: str = "NOT_FOUND", message: str = "There is no such thing here.") -> UUID:
    """An id out of a path. What is no id names nothing: raises ApiError 404 with that code."""
    if not is_uuid(text):
        raise not_found(code, message)
    return UUID(text)


def origin_of(connection: Connection) -> Origin:
    """From where the request came."""
    client = connection.client
    return Origin.of(
        request_id_of(connection.scope), client.host if client else None, connection.headers.get("user-agent")
    )


# --- guards ----------------------------------------------------------------------------------------------------------


async def signed_in(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets people in: a login, not an API key. For routes outside of an organization."""
    standing = await authenticate(connection, _deps_of(connection), None)
    if standing.principal.session_id is None:
        raise forbidden("An API key acts in its organization only.")
    set_principal(connection.scope, standing.principal)


async def org_member(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets members of the path's organization in."""
    await _enter_organization(connection, "member")


async def org_admin(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets admins and owners of the path's organization in."""
    await _enter_organization(connection, "admin")


async def org_owner(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets owners of the path's organization in."""
    await _enter_organization(connection, "owner")


async def key_holder(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets an API key in, to its own organization; the path names none. What it may do there is asked per tool."""
    deps = _deps_of(connection)
    origin: str | None = connection.headers.get("origin")
    if origin is not None:
        # No browser has a business here but one of our own pages.
        require_allowed_origin(connection, deps.settings.allowed_origins)
    async with failures_limited(deps, "api_key", subjects_of(connection), valid_always_passes=True):
        standing = await deps.callers.of_key(connection.headers.get("authorization"))
    org_id = standing.principal.api_key_org_id
    if org_id is None or standing.role is None:
        raise RuntimeError("an API key without an organization")
    tenant = TenantContext(_CHECKED, deps.database, org_id, standing.principal, standing.role, origin_of(connection))
    connection.scope["state"][_TENANT] = tenant
    set_principal(connection.scope, tenant.principal)


ORG_GUARDS = (org_member, org_admin, org_owner)
_ROLE_OF: Mapping[object, str] = {org_member: "member", org_admin: "admin", org_owner: "owner"}


def role_for(handler: BaseRouteHandler) -> str:
    """The role that a route of an organization takes, as its guard says it."""
    (role,) = (_ROLE_OF[guard] for guard in handler.guards or () if guard in _ROLE_OF)
    return role


async def _enter_organization(connection: Connection, role: str) -> None:
    """Check header, membership and role, and leave the TenantContext for the handler."""
    deps = _deps_of(connection)
    named: str | None = connection.headers.get("x-org-id")
    path = str(connection.path_params["org_id"])
    org_id = OrgId(path.lower()) if is_uuid(path) else None
    standing = await authenticate(connection, deps, org_id)
    if not named:
        raise ApiError(400, "ORG_CONTEXT_REQUIRED", "The header X-Org-Id is missing.")
    if org_id is None or not is_uuid(named) or named.lower() != org_id:
        raise ApiError(400, "INVALID_ORG_CONTEXT", "The header X-Org-Id is not the organization of the path.")
    if standing.role is None:
        raise ApiError(403, "ORG_ACCESS_DENIED", "You are not a member of this organization.")
    tenant = TenantContext(_CHECKED, deps.database, org_id, standing.principal, standing.role, origin_of(connection))
    if not tenant.has_role(role):
        raise forbidden(f"This takes the role {role}.")
    connection.scope["state"][_TENANT] = tenant
    set_principal(connection.scope, tenant.principal)


def _deps_of(connection: Connection) -> Deps:
    deps: Deps = connection.app.state.deps
    return deps


# --- what handlers are given -----------------------------------------------------------------------------------------


def provide_deps(state: State) -> Deps:
    """`deps`: what the process has."""
    deps: Deps = state.deps
    return deps


def tenant_of(scope: Any) -> TenantContext | None:
    """The organization that a guard let the request into; None on routes outside of one."""
    tenant: TenantContext | None = scope["state"].get(_TENANT)
    return tenant


def provide_tenant(scope: Scope) -> TenantContext:
    """`tenant`: on routes guarded by `org_member`, `org_admin` or `org_owner`."""
    tenant = tenant_of(scope)
    if tenant is None:
        raise RuntimeError("this route has no organization guard")
    return tenant


def provide_principal(scope: Scope) -> Principal:
    """`principal`: on routes guarded by `signed_in`."""
    return principal_of(scope)
