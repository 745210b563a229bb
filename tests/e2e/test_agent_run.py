"""A node and a session that ask a model, on a real agent, through HTTP: our own loop with the agent's own key."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tests.support.chat import Chat
from tests.support.local_server import LocalServer
from tests.support.model_server import ModelServer, Say, Tool, call_tools
from tests.support.organization import Organization, until

LOOP = "vespid.loop.v1"
HTTP = "connector.http.request"
OWN_KEY = "sk-own-3f9a1c77d2"


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(key=OWN_KEY) as server:
        yield server


@pytest.fixture
async def tickets() -> AsyncIterator[LocalServer]:
    """What connectors call: it says how often it was."""
    server = LocalServer()
    app = web.Application()
    app.router.add_get("/ticket", server.echo)
    app.router.add_get("/slow", server.slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.port).start()
    yield server
    await runner.cleanup()


def prompt(instructions: str, **config: object) -> dict[str, object]:
    made = {
        "engine": {"id": LOOP, "provider": "openai", "model": "gpt-5"},
        "prompt": {"instructions": instructions},
        "tools": {"allow": [HTTP]},
        "execution": {"mode": "executor"},
        **config,
    }
    return {"id": "n1", "type": "agent.run", "config": made, "timeoutMs": 60_000}


async def test_a_node_asks_its_agents_model_and_the_model_uses_a_connector(
    organization: Organization, model: ModelServer, tickets: LocalServer
) -> None:
    await organization.pair(OPENAI_API_KEY=OWN_KEY, OPENAI_BASE_URL=model.openai_url)
    read = Tool("connector_http_request", {"method": "GET", "url": f"{tickets.url}/ticket"})
    model.will(call_tools(read, text="I read it."), Say('{"priority": "high"}'))
    schema = {"type": "object", "required": ["priority"]}
    node = prompt("Read {{ input.ticket }}.", output={"mode": "json", "jsonSchema": schema})
    workflow = (await organization.publish(node))["workflow"]
    run_id = await organization.start_run(workflow["id"], {"ticket": "#4"})
    run = await organization.finished(workflow["id"], run_id, within_s=60)

    assert (run["status"], run["error"]) == ("succeeded", None)
    assert run["output"]["steps"][0]["output"] == {
        "engineId": LOOP,
        "json": {"priority": "high"},
        "provider": "openai",
        "model": "gpt-5",
        "stopReason": "stop",
        "usage": {"inputTokens": 22, "outputTokens": 14, "totalTokens": 36},
    }
    assert tickets.calls == 1
    assert "Read #4." in str(model.requests[0].body)
    streamed = [
        event["payload"]
        for event in await organization.events(workflow["id"], run_id)
        if event["eventType"] == "remote_event"
    ]
    assert [event["kind"] for event in streamed][:3] == ["text_delta", "tool_call", "tool_result"]
    assert streamed[1]["payload"]["tool"] == HTTP
    assert '"n":1' in streamed[2]["payload"]["content"].replace(" ", "").replace("\\", "")


async def test_a_session_is_answered_on_its_host_and_remembers(organization: Organization, model: ModelServer) -> None:
    await organization.pair(OPENAI_API_KEY=OWN_KEY, OPENAI_BASE_URL=model.openai_url)
    chat = await Chat.begin(
        organization,
        engine={"id": LOOP, "provider": "openai", "model": "gpt-5"},
        engineId=LOOP,
        tools={"allow": ["memory.get", "memory.write"]},
    )
    write = Tool("memory_write", {"path": "MEMORY.md", "content": "Ann likes tea."})
    model.will(call_tools(write), Say("Noted."))
    answer = await chat.answer(await chat.say("I like tea."))
    assert (answer["eventType"], answer["payload"]["message"]) == ("agent_final", "Noted.")
    kinds = [event["eventType"] for event in await chat.events()]
    assert kinds == ["session_created", "user_message", "tool_call", "tool_result", "agent_final"]

    model.will(call_tools(Tool("memory_get", {"path": "MEMORY.md"})), Say("Tea."))
    await chat.answer(await chat.say("What do I like?"))
    assert "Ann likes tea." in str(model.requests[-1].body)


async def test_a_sessions_commands_follow_the_organizations_setting_at_once(
    organization: Organization, model: ModelServer
) -> None:
    await organization.pair(OPENAI_API_KEY=OWN_KEY, OPENAI_BASE_URL=model.openai_url)
    engine = {"id": LOOP, "provider": "openai", "model": "gpt-5"}
    chat = await Chat.begin(organization, engine=engine, engineId=LOOP, tools={"allow": ["shell.run"]})
    for enabled, said in ((True, "from a command 7"), (False, "TOOL_NOT_ALLOWED:shell.run")):
        setting = {"tools": {"shellRunEnabled": enabled}}
        await organization.call("PUT", "/v1/orgs/{org}/settings", setting, status=200)

        async def is_followed(said: str = said) -> bool:
            model.will(call_tools(Tool("shell_run", {"script": "echo from a command $((3 + 4))"})), Say("Done."))
            await chat.answer(await chat.say("Run it."))
            return said in str(model.requests[-1].body["messages"][-1])

        await until(is_followed, f"the setting {enabled} is followed")


@pytest.mark.promise("P1")
async def test_an_agent_killed_in_mid_call_goes_on_after_its_restart_and_repeats_no_call_that_finished(
    organization: Organization, model: ModelServer, tickets: LocalServer
) -> None:
    keys = {"OPENAI_API_KEY": OWN_KEY, "OPENAI_BASE_URL": model.openai_url}
    process, _ = await organization.pair(**keys)
    urls = [f"{tickets.url}{path}" for path in ("/ticket", "/slow")]
    model.will(*(call_tools(Tool("connector_http_request", {"method": "GET", "url": url})) for url in urls))
    workflow = (await organization.publish(prompt("Do both.", tools={"allow": [HTTP]})))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await tickets.called.wait()
    assert tickets.calls == 2

    await process.kill()
    tickets.let.set()
    model.will(Say("Both are done."))
    await organization.restart_agent(**keys)
    run = await organization.finished(workflow["id"], run_id, within_s=90)
    assert (run["status"], run["error"]) == ("succeeded", None)
    assert run["output"]["steps"][0]["output"]["text"] == "Both are done."
    # The ticket was read once, the call that had not finished was made again, and no answer of the model's was lost.
    assert tickets.calls == 3
    assert len(model.requests) == 3
