"""Cutting what goes into an event, so that no event is larger than its limit.

A value whose compact JSON has more characters than allowed becomes `{"truncated":true,"preview","originalLength"}`: the
first characters of that JSON, and how many it has.
"""

from __future__ import annotations

import msgspec

_TOOL_EVENTS = ("tool_call", "tool_result")
# Less than that says nothing.
_PAYLOAD_MIN_CHARS = 32


def cut(value: object, max_chars: int) -> object:
    """`value` itself if it is short enough, else its preview. `msgspec.Raw` is decoded only if it is long."""
    data = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    # A character has at least one byte, and JSON as received is never shorter than its compact form.
    if len(data) <= max_chars:
        return value
    # Undecoded parts may hold white space: what counts is the compact form.
    text = msgspec.json.encode(msgspec.json.decode(data)).decode()
    if len(text) <= max_chars:
        return value
    return {"truncated": True, "preview": text[:max_chars], "originalLength": len(text)}


def cut_event(event: dict[str, object], max_chars: int) -> object:
    """An event of running work, short enough. A tool's stays readable: of it only the payload is cut.

    A later try asks it which call it was.
    """
    if event.get("kind") not in _TOOL_EVENTS or len(msgspec.json.encode(event)) <= max_chars:
        return cut(event, max_chars)
    room = max_chars - len(msgspec.json.encode({**event, "payload": None}))
    return cut(event, max_chars) if room < _PAYLOAD_MIN_CHARS else {**event, "payload": cut(event["payload"], room)}
