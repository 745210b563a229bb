"""A loop on its way to the disk and back, perhaps on another host, by another version, or out of a stranger's hands.

The one thing to know: what comes back is not trusted. A document that no loop of ours can have been is none, and the
turn starts anew; the calls that are outstanding in it are looked through once more before they are made
(`calls.look_again`). Clocks differ and no time is kept: like an attempt of a node, each try has the whole of it.
"""

from __future__ import annotations

import msgspec

from vespid_runtime.loop.machine import State
from vespid_runtime.loop.state import Loop

_decode = msgspec.json.Decoder(Loop).decode
_encode = msgspec.json.Encoder().encode
_replace = msgspec.structs.replace


def put_away(loop: Loop) -> bytes:
    """A JSON document."""
    return _encode(_replace(loop, deadline_ms=0, model_deadline_ms=0))


def take_out(document: bytes, timeout_ms: int, now_ms: int) -> Loop | None:
    """None where it is over, or is none. It ends `timeout_ms` from now."""
    try:
        loop = _decode(document)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not _is_outstanding(loop):
        return None
    return _replace(loop, deadline_ms=now_ms + timeout_ms, model_deadline_ms=0)


def _is_outstanding(loop: Loop) -> bool:
    """Whether it waits for something, and all that its next steps build on is there."""
    if loop.state is State.THINKING:
        return loop.turns > 0 and loop.asking is None and not loop.open
    if loop.state is not State.CALLING or loop.asking is None or not loop.unanswered:
        return False
    ids = [call.id for call in loop.open]
    first = loop.calls - len(ids)
    return (
        ids == [call.id for call in loop.asking.tool_calls]
        and len(set(ids)) == len(ids)
        and first >= 0
        and [call.n for call in loop.open] == list(range(first, loop.calls))
        and all(call.result is None or call.result.call_id == call.id for call in loop.open)
    )
