"""Runs over HTTP: accepted, looked at, cancelled; their events, page by page."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import DSL, Stepping, W, published, start


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


async def test_a_run_is_accepted_queued_and_due(owner: Caller, superuser: "asyncpg.Connection") -> None:
    path = await published(owner)
    run = await start(owner, path, input={"go": True})
    assert (run["status"], run["attemptCount"], run["maxAttempts"]) == ("queued", 0, 3)
    assert (run["triggerType"], run["requestedByUserId"]) == ("manual", owner.user_id)
    assert (run["input"], run["output"], run["error"]) == ({"go": True}, None, None)
    assert (run["blocked"], run["blockedNodes"]) == (None, [])
    assert await superuser.fetchval("select count(*) from due_runs where run_id = $1", UUID(run["id"])) == 1
    assert (await owner.get(f"{path}/runs/{run['id']}")).body == {"run": run}
    listed = (await owner.get(f"{path}/runs")).body
    assert listed == {"runs": [run], "nextCursor": None}


async def test_a_member_starts_runs_and_a_body_is_not_needed(control: Control, owner: Caller) -> None:
    path = await published(owner)
    member = await control.join(owner, "member")
    assert (await start(member, path))["requestedByUserId"] == member.user_id
    typed = await member.post(f"{path}/runs", headers={"Content-Type": "application/json"})
    assert (typed.status, typed.body["run"]["input"]) == (201, None)


async def test_a_machine_starts_runs_by_api(control: Control, owner: Caller) -> None:
    path = await published(owner)
    made = await owner.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "member"})
    assert made.status == 201, made.body
    machine = control.with_token(made.body["value"], owner.org_id)
    run = await start(machine, path)
    assert (run["triggerType"], run["requestedByUserId"]) == ("api", owner.user_id)


async def test_a_draft_does_not_run(owner: Caller) -> None:
    made = await owner.post(W, {"name": "w", "dsl": DSL})
    answer = await owner.post(f"{W}/{made.body['workflow']['id']}/runs")
    assert (answer.status, answer.code) == (409, "CONFLICT")


async def test_a_repeated_start_is_one_run(owner: Caller, superuser: "asyncpg.Connection") -> None:
    path = await published(owner)
    key = {"Idempotency-Key": "once"}
    first, again = [await owner.post(f"{path}/runs", {"input": 1}, headers=key) for _ in range(2)]
    assert (first.status, first.body) == (again.status, again.body)
    other = await owner.post(f"{path}/runs", {"input": 2}, headers=key)
    assert (other.status, other.code) == (409, "CONFLICT")
    assert await superuser.fetchval("select count(*) from workflow_runs") == 1


async def test_a_run_that_cannot_be_accepted_leaves_no_row(
    control: Control, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    path = await published(owner)
    creator = control.plane.deps.runs
    assert creator is not None
    await creator.stop()
    answer = await owner.post(f"{path}/runs")
    assert (answer.status, answer.code) == (503, "QUEUE_UNAVAILABLE")
    assert await superuser.fetchval("select count(*) from workflow_runs") == 0
    await creator.start()
    assert (await owner.post(f"{path}/runs")).status == 201


async def test_a_run_says_what_it_waits_for_the_oldest_first(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    requests = [await stepping.block(run, "n1"), await stepping.block(run, "n2")]
    shown = (await owner.get(f"{path}/runs/{run['id']}")).body["run"]
    assert [blocked["requestId"] for blocked in shown["blockedNodes"]] == requests
    assert shown["blocked"] == shown["blockedNodes"][0]
    assert set(shown["blocked"]) == {"requestId", "nodeId", "kind", "since", "timeoutAt"}
    assert shown["blocked"]["timeoutAt"] > shown["blocked"]["since"]
    assert (await owner.get(f"{path}/runs")).body["runs"][0]["blocked"] == shown["blocked"]


async def test_the_output_is_made_of_the_cursor_and_the_nodes_answers(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.block(run, "n1", ended_with='{"exitCode": 0}')
    cursor = (
        '{"s": "succeeded", "a": 1, "n": {"n1": {"s": "succeeded", "a": 1},'
        ' "c1": {"s": "succeeded", "o": {"result": true}}}}'
    )
    await stepping.be_at(run["id"], "succeeded", cursor)
    shown = (await owner.get(f"{path}/runs/{run['id']}")).body["run"]
    assert shown["status"] == "succeeded"
    assert shown["output"] == {
        "status": "succeeded",
        "steps": [
            {"nodeId": "n1", "nodeType": "agent.execute", "status": "succeeded", "output": {"exitCode": 0}},
            {"nodeId": "c1", "nodeType": "condition", "status": "succeeded", "output": {"result": True}},
        ],
        "output": {"completedNodeCount": 2, "failedNodeId": None},
    }
    of = f"{path}/runs/{run['id']}/nodes"
    assert (await owner.get(f"{of}/n1/output")).body == {"output": {"exitCode": 0}}
    assert (await owner.get(f"{of}/c1/output")).body == {"output": {"result": True}}
    missing = await owner.get(f"{of}/n9/output")
    assert (missing.status, missing.code) == (404, "NOT_FOUND")


async def test_a_cancel_makes_the_run_due_and_a_finished_one_answers_unchanged(
    owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await superuser.execute("delete from due_runs")
    answer = await owner.post(f"{path}/runs/{run['id']}/cancel")
    assert (answer.status, answer.body["run"]["id"]) == (200, run["id"])
    assert await superuser.fetchval("select cancel_requested from workflow_runs")
    assert await superuser.fetchval("select count(*) from due_runs") == 1
    await stepping.be_at(run["id"], "cancelled", '{"s": "cancelled", "a": 1}')
    finished = (await owner.get(f"{path}/runs/{run['id']}")).body
    assert (await owner.post(f"{path}/runs/{run['id']}/cancel")).body == finished
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    assert [entry["objectId"] for entry in entries if entry["action"] == "run.cancelled"] == [run["id"]]


async def test_events_come_in_order_page_by_page(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started", "node_started", "node_dispatched", "node_succeeded")
    events_of = f"{path}/runs/{run['id']}/events"
    everything = (await owner.get(events_of)).body
    assert [event["seq"] for event in everything["events"]] == [1, 2, 3, 4]
    assert everything["nextCursor"] is None
    assert set(everything["events"][0]) == {
        "id",
        "seq",
        "organizationId",
        "workflowId",
        "runId",
        "attemptCount",
        "eventType",
        "nodeId",
        "nodeType",
        "level",
        "message",
        "payload",
        "createdAt",
    }
    assert everything["events"][0]["payload"] == {"k": "v"}
    first = (await owner.get(f"{events_of}?limit=3")).body
    # What is added meanwhile comes behind, and nothing twice.
    await stepping.append(run["id"], "run_succeeded")
    second = (await owner.get(f"{events_of}?limit=3&cursor={first['nextCursor']}")).body
    assert [event["seq"] for event in first["events"] + second["events"]] == [1, 2, 3, 4, 5]
    assert [event["seq"] for event in (await owner.get(f"{events_of}?afterSeq=3")).body["events"]] == [4, 5]
    assert (await owner.get(f"{events_of}?afterSeq=9")).body == {"events": [], "nextCursor": None}
    for bad in ("afterSeq=-1", "afterSeq=x", "cursor=zz", f"afterSeq=1&cursor={first['nextCursor']}"):
        assert (await owner.get(f"{events_of}?{bad}")).status == 400


@pytest.mark.promise("P5")
async def test_a_foreign_run_is_not_there(owner: Caller, stranger: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    await stepping.append(run["id"], "run_started")
    await stepping.block(run, "n1", ended_with="1")
    own = await published(stranger)
    for at in (path, own):
        of = f"{at}/runs/{run['id']}"
        answers = [
            await stranger.get(of),
            await stranger.post(f"{of}/cancel"),
            await stranger.get(f"{of}/events"),
            await stranger.get(f"{of}/stream"),
            await stranger.get(f"{of}/nodes/n1/output"),
        ]
        assert {(answer.status, answer.code) for answer in answers} == {(404, "NOT_FOUND")}
    assert (await stranger.get(f"{path}/runs")).status == 404
    # A run under another workflow of the same organization is not there either.
    other = await published(owner)
    assert (await owner.get(f"{other}/runs/{run['id']}")).status == 404
    assert (await owner.get(f"{path}/runs/{uuid4()}")).status == 404


async def test_many_starts_at_once_are_as_many_runs(owner: Caller, superuser: "asyncpg.Connection") -> None:
    path = await published(owner)
    runs = await asyncio.gather(*(start(owner, path, input=number) for number in range(20)))
    assert len({run["id"] for run in runs}) == 20
    assert await superuser.fetchval("select count(*) from workflow_runs") == 20
