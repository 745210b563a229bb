"""The calls of a reply, looked through before any is carried out.

Each becomes a `Call`: to be carried out, or with a result at once, because it is refused or because an earlier try had
it answered. The one thing to know: whatever a model writes as id, name or arguments ends here. What goes back to it as
its own message has ids that are unique, names that every provider takes, and arguments that are JSON objects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from vespid_protocol.codes import Code
from vespid_protocol.text import clean_text
from vespid_runtime.loop.cutting import cut_end, cut_middle
from vespid_runtime.loop.names import is_allowed, name_tools, spell
from vespid_runtime.loop.prior import digest, recall
from vespid_runtime.loop.schema import BadSchema, NotJson, problems, read_json
from vespid_runtime.loop.state import Call, Loop
from vespid_runtime.loop.task import LoopTask, Tool
from vespid_runtime.models.types import Assistant, ModelReply, ToolCall, ToolResult

ARGUMENTS_MAX_CHARS = 200_000
# Of what a model is told about a call that is refused.
REFUSAL_MAX_CHARS = 2_000
TOOL_MAX_CHARS = 128
# How often in a row the same calls are carried out that are answered the same, and asked for at all.
REPEATS_CARRIED_OUT = 4
REPEATS_MAX = 6

_USABLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refused(Exception):
    """The call is not carried out. The message is for the model, and begins with a code."""


def look_through(task: LoopTask, loop: Loop, reply: ModelReply) -> tuple[Assistant, tuple[Call, ...]]:
    """What the model said, fit to be told to it again, and its calls in their order."""
    names = name_tools(tool.id for tool in task.tools)
    tools = {tool.id: tool for tool in task.tools} | {names[tool.id]: tool for tool in task.tools}
    taken = {call.id for said in loop.rounds if isinstance(said, Assistant) for call in said.tool_calls}
    shown: list[ToolCall] = []
    calls: list[Call] = []
    for n, asked in enumerate(reply.tool_calls, loop.calls):
        call = _look_at(task, n, _id(asked.id, n, taken), asked, tools.get(asked.name))
        taken.add(call.id)
        calls.append(call)
        name = names.get(call.tool, spell(asked.name[:TOOL_MAX_CHARS]))
        shown.append(msgspec.structs.replace(asked, id=call.id, name=name, arguments=call.arguments))
    text = cut_middle(reply.content, task.limits.max_output_chars)
    if is_repeat(loop, calls, REPEATS_CARRIED_OUT):
        calls = [_refuse_repeat(call) for call in calls]
    return Assistant(content=text, tool_calls=tuple(shown)), tuple(calls)


def look_again(task: LoopTask, call: Call) -> Call:
    """A call that was outstanding, before it is made after all: refused, or with the digest of what it really is."""
    tool = next((tool for tool in task.tools if tool.id == call.tool), None)
    try:
        arguments = _read(call.arguments)
        _check(task, call.tool, tool, arguments)
    except Refused as refused:
        return refusal(call, str(refused))
    return msgspec.structs.replace(call, digest=digest(arguments))


def is_repeat(loop: Loop, calls: Sequence[Call], times: int) -> bool:
    """Whether the same was asked and answered `times` before, one time after another."""
    return loop.repeats >= times and loop.repeated_calls == signature(calls)


def signature(calls: Sequence[Call]) -> str:
    return _hash(*(f"{call.tool} {call.digest}" for call in calls))


def results_signature(results: Sequence[ToolResult]) -> str:
    return _hash(*(f"{result.is_error} {result.content}" for result in results))


def refusal(call: Call, text: str) -> Call:
    """The same call, answered without being carried out."""
    result = ToolResult(call_id=call.id, content=cut_middle(text, REFUSAL_MAX_CHARS), is_error=True)
    return msgspec.structs.replace(call, result=result, is_refused=True)


def _look_at(task: LoopTask, n: int, call_id: str, asked: ToolCall, tool: Tool | None) -> Call:
    name = cut_end(asked.name, TOOL_MAX_CHARS) if tool is None else tool.id
    call = Call(n=n, id=call_id, tool=name, arguments="{}", digest=_hash(asked.arguments))
    try:
        arguments = _read(asked.arguments)
        call = msgspec.structs.replace(
            call, arguments=msgspec.json.encode(arguments).decode(), digest=digest(arguments)
        )
        _check(task, name, tool, arguments)
    except Refused as refused:
        # What it is not allowed is more to the point than how it asked.
        return refusal(call, _not_allowed(task, name, tool) or str(refused))
    known = recall(task.recorded, n, call.tool, call.digest)
    if known is None or known.content is None:
        return call
    content = cut_middle(known.content, task.limits.max_result_chars)
    return msgspec.structs.replace(call, result=ToolResult(call_id=call_id, content=content, is_error=known.is_error))


def _read(text: str) -> dict[str, object]:
    if len(text) > ARGUMENTS_MAX_CHARS:
        raise Refused(f"INVALID_TOOL_ARGUMENTS: they have {len(text)} characters, at most {ARGUMENTS_MAX_CHARS} may be")
    try:
        # Of a tool that takes nothing, some models write nothing.
        value = read_json(text) if text.strip() else {}
    except NotJson as error:
        raise Refused(f"INVALID_TOOL_ARGUMENTS: {error}") from error
    if not isinstance(value, dict):
        raise Refused("INVALID_TOOL_ARGUMENTS: they must be a JSON object")
    return value


def _check(task: LoopTask, name: str, tool: Tool | None, arguments: dict[str, object]) -> None:
    refused = _not_allowed(task, name, tool)
    if refused is not None or tool is None:
        raise Refused(refused)
    try:
        wrong = problems(arguments, tool.input_schema)
    except BadSchema as error:
        raise Refused(f"TOOL_UNUSABLE: {error}") from error
    if wrong:
        raise Refused("INVALID_TOOL_ARGUMENTS: " + "; ".join(wrong))


def _not_allowed(task: LoopTask, name: str, tool: Tool | None) -> str | None:
    if tool is None:
        names = name_tools(tool.id for tool in task.tools)
        there_are = ", ".join(names[tool.id] for tool in task.tools if is_allowed(tool.id, task.allow)) or "none"
        return f"UNKNOWN_TOOL: there is no tool {name!r}; there are: {there_are}"
    if not is_allowed(tool.id, task.allow):
        return f"{Code.TOOL_NOT_ALLOWED}:{tool.id}"
    return None


def _refuse_repeat(call: Call) -> Call:
    if call.is_refused:
        return call
    return refusal(
        call,
        f"REPEATED_CALL: the same was asked {REPEATS_CARRIED_OUT} times in a row and answered the same each time, so "
        "it was not carried out again. Do something else, or answer.",
    )


def _id(wanted: str, n: int, taken: set[str]) -> str:
    if _USABLE_ID.fullmatch(wanted) and wanted not in taken:
        return wanted
    tries = (f"call_{n}{suffix}" for suffix in ("", *(f"_{number}" for number in range(len(taken) + 1))))
    return next(call_id for call_id in tries if call_id not in taken)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(clean_text(part)[0] for part in parts).encode()).hexdigest()
