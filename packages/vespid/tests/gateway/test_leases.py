"""What an executor may do with a lease, and what becomes of it when its socket, its gateway or its credential goes."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import Fleet, Gateway, dispatch_body, request_id
from tests.support.ground import Executor
from tests.support.organization import until

from vespid_protocol.ids import OrgId


async def leased(gateway: Gateway, scripted: ScriptedExecutor, org: OrgId, **others: Any) -> Frame:
    """New work that the executor holds: its `execute`."""
    answer = await gateway.dispatch_async(dispatch_body(org, **others))
    assert answer.status == 201, answer.body
    return await scripted.next("execute")


def listed(execute: Frame) -> list[Frame]:
    return [{"requestId": execute["requestId"], "leaseEpoch": execute["leaseEpoch"]}]


# --- whose result counts ---------------------------------------------------------------------------------------------


@pytest.mark.promise("P2", "P4", "P5")
async def test_a_result_from_an_executor_that_is_not_leased_the_request_is_acknowledged_and_discarded(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    holder = await fleet.join(gateway, executor)
    execute = await leased(gateway, holder, org)
    for stranger in (
        await fleet.join(gateway, await fleet.ground.executor(org)),
        await fleet.join(gateway, await fleet.ground.executor(await fleet.ground.organization())),
        await fleet.join(gateway, await fleet.ground.executor(None)),
    ):
        await stranger.event(execute, 0, "from a stranger")
        await stranger.fail(execute, "EXECUTOR_OVER_CAPACITY")
        await stranger.next("execute_ack")
        await stranger.fail(execute, "NODE_EXECUTION_FAILED")
        await stranger.next("execute_ack")
    await holder.fail(execute | {"leaseEpoch": 7}, "NODE_EXECUTION_FAILED")
    await holder.next("execute_ack")
    assert await fleet.ground.state(execute["requestId"]) == "dispatched"
    await holder.result(execute)
    assert (await gateway.finished(execute["requestId"]))["status"] == "succeeded"


@pytest.mark.promise("P2", "P3")
async def test_duplicated_frames_change_nothing_and_each_result_is_acknowledged(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    for _ in range(3):
        await scripted.received(execute)
    await scripted.result(execute, {"n": 1})
    await scripted.next("execute_ack")
    for _ in range(2):
        await scripted.result(execute, {"n": 2})
        await scripted.next("execute_ack")
    assert await gateway.finished(execute["requestId"]) == {"status": "succeeded", "output": {"n": 1}}


@pytest.mark.promise("P10")
async def test_a_result_over_the_limit_fails_its_request_and_the_connection_lives(
    fleet: Fleet, org: OrgId, executor: Executor
) -> None:
    gateway = await fleet.gateway(max_frame_bytes=65_536)
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    await scripted.result(execute, "x" * 100_000)
    await scripted.next("execute_ack")
    assert await gateway.finished(execute["requestId"]) == {"status": "failed", "error": "RESULT_TOO_LARGE"}
    await scripted.result(await leased(gateway, scripted, org))
    await scripted.next("execute_ack")


@pytest.mark.promise("P10")
async def test_a_result_that_postgres_cannot_hold_fails_its_request_for_every_caller(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    waiting = asyncio.create_task(gateway.dispatch(dispatch_body(org)))
    execute = await scripted.next("execute")
    raw = '{"type":"execute_result","requestId":"%s","leaseEpoch":1,"status":"succeeded","output":%s}'
    await scripted.send_text(raw % (execute["requestId"], "1e400000"))
    await scripted.next("execute_ack")
    assert (await waiting).body["status"] == "failed"
    assert (await gateway.finished(execute["requestId"]))["error"] == "NODE_EXECUTION_FAILED"
    execute = await leased(gateway, scripted, org)
    await scripted.send_text(raw % (execute["requestId"], '"a\\u0000b\\ud800"'))
    assert (await gateway.finished(execute["requestId"]))["output"] == "a�b�"


# --- reconnects ------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P2", "P3")
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_after_a_reconnect_the_lease_goes_on_or_the_work_is_sent_again(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, elsewhere: bool
) -> None:
    scripted = await fleet.join(gateway, executor, maxInFlight=3)
    running, unseen, done = [await leased(gateway, scripted, org) for _ in range(3)]
    await scripted.drop()
    if elsewhere:
        scripted.url = (await fleet.gateway()).url
    await scripted.connect(in_flight=listed(running), unacked=[done["requestId"]])
    await scripted.result({"requestId": done["requestId"]}, {"of": "before"})
    assert (await gateway.finished(done["requestId"]))["output"] == {"of": "before"}
    again = await scripted.next("execute")
    assert (again["requestId"], again["leaseEpoch"]) == (unseen["requestId"], unseen["leaseEpoch"])
    for execute in (running, again):
        await scripted.result(execute)
        assert (await gateway.finished(execute["requestId"]))["status"] == "succeeded"
    await fleet.given_back(org)
    # All three places are free again.
    await fleet.routed(executor)
    for _ in range(3):
        await leased(gateway, scripted, org)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("way", ["another journal", "received, then omitted"])
async def test_what_an_executor_has_lost_fails_at_once(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, way: str
) -> None:
    ground = fleet.ground
    run = await ground.run(org, await ground.workflow(org))
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    await scripted.drop()
    if way == "another journal":
        scripted.journal = "another"
    else:
        await ground.sql.execute("update executions set state = 'received'")
    await scripted.connect()
    assert await gateway.finished(execute["requestId"]) == {"status": "failed", "error": "AGENT_DISCONNECTED"}
    assert scripted.unread("execute") == []
    await fleet.given_back(org)
    assert run


@pytest.mark.promise("P2")
async def test_what_is_no_longer_its_own_is_stopped_at_the_hello(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    over, cancelled = await leased(gateway, scripted, org), await leased(gateway, scripted, org)
    await scripted.drop()
    await fleet.ground.sql.execute(
        "update executions set state = 'failed', finished_at = now() where request_id = $1", over["requestId"]
    )
    await gateway.cancel(cancelled["requestId"])
    await scripted.connect(in_flight=listed(over) + listed(cancelled))
    told = {(await scripted.next("execute_cancel"))["requestId"] for _ in range(2)}
    assert told == {over["requestId"], cancelled["requestId"]}


@pytest.mark.promise("P3", "P9")
async def test_results_that_come_with_the_hello_leave_no_place_taken(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor, maxInFlight=4)
    work = [await leased(gateway, scripted, org) for _ in range(4)]
    await scripted.drop()
    await scripted.open()
    # Some before the hello, some behind it, all in one burst.
    for execute in work[:2]:
        await scripted.result(execute)
    await scripted.hello(unacked=[execute["requestId"] for execute in work])
    for execute in work[2:]:
        await scripted.result(execute)
    for execute in work:
        assert (await gateway.finished(execute["requestId"]))["status"] == "succeeded"
    await fleet.given_back(org)
    await fleet.routed(executor)
    for _ in range(4):
        await leased(gateway, scripted, org)


@pytest.mark.promise("P2")
async def test_a_second_hello_on_a_live_connection_loses_nothing(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    await fleet.ground.sql.execute("update executions set state = 'received'")
    scripted.capabilities = {"maxInFlight": 7, "kinds": ["agent.execute"]}
    # It was composed before the agent had read the `execute`.
    await scripted.hello()

    async def updated() -> bool:
        return bool(await fleet.ground.sql.fetchval("select max_in_flight = 7 from executors"))

    await until(updated, "the second hello is stored", 10.0)
    await scripted.result(execute)
    assert (await gateway.finished(execute["requestId"]))["status"] == "succeeded"
    assert [frame["type"] for frame in scripted.heard].count("welcome") == 1


@pytest.mark.promise("P3", "P12")
async def test_a_result_survives_the_restart_of_the_gateway(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    await fleet.stop(gateway)
    await scripted.closed()
    gateway = await fleet.gateway()
    scripted.url = gateway.url
    await scripted.connect(unacked=[execute["requestId"]])
    await scripted.result({"requestId": execute["requestId"]}, {"kept": True})
    await scripted.next("execute_ack")
    assert await gateway.finished(execute["requestId"]) == {"status": "succeeded", "output": {"kept": True}}
    await fleet.given_back(org)


@pytest.mark.promise("P3")
async def test_an_emptied_redis_loses_no_result_and_grants_nothing_twice(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor, maxInFlight=2)
    execute = await leased(gateway, scripted, org)
    await fleet.redis.flushdb()
    other = await leased(gateway, scripted, org)
    assert await fleet.reserved(org) == 2
    full = await gateway.dispatch_async(dispatch_body(org))
    assert (full.status, full.body["details"]["reason"]) == (503, "ALL_FULL")
    for each in (execute, other):
        await scripted.result(each)
        assert (await gateway.finished(each["requestId"]))["status"] == "succeeded"
    await fleet.given_back(org)


# --- people change their minds ---------------------------------------------------------------------------------------


@pytest.mark.promise("P6")
@pytest.mark.parametrize("redis_away", [False, True])
async def test_a_revoke_closes_the_socket_within_a_second_on_whichever_gateway(
    fleet: Fleet, gateway: Gateway, org: OrgId, redis_away: bool
) -> None:
    for where in (gateway, await fleet.gateway()):
        executor = await fleet.ground.executor(org)
        scripted = await fleet.join(where, executor)
        waiting = fleet.scripted(where, await fleet.ground.executor(org))
        await waiting.open()
        await waiting.settled()
        execute = await leased(gateway, scripted, org)
        if redis_away:
            await fleet.redis.client_pause(1500)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await fleet.ground.revoke(executor)
        await scripted.result(execute)
        assert await scripted.closed() == 4403
        assert loop.time() - begun < 1.0
        assert await fleet.ground.state(execute["requestId"]) != "succeeded"

        async def ended(request: str = execute["requestId"]) -> bool:
            return await fleet.ground.state(request) == "failed"

        await until(ended, "its lease is lost", 10.0)


@pytest.mark.promise("P6")
async def test_a_socket_that_has_not_said_hello_is_closed_by_a_revoke_too(
    fleet: Fleet, gateway: Gateway, executor: Executor
) -> None:
    scripted = fleet.scripted(gateway, executor)
    await scripted.open()
    await scripted.settled()
    await fleet.ground.revoke(executor)
    assert await scripted.closed() == 4403


async def test_tags_a_cordon_and_its_end_are_live_within_a_second(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    await fleet.join(gateway, executor)
    ground = fleet.ground

    async def becomes(selector: Frame, status: int) -> None:
        async def so() -> bool:
            body = dispatch_body(org, executorSelector=selector)
            answer = await gateway.dispatch_async(body)
            if answer.status == 201:
                await gateway.cancel(request_id(body))
            return answer.status == status

        await until(so, f"{selector} answers {status}", 1.0)

    await becomes({"tag": "gpu"}, 503)
    await ground.sql.execute("update executors set tags = '{gpu}'")
    await ground.announce("executor_tags", executor.id, org, {"tags": ["gpu"], "tagsVersion": 2})
    await becomes({"tag": "gpu"}, 201)
    await ground.sql.execute("update executors set cordoned = true")
    await ground.announce("executor_cordoned", executor.id, org)
    await becomes({}, 503)
    await ground.sql.execute("update executors set cordoned = false")
    await ground.announce("executor_uncordoned", executor.id, org)
    await becomes({}, 201)


async def test_a_draining_executor_finishes_and_gets_nothing_new(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    execute = await leased(gateway, scripted, org)
    await scripted.send({"type": "draining", "reason": "going"})
    await fleet.routed(executor, is_routable=False)
    assert (await gateway.dispatch_async(dispatch_body(org))).status == 503
    await scripted.result(execute)
    assert (await gateway.finished(execute["requestId"]))["status"] == "succeeded"
    row = await fleet.ground.sql.fetchrow("select * from executors where id = $1", UUID(executor.id))
    assert row is not None
    assert row["draining"]
    await scripted.drop()
    await scripted.connect()
    await fleet.routed(executor)


# --- secrets ---------------------------------------------------------------------------------------------------------


CANARY = "canary-5f1d0c"


@pytest.mark.promise("P7")
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_inline_secret_reaches_the_executor_and_nothing_else(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, elsewhere: bool
) -> None:
    brain = await fleet.gateway() if elsewhere else gateway
    scripted = await fleet.join(gateway, executor)
    waiting = asyncio.create_task(brain.dispatch(dispatch_body(org, secret=CANARY)))
    execute = await scripted.next("execute")
    assert execute["secret"] == CANARY
    await scripted.result(execute, {"said": f"it is {CANARY}"})
    answer = await waiting
    assert answer.body["status"] == "succeeded"
    assert CANARY not in str(answer.body)
    await _nowhere(fleet)


async def _nowhere(fleet: Fleet) -> None:
    for table in ("executions", "workflow_run_events", "workflow_runs"):
        rows = await fleet.ground.sql.fetch(f"select t::text as row from {table} t")
        assert not [row for row in rows if CANARY in row["row"]], table
    assert CANARY not in str([await fleet.redis.dump(key) async for key in fleet.redis.scan_iter()])


@pytest.mark.promise("P7")
async def test_an_inline_secret_that_was_lost_fails_the_request_and_says_so(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    waiting = asyncio.create_task(gateway.dispatch(dispatch_body(org, secret=CANARY)))
    execute = await scripted.next("execute")
    await scripted.drop()
    await scripted.connect()
    assert (await gateway.finished(execute["requestId"])) == {"status": "failed", "error": "SECRET_REQUIRED"}
    assert (await waiting).body["error"] == "SECRET_REQUIRED"
    await fleet.given_back(org)


@pytest.mark.promise("P7")
@pytest.mark.parametrize("reconnects", [False, True])
async def test_a_stored_secret_is_resolved_when_it_is_sent_and_masked_in_what_comes_back(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, reconnects: bool
) -> None:
    scripted = await fleet.join(gateway, executor)
    secret_id = await fleet.secret(org, CANARY)
    execute = await leased(gateway, scripted, org, secretRef={"secretId": secret_id})
    assert execute["secret"] == CANARY
    if reconnects:
        await scripted.drop()
        scripted.url = (await fleet.gateway()).url
        await scripted.connect(in_flight=listed(execute))
    await scripted.event(execute, 0, f"I say {CANARY}")
    await scripted.result(execute, {"said": [CANARY, {CANARY: 1}]}, errorMessage=CANARY)
    await scripted.next("execute_ack")
    assert CANARY not in str(await gateway.finished(execute["requestId"]))
    await _nowhere(fleet)


@pytest.mark.promise("P5", "P7")
async def test_a_secret_of_another_organization_is_not_found(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    foreign = await fleet.secret(await fleet.ground.organization(), CANARY)
    answer = await gateway.dispatch(dispatch_body(org, secretRef={"secretId": foreign}))
    assert answer.body == {"status": "failed", "error": "SECRET_NOT_FOUND"}
    await scripted.settled()
    assert scripted.unread("execute") == []
    await fleet.given_back(org)
