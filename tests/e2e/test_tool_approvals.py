"""Calls of tools that a person has to allow, from outside: each is made once if it was allowed, and never if not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.support.local_server import LocalServer
from tests.support.model_server import ModelServer, Say, Tool, call_tools
from tests.support.organization import Organization, until
from tests.support.processes import Processes

KEY = "sk-canary-of-a-tenant-77aa10be"
SOON = {
    "VESPID_PROCESS_LEASE_MS": "1500",
    "VESPID_PROCESS_RENEW_MS": "300",
    "WORKFLOW_CONTINUATION_POLL_MS": "200",
    "WORKFLOW_RETRY_ATTEMPTS": "1",
    "VESPID_EGRESS_ALLOW": "127.0.0.1",
}


class Scene:
    """An installation, a model that follows a script, and a server that an agent wants to call."""

    def __init__(self, organization: Organization, model: ModelServer, local: LocalServer) -> None:
        self.organization, self.model, self.local = organization, model, local
        self.workflow_id = ""
        self.run_id = ""

    async def start(self, *, rule: dict[str, object] | None = None, mode: str = "gateway") -> None:
        made = await self.organization.call(
            "POST", "/v1/orgs/{org}/secrets", {"connectorId": "openai", "name": "key", "value": KEY}, status=201
        )
        engine = {"id": "vespid.loop.v1", "provider": "openai", "model": "m"}
        config = {
            "engine": engine | {"auth": {"secretId": made.body["secret"]["id"]}},
            "prompt": {"instructions": "Look, then do."},
            "tools": {"allow": ["connector.http.request"], "approval": {"connector.*": rule or {}}},
            "execution": {"mode": mode},
        }
        node = {"id": "n1", "type": "agent.run", "timeoutMs": 60_000, "config": config}
        self.workflow_id = (await self.organization.publish(node))["workflow"]["id"]
        self.run_id = await self.organization.start_run(self.workflow_id)

    def call(self, path: str) -> Tool:
        return Tool("connector_http_request", {"method": "GET", "url": f"{self.local.url}/{path}"})

    async def waiting(self, count: int) -> list[dict[str, Any]]:
        """What waits for people, in the order of the calls, in full."""

        async def asked() -> list[dict[str, Any]]:
            path = f"/v1/orgs/{{org}}/approvals?status=pending&runId={self.run_id}"
            found = (await self.organization.call("GET", path, status=200)).body["approvals"]
            return list(found) if len(found) == count else []

        found = sorted(await until(asked, f"{count} calls wait"), key=lambda each: int(each["n"]))
        path = "/v1/orgs/{org}/approvals/"
        shown = [await self.organization.call("GET", path + each["id"], status=200) for each in found]
        return [answer.body["approval"] for answer in shown]

    async def decide(self, asked: dict[str, Any], verdict: str, **more: str) -> None:
        path = f"/v1/orgs/{{org}}/approvals/{asked['id']}/{verdict}"
        await self.organization.call("POST", path, {"hash": asked["hash"], **more}, status=200)

    async def answer(self) -> dict[str, Any]:
        run = await self.organization.finished(self.workflow_id, self.run_id)
        assert run["status"] == "succeeded", run
        return dict(run["output"]["steps"][0]["output"])


@pytest.fixture
async def scene(processes: Processes) -> AsyncIterator[Scene]:
    local = LocalServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", local.echo)
    site = web.AppRunner(app, shutdown_timeout=0.1)
    await site.setup()
    await web.TCPSite(site, "127.0.0.1", local.port).start()
    async with ModelServer(key=KEY) as model, aiohttp.ClientSession() as http:
        processes.env |= SOON | {"OPENAI_BASE_URL": model.openai_url}
        await asyncio.gather(*(processes.start(name) for name in ("api", "gateway", "worker", "engine-runner")))
        yield Scene(await Organization.sign_up(processes, http), model, local)
    await site.cleanup()


@pytest.mark.promise("P1", "P2")
async def test_a_call_is_made_when_it_was_allowed_and_the_model_is_told_of_one_that_was_not(scene: Scene) -> None:
    scene.model.will(call_tools(scene.call("first"), scene.call("second")), Say("done"))
    await scene.start()
    first, second = await scene.waiting(2)
    assert (first["tool"], first["what"]["arguments"]["url"]) == ("connector.http.request", f"{scene.local.url}/first")
    assert scene.local.calls == 0

    processes = scene.organization.processes
    names = ("api", "gateway", "worker", "engine-runner")
    await asyncio.gather(*(process.kill() for name in names for process in processes.running(name)))
    await asyncio.gather(*(processes.start(name) for name in names))

    await scene.decide(first, "approve")
    assert scene.local.calls == 0
    await scene.decide(second, "deny", comment="not that one")
    assert (await scene.answer())["text"] == "done"
    assert scene.local.calls == 1
    # The model was asked twice: nothing that it had said was asked for again.
    assert len(scene.model.requests) == 2
    told = str(scene.model.requests[1].body)
    assert "APPROVAL_DENIED" in told
    assert "not that one" in told


async def test_a_call_that_nobody_allowed_in_time_is_told_to_the_model(scene: Scene) -> None:
    scene.model.will(call_tools(scene.call("first")), Say("without it, then"))
    await scene.start(rule={"timeoutMs": 1_000})
    assert (await scene.answer())["text"] == "without it, then"
    assert "APPROVAL_EXPIRED" in str(scene.model.requests[1].body)
    assert scene.local.calls == 0


async def test_each_round_asks_for_itself(scene: Scene) -> None:
    scene.model.will(call_tools(scene.call("a")), call_tools(scene.call("b")), Say("both"))
    await scene.start()
    for number in (0, 1):
        (asked,) = await scene.waiting(1)
        assert asked["n"] == number
        await scene.decide(asked, "approve")
    assert (await scene.answer())["text"] == "both"
    assert scene.local.calls == 2
    assert len(scene.model.requests) == 3


@pytest.mark.promise("P1", "P2")
async def test_an_agent_that_died_while_people_thought_goes_on_with_what_they_decided(scene: Scene) -> None:
    env = {"OPENAI_BASE_URL": scene.model.openai_url, "VESPID_EGRESS_ALLOW": "127.0.0.1"}
    env |= {"VESPID_AGENT_EGRESS_ALLOW": "127.0.0.1"}
    agent, _ = await scene.organization.pair(**env)
    scene.model.will(call_tools(scene.call("first"), scene.call("second")), Say("done"))
    await scene.start(mode="executor")
    first, second = await scene.waiting(2)
    await agent.kill()
    await scene.decide(first, "approve")
    await scene.decide(second, "deny", comment="not that one")
    await scene.organization.restart_agent(**env)
    assert (await scene.answer())["text"] == "done"
    assert scene.local.calls == 1
    assert len(scene.model.requests) == 2
    assert "not that one" in str(scene.model.requests[1].body)
