"""The real Claude Code and Codex against a stand-in for their providers."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.model_server import Asked, Fail, Midway, ModelServer, Say, Step, Tool, Wait, call_tools

from vespid_agent.engines.turn import CliEngine
from vespid_protocol.codes import Code
from vespid_runtime.engines.config import Auth, Output, Prompt
from vespid_runtime.engines.engine import EngineError

from .conftest import KEY, Bench, Heard, Notes, Shell, Stuck

pytestmark = pytest.mark.clis


@dataclass
class Real:
    """One program, and how its provider is told to call tools of ours."""

    name: str
    engine: CliEngine
    server: ModelServer
    # Of the configuration that it goes by without any environment of ours.
    home: Path

    def call(self, tool: str, arguments: dict[str, Any]) -> Tool:
        if self.name == "claude":
            return Tool(f"mcp__vespid__{tool}", arguments)
        return Tool(tool, arguments, namespace="mcp__vespid")

    def offered(self, asked: Asked) -> set[str]:
        """What the model was offered."""
        return {tool.get("name") or tool["type"] for tool in asked.body.get("tools", [])}

    def shown(self, asked: Asked) -> str:
        """All that the model was given."""
        return json.dumps(
            {"system": asked.body.get("system"), "said": asked.body.get("messages", asked.body.get("input"))}
        )


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture(params=["claude", "codex"])
def real(request: pytest.FixtureRequest, bench: Bench, server: ModelServer) -> Real:
    program = request.getfixturevalue(f"{request.param}_program")
    home = Path(bench.environment["HOME"])
    if request.param == "claude":
        more = {"ANTHROPIC_BASE_URL": server.origin, "ANTHROPIC_API_KEY": KEY, "CLAUDE_CODE_MAX_RETRIES": "0"}
        return Real("claude", bench.claude(program, **more), server, home)
    write_codex_settings(home, server)
    return Real("codex", bench.codex(program, STAND_IN_KEY=KEY), server, home)


def write_codex_settings(home: Path, server: ModelServer) -> None:
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        f"""
        model_provider = "stand-in"
        notify = ["touch", "{home}/notified"]
        [model_providers.stand-in]
        name = "stand-in"
        base_url = "{server.openai_url}"
        env_key = "STAND_IN_KEY"
        wire_api = "responses"
        request_max_retries = 0
        stream_max_retries = 0
        [mcp_servers.theirs]
        command = "sh"
        args = ["-c", "touch {home}/started"]
        """
    )


async def test_a_text_turn_is_answered_and_streamed(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Say("Hello, this is the whole answer."))
    answer = await real.engine.turn(bench.request("say hello", prompt=Prompt(system="CANARY-SYSTEM")), heard)
    assert answer.content == heard.text == "Hello, this is the whole answer."
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert answer.payload is not None
    assert answer.payload["stopReason"] == "stop"
    (asked,) = real.server.requests
    assert asked.key == KEY
    assert asked.body["model"] == "claude-sonnet-4-5"
    assert "CANARY-SYSTEM" in real.shown(asked)
    assert "say hello" in real.shown(asked)
    assert heard.events == []
    assert bench.processes() == []
    # Nothing of the turn is left but what the program itself remembers.
    assert list((bench.root / "engines" / "turns").iterdir()) == []
    assert list((bench.root / "engines").glob("codex/turn-*")) == []


async def test_a_tool_of_ours_is_called_and_told(real: Real, bench: Bench, heard: Heard) -> None:
    notes = Notes()
    real.server.will(call_tools(real.call("memory_search", {"query": "life"}), text="Let me look. "), Say("It is 42."))
    answer = await real.engine.turn(bench.request(tools=[notes]), heard)
    assert answer.content == "It is 42."
    ((arguments, use),) = notes.calls
    assert arguments == {"query": "life"}
    assert (use.n, use.key) == (0, "run1:node1:tool:0")
    assert [kind for kind, *_ in heard.events] == ["tool_call", "tool_result"]
    (called,), (result,) = heard.told("tool_call"), heard.told("tool_result")
    assert (called["n"], called["tool"], called["arguments"]) == (0, "memory.search", {"query": "life"})
    assert called["callId"] == result["callId"]
    assert (result["isError"], result["content"]) == (False, "the note says 42")
    assert "the note says 42" in real.shown(real.server.requests[1])


async def test_the_model_is_offered_nothing_that_is_not_allowed(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Say("done"))
    await real.engine.turn(bench.request(tools=[Notes(), Shell()], allow=["memory.search"]), heard)
    offered = real.offered(real.server.requests[0])
    if real.name == "claude":
        assert offered == {"mcp__vespid__memory_search"}
    else:
        # What is left lists the resources of MCP servers, of which ours has none, and asks a user who is not there.
        lists = {"list_mcp_resources", "list_mcp_resource_templates", "read_mcp_resource", "request_user_input"}
        assert offered - lists == {"mcp__vespid"}


async def test_a_tool_that_is_not_allowed_is_refused_and_told(real: Real, bench: Bench, heard: Heard) -> None:
    shell = Shell()
    (bench.work / "note.txt").write_text("CANARY-FILE")
    forbidden = (
        [Tool("Bash", {"command": "touch ran"}), Tool("Read", {"file_path": str(bench.work / "note.txt")})]
        if real.name == "claude"
        else [Tool("exec_command", {"cmd": "touch ran"}), Tool("shell", {"command": ["touch", "ran"]})]
    )
    real.server.will(call_tools(*forbidden, real.call("shell_run", {"script": "id"})), Say("I cannot."))
    answer = await real.engine.turn(
        bench.request("hi @note.txt", tools=[Notes(), shell], allow=["memory.search"]), heard
    )
    assert answer.content == "I cannot."
    assert shell.calls == []
    assert not (bench.work / "ran").exists()
    assert not any("CANARY-FILE" in real.shown(asked) for asked in real.server.requests)
    if real.name == "claude":
        refused = [payload for payload in heard.told("tool_result") if payload.get("refused")]
        assert {payload["content"] for payload in refused} == {"TOOL_NOT_ALLOWED:shell.run"}


async def test_who_may_run_commands_may_use_the_files_of_its_folder(real: Real, bench: Bench, heard: Heard) -> None:
    shell = Shell("uid=1000")
    (bench.work / "note.txt").write_text("CANARY-FILE")
    (bench.root / "secret.txt").write_text("CANARY-OUTSIDE")
    files = (
        [
            Tool("Read", {"file_path": str(bench.work / "note.txt")}),
            Tool("Read", {"file_path": str(bench.root / "secret.txt")}),
            Tool("Bash", {"command": "touch ran"}),
        ]
        if real.name == "claude"
        else [Tool("exec_command", {"cmd": "touch ran"})]
    )
    real.server.will(call_tools(*files, real.call("shell_run", {"script": "id"})), Say("Read."))
    await real.engine.turn(bench.request(tools=[shell]), heard)
    shown = real.shown(real.server.requests[1])
    assert "uid=1000" in shown
    assert len(shell.calls) == 1
    assert not (bench.work / "ran").exists()
    if real.name == "claude":
        assert "CANARY-FILE" in shown
        assert "CANARY-OUTSIDE" not in shown
        read = heard.told("tool_call")[0]
        assert (read["tool"], read["cliTool"]) == ("shell.run", "Read")


async def test_cancelling_leaves_no_process(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Wait(Say("too late")))
    turn = asyncio.create_task(real.engine.turn(bench.request(), heard))
    await asyncio.wait_for(real.server.waiting.wait(), 30)
    assert bench.processes() != []
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert bench.processes() == []
    assert list((bench.root / "engines" / "turns").iterdir()) == []


async def test_cancelling_ends_a_tool_that_is_at_work(real: Real, bench: Bench, heard: Heard) -> None:
    stuck = Stuck()
    real.server.will(call_tools(real.call("memory_search", {"query": "x"})))
    turn = asyncio.create_task(real.engine.turn(bench.request(tools=[stuck]), heard))
    await asyncio.wait_for(stuck.called.wait(), 30)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert stuck.cancelled.is_set()
    assert bench.processes() == []


async def test_the_second_turn_of_a_session_resumes_the_conversation(real: Real, bench: Bench, heard: Heard) -> None:
    notes = Notes()
    real.server.will(
        call_tools(real.call("memory_search", {"query": "one"})), Say("first answer"), Say("second answer")
    )
    first = await real.engine.turn(bench.request("first", session_id="s1", tools=[notes]), heard)
    said = [("user", "first"), ("assistant", first.content)]
    second = await real.engine.turn(bench.request("second", session_id="s1", tools=[notes], history=said), heard)
    assert second.content == "second answer"
    shown = real.shown(real.server.requests[-1])
    # Only the program itself knows what its tools answered.
    assert "the note says 42" in shown
    assert "<conversation>" not in shown
    assert second.usage is not None
    assert (second.usage.input_tokens, second.usage.output_tokens) == (11, 7)


async def test_a_history_that_another_host_made_is_told_as_text(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Say("first answer"), Say("third answer"))
    await real.engine.turn(bench.request("first", session_id="s1"), heard)
    said = [("user", "first"), ("assistant", "first answer"), ("user", "second"), ("assistant", "said elsewhere")]
    answer = await real.engine.turn(bench.request("third", session_id="s1", history=said), heard)
    assert answer.content == "third answer"
    shown = real.shown(real.server.requests[-1])
    assert "<conversation>" in shown
    assert "said elsewhere" in shown


async def test_a_conversation_that_is_gone_is_told_as_text(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Say("first answer"), Say("second answer"))
    await real.engine.turn(bench.request("first", session_id="s1"), heard)
    for kept in (*real.home.rglob("*.jsonl"), *(bench.root / "engines" / "codex").rglob("*.jsonl")):
        kept.unlink()
    said = [("user", "first"), ("assistant", "first answer")]
    answer = await real.engine.turn(bench.request("second", session_id="s1", history=said), heard)
    assert answer.content == "second answer"
    assert "<conversation>" in real.shown(real.server.requests[-1])


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([Fail(401, "that key is not known")] * 3, "401"),
        ([Fail(400, "that cannot be asked")] * 3, "that cannot be asked"),
        ([Fail(500, "it broke")] * 3, ""),
        ([Midway(Say("Half of an answer that never ends"), "cut")] * 3, ""),
    ],
    ids=["401", "400", "500", "cut"],
)
async def test_a_provider_that_fails_is_named(
    real: Real, bench: Bench, heard: Heard, steps: list[Step], reason: str
) -> None:
    real.server.will(*steps)
    with pytest.raises(EngineError) as raised:
        await real.engine.turn(bench.request(), heard)
    assert raised.value.code == Code.EXECUTOR_CLI_FAILED
    assert raised.value.message
    assert reason in raised.value.message


async def test_turns_without_end_are_ended(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(*[call_tools(real.call("memory_search", {"query": "again"}))] * 12)
    request = bench.request(tools=[Notes()], limits={"max_turns": 3, "max_tool_calls": 8})
    with pytest.raises(EngineError) as raised:
        await real.engine.turn(request, heard)
    # Codex does not say when it asks its model: what bounds it is how often it calls tools.
    assert raised.value.code == (Code.AGENT_MAX_TURNS if real.name == "claude" else Code.AGENT_MAX_TOOL_CALLS)
    assert bench.processes() == []


async def test_json_that_does_not_fit_is_mended(real: Real, bench: Bench, heard: Heard) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    real.server.will(Say("Here it is: 3"), Say('```json\n{"a": 3}\n```'))
    answer = await real.engine.turn(bench.request(output=Output(mode="json", json_schema=schema)), heard)
    assert answer.value == {"a": 3}
    assert heard.deltas == []
    assert "That is not the answer that is wanted" in real.shown(real.server.requests[1])
    assert "Here it is: 3" in real.shown(real.server.requests[1])
    assert answer.usage is not None
    assert answer.usage.input_tokens == 22


async def test_a_key_that_the_turn_brings_is_used_and_written_nowhere(real: Real, bench: Bench, heard: Heard) -> None:
    real.server.will(Say("with another key"))
    auth = Auth(kind="api_key", api_key="CANARY-KEY-OF-THE-TURN")
    await real.engine.turn(bench.request(auth=auth, session_id="s1"), heard)
    assert real.server.requests[0].key == "CANARY-KEY-OF-THE-TURN"
    written = [path for path in bench.root.rglob("*") if path.is_file() and b"CANARY-KEY-OF" in path.read_bytes()]
    assert written == []


async def test_nothing_of_the_users_settings_takes_part(real: Real, bench: Bench, heard: Heard) -> None:
    hooks = {"UserPromptSubmit": [{"hooks": [{"type": "command", "command": f"touch {real.home}/hooked"}]}]}
    for folder in (real.home / ".claude", bench.work / ".claude"):
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({"hooks": hooks, "permissions": {"allow": ["Bash(*)"]}}))
    real.server.will(call_tools(Tool("Bash", {"command": "touch ran"})), Say("done"))
    await real.engine.turn(bench.request(tools=[Notes()]), heard)
    made = {name for name in ("hooked", "notified", "started") if (real.home / name).exists()}
    assert made == set()
    assert not (bench.work / "ran").exists()
