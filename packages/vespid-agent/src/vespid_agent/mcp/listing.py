"""What a server says it has, made into what may be offered to a model: bounded, checked, and masked.

The one thing to know: names, descriptions and schemas are a stranger's words. What is too much is left out and told of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from vespid_agent.mcp.config import ServerConfig
from vespid_protocol.text import clean_text
from vespid_runtime.loop.schema import BadSchema, check_schema
from vespid_runtime.redaction import Redactor

TOOLS_MAX = 128
DESCRIPTION_MAX_CHARS = 4_000
SCHEMA_MAX_BYTES = 64 * 1024
# Left out beyond it: enough to see what is the matter.
PROBLEMS_MAX = 10

# As in `tools.allow`, and no longer than providers of models take.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Said:
    """One entry of a server's list, as it came."""

    name: str
    description: str
    input_schema: dict[str, object]


@dataclass(frozen=True, slots=True)
class McpTool:
    """One that may be offered."""

    name: str
    description: str
    input_schema: dict[str, object]


@dataclass(frozen=True, slots=True)
class Listing:
    tools: tuple[McpTool, ...] = ()
    # Why others are not among them, for people.
    problems: tuple[str, ...] = ()


def listing_of(said: Iterable[Said], server: ServerConfig) -> Listing:
    redactor = Redactor(server.secrets)
    tools: dict[str, McpTool] = {}
    problems: list[str] = []
    for entry in said:
        if _NAME.fullmatch(entry.name) is None:
            problems.append(f"{_shown(entry.name, redactor)}: its name does not match {_NAME.pattern}")
        elif not server.allows(entry.name):
            continue
        elif entry.name in tools:
            problems.append(f"{_shown(entry.name, redactor)}: it is listed twice")
        elif len(tools) == TOOLS_MAX:
            problems.append(f"it has more than {TOOLS_MAX} tools; the others are left out")
            break
        else:
            try:
                tools[entry.name] = _tool(entry, redactor)
            except BadSchema as bad:
                problems.append(f"{_shown(entry.name, redactor)}: {redactor.redact(str(bad))}")
    return Listing(tuple(tools.values()), tuple(problems[:PROBLEMS_MAX]))


def _tool(entry: Said, redactor: Redactor) -> McpTool:
    """Raises BadSchema."""
    try:
        size = len(msgspec.json.encode(entry.input_schema))
    except (RecursionError, ValueError, OverflowError, TypeError) as error:
        raise BadSchema(f"its schema is not JSON: {error}") from None
    if size > SCHEMA_MAX_BYTES:
        raise BadSchema(f"its schema has more than {SCHEMA_MAX_BYTES} bytes")
    schema = redactor.redact_json(entry.input_schema)
    assert isinstance(schema, dict)
    if schema.get("type") != "object":
        raise BadSchema("its schema is not that of an object")
    check_schema(schema)
    description = redactor.redact(clean_text(entry.description)[0])
    return McpTool(entry.name, description[:DESCRIPTION_MAX_CHARS], schema)


def _shown(name: str, redactor: Redactor) -> str:
    return ascii(redactor.redact(name[:64]))
