"""`memory.*` in the gateway's mode: what the runs of a workflow remember, in Postgres, whichever worker has the node.

The one thing to know: of two runs that write to one document at once, the later puts its text in the place of the
other's, or behind it; each is whole. A call that comes again after a crash finds that it has written, and changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from vespid.dispatch.memory_search import MemorySearch
from vespid.store.failure import STORE_AWAY
from vespid.store.memory import read_text, write_doc
from vespid.store.pool import Database
from vespid_protocol.codes import Code
from vespid_protocol.ids import OrgId
from vespid_protocol.text import clean_text
from vespid_runtime.loop.names import is_allowed
from vespid_runtime.memory import MEMORY_TOOLS, MemoryRefused, MemoryTool, content_sha256, document_path
from vespid_runtime.memory.limits import appended, check_written
from vespid_runtime.memory.paths import same_file_key
from vespid_runtime.memory.tools import GetInput, SearchInput, WriteInput, found, got, wrote
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import asyncpg

# A write waits for others of its workflow; a database that is busy is asked again.
RETRY_S = (0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class WorkflowMemory:
    """The documents of one workflow of one organization; a `Tenant` for searches."""

    db: Database
    indexes: MemorySearch
    org_id: OrgId
    # `workflow_key` of its family.
    key: str

    def transaction(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        return self.db.tenant(self.org_id)

    def tools(self, allow: tuple[str, ...], redactor: Redactor) -> list[Tool]:
        """Those that the node may call. `redactor` masks what they write: a later run does not know what is secret."""
        return [_DocsTool(tool, self, redactor) for tool in MEMORY_TOOLS.values() if is_allowed(tool.id, allow)]

    async def search(self, given: SearchInput) -> dict[str, object]:
        results = await self.indexes.search(self, self.key, given.query, given.limit)
        return found(result for _, result in results)

    async def get(self, given: GetInput) -> dict[str, object]:
        """Raises MemoryRefused."""
        path = document_path(given.path)
        async with self.transaction() as connection:
            content = await read_text(connection, UUID(self.org_id), self.key, path)
        return got(given, content)

    async def write(self, given: WriteInput, call_key: str) -> dict[str, object]:
        """Raises MemoryRefused; then nothing has changed."""
        path, said = document_path(given.path), clean_text(given.content)[0]

        def make(before: str, sizes: Mapping[str, int]) -> tuple[str, str]:
            content = appended(before, said) if given.mode == "append" else said
            check_written(sizes, {path: content})
            return content_sha256(content), content

        async with self.transaction() as connection:
            sha256 = await write_doc(connection, UUID(self.org_id), self.key, call_key, path, same_file_key(path), make)
        return wrote(given, sha256)


@dataclass(frozen=True, slots=True)
class _DocsTool:
    """A tool of the memory, for a model."""

    _tool: MemoryTool
    _memory: WorkflowMemory
    _redactor: Redactor
    secrets: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self._tool.id

    @property
    def description(self) -> str:
        return self._tool.description

    @property
    def input_schema(self) -> dict[str, object]:
        return self._tool.input_schema

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """Raises ToolError."""
        masked = self._redactor.redact_json(arguments)
        for pause_s in RETRY_S:
            try:
                return await self._answer(masked, use)
            except STORE_AWAY:  # also where it was done and nobody heard of it: the key says so
                await asyncio.sleep(pause_s)
        try:
            return await self._answer(masked, use)
        except STORE_AWAY:
            raise ToolError(Code.NODE_EXECUTION_FAILED, "the memory cannot be reached just now") from None

    async def _answer(self, arguments: object, use: ToolUse) -> dict[str, object]:
        try:
            match self._tool.read(arguments):
                case SearchInput() as given:
                    return await self._memory.search(given)
                case GetInput() as given:
                    return await self._memory.get(given)
                case WriteInput() as given:
                    return await self._memory.write(given, use.key)
        except MemoryRefused as refused:
            raise ToolError("INVALID_TOOL_ARGUMENTS", str(refused)) from None
