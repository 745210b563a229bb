"""The effects that go on with the loop: each is what is remembered of it, and what is wanted."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vespid_runtime.loop import context
from vespid_runtime.loop.answer import Unusable
from vespid_runtime.loop.calls import look_again, results_signature, signature
from vespid_runtime.loop.cutting import cut_end, cut_middle
from vespid_runtime.loop.effects import CallModel, CallTool, Say, Wanted
from vespid_runtime.loop.events import Delta, ToolAnswered
from vespid_runtime.loop.looking import Moment
from vespid_runtime.loop.prior import key, tell_call, tell_result
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.models.types import Assistant, ToolResult, Usage, User

Done: TypeAlias = tuple[Loop, tuple[Wanted, ...]]

_replace = msgspec.structs.replace

_SPEAK = "You answered nothing. Call a tool, or give your answer."
_REPAIR = "That is not the answer that is wanted: {problem}. Answer again, with the JSON document alone."
_REPAIR_MAX_CHARS = 2_000
_LAST_TURN = "This is your last turn: no more tools can be called. Give your answer."
_LAST_CALL = "You may not call any more tools. Give your answer."


def begin(moment: Moment, loop: Loop) -> Done:
    history = context.begin_with_user(moment.task.history)
    return _replace(loop, deadline_ms=moment.told.now_ms + moment.task.limits.timeout_ms, history=history), ()


def count(moment: Moment, loop: Loop) -> Done:
    """What the reply used."""
    more, usage = moment.reply.usage, loop.usage
    usage = Usage(
        input_tokens=usage.input_tokens + more.input_tokens,
        output_tokens=usage.output_tokens + more.output_tokens,
        total_tokens=usage.total_tokens + more.total_tokens,
    )
    return _replace(loop, usage=usage, calls=loop.calls + len(moment.reply.tool_calls)), ()


def call_model(moment: Moment, loop: Loop) -> Done:
    kept = moment.context
    assert kept is not None, "guarded by does_not_fit"
    loop = _replace(loop, turns=loop.turns + 1, history=kept.history, rounds=kept.rounds)
    return call_model_again(moment, loop)


def call_model_again(moment: Moment, loop: Loop) -> Done:
    """The same turn. Its text begins anew."""
    now, limits = moment.told.now_ms, moment.task.limits
    deadline = min(now + limits.model_timeout_ms, loop.deadline_ms)
    wanted = CallModel(
        turn=loop.turns,
        messages=context.messages(moment.task, context.Context(loop.history, loop.rounds)),
        tools=context.tool_specs(moment.task),
        timeout_ms=deadline - now,
        max_output_chars=limits.max_output_chars,
    )
    return _replace(loop, model_deadline_ms=deadline, said_chars=0), (wanted,)


def say_delta(moment: Moment, loop: Loop) -> Done:
    assert isinstance(moment.told, Delta)
    return _say(moment, loop, moment.told.text)


def say_rest(moment: Moment, loop: Loop) -> Done:
    if not moment.reply.tool_calls and moment.task.output.mode == "json":
        return loop, ()
    return _say(moment, loop, moment.reply.content[loop.said_chars :], is_whole=True)


def call_tools(moment: Moment, loop: Loop) -> Done:
    """What an earlier try had answered was told by it."""
    asking, calls = moment.asked
    wanted: list[Wanted] = []
    for call in calls:
        if call.result is None or call.is_refused:
            wanted.append(tell_call(call))
        if call.result is None:
            wanted.append(_call_tool(moment, loop, call))
        elif call.is_refused:
            wanted.append(tell_result(call, call.result))
    return _replace(loop, asking=asking, open=calls, silences=0), tuple(wanted)


def call_tools_again(moment: Moment, loop: Loop) -> Done:
    """What is not allowed any more, or never was: the loop may come from elsewhere."""
    calls = tuple(look_again(moment.task, call) if call.result is None else call for call in loop.open)
    wanted: list[Wanted] = []
    for before, call in zip(loop.open, calls, strict=True):
        if call.result is None:
            wanted.append(_call_tool(moment, loop, call))
        elif before.result is None:
            wanted.append(tell_result(call, call.result))
    return _replace(loop, open=calls), tuple(wanted)


def take_result(moment: Moment, loop: Loop) -> Done:
    told = moment.told
    assert isinstance(told, ToolAnswered)
    content = cut_middle(told.content, moment.task.limits.max_result_chars)
    result = ToolResult(call_id=told.call_id, content=content, is_error=told.is_error)
    (answered,) = (call for call in loop.unanswered if call.id == told.call_id)
    calls = tuple(_replace(call, result=result) if call is answered else call for call in loop.open)
    return _replace(loop, open=calls), (tell_result(answered, result),)


def close_round(moment: Moment, loop: Loop) -> Done:
    """Everything that was asked is answered, in the order in which it was asked."""
    assert loop.asking is not None
    results = tuple(call.result for call in loop.open if call.result is not None)
    asked, answered = signature(loop.open), results_signature(results)
    is_again = asked == loop.repeated_calls
    # What was refused for being a repetition is one.
    if is_again and (answered == loop.repeated_results or all(call.is_refused for call in loop.open)):
        repeats = loop.repeats + 1
    else:
        repeats = 1
    closed = _replace(
        loop,
        rounds=(*loop.rounds, loop.asking, *results, *_warnings(moment, loop)),
        asking=None,
        open=(),
        repeats=repeats,
        repeated_calls=asked,
        repeated_results=answered,
    )
    return closed, ()


def ask_to_speak(moment: Moment, loop: Loop) -> Done:
    """Nothing was said, and an empty message is taken by no provider."""
    return _replace(loop, rounds=(*loop.rounds, User(content=_SPEAK)), silences=loop.silences + 1), ()


def ask_to_repair(moment: Moment, loop: Loop) -> Done:
    assert isinstance(moment.answer, Unusable)
    complaint = cut_middle(_REPAIR.format(problem=moment.answer), _REPAIR_MAX_CHARS)
    said = Assistant(content=cut_middle(moment.reply.content, moment.task.limits.max_output_chars))
    rounds = (*loop.rounds, said, User(content=complaint))
    return _replace(loop, rounds=rounds, repairs=loop.repairs + 1, silences=0), ()


def _say(moment: Moment, loop: Loop, text: str, *, is_whole: bool = False) -> Done:
    if moment.task.output.mode == "json" and not is_whole:
        return loop, ()
    said = cut_end(text, max(0, moment.task.limits.max_output_chars - loop.said_chars))
    if not said:
        return loop, ()
    return _replace(loop, said_chars=loop.said_chars + len(said)), (Say(text=said),)


def _call_tool(moment: Moment, loop: Loop, call: Call) -> CallTool:
    return CallTool(
        n=call.n,
        call_id=call.id,
        tool=call.tool,
        arguments=msgspec.json.decode(call.arguments, type=dict[str, object]),
        key=key(moment.task.recorded, call.n, call.tool, call.digest),
        timeout_ms=loop.deadline_ms - moment.told.now_ms,
    )


def _warnings(moment: Moment, loop: Loop) -> tuple[User, ...]:
    """A model that knows that it is the last time can still answer."""
    limits = moment.task.limits
    if loop.turns + 1 == limits.max_turns:
        return (User(content=_LAST_TURN),)
    return (User(content=_LAST_CALL),) if loop.calls >= limits.max_tool_calls else ()
