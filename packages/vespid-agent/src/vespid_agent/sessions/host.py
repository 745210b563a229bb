"""What the gateway orders about sessions, and what is answered.

Opening and turning are answered in the order in which they are done; a turn for a session that is not open here is
declined, behind a hello that says what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol

import msgspec

from vespid_agent.logs import Logger
from vespid_agent.sessions.ending import masked
from vespid_agent.sessions.open_sessions import Opened, OpenSessions
from vespid_agent.sessions.session import Session
from vespid_agent.sessions.turns import Turn, TurnDesk, Turns
from vespid_agent.sessions.workspaces import Workspaces
from vespid_protocol import codec
from vespid_protocol.codes import Code
from vespid_protocol.effects import SessionOrder, SessionReply
from vespid_protocol.frames import (
    MemoryDocument,
    MemoryQuery,
    MemoryQueryResult,
    MemorySync,
    MemorySyncResult,
    SessionCancel,
    SessionOpen,
    SessionOpened,
    SessionTurn,
    TurnError,
)
from vespid_protocol.ids import IdInvalid, parse_turn_request_id

_QUERY_LIMIT = 10


class SessionDesk(TurnDesk, Protocol):
    """Whom the sessions report to. Called on the loop."""

    def tell(self, frame: SessionReply) -> None:
        """An answer that is lost with its socket, and then not missed."""
        ...

    def greet(self) -> None:
        """Say hello again: other sessions are open now."""
        ...


class SessionHost:
    """`deliver` for each order. Belongs to one agent."""

    def __init__(
        self, sessions: OpenSessions, turns: Turns, workspaces: Workspaces, desk: SessionDesk, log: Logger
    ) -> None:
        self.turns = turns
        self._sessions = sessions
        self._workspaces = workspaces
        self._desk = desk
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, order: SessionOrder) -> None:
        match order:
            case SessionOpen():
                self._open(order)
            case SessionTurn():
                self._turn(order)
            case SessionCancel():
                self._cancel(order)
            case MemorySync():
                self._do(self._sync_memory(order), order.request_id)
            case MemoryQuery():
                self._do(self._query_memory(order), order.request_id)

    def acknowledged(self, session_id: str, request_id: str) -> None:
        """The gateway has the turn's end, or had no use for it."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.acknowledged(request_id)

    def disconnected(self) -> None:
        self._sessions.disconnected()

    async def close(self) -> None:
        await self.turns.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _open(self, order: SessionOpen) -> None:
        held = self._sessions.get(order.session_id)
        if held is not None and held.generation != order.generation:
            self.turns.stop_session(order.session_id, "superseded")
        try:
            opened = self._sessions.open(order)
        except msgspec.ValidationError as error:
            self._refuse(order, Code.BAD_REQUEST, f"sessionConfig: {error}")
            return
        if opened is None:
            return
        if opened.memory is None:
            self._opened(order)
        else:
            self._do(self._bring_memory(order, opened), order.request_id)
        if self._sessions.make_room(self.turns.busy() | {order.session_id}):
            self._desk.greet()

    async def _bring_memory(self, order: SessionOpen, opened: Opened) -> None:
        session = opened.session
        try:
            memory = self._workspaces.of(session.organization_id, session.session_key)
            async with session.lock:
                await memory.apply(opened.memory or (), whole=opened.is_new and not self._is_shared(opened))
        except ValueError as refused:
            self._refuse(order, Code.BAD_REQUEST, f"memory: {refused}")
        except OSError as error:
            self._log.error("memory_not_written", session_id=order.session_id, error=str(error))
            self._refuse(order, Code.EXECUTOR_OVER_CAPACITY, "this agent cannot write memory just now")
        else:
            self._opened(order)

    def _is_shared(self, opened: Opened) -> bool:
        """Whether a turn of another session works on the same documents just now."""
        mine = opened.session
        return any(
            other.session_key == mine.session_key
            and other.organization_id == mine.organization_id
            and other.session_id != mine.session_id
            and self.turns.of(other.session_id)
            for other in self._sessions
        )

    def _opened(self, order: SessionOpen) -> None:
        self._desk.tell(SessionOpened(request_id=order.request_id, session_id=order.session_id))

    def _refuse(self, order: SessionOpen, code: Code, message: str) -> None:
        self._desk.tell(TurnError(request_id=order.request_id, session_id=order.session_id, code=code, message=message))

    # --- turns -------------------------------------------------------------------------------------------------------

    def _turn(self, order: SessionTurn) -> None:
        session = self._sessions.get(order.session_id)
        if session is None:
            self._desk.greet()
            self._desk.declined(order.request_id)
            return
        is_outdated = False
        for other in self.turns.of(order.session_id):
            if other.order.event_seq == order.event_seq:
                if _try_of(other) > _epoch(order.request_id):
                    is_outdated = True
                else:
                    self.turns.stop(other.order.request_id, "superseded")
        self.turns.start(order, session)
        if is_outdated:
            self.turns.stop(order.request_id, "superseded")

    def _cancel(self, order: SessionCancel) -> None:
        if self.turns.get(order.request_id) is not None:
            self.turns.stop(order.request_id, "cancelled")
        elif not self._desk.speaks_v2:
            self.turns.stop_session(order.session_id, "cancelled")
        else:
            session = self._sessions.get(order.session_id)
            undo = () if session is None else session.unanswered(order.request_id)
            if session is not None and undo:
                self._do(self._take_back(session, undo), order.request_id)

    async def _take_back(self, session: Session, undo: tuple[MemoryDocument, ...]) -> None:
        """Before a `memory_sync` tells it to the gateway after all."""
        async with session.lock:
            # Opened anew it has all of its memory from the gateway.
            if self._sessions.get(session.session_id) is session:
                await self.turns.take_back(session, undo)

    # --- memory ------------------------------------------------------------------------------------------------------

    async def _sync_memory(self, order: MemorySync) -> None:
        """`push`: the gateway's documents come here. Else it is told ours, without those that it says it has."""
        given = order.documents or ()
        try:
            memory = self._workspaces.of(order.organization_id, order.session_key)
            if order.direction == "push":
                await memory.apply(given, whole=False)
                details: dict[str, object] = {"applied": len(given)}
            else:
                known = {document.path: document.sha256 for document in given}
                redactor = self._sessions.redactor(order.session_id)
                differing = await memory.differing(known)
                details = {"documents": [masked(document, redactor) for document in differing]}
        except (ValueError, OSError) as error:
            answer = self._sync_answer(order, None, self._memory_failed(order, error))
        else:
            answer = self._sync_answer(order, details, None)
            if len(codec.encode(answer)) > self.turns.max_frame_bytes:
                answer = self._sync_answer(order, None, Code.RESULT_TOO_LARGE)
        self._desk.tell(answer)

    async def _query_memory(self, order: MemoryQuery) -> None:
        results: list[dict[str, object]] | None = None
        error: Code | None = None
        try:
            memory = self._workspaces.of(order.organization_id, order.session_key)
            found = await memory.search(order.query, order.limit or _QUERY_LIMIT)
            redactor = self._sessions.redactor(order.session_id)
            results = [
                {
                    "path": each.path,
                    "score": each.score,
                    "snippet": redactor.redact(each.snippet),
                    "lineStart": each.line_start,
                    "lineEnd": each.line_end,
                }
                for each in found
            ]
        except (ValueError, OSError) as problem:
            error = self._memory_failed(order, problem)
        self._desk.tell(
            MemoryQueryResult(
                request_id=order.request_id,
                session_id=order.session_id,
                status="ok" if error is None else "failed",
                results=msgspec.UNSET if results is None else msgspec.Raw(msgspec.json.encode(results)),
                error=error,
            )
        )

    @staticmethod
    def _sync_answer(order: MemorySync, details: dict[str, object] | None, error: Code | None) -> MemorySyncResult:
        return MemorySyncResult(
            request_id=order.request_id,
            session_id=order.session_id,
            status="ok" if error is None else "failed",
            details=msgspec.UNSET if details is None else msgspec.Raw(msgspec.json.encode(details)),
            error=error,
        )

    def _memory_failed(self, order: MemorySync | MemoryQuery, error: ValueError | OSError) -> Code:
        self._log.error("memory_failed", session_id=order.session_id, error=str(error))
        return Code.BAD_REQUEST if isinstance(error, ValueError) else Code.NODE_EXECUTION_FAILED

    def _do(self, work: Coroutine[object, object, None], request_id: str) -> None:
        task = asyncio.create_task(work, name=f"session {request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("session_raised", task=task.get_name(), error=type(error).__name__)


def _try_of(turn: Turn) -> int:
    return _epoch(turn.order.request_id)


def _epoch(request_id: str) -> int:
    """Which try of its turn it is; 0 where the id does not say (a base gateway's)."""
    try:
        return parse_turn_request_id(request_id).turn_epoch
    except IdInvalid:
        return 0
