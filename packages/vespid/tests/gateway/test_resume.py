"""What an agent is told of a node that was begun before."""

from typing import Any

import pytest
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import Fleet

from vespid_protocol.ids import OrgId

pytestmark = pytest.mark.usefixtures("fleet")


async def agent_of(fleet: Fleet, org: OrgId, **settings: Any) -> ScriptedExecutor:
    gateway = await fleet.gateway(**settings)
    await fleet.worker()
    return await fleet.join(gateway, await fleet.ground.executor(org))


async def started(fleet: Fleet, org: OrgId, **beside: Any) -> str:
    config = {
        "engine": {"id": "vespid.echo.v1"},
        "prompt": {"instructions": "x"},
        "execution": {"mode": "executor"},
    }
    node = {"id": "n1", "type": "agent.run", "config": config, "retry": {"maxAttempts": 3, "backoffMs": 0}, **beside}
    return await fleet.ground.run(org, await fleet.ground.workflow(org, node))


async def tell(agent: ScriptedExecutor, execute: Frame, *kinds: str, content: str = "done") -> None:
    payloads = {
        "tool_call": {"n": 0, "digest": "d", "callId": "c", "tool": "skill.a", "arguments": {}},
        "tool_result": {"n": 0, "callId": "c", "tool": "skill.a", "isError": False, "content": content},
        "text_delta": {"text": "hm"},
    }
    for seq, kind in enumerate(kinds):
        await agent.event(execute, seq, "skill.a", kind=kind, payload=payloads[kind])


async def lost(agent: ScriptedExecutor, execute: Frame, output: object = None) -> None:
    await agent.result(execute, output, status="failed", error="AGENT_DISCONNECTED")


async def test_the_first_attempt_is_told_nothing(fleet: Fleet, org: OrgId) -> None:
    agent = await agent_of(fleet, org)
    await started(fleet, org)
    payload = (await agent.next("execute"))["payload"]
    assert not {"resume", "prior"} & payload.keys()


@pytest.mark.promise("P2")
async def test_the_next_attempt_is_told_what_was_kept_and_what_was_called(fleet: Fleet, org: OrgId) -> None:
    agent = await agent_of(fleet, org)
    await started(fleet, org)
    first = await agent.next("execute")
    await tell(agent, first, "text_delta", "tool_call", "tool_result")
    await lost(agent, first, {"loop": {"turns": 2}})
    second = await agent.next("execute")
    assert second["requestId"].endswith(":n1:2")
    payload = second["payload"]
    assert payload["resume"] == {"turns": 2}
    assert [(event["kind"], event["level"], event["message"]) for event in payload["prior"]] == [
        ("tool_call", "info", "skill.a"),
        ("tool_result", "info", "skill.a"),
    ]
    assert payload["prior"][1]["payload"]["content"] == "done"


async def test_what_arrived_is_told_where_nothing_was_kept(fleet: Fleet, org: OrgId) -> None:
    agent = await agent_of(fleet, org)
    await started(fleet, org)
    first = await agent.next("execute")
    await tell(agent, first, "tool_call")
    await lost(agent, first)
    payload = (await agent.next("execute"))["payload"]
    assert "resume" not in payload
    assert [event["kind"] for event in payload["prior"]] == ["tool_call"]


async def test_a_result_that_was_cut_still_says_which_call_it_was_of(fleet: Fleet, org: OrgId) -> None:
    agent = await agent_of(fleet, org, remote_event_payload_max_chars=400)
    await started(fleet, org)
    first = await agent.next("execute")
    await tell(agent, first, "tool_call", "tool_result", content="x" * 5_000)
    await lost(agent, first)
    _call, result = (await agent.next("execute"))["payload"]["prior"]
    assert result["payload"]["truncated"] is True
    assert result["payload"]["preview"].startswith('{"n":0,')
