"""API keys: machine credentials of one organization, for scripts and CI.

A key acts in the name of the member who made it, with a role of its own that is not higher than theirs; it ends with
their membership.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, row_id
from vespid.control.deps import Deps
from vespid.control.members import RoleKey
from vespid.control.pagination import Page, provide_page
from vespid.control.principal import API_KEY_PREFIX
from vespid.control.wire import iso, iso_or_none
from vespid.errors import bad_request, forbidden, not_found
from vespid.store import api_keys as rows
from vespid.store.announcements import announce_key_revoked
from vespid_protocol.ids import create_token, hash_token, new_id

MAX_LIFE_MS = 10 * 366 * 24 * 3600 * 1000


class NewApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key to be made; without `expiresAt` it lives until it is revoked."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    role: RoleKey
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class ApiKey(msgspec.Struct, frozen=True, rename="camel"):
    """A key; its value is shown only where it is made."""

    id: UUID
    name: str
    role: str
    created_by_user_id: UUID
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class ApiKeyCreated(msgspec.Struct, frozen=True, rename="camel"):
    """The key and its value, which is not shown again."""

    api_key: ApiKey
    value: str


class ApiKeyPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    api_keys: list[ApiKey]
    next_cursor: str | None


class ApiKeyRevoked(msgspec.Struct, frozen=True):
    """The key is worth nothing any more."""

    ok: bool


@post(
    "/v1/orgs/{org_id:str}/api-keys",
    status_code=201,
    guards=[org_admin],
    operation_id="createApiKey",
    tags=["api keys"],
)
async def create_api_key(
    tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps], data: JSONBody[NewApiKey]
) -> ApiKeyCreated:
    """Make a key. Its role is not higher than the caller's."""
    if not tenant.has_role(data.role):
        raise forbidden("A key's role is not higher than that of its maker.")
    if data.expires_at is not None:
        life_ms = data.expires_at.timestamp() * 1000 - deps.now_ms()
        if not 0 < life_ms <= MAX_LIFE_MS:
            raise bad_request("This is in the past, or more than ten years away.", field="expiresAt")
    value = create_token(tenant.org_id, API_KEY_PREFIX)
    async with tenant.transaction() as connection:
        row = await rows.create_key(
            connection,
            UUID(new_id()),
            UUID(tenant.org_id),
            data.name,
            data.role,
            hash_token(value),
            UUID(tenant.user_id),
            data.expires_at,
        )
        details = {"name": row.name, "role": row.role}
        await audit(connection, tenant, AuditAction.API_KEY_CREATED, row.id, details)
    return ApiKeyCreated(_shown(row), value)


@get(
    "/v1/orgs/{org_id:str}/api-keys",
    guards=[org_admin],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listApiKeys",
    tags=["api keys"],
)
async def list_api_keys(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    q: Annotated[str | None, QueryParameter(max_length=254, description="Only those whose name has this text.")] = None,
) -> ApiKeyPage:
    """The keys that are not revoked, the newest first."""
    async with tenant.transaction() as connection:
        found = await rows.list_keys(connection, page.after_id(), page.fetch, q or None)
    shown, next_cursor = page.cut(found, key=lambda row: row.id)
    return ApiKeyPage([_shown(row) for row in shown], next_cursor)


@delete(
    "/v1/orgs/{org_id:str}/api-keys/{key_id:str}",
    status_code=200,
    guards=[org_admin],
    operation_id="revokeApiKey",
    tags=["api keys"],
)
async def revoke_api_key(tenant: NamedDependency[TenantContext], key_id: FromPath[str]) -> ApiKeyRevoked:
    """Revoke a key. It stops at once, everywhere. An owner's key takes an owner."""
    async with tenant.transaction() as connection:
        row = await rows.lock_key(connection, row_id(key_id))
        if row is None:
            raise not_found(message="There is no such key.")
        if not tenant.has_role(row.role):
            raise forbidden("An owner's key is revoked by an owner.")
        await rows.revoke_key(connection, row.id)
        await announce_key_revoked(connection, UUID(tenant.org_id), row.id)
        await audit(connection, tenant, AuditAction.API_KEY_REVOKED, row.id, {"name": row.name})
    return ApiKeyRevoked(ok=True)


def _shown(row: rows.ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=row.role,
        created_by_user_id=row.created_by_user_id,
        created_at=iso(row.created_at),
        expires_at=iso_or_none(row.expires_at),
        last_used_at=iso_or_none(row.last_used_at),
    )


routes = [create_api_key, list_api_keys, revoke_api_key]
