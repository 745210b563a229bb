"""An engine over a program, with tools to call, and a record of what it says."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vespid_agent.engines.claude import ClaudeCode
from vespid_agent.engines.cli import Cli
from vespid_agent.engines.codex import Codex
from vespid_agent.engines.folders import Folders
from vespid_agent.engines.turn import CliEngine
from vespid_agent.sandbox import process_tree
from vespid_protocol.frames import HistoryEntry, Level
from vespid_runtime.engines.config import EngineChoice, Limits, Output, Prompt, SessionConfig
from vespid_runtime.engines.engine import TurnRequest
from vespid_runtime.tools.tool import Tool, ToolUse
from vespid_runtime.tools.toolbox import Toolbox

KEY = "sk-of-the-test"


class Notes:
    """A tool: finds one note. Keeps what it was called with."""

    id = "memory.search"
    description = "Finds notes"
    input_schema: dict[str, object] = {  # noqa: RUF012
        "type": "object",
        "properties": {"query": {"type": "string"}},
        "required": ["query"],
    }
    secrets: Sequence[str] = ()

    def __init__(self, answer: object = "the note says 42") -> None:
        self.answer = answer
        self.calls: list[tuple[dict[str, object], ToolUse]] = []

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        self.calls.append((arguments, use))
        return self.answer


class Shell(Notes):
    """The permission for commands, and a command that always says the same."""

    id = "shell.run"
    input_schema: dict[str, object] = {"type": "object", "properties": {"script": {"type": "string"}}}  # noqa: RUF012


class Stuck(Notes):
    """A tool that never answers; says when it was called and when it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        self.called.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError("it never answers")


@dataclass
class Heard:
    """`TurnOutput` that keeps everything."""

    deltas: list[str] = field(default_factory=list)
    events: list[tuple[str, Level, str | None, Any]] = field(default_factory=list)

    def delta(self, text: str) -> None:
        self.deltas.append(text)

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        self.events.append((kind, level, message, payload))

    async def keep(self, state: bytes) -> None:
        raise AssertionError("a program keeps its own state")

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    def told(self, kind: str) -> list[Any]:
        return [payload for each, _, _, payload in self.events if each == kind]


@dataclass
class Bench:
    """Programs of the test, and turns for them. Everything lies below `root`."""

    root: Path
    environment: dict[str, str]

    def __post_init__(self) -> None:
        self.folders = Folders(self.root / "engines")
        self.work = self.root / "work"
        self.work.mkdir(exist_ok=True)

    def claude(self, program: Path | None, **more: str) -> CliEngine:
        cli = Cli("claude", "VESPID_CLAUDE_CODE_PATH", program, self.environment | more, 200)
        return CliEngine(ClaudeCode(), cli, self.folders)

    def codex(self, program: Path | None, **more: str) -> CliEngine:
        cli = Cli("codex", "VESPID_CODEX_PATH", program, self.environment | more, 200)
        return CliEngine(Codex(self.folders), cli, self.folders)

    def script(self, name: str, text: str) -> Path:
        """A program that is a shell script."""
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def request(
        self,
        message: str = "hello",
        *,
        tools: Sequence[Tool] = (),
        allow: Sequence[str] = ("*",),
        session_id: str | None = None,
        history: Sequence[tuple[str, str]] = (),
        limits: Mapping[str, int] | None = None,
        model: str | None = "claude-sonnet-4-5",
        prompt: Prompt | None = None,
        output: Output | None = None,
        **more: Any,
    ) -> TurnRequest:
        names = [tool.id for tool in tools] if tuple(allow) == ("*",) else allow
        return TurnRequest(
            request_id="r1",
            session_id=session_id,
            organization_id="o1",
            user_id="u1",
            message=message,
            history=tuple(
                HistoryEntry(seq=at // 2 + 1, role="user" if role == "user" else "assistant", content=text)
                for at, (role, text) in enumerate(history)
            ),
            config=SessionConfig(
                engine=EngineChoice(id="", model=model, auth=more.pop("auth", None)),
                prompt=prompt or Prompt(instructions="Be brief."),
                tools_allow=tuple(names),
                limits=Limits(**(limits or {})),
            ),
            idempotency_key="run1:node1",
            tools=Toolbox(tools),
            output=output or Output(),
            workdir=more.pop("workdir", self.work),
            **more,
        )

    def processes(self) -> list[int]:
        """Those that a program of ours left: every task of the host has its token in its environment."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdecimal():
                continue
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if str(self.root).encode() in environ and process_tree.is_alive(int(name)):
                found.append(int(name))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    home = tmp_path / "home"
    home.mkdir()
    return Bench(tmp_path, {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"})


@pytest.fixture
def heard() -> Heard:
    return Heard()


MakeEngine = Callable[[], CliEngine]
