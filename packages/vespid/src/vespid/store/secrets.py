"""Secrets: rows of `secrets`, and the only two ways to a sealed value (resolve it, re-wrap it)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.security.envelope import Keyring, Sealed, SealedDek, SecretValue
from vespid.store.pool import Database
from vespid.store.queries import load
from vespid_protocol.ids import OrgId

QUERIES = load("secrets")


class SecretRow(msgspec.Struct, frozen=True):
    """What may be shown of a secret: everything but its value."""

    id: UUID
    organization_id: UUID
    connector_id: str
    name: str
    created_by_user_id: UUID | None
    updated_by_user_id: UUID | None
    created_at: datetime
    updated_at: datetime


class WrappedSecret(msgspec.Struct, frozen=True):
    """The data key of one secret, for rotation."""

    id: UUID
    organization_id: UUID
    dek: SealedDek


class NewSecret(msgspec.Struct, frozen=True):
    id: UUID
    organization_id: UUID
    connector_id: str
    name: str
    sealed: Sealed
    user_id: UUID


async def list_secrets(
    connection: asyncpg.Connection, before: UUID | None, limit: int, connector_id: str | None
) -> list[SecretRow]:
    return [_row(record) for record in await connection.fetch(QUERIES.list_secrets, before, limit, connector_id)]


async def create_secret(connection: asyncpg.Connection, new: NewSecret) -> SecretRow | None:
    """None where the connector has a secret of that name already."""
    record = await connection.fetchrow(
        QUERIES.create_secret,
        new.id,
        new.organization_id,
        new.connector_id,
        new.name,
        new.sealed.dek.kek_id,
        new.sealed.dek.wrapped_dek,
        new.sealed.dek.dek_nonce,
        new.sealed.value_ciphertext,
        new.sealed.value_nonce,
        new.user_id,
    )
    return None if record is None else _row(record)


async def replace_secret_value(
    connection: asyncpg.Connection, secret_id: UUID, sealed: Sealed, user_id: UUID
) -> SecretRow | None:
    record = await connection.fetchrow(
        QUERIES.replace_secret_value,
        secret_id,
        sealed.dek.kek_id,
        sealed.dek.wrapped_dek,
        sealed.dek.dek_nonce,
        sealed.value_ciphertext,
        sealed.value_nonce,
        user_id,
    )
    return None if record is None else _row(record)


async def secret_exists(connection: asyncpg.Connection, secret_id: UUID) -> bool:
    """Whether the tenant has it."""
    exists: bool = await connection.fetchval(QUERIES.secret_exists, secret_id)
    return exists


async def delete_secret(connection: asyncpg.Connection, secret_id: UUID) -> tuple[str, str] | None:
    """The connector and the name of what was deleted."""
    record = await connection.fetchrow(QUERIES.delete_secret, secret_id)
    return None if record is None else (record["connector_id"], record["name"])


async def list_secrets_to_rewrap(
    connection: asyncpg.Connection, active_kek_id: str, after: UUID, limit: int
) -> list[WrappedSecret]:
    """Secrets of every organization that are not under the active KEK, by id."""
    records = await connection.fetch(QUERIES.list_secrets_to_rewrap, active_kek_id, after, limit)
    return [
        WrappedSecret(
            record["id"],
            record["organization_id"],
            SealedDek(record["kek_id"], record["wrapped_dek"], record["dek_nonce"]),
        )
        for record in records
    ]


async def rewrap_secrets(
    connection: asyncpg.Connection, before: Sequence[WrappedSecret], after: Sequence[SealedDek], kek_id: str
) -> int:
    """How many rows changed: one that was written meanwhile keeps what it has."""
    changed: int = await connection.fetchval(
        QUERIES.rewrap_secrets,
        [secret.id for secret in before],
        [secret.organization_id for secret in before],
        [secret.dek.wrapped_dek for secret in before],
        kek_id,
        [dek.wrapped_dek for dek in after],
        [dek.dek_nonce for dek in after],
    )
    return changed


class SecretsNotConfigured(Exception):
    """This process was given no KEK."""


class SecretResolver:
    """Opens a secret for whoever is about to send it: the edge, the worker, the gateway's own loop.

    The read is a tenant transaction of the organization that asks, so another organization's secret is not found
    rather than refused.
    """

    def __init__(self, database: Database, keyring: Keyring | None) -> None:
        self._database = database
        self._keyring = keyring

    async def resolve(self, organization_id: OrgId, secret_id: str) -> SecretValue | None:
        """The value of this moment; None where the organization has no such secret.

        Raises SecretsNotConfigured, UnknownKek or TamperedSecret.
        """
        if self._keyring is None:
            raise SecretsNotConfigured
        try:
            row_id = UUID(secret_id)
        except ValueError:
            return None
        async with self._database.tenant(organization_id) as connection:
            record = await connection.fetchrow(QUERIES.read_sealed_secret, UUID(organization_id), row_id)
        if record is None:
            return None
        sealed = Sealed(
            SealedDek(record["kek_id"], record["wrapped_dek"], record["dek_nonce"]),
            record["value_ciphertext"],
            record["value_nonce"],
        )
        return self._keyring.open(organization_id, str(row_id), sealed)


def _row(record: asyncpg.Record) -> SecretRow:
    return SecretRow(**record)
