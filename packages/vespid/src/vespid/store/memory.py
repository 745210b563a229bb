"""What sessions and workflows remember: markdown by organization, key and path.

Hosts change what sessions remember (`store.turns`), under the lock of the session's row; nodes in the gateway's mode
what workflows do (`write_doc`), one at a time for each workflow.
"""

from collections.abc import Callable, Mapping
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


async def read_text(connection: asyncpg.Connection, org_id: UUID, key: str, path: str) -> str | None:
    """None where there is no such document."""
    text: str | None = await connection.fetchval(QUERIES.read_text, org_id, key, path)
    return text


async def write_doc(
    connection: asyncpg.Connection,
    org_id: UUID,
    key: str,
    call_key: str,
    path: str,
    file_key: str,
    make: Callable[[str, Mapping[str, int]], tuple[str, str]],
) -> str:
    """Put a document of a workflow down, once for each call, and answer its sha256.

    `make`: the sha256 and the text, of what stands there now ("" where nothing does) and of the sizes in bytes of all
    documents by their paths. What it raises is raised, and nothing has changed.
    """
    await connection.execute(QUERIES.lock_memory, org_id, key)
    written: str | None = await connection.fetchval(QUERIES.find_write, org_id, call_key)
    if written is not None:
        return written
    sizes = {row["path"]: row["size"] for row in await connection.fetch(QUERIES.list_sizes, org_id, key)}
    before = await read_text(connection, org_id, key, path) if path in sizes else None
    sha256, content = make(before or "", sizes)
    await connection.execute(QUERIES.put_doc, org_id, key, path, file_key, sha256, content)
    await connection.execute(QUERIES.record_write, org_id, call_key, key, sha256)
    await connection.execute(QUERIES.drop_old_writes, org_id, key)
    return sha256
