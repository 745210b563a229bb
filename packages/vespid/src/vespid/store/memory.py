"""What sessions remember: markdown by organization, session key and path. Hosts change it (`store.turns`)."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.queries import load

QUERIES = load("memory")


class DocRow(msgspec.Struct, frozen=True):
    """A document without its text."""

    id: UUID
    organization_id: UUID
    session_key: str
    path: str
    # `memory_version` of the session when it changed.
    version: int
    sha256: str
    created_at: datetime
    updated_at: datetime


class WholeDocRow(DocRow, frozen=True):
    """A document with its text."""

    content: str


class TextRow(msgspec.Struct, frozen=True):
    """What a search index is made of."""

    id: UUID
    path: str
    sha256: str
    content: str


class ChangedRow(msgspec.Struct, frozen=True):
    """A document that was written or deleted."""

    path: str
    version: int
    sha256: str
    deleted: bool


async def read_version(connection: asyncpg.Connection, org_id: UUID, session_key: str) -> int | None:
    """It grows with every change. None: there is no such session."""
    version: int | None = await connection.fetchval(QUERIES.read_version, org_id, session_key)
    return version


async def list_docs(
    connection: asyncpg.Connection, org_id: UUID, session_key: str, after: UUID | None, limit: int
) -> list[DocRow]:
    """By path, from behind that document on."""
    return [DocRow(**row) for row in await connection.fetch(QUERIES.list_docs, org_id, session_key, after, limit)]


async def list_texts(connection: asyncpg.Connection, org_id: UUID, session_key: str) -> list[TextRow]:
    """All of a session's memory."""
    return [TextRow(**row) for row in await connection.fetch(QUERIES.list_texts, org_id, session_key)]


async def list_changed(
    connection: asyncpg.Connection, org_id: UUID, session_key: str, after_version: int
) -> list[ChangedRow]:
    """Documents that changed after that version, the deleted ones too."""
    return [
        ChangedRow(**row) for row in await connection.fetch(QUERIES.list_changed, org_id, session_key, after_version)
    ]


async def read_doc(connection: asyncpg.Connection, org_id: UUID, doc_id: UUID) -> WholeDocRow | None:
    row = await connection.fetchrow(QUERIES.read_doc, org_id, doc_id)
    return None if row is None else WholeDocRow(**row)
