"""What a loop remembers from one step to the next: it goes to disk as JSON and comes back the same.

The one thing to know: it is as large as `maxRuntimeChars` and one reply with its results at most, however long the loop
runs, for what the model is not given any more is not kept either.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from vespid_runtime.loop.machine import State
from vespid_runtime.models.types import Assistant, ToolResult, Usage, User

# All but the system prompt, which the task has.
Said: TypeAlias = User | Assistant | ToolResult

_Count: TypeAlias = Annotated[int, Meta(ge=0)]

NO_USAGE = Usage(input_tokens=0, output_tokens=0, total_tokens=0)


def usage_since(usage: Usage, before: Usage) -> Usage:
    return Usage(
        input_tokens=max(usage.input_tokens - before.input_tokens, 0),
        output_tokens=max(usage.output_tokens - before.output_tokens, 0),
        total_tokens=max(usage.total_tokens - before.total_tokens, 0),
    )


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Call(_Part, frozen=True, kw_only=True):
    """One call of the reply that is being worked on."""

    # Its place among all calls that the model asked for, from 0.
    n: int
    # Ours, or the model's own where that is usable: no two calls that the model is shown have the same.
    id: str
    # The tool's id; of a tool that does not exist, what the model wrote.
    tool: str
    # A JSON object; empty where the model wrote something else.
    arguments: str
    digest: str
    result: ToolResult | None = None
    # It was not carried out and will not be: `result` tells the model why.
    is_refused: bool = False


class Loop(_Part, frozen=True, kw_only=True):
    """Times are those of the host's clock, and are not kept."""

    state: State = State.READY
    deadline_ms: int = 0
    model_deadline_ms: int = 0
    # Model calls and tool calls so far.
    turns: _Count = 0
    calls: _Count = 0
    # What the model is still given of the past, and of what came after the message.
    history: tuple[Said, ...] = ()
    rounds: tuple[Said, ...] = ()
    # While tools are called: the message that asked for it, and each of its calls.
    asking: Assistant | None = None
    open: tuple[Call, ...] = ()
    # How much of the present reply was said in deltas.
    said_chars: _Count = 0
    # Replies without anything, in a row.
    silences: _Count = 0
    # Answers that the model was asked to mend.
    repairs: _Count = 0
    # How often the same calls were answered the same, one time after another, and which.
    repeats: _Count = 0
    repeated_calls: str = ""
    repeated_results: str = ""
    usage: Usage = NO_USAGE
    # What of it was told by earlier tries that ended properly; one that died has told nothing.
    told: Usage = NO_USAGE

    @property
    def untold_usage(self) -> Usage:
        return usage_since(self.usage, self.told)

    def all_told(self, usage: Usage) -> Loop:
        """As it is once its host has told that this is what it has used."""
        return msgspec.structs.replace(self, usage=usage, told=usage)

    @property
    def unanswered(self) -> tuple[Call, ...]:
        return tuple(call for call in self.open if call.result is None)
