"""Search over what sessions and workflows remember: an index per key, made when somebody searches, kept while used.

What is in Postgres may change at any time; the version of the memory says whether an index is of now.
"""

import asyncio
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from vespid.store.memory import TextRow, list_texts, read_version
from vespid_protocol.ids import OrgId
from vespid_runtime.memory import MemoryIndex, SearchResult

if TYPE_CHECKING:
    import asyncpg

INDEXES_MAX = 64
# Of the texts that indexes are made of, all together: an index takes some times that.
TEXT_MAX_CHARS = 64 * 1024 * 1024


class Tenant(Protocol):
    """An organization whose rows may be read; `TenantContext` is one."""

    @property
    def org_id(self) -> OrgId: ...

    def transaction(self) -> "AbstractAsyncContextManager[asyncpg.Connection]": ...


_Key = tuple[UUID, str]


class _Held:
    """One index."""

    def __init__(self) -> None:
        self.index = MemoryIndex()
        # None: it is of no version yet.
        self.version: int | None = None
        self.ids: dict[str, UUID] = {}
        self.chars = 0
        self.turn = asyncio.Lock()


class MemorySearch:
    """The indexes of this process; the longest unused go first."""

    def __init__(self, *, most: int = INDEXES_MAX, most_chars: int = TEXT_MAX_CHARS) -> None:
        self._most = most
        self._most_chars = most_chars
        self._held: OrderedDict[_Key, _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    async def search(self, tenant: Tenant, session_key: str, query: str, limit: int) -> list[tuple[UUID, SearchResult]]:
        """The best passages with the ids of their documents; nothing where nothing is remembered under the key."""
        org_id = UUID(tenant.org_id)
        async with tenant.transaction() as connection:
            version = await read_version(connection, org_id, session_key)
        if version is None:
            return []
        key = (org_id, session_key)
        held = self._held.setdefault(key, _Held())
        self._held.move_to_end(key)
        async with held.turn:
            if held.version is None or held.version < version:
                async with tenant.transaction() as connection:
                    # The version first: an index that is newer than it says is only made once more.
                    version = await read_version(connection, org_id, session_key)
                    texts = await list_texts(connection, org_id, session_key)
                await asyncio.to_thread(_fill, held, texts)
                held.version = version
            ids = held.ids
            found = await asyncio.to_thread(held.index.search, query, limit)
        self._trim()
        return [(ids[result.path], result) for result in found]

    def _trim(self) -> None:
        chars = sum(held.chars for held in self._held.values())
        while len(self._held) > self._most or (chars > self._most_chars and len(self._held) > 1):
            _key, gone = self._held.popitem(last=False)
            chars -= gone.chars


def _fill(held: _Held, texts: list[TextRow]) -> None:
    held.index.refresh((text.path, text.sha256, text.content) for text in texts)
    held.ids = {text.path: text.id for text in texts}
    held.chars = sum(len(text.content) for text in texts)
