"""The guards of the table. None changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vespid_runtime.loop import calls, context
from vespid_runtime.loop.answer import REPAIRS_MAX, SILENCES_MAX, Unusable, read_answer
from vespid_runtime.loop.context import Context
from vespid_runtime.loop.events import Delta, ModelFailed, OwnTold, Replied, Told, ToolAnswered
from vespid_runtime.loop.schema import BadSchema, check_schema
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import Assistant, ModelReply


@dataclass(frozen=True)
class Moment:
    """One event and the loop before it; with what follows from both, found out once."""

    task: LoopTask
    loop: Loop
    told: Told | OwnTold

    @property
    def reply(self) -> ModelReply:
        """Only of `Replied`."""
        assert isinstance(self.told, Replied)
        return self.told.reply

    @cached_property
    def asked(self) -> tuple[Assistant, tuple[Call, ...]]:
        return calls.look_through(self.task, self.loop, self.reply)

    @cached_property
    def answer(self) -> tuple[str, object] | Unusable:
        try:
            return read_answer(self.task, self.reply)
        except Unusable as unusable:
            return unusable

    @cached_property
    def context(self) -> Context | None:
        return context.fit(self.task, self.loop.history, self.loop.rounds)

    @cached_property
    def schema_problem(self) -> str | None:
        schema = self.task.output.json_schema
        try:
            if schema is not None:
                check_schema(schema)
        except BadSchema as error:
            return str(error)
        return None


def cannot_be_done(moment: Moment) -> bool:
    return moment.schema_problem is not None


def is_late(moment: Moment) -> bool:
    return moment.told.now_ms >= moment.loop.deadline_ms


def model_is_late(moment: Moment) -> bool:
    return moment.told.now_ms >= moment.loop.model_deadline_ms


def is_stale(moment: Moment) -> bool:
    told = moment.told
    return isinstance(told, Delta | Replied | ModelFailed) and told.turn != moment.loop.turns


def is_unknown(moment: Moment) -> bool:
    told = moment.told
    return isinstance(told, ToolAnswered) and all(call.id != told.call_id for call in moment.loop.unanswered)


def has_calls(moment: Moment) -> bool:
    return bool(moment.reply.tool_calls)


def out_of_turns(moment: Moment) -> bool:
    return moment.loop.turns >= moment.task.limits.max_turns


def out_of_calls(moment: Moment) -> bool:
    return moment.loop.calls + len(moment.reply.tool_calls) > moment.task.limits.max_tool_calls


def goes_round(moment: Moment) -> bool:
    return calls.is_repeat(moment.loop, moment.asked[1], calls.REPEATS_MAX)


def is_silent(moment: Moment) -> bool:
    return not moment.reply.content.strip()


def out_of_patience(moment: Moment) -> bool:
    return moment.loop.silences >= SILENCES_MAX


def is_unusable(moment: Moment) -> bool:
    return isinstance(moment.answer, Unusable)


def out_of_repairs(moment: Moment) -> bool:
    return moment.loop.repairs >= REPAIRS_MAX


def does_not_fit(moment: Moment) -> bool:
    return moment.context is None
