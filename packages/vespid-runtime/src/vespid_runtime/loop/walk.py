"""Walks the table: `step(task, loop, told)` is the loop as it is then, and what it wants done.

    loop = Loop()
    loop, wanted = step(task, loop, Start(now_ms=…))     # and so on, until loop.state is TERMINAL

The one thing to know: nothing is decided here. Guards look, effects do, and which of them when is in `machine.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from vespid_protocol.machine import IllegalTransition
from vespid_runtime.loop import doing, ends, looking
from vespid_runtime.loop.effects import Wanted
from vespid_runtime.loop.events import EVENTS, AllAnswered, GoOn, OwnTold, Told
from vespid_runtime.loop.looking import Moment
from vespid_runtime.loop.machine import INDEX, TERMINAL, Effect, Guard, LoopRow, State
from vespid_runtime.loop.state import Loop
from vespid_runtime.loop.task import LoopTask

_GUARDS: dict[Guard, Callable[[Moment], bool]] = {
    Guard.CANNOT_BE_DONE: looking.cannot_be_done,
    Guard.IS_LATE: looking.is_late,
    Guard.MODEL_IS_LATE: looking.model_is_late,
    Guard.IS_STALE: looking.is_stale,
    Guard.IS_UNKNOWN: looking.is_unknown,
    Guard.HAS_CALLS: looking.has_calls,
    Guard.OUT_OF_TURNS: looking.out_of_turns,
    Guard.OUT_OF_CALLS: looking.out_of_calls,
    Guard.GOES_ROUND: looking.goes_round,
    Guard.IS_SILENT: looking.is_silent,
    Guard.OUT_OF_PATIENCE: looking.out_of_patience,
    Guard.IS_UNUSABLE: looking.is_unusable,
    Guard.OUT_OF_REPAIRS: looking.out_of_repairs,
    Guard.DOES_NOT_FIT: looking.does_not_fit,
}

_EFFECTS: dict[Effect, Callable[[Moment, Loop], doing.Done]] = {
    Effect.BEGIN: doing.begin,
    Effect.COUNT: doing.count,
    Effect.CALL_MODEL: doing.call_model,
    Effect.CALL_MODEL_AGAIN: doing.call_model_again,
    Effect.CALL_TOOLS: doing.call_tools,
    Effect.CALL_TOOLS_AGAIN: doing.call_tools_again,
    Effect.TAKE_RESULT: doing.take_result,
    Effect.CLOSE_ROUND: doing.close_round,
    Effect.SAY_DELTA: doing.say_delta,
    Effect.SAY_REST: doing.say_rest,
    Effect.ASK_TO_SPEAK: doing.ask_to_speak,
    Effect.ASK_TO_REPAIR: doing.ask_to_repair,
    Effect.STOP: ends.stop,
    Effect.FINISH: ends.finish,
    Effect.TELL_CANCELLED: ends.tell_cancelled,
    Effect.FAIL_REQUEST: ends.fail_request,
    Effect.FAIL_TIME: ends.fail_time,
    Effect.FAIL_MODEL_TIME: ends.fail_model_time,
    Effect.FAIL_MODEL: ends.fail_model,
    Effect.FAIL_TURNS: ends.fail_turns,
    Effect.FAIL_CALLS: ends.fail_calls,
    Effect.FAIL_SIZE: ends.fail_size,
    Effect.FAIL_PROGRESS: ends.fail_progress,
    Effect.FAIL_OUTPUT: ends.fail_output,
}


class Outcome(NamedTuple):
    """What became of it."""

    loop: Loop
    wanted: tuple[Wanted, ...]


def step(task: LoopTask, loop: Loop, told: Told) -> Outcome:
    """Raises IllegalTransition, having changed nothing, where the table has no row."""
    loop, wanted = _walk(task, loop, told)
    while (own := _own(loop, told.now_ms)) is not None:
        loop, more = _walk(task, loop, own)
        wanted += more
    return Outcome(loop, wanted)


def wake_at_ms(loop: Loop) -> int | None:
    """When the next `Tick` has something to do."""
    if loop.state is State.THINKING:
        return min(loop.deadline_ms, loop.model_deadline_ms)
    return loop.deadline_ms if loop.state is State.CALLING else None


def _own(loop: Loop, now_ms: int) -> OwnTold | None:
    if loop.state is State.BETWEEN:
        return GoOn(now_ms=now_ms)
    return AllAnswered(now_ms=now_ms) if loop.state is State.CALLING and not loop.unanswered else None


def _walk(task: LoopTask, loop: Loop, told: Told | OwnTold) -> Outcome:
    moment = Moment(task, loop, told)
    row = _find(moment)
    after, wanted = Outcome(loop, ())
    for effect in row.effects:
        after, more = _EFFECTS[effect](moment, after)
        wanted = (*wanted, *more)
    if row.target is not None:
        after = msgspec.structs.replace(after, state=row.target)
    if row.target in TERMINAL:
        # What the model was told is of no use any more.
        after = msgspec.structs.replace(after, history=(), rounds=(), asking=None, open=())
    return Outcome(after, wanted)


def _find(moment: Moment) -> LoopRow:
    event = EVENTS[type(moment.told)]
    for row in INDEX.get((moment.loop.state, event), ()):
        if all(_GUARDS[guard](moment) for guard in row.guards):
            return row
    raise IllegalTransition("loop", moment.loop.state, event)
