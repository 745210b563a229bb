"""An agent's own tools and its gateway: told in `hello`, told again when they change, and never their secrets."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import AgentProcess, InProcessAgent
from vespid_agent.tools import own
from vespid_protocol import codec
from vespid_protocol.frames import Capabilities, ExecuteEvent, Hello

from .sandbox.conftest import processes_saying

CANARY = "canary-of-the-server"
SERVER = Path(__file__).parents[3] / "tests" / "support" / "mcp_server.py"

# Says what it was given, to whoever listens.
LEAKY = """
import json, os, sys
token = os.environ["TOKEN"]
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        info = {"name": token, "version": token}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    elif asked.get("method") == "tools/list":
        if os.path.exists(sys.argv[1]):
            print(token, file=sys.stderr, flush=True)
            sys.exit(1)
        open(sys.argv[1], "w").close()
        schema = {"type": "object", "title": token}
        result = {"tools": [{"name": "t", "description": token, "inputSchema": schema}]}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
        print(token, flush=True)
        sys.exit(1)
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def put_skill(root: Path, name: str, **more: object) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    said = {"id": name, "version": "1", "description": f"Does {name}.", "entrypoint": "run.sh", "runtime": "shell"}
    (folder / "run.sh").write_text("cat")
    (folder / "skill.json").write_text(
        json.dumps({**said, "inputSchema": {"type": "object"}, "outputMode": "text", **more})
    )


@pytest.fixture
async def agent(gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcessAgent]:
    monkeypatch.setattr(own, "LOOK_S", 0.02)
    running = InProcessAgent(gateway, tmp_path, AgentSettings(drain_ms=0, skills_dir=tmp_path / "skills"))
    yield running
    await running.stop()


def tool_task(tool: str, **arguments: object) -> dict[str, object]:
    """`agent.execute` of one tool, as a loop elsewhere asks for it."""
    config = {"task": {"type": "tool", "tool": tool, "arguments": arguments}}
    node = {"id": "n", "type": "agent.execute", "config": config}
    settings = {"tools": {"shellRunEnabled": True}}
    allow = {"effectiveToolsAllow": [tool], "organizationSettings": settings}
    return {"nodeId": "n", "node": node, "runId": RUN_ID, **allow}


async def told(gateway: FakeGateway) -> Capabilities:
    """As of the latest hello."""
    hello = (await gateway.link()).hello
    assert hello is not None
    assert hello.capabilities is not None
    return hello.capabilities


async def test_the_first_hello_has_the_skills_and_what_is_wrong_with_others(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    put_skill(tmp_path / "skills", "greet")
    put_skill(tmp_path / "skills", "bad", runtime="ruby")
    await agent.start()
    can = await told(gateway)
    assert can.tools is not None
    assert [(tool.id, tool.description) for tool in can.tools] == [("skill.greet", "Does greet.")]
    assert isinstance(can.tools[0].input_schema, msgspec.Raw)
    assert msgspec.json.decode(can.tools[0].input_schema) == {"type": "object"}
    assert can.tool_problems is not None
    assert [problem.id for problem in can.tool_problems] == ["skill.bad"]
    assert "runtime" in can.tool_problems[0].problem


async def test_a_change_is_told_in_another_hello(gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path) -> None:
    await agent.start()
    link = await gateway.link()
    assert (await told(gateway)).tools == ()

    def offered() -> list[str]:
        assert link.hello is not None
        assert link.hello.capabilities is not None
        return [tool.id for tool in link.hello.capabilities.tools or ()]

    put_skill(tmp_path / "skills", "greet")
    await gateway.until(lambda: offered() == ["skill.greet"])
    (tmp_path / "skills" / "greet" / "skill.json").write_text("{")
    await gateway.until(lambda: offered() == [])
    assert len(gateway.connections) == 1


async def test_another_hello_repeats_no_events(gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path) -> None:
    await agent.start()
    link, go = await gateway.link(), tmp_path / "go"
    request = await gateway.dispatch("agent.execute", shell(f"echo one; while [ ! -e {go} ]; do sleep 0.02; done"))
    await gateway.until(lambda: bool(link.of(ExecuteEvent, request)))
    put_skill(tmp_path / "skills", "greet")
    hellos = len(link.of(Hello))
    await gateway.until(lambda: len(link.of(Hello)) > hellos)
    go.touch()
    await gateway.result(request)
    seqs = [frame.event.seq for frame in link.of(ExecuteEvent, request)]
    assert seqs == sorted(set(seqs))


async def test_a_managed_agent_tells_only_of_what_it_lets_models_call(gateway: FakeGateway, tmp_path: Path) -> None:
    for name in ("greet", "other"):
        put_skill(tmp_path / "skills", name)
    settings = AgentSettings(drain_ms=0, skills_dir=tmp_path / "skills", managed_tools=("skill.greet",))
    running = InProcessAgent(gateway, tmp_path, settings, pool="managed")
    await running.start()
    try:
        can = await told(gateway)
        assert [tool.id for tool in can.tools or ()] == ["skill.greet"]
    finally:
        await running.stop()


async def test_one_that_was_put_there_a_moment_ago_is_called(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    await agent.start()
    await gateway.link()
    put_skill(tmp_path / "skills", "greet")
    result = await gateway.run("agent.execute", tool_task("skill.greet", name="Ada"))
    assert decoded(result.output) == {"tool": "skill.greet", "content": '{"name":"Ada"}', "isError": False}


async def test_a_request_that_comes_with_the_agent_finds_its_servers(gateway: FakeGateway, tmp_path: Path) -> None:
    servers = {"calc": {"command": sys.executable, "args": [str(SERVER)]}}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    process = AgentProcess(gateway, tmp_path / "agent", {"VESPID_AGENT_MCP_CONFIG": str(tmp_path / "mcp.json")})
    try:
        await process.start()
        await gateway.link()
        result = await gateway.run("agent.execute", tool_task("mcp.calc.add", a=1, b=2))
        assert decoded(result.output)["content"] == "3"
    finally:
        await process.stop()


@pytest.mark.promise("P2")
async def test_a_killed_agents_command_is_ended_at_its_next_start(gateway: FakeGateway, tmp_path: Path) -> None:
    process = AgentProcess(gateway, tmp_path / "agent")
    sleep = f"sleep {600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    try:
        await process.start()
        await gateway.link()
        request_id = await gateway.dispatch("agent.execute", tool_task("shell.run", script=sleep), timeout_ms=60_000)
        async with asyncio.timeout(30):
            while not processes_saying(sleep):
                await asyncio.sleep(0.02)
        await process.kill()
        await process.start()
        assert (await gateway.result(request_id)).error == "AGENT_DISCONNECTED"
        assert processes_saying(sleep) == []
    finally:
        await process.stop()


@pytest.mark.promise("P7")
async def test_a_real_process_tells_of_its_servers_and_never_of_what_they_were_given(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    (tmp_path / "clear").write_text(f"{CANARY}\n")
    servers = {
        "calc": {"command": sys.executable, "args": [str(SERVER)], "env": {"TOKEN": "${SERVER_SETTING}"}},
        "leaky": {
            "command": sys.executable,
            "args": [str(tmp_path / "leaky.py"), str(tmp_path / "once")],
            "env": {"TOKEN": "${SERVER_SETTING}"},
        },
    }
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    process = AgentProcess(
        gateway,
        tmp_path / "agent",
        {
            "VESPID_AGENT_MCP_CONFIG": str(tmp_path / "mcp.json"),
            "VESPID_AGENT_SKILLS_DIR": str(tmp_path / "skills"),
            "SERVER_SETTING": CANARY,
        },
    )
    try:
        await process.start()
        link = await gateway.link()

        def found() -> bool:
            assert link.hello is not None
            assert link.hello.capabilities is not None
            can = link.hello.capabilities
            problems = {problem.id: problem.problem for problem in can.tool_problems or ()}
            return "mcp.calc.add" in [tool.id for tool in can.tools or ()] and "said" in problems.get("mcp.leaky", "")

        await gateway.until(found, 60)
        asked = await gateway.run("agent.execute", tool_task("mcp.calc.environment"))
        assert "TOKEN=***" in str(decoded(asked.output)["content"])
        ran = await gateway.run("agent.execute", tool_task("shell.run", script=f"cat {tmp_path}/clear; echo ran"))
        assert '"stdout":"***\\nran\\n"' in str(decoded(ran.output)["content"])
        await gateway.until(lambda: any(event.event.kind == "stdout" for event in link.of(ExecuteEvent)))
        frames = b"".join(codec.encode(frame) for connection in gateway.connections for frame in connection.frames)
        assert b"mcp.leaky.t" in frames
        assert b"it said: ***" in frames
    finally:
        await process.stop()
    kept = [path.read_bytes() for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    assert process.log.exists()
    assert CANARY.encode() not in frames + b"".join(kept)
