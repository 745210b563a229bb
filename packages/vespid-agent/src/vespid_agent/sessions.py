"""Sessions are not served by this agent yet: every order about one gets an honest answer, and no turn waits."""

from __future__ import annotations

from vespid_protocol.codes import Code
from vespid_protocol.effects import SessionOrder, SessionReply
from vespid_protocol.frames import (
    MemoryQuery,
    MemoryQueryResult,
    MemorySync,
    MemorySyncResult,
    SessionCancel,
    TurnError,
)

_MESSAGE = "this agent does not serve sessions"


def refusal(order: SessionOrder) -> SessionReply | None:
    """What to answer; None where nothing is expected."""
    if isinstance(order, MemorySync):
        return MemorySyncResult(
            request_id=order.request_id, session_id=order.session_id, status="failed", error=Code.ENGINE_UNAVAILABLE
        )
    if isinstance(order, MemoryQuery):
        return MemoryQueryResult(
            request_id=order.request_id, session_id=order.session_id, status="failed", error=Code.ENGINE_UNAVAILABLE
        )
    if isinstance(order, SessionCancel):
        return None
    return TurnError(
        request_id=order.request_id,
        session_id=order.session_id,
        code=Code.EXECUTOR_UNSUPPORTED_ENGINE,
        message=_MESSAGE,
    )
