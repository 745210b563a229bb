"""Runs through the client: started once, followed over a line that is cut, waited for, cancelled."""

import asyncio
from pathlib import Path

import pytest
from tests.support.client_stack import Installed, over_a_line
from tests.support.forward import Line
from tests.support.organization import shell

from vespid_client import AsyncClient, Conflict, ConnectionFailed, NotFound, Retries, RunFailed
from vespid_client.models import RunEvent

ECHO = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [{"id": "hello", "type": "agent.execute"}]}


async def published(client: AsyncClient, *nodes: object) -> str:
    dsl = {**ECHO, "nodes": list(nodes)} if nodes else ECHO
    draft = await client.workflows.create("w", dsl)
    return (await client.workflows.publish(draft.id)).workflow.id


def waits_for(folder: Path, node_id: str = "n1") -> dict[str, object]:
    """A node that goes on when there is a file `go`."""
    return shell(f"until [ -e {folder}/go ]; do sleep 0.05; done; echo done", node_id, sandbox={"backend": "host"})


async def test_a_run_is_started_followed_and_waited_for(client: AsyncClient) -> None:
    run = await client.runs.start(await published(client), {"name": "Ann"})
    assert run.accepted is not None
    assert (run.accepted.status, run.accepted.input) == ("queued", {"name": "Ann"})
    events = [event async for event in run.follow()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[0].event_type, events[-1].event_type) == ("run_started", "run_succeeded")
    result = await run.result()
    assert (result.status, result.id) == ("succeeded", run.id)
    assert await run.events().all() == events
    assert await run.events(after_seq=1).all() == events[1:]
    assert [event.seq async for event in run.follow(after_seq=2)] == [event.seq for event in events[2:]]
    assert [(each.node_id, each.attempt) for each in await run.attempts().all()] == [("hello", 1)]
    assert await run.attempts(unfinished=True).all() == []
    assert await run.output("hello") == result.output["steps"][0]["output"]


async def test_a_finished_run_that_was_followed_to_its_end_has_nothing_more(client: AsyncClient) -> None:
    run = await client.runs.start(await published(client))
    last = [event.seq async for event in run.follow()][-1]
    assert [event async for event in run.follow(after_seq=last)] == []


async def test_following_goes_on_where_a_line_was_cut(
    client: AsyncClient, installed: Installed, tmp_path: Path
) -> None:
    workflow_id = await published(client, waits_for(tmp_path))
    async with over_a_line(installed) as (far, line):
        run = await far.runs.start(workflow_id)
        seen: list[RunEvent] = []
        async for event in run.follow():
            seen.append(event)
            if event.event_type == "node_started":
                opened = line.opened
                line.cut()
                (tmp_path / "go").touch()
        assert line.opened > opened
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].event_type == "run_succeeded"
    assert seen == await client.runs.events(run.id, workflow_id).all()


async def test_a_start_whose_answer_is_lost_starts_one_run(client: AsyncClient, installed: Installed) -> None:
    workflow_id = await published(client)
    async with over_a_line(installed) as (far, line):
        cut_answers(line, b"HTTP/1.1 201", times=2)
        run = await far.runs.start(workflow_id)
        assert line.opened >= 3
    runs = await client.call("GET", f"/v1/orgs/{{org_id}}/workflows/{workflow_id}/runs")
    assert [each["id"] for each in runs["runs"]] == [run.id]


async def test_what_shows_a_token_once_is_not_asked_for_twice(client: AsyncClient, installed: Installed) -> None:
    before = len(await client.api_keys.list().all())
    async with over_a_line(installed) as (far, line):
        cut_answers(line, b"HTTP/1.1 201", times=1)
        with pytest.raises(ConnectionFailed):
            await far.api_keys.create("lost", "member")
    assert len(await client.api_keys.list().all()) == before + 1


async def test_a_delete_whose_answer_is_lost_is_done(newcomer: AsyncClient, installed: Installed) -> None:
    secret = await newcomer.secrets.create("github", "s", "v")
    token = await newcomer.auth.access_token()
    async with over_a_line(installed, access_token=token) as (far, line):
        await far.org_id()
        cut_answers(line, b"HTTP/1.1 200", times=1)
        await far.secrets.delete(secret.id)
    assert await newcomer.secrets.list().all() == []


async def test_a_server_that_is_not_there_is_told_after_the_last_try(client: AsyncClient) -> None:
    async with AsyncClient("http://127.0.0.1:1", api_key="k", retries=Retries(tries=2, first_s=0.01)) as nobody:
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1"):
            await nobody.me()


async def test_a_run_that_fails_raises_with_its_code(client: AsyncClient) -> None:
    workflow_id = await published(client, shell("exit 3", sandbox={"backend": "host"}))
    run = await client.runs.start(workflow_id)
    with pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.code == failed.value.run.error == "HOST_EXIT_CODE:3"
    assert failed.value.run.status == "failed"


async def test_a_cancelled_run_raises_too(client: AsyncClient, tmp_path: Path) -> None:
    run = await client.runs.start(await published(client, waits_for(tmp_path)))
    with pytest.raises(TimeoutError):
        await run.result(timeout=0.05)
    await run.cancel()
    with pytest.raises(RunFailed, match="cancelled"):
        await run.result()
    assert (await run.cancel()).status == "cancelled"


async def test_a_draft_is_not_started(client: AsyncClient) -> None:
    draft = await client.workflows.create("w", ECHO)
    with pytest.raises(Conflict):
        await client.runs.start(draft.id)
    with pytest.raises(NotFound):
        await client.runs.get("00000000-0000-4000-8000-000000000000", draft.id)


async def test_a_caller_s_own_key_starts_one_run(client: AsyncClient) -> None:
    workflow_id = await published(client)
    first = await client.runs.start(workflow_id, idempotency_key="mine")
    assert (await client.runs.start(workflow_id, idempotency_key="mine")).id == first.id


async def test_many_are_followed_at_once(client: AsyncClient) -> None:
    workflow_id = await published(client)
    runs = [await client.runs.start(workflow_id, number) for number in range(5)]
    results = await asyncio.gather(*(run.result() for run in runs))
    assert [result.input for result in results] == list(range(5))


def cut_answers(line: Line, beginning: bytes, times: int) -> None:
    """Have the next answers that begin so lost on their way."""
    left = times

    def watch(data: bytes) -> None:
        nonlocal left
        if left and data.startswith(beginning):
            left -= 1
            line.cut()

    line.watch = watch
