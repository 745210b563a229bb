"""The memory of a session or a workflow as tools: whoever makes the scope knows whose it is."""

from __future__ import annotations

from collections.abc import Sequence

from vespid_agent.tools.scope import ToolScope
from vespid_runtime.tools.tool import Tool


class MemorySource:
    """`memory.search`, `memory.get`, `memory.write`."""

    def tools(self, scope: ToolScope) -> Sequence[Tool]:
        return scope.memory
