"""What Postgres takes of a host's memory, whatever the gateway in between lets through."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from tests.support.ground import Ground
from tests.support.hosted_talk import Talk

from vespid.gateway.edge.memory_documents import stored
from vespid.store import memory
from vespid.store.pool import Database
from vespid.store.sessions import MessageSender
from vespid.store.turns import ChangedDocument, TurnStore
from vespid_protocol.frames import MemoryDocument
from vespid_runtime.memory import DELETED_SHA256, content_sha256
from vespid_runtime.memory.limits import DOCUMENT_MAX_BYTES, DOCUMENTS_MAX, TOTAL_MAX_BYTES


@pytest_asyncio.fixture
async def talk(ground: Ground, database: Database) -> AsyncIterator[Talk]:
    """A session that is pinned to its host."""
    turns, sender = TurnStore(database), MessageSender(database)
    await turns.start()
    await sender.start()
    org = await ground.organization()
    host = await ground.connected(await ground.executor(org), await ground.process())
    talk = Talk(ground, database, turns, sender, org, host)
    await talk.create()
    await talk.send()
    await talk.leased(2)
    await talk.finish(2)
    yield talk
    await sender.stop()
    await turns.stop()


def document(path: str, text: str | None) -> ChangedDocument:
    return ChangedDocument(path, DELETED_SHA256 if text is None else content_sha256(text), text)


async def put(talk: Talk, *documents: ChangedDocument) -> int | None:
    return await talk.turns.put_memory(talk.org, talk.id, talk.host.executor, documents)


async def kept(talk: Talk) -> dict[str, str]:
    key = f"agent:main:org:{talk.org}:scope:main:{talk.id}"
    async with talk.db.tenant(talk.org) as connection:
        return {row.path: row.content for row in await memory.list_texts(connection, UUID(talk.org), key)}


async def test_number_of_documents_has_a_limit_that_deleted_ones_do_not_count_against(talk: Talk) -> None:
    assert await put(talk, *(document(f"memory/{number}.md", "x") for number in range(DOCUMENTS_MAX))) == 1
    with pytest.raises(asyncpg.CheckViolationError, match="at most 500 documents"):
        await put(talk, document("MEMORY.md", "one too many"))
    assert "MEMORY.md" not in await kept(talk)
    assert await put(talk, document("MEMORY.md", "in its place"), document("memory/0.md", None)) == 2
    assert len(await kept(talk)) == DOCUMENTS_MAX


async def test_all_of_it_has_a_limit_in_bytes(talk: Talk) -> None:
    large = "ü" * (DOCUMENT_MAX_BYTES // 2)
    assert await put(talk, *(document(f"memory/{n}.md", large) for n in range(TOTAL_MAX_BYTES // DOCUMENT_MAX_BYTES)))
    with pytest.raises(asyncpg.CheckViolationError, match="8 MiB"):
        await put(talk, document("MEMORY.md", "x"))
    assert await put(talk, document("memory/0.md", "less"), document("MEMORY.md", "x")) == 2


async def test_names_that_are_one_file_after_composing_and_folding_are_not_both_kept(talk: Talk) -> None:
    names = ("memory/stra\N{LATIN SMALL LETTER SHARP S}e.md", "memory/strasse.md")
    one, other = stored(MemoryDocument(path=name, sha256="", content=name) for name in names)
    assert await put(talk, one) == 1
    with pytest.raises(asyncpg.UniqueViolationError):
        await put(talk, other)
    assert list(await kept(talk)) == [names[0]]


async def test_two_names_of_one_file_are_not_both_kept(talk: Talk) -> None:
    await put(talk, document("memory/Notes.md", "x"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await put(talk, document("memory/notes.md", "y"), document("MEMORY.md", "z"))
    assert await kept(talk) == {"memory/Notes.md": "x"}


async def test_document_may_change_the_spelling_of_its_name(talk: Talk) -> None:
    await put(talk, document("memory/notes.md", "x"))
    assert await put(talk, document("memory/Notes.md", "x"), document("memory/notes.md", None)) == 2
    assert await put(talk, document("memory/notes.md", "y"), document("memory/Notes.md", None)) == 3
    assert await kept(talk) == {"memory/notes.md": "y"}


async def test_only_the_pinned_host_is_heard(talk: Talk, superuser: "asyncpg.Connection") -> None:
    other = await talk.another_host()
    assert await talk.turns.put_memory(talk.org, talk.id, other.executor, [document("MEMORY.md", "x")]) is None
    await superuser.execute("update executors set revoked_at = now() where id = $1", UUID(talk.host.executor))
    assert await put(talk, document("MEMORY.md", "x")) is None
    assert await kept(talk) == {}
