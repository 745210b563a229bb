"""What the runs of a workflow remember, on real processes: on the host of a node, and in the gateway's mode."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.support.model_server import ModelServer, Say, Tool, call_tools
from tests.support.organization import Organization
from tests.support.processes import Processes

KEY = "sk-canary-of-a-tenant-3e5c90d1"
FACT = "The staging deploy needs a warm cache."
QUICK = {"WORKFLOW_CONTINUATION_POLL_MS": "200", "WORKFLOW_RETRY_ATTEMPTS": "1"}


class House:
    """An installation whose model follows a script."""

    def __init__(self, processes: Processes, model: ModelServer) -> None:
        self.processes, self.model = processes, model

    async def organization(self, http: aiohttp.ClientSession) -> Organization:
        """One with an agent of its own."""
        organization = await Organization.sign_up(self.processes, http)
        await organization.pair(OPENAI_BASE_URL=self.model.openai_url)
        return organization

    async def workflow(self, organization: Organization, mode: str) -> str:
        body = {"connectorId": "openai", "name": secrets.token_hex(6), "value": KEY}
        made = await organization.call("POST", "/v1/orgs/{org}/secrets", body, status=201)
        engine = {"id": "vespid.loop.v1", "provider": "openai", "model": "m"}
        config = {
            "engine": engine | {"auth": {"secretId": made.body["secret"]["id"]}},
            "prompt": {"instructions": "Do your work."},
            "tools": {"allow": ["memory.*"]},
            "execution": {"mode": mode},
        }
        node = {"id": "n1", "type": "agent.run", "timeoutMs": 60_000, "config": config}
        return str((await organization.publish(node))["workflow"]["id"])

    async def run(self, organization: Organization, workflow_id: str, *calls: Tool) -> list[dict[str, Any]]:
        """A run whose model makes these calls, one after the other; what they answered, as events tell it."""
        self.model.will(*(call_tools(call) for call in calls), Say("Done."))
        run_id = await organization.start_run(workflow_id)
        run = await organization.finished(workflow_id, run_id, within_s=60)
        assert (run["status"], run["error"]) == ("succeeded", None)
        told = [event["payload"] for event in await organization.events(workflow_id, run_id)]
        return [event["payload"] for event in told if event and event.get("kind") == "tool_result"]


@pytest.fixture
async def house(processes: Processes) -> AsyncIterator[House]:
    async with ModelServer(key=KEY) as model:
        processes.env |= QUICK | {"OPENAI_BASE_URL": model.openai_url}
        await asyncio.gather(*(processes.start(name) for name in ("api", "gateway", "engine-runner", "worker")))
        yield House(processes, model)


@pytest.mark.promise("P5", "P7")
async def test_a_later_run_finds_what_one_remembered_and_neither_another_workflow_nor_another_organization_does(
    house: House,
) -> None:
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as others_http,
    ):
        mine, theirs = await house.organization(http), await house.organization(others_http)
        write = Tool("memory_write", {"path": "memory/deploys.md", "content": f"{FACT} By {KEY}."})
        search = Tool("memory_search", {"query": "deploy cache"})
        for mode in ("gateway", "executor"):
            workflow = await house.workflow(mine, mode)
            await house.run(mine, workflow, write)
            published = f"/v1/orgs/{{org}}/workflows/{workflow}"
            draft = await mine.call("POST", f"{published}/drafts", {}, status=201)
            revision = draft.body["workflow"]["id"]
            await mine.call("POST", f"/v1/orgs/{{org}}/workflows/{revision}/publish", {}, status=200)

            (found,) = await house.run(mine, revision, search)
            assert f"{FACT} By ***." in found["content"], mode
            for organization in (mine, theirs):
                (nothing,) = await house.run(organization, await house.workflow(organization, mode), search)
                assert '"results":[]' in nothing["content"], mode

            listed = await mine.call("GET", f"/v1/orgs/{{org}}/memory/docs?workflowId={revision}", status=200)
            assert [doc["path"] for doc in listed.body["docs"]] == ["memory/deploys.md"] * (mode == "gateway")
