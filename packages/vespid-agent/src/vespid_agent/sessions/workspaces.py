"""The memory of sessions and workflows on this host, called from the loop and worked on in threads."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from vespid_protocol.frames import MemoryDocument
from vespid_runtime.memory.index import SearchResult
from vespid_runtime.memory.workspace import DELETED_SHA256, MemoryWorkspace

# How many keep their search index at hand.
WORKSPACES_MAX = 200


@dataclass(frozen=True, slots=True)
class Before:
    """What a session remembered when a turn began."""

    documents: Mapping[str, MemoryDocument]

    @property
    def hashes(self) -> dict[str, str]:
        return {path: document.sha256 for path, document in self.documents.items()}

    def undo(self, changed: Sequence[MemoryDocument]) -> tuple[MemoryDocument, ...]:
        """What brings the documents that have changed since back to where they were."""
        gone = [_gone(document.path) for document in changed if document.path not in self.documents]
        kept = [self.documents[document.path] for document in changed if document.path in self.documents]
        return (*gone, *kept)


class SessionMemory:
    """One session key's documents. Every call raises ValueError for what is refused, OSError for a disk that is."""

    def __init__(self, workspace: MemoryWorkspace) -> None:
        # What engines are given.
        self.workspace = workspace

    async def take(self) -> Before:
        """As it stands now."""
        changes = await asyncio.to_thread(self.workspace.changes, {})
        return Before({document.path: document for document in changes.documents})

    async def changed(self, since: Before) -> tuple[MemoryDocument, ...]:
        changes = await asyncio.to_thread(self.workspace.changes, since.hashes)
        return changes.documents

    async def restore(self, before: Before) -> None:
        """Undo what was written since: the turn's answer was not given, so neither is its memory."""
        undo = before.undo(await self.changed(before))
        if undo:
            await self.apply(undo, whole=False)

    async def apply(self, documents: Sequence[MemoryDocument], *, whole: bool) -> None:
        """`whole`: nothing else stays."""
        await asyncio.to_thread(self.workspace.apply, documents, whole=whole)

    async def differing(self, known: Mapping[str, str]) -> tuple[MemoryDocument, ...]:
        """What somebody who has these (path → sha256) lacks."""
        changes = await asyncio.to_thread(self.workspace.changes, known)
        return changes.documents

    async def search(self, query: str, limit: int) -> Sequence[SearchResult]:
        return await asyncio.to_thread(self.workspace.search, query, limit)


class Workspaces:
    """By organization and key, of a session or a workflow (`workflow_key`): those with the same key share one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: OrderedDict[tuple[str, str], SessionMemory] = OrderedDict()
        # Also those that a long task still writes to: two of one folder would not wait for each other.
        self._used: WeakValueDictionary[tuple[str, str], MemoryWorkspace] = WeakValueDictionary()

    def of(self, organization_id: str, session_key: str) -> SessionMemory:
        """Raises ValueError for a key that cannot name a folder."""
        key = (organization_id, session_key)
        memory = self._held.get(key)
        if memory is None:
            workspace = self._used.get(key)
            if workspace is None:
                workspace = self._used[key] = MemoryWorkspace(self._root, organization_id, session_key)
            memory = self._held[key] = SessionMemory(workspace)
            if len(self._held) > WORKSPACES_MAX:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return memory


def _gone(path: str) -> MemoryDocument:
    return MemoryDocument(path=path, sha256=DELETED_SHA256, content=None)
