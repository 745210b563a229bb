"""Tool calls as events, and the calls of an earlier try made of its events again.

A call is a pair of events: `tool_call {n,digest,callId,tool,arguments}` and `tool_result {n,callId,tool,isError,
content}`; the digest is of the arguments before they were redacted. The one thing to know: `n` comes first, so that it
can be read from the preview that is left of an event which was cut on its way to the disk. A call whose result was cut
has finished all the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec

from vespid_protocol.frames import Level
from vespid_runtime.loop.effects import Tell
from vespid_runtime.loop.state import Call
from vespid_runtime.loop.task import Recorded
from vespid_runtime.models.types import ToolResult
from vespid_runtime.tools.event import TOOL_CALL, TOOL_RESULT, ToolEvent

# Of the arguments, in an event.
ARGUMENTS_SHOWN_MAX_CHARS = 4_000
_N_IN_PREVIEW = re.compile(r'\{"n":(\d{1,9})[,}]')
_CUT_MARK = "\n[... the record of this result was cut here ...]"


def digest(arguments: object) -> str:
    """The same for the same JSON value, however it was written."""
    return hashlib.sha256(msgspec.json.encode(arguments, order="deterministic")).hexdigest()


def tell_call(call: Call) -> Tell:
    arguments: object
    if len(call.arguments) > ARGUMENTS_SHOWN_MAX_CHARS:
        preview = call.arguments[:ARGUMENTS_SHOWN_MAX_CHARS]
        arguments = {"truncated": True, "preview": preview, "originalLength": len(call.arguments)}
    else:
        arguments = msgspec.json.decode(call.arguments)
    payload: dict[str, object] = {"n": call.n, "digest": call.digest, "callId": call.id, "tool": call.tool}
    return Tell(kind=TOOL_CALL, level="info", message=call.tool, payload=payload | {"arguments": arguments})


def tell_result(call: Call, result: ToolResult) -> Tell:
    """A refusal says in its message what it is: `TOOL_NOT_ALLOWED:<id>`."""
    payload: dict[str, object] = {"n": call.n, "callId": call.id, "tool": call.tool, "isError": result.is_error}
    payload["content"] = result.content
    if call.is_refused:
        payload["refused"] = True
    message = result.content.partition(" ")[0].rstrip(":") if call.is_refused else call.tool
    level: Level = "warn" if result.is_error else "info"
    return Tell(kind=TOOL_RESULT, level=level, message=message, payload=payload)


def recorded_calls(prior: Iterable[ToolEvent]) -> tuple[Recorded, ...]:
    """What earlier tries called, in the order in which it was begun. Refusals are left out."""
    recorded: list[Recorded | None] = []
    # The newest call of each place.
    at: dict[int, int] = {}
    for event in prior:
        payload = event.payload if isinstance(event.payload, dict) else {}
        n = _place(payload)
        if n is None:
            continue
        if event.kind == TOOL_CALL:
            tool, digest_ = payload.get("tool"), payload.get("digest")
            if isinstance(tool, str) and isinstance(digest_, str):
                at[n] = len(recorded)
                recorded.append(Recorded(n=n, tool=tool, digest=digest_))
        elif event.kind == TOOL_RESULT and (index := at.pop(n, None)) is not None:
            call = recorded[index]
            recorded[index] = None if call is None else _ended(call, payload)
    return tuple(call for call in recorded if call is not None)


def recall(recorded: Iterable[Recorded], n: int, tool: str, digest_: str) -> Recorded | None:
    """The same call in the same place: the one that has a result, if any has."""
    same = [call for call in recorded if (call.n, call.tool, call.digest) == (n, tool, digest_)]
    return next((call for call in same if call.content is not None), same[0] if same else None)


def key(recorded: Iterable[Recorded], n: int, tool: str, digest_: str) -> str:
    """`tool:<n>`; another call that has the place of an earlier try's needs a key of its own."""
    first = next((call for call in recorded if call.n == n), None)
    is_first = first is None or (first.tool, first.digest) == (tool, digest_)
    return f"tool:{n}" if is_first else f"tool:{n}:{hashlib.sha256(f'{tool} {digest_}'.encode()).hexdigest()[:16]}"


def _ended(call: Recorded, payload: dict[str, object]) -> Recorded | None:
    if payload.get("refused") is True:
        return None
    content = payload.get("content")
    if not isinstance(content, str):
        content = f"{payload.get('preview', '')}{_CUT_MARK}"
    return msgspec.structs.replace(call, content=content, is_error=payload.get("isError") is True)


def _place(payload: dict[str, object]) -> int | None:
    n = payload.get("n")
    if type(n) is int and n >= 0:
        return n
    preview = payload.get("preview")
    found = _N_IN_PREVIEW.match(preview) if payload.get("truncated") is True and isinstance(preview, str) else None
    return int(found[1]) if found else None
