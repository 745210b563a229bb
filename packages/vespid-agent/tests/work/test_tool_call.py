"""A tool of this host, called for a loop that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import decoded
from vespid_agent.testing.running import InProcessAgent
from vespid_protocol import frames as f

from .conftest import Desk

HTTP = "connector.http.request"
CALL = f"{RUN_ID}:n:tool:4:1"


def call(tool: str, arguments: object, *, allow: list[str] | None = None, **tools: object) -> dict[str, object]:
    """`agent.execute` as the server makes it for a call."""
    task = {"type": "tool", "tool": tool, "arguments": arguments, "n": 4}
    node = {"id": "n", "type": "agent.execute", "config": {"task": task, "tools": tools}}
    return {"nodeId": "n", "node": node, "runId": RUN_ID, "effectiveToolsAllow": allow if allow is not None else [tool]}


def answer(result: f.ExecuteResult) -> dict[str, object]:
    assert result.status == "succeeded", result
    return decoded(result.output)


async def test_tool_answers_as_it_would_answer_a_model(gateway: FakeGateway, agent: InProcessAgent, desk: Desk) -> None:
    payload = call(HTTP, desk.get("/ticket").arguments, auth={"http": {"secretId": "s1"}})
    result = await gateway.run("agent.execute", payload, request_id=CALL, secrets={"s1": "canary-7d1f0e9b44"})
    said = answer(result)
    assert (said["tool"], said["isError"]) == (HTTP, False)
    assert desk.headers[0]["Authorization"] == "Bearer canary-7d1f0e9b44"
    assert "Bearer ***" in str(said["content"])


@pytest.mark.parametrize(
    ("tool", "arguments", "allow", "told"),
    [
        (HTTP, {"method": "GET", "url": "http://127.0.0.1:9/"}, ["memory.*"], f"TOOL_NOT_ALLOWED:{HTTP}"),
        (HTTP, {"method": "GET"}, None, "INVALID_TOOL_ARGUMENTS: "),
        ("skill.none", {}, None, "UNKNOWN_TOOL: "),
    ],
)
async def test_what_is_wrong_with_a_call_is_its_answer(
    gateway: FakeGateway, agent: InProcessAgent, tool: str, arguments: object, allow: list[str] | None, told: str
) -> None:
    said = answer(await gateway.run("agent.execute", call(tool, arguments, allow=allow), request_id=CALL))
    assert said["isError"] is True
    assert str(said["content"]).startswith(told)


async def test_managed_agent_keeps_its_ceiling(
    gateway: FakeGateway, tmp_path: Path, settings: AgentSettings, desk: Desk
) -> None:
    running = InProcessAgent(gateway, tmp_path, settings, pool="managed")
    await running.start()
    try:
        said = answer(await gateway.run("agent.execute", call(HTTP, desk.get("/x").arguments), request_id=CALL))
        assert said == {"tool": HTTP, "content": f"TOOL_NOT_ALLOWED:{HTTP}", "isError": True}
        assert desk.calls == []
    finally:
        await running.stop()


async def test_cancelled_call_ends(gateway: FakeGateway, agent: InProcessAgent, desk: Desk) -> None:
    await gateway.dispatch("agent.execute", call(HTTP, desk.get("/slow/x").arguments), request_id=CALL)
    await desk.until("/slow/x")
    await (await gateway.link()).send(f.ExecuteCancel(request_id=CALL, reason="user"))
    assert (await gateway.result(CALL)).error == "NODE_EXECUTION_CANCELLED"
    await desk.until("left /slow/x")


async def test_task_of_a_bad_shape_is_refused_by_its_field(gateway: FakeGateway, agent: InProcessAgent) -> None:
    result = await gateway.run("agent.execute", call(HTTP, [1]), request_id=CALL)
    assert result.error == "INVALID_EXECUTE_PAYLOAD"
    assert "$.node.config.task.arguments" in str(result.error_message)
    assert result.output is msgspec.UNSET
