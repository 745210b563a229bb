"""A tool's call and its answer, as events of a turn."""

from __future__ import annotations

import msgspec

from vespid_protocol.frames import Level

# Kinds of events; each call is followed by its result.
TOOL_CALL = "tool_call"
TOOL_RESULT = "tool_result"


class ToolEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier try of the same turn called, or was answered."""

    kind: str
    level: Level = "info"
    message: str | None = None
    # A JSON value.
    payload: object = None
