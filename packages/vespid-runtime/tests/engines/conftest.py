"""What tests of the driven loop share: a model that follows a script, tools of the test's own, and who listens."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from vespid_runtime.engines.drive import Asks, Drive
from vespid_runtime.loop.keeping import take_out
from vespid_runtime.loop.state import Loop
from vespid_runtime.loop.task import LoopLimits, LoopTask
from vespid_runtime.models.types import (
    Assistant,
    Done,
    Message,
    ModelError,
    ModelReply,
    ModelRequest,
    Piece,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from vespid_runtime.tools.approval import Approvals
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import Toolbox

KEY = "run-1:n1"
USAGE = Usage(input_tokens=10, output_tokens=2, total_tokens=12)

Step = ModelReply | ModelError | Callable[[], AsyncIterator[Piece]]


def call(tool: str = "look", call_id: str = "a", **arguments: object) -> ToolCall:
    return ToolCall(id=call_id, name=tool, arguments=msgspec.json.encode(arguments).decode())


def say(text: str = "", *calls: ToolCall) -> ModelReply:
    return ModelReply(content=text, tool_calls=calls, usage=USAGE)


class ScriptedModel:
    """Takes the step that follows its answers in what it is given: like a model it remembers nothing."""

    def __init__(self, *steps: Step) -> None:
        self._steps = steps
        self.asked: list[ModelRequest] = []

    async def infer(self, request: ModelRequest) -> ModelReply:
        raise NotImplementedError

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        self.asked.append(request)
        step = self._steps[sum(map(_is_own, request.messages))]
        if isinstance(step, ModelError):
            raise step
        if isinstance(step, ModelReply):
            for word in re.findall(r"\S+\s*", step.content):
                yield TextDelta(text=word)
            yield Done(reply=step)
            return
        async for piece in step():
            yield piece

    @property
    def told(self) -> dict[str, str]:
        """The results that it was given last, by their calls."""
        return {said.call_id: said.content for said in self.asked[-1].messages if isinstance(said, ToolResult)}


def _is_own(said: Message) -> bool:
    """What it said; also if that was nothing, of which only the complaint is left."""
    return isinstance(said, Assistant) or said.content.startswith("You answered nothing")


Work = Callable[[dict[str, object], ToolUse], Awaitable[object]]


async def done(arguments: dict[str, object], use: ToolUse) -> object:
    return "done"


@dataclass
class FakeTool:
    id: str = "look"
    work: Work = done
    input_schema: dict[str, object] = field(default_factory=lambda: {"type": "object"})
    secrets: tuple[str, ...] = ()
    description: str = "Look."
    uses: list[ToolUse] = field(default_factory=list)

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        self.uses.append(use)
        return await self.work(arguments, use)

    @property
    def keys(self) -> list[str]:
        return [use.key for use in self.uses]


class Heard:
    """A host that keeps everything."""

    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.kept: list[bytes] = []

    def delta(self, text: str) -> None:
        self.deltas.append(text)

    def event(self, kind: str, level: str, message: str | None, payload: object) -> None:
        assert isinstance(payload, dict)
        self.events.append((kind, payload))

    async def keep(self, state: bytes) -> None:
        self.kept.append(state)


def task(*tools: FakeTool, **fields: object) -> LoopTask:
    limits = fields.pop("limits", {})
    given = {"message": "Go.", "tools": Toolbox(tools).infos, "allow": tuple(tool.id for tool in tools), **fields}
    return LoopTask(**given, limits=LoopLimits(**limits))  # type: ignore[arg-type]


def drive(
    model: object, *tools: FakeTool, heard: Heard | None = None, approvals: Approvals | None = None, **fields: object
) -> Drive:
    return Drive(
        task(*tools, **fields),
        Asks(model=model, provider="openai", name="some-model"),  # type: ignore[arg-type]
        Toolbox(tools),
        heard or Heard(),
        key=KEY,
        approvals=approvals or Approvals(),
    )


def out_of(state: bytes, now_ms: int, timeout_ms: int = 300_000) -> Loop:
    loop = take_out(state, timeout_ms, now_ms)
    assert loop is not None
    return loop
