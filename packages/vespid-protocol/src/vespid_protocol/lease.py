"""The life of one execution: who holds it, under which epoch, and how it ends.

    pending ──grant──▶ dispatched ──received──▶ received ──result──▶ succeeded | failed
       ▲                    │  ▲ declined, unsent    │
       └────────lost, `onLost: resend`───────────────┘      cancel: cancelling ──▶ cancelled

A request is leased by one committed statement before its first byte is sent; that raises the lease epoch, and from
then on only a frame of that holder with that epoch (guard `is_holder`) changes anything. The epoch grows at the
grant, never when a lease ends: a holder that is lost stays written down while the request is pending again, so its
late result is good until somebody else was granted. What happens when a holder is lost is the node's `onLost`;
three placements are the most that any work gets, so that work which kills its hosts does not walk through the
fleet.

Frames can come at any time, so their events (received, decline, hello, result, remote event) are answered in every
state; events of our own that make no sense raise `IllegalTransition`. The database's functions carry out the same
table; this is the one that is read, drawn and walked by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

from vespid_protocol.codes import Code
from vespid_protocol.machine import IllegalTransition, Row, index

ACCEPT_MS = 5_000
CANCEL_MS = 10_000
DECLINE_PAUSE_MS = 5_000
TIMEOUT_GRACE_MS = 5_000
MAX_PLACEMENTS = 3


class State(StrEnum):
    """`none` is before the row exists."""

    NONE = "none"
    PENDING = "pending"
    DISPATCHED = "dispatched"
    RECEIVED = "received"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    DISPATCH = "dispatch"
    GRANT = "grant"
    UNSENT = "unsent"
    DECLINE = "decline"
    RECEIVED = "received"
    NOT_TAKEN = "not_taken"
    HELLO_LISTS = "hello_lists"
    HELLO_OMITS = "hello_omits"
    LOST = "lost"
    RESULT = "result"
    REMOTE_EVENT = "remote_event"
    CANCEL = "cancel"
    ACT_BY = "act_by"


class Guard(StrEnum):
    # Executor and epoch are the row's.
    IS_HOLDER = "is_holder"
    # Same organization and payload digest as the first dispatch.
    SAME_REQUEST = "same_request"
    # Everything that the granting statement checks about the executor and the run.
    MAY_HOLD = "may_hold"
    NOTHING_WRITTEN = "nothing_written"
    NOT_REVOKED = "not_revoked"
    SUCCEEDED = "succeeded"
    NEWER_SEQ = "newer_seq"
    # `onLost: resend`, placements left, and no executor named by the selector.
    MAY_MOVE = "may_move"
    # `onLost: wait`, and the holder may come back with the result.
    MAY_WAIT = "may_wait"
    IS_DUE = "is_due"


class Effect(StrEnum):
    # What changes in the row beside its state.
    START_WAIT = "start_wait"
    RESUME_WAIT = "resume_wait"
    RAISE_EPOCH = "raise_epoch"
    COUNT_PLACEMENT = "count_placement"
    UNCOUNT_PLACEMENT = "uncount_placement"
    START_DEADLINE = "start_deadline"
    START_CANCEL_DEADLINE = "start_cancel_deadline"
    MARK_LOST = "mark_lost"
    MARK_FOUND = "mark_found"
    APPEND_EVENT = "append_event"
    # What the world is told.
    CHOOSE = "choose"
    CHOOSE_WITHOUT = "choose_without"
    CONFIRM = "confirm"
    RELEASE = "release"
    SEND_EXECUTE = "send_execute"
    SEND_CANCEL = "send_cancel"
    ACK = "ack"
    APPLY = "apply"
    DISCARD = "discard"
    ANSWER_ACCEPTED = "answer_accepted"
    ANSWER_CACHED = "answer_cached"
    ANSWER_CONFLICT = "answer_conflict"
    CLOSE_NOT_TAKEN = "close_not_taken"


class Loss(StrEnum):
    """Why a holder is lost."""

    LEASE_EXPIRED = "lease_expired"
    # It had the request, came back with the same journal, and does not list it.
    OMITTED = "omitted"
    REVOKED = "revoked"
    # It came back with another journal: what it had is gone.
    ANOTHER_JOURNAL = "another_journal"


LeaseRow: TypeAlias = Row[State, Event, Guard, Effect]

_LIVE = (State.DISPATCHED, State.RECEIVED)
_TERMINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
_EXISTING = (State.PENDING, *_LIVE, State.CANCELLING, *_TERMINAL)
TERMINAL = frozenset(_TERMINAL)

ROWS: tuple[LeaseRow, ...] = (
    Row(Event.DISPATCH, (State.NONE,), State.PENDING, (), (Effect.START_WAIT, Effect.CHOOSE)),
    Row(Event.DISPATCH, _TERMINAL, None, (Guard.SAME_REQUEST,), (Effect.ANSWER_CACHED,)),
    Row(
        Event.DISPATCH,
        (State.PENDING, *_LIVE, State.CANCELLING),
        None,
        (Guard.SAME_REQUEST,),
        (Effect.ANSWER_ACCEPTED,),
    ),
    Row(Event.DISPATCH, _EXISTING, None, (), (Effect.ANSWER_CONFLICT,)),
    # Redis proposes, the granting statement disposes.
    Row(
        Event.GRANT,
        (State.PENDING,),
        State.DISPATCHED,
        (Guard.MAY_HOLD,),
        (
            Effect.RAISE_EPOCH,
            Effect.COUNT_PLACEMENT,
            Effect.START_DEADLINE,
            Effect.MARK_FOUND,
            Effect.CONFIRM,
            Effect.SEND_EXECUTE,
        ),
    ),
    Row(Event.GRANT, (State.PENDING,), None, (), (Effect.RELEASE, Effect.CHOOSE_WITHOUT)),
    Row(Event.GRANT, (*_LIVE, State.CANCELLING, *_TERMINAL), None, (), (Effect.RELEASE,)),
    Row(
        Event.UNSENT,
        (State.DISPATCHED,),
        State.PENDING,
        (Guard.IS_HOLDER, Guard.NOTHING_WRITTEN),
        (Effect.UNCOUNT_PLACEMENT, Effect.RESUME_WAIT, Effect.RELEASE, Effect.CHOOSE),
    ),
    # Nothing ran, so it was no placement.
    Row(
        Event.DECLINE,
        _LIVE,
        State.PENDING,
        (Guard.IS_HOLDER,),
        (Effect.UNCOUNT_PLACEMENT, Effect.RESUME_WAIT, Effect.RELEASE, Effect.CHOOSE_WITHOUT),
    ),
    Row(Event.DECLINE, _EXISTING, None, (), (Effect.DISCARD,)),
    Row(Event.RECEIVED, (State.DISPATCHED,), State.RECEIVED, (Guard.IS_HOLDER,)),
    Row(Event.RECEIVED, _EXISTING, None, (), (Effect.DISCARD,)),
    Row(Event.NOT_TAKEN, (State.DISPATCHED,), None, (Guard.IS_HOLDER,), (Effect.CLOSE_NOT_TAKEN,)),
    Row(Event.NOT_TAKEN, _EXISTING, None),
    Row(Event.HELLO_LISTS, _LIVE, State.RECEIVED, (Guard.IS_HOLDER,), (Effect.MARK_FOUND,)),
    # It was given up and nobody else has it yet: nothing is taken back, but what it still brings is good.
    Row(Event.HELLO_LISTS, (State.PENDING,), None, (Guard.IS_HOLDER,)),
    Row(Event.HELLO_LISTS, _EXISTING, None, (), (Effect.SEND_CANCEL,)),
    Row(Event.HELLO_OMITS, (State.DISPATCHED,), None, (Guard.IS_HOLDER,), (Effect.MARK_FOUND, Effect.SEND_EXECUTE)),
    Row(Event.HELLO_OMITS, (State.CANCELLING,), None, (Guard.IS_HOLDER,), (Effect.SEND_CANCEL,)),
    *(
        row
        for event, sources in ((Event.LOST, _LIVE), (Event.HELLO_OMITS, (State.RECEIVED,)))
        for row in (
            Row(
                event,
                sources,
                State.PENDING,
                (Guard.IS_HOLDER, Guard.MAY_MOVE),
                (Effect.START_WAIT, Effect.RELEASE, Effect.CHOOSE_WITHOUT),
            ),
            Row(event, sources, None, (Guard.IS_HOLDER, Guard.MAY_WAIT), (Effect.MARK_LOST,)),
            Row(event, sources, State.FAILED, (Guard.IS_HOLDER,), (Effect.RELEASE, Effect.APPLY)),
            *(
                # Nobody is left who could say that it has stopped.
                (Row(event, (State.CANCELLING,), State.CANCELLED, (Guard.IS_HOLDER,), (Effect.RELEASE, Effect.APPLY)),)
                if event is Event.LOST
                else ()
            ),
            Row(event, _EXISTING, None),
        )
    ),
    Row(
        Event.RESULT,
        (State.PENDING, *_LIVE),
        State.SUCCEEDED,
        (Guard.IS_HOLDER, Guard.NOT_REVOKED, Guard.SUCCEEDED),
        (Effect.APPLY, Effect.ACK, Effect.RELEASE),
    ),
    Row(
        Event.RESULT,
        (State.PENDING, *_LIVE),
        State.FAILED,
        (Guard.IS_HOLDER, Guard.NOT_REVOKED),
        (Effect.APPLY, Effect.ACK, Effect.RELEASE),
    ),
    Row(
        Event.RESULT,
        (State.CANCELLING,),
        State.CANCELLED,
        (Guard.IS_HOLDER, Guard.NOT_REVOKED),
        (Effect.APPLY, Effect.ACK, Effect.RELEASE),
    ),
    Row(Event.RESULT, _EXISTING, None, (), (Effect.ACK, Effect.DISCARD)),
    Row(Event.REMOTE_EVENT, _LIVE, None, (Guard.IS_HOLDER, Guard.NEWER_SEQ), (Effect.APPEND_EVENT,)),
    Row(Event.REMOTE_EVENT, _EXISTING, None, (), (Effect.DISCARD,)),
    Row(Event.CANCEL, (State.PENDING,), State.CANCELLED, (), (Effect.RELEASE, Effect.APPLY)),
    Row(Event.CANCEL, _LIVE, State.CANCELLING, (), (Effect.START_CANCEL_DEADLINE, Effect.SEND_CANCEL)),
    Row(Event.CANCEL, (State.CANCELLING, *_TERMINAL), None),
    Row(Event.ACT_BY, (State.PENDING,), State.FAILED, (Guard.IS_DUE,), (Effect.RELEASE, Effect.APPLY)),
    Row(Event.ACT_BY, _LIVE, State.FAILED, (Guard.IS_DUE,), (Effect.SEND_CANCEL, Effect.RELEASE, Effect.APPLY)),
    Row(
        Event.ACT_BY,
        (State.CANCELLING,),
        State.CANCELLED,
        (Guard.IS_DUE,),
        (Effect.SEND_CANCEL, Effect.RELEASE, Effect.APPLY),
    ),
    Row(Event.ACT_BY, (State.PENDING, *_LIVE, State.CANCELLING), None),
)
_INDEX = index(ROWS)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What the table needs to know of an execution. Times in ms, of whichever clock the caller keeps to."""

    state: State = State.NONE
    # The last holder, also while the request is pending again.
    executor_id: str | None = None
    lease_epoch: int = 0
    placements: int = 0
    # The holder is lost and the request waits for it (`onLost: wait`).
    lost: bool = False
    last_event_seq: int = -1
    act_by: int | None = None
    # Until when it may stay pending.
    wait_until: int = 0
    # How it ended, for `failed`.
    error: str | None = None
    # What does not change.
    on_lost: Literal["fail", "resend", "wait"] = "fail"
    # The selector names one executor.
    pinned: bool = False
    max_wait_ms: int = 600_000
    timeout_ms: int = 60_000


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """An event and what is known with it. Which fields count depends on the event."""

    event: Event
    now: int
    # Whose frame it is, or who is to be granted.
    executor_id: str | None = None
    # None, in a frame: the epoch last granted to that executor.
    lease_epoch: int | None = None
    # result: whether it succeeded, and else the code.
    succeeded: bool = False
    error: str | None = None
    # remote_event.
    seq: int = 0
    loss: Loss = Loss.LEASE_EXPIRED
    # dispatch again: the same organization and payload digest.
    same_request: bool = True
    # grant: all that the statement checks beyond this row.
    may_hold: bool = True
    # unsent: whether any byte went out.
    nothing_written: bool = True
    revoked: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """The row as it is now, what is to be done, and the line of the table that says so."""

    lease: Lease
    effects: tuple[Effect, ...]
    row: LeaseRow


def _is_holder(lease: Lease, happening: Happening) -> bool:
    return (
        happening.executor_id is not None
        and happening.executor_id == lease.executor_id
        and happening.lease_epoch in (None, lease.lease_epoch)
    )


def _may_move(lease: Lease, happening: Happening) -> bool:
    return lease.on_lost == "resend" and lease.placements < MAX_PLACEMENTS and not lease.pinned


def _may_wait(lease: Lease, happening: Happening) -> bool:
    return lease.on_lost == "wait" and happening.loss in (Loss.LEASE_EXPIRED, Loss.OMITTED)


_GUARDS: dict[Guard, Callable[[Lease, Happening], bool]] = {
    Guard.IS_HOLDER: _is_holder,
    Guard.SAME_REQUEST: lambda lease, happening: happening.same_request,
    Guard.MAY_HOLD: lambda lease, happening: happening.may_hold and happening.executor_id is not None,
    Guard.NOTHING_WRITTEN: lambda lease, happening: happening.nothing_written,
    Guard.NOT_REVOKED: lambda lease, happening: not happening.revoked,
    Guard.SUCCEEDED: lambda lease, happening: happening.succeeded,
    Guard.NEWER_SEQ: lambda lease, happening: happening.seq > lease.last_event_seq,
    Guard.MAY_MOVE: _may_move,
    Guard.MAY_WAIT: _may_wait,
    Guard.IS_DUE: lambda lease, happening: lease.act_by is not None and happening.now >= lease.act_by,
}


def step(lease: Lease, happening: Happening) -> Outcome:
    """What becomes of `lease`. Raises IllegalTransition, having changed nothing, where the table has no row."""
    for row in _INDEX.get((lease.state, happening.event), ()):
        if all(_GUARDS[guard](lease, happening) for guard in row.guards):
            return Outcome(_changed(lease, happening, row), row.effects, row)
    raise IllegalTransition("lease", lease.state, happening.event)


def _changed(lease: Lease, happening: Happening, row: LeaseRow) -> Lease:
    changes: dict[str, object] = {}
    now = happening.now
    for effect in row.effects:
        match effect:
            case Effect.START_WAIT:
                changes["wait_until"] = changes["act_by"] = now + lease.max_wait_ms
            case Effect.RESUME_WAIT:
                changes["act_by"] = lease.wait_until
            case Effect.RAISE_EPOCH:
                changes["lease_epoch"] = lease.lease_epoch + 1
                changes["executor_id"] = happening.executor_id
                changes["last_event_seq"] = -1
            case Effect.COUNT_PLACEMENT:
                changes["placements"] = lease.placements + 1
            case Effect.UNCOUNT_PLACEMENT:
                changes["placements"] = lease.placements - 1
            case Effect.START_DEADLINE:
                changes["act_by"] = now + lease.timeout_ms + TIMEOUT_GRACE_MS
            case Effect.START_CANCEL_DEADLINE:
                changes["act_by"] = now + CANCEL_MS
            case Effect.MARK_LOST:
                changes["lost"] = True
            case Effect.MARK_FOUND:
                changes["lost"] = False
            case Effect.APPEND_EVENT:
                changes["last_event_seq"] = happening.seq
            case _:
                continue
    if row.target is not None:
        changes["state"] = row.target
        if row.target in TERMINAL:
            changes["act_by"] = None
        if row.target is State.FAILED:
            changes["error"] = _error(lease, happening)
    return msgspec.structs.replace(lease, **changes) if changes else lease


def _error(lease: Lease, happening: Happening) -> str:
    """With which code it failed."""
    if happening.event is Event.RESULT:
        return happening.error or Code.NODE_EXECUTION_FAILED
    if lease.state is State.PENDING:
        # Only its wait ends here, and nobody came: that a holder was lost earlier, under `wait`, and then came back and
        # declined is no longer why. Whoever dispatched is told what an operator can mend.
        return Code.NO_AGENT_AVAILABLE
    if happening.event in (Event.LOST, Event.HELLO_OMITS) or lease.lost:
        return Code.AGENT_DISCONNECTED
    return Code.NODE_EXECUTION_TIMEOUT
