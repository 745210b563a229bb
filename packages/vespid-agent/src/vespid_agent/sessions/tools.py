"""Which tools an engine may be allowed on this agent, whatever a session or a node asks for."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from vespid_agent.config import Pool

# A managed agent answers for organizations that do not know each other: only what stays within the session's memory.
_MANAGED = ("memory.*",)


class ToolPolicy:
    """A ceiling. An agent of an organization's own has none."""

    def __init__(self, pool: Pool, managed_tools: Sequence[str]) -> None:
        """`managed_tools`: what the operator of a managed agent lets through beside memory; ids and globs."""
        self._allowed = (*_MANAGED, *managed_tools) if pool == "managed" else ("*",)

    def narrow(self, asked: Sequence[str]) -> tuple[str, ...]:
        """What is left of what a session or a node allows."""
        return tuple(tool for tool in asked if self.lets(tool))

    def lets(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self._allowed)
