"""The agent loop as a table: what comes in, in which state, and what follows.

    ready ──start──▶ between ──go_on──▶ thinking ──reply without calls──▶ finished
                        ▲                  │
                        │                  └──reply with calls──▶ calling
                        └──all_answered───────────────────────────────┘     cancel: cancelled; a limit: failed

In `thinking` the model is asked and nothing else happens; in `calling` tools are called, any number at once, and their
results may come in any order: only when each call has one is the model asked again. `between` never lasts. There it is
decided whether the model may be asked once more: the loop says `go_on` to itself, and `all_answered` likewise, within
the same step.

What a model does wrong is told to the model, as the result of the call or as a complaint about the answer, and it may
mend it as long as its turns last; what it does wrong again and again is an end. Limits come before everything else: a
reply whose calls would be too many, or whose results nobody could be told, starts none of them. Time is looked at first
of all, whatever comes in.

What tells of a model call or a tool call that is over already (a second reply, a result for a call that nobody made) is
passed over, in every state. Events of the loop's host that make no sense raise `IllegalTransition`. `resume` is for a
host that has the loop from its disk: it is told once more what is outstanding.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from vespid_protocol.machine import Row, index


class State(StrEnum):
    READY = "ready"
    # May the model be asked (again)?
    BETWEEN = "between"
    THINKING = "thinking"
    CALLING = "calling"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    START = "start"
    RESUME = "resume"
    # Of the model.
    DELTA = "delta"
    REPLY = "reply"
    MODEL_ERROR = "model_error"
    # Of a tool.
    RESULT = "result"
    TICK = "tick"
    CANCEL = "cancel"
    # What the loop tells itself.
    GO_ON = "go_on"
    ALL_ANSWERED = "all_answered"


class Guard(StrEnum):
    # The task has a schema that is none.
    CANNOT_BE_DONE = "cannot_be_done"
    # The loop's time is up; the model call's own is.
    IS_LATE = "is_late"
    MODEL_IS_LATE = "model_is_late"
    # About a model call that is over; about a tool call that is, or never was.
    IS_STALE = "is_stale"
    IS_UNKNOWN = "is_unknown"
    HAS_CALLS = "has_calls"
    OUT_OF_TURNS = "out_of_turns"
    OUT_OF_CALLS = "out_of_calls"
    # The same calls were answered the same so often that they were refused, and are asked for still.
    GOES_ROUND = "goes_round"
    # Neither text nor calls.
    IS_SILENT = "is_silent"
    OUT_OF_PATIENCE = "out_of_patience"
    # Not the JSON that is wanted.
    IS_UNUSABLE = "is_unusable"
    OUT_OF_REPAIRS = "out_of_repairs"
    # Even with everything left out that may be.
    DOES_NOT_FIT = "does_not_fit"


class Effect(StrEnum):
    BEGIN = "begin"
    COUNT = "count"
    CALL_MODEL = "call_model"
    CALL_MODEL_AGAIN = "call_model_again"
    # Those of the reply that are neither refused nor answered by a record.
    CALL_TOOLS = "call_tools"
    CALL_TOOLS_AGAIN = "call_tools_again"
    TAKE_RESULT = "take_result"
    CLOSE_ROUND = "close_round"
    SAY_DELTA = "say_delta"
    # Of the reply's text what was not said in deltas.
    SAY_REST = "say_rest"
    ASK_TO_SPEAK = "ask_to_speak"
    ASK_TO_REPAIR = "ask_to_repair"
    # What runs is not wanted any more.
    STOP = "stop"
    FINISH = "finish"
    TELL_CANCELLED = "tell_cancelled"
    FAIL_REQUEST = "fail_request"
    FAIL_TIME = "fail_time"
    FAIL_MODEL_TIME = "fail_model_time"
    FAIL_MODEL = "fail_model"
    FAIL_TURNS = "fail_turns"
    FAIL_CALLS = "fail_calls"
    FAIL_SIZE = "fail_size"
    FAIL_PROGRESS = "fail_progress"
    FAIL_OUTPUT = "fail_output"


LoopRow: TypeAlias = Row[State, Event, Guard, Effect]

_LIVE = (State.THINKING, State.CALLING)
_TERMINAL = (State.FINISHED, State.FAILED, State.CANCELLED)
TERMINAL = frozenset(_TERMINAL)

_TIME_IS_UP = (Effect.STOP, Effect.FAIL_TIME)
_CALLS = (Guard.HAS_CALLS,)


def _only_in(state: State, event: Event) -> tuple[LoopRow, ...]:
    """Elsewhere it is about something that is over; in `state` it may be too late."""
    others = tuple(other for other in (*_LIVE, *_TERMINAL) if other is not state)
    return (Row(event, others, None), Row(event, (state,), State.FAILED, (Guard.IS_LATE,), _TIME_IS_UP))


ROWS: tuple[LoopRow, ...] = (
    Row(Event.START, (State.READY,), State.FAILED, (Guard.CANNOT_BE_DONE,), (Effect.FAIL_REQUEST,)),
    Row(Event.START, (State.READY,), State.BETWEEN, (), (Effect.BEGIN,)),
    Row(Event.GO_ON, (State.BETWEEN,), State.FAILED, (Guard.IS_LATE,), (Effect.FAIL_TIME,)),
    Row(Event.GO_ON, (State.BETWEEN,), State.FAILED, (Guard.OUT_OF_TURNS,), (Effect.FAIL_TURNS,)),
    Row(Event.GO_ON, (State.BETWEEN,), State.FAILED, (Guard.DOES_NOT_FIT,), (Effect.FAIL_SIZE,)),
    Row(Event.GO_ON, (State.BETWEEN,), State.THINKING, (), (Effect.CALL_MODEL,)),
    # What the model says.
    *_only_in(State.THINKING, Event.DELTA),
    Row(Event.DELTA, (State.THINKING,), None, (Guard.IS_STALE,)),
    Row(Event.DELTA, (State.THINKING,), None, (), (Effect.SAY_DELTA,)),
    *_only_in(State.THINKING, Event.MODEL_ERROR),
    Row(Event.MODEL_ERROR, (State.THINKING,), None, (Guard.IS_STALE,)),
    Row(Event.MODEL_ERROR, (State.THINKING,), State.FAILED, (), (Effect.FAIL_MODEL,)),
    *_only_in(State.THINKING, Event.REPLY),
    Row(Event.REPLY, (State.THINKING,), None, (Guard.IS_STALE,)),
    Row(
        Event.REPLY,
        (State.THINKING,),
        State.FAILED,
        (*_CALLS, Guard.OUT_OF_CALLS),
        (Effect.COUNT, Effect.FAIL_CALLS),
    ),
    # Nobody could be told the results.
    Row(
        Event.REPLY,
        (State.THINKING,),
        State.FAILED,
        (*_CALLS, Guard.OUT_OF_TURNS),
        (Effect.COUNT, Effect.FAIL_TURNS),
    ),
    Row(
        Event.REPLY,
        (State.THINKING,),
        State.FAILED,
        (*_CALLS, Guard.GOES_ROUND),
        (Effect.COUNT, Effect.FAIL_PROGRESS),
    ),
    Row(Event.REPLY, (State.THINKING,), State.CALLING, _CALLS, (Effect.COUNT, Effect.SAY_REST, Effect.CALL_TOOLS)),
    Row(
        Event.REPLY,
        (State.THINKING,),
        State.FAILED,
        (Guard.IS_SILENT, Guard.OUT_OF_PATIENCE),
        (Effect.COUNT, Effect.FAIL_PROGRESS),
    ),
    Row(Event.REPLY, (State.THINKING,), State.BETWEEN, (Guard.IS_SILENT,), (Effect.COUNT, Effect.ASK_TO_SPEAK)),
    Row(
        Event.REPLY,
        (State.THINKING,),
        State.FAILED,
        (Guard.IS_UNUSABLE, Guard.OUT_OF_REPAIRS),
        (Effect.COUNT, Effect.FAIL_OUTPUT),
    ),
    Row(Event.REPLY, (State.THINKING,), State.BETWEEN, (Guard.IS_UNUSABLE,), (Effect.COUNT, Effect.ASK_TO_REPAIR)),
    Row(Event.REPLY, (State.THINKING,), State.FINISHED, (), (Effect.COUNT, Effect.SAY_REST, Effect.FINISH)),
    # What the tools answer.
    *_only_in(State.CALLING, Event.RESULT),
    Row(Event.RESULT, (State.CALLING,), None, (Guard.IS_UNKNOWN,)),
    Row(Event.RESULT, (State.CALLING,), None, (), (Effect.TAKE_RESULT,)),
    Row(Event.ALL_ANSWERED, (State.CALLING,), State.BETWEEN, (), (Effect.CLOSE_ROUND,)),
    # The host's own.
    Row(Event.TICK, _LIVE, State.FAILED, (Guard.IS_LATE,), _TIME_IS_UP),
    Row(Event.TICK, (State.THINKING,), State.FAILED, (Guard.MODEL_IS_LATE,), (Effect.STOP, Effect.FAIL_MODEL_TIME)),
    Row(Event.TICK, (*_LIVE, *_TERMINAL), None),
    Row(Event.RESUME, _LIVE, State.FAILED, (Guard.IS_LATE,), (Effect.FAIL_TIME,)),
    Row(Event.RESUME, (State.THINKING,), None, (), (Effect.CALL_MODEL_AGAIN,)),
    Row(Event.RESUME, (State.CALLING,), None, (), (Effect.CALL_TOOLS_AGAIN,)),
    Row(Event.RESUME, _TERMINAL, None),
    Row(Event.CANCEL, _LIVE, State.CANCELLED, (), (Effect.STOP, Effect.TELL_CANCELLED)),
    Row(Event.CANCEL, (State.READY,), State.CANCELLED, (), (Effect.TELL_CANCELLED,)),
    Row(Event.CANCEL, _TERMINAL, None),
)
INDEX = index(ROWS)
