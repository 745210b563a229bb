"""Nodes that ask a model, on a whole agent: our own loop, real HTTP on both sides of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.support.model_server import Fail, ModelServer, Say, Tool, call_tools

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, Connection, FakeGateway
from vespid_agent.testing.payloads import decoded, prompt
from vespid_agent.testing.running import InProcessAgent
from vespid_protocol import frames as f

from .conftest import OWN_KEY, Desk

HTTP = "connector.http.request"
SECRET = "canary-7d1f0e9b44"


def output(result: f.ExecuteResult) -> dict[str, object]:
    assert result.status == "succeeded", result
    return decoded(result.output)


def events(link: Connection, request_id: str) -> list[tuple[str, dict[str, object]]]:
    """(kind, payload) in the order in which they came."""
    return [(frame.event.kind, decoded(frame.event.payload)) for frame in link.of(f.ExecuteEvent, request_id)]


async def test_model_answers_with_the_agents_own_key(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(Say("It is fine."))
    payload = prompt(
        "How is it?", config={"prompt": {"system": "Be brief.", "instructions": "Look.", "inputTemplate": "#4"}}
    )
    request = await gateway.dispatch("agent.run", payload)
    said = output(await gateway.result(request))
    assert said == {
        "engineId": "vespid.loop.v1",
        "text": "It is fine.",
        "provider": "openai",
        "model": "gpt-5",
        "stopReason": "stop",
        "usage": {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18},
    }
    (asked,) = model.requests
    assert asked.key == OWN_KEY
    assert [(each["role"], each["content"]) for each in asked.body["messages"]] == [
        ("system", "Be brief."),
        ("user", "Look.\n\n#4"),
    ]
    streamed = events(await gateway.link(), request)
    assert {kind for kind, _ in streamed} == {"text_delta"}
    assert "".join(str(payload["text"]) for _, payload in streamed) == "It is fine."


async def test_connector_is_called_with_its_secret_which_nobody_sees(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/ticket"), text="I look."), Say(f"Done, {SECRET}, {OWN_KEY}."))
    tools = {"allow": [HTTP], "auth": {"http": {"secretId": "s1"}}}
    payload = prompt("Read the ticket.", allow=[HTTP], config={"tools": tools})
    request = await gateway.dispatch("agent.run", payload, secrets={"s1": SECRET})
    said = output(await gateway.result(request))
    assert desk.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert said["text"] == "Done, ***, ***."
    link = await gateway.link()
    told = events(link, request)
    assert [kind for kind, _ in told] == ["text_delta", "tool_call", "tool_result", "text_delta"]
    assert told[1][1]["tool"] == HTTP
    assert "/ticket" in str(told[2][1]["content"])
    everything = msgspec.json.encode(link.frames) + b"".join(path.read_bytes() for path in agent.home.glob("journal*"))
    assert SECRET.encode() not in everything
    assert OWN_KEY.encode() not in everything
    # The desk says which key it was shown, and the model is told that without it too.
    assert "Bearer ***" in str(model.requests[1].body)
    assert SECRET not in str(model.requests[1].body)


async def test_calls_of_one_reply_are_made_side_by_side(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/slow/a"), desk.get("/slow/b")), Say("Both."))
    request = await gateway.dispatch("agent.run", prompt("Both?", allow=[HTTP]))
    await desk.until("/slow/a", "/slow/b")
    desk.let.set()
    assert output(await gateway.result(request))["text"] == "Both."


async def test_cancel_in_mid_call_ends_the_call(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/slow/a")))
    request = await gateway.dispatch("agent.run", prompt("Go.", allow=[HTTP]))
    await desk.until("/slow/a")
    await (await gateway.link()).send(f.ExecuteCancel(request_id=request, reason="user"))
    result = await gateway.result(request)
    assert (result.status, result.error) == ("failed", "NODE_EXECUTION_CANCELLED")
    assert result.output is msgspec.UNSET
    await desk.until("left /slow/a")


async def test_tool_that_is_not_allowed_is_told_so_and_so_is_the_user(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/ticket")), Say("Then not."))
    request = await gateway.dispatch("agent.run", prompt("Go.", config={"tools": {"allow": [HTTP]}}))
    assert output(await gateway.result(request))["text"] == "Then not."
    assert desk.calls == []
    refused = (await gateway.link()).of(f.ExecuteEvent, request)[1].event
    assert (refused.kind, refused.level, refused.message) == ("tool_result", "warn", f"TOOL_NOT_ALLOWED:{HTTP}")


async def test_without_an_effective_list_the_nodes_own_holds(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/ticket")), Say("Read."))
    payload = prompt("Go.", config={"tools": {"allow": [HTTP]}})
    del payload["effectiveToolsAllow"]
    await gateway.run("agent.run", payload)
    assert desk.calls == ["/ticket"]


async def test_answer_that_is_to_be_json_is_json(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(Say("Six."), Say('{"n": 6}'))
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    payload = prompt("How many?", config={"output": {"mode": "json", "jsonSchema": schema}})
    said = output(await gateway.run("agent.run", payload))
    assert (said["json"], "text" in said) == ({"n": 6}, False)
    assert said["usage"] == {"inputTokens": 22, "outputTokens": 14, "totalTokens": 36}


async def test_what_fails_says_its_code_and_what_it_took(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/ticket")), Fail(401))
    result = await gateway.run("agent.run", prompt("Go.", allow=[HTTP]))
    assert (result.status, result.error) == ("failed", "OPENAI_REQUEST_FAILED:401")
    usage = {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18}
    assert decoded(result.output) == {"usage": usage, "provider": "openai", "model": "gpt-5"}


async def test_node_ends_within_its_own_time(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, desk: Desk
) -> None:
    model.will(call_tools(desk.get("/slow/a")))
    payload = prompt("Go.", allow=[HTTP], config={"limits": {"timeoutMs": 300}})
    result = await gateway.run("agent.run", payload)
    assert result.error == "NODE_EXECUTION_TIMEOUT"
    await desk.until("left /slow/a")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"engine": {"id": 5}}, "$.node.config.engine.id"),
        ({"limits": {"maxTurns": 0}}, "$.node.config.limits.maxTurns"),
        ({"output": {"mode": "xml"}}, "$.node.config.output.mode"),
        ({"tools": {"allow": "all"}}, "$.node.config.tools.allow"),
        ({"tools": {"approval": {"a": {"by": "anyone"}}}}, "$.node.config.tools.approval"),
        ({"engine": {"id": "vespid.echo.v1"}, "tools": {"approval": {"a": {}}}}, "$.node.config.tools.approval"),
    ],
)
async def test_payload_of_a_bad_shape_is_refused_by_its_field(
    gateway: FakeGateway, agent: InProcessAgent, config: dict[str, object], field: str
) -> None:
    result = await gateway.run("agent.run", prompt("Go.", config=config))
    assert result.error == "INVALID_EXECUTE_PAYLOAD"
    assert field in str(result.error_message)


async def test_engine_that_is_not_here_is_named_with_those_that_are(
    gateway: FakeGateway, agent: InProcessAgent
) -> None:
    result = await gateway.run("agent.run", prompt("Go.", config={"engine": {"id": "acme.engine.v1"}}))
    assert result.error == "EXECUTOR_UNSUPPORTED_ENGINE"
    assert "acme.engine.v1" in str(result.error_message)
    assert "vespid.loop.v1, vespid.echo.v1" in str(result.error_message)


@pytest.mark.parametrize(
    ("managed", "secret", "key"),
    [("off", None, None), ("on", None, OWN_KEY), ("off", "sk-of-the-tenant-1", "sk-of-the-tenant-1")],
)
async def test_managed_agent_pays_for_nobody_unless_it_is_told_to(
    gateway: FakeGateway,
    tmp_path: Path,
    settings: AgentSettings,
    model: ModelServer,
    managed: str,
    secret: str | None,
    key: str | None,
) -> None:
    told = msgspec.structs.replace(settings, managed_model_keys=managed)
    running = InProcessAgent(gateway, tmp_path, told, pool="managed")
    await running.start()
    try:
        model.will(Say("Yes."))
        result = await gateway.run("agent.run", prompt("May I?"), secret=secret)
        assert [asked.key for asked in model.requests] == ([] if key is None else [key])
        assert result.error == ("LLM_AUTH_NOT_CONFIGURED" if key is None else None)
    finally:
        await running.stop()


async def test_managed_agent_calls_no_tool_beyond_its_ceiling(
    gateway: FakeGateway, tmp_path: Path, settings: AgentSettings, model: ModelServer, desk: Desk
) -> None:
    told = msgspec.structs.replace(settings, managed_model_keys="on")
    running = InProcessAgent(gateway, tmp_path, told, pool="managed")
    await running.start()
    try:
        model.will(call_tools(desk.get("/ticket")), Say("Then not."))
        request = await gateway.dispatch("agent.run", prompt("Go.", allow=[HTTP]))
        assert output(await gateway.result(request))["text"] == "Then not."
        assert desk.calls == []
        assert (await gateway.link()).of(f.ExecuteEvent, request)[1].event.message == f"TOOL_NOT_ALLOWED:{HTTP}"
    finally:
        await running.stop()


def remember(content: str, **more: object) -> Tool:
    return Tool("memory_write", {"path": "MEMORY.md", "content": content, **more})


def of_workflow(family: str, **more: object) -> dict[str, object]:
    return prompt("Go.", allow=["memory.*"], workflowId="w", familyId=family, **more)


async def recalled(gateway: FakeGateway, model: ModelServer, family: str) -> str:
    """What a run of this workflow is told that reads its memory."""
    model.will(call_tools(Tool("memory_get", {"path": "MEMORY.md"})), Say("Read."))
    assert output(await gateway.result(await gateway.dispatch("agent.run", of_workflow(family))))["text"] == "Read."
    return str(model.requests[-1].body["messages"][-1]["content"])


async def test_what_a_run_remembers_the_workflows_next_run_finds_and_no_other_does(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(call_tools(remember("The build is flaky.")), Say("Noted."))
    assert output(await gateway.result(await gateway.dispatch("agent.run", of_workflow("f1"))))["text"] == "Noted."
    assert "The build is flaky." in await recalled(gateway, model, "f1")
    assert "there is no such document" in await recalled(gateway, model, "f2")


async def test_secret_is_masked_in_what_a_node_remembers(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(call_tools(remember(f"It is {SECRET}, by {OWN_KEY}.")), Say("Noted."))
    await gateway.result(await gateway.dispatch("agent.run", of_workflow("f1"), secrets={"s1": SECRET}))
    assert "It is ***, by ***." in await recalled(gateway, model, "f1")
    everything = b"".join(path.read_bytes() for path in agent.home.rglob("*") if path.is_file())
    assert SECRET.encode() not in everything


async def test_write_that_is_called_again_under_its_key_is_made_once(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    for attempt in (1, 2):  # the second knows nothing of the first, as after a crash before anything was kept
        model.will(call_tools(remember("once")), Say("Noted."))
        request = await gateway.dispatch("agent.run", of_workflow("f1"), request_id=f"{RUN_ID}:n:{attempt}")
        await gateway.result(request)
    assert "once\\nonce" not in (told := await recalled(gateway, model, "f1"))
    assert "once" in told


async def test_node_of_no_workflow_has_no_memory(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(call_tools(Tool("memory_search", {"query": "x"})), Say("No memory here."))
    request = await gateway.dispatch("agent.run", prompt("Go.", allow=["memory.*"]))
    await gateway.result(request)
    assert (await gateway.link()).of(f.ExecuteEvent, request)[1].event.message == "UNKNOWN_TOOL"


@pytest.mark.parametrize("is_on", [True, False])
async def test_shell_runs_where_the_organization_lets_it(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer, tmp_path: Path, is_on: bool
) -> None:
    model.will(call_tools(Tool("shell_run", {"script": "echo > made; echo $VESPID_IDEMPOTENCY_KEY"})), Say("Done."))
    settings = {"tools": {"shellRunEnabled": is_on}}
    payload = prompt("Go.", allow=["shell.run"], organizationSettings=settings)
    request = await gateway.dispatch("agent.run", payload, request_id=f"{RUN_ID}:n:3")
    assert output(await gateway.result(request))["text"] == "Done."
    told = str(model.requests[1].body["messages"][-1])
    assert (tmp_path / "work" / RUN_ID / "n" / "made").exists() is is_on
    assert (f"{RUN_ID}:n:tool:0" in told, "TOOL_POLICY_DENIED:shell.run" in told) == (is_on, not is_on)
