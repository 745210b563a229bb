"""What an engine is asked: a turn's order, and what its session knows; and what its tools may use."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from vespid_agent.marks import Marks
from vespid_agent.sessions.session import Session
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.job import idempotency_key
from vespid_protocol.codes import Code
from vespid_protocol.frames import Level, SessionTurn
from vespid_runtime.engines.engine import EngineError, TurnRequest
from vespid_runtime.memory.workspace import MemoryWorkspace
from vespid_runtime.tools.event import ToolEvent
from vespid_runtime.tools.memory import memory_tool_list
from vespid_runtime.tools.shell import SHELL
from vespid_runtime.tools.toolbox import Toolbox

_ItemT = TypeVar("_ItemT")


def request_of(
    order: SessionTurn, session: Session, memory: MemoryWorkspace, tools: Toolbox, workdir: Path
) -> TurnRequest:
    """Raises EngineError BAD_REQUEST for attachments or earlier events that are none."""
    try:
        attachments = _decoded(order.attachments, list[object])
        prior = _decoded(order.prior, list[ToolEvent])
    except msgspec.DecodeError as error:
        raise EngineError(Code.BAD_REQUEST, f"attachments or prior have a bad shape: {error}") from None
    return TurnRequest(
        request_id=order.request_id,
        session_id=order.session_id,
        organization_id=order.organization_id,
        user_id=order.user_id,
        message=order.message,
        attachments=tuple(attachments),
        history=session.before(order.event_seq),
        prior=tuple(prior),
        config=msgspec.structs.replace(session.config, tools_allow=allowed(order, session)),
        idempotency_key=idempotency_key(order.request_id),
        memory=memory,
        tools=tools,
        workdir=workdir,
    )


def allowed(order: SessionTurn, session: Session) -> tuple[str, ...]:
    """What the engine may call: no shell where the organization does not let models run commands now."""
    return tuple(tool for tool in session.config.tools_allow if tool != SHELL or order.shell_run_enabled is True)


def scope_of(order: SessionTurn, memory: MemoryWorkspace, workdir: Path, marks: Marks) -> ToolScope:
    """A session brings no secrets for its tools."""
    return ToolScope(
        organization_id=order.organization_id,
        user_id=order.user_id,
        request_id=order.request_id,
        run_id=order.session_id,
        node_id=workdir.name,
        workdir=workdir,
        may_run_shell=order.shell_run_enabled is True,
        memory=memory_tool_list(memory),
        emit=_unsaid,
        mark=marks.put,
    )


def _unsaid(kind: str, level: Level, message: str | None, payload: object) -> None:
    """A conversation is told what its tools answered, not each line of their output."""


def _decoded(raw: msgspec.Raw | msgspec.UnsetType, kind: type[list[_ItemT]]) -> list[_ItemT]:
    if not isinstance(raw, msgspec.Raw):
        return []
    return msgspec.json.decode(raw, type=kind | None) or []
