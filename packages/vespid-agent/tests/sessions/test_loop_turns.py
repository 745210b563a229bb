"""Session turns answered by our own loop, on the session's host: its memory, its folder, its tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anthropic  # noqa: F401  (seconds that the first turn would take otherwise)
import msgspec
import pytest
from tests.support.model_server import ModelServer, Say, Tool, Wait, call_tools

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded
from vespid_agent.testing.running import InProcessAgent
from vespid_agent.testing.talk import Talk
from vespid_protocol import frames as f

OWN_KEY = "sk-own-3f9a1c77d2"


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def agent(gateway: FakeGateway, tmp_path: Path, model: ModelServer) -> AsyncIterator[InProcessAgent]:
    settings = AgentSettings(drain_ms=0, anthropic_api_key=OWN_KEY, anthropic_base_url=model.origin)
    running = InProcessAgent(gateway, tmp_path, settings, {"ANTHROPIC_API_KEY": OWN_KEY})
    await running.start()
    yield running
    await running.stop()


def talk(gateway: FakeGateway, **config: object) -> Talk:
    made = Talk(gateway, engine="vespid.loop.v1", **config)
    engine = {"id": "vespid.loop.v1", "provider": "anthropic", "model": "claude-sonnet-5"}
    made.config = {**made.config, "engine": engine}
    return made


WRITE = Tool("memory_write", {"path": "MEMORY.md", "content": "Ann likes tea."})


async def test_what_the_model_remembers_in_one_turn_it_finds_in_the_next(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    conversation = talk(gateway, toolsAllow=["memory.*"])
    model.will(call_tools(WRITE, text="Noted."), Say("I will remember."))
    end = await conversation.say("I like tea.")
    assert isinstance(end, f.TurnFinal), end
    assert end.content == "I will remember."
    payload = decoded(end.payload)
    (document,) = msgspec.convert(payload["memory"], list[dict[str, object]])
    assert (document["path"], document["content"]) == ("MEMORY.md", "Ann likes tea.")
    assert payload["usage"] == {"inputTokens": 22, "outputTokens": 14, "totalTokens": 36}
    events = [frame.event for frame in (await gateway.link()).of(f.TurnEvent)]
    assert [event.kind for event in events] == ["tool_call", "tool_result"]
    assert {asked.key for asked in model.requests} == {OWN_KEY}

    model.will(call_tools(Tool("memory_search", {"query": "tea"})), Say("Tea."))
    await conversation.say("What do I like?")
    assert "Ann likes tea." in str(model.requests[-1].body)
    # What was said in the turn before, too.
    assert "I will remember." in str(model.requests[-1].body)


async def test_what_a_failed_turn_remembered_is_forgotten(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    conversation = talk(gateway, toolsAllow=["memory.*"], limits={"maxTurns": 2})
    model.will(call_tools(WRITE), call_tools(WRITE))
    end = await conversation.say("I like tea.")
    assert isinstance(end, f.TurnError)
    assert end.code == "AGENT_MAX_TURNS"
    model.will(call_tools(Tool("memory_get", {"path": "MEMORY.md"})), Say("Nothing."))
    await conversation.say("What do I like?")
    assert "Ann likes tea." not in str(model.requests[-1].body["messages"][-1])


async def test_tool_that_the_session_does_not_allow_is_not_called(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    model.will(call_tools(WRITE), Say("Then not."))
    await talk(gateway, toolsAllow=["memory.search"]).say("I like tea.")
    refused = (await gateway.link()).of(f.TurnEvent)[1].event
    assert refused.message == "TOOL_NOT_ALLOWED:memory.write"


async def test_command_is_run_only_while_the_organization_lets_models_run_any(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    conversation = talk(gateway, toolsAllow=["shell.run"])
    for may_run, said in ((True, "from a command 7"), (False, "TOOL_NOT_ALLOWED:shell.run")):
        conversation.may_run_shell = may_run
        model.will(call_tools(Tool("shell_run", {"script": "echo from a command $((3 + 4))"})), Say("Done."))
        await conversation.say("Run it.")
        assert said in str(model.requests[-1].body["messages"][-1])


async def test_session_of_an_earlier_try_repeats_no_call_that_finished(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    conversation = talk(gateway, toolsAllow=["memory.*"])
    model.will(call_tools(WRITE), Say("I will remember."))
    await conversation.opened(await conversation.open())
    await gateway.turn_end(await conversation.turn("I like tea."))
    told = [frame.event for frame in (await gateway.link()).of(f.TurnEvent)]
    prior = [{"kind": event.kind, "level": event.level, "payload": decoded(event.payload)} for event in told]

    model.will(call_tools(WRITE), Say("Again."))
    end = await gateway.turn_end(await conversation.turn("I like tea.", epoch=2, prior=prior))
    assert isinstance(end, f.TurnFinal), end
    assert end.content == "Again."
    again = [frame.event for frame in (await gateway.link()).of(f.TurnEvent)][len(told) :]
    assert again == []


async def test_v1_gateway_is_told_the_answer_and_no_tool_events(tmp_path: Path, model: ModelServer) -> None:
    async with FakeGateway(v2=False) as base:
        settings = AgentSettings(drain_ms=0, anthropic_api_key=OWN_KEY, anthropic_base_url=model.origin)
        running = InProcessAgent(base, tmp_path, settings)
        await running.start()
        try:
            model.will(call_tools(WRITE), Say("I will remember."))
            end = await talk(base, toolsAllow=["memory.*"]).say("I like tea.")
            assert isinstance(end, f.TurnFinal), end
            assert end.content == "I will remember."
            assert (await base.link()).of(f.TurnEvent) == []
        finally:
            await running.stop()


async def test_cancelled_turn_hangs_up_on_the_model(
    gateway: FakeGateway, agent: InProcessAgent, model: ModelServer
) -> None:
    conversation = talk(gateway)
    model.will(Wait(Say("Too late.")))
    await conversation.opened(await conversation.open())
    request = await conversation.turn("Well?")
    await model.waiting.wait()
    await conversation.cancel(request)
    end = await gateway.turn_end(request)
    assert isinstance(end, f.TurnError)
    assert end.code == "TURN_CANCELLED"
    await model.left.wait()
