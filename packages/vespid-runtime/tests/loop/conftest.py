"""Plays a loop: tells it things, and keeps what it wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest

from vespid_runtime.loop.effects import CallModel, CallTool, Say, Tell, Wanted
from vespid_runtime.loop.events import Delta, ModelFailed, Replied, Start, Told, ToolAnswered
from vespid_runtime.loop.state import Loop
from vespid_runtime.loop.task import LoopLimits, LoopTask, Tool
from vespid_runtime.loop.walk import step
from vespid_runtime.models.types import ModelReply, ToolCall, Usage
from vespid_runtime.tools.event import ToolEvent

SEARCH = Tool(
    id="memory.search",
    description="Search.",
    input_schema={
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["query"],
        "additionalProperties": False,
    },
)
ISSUE = Tool(id="connector.github.issue.create")
SHELL = Tool(id="shell.run")

WantedT = TypeVar("WantedT", bound=Wanted)


def task(**fields: object) -> LoopTask:
    limits = fields.pop("limits", {})
    given = {
        "message": "What is the plan?",
        "system": "Be short.",
        "tools": (SEARCH, ISSUE, SHELL),
        "allow": ("memory.*", "connector.github.issue.create"),
        **fields,
    }
    return LoopTask(**given, limits=LoopLimits(**limits))  # type: ignore[arg-type]


def call(name: str = "memory_search", arguments: str = '{"query":"plan"}', call_id: str = "a") -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)


class Play:
    """One loop, from its start. `wanted` is what the newest step wants, `all` what every step wanted."""

    def __init__(self, task: LoopTask) -> None:
        self.task = task
        self.loop = Loop()
        self.now = 1_000
        self.wanted: tuple[Wanted, ...] = ()
        self.all: list[Wanted] = []
        self.tell(Start(now_ms=self.now))

    def tell(self, told: Told) -> tuple[Wanted, ...]:
        self.loop, self.wanted = step(self.task, self.loop, told)
        self.all.extend(self.wanted)
        return self.wanted

    def reply(self, content: str = "", *calls: ToolCall, turn: int | None = None, **fields: object) -> None:
        reply = ModelReply(
            content=content,
            tool_calls=calls,
            usage=Usage(input_tokens=10, output_tokens=2, total_tokens=12),
            **fields,  # type: ignore[arg-type]
        )
        self.tell(Replied(now_ms=self.now, turn=self.loop.turns if turn is None else turn, reply=reply))

    def delta(self, text: str, turn: int | None = None) -> None:
        self.tell(Delta(now_ms=self.now, turn=self.loop.turns if turn is None else turn, text=text))

    def fail(self, code: str, message: str = "no") -> None:
        self.tell(ModelFailed(now_ms=self.now, turn=self.loop.turns, code=code, message=message))

    def answer(self, call_id: str = "a", content: str = "found", *, is_error: bool = False) -> None:
        self.tell(ToolAnswered(now_ms=self.now, call_id=call_id, content=content, is_error=is_error))

    def of(self, kind: type[WantedT]) -> list[WantedT]:
        """What the newest step wants of a kind."""
        return [wanted for wanted in self.wanted if isinstance(wanted, kind)]

    def one(self, kind: type[WantedT]) -> WantedT:
        (found,) = self.of(kind)
        return found

    @property
    def asked(self) -> CallModel:
        """The model call of the newest step."""
        return self.one(CallModel)

    @property
    def called(self) -> list[str]:
        """The tools that were ever called."""
        return [wanted.tool for wanted in self.all if isinstance(wanted, CallTool)]

    @property
    def said(self) -> str:
        return "".join(wanted.text for wanted in self.all if isinstance(wanted, Say))

    @property
    def events(self) -> tuple[ToolEvent, ...]:
        """As a host keeps them."""
        return tuple(
            ToolEvent(
                kind=wanted.kind,
                level=wanted.level,
                message=wanted.message,
                payload=msgspec.json.decode(msgspec.json.encode(wanted.payload)),
            )
            for wanted in self.all
            if isinstance(wanted, Tell)
        )


@pytest.fixture(name="play")
def a_play() -> Callable[..., Play]:
    """Starts a loop with these fields of its task."""
    return lambda **fields: Play(task(**fields))


@pytest.fixture(name="call")
def a_call() -> Callable[..., ToolCall]:
    return call
