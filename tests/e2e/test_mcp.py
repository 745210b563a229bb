"""A coding assistant that uses the whole of it: finds a workflow, starts it, follows it to its end, by MCP alone."""

import asyncio

from tests.support.mcp_client import assistant
from tests.support.organization import Organization, shell

WITHIN_S = 60.0


async def test_an_assistant_follows_a_run_to_its_end(organization: Organization) -> None:
    await organization.pair()
    await organization.publish(shell("echo hello {{ input.name }}"))
    made = await organization.call(
        "POST", "/v1/orgs/{org}/api-keys", {"name": "assistant", "role": "admin"}, status=201
    )
    async with assistant(organization.processes.api_url, made.body["value"]) as me, asyncio.timeout(WITHIN_S):
        (agent,) = (await me.call("list_agents"))["agents"]
        assert agent["status"] == "online"
        (workflow,) = (await me.call("list_workflows", status="published"))["workflows"]
        run = (await me.call("start_run", workflowId=workflow["id"], input={"name": "bird"}))["run"]
        names = {"workflowId": workflow["id"], "runId": run["id"]}
        seen: list[str] = []
        after, is_over = 0, False
        while not is_over:
            read = await me.call("read_run_events", **names, afterSeq=after, waitSeconds=20)
            seen += [event["eventType"] for event in read["events"]]
            after, is_over = read["nextAfterSeq"], read["isOver"]
        assert (seen[0], seen[-1]) == ("run_started", "run_succeeded")
        assert {"node_dispatched", "remote_result_received", "node_succeeded"} <= set(seen)
        assert (await me.call("get_run", **names))["run"]["status"] == "succeeded"
        node = (await me.call("get_workflow", workflowId=workflow["id"]))["workflow"]["dsl"]["nodes"][0]["id"]
        output = (await me.call("get_node_output", **names, nodeId=node))["output"]
        assert output["stdout"] == "hello bird\n"
