"""The memory of a session as tools. A node of a run has none."""

from __future__ import annotations

from collections.abc import Sequence

from vespid_agent.tools.scope import ToolScope
from vespid_runtime.tools.memory import memory_tool_list
from vespid_runtime.tools.tool import Tool


class MemorySource:
    """`memory.search`, `memory.get`, `memory.write`."""

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        return [] if scope.memory is None else memory_tool_list(scope.memory)
