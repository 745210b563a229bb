"""`memory.search`, `memory.get`, `memory.write`: what a model may do with the memory of its session.

The one thing to know: the disk is worked on in a thread, which cannot be stopped. A call that is cancelled waits until
its thread is done (the limits of a memory bound that), so that nothing is written after the turn has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from vespid_runtime.memory import MemoryRefused, MemoryTool, MemoryWorkspace, memory_tools
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse


def memory_tool_list(workspace: MemoryWorkspace) -> list[Tool]:
    """The three of them, over one session's documents."""
    return [
        WorkspaceTool(tool.id, tool.description, tool.input_schema, tool) for tool in memory_tools(workspace).values()
    ]


@dataclass(frozen=True, slots=True)
class WorkspaceTool:
    """A tool of the memory, for a model."""

    id: str
    description: str
    input_schema: dict[str, object]
    _tool: MemoryTool[Any]

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """Raises ToolError."""
        work = asyncio.get_running_loop().run_in_executor(None, self._tool.call, arguments)
        try:
            return await asyncio.shield(work)
        except MemoryRefused as refused:
            raise ToolError("INVALID_TOOL_ARGUMENTS", str(refused)) from None
        except asyncio.CancelledError:
            await asyncio.wait((work,))
            raise
