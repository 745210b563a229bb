"""Names of tools as `tools.allow` has them (`contracts/workflow.md`)."""

from __future__ import annotations

import re

_TOOL = re.compile(
    r"connector\.(?P<connector>[a-z0-9][a-z0-9_-]*)\.(?P<action>[A-Za-z0-9_.-]+)"
    r"|shell\.run|memory\.(search|get|write)|skill\.[a-z0-9][a-z0-9_-]{0,63}|mcp\.[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+"
)
NO_SUCH_TOOL = (
    "no such tool; use connector.<id>.<action>, shell.run, memory.search, memory.get, memory.write, "
    "skill.<skillId> or mcp.<server>.<tool>"
)


def is_tool(name: str) -> bool:
    """Whether the name has the form of a tool's."""
    return _TOOL.fullmatch(name) is not None


def connector_action(name: str) -> tuple[str, str] | None:
    """(connectorId, actionId) of a connector's tool; None for every other name."""
    match = _TOOL.fullmatch(name)
    return (match["connector"], match["action"]) if match and match["connector"] else None
