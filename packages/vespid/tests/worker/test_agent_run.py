"""Loops in the gateway's mode: what they do, what is kept of them, and who goes on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.support.executor import ScriptedExecutor
from tests.support.gateways import Fleet
from tests.support.local_server import LocalServer
from tests.support.model_server import Fail, ModelServer, Say, Step, Tool, Wait, call_tools
from tests.support.organization import until

from vespid.engine_runner.service import EngineRunnerService
from vespid.settings import EngineRunnerSettings
from vespid.worker.service import WorkerService
from vespid_protocol.ids import OrgId

TOKEN = "engine-runner-token-of-this-test"
CANARY = "canary-5b1f0c9e77"
SETTINGS = {"tools": {"shellRunEnabled": True}}
HTTP = "connector.http.request"


class Scene:
    """An organization, a model that follows a script, and workers that reach it."""

    def __init__(self, fleet: Fleet, org: OrgId, model: ModelServer, runner: EngineRunnerService) -> None:
        self.fleet, self.org, self.model, self._runner = fleet, org, model, runner

    async def worker(self, **others: Any) -> WorkerService:
        settings = {
            "engine_runner_base_url": f"http://127.0.0.1:{self._runner.port}",
            "engine_runner_token": TOKEN,
            "egress_allow": ("127.0.0.1",),
            "process_lease_ms": 1_000,
            "process_renew_ms": 200,
        }
        return await self.fleet.worker(**(settings | others))

    async def run(self, *allow: str, beside: dict[str, Any] | None = None, **config: Any) -> str:
        """A run of one node that may use these tools."""
        secret = await self.fleet.secret(self.org, CANARY)
        engine = {"id": "vespid.loop.v1", "provider": "openai", "model": "m", "auth": {"secretId": secret}}
        fields = {"engine": engine, "prompt": {"instructions": "Do it."}, "tools": {"allow": list(allow)}}
        node = {"id": "n1", "type": "agent.run", "config": fields | config, "timeoutMs": 60_000} | (beside or {})
        return await self.fleet.ground.run(self.org, await self.fleet.ground.workflow(self.org, node))

    async def let_shells_run(self) -> None:
        await self.fleet.ground.sql.execute(
            "insert into org_settings (organization_id, settings) values ($1, $2::text::jsonb)",
            UUID(self.org),
            msgspec.json.encode(SETTINGS).decode(),
        )

    async def ended(self, run_id: str) -> "asyncpg.Record":
        await self.fleet.finished_run(run_id, within_s=30.0)
        row = await self.fleet.ground.sql.fetchrow(
            "select * from executions where run_id = $1 order by attempt desc limit 1", UUID(run_id)
        )
        assert row is not None
        return row

    async def output(self, run_id: str) -> dict[str, Any]:
        row = await self.ended(run_id)
        assert row["state"] == "succeeded", (row["error"], row["error_message"])
        return dict(msgspec.json.decode(row["output"]))

    async def told(self, run_id: str) -> list[dict[str, Any]]:
        """Remote events, as their readers see them."""
        events = await self.fleet.ground.events(run_id)
        return [msgspec.json.decode(event["payload"]) for event in events if event["event_type"] == "remote_event"]

    async def kinds(self, run_id: str) -> list[str]:
        return [event["kind"] for event in await self.told(run_id)]

    def results(self) -> list[str]:
        """What the model was told by tools, in its last call."""
        messages = self.model.requests[-1].body["messages"]
        return [message["content"] for message in messages if message["role"] == "tool"]

    async def held(self, run_id: str) -> "asyncpg.Record":
        return await self.fleet.ground.execution(f"{run_id}:n1:1")


@pytest.fixture
async def scene(fleet: Fleet, org: OrgId) -> AsyncIterator[Scene]:
    async with ModelServer(key=CANARY) as model:
        settings = EngineRunnerSettings(
            env="test", host="127.0.0.1", port=0, engine_runner_token=TOKEN, openai_base_url=model.openai_url
        )
        runner = EngineRunnerService(settings)
        await runner.start()
        yield Scene(fleet, org, model, runner)
        model.go_on()
        await runner.stop()


def get(url: str) -> Step:
    return call_tools(Tool("connector_http_request", {"method": "GET", "url": url}))


def shell(script: str = "echo hi") -> Step:
    return call_tools(Tool("shell_run", {"script": script}))


async def joined(scene: Scene) -> ScriptedExecutor:
    """An agent of the organization that does what the test says."""
    await scene.let_shells_run()
    return await scene.fleet.join(await scene.fleet.gateway(), await scene.fleet.ground.executor(scene.org))


ANSWER = {"backend": "host", "exitCode": 0, "timedOut": False, "stdout": "hi\n", "stderr": ""}


# --- what a loop does -------------------------------------------------------------------------------------------------


async def test_a_model_answers_and_its_words_are_told_meanwhile(scene: Scene) -> None:
    scene.model.will(Say("It is done.", pieces=4))
    await scene.worker()
    run = await scene.run()
    usage = {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18}
    assert await scene.output(run) == {
        "engineId": "vespid.loop.v1",
        "text": "It is done.",
        "provider": "openai",
        "model": "m",
        "stopReason": "stop",
        "usage": usage,
    }
    told = await scene.told(run)
    assert "".join(event["payload"]["text"] for event in told) == "It is done."
    assert {event["kind"] for event in told} == {"text_delta"}


async def test_a_connector_is_called_and_its_call_and_answer_are_told(scene: Scene, local: LocalServer) -> None:
    scene.model.will(get(f"{local.url}/echo"), Say("read"))
    await scene.worker()
    run = await scene.run(HTTP)
    assert (await scene.output(run))["text"] == "read"
    call, result = [event for event in await scene.told(run) if event["kind"] != "text_delta"]
    assert (call["kind"], call["payload"]["tool"], call["payload"]["arguments"]["method"]) == ("tool_call", HTTP, "GET")
    assert (result["kind"], result["payload"]["isError"], local.calls) == ("tool_result", False, 1)
    assert (await scene.held(run))["progress"] is None


async def test_echo_runs_in_the_gateway_too(scene: Scene) -> None:
    await scene.worker()
    run = await scene.run(engine={"id": "vespid.echo.v1"}, execution={"mode": "gateway"})
    assert await scene.output(run) == {"engineId": "vespid.echo.v1", "text": "Do it."}


async def test_a_model_that_cannot_be_had_fails_the_node_with_its_own_code(scene: Scene) -> None:
    scene.model.will(Fail(400, "no such model"))
    await scene.worker()
    row = await scene.ended(await scene.run())
    assert (row["state"], row["error"]) == ("failed", "OPENAI_REQUEST_FAILED:400")


async def test_a_loop_ends_with_the_time_of_its_node(scene: Scene) -> None:
    scene.model.will(Wait(Say("late")))
    await scene.worker()
    row = await scene.ended(await scene.run(beside={"timeoutMs": 600, "retry": {"maxAttempts": 1}}))
    assert (row["state"], row["error"]) == ("failed", "NODE_EXECUTION_TIMEOUT")


async def test_an_answer_larger_than_a_result_may_be_is_too_large(scene: Scene) -> None:
    scene.model.will(Say("x" * 5_000_000, pieces=1))
    await scene.worker()
    row = await scene.ended(await scene.run(limits={"maxOutputChars": 6_000_000}))
    assert (row["state"], row["error"]) == ("failed", "RESULT_TOO_LARGE")


async def test_a_call_that_people_have_to_allow_is_not_made_and_the_loop_is_put_away(
    scene: Scene, local: LocalServer
) -> None:
    scene.model.will(get(f"{local.url}/echo"))
    await scene.worker()
    rule = {"by": "owner", "timeoutMs": 60_000}
    run = await scene.run(tools={"allow": [HTTP], "approval": {"connector.*": rule}})

    async def put_away() -> Any:
        row = await scene.fleet.ground.sql.fetchrow(
            "select output from executions where run_id = $1 and error = 'APPROVAL_REQUIRED'", UUID(run)
        )
        return None if row is None else msgspec.json.decode(row["output"])

    output = await until(put_away, "the loop is put away", 20.0)
    (asked,) = output["approvals"]
    assert (asked["n"], asked["tool"], asked["arguments"]["method"], asked["by"]) == (0, HTTP, "GET", "owner")
    assert (output["loop"]["turns"], output["usage"]["totalTokens"], output["model"]) == (1, 18, "m")
    assert local.calls == 0


# --- tools on executors -----------------------------------------------------------------------------------------------


async def test_a_shell_runs_on_an_executor_under_the_key_of_its_call(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its end is told, and not only found.
    monkeypatch.setattr("vespid.dispatch.waiters.LOOK_S", 1_000.0)
    scene.model.will(shell(), Say("ran"))
    agent = await joined(scene)
    await scene.worker()
    run = await scene.run("shell.run", execution={"selector": {"pool": "byon"}})
    execute = await agent.next("execute")
    assert (execute["requestId"], execute["kind"]) == (f"{run}:n1:tool:0:1", "agent.execute")
    assert execute["payload"]["node"]["config"] == {"task": {"type": "shell", "script": "echo hi"}}
    await agent.result(execute, ANSWER)
    assert (await scene.output(run))["text"] == "ran"
    assert msgspec.json.decode(scene.results()[0])["stdout"] == "hi\n"
    await scene.fleet.given_back(scene.org)


async def test_how_a_command_ends_is_its_answer(scene: Scene) -> None:
    scene.model.will(shell("exit 3"), Say("it failed"))
    agent = await joined(scene)
    await scene.worker()
    run = await scene.run("shell.run")
    execute = await agent.next("execute")
    await agent.result(execute, ANSWER | {"exitCode": 3}, status="failed", error="HOST_EXIT_CODE:3")
    await scene.output(run)
    assert msgspec.json.decode(scene.results()[0])["exitCode"] == 3


async def test_a_skill_of_a_host_is_shown_to_the_model_and_called_there(scene: Scene) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tools = [{"id": "skill.add", "description": "Adds.", "inputSchema": schema}, {"id": "skill.other"}, {"bad": 1}]
    scene.model.will(call_tools(Tool("skill_add", {"a": 2})), Say("added"))
    agent = await joined(scene)
    await scene.fleet.ground.sql.execute(
        "update executors set capabilities = $1::text::jsonb", msgspec.json.encode({"tools": tools}).decode()
    )
    await scene.worker()
    run = await scene.run("skill.add")
    execute = await agent.next("execute")
    payload = execute["payload"]
    assert payload["node"]["config"]["task"] == {"type": "tool", "tool": "skill.add", "arguments": {"a": 2}, "n": 0}
    assert payload["effectiveToolsAllow"] == ["skill.add"]
    await agent.result(execute, {"tool": "skill.add", "content": "NO_LUCK: none today", "isError": True})
    await scene.output(run)
    assert scene.results() == ["NO_LUCK: none today"]
    (shown,) = scene.model.requests[0].body["tools"]
    assert (shown["function"]["name"], shown["function"]["description"]) == ("skill_add", "Adds.")


async def test_a_call_that_no_host_takes_is_told_to_the_model(scene: Scene) -> None:
    scene.model.will(shell(), Say("nobody"))
    await joined(scene)
    await scene.worker()
    selector = {"selector": {"tag": "nowhere"}, "schedule": {"onUnavailable": "fail"}}
    await scene.output(await scene.run("shell.run", execution=selector))
    assert scene.results()[0].startswith("NO_AGENT_AVAILABLE")


# --- who goes on ------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P12")
async def test_a_worker_that_stops_hands_its_loop_over_and_no_call_is_made_twice(
    scene: Scene, local: LocalServer
) -> None:
    scene.model.will(get(f"{local.url}/echo"), get(f"{local.url}/slow"), Say("both"))
    first = await scene.worker()
    run = await scene.run(HTTP)
    await asyncio.wait_for(local.called.wait(), 20)
    stopping = asyncio.ensure_future(first.stop())
    second = await scene.worker()
    local.let.set()
    await stopping
    scene.fleet._workers.remove(first)
    assert (await scene.output(run))["text"] == "both"
    row = await scene.held(run)
    assert (str(row["holder_process"]), row["attempt"], row["placements"]) == (second.house.process_id, 1, 1)
    assert (local.calls, len(scene.model.requests)) == (2, 3)
    assert (await scene.kinds(run)).count("tool_result") == 2
    assert len(scene.results()) == 2


@pytest.mark.promise("P12")
async def test_a_call_on_a_host_runs_on_when_its_loop_moves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vespid.worker.kept_turn.HAND_OVER_S", 0.1)
    scene.model.will(shell(), Say("ran once"))
    agent = await joined(scene)
    first = await scene.worker()
    run = await scene.run("shell.run")
    execute = await agent.next("execute")
    await first.stop()
    scene.fleet._workers.remove(first)
    await scene.worker()

    async def taken_up() -> bool:
        row = await scene.held(run)
        return row["lease_epoch"] == 2 and row["state"] == "dispatched"

    await until(taken_up, "another goes on", 20.0)
    await agent.result(execute, ANSWER)
    assert (await scene.output(run))["text"] == "ran once"
    await agent.settled()
    assert agent.unread("execute") == agent.unread("execute_cancel") == []
    assert len(scene.model.requests) == 2


@pytest.mark.promise("P2")
async def test_the_next_attempt_goes_on_from_the_last_one(scene: Scene, local: LocalServer) -> None:
    scene.model.will(get(f"{local.url}/echo"), *[Fail(503, "down")] * 3, Say("at last"))
    await scene.worker()
    run = await scene.run(HTTP, beside={"retry": {"maxAttempts": 2, "backoffMs": 0}})
    row = await scene.ended(run)
    assert (row["state"], row["attempt"], local.calls) == ("succeeded", 2, 1)
    assert len(scene.results()) == 1


@pytest.mark.promise("P4")
async def test_a_loop_whose_lease_is_somebody_elses_stops_and_writes_nothing(scene: Scene, local: LocalServer) -> None:
    scene.model.will(get(f"{local.url}/slow"), Say("mine"), Say("never"))
    await scene.worker()
    run = await scene.run(HTTP)
    await asyncio.wait_for(local.called.wait(), 20)
    other = await scene.fleet.ground.process("worker")
    await scene.fleet.ground.sql.execute(
        "update executions set holder_process = $1, lease_epoch = lease_epoch + 1 where run_id = $2",
        UUID(other),
        UUID(run),
    )
    told = await scene.kinds(run)
    local.let.set()
    worker = scene.fleet._workers[0]

    async def let_go() -> bool:
        return not worker.cloud.running

    await until(let_go, "the loop has stopped", 20.0)
    assert await scene.kinds(run) == told
    assert (await scene.held(run))["state"] == "dispatched"
    assert len(scene.model.requests) == 1


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_a_cancelled_run_cancels_what_its_loop_had_begun(scene: Scene) -> None:
    scene.model.will(shell("sleep 1000"))
    agent = await joined(scene)
    await scene.worker()
    run = await scene.run("shell.run")
    execute = await agent.next("execute")
    await scene.fleet.ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(scene.org), UUID(run))
    assert (await agent.next("execute_cancel"))["requestId"] == execute["requestId"]
    await agent.fail(execute, "NODE_EXECUTION_CANCELLED")
    assert (await scene.fleet.finished_run(run, 20.0))["status"] == "cancelled"
    await scene.fleet.given_back(scene.org)


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P7")
async def test_no_secret_of_engine_or_tools_is_kept_or_told(scene: Scene, local: LocalServer) -> None:
    token = "canary-of-a-connector-91c2"
    secret = await scene.fleet.secret(scene.org, token)
    look = Tool("connector_http_request", {"method": "GET", "url": f"{local.url}/echo?{CANARY}"})
    answer = Wait(Say(f"the key is {CANARY}, the token {token}", pieces=9))
    scene.model.will(call_tools(look, text=f"I know {token}. "), answer)
    await scene.worker()
    run = await scene.run(tools={"allow": [HTTP], "auth": {"http": {"secretId": secret}}})

    async def found() -> list[str]:
        rows = await scene.fleet.ground.sql.fetch(
            "select e::text as said from executions e union all select v::text from workflow_run_events v"
            " union all select r::text from workflow_runs r"
        )
        return [row["said"] for row in rows if CANARY in row["said"] or token in row["said"]]

    await asyncio.wait_for(scene.model.got(2), 20)
    assert (await scene.held(run))["progress"] is not None
    assert await found() == []
    scene.model.go_on()
    assert (await scene.output(run))["text"] == "the key is ***, the token ***"
    assert await found() == []
