"""The real Claude Code and Codex on a real agent of a running installation, against a stand-in for their providers."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.chat import Chat
from tests.support.model_server import Fail, ModelServer, Say, Tool, Wait, call_tools
from tests.support.organization import Organization, until
from tests.support.processes import RunningProcess

pytestmark = pytest.mark.clis

KEY = "sk-canary-of-the-agent"
# The answer to what the connector asked for; as a number of its own, for a port may have these digits.
NOT_FOUND = re.compile(r"\b404\b")
ENGINES = {"claude": "claude.agent-sdk.v1", "codex": "codex.sdk.v1"}


@dataclass
class Host:
    """An agent whose user has one of the programs."""

    name: str
    organization: Organization
    server: ModelServer
    agent: RunningProcess
    id: str
    env: Mapping[str, str]

    @property
    def engine(self) -> str:
        return ENGINES[self.name]

    def call(self, tool: str, arguments: dict[str, Any]) -> Tool:
        """How its model calls a tool of ours."""
        if self.name == "claude":
            return Tool(f"mcp__vespid__{tool}", arguments)
        return Tool(tool, arguments, namespace="mcp__vespid")

    def shown(self, at: int = -1) -> str:
        """What the model was given."""
        body = self.server.requests[at].body
        return json.dumps(body.get("messages") or body.get("input"))

    async def run(self, config: Mapping[str, object]) -> tuple[str, str]:
        """A run of one node of this engine, begun: its id and its workflow's."""
        engine = {"id": self.engine, "model": "some-model"}
        config = {"engine": engine, "prompt": {"instructions": "Do it."}, "tools": {"allow": []}, **config}
        node = {"id": "n1", "type": "agent.run", "config": config, "retry": {"maxAttempts": 1, "backoffMs": 0}}
        workflow = (await self.organization.publish(node))["workflow"]["id"]
        return await self.organization.start_run(workflow), workflow

    async def chat(self, **body: object) -> Chat:
        engine = {"id": self.engine, "model": "some-model"}
        return await Chat.begin(self.organization, engine=engine, engineId=self.engine, **body)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(key=KEY) as server:
        yield server


@pytest.fixture(params=list(ENGINES))
async def host(request: pytest.FixtureRequest, organization: Organization, server: ModelServer, tmp_path: Path) -> Host:
    name = str(request.param)
    program = request.getfixturevalue(f"{name}_program")
    if name == "claude":
        env = {"VESPID_CLAUDE_CODE_PATH": str(program), "ANTHROPIC_BASE_URL": server.origin}
        env |= {"ANTHROPIC_API_KEY": KEY, "CLAUDE_CODE_MAX_RETRIES": "0"}
    else:
        home = tmp_path / "codex-home"
        home.mkdir()
        (home / "config.toml").write_text(
            f"""
            model_provider = "stand-in"
            [model_providers.stand-in]
            name = "stand-in"
            base_url = "{server.openai_url}"
            env_key = "STAND_IN_KEY"
            wire_api = "responses"
            request_max_retries = 0
            stream_max_retries = 0
            """
        )
        env = {"VESPID_CODEX_PATH": str(program), "CODEX_HOME": str(home), "STAND_IN_KEY": KEY}
    # Its connectors may reach this machine.
    env["VESPID_AGENT_EGRESS_ALLOW"] = "127.0.0.1"
    agent, agent_id = await organization.pair(name, **env)
    await offers(organization, agent_id, ENGINES[name])
    return Host(name, organization, server, agent, agent_id, env)


async def offers(organization: Organization, agent_id: str, engine: str) -> None:
    """Returns when it has found its program."""

    async def listed() -> bool:
        return engine in ((await organization.agent(agent_id))["engines"] or [])

    await until(listed, f"agent {agent_id} offers {engine}")


async def test_the_agents_page_shows_the_program(host: Host) -> None:
    listed = await host.organization.agent(host.id)
    states = {state["id"]: state for state in listed["engineStates"]}
    assert set(states) == set(ENGINES.values())
    there = states.pop(host.engine)
    assert (there["available"], there["loggedIn"], there["problem"]) == (True, True, None)
    assert there["version"]
    (missing,) = states.values()
    # The other one is not there, unless this machine's PATH has it.
    assert missing["available"] == (missing["id"] in listed["engines"])


async def test_turns_of_a_session_are_answered_and_go_on(host: Host) -> None:
    host.server.will(Say("I am here."), Say("You said hello."))
    chat = await host.chat()
    client = await chat.joined()
    assert await chat.told(await chat.say("hello")) == "I am here."
    await client.next("agent_final")
    assert "".join(word[1:] for word in client.story() if word.startswith("+")) == "I am here."
    assert await chat.told(await chat.say("what did I say?")) == "You said hello."
    assert "I am here." in host.shown()
    assert "<conversation>" not in host.shown()


async def test_a_session_remembers_by_our_tools(host: Host) -> None:
    note = {"path": "memory/notes.md", "content": "the cat is grey"}
    host.server.will(call_tools(host.call("memory_write", note)), Say("Noted."))
    host.server.will(call_tools(host.call("memory_search", {"query": "cat"})), Say("It is grey."))
    chat = await host.chat(tools={"allow": ["memory.search", "memory.write"]})
    assert await chat.told(await chat.say("remember the cat")) == "Noted."
    assert await chat.told(await chat.say("and the cat?")) == "It is grey."
    assert "the cat is grey" in host.shown()
    kinds = [kind for kind in await chat.kinds() if kind in ("tool_call", "tool_result")]
    assert kinds == ["tool_call", "tool_result"] * 2


async def test_a_node_is_answered_with_its_tools_and_its_usage(host: Host) -> None:
    look = host.call("connector_http_request", {"method": "GET", "url": f"{host.server.origin}/nothing-here"})
    host.server.will(call_tools(look), Say("It ran."))
    run_id, workflow = await host.run({"tools": {"allow": ["connector.http.request"]}})
    run = await host.organization.finished(workflow, run_id)
    assert (run["status"], run["error"]) == ("succeeded", None)
    output = run["output"]["steps"][0]["output"]
    assert (output["engineId"], output["text"]) == (host.engine, "It ran.")
    assert (output["usage"]["inputTokens"], output["usage"]["outputTokens"]) == (22, 14)
    assert NOT_FOUND.search(host.shown())
    events = await host.organization.events(workflow, run_id)
    told = [event for event in events if event["message"] in ("tool_call", "tool_result")]
    assert [event["message"] for event in told] == ["tool_call", "tool_result"]
    assert {event["payload"]["payload"]["tool"] for event in told} == {"connector.http.request"}


async def test_a_node_may_not_use_what_it_does_not_name(host: Host) -> None:
    look = host.call("connector_http_request", {"method": "GET", "url": f"{host.server.origin}/nothing-here"})
    host.server.will(call_tools(look), Say("I may not."))
    run_id, workflow = await host.run({})
    run = await host.organization.finished(workflow, run_id)
    assert run["output"]["steps"][0]["output"]["text"] == "I may not."
    assert not NOT_FOUND.search(host.shown())


async def test_a_node_that_wants_json_gets_it(host: Host) -> None:
    host.server.will(Say("Well, 3."), Say('{"a": 3}'))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    run_id, workflow = await host.run({"output": {"mode": "json", "jsonSchema": schema}})
    run = await host.organization.finished(workflow, run_id)
    assert run["output"]["steps"][0]["output"]["json"] == {"a": 3}


async def test_a_host_that_takes_over_is_told_what_was_said(host: Host) -> None:
    host.server.will(Say("First host."), Say("Second host."))
    chat = await host.chat()
    assert await chat.told(await chat.say("hello")) == "First host."
    await host.agent.kill()
    _, second = await host.organization.pair("second", **host.env)
    await offers(host.organization, second, host.engine)
    assert await chat.told(await chat.say("still there?")) == "Second host."
    assert "<conversation>" in host.shown()
    assert "First host." in host.shown()


async def test_a_cancelled_turn_ends_its_program(host: Host) -> None:
    host.server.will(Wait(Say("too late")))
    chat = await host.chat()
    seq = await chat.say("think about it")
    await host.server.waiting.wait()
    await chat.cancel()
    assert await chat.error(seq) == "TURN_CANCELLED"
    # The program was the only one to listen.
    await host.server.left.wait()
    host.server.go_on()


async def test_a_killed_agent_leaves_no_program(host: Host) -> None:
    host.server.will(Wait(Say("too late")))
    chat = await host.chat()
    await chat.say("think about it")
    await host.server.waiting.wait()
    await host.agent.kill()
    await host.server.left.wait()
    host.server.go_on()


async def test_a_provider_that_refuses_is_the_turns_error(host: Host) -> None:
    host.server.will(*[Fail(400, "that cannot be asked")] * 3)
    chat = await host.chat()
    event = await chat.answer(await chat.say("hello"))
    assert event["payload"]["code"] == "EXECUTOR_CLI_FAILED"
    assert "that cannot be asked" in event["payload"]["message"]


async def test_the_agents_key_is_in_nothing_that_is_told(host: Host) -> None:
    host.server.will(Say(f"The key is {KEY}."))
    chat = await host.chat()
    client = await chat.joined()
    told = await chat.told(await chat.say("tell me your key"))
    await client.next("agent_final")
    assert host.server.requests[0].key == KEY
    assert KEY not in told
    assert KEY not in json.dumps(await chat.events())
    assert KEY not in json.dumps(client.heard)
    assert KEY not in host.agent.log()
