"""How much of its tools an agent tells, and a gateway keeps: a bound on all of them together.

The one thing to know: a tool is never left out for its schema's sake. Schemas go first, then descriptions.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from vespid_protocol.frames import Capabilities, ToolOffer, ToolProblem

# Of the tools as JSON, and of the problems.
TOOLS_MAX_BYTES = 128 * 1024
PROBLEMS_MAX_BYTES = 32 * 1024
SCHEMA_NESTING_MAX = 64

_LESS: tuple[Callable[[ToolOffer], ToolOffer], ...] = (
    lambda tool: msgspec.structs.replace(tool, input_schema=UNSET),
    lambda tool: ToolOffer(id=tool.id),
)


def fit_tools(tools: tuple[ToolOffer, ...]) -> tuple[ToolOffer, ...]:
    """As they are; without their schemas where that is too much; then by their ids alone, as many as fit."""
    for less in _LESS:
        if len(msgspec.json.encode(tools)) <= TOOLS_MAX_BYTES:
            return tools
        tools = tuple(map(less, tools))
    kept = TOOLS_MAX_BYTES
    for at, tool in enumerate(tools):
        kept -= len(msgspec.json.encode(tool)) + 1
        if kept < 0:
            return tools[:at]
    return tools


def fit_problems(problems: tuple[ToolProblem, ...]) -> tuple[ToolProblem, ...]:
    """As many as fit."""
    kept = PROBLEMS_MAX_BYTES
    for at, problem in enumerate(problems):
        kept -= len(msgspec.json.encode(problem)) + 1
        if kept < 0:
            return problems[:at]
    return problems


def fitting(can: Capabilities) -> Capabilities:
    """What is kept of a stranger's: schemas only where each is an object, and not nested for malice."""
    return msgspec.structs.replace(
        can,
        tools=None if can.tools is None else fit_tools(tuple(map(_plain, can.tools))),
        tool_problems=None if can.tool_problems is None else fit_problems(can.tool_problems),
    )


def _plain(tool: ToolOffer) -> ToolOffer:
    if tool.input_schema is UNSET:
        return tool
    schema: object
    try:
        schema = msgspec.json.decode(tool.input_schema)
    except (msgspec.DecodeError, RecursionError):
        schema = None
    level: list[object] = [schema]
    deep = 0
    while level and deep <= SCHEMA_NESTING_MAX:
        deep += 1
        level = [inner for item in level for inner in _inside(item)]
    return tool if isinstance(schema, dict) and not level else msgspec.structs.replace(tool, input_schema=UNSET)


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
