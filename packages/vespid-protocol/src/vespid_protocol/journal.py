"""What an agent remembers of one request, so that it never starts it twice and never loses its result.

    none ──execute──▶ accepted ──start──▶ started ──finish──▶ finished ──ack──▶ tombstone ──24 h──▶ none

`started` is on disk (fsync) before the first side effect and `finished` before the result is sent; `accepted` needs
no disk, for a restart forgets it and it comes again. A repeated `execute` never starts anything: it joins what runs
(a higher epoch is adopted, a lower ignored), or is answered from the entry. A cancel that comes before its request
leaves a tombstone. Work that was stopped because trust in the lease ended is kept as `abandoned`: nothing is sent
of it on our own account, because the gateway has given it up and may have placed it elsewhere, but whoever asks
again gets the answer instead of a second start. Declines are not journaled at all.

An entry holds ids, epochs, states, digests and the redacted result; never a payload, never a secret.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from vespid_protocol.machine import IllegalTransition, Row, index

RETENTION_MS = 24 * 3600 * 1000


class State(StrEnum):
    NONE = "none"
    ACCEPTED = "accepted"
    STARTED = "started"
    FINISHED = "finished"
    ABANDONED = "abandoned"
    TOMBSTONE = "tombstone"


class Event(StrEnum):
    EXECUTE = "execute"
    # It has to be given back before it started: trust ended, or the disk is full.
    GIVE_BACK = "give_back"
    START = "start"
    FINISH = "finish"
    # It was stopped because trust in the lease ended.
    ABANDON = "abandon"
    ACK = "ack"
    CANCEL = "cancel"
    RESTART = "restart"
    EXPIRE = "expire"


class Guard(StrEnum):
    OLDER_EPOCH = "older_epoch"
    NEWER_EPOCH = "newer_epoch"
    # `onLost: resend`: its loss moves it elsewhere, so the failure is not ours to report.
    MOVES_WHEN_LOST = "moves_when_lost"


class Effect(StrEnum):
    REMEMBER = "remember"
    # Before anything else goes on.
    SYNC = "sync"
    SAY_RECEIVED = "say_received"
    RUN = "run"
    STOP = "stop"
    ADOPT_EPOCH = "adopt_epoch"
    SEND_RESULT = "send_result"
    # The result of the entry, or what is left to say without one.
    ANSWER = "answer"
    SAY_CANCELLED = "say_cancelled"
    FAIL_DISCONNECTED = "fail_disconnected"
    FORGET = "forget"
    IGNORE = "ignore"


JournalRow: TypeAlias = Row[State, Event, Guard, Effect]

_ACTIVE = (State.ACCEPTED, State.STARTED)
_ENDED = (State.FINISHED, State.TOMBSTONE)
_KNOWN = (*_ACTIVE, State.FINISHED, State.ABANDONED, State.TOMBSTONE)

ROWS: tuple[JournalRow, ...] = (
    Row(
        Event.EXECUTE,
        (State.NONE,),
        State.ACCEPTED,
        (),
        (Effect.REMEMBER, Effect.SAY_RECEIVED, Effect.RUN),
    ),
    Row(Event.EXECUTE, _KNOWN, None, (Guard.OLDER_EPOCH,), (Effect.IGNORE,)),
    Row(Event.EXECUTE, _ACTIVE, None, (Guard.NEWER_EPOCH,), (Effect.ADOPT_EPOCH, Effect.SAY_RECEIVED)),
    Row(Event.EXECUTE, _ACTIVE, None, (), (Effect.SAY_RECEIVED,)),
    Row(Event.EXECUTE, _ENDED, None, (Guard.NEWER_EPOCH,), (Effect.ADOPT_EPOCH, Effect.ANSWER)),
    Row(Event.EXECUTE, _ENDED, None, (), (Effect.ANSWER,)),
    # It is leased to us again: now its end is ours to report.
    Row(
        Event.EXECUTE,
        (State.ABANDONED,),
        State.FINISHED,
        (Guard.NEWER_EPOCH,),
        (Effect.ADOPT_EPOCH, Effect.SYNC, Effect.ANSWER),
    ),
    Row(Event.EXECUTE, (State.ABANDONED,), State.FINISHED, (), (Effect.SYNC, Effect.ANSWER)),
    Row(Event.GIVE_BACK, (State.ACCEPTED,), State.NONE, (), (Effect.FORGET,)),
    Row(Event.START, (State.ACCEPTED,), State.STARTED, (), (Effect.SYNC,)),
    Row(Event.FINISH, _ACTIVE, State.FINISHED, (), (Effect.SYNC, Effect.SEND_RESULT)),
    Row(Event.ABANDON, _ACTIVE, State.ABANDONED, (), (Effect.SYNC,)),
    Row(Event.ACK, (State.FINISHED,), State.TOMBSTONE, (), (Effect.REMEMBER,)),
    Row(Event.ACK, (State.NONE, *_ACTIVE, State.ABANDONED, State.TOMBSTONE), None, (), (Effect.IGNORE,)),
    Row(Event.CANCEL, (State.NONE,), State.TOMBSTONE, (), (Effect.REMEMBER, Effect.SAY_CANCELLED)),
    Row(Event.CANCEL, _ACTIVE, None, (), (Effect.STOP,)),
    Row(Event.CANCEL, (State.FINISHED, State.TOMBSTONE), None, (), (Effect.ANSWER,)),
    Row(Event.CANCEL, (State.ABANDONED,), State.FINISHED, (), (Effect.SYNC, Effect.ANSWER)),
    Row(Event.RESTART, (State.ACCEPTED,), State.NONE, (), (Effect.FORGET,)),
    Row(
        Event.RESTART,
        (State.STARTED,),
        State.ABANDONED,
        (Guard.MOVES_WHEN_LOST,),
        (Effect.FAIL_DISCONNECTED, Effect.SYNC),
    ),
    Row(
        Event.RESTART,
        (State.STARTED,),
        State.FINISHED,
        (),
        (Effect.FAIL_DISCONNECTED, Effect.SYNC, Effect.SEND_RESULT),
    ),
    Row(Event.RESTART, (State.FINISHED,), None, (), (Effect.SEND_RESULT,)),
    Row(Event.RESTART, (State.ABANDONED, State.TOMBSTONE), None),
    Row(Event.EXPIRE, (State.FINISHED, State.ABANDONED, State.TOMBSTONE), State.NONE, (), (Effect.FORGET,)),
)
_INDEX = index(ROWS)


def find(
    state: State, event: Event, *, held_epoch: int = 0, epoch: int | None = None, moves_when_lost: bool = False
) -> JournalRow:
    """The line that answers `event`. `epoch` None (a base gateway's frame) counts as the one that is held.

    Raises IllegalTransition where the table has none.
    """
    for row in _INDEX.get((state, event), ()):
        for guard in row.guards:
            if guard is Guard.OLDER_EPOCH:
                holds = epoch is not None and epoch < held_epoch
            elif guard is Guard.NEWER_EPOCH:
                holds = epoch is not None and epoch > held_epoch
            else:
                holds = moves_when_lost
            if not holds:
                break
        else:
            return row
    raise IllegalTransition("journal", state, event)
