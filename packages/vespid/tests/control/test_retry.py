"""Runs tried again over HTTP: a new run, with what still stands of the old one."""

import asyncpg
import pytest
from tests.support.control import Caller, Control
from tests.support.run_steps import DSL, Stepping, W, published, start

FAILED = (
    '{"s": "failed", "a": 1, "x": "NODE_EXECUTION_FAILED", "f": "n2",'
    ' "n": {"n1": {"s": "succeeded", "a": 3}, "c1": {"s": "succeeded", "o": {"result": true}},'
    ' "n2": {"s": "failed", "a": 1, "e": "NODE_EXECUTION_FAILED"}}}'
)
THREE = DSL | {"nodes": [*DSL["nodes"], DSL["nodes"][0] | {"id": "n2"}]}


@pytest.fixture
def stepping(superuser: "asyncpg.Connection") -> Stepping:
    return Stepping(superuser)


async def failed(owner: Caller, stepping: Stepping) -> str:
    """The path of a run whose first node succeeded and whose last one failed."""
    path = await published(owner, THREE)
    run = await start(owner, path, input={"go": True})
    await stepping.block(run, "n1", ended_with='{"exitCode": 0}')
    await stepping.be_at(run["id"], "failed", FAILED)
    return f"{path}/runs/{run['id']}"


async def test_a_retry_is_a_new_run_of_the_same_revision_and_input(
    control: Control, owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    path = await failed(owner, stepping)
    before = (await owner.get(path)).body["run"]
    assert before["retryOf"] is None
    member = await control.join(owner)
    answer = await member.post(f"{path}/retry")
    assert answer.status == 201, answer.body
    run = answer.body["run"]
    assert run["id"] != before["id"]
    assert (run["status"], run["workflowId"], run["input"]) == ("queued", before["workflowId"], {"go": True})
    assert run["requestedByUserId"] == member.user_id
    assert run["retryOf"] == {"runId": before["id"], "fromNodeId": None}
    of = path.replace(before["id"], run["id"])
    assert (await owner.get(of)).body == {"run": run}
    assert await superuser.fetchval("select count(*) from due_runs where run_id::text = $1", run["id"]) == 1
    assert (await owner.get(path)).body["run"] == before
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    (entry,) = [entry for entry in entries if entry["action"] == "run.retried"]
    assert (entry["objectId"], entry["details"]["newRunId"]) == (before["id"], run["id"])


async def test_what_was_taken_over_is_the_new_runs_own(
    owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection"
) -> None:
    path = await failed(owner, stepping)
    run = (await owner.post(f"{path}/retry")).body["run"]
    of = path.rpartition("/")[0] + f"/{run['id']}"
    # The earlier run may be gone.
    await superuser.execute("delete from workflow_runs where id::text = $1", path.rpartition("/")[2])
    assert (await owner.get(f"{of}/nodes/n1/output")).body == {"output": {"exitCode": 0}}
    assert (await owner.get(f"{of}/nodes/c1/output")).body == {"output": {"result": True}}
    assert (await owner.get(f"{of}/nodes/n2/output")).status == 404
    # It has ended, and is nobody's to carry out.
    row = await superuser.fetchrow("select * from executions where run_id::text = $1", run["id"])
    assert (row["request_id"], row["state"], row["applied"]) == (f"{run['id']}:n1:1", "succeeded", True)
    assert (row["executor_id"], row["sweep_at"]) == (None, None)


async def test_a_repeated_retry_is_one_run(owner: Caller, stepping: Stepping, superuser: "asyncpg.Connection") -> None:
    path = await failed(owner, stepping)
    key = {"Idempotency-Key": "once"}
    first, again = [await owner.post(f"{path}/retry", {}, headers=key) for _ in range(2)]
    assert (first.status, first.body) == (again.status, again.body)
    other = await owner.post(f"{path}/retry", {"fromNodeId": "n1"}, headers=key)
    assert (other.status, other.code) == (409, "CONFLICT")
    assert await superuser.fetchval("select count(*) from workflow_runs") == 2


async def test_only_what_is_over_and_has_something_left_is_tried_again(owner: Caller, stepping: Stepping) -> None:
    path = await published(owner)
    run = await start(owner, path)
    of = f"{path}/runs/{run['id']}"
    answer = await owner.post(f"{of}/retry")
    assert (answer.status, answer.code) == (409, "CONFLICT")
    done = '{"s": "succeeded", "a": 1, "n": {"n1": {"s": "succeeded", "a": 1}, "c1": {"s": "succeeded", "o": {}}}}'
    await stepping.be_at(run["id"], "succeeded", done)
    answer = await owner.post(f"{of}/retry")
    assert (answer.status, answer.code) == (409, "CONFLICT")
    again = await owner.post(f"{of}/retry", {"fromNodeId": "c1"})
    assert (again.status, again.body["run"]["retryOf"]["fromNodeId"]) == (201, "c1")
    unknown = await owner.post(f"{of}/retry", {"fromNodeId": "n9"})
    assert (unknown.status, list(unknown.body["details"]["fieldErrors"])) == (400, ["fromNodeId"])


@pytest.mark.promise("P5")
async def test_a_foreign_run_is_not_tried_again(owner: Caller, stranger: Caller, stepping: Stepping) -> None:
    path = await failed(owner, stepping)
    run_id = path.rpartition("/")[2]
    own = await published(stranger)
    for at in (path, f"{own}/runs/{run_id}"):
        assert (await stranger.post(f"{at}/retry")).status == 404
    other = await published(owner)
    assert (await owner.post(f"{other}/runs/{run_id}/retry")).status == 404
    draft = (await owner.post(W, {"name": "w", "dsl": DSL})).body["workflow"]["id"]
    assert (await owner.post(f"{W}/{draft}/runs/{run_id}/retry")).status == 404
