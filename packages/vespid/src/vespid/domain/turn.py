"""The life of one turn: a message of a session, the host that answers it, and how it ends.

    queued ──lease──▶ opening ──tool event──▶ running ──final, error──▶ answered | failed
                       ▲   │ lost, `onHostLost: rerun`      │
                       └───┴────────────────────────────────┘      cancel: cancelling ──▶ cancelled

Nobody owns a turn (decision 0013). It wants a host while it is queued, and again while it is opening without one: its
host was lost. Of a session only the turn whose predecessors are all over (`is_next`) is given to a host, so turns run
one at a time and in the order of their messages; a cancel or a reset may end one that waits out of turn. The lease is
committed before the first byte is sent and raises the turn's epoch, which the requestId carries: from then on only that
executor under that epoch (`is_host`) changes anything. A host that was given up stays written down until the next
lease, so its late answer is good for as long (`had_it`): what was done need not be done again. Three hosts are the most
that a turn gets; one that declines has not had it.

A turn is opening until something of it was put down, which saves a commit: deltas are not. What frames tell (final,
error, tool event, hello, lost) is answered in every state; events of our own that make no sense raise
`IllegalTransition`. The functions of migration 0005 carry out the same table; this is the one that is read and drawn,
and a test walks both.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

from vespid_protocol.codes import Code
from vespid_protocol.machine import IllegalTransition, Row, index

CANCEL_MS = 5_000
TIMEOUT_GRACE_MS = 5_000
MAX_TRIES = 3


class State(StrEnum):
    """`none` is before the message."""

    NONE = "none"
    QUEUED = "queued"
    OPENING = "opening"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    SEND = "send"
    LEASE = "lease"
    # Those who could have it are busy.
    WAITING = "waiting"
    # Nobody can have it.
    UNPLACEABLE = "unplaceable"
    TOOL_EVENT = "tool_event"
    FINAL = "final"
    ERROR = "error"
    LOST = "lost"
    HELLO_LISTS = "hello_lists"
    # Its end is on its way.
    HELLO_ANNOUNCES = "hello_announces"
    HELLO_OMITS = "hello_omits"
    CANCEL = "cancel"
    RESET = "reset"
    INTERRUPT = "interrupt"
    ACT_BY = "act_by"


class Guard(StrEnum):
    # `onBusy: reject`, and another turn is not over.
    IS_BUSY = "is_busy"
    WANTS_HOST = "wants_host"
    # Every turn before it is over.
    IS_NEXT = "is_next"
    # Decided by what the turn is now: the epoch is the row's, or for a lease the one after it.
    IS_CURRENT = "is_current"
    # Everything that the leasing statement checks about the executor.
    MAY_HOLD = "may_hold"
    UNTOLD = "untold"
    # Executor and epoch are the row's.
    IS_HOST = "is_host"
    # Likewise, or those that were given up and have no successor yet.
    HAD_IT = "had_it"
    # The connection is the executor's newest, and it is not revoked.
    IS_NEWEST = "is_newest"
    DECLINED = "declined"
    # `onHostLost: rerun`, and tries left.
    MAY_MOVE = "may_move"
    # A base peer cannot list what it has.
    IS_BASE = "is_base"
    IS_DUE = "is_due"


class Effect(StrEnum):
    # What changes in the row beside its state.
    RAISE_EPOCH = "raise_epoch"
    COUNT_TRY = "count_try"
    UNCOUNT_TRY = "uncount_try"
    START_DEADLINE = "start_deadline"
    START_CANCEL_DEADLINE = "start_cancel_deadline"
    START_WAIT = "start_wait"
    # The wait that has begun, else a new one.
    GO_ON_WAITING = "go_on_waiting"
    LOSE_HOST = "lose_host"
    TAKE_BACK = "take_back"
    MARK_FOUND = "mark_found"
    # What the session is told: rows of `session_events`.
    TELL_MESSAGE = "tell_message"
    TELL_WAITING = "tell_waiting"
    # A failover event where the pin moved, `turn_restarted` where it had begun.
    TELL_MOVE = "tell_move"
    TELL_RESTART = "tell_restart"
    TELL_TOOL = "tell_tool"
    TELL_ANSWER = "tell_answer"
    TELL_ERROR = "tell_error"
    PUT_MEMORY = "put_memory"
    # What others have to do.
    INTERRUPT = "interrupt"
    PLACE = "place"
    SEND_TURN = "send_turn"
    SEND_CANCEL = "send_cancel"
    ACK = "ack"
    CLOSE = "close"
    RELEASE = "release"
    WAKE_NEXT = "wake_next"
    DISCARD = "discard"
    ANSWER_REPEATED = "answer_repeated"
    ANSWER_BUSY = "answer_busy"


class Loss(StrEnum):
    """Why a host is lost."""

    CLOSED = "closed"
    SILENT = "silent"
    REVOKED = "revoked"
    # It came back with another journal: what it had is gone.
    JOURNAL = "journal"
    # It came back with the same journal, and does not list the turn.
    OMITTED = "omitted"
    # It did not take the turn in time.
    UNOPENED = "unopened"
    DECLINED = "declined"


TurnRow: TypeAlias = Row[State, Event, Guard, Effect]

_WAITING = (State.QUEUED, State.OPENING)
_WITH_HOST = (State.OPENING, State.RUNNING)
_LIVE = (State.QUEUED, State.OPENING, State.RUNNING, State.CANCELLING)
_TERMINAL = (State.ANSWERED, State.FAILED, State.CANCELLED)
_EXISTING = (*_LIVE, *_TERMINAL)
TERMINAL = frozenset(_TERMINAL)

_PLACEABLE = (Guard.WANTS_HOST, Guard.IS_NEXT, Guard.IS_CURRENT)
_ENDED = (Effect.TELL_ERROR, Effect.RELEASE, Effect.WAKE_NEXT)


def _losses(event: Event) -> tuple[TurnRow, ...]:
    return (
        Row(
            event,
            _WITH_HOST,
            State.OPENING,
            (Guard.IS_HOST, Guard.DECLINED),
            (Effect.LOSE_HOST, Effect.UNCOUNT_TRY, Effect.GO_ON_WAITING, Effect.RELEASE, Effect.PLACE),
        ),
        Row(
            event,
            _WITH_HOST,
            State.OPENING,
            (Guard.IS_HOST, Guard.MAY_MOVE),
            (Effect.LOSE_HOST, Effect.START_WAIT, Effect.RELEASE, Effect.PLACE),
        ),
        Row(event, _WITH_HOST, State.FAILED, (Guard.IS_HOST,), _ENDED),
        # Nobody is left who could say that it has stopped.
        Row(event, (State.CANCELLING,), State.CANCELLED, (Guard.IS_HOST,), _ENDED),
        Row(event, _EXISTING, None),
    )


def _ends(event: Event, target: State, effects: tuple[Effect, ...]) -> tuple[TurnRow, ...]:
    return (
        Row(
            event,
            _WITH_HOST,
            target,
            (Guard.IS_NEWEST, Guard.HAD_IT),
            (*effects, Effect.ACK, Effect.RELEASE, Effect.WAKE_NEXT),
        ),
        Row(event, (State.CANCELLING,), State.CANCELLED, (Guard.IS_NEWEST, Guard.HAD_IT), (Effect.ACK, *_ENDED)),
        Row(event, _EXISTING, None, (Guard.IS_NEWEST,), (Effect.ACK, Effect.DISCARD)),
        Row(event, _EXISTING, None, (), (Effect.CLOSE,)),
    )


ROWS: tuple[TurnRow, ...] = (
    Row(Event.SEND, (State.NONE,), None, (Guard.IS_BUSY,), (Effect.ANSWER_BUSY,)),
    Row(Event.SEND, (State.NONE,), State.QUEUED, (), (Effect.INTERRUPT, Effect.TELL_MESSAGE, Effect.PLACE)),
    Row(Event.SEND, _EXISTING, None, (), (Effect.ANSWER_REPEATED,)),
    # Redis proposes, the leasing statement disposes.
    Row(
        Event.LEASE,
        _WAITING,
        State.OPENING,
        (*_PLACEABLE, Guard.MAY_HOLD),
        (Effect.RAISE_EPOCH, Effect.COUNT_TRY, Effect.START_DEADLINE, Effect.TELL_MOVE, Effect.SEND_TURN),
    ),
    Row(Event.LEASE, _WAITING, None, _PLACEABLE, (Effect.RELEASE, Effect.PLACE)),
    Row(Event.LEASE, _EXISTING, None, (), (Effect.RELEASE,)),
    Row(Event.WAITING, _WAITING, None, (*_PLACEABLE, Guard.UNTOLD), (Effect.GO_ON_WAITING, Effect.TELL_WAITING)),
    Row(Event.WAITING, _WAITING, None, _PLACEABLE, (Effect.GO_ON_WAITING,)),
    Row(Event.WAITING, _EXISTING, None),
    Row(Event.UNPLACEABLE, _WAITING, State.FAILED, _PLACEABLE, (Effect.TELL_ERROR, Effect.WAKE_NEXT)),
    Row(Event.UNPLACEABLE, _EXISTING, None),
    Row(Event.TOOL_EVENT, _WITH_HOST, State.RUNNING, (Guard.IS_HOST,), (Effect.TELL_TOOL,)),
    Row(Event.TOOL_EVENT, _EXISTING, None, (), (Effect.DISCARD,)),
    # Also from one that was given up for lost, until somebody else is leased it.
    *_ends(Event.FINAL, State.ANSWERED, (Effect.TELL_ANSWER, Effect.PUT_MEMORY)),
    *_ends(Event.ERROR, State.FAILED, (Effect.TELL_ERROR,)),
    *_losses(Event.LOST),
    # Its text begins anew: nobody knows which deltas arrived.
    Row(Event.HELLO_LISTS, _WITH_HOST, State.RUNNING, (Guard.IS_HOST,), (Effect.MARK_FOUND, Effect.TELL_RESTART)),
    Row(
        Event.HELLO_LISTS,
        _WITH_HOST,
        State.RUNNING,
        (Guard.HAD_IT,),
        (Effect.MARK_FOUND, Effect.TAKE_BACK, Effect.START_DEADLINE, Effect.TELL_RESTART),
    ),
    Row(Event.HELLO_LISTS, (State.CANCELLING,), None, (Guard.IS_HOST,), (Effect.MARK_FOUND, Effect.SEND_CANCEL)),
    Row(Event.HELLO_LISTS, _EXISTING, None, (), (Effect.SEND_CANCEL,)),
    Row(Event.HELLO_ANNOUNCES, _EXISTING, None),
    Row(Event.HELLO_OMITS, (*_WITH_HOST, State.CANCELLING), None, (Guard.IS_HOST, Guard.IS_BASE)),
    *_losses(Event.HELLO_OMITS),
    *(
        row
        for event in (Event.CANCEL, Event.RESET, Event.INTERRUPT)
        for row in (
            Row(event, _WAITING, State.CANCELLED, (Guard.WANTS_HOST,), (Effect.TELL_ERROR, Effect.WAKE_NEXT)),
            Row(event, _WITH_HOST, State.CANCELLING, (), (Effect.START_CANCEL_DEADLINE, Effect.SEND_CANCEL)),
            # Asked for again it is sent again; a message that comes meanwhile asks for nothing.
            Row(event, (State.CANCELLING,), None, (), () if event is Event.INTERRUPT else (Effect.SEND_CANCEL,)),
        )
    ),
    Row(Event.ACT_BY, _WAITING, State.FAILED, (Guard.WANTS_HOST, Guard.IS_DUE), (Effect.TELL_ERROR, Effect.WAKE_NEXT)),
    Row(Event.ACT_BY, _WITH_HOST, State.FAILED, (Guard.IS_DUE,), (Effect.SEND_CANCEL, *_ENDED)),
    Row(Event.ACT_BY, (State.CANCELLING,), State.CANCELLED, (Guard.IS_DUE,), (Effect.SEND_CANCEL, *_ENDED)),
    # Whoever was told of it may be gone.
    Row(Event.ACT_BY, _WAITING, None, (Guard.WANTS_HOST, Guard.IS_NEXT), (Effect.PLACE,)),
    Row(Event.ACT_BY, _LIVE, None),
)
_INDEX = index(ROWS)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What the table needs to know of a turn. Times in ms, of whichever clock the caller keeps to."""

    state: State = State.NONE
    turn_epoch: int = 0
    executor_id: str | None = None
    # Who had it before; with no executor, the one whose end is still good.
    lost_executor_id: str | None = None
    # Executors that had it.
    tries: int = 0
    # Why it waits, once the session was told that it does.
    waiting_reason: str | None = None
    # Until when it may want a host; None: the wait has not begun.
    wait_until: int | None = None
    act_by: int | None = None
    # How it ended, for `failed` and `cancelled`.
    error: str | None = None
    # What does not change.
    on_host_lost: Literal["rerun", "fail"] = "rerun"
    # The session is for one executor and no other.
    is_bound: bool = False
    timeout_ms: int = 60_000

    @property
    def wants_host(self) -> bool:
        return self.state is State.QUEUED or (self.state is State.OPENING and self.executor_id is None)


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """An event and what is known with it. Which fields count depends on the event."""

    event: Event
    now: int
    # Whose frame it is, or who is to be leased the turn.
    executor_id: str | None = None
    # Of the requestId; for a lease, the new one.
    epoch: int = 0
    is_next: bool = True
    # lease: all that the statement checks beyond this session.
    may_hold: bool = True
    # send: another turn is not over, and the session rejects what comes meanwhile.
    is_busy: bool = False
    # final, error: the connection is the executor's newest, and it is not revoked.
    is_newest: bool = True
    # hello_omits.
    is_base: bool = False
    loss: Loss = Loss.CLOSED
    # waiting.
    reason: str | None = None
    # unplaceable, error.
    code: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The turn as it is now, what is to be done, and the line of the table that says so."""

    turn: Turn
    effects: tuple[Effect, ...]
    row: TurnRow


def _is_current(turn: Turn, happening: Happening) -> bool:
    return happening.epoch == turn.turn_epoch + (happening.event is Event.LEASE)


def _is_host(turn: Turn, happening: Happening) -> bool:
    return (
        turn.executor_id is not None
        and happening.executor_id == turn.executor_id
        and happening.epoch == turn.turn_epoch
    )


def _had_it(turn: Turn, happening: Happening) -> bool:
    last = turn.executor_id or turn.lost_executor_id
    return last is not None and happening.executor_id == last and happening.epoch == turn.turn_epoch


_GUARDS: dict[Guard, Callable[[Turn, Happening], bool]] = {
    Guard.IS_BUSY: lambda turn, happening: happening.is_busy,
    Guard.WANTS_HOST: lambda turn, happening: turn.wants_host,
    Guard.IS_NEXT: lambda turn, happening: happening.is_next,
    Guard.IS_CURRENT: _is_current,
    Guard.MAY_HOLD: lambda turn, happening: happening.may_hold and happening.executor_id is not None,
    Guard.UNTOLD: lambda turn, happening: turn.waiting_reason is None,
    Guard.IS_HOST: _is_host,
    Guard.HAD_IT: _had_it,
    Guard.IS_NEWEST: lambda turn, happening: happening.is_newest,
    Guard.DECLINED: lambda turn, happening: happening.loss is Loss.DECLINED,
    Guard.MAY_MOVE: lambda turn, happening: turn.on_host_lost == "rerun" and turn.tries < MAX_TRIES,
    Guard.IS_BASE: lambda turn, happening: happening.is_base,
    Guard.IS_DUE: lambda turn, happening: turn.act_by is not None and happening.now >= turn.act_by,
}


def step(turn: Turn, happening: Happening) -> Outcome:
    """What becomes of `turn`. Raises IllegalTransition, having changed nothing, where the table has no row."""
    for row in _INDEX.get((turn.state, happening.event), ()):
        if all(_GUARDS[guard](turn, happening) for guard in row.guards):
            return Outcome(_changed(turn, happening, row), row.effects, row)
    raise IllegalTransition("turn", turn.state, happening.event)


def _changed(turn: Turn, happening: Happening, row: TurnRow) -> Turn:
    changes: dict[str, object] = {}
    now = happening.now
    for effect in row.effects:
        match effect:
            case Effect.RAISE_EPOCH:
                changes["turn_epoch"] = turn.turn_epoch + 1
                changes["executor_id"] = happening.executor_id
            case Effect.COUNT_TRY:
                changes["tries"] = turn.tries + 1
            case Effect.UNCOUNT_TRY:
                changes["tries"] = turn.tries - 1
            case Effect.START_DEADLINE:
                changes["act_by"] = now + turn.timeout_ms + TIMEOUT_GRACE_MS
            case Effect.START_CANCEL_DEADLINE:
                changes["act_by"] = now + CANCEL_MS
            case Effect.START_WAIT:
                changes |= {"wait_until": now + turn.timeout_ms, "act_by": now + turn.timeout_ms}
                changes["waiting_reason"] = None
            case Effect.GO_ON_WAITING:
                until = now + turn.timeout_ms if turn.wait_until is None else turn.wait_until
                changes |= {"wait_until": until, "act_by": until}
                changes["waiting_reason"] = happening.reason or turn.waiting_reason
            case Effect.LOSE_HOST:
                changes |= {"lost_executor_id": turn.executor_id, "executor_id": None}
            case Effect.TAKE_BACK:
                changes["executor_id"] = happening.executor_id
            case Effect.MARK_FOUND:
                changes |= {"lost_executor_id": None, "wait_until": None, "waiting_reason": None}
            case _:
                continue
    if row.target is not None:
        changes["state"] = row.target
        if row.target in TERMINAL:
            changes |= {"act_by": None, "error": _error(turn, happening, row.target)}
    return msgspec.structs.replace(turn, **changes) if changes else turn


def _error(turn: Turn, happening: Happening, ending: State) -> str | None:
    """With which code it ended."""
    if ending is State.ANSWERED:
        return None
    if ending is State.CANCELLED:
        return Code.TURN_CANCELLED
    if happening.event in (Event.ERROR, Event.UNPLACEABLE):
        return happening.code
    if happening.event in (Event.LOST, Event.HELLO_OMITS):
        return Code.AGENT_DISCONNECTED
    if not turn.wants_host:
        return Code.NODE_EXECUTION_TIMEOUT
    if turn.waiting_reason == "QUOTA":
        return Code.ORG_QUOTA_EXCEEDED
    if turn.is_bound and turn.waiting_reason in ("ALL_FULL", "BEHIND"):
        return Code.EXECUTOR_OVER_CAPACITY
    return Code.NO_AGENT_AVAILABLE
