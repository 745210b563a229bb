"""Names of tools as `tools.allow` has them (`contracts/workflow.md`), and what stands for several: `<beginning>.*`.

The one thing to know: `shell.run` is in no pattern. Who lets models run commands says so by its name.
"""

from __future__ import annotations

import re

_CONNECTOR = r"connector\.(?P<connector>[a-z0-9][a-z0-9_-]*)"
_REST = r"[A-Za-z0-9_.-]+"
_TOOL = re.compile(
    rf"{_CONNECTOR}\.(?P<action>{_REST})"
    rf"|shell\.run|memory\.(search|get|write)|skill\.[a-z0-9][a-z0-9_-]{{0,63}}|mcp\.[A-Za-z0-9_-]+\.{_REST}"
)
_PATTERN = re.compile(rf"({_CONNECTOR}(\.{_REST})?|connector|memory|skill|mcp(\.[A-Za-z0-9_-]+(\.{_REST})?)?)\.\*")
NO_SUCH_TOOL = (
    "no such tool; use connector.<id>.<action>, shell.run, memory.search, memory.get, memory.write, "
    "skill.<skillId> or mcp.<server>.<tool>, or for several connector.*, connector.<id>.*, memory.*, skill.*, mcp.* "
    "or mcp.<server>.*"
)


def is_tool(name: str) -> bool:
    """Whether the name has the form of a tool's, or of a pattern for several."""
    return _TOOL.fullmatch(name) is not None or _PATTERN.fullmatch(name) is not None


def connector_of(name: str) -> tuple[str, str | None] | None:
    """(connectorId, actionId) of a connector's tool, the latter None for a pattern; None for every other name."""
    if match := _TOOL.fullmatch(name):
        return (match["connector"], match["action"]) if match["connector"] else None
    match = _PATTERN.fullmatch(name)
    return (match["connector"], None) if match and match["connector"] else None
