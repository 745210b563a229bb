"""The effects that end the loop, each with the code of the contract and what it was, for people."""

from __future__ import annotations

from vespid_protocol.codes import Code
from vespid_runtime.loop.answer import REPAIRS_MAX, Unusable
from vespid_runtime.loop.calls import REPEATS_MAX
from vespid_runtime.loop.cutting import cut_middle
from vespid_runtime.loop.doing import Done
from vespid_runtime.loop.effects import Cancelled, Failed, Finished, Stop
from vespid_runtime.loop.events import ModelFailed
from vespid_runtime.loop.looking import Moment
from vespid_runtime.loop.state import Loop

_MESSAGE_MAX_CHARS = 2_000


def stop(moment: Moment, loop: Loop) -> Done:
    return loop, (Stop(),)


def finish(moment: Moment, loop: Loop) -> Done:
    assert not isinstance(moment.answer, Unusable), "guarded by is_unusable"
    content, value = moment.answer
    # What was cut here was cut because of its length as well.
    reason = "length" if len(content) < len(moment.reply.content) and value is None else moment.reply.stop_reason
    return loop, (Finished(content=content, value=value, stop_reason=reason, usage=loop.usage),)


def tell_cancelled(moment: Moment, loop: Loop) -> Done:
    return loop, (Cancelled(usage=loop.usage),)


def fail_request(moment: Moment, loop: Loop) -> Done:
    return _fail(loop, Code.INVALID_EXECUTE_PAYLOAD, f"output.jsonSchema: {moment.schema_problem}")


def fail_time(moment: Moment, loop: Loop) -> Done:
    limit = moment.task.limits.timeout_ms
    return _fail(loop, Code.NODE_EXECUTION_TIMEOUT, f"no answer within {limit} ms; {_so_far(loop)}")


def fail_model_time(moment: Moment, loop: Loop) -> Done:
    limit = moment.task.limits.model_timeout_ms
    return _fail(loop, Code.LLM_TIMEOUT, f"the model did not answer within {limit} ms; {_so_far(loop)}")


def fail_model(moment: Moment, loop: Loop) -> Done:
    assert isinstance(moment.told, ModelFailed)
    return _fail(loop, moment.told.code, moment.told.message)


def fail_turns(moment: Moment, loop: Loop) -> Done:
    """Whatever the model still wanted is named: it is the cause."""
    limit = moment.task.limits.max_turns
    return _fail(loop, Code.AGENT_MAX_TURNS, f"no answer within {limit} turns of the model; {_so_far(loop)}")


def fail_calls(moment: Moment, loop: Loop) -> Done:
    limit = moment.task.limits.max_tool_calls
    wanted = len(moment.reply.tool_calls)
    before = loop.calls - wanted
    return _fail(
        loop,
        Code.AGENT_MAX_TOOL_CALLS,
        f"the model asked for {wanted} more tool calls after {before}, and may make {limit}",
    )


def fail_size(moment: Moment, loop: Loop) -> Done:
    limit = moment.task.limits.max_runtime_chars
    return _fail(
        loop,
        Code.AGENT_MAX_RUNTIME_CHARS,
        f"what the model has to be given has more than {limit} characters; {_so_far(loop)}",
    )


def fail_progress(moment: Moment, loop: Loop) -> Done:
    if moment.reply.tool_calls:
        tools = ", ".join(sorted({call.tool for call in moment.asked[1]}))
        why = f"the model asked for the same calls again after {REPEATS_MAX} times: {tools}"
    else:
        why = "the model said nothing, again and again"
    return _fail(loop, Code.AGENT_NO_PROGRESS, why)


def fail_output(moment: Moment, loop: Loop) -> Done:
    return _fail(
        loop, Code.AGENT_OUTPUT_INVALID, f"the answer is not usable after {REPAIRS_MAX} repairs: {moment.answer}"
    )


def _fail(loop: Loop, code: str, message: str) -> Done:
    return loop, (Failed(code=code, message=cut_middle(message, _MESSAGE_MAX_CHARS), usage=loop.usage),)


def _so_far(loop: Loop) -> str:
    return f"{loop.turns} model calls and {loop.calls} tool calls were made"
