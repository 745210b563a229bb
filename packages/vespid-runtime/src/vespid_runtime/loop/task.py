"""What a loop is to do: the question, the tools, the limits. It does not change from the first step to the last.

The one thing to know: `tools` are all that the host has, and `allow` says which of them the model may call. The model
is shown only those; it is told `TOOL_NOT_ALLOWED:<id>` for the others, and that there is no such tool for the rest.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from vespid_runtime.engines import config
from vespid_runtime.engines.config import Output
from vespid_runtime.models.types import Assistant, User


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Tool(_Part, frozen=True, kw_only=True):
    """One that the host can call."""

    # As in `tools.allow`: `memory.search`, `connector.github.issue.create`.
    id: Annotated[str, Meta(min_length=1)]
    # For the model.
    description: str = ""
    # JSON Schema of an object.
    input_schema: dict[str, object] = msgspec.field(default_factory=lambda: {"type": "object"})


class LoopLimits(_Part, frozen=True, kw_only=True):
    """All of them bound something that a model decides."""

    # Model calls.
    max_turns: Annotated[int, Meta(ge=1)] = 50
    # Calls that the model asks for, whether they are carried out or refused.
    max_tool_calls: Annotated[int, Meta(ge=0)] = 200
    # From the start to the end.
    timeout_ms: Annotated[int, Meta(ge=1)] = 300_000
    # Of one model call: what the host asks of its provider at most.
    model_timeout_ms: Annotated[int, Meta(ge=1, le=600_000)] = 120_000
    # Of an answer, and of what is said beside tool calls.
    max_output_chars: Annotated[int, Meta(ge=1)] = 100_000
    # Of everything that one model call is given: system prompt, tools, messages.
    max_runtime_chars: Annotated[int, Meta(ge=1)] = 400_000
    # Of one tool's result, as JSON: an event's payload holds it whole.
    max_result_chars: Annotated[int, Meta(ge=1)] = 16_000

    @classmethod
    def of(cls, limits: config.Limits) -> LoopLimits:
        """With the defaults for what is not said."""
        said = {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}
        return cls(**said)


class Recorded(_Part, frozen=True, kw_only=True):
    """A tool call of an earlier try."""

    # Its place among all calls that the model asked for, from 0.
    n: int
    tool: str
    # Of the arguments.
    digest: str
    # None: it was begun, and nobody knows how it ended.
    content: str | None = None
    is_error: bool = False


class LoopTask(_Part, frozen=True, kw_only=True):
    """Told to every step."""

    message: str
    system: str = ""
    # What was said before, oldest first.
    history: tuple[User | Assistant, ...] = ()
    tools: tuple[Tool, ...] = ()
    # Tool ids; `memory.*` stands for every tool of the kind.
    allow: tuple[str, ...] = ()
    limits: LoopLimits = LoopLimits()
    output: Output = Output()
    # In the order in which they were begun.
    recorded: tuple[Recorded, ...] = ()
