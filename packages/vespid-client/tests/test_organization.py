"""The whole organization: its runs, its overview, and the hints that it has changed, also over a line that is cut."""

import asyncio
from contextlib import aclosing

import pytest
from tests.support.client_stack import Installed, over_a_line
from tests.support.organization import shell

from vespid_client import AsyncClient, BadRequest, Conflict, RunFailed, RunHandle

ECHO = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [{"id": "hello", "type": "agent.execute"}]}


async def started(client: AsyncClient, *nodes: object) -> RunHandle:
    draft = await client.workflows.create("Named", {**ECHO, "nodes": list(nodes)} if nodes else ECHO)
    await client.workflows.publish(draft.id)
    return await client.runs.start(draft.id)


async def test_a_run_is_found_by_its_id_alone(client: AsyncClient) -> None:
    run = await started(client)
    done = await run.result()
    found = client.runs.handle(run.id)
    assert [event.seq async for event in found.follow()] == [event.seq async for event in run.events()]
    assert (await client.runs.get(run.id)).status == "succeeded"
    assert await client.runs.output(run.id, "hello") == await run.output("hello")
    assert (await client.runs.cancel(run.id)).status == "succeeded"
    assert await client.runs.events(run.id).all() == await run.events().all()
    listed = await client.runs.list(workflow_id=done.workflow_id, status="succeeded", trigger_type="manual").all()
    assert [(each.id, each.workflow_name) for each in listed] == [(run.id, "Named")]
    assert await client.runs.list(workflow_id=done.workflow_id, status="failed").all() == []


async def test_a_failed_run_is_retried_from_a_node(client: AsyncClient) -> None:
    fails = shell("exit 3", "second", sandbox={"backend": "host"})
    run = await started(client, {"id": "first", "type": "agent.execute"}, fails)
    with pytest.raises(RunFailed):
        await run.result()
    again = await run.retry()
    assert again.accepted is not None
    assert again.accepted.retry_of is not None
    assert again.accepted.retry_of.run_id == run.id
    with pytest.raises(RunFailed):
        await again.result()
    whole = await client.runs.retry(run.id, from_node_id="first")
    assert whole.accepted is not None
    assert whole.accepted.retry_of is not None
    assert whole.accepted.retry_of.from_node_id == "first"
    with pytest.raises(RunFailed):
        await whole.result()


async def test_a_run_that_goes_on_is_not_retried(client: AsyncClient) -> None:
    run = await started(client, shell("sleep 60", sandbox={"backend": "host"}))
    with pytest.raises(Conflict):
        await run.retry()
    await run.cancel()


async def test_a_workflow_is_validated_before_it_is_saved(client: AsyncClient) -> None:
    nodes = [{"id": "first", "type": "agent.execute"}, {"id": "second", "type": "agent.execute"}]
    graph = await client.workflows.validate({**ECHO, "nodes": nodes})
    assert [(node.id, node.level) for node in graph.nodes] == [("first", 0), ("second", 1)]
    assert [(edge.from_, edge.to, edge.label) for edge in graph.edges] == [("first", "second", None)]
    draft = await client.workflows.create("w", {**ECHO, "nodes": nodes})
    assert await client.workflows.graph(draft.id) == graph
    with pytest.raises(BadRequest) as refused:
        await client.workflows.validate({**ECHO, "nodes": [{"id": "a", "type": "no.such"}]})
    assert refused.value.field_errors


async def test_an_organization_at_a_glance(client: AsyncClient) -> None:
    overview = await client.overview("24h")
    assert overview.agents.online == 1
    assert len(overview.buckets) == 48


async def test_changes_are_told_over_a_line_that_is_cut(client: AsyncClient, installed: Installed) -> None:
    async with over_a_line(installed) as (far, line), asyncio.timeout(60), aclosing(far.changes()) as hints:
        assert (await anext(hints)).kind == "hello"
        await client.settings.update({"tools": {"shellRunEnabled": False}})
        assert (await anext(hints)).kind == "settings"
        line.cut()
        assert (await anext(hints)).kind == "hello"
