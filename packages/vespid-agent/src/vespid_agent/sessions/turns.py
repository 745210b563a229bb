"""The turns that run here, each from its order to its end in the journal.

    in line ──journal: started──▶ running ──▶ ended ──journal: finished──▶ told

One turn of a session runs at a time; the others wait in line, and one that is stopped there is over at once. `started`
is on disk before the engine is asked, and its row already holds the end that the turn has should this process die; the
end is on disk before it is told. A turn that is stopped gets a moment to end what it began. Then it is over, whatever
its engine still does: nobody hears of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, TypeAlias

from vespid_agent.clock import MonotonicMs, epoch_ms
from vespid_agent.journal import Entry, EntryState, Journal, JournalError
from vespid_agent.logs import Logger
from vespid_agent.marks import Marks
from vespid_agent.sandbox.task import SandboxError
from vespid_agent.sessions.ending import TurnEnd, error_of, final_of, fit_end, lost
from vespid_agent.sessions.request import allowed, request_of, scope_of
from vespid_agent.sessions.serving import Serving
from vespid_agent.sessions.session import Session
from vespid_agent.sessions.stream import TurnStream
from vespid_protocol import codec
from vespid_protocol.codes import Code
from vespid_protocol.frames import Event, MemoryDocument, SessionTurn, TurnError, TurnFinal
from vespid_runtime.engines.engine import EngineError
from vespid_runtime.redaction import Redactor

# Where the session sets no limit.
DEFAULT_TIMEOUT_MS = 600_000
DEFAULT_OUTPUT_MAX_CHARS = 1_000_000
# Less than the gateway gives a turn that it cancelled (5 s).
STOP_GRACE_S = 3.0
# Of a session, beside those that nodes of a run would have.
SESSION_FOLDER = "session"
# How long an end waits for a disk that refuses it, before it is tried again.
REWRITE_S = 1.0

Why: TypeAlias = Literal["cancelled", "superseded", "timeout", "drained"]

_STOPPED: dict[Why, tuple[Code, str]] = {
    "cancelled": (Code.TURN_CANCELLED, "the turn was cancelled"),
    "superseded": (Code.TURN_CANCELLED, "a newer try took the turn's place"),
    "timeout": (Code.NODE_EXECUTION_TIMEOUT, "no answer within the turn's time"),
    "drained": (Code.AGENT_DISCONNECTED, "the agent was shut down while it answered"),
}


class TurnDesk(Protocol):
    """Whom the turns report to. Called on the loop."""

    @property
    def speaks_v2(self) -> bool:
        """Whether the present gateway is known to speak v2."""
        ...

    def may_start(self, request_id: str) -> bool:
        """Asked when `started` is on disk: is it still wanted?"""
        ...

    def declined(self, request_id: str) -> None:
        """It cannot be taken here, and was not started."""
        ...

    def known(self, entry: Entry) -> None:
        """It was in the journal already and was not started again."""
        ...

    def turn_delta(self, order: SessionTurn, text: str, *, is_v2: bool) -> bool:
        """A piece of the text; whether the link took it."""
        ...

    def event(self, request_id: str, event: Event) -> None:
        """A tool event, to stream."""
        ...

    def turn_ended(self, end: TurnEnd, frame: bytes) -> None:
        """The end, and its bytes, are in the journal."""
        ...

    def turn_abandoned(self, request_id: str) -> None:
        """It is given up with this process; the gateway is not told."""
        ...


@dataclass(slots=True, eq=False)
class Turn:
    """One that is not over."""

    order: SessionTurn
    session: Session
    stream: TurnStream
    # What masks all that it says: the session's, which also knows what its tools use once they are there.
    redactor: Redactor
    # Its gateway spoke v2: it knows by itself when this agent is lost.
    is_v2: bool
    deadline_ms: int | None = None
    # Epoch ms.
    since_ms: int = field(default_factory=epoch_ms)
    # What takes back what it changed in memory, should its answer not be wanted.
    undo: tuple[MemoryDocument, ...] = ()
    # Why it is to stop.
    why: Why | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.order.message.encode()).digest()


class Turns:
    """`start` and `stop` on the loop; what comes of them is told to the desk."""

    def __init__(
        self,
        serving: Serving,
        journal: Journal,
        desk: TurnDesk,
        log: Logger,
        monotonic_ms: MonotonicMs,
        max_frame_bytes: int,
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._serving = serving
        self._journal = journal
        self._desk = desk
        self._log = log
        self._monotonic_ms = monotonic_ms
        self._turns: dict[str, Turn] = {}
        # Lives of turns, and the work of engines, also of those that do not stop.
        self._tasks: set[asyncio.Task[object]] = set()
        # Set whenever no turn is left.
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """How many turns are not over."""
        return len(self._turns)

    def get(self, request_id: str) -> Turn | None:
        return self._turns.get(request_id)

    def of(self, session_id: str) -> list[Turn]:
        """Those of a session, the running one first."""
        return [turn for turn in self._turns.values() if turn.order.session_id == session_id]

    def in_flight(self) -> list[tuple[SessionTurn, int]]:
        """Each turn that is not over, and since when (epoch ms) it is here."""
        return [(turn.order, turn.since_ms) for turn in self._turns.values()]

    def busy(self) -> set[str]:
        """The sessions that have any."""
        return {turn.order.session_id for turn in self._turns.values()}

    def start(self, order: SessionTurn, session: Session) -> Turn:
        """A turn that is not here yet."""
        is_v2 = self._desk.speaks_v2

        def send(text: str) -> bool:
            return self._desk.turn_delta(order, text, is_v2=is_v2)

        def tell(event: Event) -> None:
            if is_v2:
                self._desk.event(order.request_id, event)

        stream = TurnStream(session.redactor, _max_chars(session), send, tell)
        turn = self._turns[order.request_id] = Turn(order, session, stream, session.redactor, is_v2)
        self._idle.clear()
        self._own(asyncio.create_task(self._live(turn), name=f"turn {order.request_id}"))
        return turn

    def stop(self, request_id: str, why: Why) -> None:
        """End it soon. Harmless when it is over."""
        turn = self._turns.get(request_id)
        if turn is not None and turn.why is None:
            turn.why = why
            turn.stopping.set()

    def stop_session(self, session_id: str, why: Why) -> None:
        for turn in self.of(session_id):
            self.stop(turn.order.request_id, why)

    def stop_all(self, why: Why) -> None:
        for request_id in list(self._turns):
            self.stop(request_id, why)

    def tend(self) -> None:
        """Now and then: what a slow link did not take, and timers that stood still while the machine slept."""
        now = self._monotonic_ms()
        for turn in list(self._turns.values()):
            turn.stream.flush()
            if turn.deadline_ms is not None and now >= turn.deadline_ms:
                self.stop(turn.order.request_id, "timeout")

    def repeat(self) -> None:
        """A v2 gateway has a new socket of ours: it begins each running turn's text anew."""
        for turn in self._turns.values():
            turn.stream.repeat()

    async def take_back(self, session: Session, undo: tuple[MemoryDocument, ...]) -> None:
        """An answer is not wanted: neither is what its turn remembered. Call it with the session's lock held."""
        if undo:
            try:
                await self._serving.workspaces.of(session.organization_id, session.session_key).apply(undo, whole=False)
            except (ValueError, OSError) as error:
                self._log.error("memory_not_taken_back", session_id=session.session_id, error=str(error))

    async def idle(self) -> None:
        """Returns when no turn is left."""
        await self._idle.wait()

    async def close(self) -> None:
        """Cancel what is left; an engine that takes no notice is not waited for."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=STOP_GRACE_S)

    # --- one turn ----------------------------------------------------------------------------------------------------

    async def _live(self, turn: Turn) -> None:
        try:
            if await self._comes_up(turn):
                try:
                    await self._take(turn)
                finally:
                    turn.session.lock.release()
            else:
                await self._end(turn, self._stopped(turn, turn.why or "cancelled"))
        finally:
            self._turns.pop(turn.order.request_id, None)
            if not self._turns:
                self._idle.set()

    async def _comes_up(self, turn: Turn) -> bool:
        """Wait in line. True: the session's lock is held. False: it was stopped before its turn came."""
        request_id = turn.order.request_id
        taking = asyncio.create_task(turn.session.lock.acquire(), name=f"line {request_id}")
        stopping = asyncio.create_task(turn.stopping.wait(), name=f"stop {request_id}")
        self._own(taking)
        self._own(stopping)
        try:
            await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                await asyncio.wait((taking,))
        finally:
            taking.cancel()
            stopping.cancel()
        return not taking.cancelled()

    async def _take(self, turn: Turn) -> None:
        if turn.why is not None:
            await self._end(turn, self._stopped(turn, turn.why))
        elif await self._begin(turn):
            await self._end(turn, await self._run(turn))

    async def _begin(self, turn: Turn) -> bool:
        """`started` is on disk; whether the turn may run."""
        request_id = turn.order.request_id
        interrupted = lost(request_id, turn.order.session_id, "the agent was restarted while it answered")
        standing = await self._journal.begin_turn(request_id, turn.digest, codec.encode(interrupted))
        if isinstance(standing, JournalError):
            self._log.error("not_journaled", request_id=request_id, error=str(standing))
            self._desk.declined(request_id)
        elif standing is not None:
            self._desk.known(standing)
        else:
            return self._desk.may_start(request_id) or turn.why is not None
        return False

    async def _run(self, turn: Turn) -> TurnEnd:
        """Until the engine has answered, failed, or was stopped."""
        if turn.why is not None:
            return self._stopped(turn, turn.why)
        limit_ms = turn.session.config.limits.timeout_ms or DEFAULT_TIMEOUT_MS
        turn.deadline_ms = self._monotonic_ms() + limit_ms
        request_id = turn.order.request_id
        timer = asyncio.get_running_loop().call_later(limit_ms / 1000, self.stop, request_id, "timeout")
        work = asyncio.create_task(self._work(turn), name=f"engine {request_id}")
        stopping = asyncio.create_task(turn.stopping.wait(), name=f"stop {request_id}")
        self._own(work)
        self._own(stopping)
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,), timeout=STOP_GRACE_S)
        finally:
            turn.deadline_ms = None
            timer.cancel()
            stopping.cancel()
            work.cancel()
            turn.stream.close()
        return self._outcome(turn, work)

    async def _work(self, turn: Turn) -> TurnEnd:
        """The engine's part. Memory that it wrote stays only with an answer."""
        session, order, serving = turn.session, turn.order, self._serving
        engine = serving.engines.get(session.config.engine.id)
        with serving.workdirs.use(order.session_id):
            try:
                memory = serving.workspaces.of(session.organization_id, session.session_key)
                workdir = await asyncio.to_thread(serving.workdirs.open, order.session_id, SESSION_FOLDER)
            except ValueError as refused:
                raise EngineError(Code.BAD_REQUEST, f"memory: {refused}") from None
            except SandboxError as refused:
                raise EngineError(refused.code, refused.message) from None
            scope = scope_of(order, memory.workspace, workdir, Marks(partial(self._journal.mark, order.request_id)))
            await serving.kit.ready(allowed(order, session))
            tools = serving.kit.toolbox(scope)
            self._mask(turn, tools.secrets)
            request = request_of(order, session, memory.workspace, tools, workdir)
            before = await memory.take()
            try:
                answer = await engine.turn(request, turn.stream)
                changed = await memory.changed(before) if turn.is_v2 else ()
                turn.undo = before.undo(changed)
                return final_of(order, answer, changed, turn.redactor, _max_chars(session))
            except BaseException:
                await memory.restore(before)
                raise

    @staticmethod
    def _mask(turn: Turn, secrets: Sequence[str]) -> None:
        """Before anything is said that may show them."""
        if secrets:
            turn.redactor = turn.redactor.also(secrets)
            turn.stream.mask(turn.redactor)

    def _outcome(self, turn: Turn, work: asyncio.Task[TurnEnd]) -> TurnEnd:
        request_id, redactor = turn.order.request_id, turn.redactor
        if not work.done():
            self._log.error("engine_did_not_stop", request_id=request_id, engine=turn.session.config.engine.id)
            return self._stopped(turn, turn.why or "cancelled")
        if work.cancelled():
            if turn.why is not None:
                return self._stopped(turn, turn.why)
            return error_of(turn.order, Code.NODE_EXECUTION_FAILED, "the engine cancelled itself", redactor)
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, EngineError):
            return error_of(turn.order, error.code, error.message, redactor)
        # Only its kind is told and logged: its text may quote what it was given.
        kind = type(error).__name__
        self._log.error("engine_raised", request_id=request_id, error=kind)
        return error_of(turn.order, Code.NODE_EXECUTION_FAILED, f"the engine raised {kind}", redactor)

    async def _end(self, turn: Turn, end: TurnEnd) -> None:
        """Journal the end, whatever it takes, and tell it."""
        request_id = turn.order.request_id
        end, frame = fit_end(end, self.max_frame_bytes)
        # A v2 gateway sees this agent go and has the turn answered elsewhere; an error would end it.
        is_given_up = turn.why == "drained" and turn.is_v2 and isinstance(end, TurnError)
        state = EntryState.ABANDONED if is_given_up else EntryState.FINISHED
        while isinstance(standing := await self._journal.end_turn(request_id, turn.digest, frame, state), JournalError):
            self._log.error("not_journaled", request_id=request_id, error=str(standing))
            await asyncio.sleep(REWRITE_S)
        answer = end if isinstance(end, TurnFinal) and turn.why is None else None
        if answer is None:  # too large for a frame, or cancelled at the last moment
            await self.take_back(turn.session, turn.undo)
        if standing is not None:
            self._desk.known(standing)
        elif is_given_up:
            self._desk.turn_abandoned(request_id)
        else:
            if answer is not None:
                turn.session.answered(request_id, turn.order.event_seq, turn.order.message, answer.content, turn.undo)
            self._log.info(
                "turn_ended",
                request_id=request_id,
                session_id=turn.order.session_id,
                error=None if isinstance(end, TurnFinal) else end.code,
                ms=epoch_ms() - turn.since_ms,
            )
            self._desk.turn_ended(end, frame)

    def _stopped(self, turn: Turn, why: Why) -> TurnEnd:
        code, message = _STOPPED[why]
        return error_of(turn.order, code, message, turn.redactor)

    def _own(self, task: asyncio.Task[object]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._disown)

    def _disown(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.get_name().startswith("turn ") and not task.cancelled() and task.exception() is not None:
            self._log.error("turn_raised", error=type(task.exception()).__name__)


def _max_chars(session: Session) -> int:
    return session.config.limits.max_output_chars or DEFAULT_OUTPUT_MAX_CHARS
