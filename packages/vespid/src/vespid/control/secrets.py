"""Secrets of connectors and model providers: written, replaced, deleted, never shown."""

from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, row_id
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Once
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.errors import ApiError, conflict, not_found
from vespid.security.envelope import Keyring
from vespid.store import secrets as rows
from vespid_protocol.ids import new_id

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
Value = Annotated[str, msgspec.Meta(max_length=65_536)]


class NewSecret(msgspec.Struct, frozen=True, rename="camel"):
    """The value is taken in and never given out."""

    connector_id: Name
    name: Name
    value: Value = ""


class NewSecretValue(msgspec.Struct, frozen=True, rename="camel"):
    """What replaces the value of before."""

    value: Value = ""


class Secret(msgspec.Struct, frozen=True, rename="camel"):
    """All that is ever shown of a secret."""

    id: UUID
    organization_id: UUID
    connector_id: str
    name: str
    created_by_user_id: UUID | None
    updated_by_user_id: UUID | None
    created_at: str
    updated_at: str


class SecretAnswer(msgspec.Struct, frozen=True):
    """One secret."""

    secret: Secret


class SecretPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    secrets: list[Secret]
    next_cursor: str | None


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


@get(
    "/v1/orgs/{org_id:str}/secrets",
    guards=[org_admin],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listSecrets",
    tags=["secrets"],
)
async def list_secrets(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    connector_id: Annotated[
        str | None, QueryParameter(name="connectorId", max_length=120, description="Only those of this connector.")
    ] = None,
) -> SecretPage:
    """The organization's secrets, without their values."""
    async with tenant.transaction() as connection:
        found = await rows.list_secrets(connection, page.after_id(), page.fetch, connector_id or None)
    shown, next_cursor = page.cut(found, key=lambda secret: secret.id)
    return SecretPage([_shown(secret) for secret in shown], next_cursor)


@post(
    "/v1/orgs/{org_id:str}/secrets",
    guards=[org_admin],
    opt=IDEMPOTENT,
    responses=errors(409),
    operation_id="createSecret",
    tags=["secrets"],
)
async def create_secret(
    data: JSONBody[NewSecret],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    once: NamedDependency[Once],
) -> Response[SecretAnswer]:
    """Seal a value under a name of its connector."""
    keyring = _keyring_for(deps, data.value)

    async def create(connection: asyncpg.Connection) -> SecretAnswer:
        secret_id = new_id()
        secret = await rows.create_secret(
            connection,
            rows.NewSecret(
                id=UUID(secret_id),
                organization_id=UUID(tenant.org_id),
                connector_id=data.connector_id,
                name=data.name,
                sealed=keyring.seal(tenant.org_id, secret_id, data.value),
                user_id=UUID(tenant.user_id),
            ),
        )
        if secret is None:
            raise conflict("This connector has a secret of that name already.", "SECRET_ALREADY_EXISTS")
        await audit(connection, tenant, AuditAction.SECRET_CREATED, secret.id, _named(data.connector_id, data.name))
        return SecretAnswer(_shown(secret))

    return await once(create)


@put(
    "/v1/orgs/{org_id:str}/secrets/{secret_id:str}",
    guards=[org_admin],
    operation_id="replaceSecret",
    tags=["secrets"],
)
async def replace_secret(
    secret_id: FromPath[str],
    data: JSONBody[NewSecretValue],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
) -> SecretAnswer:
    """Put another value in the place of the old one; who resolves the secret from now on gets the new one."""
    row = row_id(secret_id, *_NOT_FOUND)
    keyring = _keyring_for(deps, data.value)
    sealed = keyring.seal(tenant.org_id, str(row), data.value)
    async with tenant.transaction() as connection:
        secret = await rows.replace_secret_value(connection, row, sealed, UUID(tenant.user_id))
        if secret is None:
            raise not_found(*_NOT_FOUND)
        named = _named(secret.connector_id, secret.name)
        await audit(connection, tenant, AuditAction.SECRET_REPLACED, secret.id, named)
    return SecretAnswer(_shown(secret))


@delete(
    "/v1/orgs/{org_id:str}/secrets/{secret_id:str}",
    guards=[org_admin],
    status_code=200,
    operation_id="deleteSecret",
    tags=["secrets"],
)
async def delete_secret(secret_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> Done:
    """Forget a secret; nodes that name it fail from now on."""
    row = row_id(secret_id, *_NOT_FOUND)
    async with tenant.transaction() as connection:
        deleted = await rows.delete_secret(connection, row)
        if deleted is None:
            raise not_found(*_NOT_FOUND)
        await audit(connection, tenant, AuditAction.SECRET_DELETED, row, _named(*deleted))
    return Done()


_NOT_FOUND = ("SECRET_NOT_FOUND", "There is no such secret here.")


def _keyring_for(deps: Deps, value: str) -> Keyring:
    if not value:
        details = {"fieldErrors": {"value": ["This field is required."]}}
        raise ApiError(400, "SECRET_VALUE_REQUIRED", "A secret needs a value.", details)
    if deps.keyring is None:
        raise ApiError(503, "SECRETS_NOT_CONFIGURED", "This server was given no key to seal secrets with.")
    return deps.keyring


def _named(connector_id: str, name: str) -> dict[str, object]:
    return {"connectorId": connector_id, "name": name}


def _shown(secret: rows.SecretRow) -> Secret:
    return Secret(
        id=secret.id,
        organization_id=secret.organization_id,
        connector_id=secret.connector_id,
        name=secret.name,
        created_by_user_id=secret.created_by_user_id,
        updated_by_user_id=secret.updated_by_user_id,
        created_at=iso(secret.created_at),
        updated_at=iso(secret.updated_at),
    )


routes = [list_secrets, create_secret, replace_secret, delete_secret]
