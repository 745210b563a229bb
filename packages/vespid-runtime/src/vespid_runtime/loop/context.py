"""What the model is given: system prompt, tools and messages, never more than `maxRuntimeChars` together.

    system · history … · the user's message · rounds …

A round is what the model said with all that belongs to it: the results of its calls, or the complaint about it. When
there is too much, whole exchanges of the history go first and then whole rounds, the oldest first; so no call is
separated from its result, and the conversation always begins with a user. The system prompt, the user's message and
the newest round stay; of that round the results are cut further if they must be. The one thing to know: more is left
out than is needed (down to three quarters), so that the beginning stays the same for some turns and providers'
caches of it are of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from vespid_runtime.engines.config import Output
from vespid_runtime.loop.cutting import cut_middle
from vespid_runtime.loop.names import is_allowed, name_tools
from vespid_runtime.loop.state import Said
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import Assistant, Message, System, ToolResult, ToolSpec, User

# What a message costs beside its text.
MESSAGE_CHARS = 16
# A result that is shorter is of no use.
RESULT_MIN_CHARS = 200
# Of what there may be, when there is too much.
_KEPT = 3 / 4


class Context(NamedTuple):
    """What is left to be given."""

    history: tuple[Said, ...]
    rounds: tuple[Said, ...]


def fit(task: LoopTask, history: Sequence[Said], rounds: Sequence[Said]) -> Context | None:
    """As much as has room, or None: what must stay has not."""
    room = task.limits.max_runtime_chars - fixed_cost(task)
    past, exchanges = _units(history, User), _units(rounds, Assistant)
    newest = exchanges.pop() if exchanges else ()
    costs = [sum(map(cost, unit)) for unit in (*past, *exchanges)]
    left = room - sum(map(cost, newest))
    total, dropped = sum(costs), 0
    if total > left:
        while dropped < len(costs) and total > left - room * (1 - _KEPT):
            total -= costs[dropped]
            dropped += 1
    if left < 0:
        shrunk = _shrink(newest, room)
        if shrunk is None:
            return None
        newest = shrunk
    kept_past, kept = past[dropped:], exchanges[max(0, dropped - len(past)) :]
    return Context(_flat(kept_past), _flat([*kept, newest]))


def messages(task: LoopTask, context: Context) -> tuple[Message, ...]:
    """For the model."""
    system = system_prompt(task)
    begin: tuple[Message, ...] = (System(content=system),) if system else ()
    return (*begin, *context.history, User(content=task.message), *context.rounds)


def begin_with_user(history: Sequence[User | Assistant]) -> tuple[User | Assistant, ...]:
    """Providers take no other beginning; and none that says nothing."""
    said = [message for message in history if message.content.strip()]
    first = next((index for index, message in enumerate(said) if isinstance(message, User)), len(said))
    return tuple(said[first:])


def system_prompt(task: LoopTask) -> str:
    """With what is said about the answer, where it has to be JSON."""
    return "\n\n".join(part for part in (task.system, _wanted(task.output)) if part)


def tool_specs(task: LoopTask) -> tuple[ToolSpec, ...]:
    """What the model may call, by the names that it knows."""
    if task.limits.max_tool_calls == 0:
        return ()
    names = name_tools(tool.id for tool in task.tools)
    return tuple(
        ToolSpec(name=names[tool.id], description=tool.description, input_schema=tool.input_schema)
        for tool in task.tools
        if is_allowed(tool.id, task.allow)
    )


def fixed_cost(task: LoopTask) -> int:
    """Of what is given every time."""
    specs = sum(len(msgspec.json.encode(spec).decode()) for spec in tool_specs(task))
    system = system_prompt(task)
    return specs + (cost(System(content=system)) if system else 0) + cost(User(content=task.message))


def cost(message: Message) -> int:
    """In characters."""
    chars = MESSAGE_CHARS + len(message.content)
    if isinstance(message, Assistant):
        chars += sum(
            MESSAGE_CHARS + len(call.id) + len(call.name) + len(call.arguments) + len(call.opaque or "")
            for call in message.tool_calls
        )
    return chars + len(message.call_id) if isinstance(message, ToolResult) else chars


def _wanted(output: Output) -> str:
    if output.mode == "text":
        return ""
    wanted = "Your last message is read by a program: it must be one JSON document and nothing else."
    if output.json_schema is None:
        return wanted
    return f"{wanted} It must fit this JSON Schema: {msgspec.json.encode(output.json_schema).decode()}"


def _units(said: Sequence[Said], head: type[User] | type[Assistant]) -> list[tuple[Said, ...]]:
    """Each with what follows it; what stands before the first `head` is one too."""
    units: list[list[Said]] = []
    for message in said:
        if isinstance(message, head) or not units:
            units.append([])
        units[-1].append(message)
    return [tuple(unit) for unit in units]


def _shrink(unit: tuple[Said, ...], room: int) -> tuple[Said, ...] | None:
    """With its results cut so that it costs `room` at most."""
    results = [len(message.content) for message in unit if isinstance(message, ToolResult)]
    for_results = room - (sum(map(cost, unit)) - sum(results))
    # The same for all: short results leave their share to the long ones.
    share, left = 0, len(results)
    for length in sorted(results):
        share = for_results // left
        if length > share:
            break
        for_results -= length
        left -= 1
    if for_results < 0 or (left and share < RESULT_MIN_CHARS):
        return None
    return tuple(_cut(message, share) if isinstance(message, ToolResult) else message for message in unit)


def _cut(result: ToolResult, max_chars: int) -> ToolResult:
    if len(result.content) <= max_chars:
        return result
    return msgspec.structs.replace(result, content=cut_middle(result.content, max_chars))


def _flat(units: Sequence[tuple[Said, ...]]) -> tuple[Said, ...]:
    return tuple(message for unit in units for message in unit)
