"""What a loop wants done. The host does it in this order, and tells the loop what came of it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vespid_protocol.frames import Level
from vespid_runtime.models.types import Message, StopReason, ToolSpec, Usage


class _Wanted(msgspec.Struct, frozen=True, kw_only=True, tag=True, rename="camel"):
    pass


class CallModel(_Wanted, frozen=True, kw_only=True):
    """Answered by `Replied` or `ModelFailed` with the same `turn`."""

    turn: int
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    timeout_ms: int
    max_output_chars: int


class CallTool(_Wanted, frozen=True, kw_only=True):
    """Answered by `ToolAnswered`. Calls that are wanted together may run together."""

    n: int
    call_id: str
    tool: str
    # It fits the tool's schema.
    arguments: dict[str, object]
    # Behind `<runId>:<nodeId>:` or the turn's key: the same for the same call in every try.
    key: str
    # What is left of the loop's time.
    timeout_ms: int


class Say(_Wanted, frozen=True, kw_only=True):
    """The next piece of text for whoever listens. With JSON output the answer itself is not said."""

    text: str


class Tell(_Wanted, frozen=True, kw_only=True):
    """A tool is called, or has answered: an event to keep. Of these a later try is made (`prior`)."""

    kind: str
    level: Level
    message: str
    payload: dict[str, object]


class Stop(_Wanted, frozen=True, kw_only=True):
    """The model call or the tool calls under way are not wanted any more."""


class Finished(_Wanted, frozen=True, kw_only=True):
    """The answer."""

    content: str
    # With JSON output: `content`, decoded.
    value: object = None
    # `length`: the text was cut. `refusal`: it is no answer.
    stop_reason: StopReason
    usage: Usage


class Failed(_Wanted, frozen=True, kw_only=True):
    """There will be no answer. The code is of the contract, or the model provider's own."""

    code: str
    message: str
    usage: Usage


class Cancelled(_Wanted, frozen=True, kw_only=True):
    """It was stopped as asked."""

    usage: Usage


End: TypeAlias = Finished | Failed | Cancelled
Wanted: TypeAlias = CallModel | CallTool | Say | Tell | Stop | End
