"""`memory.search`, `memory.get`, `memory.write`: what a model may do with the memory of its session or workflow.

The one thing to know: the disk is worked on in a thread, which cannot be stopped. A call that is cancelled waits until
its thread is done (the limits of a memory bound that), so that nothing is written after the turn has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vespid_runtime.memory import MEMORY_TOOLS, MemoryRefused, MemoryTool, MemoryWorkspace, carry_out
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

# Makes of a call's arguments what may be kept of them.
Mask = Callable[[dict[str, object]], object]


def memory_tool_list(workspace: MemoryWorkspace) -> list[Tool]:
    """The three of them, over one session's documents. A turn that is tried again begins with what stood before it."""
    return [WorkspaceTool(tool, workspace) for tool in MEMORY_TOOLS.values()]


def node_memory_tools(workspace: MemoryWorkspace, mask: Mask) -> list[Tool]:
    """The three of them, over one workflow's documents, which outlive a node that fails: so its calls write once, and
    nothing that a later run could not know for a secret."""
    return [WorkspaceTool(tool, workspace, mask) for tool in MEMORY_TOOLS.values()]


@dataclass(frozen=True, slots=True)
class WorkspaceTool:
    """A tool of the memory, for a model."""

    _tool: MemoryTool
    _workspace: MemoryWorkspace
    # None: a session's.
    _mask: Mask | None = None

    @property
    def id(self) -> str:
        return self._tool.id

    @property
    def description(self) -> str:
        return self._tool.description

    @property
    def input_schema(self) -> dict[str, object]:
        return self._tool.input_schema

    @property
    def secrets(self) -> tuple[str, ...]:
        return ()

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """Raises ToolError."""
        given = arguments if self._mask is None else self._mask(arguments)
        once = None if self._mask is None else use.key
        work = asyncio.get_running_loop().run_in_executor(None, partial(self._answer, given, once))
        try:
            return await asyncio.shield(work)
        except MemoryRefused as refused:
            raise ToolError("INVALID_TOOL_ARGUMENTS", str(refused)) from None
        except asyncio.CancelledError:
            await asyncio.wait((work,))
            raise

    def _answer(self, given: object, once: str | None) -> dict[str, object]:
        return carry_out(self._workspace, self._tool.read(given), once=once)
