"""The worker: what it steps, what it runs itself, what it sweeps up, what it fires."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.support.gateways import Fleet
from tests.support.ground import SHELL
from tests.support.local_server import LocalServer
from tests.support.organization import until

from vespid.bus.channels import run_item
from vespid.store.executions import CloudWork
from vespid.worker.cloud import Cloud
from vespid_protocol.ids import OrgId, new_id

CANARY = "canary-77aa01"
ALLOWED = {"egress_allow": ("127.0.0.1",)}


def http(path: str, **others: Any) -> dict[str, Any]:
    config = {"method": "GET", "url": path} | others.pop("config", {})
    return {"id": "h", "type": "http.request", "config": config, **others}


async def types(fleet: Fleet, run_id: str) -> list[str]:
    return [event["event_type"] for event in await fleet.ground.events(run_id)]


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_the_sweep_finds_what_nobody_was_told_of(fleet: Fleet, org: OrgId, local: LocalServer) -> None:
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/echo")))
    await fleet.worker(**ALLOWED)
    assert (await fleet.finished_run(run))["status"] == "succeeded"
    assert await types(fleet, run) == [
        "run_started",
        "node_started",
        "node_dispatched",
        "node_succeeded",
        "run_succeeded",
    ]


async def test_a_wake_is_quicker_than_the_sweep_and_one_that_is_no_run_hurts_nobody(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    worker = await fleet.worker(continuation_poll_ms=60_000, **ALLOWED)
    house = worker.house
    for item in ("", "nonsense", f"{org}/x", run_item(org, new_id())):
        house.mail.wake(house.settings.continuation_queue_name, item)
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/echo")))
    house.stepper.wake(org, run)
    assert (await fleet.finished_run(run))["status"] == "succeeded"


async def test_without_a_gateway_a_remote_node_fails_at_once(fleet: Fleet, org: OrgId) -> None:
    await fleet.worker(gateway_http_url="", gateway_service_token="")
    run = await fleet.ground.run(org, await fleet.ground.workflow(org), max_attempts=1)
    row = await fleet.finished_run(run)
    assert (row["status"], row["error"]) == ("failed", "GATEWAY_NOT_CONFIGURED")


@pytest.mark.promise("P1")
async def test_a_remote_node_goes_out_and_comes_back(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway()
    await fleet.worker()
    executor = await ground.executor(org)
    scripted = await fleet.join(gateway, executor)
    run = await ground.run(org, await ground.workflow(org, SHELL, SHELL | {"id": "n2"}))
    for _ in range(2):
        execute = await scripted.next("execute")
        await scripted.event(execute, 0, "working")
        await scripted.event(execute, 0, "working")
        await scripted.event(execute, 1, "still")
        await scripted.result(execute, {"of": execute["requestId"]})
        await scripted.next("execute_ack")
    assert (await fleet.finished_run(run))["status"] == "succeeded"
    node = ["node_started", "node_dispatched", "remote_event", "remote_event"]
    node += ["remote_result_received", "node_succeeded"]
    assert await types(fleet, run) == ["run_started", *node, *node, "run_succeeded"]
    assert [event["seq"] for event in await ground.events(run)] == list(range(1, 15))
    await fleet.given_back(org)


async def test_a_node_that_waits_says_so_once(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway()
    await fleet.worker()
    run = await ground.run(org, await ground.workflow(org))

    async def waits() -> bool:
        await ground.sql.execute("update executions set sweep_at = now() where state = 'pending'")
        return "node_waiting" in await types(fleet, run)

    await until(waits, "the wait is told", 10.0)
    await waits()
    scripted = await fleet.join(gateway, await ground.executor(org))
    await scripted.result(await scripted.next("execute"))
    await fleet.finished_run(run)
    assert (await types(fleet, run)).count("node_waiting") == 1


@pytest.mark.promise("P1")
async def test_a_cancelled_run_ends_and_its_executor_is_told(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway()
    await fleet.worker()
    scripted = await fleet.join(gateway, await ground.executor(org))
    run = await ground.run(org, await ground.workflow(org))
    execute = await scripted.next("execute")
    assert await ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(org), UUID(run)) == "requested"
    assert (await scripted.next("execute_cancel"))["requestId"] == execute["requestId"]
    await scripted.fail(execute, "NODE_EXECUTION_CANCELLED")
    assert (await fleet.finished_run(run))["status"] == "cancelled"
    await fleet.given_back(org)


@pytest.mark.promise("P1")
async def test_a_run_cancelled_before_its_first_step_never_starts(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    run = await ground.run(org, await ground.workflow(org))
    await ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(org), UUID(run))
    await fleet.worker()
    assert (await fleet.finished_run(run))["status"] == "cancelled"
    assert "node_started" not in await types(fleet, run)


# --- work of its own --------------------------------------------------------------------------------------------------


@pytest.mark.promise("P7")
async def test_a_secret_is_filled_in_for_the_call_and_masked_in_what_is_kept(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    secret_id = await fleet.secret(org, CANARY)
    headers = {"headers": {"Authorization": f"Bearer {{{{secrets.{secret_id}}}}}"}}
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/echo", config=headers)))
    await fleet.worker(**ALLOWED)
    row = await fleet.finished_run(run)
    assert (row["status"], local.calls) == ("succeeded", 1)
    for table in ("executions", "workflow_run_events", "workflow_runs"):
        kept = await fleet.ground.sql.fetch(f"select t::text as row from {table} t")
        assert not [one for one in kept if CANARY in one["row"]], table
    output = await fleet.ground.sql.fetchval("select output->'body'->>'authorization' from executions")
    assert output.startswith("Bearer ")


async def test_a_private_address_that_was_not_allowed_is_not_reached(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/echo")), max_attempts=1)
    await fleet.worker()
    assert (await fleet.finished_run(run))["status"] == "failed"
    assert local.calls == 0


async def test_a_call_beyond_its_timeout_fails_and_gives_its_room_back(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    node = http(f"{local.url}/slow", timeoutMs=1_000)
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, node), max_attempts=1)
    await fleet.worker(**ALLOWED)
    row = await fleet.finished_run(run)
    assert (row["status"], row["error"]) == ("failed", "NODE_EXECUTION_TIMEOUT")


async def test_what_postgres_cannot_hold_is_mended(fleet: Fleet, org: OrgId, local: LocalServer) -> None:
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/nul")))
    await fleet.worker(**ALLOWED)
    assert (await fleet.finished_run(run))["status"] == "succeeded"
    assert await fleet.ground.sql.fetchval("select output->>'body' from executions") == "a�b"


async def test_a_cancelled_run_does_not_wait_for_the_call_that_is_out(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/slow")))
    await fleet.worker(**ALLOWED)
    await asyncio.wait_for(local.called.wait(), 10)
    await fleet.ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(org), UUID(run))
    # Well before the deadline of what is being cancelled (10 s).
    assert (await fleet.finished_run(run, 5.0))["status"] == "cancelled"

    async def over() -> bool:
        state = await fleet.ground.sql.fetchval("select state from executions")
        return bool(state == "cancelled")

    await until(over, "the call's own row has ended", 5.0)


@pytest.mark.promise("P12")
async def test_a_stopping_worker_finishes_what_it_runs(fleet: Fleet, org: OrgId, local: LocalServer) -> None:
    run = await fleet.ground.run(org, await fleet.ground.workflow(org, http(f"{local.url}/slow")))
    worker = await fleet.worker(**ALLOWED)
    await asyncio.wait_for(local.called.wait(), 10)
    stopping = asyncio.create_task(worker.stop())
    local.let.set()
    await stopping
    row = await fleet.ground.run_row(run)
    assert (row["status"], local.calls) == ("succeeded", 1)


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_the_work_of_a_dead_worker_is_given_up_and_its_run_goes_on(
    fleet: Fleet, org: OrgId, local: LocalServer
) -> None:
    ground = fleet.ground
    run = await ground.run(org, await ground.workflow(org, http(f"{local.url}/slow")), max_attempts=2)
    await fleet.worker(**ALLOWED)
    await asyncio.wait_for(local.called.wait(), 10)
    # Cut off as by a kill: nothing is renewed, nothing is committed.
    await ground.sql.execute("update executions set holder_process = gen_random_uuid()")
    local.called.clear()
    await asyncio.wait_for(local.called.wait(), 10)
    local.let.set()
    row = await fleet.finished_run(run)
    assert (row["status"], row["attempt_count"], local.calls) == ("succeeded", 2, 2)
    assert "node_failed" in await types(fleet, run)


@pytest.mark.promise("P4")
async def test_work_that_comes_back_to_a_worker_takes_the_place_of_what_still_runs_there(
    fleet: Fleet, org: OrgId, local: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = fleet.ground
    launched: list[CloudWork] = []
    launch = Cloud.launch

    def noted(cloud: Cloud, work: CloudWork) -> None:
        launched.append(work)
        launch(cloud, work)

    monkeypatch.setattr(Cloud, "launch", noted)
    worker = await fleet.worker(**ALLOWED)
    run = await ground.run(org, await ground.workflow(org, http(f"{local.url}/slow")))
    await asyncio.wait_for(local.called.wait(), 10)
    # Its lease passed and it was granted anew, to the same process, before that had looked.
    local.called.clear()
    await ground.sql.execute("update executions set lease_epoch = lease_epoch + 1")
    assert worker.cloud.reserve() is not None
    worker.cloud.launch(msgspec.structs.replace(launched[0], lease_epoch=launched[0].lease_epoch + 1))
    await asyncio.wait_for(local.called.wait(), 10)
    assert len(worker.cloud.running) == 1
    with capture_logs() as told:
        local.let.set()
        row = await fleet.finished_run(run)
        await until(lambda: not worker.cloud.running, "nothing runs any more")
    assert (row["status"], row["attempt_count"], local.calls) == ("succeeded", 1, 2)
    assert [each for each in told if each["log_level"] == "error"] == []


@pytest.mark.promise("P1", "P2")
async def test_a_lost_agent_keeps_its_work_until_its_lease_is_over_and_nobody_judges_early(
    fleet: Fleet, org: OrgId
) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway(agent_lease_ms=1_000)
    scripted = await fleet.join(gateway, await ground.executor(org))
    run = await ground.run(org, await ground.workflow(org), max_attempts=1)
    await fleet.worker(agent_lease_ms=2_000)
    begun = asyncio.get_running_loop().time()
    await scripted.next("execute")
    await scripted.drop()
    row = await fleet.finished_run(run)
    assert (row["status"], row["error"]) == ("failed", "AGENT_DISCONNECTED")
    # The worker itself had not been up for a lease before.
    assert asyncio.get_running_loop().time() - begun >= 1.9
    await fleet.given_back(org)


@pytest.mark.promise("P2", "P4")
async def test_what_may_be_sent_again_goes_to_the_next_and_the_first_is_not_heard_any_more(
    fleet: Fleet, org: OrgId
) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway(agent_lease_ms=500)
    await fleet.worker()
    first_executor = await ground.executor(org)
    first = await fleet.join(gateway, first_executor)
    node = SHELL | {"onLost": "resend"}
    run = await ground.run(org, await ground.workflow(org, node), max_attempts=1)
    execute = await first.next("execute")
    await first.drop()
    second = await fleet.join(gateway, await ground.executor(org))
    again = await second.next("execute")
    assert (again["requestId"], again["leaseEpoch"]) == (execute["requestId"], 2)
    await first.connect(in_flight=[{"requestId": execute["requestId"], "leaseEpoch": 1}])
    assert (await first.next("execute_cancel"))["requestId"] == execute["requestId"]
    await first.result(execute, {"of": "the first"})
    await first.next("execute_ack")
    await second.event(again, 0, "mine")
    await second.result(again, {"of": "the second"})
    assert (await fleet.finished_run(run))["status"] == "succeeded"
    assert await ground.sql.fetchval("select output->>'of' from executions") == "the second"
    assert (await types(fleet, run)).count("remote_event") == 1
    await fleet.given_back(org)


@pytest.mark.promise("P1")
async def test_a_deadline_ends_a_node_whose_agent_never_answers(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    gateway = await fleet.gateway()
    await fleet.worker()
    scripted = await fleet.join(gateway, await ground.executor(org))
    run = await ground.run(org, await ground.workflow(org), max_attempts=1)
    execute = await scripted.next("execute")
    await ground.sql.execute("update executions set act_by = now(), sweep_at = now()")
    row = await fleet.finished_run(run)
    assert (row["status"], row["error"]) == ("failed", "NODE_EXECUTION_TIMEOUT")
    assert (await scripted.next("execute_cancel"))["requestId"] == execute["requestId"]
    await fleet.given_back(org)


@pytest.mark.promise("P9")
async def test_the_executors_of_a_dead_gateway_are_proposed_to_nobody(fleet: Fleet, org: OrgId) -> None:
    ground = fleet.ground
    executor = await ground.executor(org)
    gateway = await fleet.gateway()
    await fleet.join(gateway, executor)
    await fleet.worker()
    # Another process's lease has passed, and its executor is in Redis as it left it.
    dead = await ground.process(lease_ms=60_000)
    lease = await ground.connected(executor, dead)
    await fleet.redis.hset(f"{{o:{org}}}:x:{executor.id}", mapping={"c": str(lease.epoch), "e": dead})
    await ground.let_pass("processes", "id", UUID(dead), "lease_until")

    async def withdrawn() -> bool:
        return not await fleet.redis.hexists(f"{{o:{org}}}:x:{executor.id}", "e")

    await until(withdrawn, "the dead gateway's executor is withdrawn", 10.0)


# --- cron -------------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_a_schedule_fires_once_however_many_workers_look(fleet: Fleet, org: OrgId, local: LocalServer) -> None:
    ground = fleet.ground
    for _ in range(3):
        await fleet.worker(**ALLOWED)
    workflows = [await ground.workflow(org, http(f"{local.url}/echo")) for _ in range(5)]
    for workflow in workflows:
        await ground.sql.execute(
            """insert into schedules (family_id, organization_id, workflow_id, cron, next_fire_at)
               values ($1, $2, $1, '0 0 1 1 *', date_trunc('minute', now()))""",
            UUID(workflow),
            UUID(org),
        )

    async def fired() -> bool:
        left = await ground.sql.fetchval("select count(*) from schedules where next_fire_at <= now()")
        done = await ground.sql.fetchval("select count(*) from workflow_runs where finished_at is not null")
        return bool(left == 0 and done >= len(workflows))

    await until(fired, "all have fired", 15.0)
    rows = await ground.sql.fetch("select workflow_id, trigger_type, status, input from workflow_runs")
    assert len({row["workflow_id"] for row in rows}) == len(rows) == len(workflows) == local.calls
    assert {(row["trigger_type"], row["status"]) for row in rows} == {("cron", "succeeded")}
    assert msgspec.json.decode(rows[0]["input"])["scheduledAt"].endswith("Z")
