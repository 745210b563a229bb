"""A node that a person has to allow, from outside: it waits through everything, and runs what was shown."""

import asyncio
from pathlib import Path

import pytest
from tests.support.approvals import approval, decide, waiting
from tests.support.organization import Marks, Organization, shell
from tests.support.processes import RunningProcess


@pytest.mark.promise("P1", "P2")
async def test_a_run_waits_for_a_person_through_the_end_of_every_process(
    organization: Organization, tmp_path: Path
) -> None:
    marks = Marks(tmp_path)
    agent, _ = await organization.pair()
    workflow = (await organization.publish(shell(marks.script(), approval={"by": "owner"})))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    before = await waiting(organization, run_id)
    blocked = (await organization.run(workflow["id"], run_id))["blocked"]
    assert (blocked["kind"], blocked["approvalId"]) == ("approval", before["id"])
    assert before["what"]["execution"]["payload"]["node"]["config"]["task"]["script"] == marks.script()

    processes = organization.processes
    dead: list[RunningProcess] = [agent]
    for command in ("api", "gateway", "worker"):
        dead += processes.running(command)
    await asyncio.gather(*(process.kill() for process in dead))
    await asyncio.gather(*(processes.start(command) for command in ("api", "gateway", "worker")))
    await (await organization.restart_agent()).has_printed("welcomed")

    assert await waiting(organization, run_id) == before
    assert marks.starts() == []
    await decide(organization, before, "approve", comment="go")
    run = await organization.finished(workflow["id"], run_id)
    assert run["status"] == "succeeded"
    assert marks.starts() == [f"{run_id}:n1:2"]
    told = [event["eventType"] for event in await organization.events(workflow["id"], run_id)]
    assert [word for word in told if word != "remote_event"] == [
        "run_started",
        "node_started",
        "node_waiting",
        "approval_requested",
        "approval_decided",
        "node_dispatched",
        "remote_result_received",
        "node_succeeded",
        "run_succeeded",
    ]


async def test_what_was_denied_never_runs_and_the_run_says_why(organization: Organization, tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    await organization.pair()
    workflow = (await organization.publish(shell(marks.script(), approval={})))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await decide(organization, await waiting(organization, run_id), "deny", comment="not on a Friday")
    run = await organization.finished(workflow["id"], run_id)
    assert (run["status"], run["error"], run["errorMessage"]) == ("failed", "APPROVAL_DENIED", "not on a Friday")
    assert marks.starts() == []


@pytest.mark.promise("P1")
async def test_what_nobody_allowed_in_time_has_expired(organization: Organization) -> None:
    workflow = (await organization.publish(shell("true", approval={"timeoutMs": 1_000})))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    asked = await waiting(organization, run_id)
    run = await organization.finished(workflow["id"], run_id)
    assert (run["status"], run["error"]) == ("failed", "APPROVAL_EXPIRED")
    assert (await approval(organization, asked["id"]))["status"] == "expired"


async def test_a_cancelled_run_asks_nobody_any_more(organization: Organization) -> None:
    workflow = (await organization.publish(shell("true", approval={})))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    asked = await waiting(organization, run_id)
    await organization.call("POST", f"/v1/orgs/{{org}}/workflows/{workflow['id']}/runs/{run_id}/cancel", status=200)
    assert (await organization.finished(workflow["id"], run_id))["status"] == "cancelled"
    assert (await approval(organization, asked["id"]))["status"] == "cancelled"
    path = f"/v1/orgs/{{org}}/approvals/{asked['id']}/approve"
    await organization.call("POST", path, {"hash": asked["hash"]}, status=409)


async def test_a_retry_of_what_was_allowed_asks_nobody_again(organization: Organization, tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    await organization.pair()
    once = f'if [ "$(grep -c start {marks.file})" = 1 ]; then exit 3; fi'
    node = shell(marks.script(once), approval={}, retry={"maxAttempts": 2, "backoffMs": 10})
    workflow = (await organization.publish(node))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await decide(organization, await waiting(organization, run_id), "approve")
    run = await organization.finished(workflow["id"], run_id)
    assert run["status"] == "succeeded"
    assert marks.starts() == [f"{run_id}:n1:2", f"{run_id}:n1:3"]
    told = [event["eventType"] for event in await organization.events(workflow["id"], run_id)]
    assert told.count("approval_requested") == 1
