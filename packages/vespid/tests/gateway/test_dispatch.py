"""The internal dispatch routes: every answer of `api.md` §8."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import Fleet, Gateway, dispatch_body, request_id
from tests.support.ground import Executor

from vespid.bus.messages import AnyMessage, Offer
from vespid.gateway.brain import dispatch
from vespid_protocol.ids import OrgId, ProcessId, new_id


async def answering(executor: ScriptedExecutor, output: object = None) -> None:
    """Answer the next `execute`."""
    await executor.result(await executor.next("execute"), output)


@pytest.mark.parametrize("base", [False, True])
async def test_a_dispatch_is_answered_with_what_the_executor_says(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, base: bool
) -> None:
    scripted = await fleet.join(gateway, executor, base=base)
    body = dispatch_body(org, timeoutMs=5_000)
    waiting = asyncio.create_task(gateway.dispatch(body))
    execute = await scripted.next("execute")
    assert (execute["requestId"], execute["organizationId"]) == (request_id(body), org)
    assert (execute["userId"], execute["kind"], execute["payload"]) == (
        body["requestedByUserId"],
        "agent.execute",
        {"nodeId": "n1"},
    )
    v2_fields = {"leaseEpoch", "timeoutMs", "onLost"}
    assert v2_fields & execute.keys() == (set() if base else v2_fields)
    await scripted.received(execute)
    await scripted.event(execute, 0, "hello")
    await scripted.result(execute, {"answer": 42})
    assert (await scripted.next("execute_ack"))["requestId"] == request_id(body)
    answer = await waiting
    assert (answer.status, answer.body) == (200, {"status": "succeeded", "output": {"answer": 42}})
    assert {frame["type"] for frame in scripted.heard} <= {"welcome", "pong", "execute", "execute_ack"} - (
        {"welcome"} if base else set()
    )
    await fleet.given_back(org)


async def test_a_failure_is_an_answer_too(fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor) -> None:
    scripted = await fleet.join(gateway, executor)
    waiting = asyncio.create_task(gateway.dispatch(dispatch_body(org)))
    await scripted.fail(await scripted.next("execute"), "NODE_EXECUTION_FAILED")
    assert (await waiting).body == {"status": "failed", "error": "NODE_EXECUTION_FAILED"}


async def test_an_asynchronous_dispatch_is_accepted_once_and_then_cached(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    body = dispatch_body(org)
    for _ in range(2):
        answer = await gateway.dispatch_async(body)
        assert (answer.status, answer.body) == (201, {"requestId": request_id(body), "dispatched": True})
    assert ((await gateway.result(request_id(body))).status, (await gateway.result("x:y:1")).code) == (
        404,
        "RESULT_NOT_READY",
    )
    await answering(scripted)
    assert await gateway.finished(request_id(body)) == {"status": "succeeded", "output": {"ok": True}}
    again = await gateway.dispatch_async(body)
    assert (again.status, again.body) == (200, {"requestId": request_id(body), "dispatched": False, "cached": True})
    await scripted.drop()
    joined = await gateway.dispatch(body)
    assert (joined.status, joined.body) == (200, {"status": "succeeded", "output": {"ok": True}})
    assert len([frame for frame in scripted.heard if frame["type"] == "execute"]) == 1


@pytest.mark.promise("P5")
async def test_another_payload_or_organization_is_a_conflict(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    other_org = await fleet.ground.organization()
    other = await fleet.join(gateway, await fleet.ground.executor(other_org))
    body = dispatch_body(org)
    await gateway.dispatch_async(body)
    await answering(scripted)
    await gateway.finished(request_id(body))
    for asked in (body | {"payload": {"nodeId": "other"}}, body | {"organizationId": other_org}):
        for route in (gateway.dispatch, gateway.dispatch_async):
            answer = await route(asked)
            assert (answer.status, answer.code) == (409, "CONFLICT")
            wait = await route(asked | {"schedule": {"onUnavailable": "wait"}})
            assert (wait.status, wait.code) == (409, "CONFLICT")
    assert other.unread("execute") == []


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"organizationId": "x"}, "organizationId"),
        ({"runId": "x"}, "runId"),
        ({"nodeId": ""}, "nodeId"),
        ({"nodeId": "a:b"}, "nodeId"),
        ({"nodeId": "a b\n"}, "nodeId"),
        ({"attemptCount": 0}, "attemptCount"),
        ({"kind": "http.request"}, "kind"),
        ({"payload": []}, "payload"),
        ({"timeoutMs": 999}, "timeoutMs"),
        ({"timeoutMs": 600_001}, "timeoutMs"),
        ({"executorSelector": {"executorId": "x"}}, "executorSelector.executorId"),
        ({"executorSelector": {"pool": "mine"}}, "executorSelector.pool"),
        ({"schedule": {"onUnavailable": "wait", "maxWaitMs": -1}}, "schedule.maxWaitMs"),
    ],
)
async def test_a_bad_dispatch_names_its_field(gateway: Gateway, org: OrgId, change: dict[str, Any], field: str) -> None:
    answer = await gateway.dispatch(dispatch_body(org, **change))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert list(answer.body["details"]["fieldErrors"]) == [field]


@pytest.mark.promise("P10")
async def test_what_is_not_a_dispatch_at_all(gateway: Gateway, org: OrgId) -> None:
    body = dispatch_body(org)
    for token in (None, "", "wrong", "ü"):
        assert (await gateway.dispatch(body, token=token)).status == 401
    for raw in (b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 5_000):
        answer = await gateway.dispatch_async(raw)  # type: ignore[arg-type]
        assert (answer.status, answer.code) == (400, "BAD_REQUEST"), raw[:20]
    large = msgspec.json.encode(body | {"payload": {"x": "x" * 1_100_000}})
    assert (await gateway.dispatch(large)).status == 413  # type: ignore[arg-type]
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/internal/v1/dispatch", 405)):
        assert (await gateway.call(method, path)).status == status
    inline = await gateway.dispatch_async(body | {"secret": "s"})
    assert (inline.status, inline.body["details"]["fieldErrors"].keys()) == (400, {"secret"})


async def test_fail_is_refused_at_once_and_leaves_no_row(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    async def refusal(**others: Any) -> tuple[int, str, object]:
        answers = [await route(dispatch_body(org, **others)) for route in (gateway.dispatch, gateway.dispatch_async)]
        assert (answers[0].status, answers[0].body) == (answers[1].status, answers[1].body)
        return answers[0].status, answers[0].code, answers[0].body.get("details", {}).get("reason")

    tag = {"executorSelector": {"tag": "gpu"}}
    assert await refusal() == (503, "NO_AGENT_AVAILABLE", "NONE_CONNECTED")
    executor = await fleet.ground.executor(org)
    pin = {"executorSelector": {"executorId": executor.id}}
    assert (await refusal(**pin))[:2] == (503, "PINNED_AGENT_OFFLINE")
    scripted = await fleet.join(gateway, executor, maxInFlight=1)
    assert await refusal(**tag) == (503, "NO_AGENT_AVAILABLE", "NONE_MATCHES")
    holding = dispatch_body(org)
    assert (await gateway.dispatch_async(holding)).status == 201
    execute = await scripted.next("execute")
    assert await refusal() == (503, "NO_AGENT_AVAILABLE", "ALL_FULL")
    assert (await refusal(**pin))[:2] == (503, "EXECUTOR_OVER_CAPACITY")
    assert await fleet.ground.sql.fetchval("select count(*) from executions") == 1
    await scripted.result(execute)
    await fleet.given_back(org)


@pytest.mark.promise("P9")
async def test_an_organization_has_no_more_in_flight_than_its_quota(fleet: Fleet, org: OrgId) -> None:
    gateway = await fleet.gateway(gateway_org_max_inflight=3)
    executor = await fleet.ground.executor(org)
    scripted = await fleet.join(gateway, executor)
    bodies = [dispatch_body(org) for _ in range(6)]
    answers = await asyncio.gather(*map(gateway.dispatch_async, bodies))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [429] * 3
    assert {answer.code for answer in answers if answer.status == 429} == {"ORG_QUOTA_EXCEEDED"}
    assert await fleet.reserved(org) == 3
    for _ in range(3):
        await answering(scripted)
    await fleet.given_back(org)
    assert (await gateway.dispatch_async(dispatch_body(org))).status == 201


@pytest.mark.promise("P9")
async def test_capacity_is_never_exceeded_and_waiters_have_their_turn(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor, maxInFlight=2)
    wait = {"schedule": {"onUnavailable": "wait"}}
    bodies = [dispatch_body(org, **wait) for _ in range(12)]
    answers = await asyncio.gather(*map(gateway.dispatch_async, bodies))
    assert {answer.status for answer in answers} == {201}
    for done in range(12):
        execute = await scripted.next("execute")
        await scripted.settled()
        out = len([frame for frame in scripted.heard if frame["type"] == "execute"]) - done
        assert out <= 2
        await scripted.result(execute)
    for body in bodies:
        assert (await gateway.finished(request_id(body)))["status"] == "succeeded"
    await fleet.given_back(org)


@pytest.mark.promise("P9")
async def test_an_executor_is_filled_to_its_last_place_at_once(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor, maxInFlight=20)
    bodies = [dispatch_body(org) for _ in range(20)]
    answers = await asyncio.gather(*map(gateway.dispatch_async, bodies))
    assert {answer.status for answer in answers} == {201}
    for _ in bodies:
        await scripted.next("execute")


async def test_wait_waits_and_then_says_why_it_could_not_be(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    body = dispatch_body(org, schedule={"onUnavailable": "wait", "maxWaitMs": 600_000})
    assert (await gateway.dispatch_async(body)).status == 201
    scripted = await fleet.join(gateway, await fleet.ground.executor(org))
    await answering(scripted)
    assert (await gateway.finished(request_id(body)))["status"] == "succeeded"
    inline = await gateway.dispatch(dispatch_body(org, secret="s", schedule={"onUnavailable": "wait"}))
    assert (inline.status, list(inline.body["details"]["fieldErrors"])) == (400, ["secret"])


async def test_a_synchronous_wait_is_answered_when_its_turn_has_come(
    fleet: Fleet, gateway: Gateway, org: OrgId
) -> None:
    wait = {"schedule": {"onUnavailable": "wait", "maxWaitMs": 60_000}}
    waiting = asyncio.create_task(gateway.dispatch(dispatch_body(org, **wait)))
    scripted = await fleet.join(gateway, await fleet.ground.executor(org))
    await answering(scripted)
    assert (await waiting).body["status"] == "succeeded"


async def test_work_goes_where_its_selector_kind_and_connector_say(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    async def of(tags: tuple[str, ...] = (), **can: Any) -> ScriptedExecutor:
        return await fleet.join(gateway, await fleet.ground.executor(org, tags=tags), **can)

    gpu = await of(("gpu", "eu"))
    group = await of(("group:blue", "eu"))
    slack = await of((), kinds=["connector.action"], connectors=["slack"])
    managed_row = await fleet.ground.executor(None)
    managed = await fleet.join(gateway, managed_row)
    pinned_row = await fleet.ground.executor(org)
    pinned = await fleet.join(gateway, pinned_row)

    async def goes_to(expected: ScriptedExecutor, selector: Frame | None = None, **others: Any) -> None:
        selected = {} if selector is None else {"executorSelector": selector}
        body = dispatch_body(org, **selected, **others)
        answer = await gateway.dispatch_async(body)
        assert answer.status == 201, (selector, answer.body)
        execute = await expected.next("execute")
        assert execute["requestId"] == request_id(body)
        await expected.result(execute)
        await expected.next("execute_ack")

    await goes_to(gpu, {"tag": "gpu"})
    await goes_to(gpu, {"labels": ["eu", "gpu"]})
    await goes_to(group, {"group": "blue"})
    await goes_to(pinned, {"executorId": pinned_row.id})
    await goes_to(managed, {"pool": "managed"})
    slack_call = {
        "kind": "connector.action",
        "payload": {"connectorId": "slack", "actionId": "message.post", "input": {}},
    }
    await pinned.drop()
    await gpu.drop()
    await group.drop()
    await goes_to(slack, None, **slack_call)
    other = await gateway.dispatch_async(
        dispatch_body(org, kind="connector.action", payload={"connectorId": "github", "actionId": "x", "input": {}})
    )
    assert (other.status, other.body["details"]["reason"]) == (503, "NONE_MATCHES")


async def test_a_task_goes_where_its_sandbox_is(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    bare_row, boxed_row, none_row = [await fleet.ground.executor(org) for _ in range(3)]
    await fleet.join(gateway, bare_row, backends=["host"], maxInFlight=50)
    await fleet.join(gateway, none_row, backends=[], maxInFlight=50)

    def body(backend: str) -> Frame:
        node = {"id": "n1", "config": {"task": {"type": "shell", "script": "true"}, "sandbox": {"backend": backend}}}
        return dispatch_body(org, kind="agent.execute", payload={"node": node})

    refused = await gateway.dispatch_async(body("docker"))
    assert (refused.status, refused.body["details"]["reason"]) == (503, "NONE_MATCHES")
    boxed = await fleet.join(gateway, boxed_row, backends=["docker"], maxInFlight=1)
    asked = body("docker")
    assert (await gateway.dispatch_async(asked)).status == 201
    assert (await boxed.next("execute"))["requestId"] == request_id(asked)
    full = await gateway.dispatch_async(body("docker"))
    assert (full.status, full.body["details"]["reason"]) == (503, "ALL_FULL")
    kept = dict(await fleet.ground.sql.fetch("select id::text, backends from executors"))
    assert kept == {bare_row.id: ["host"], none_row.id: [], boxed_row.id: ["docker"]}


async def test_the_tools_that_an_agent_tells_of_are_kept_within_bounds(
    fleet: Fleet, gateway: Gateway, org: OrgId
) -> None:
    schema = {"type": "object", "title": "x" * 1_000}
    tool = {"id": "skill.greet", "description": "Greets.", "inputSchema": schema}
    hostile = {"id": "skill.deep", "inputSchema": {"a": {}}}
    for _ in range(200):
        hostile["inputSchema"] = {"a": hostile["inputSchema"]}
    problem = {"id": "skill.bad", "problem": "no manifest"}
    few, many = [await fleet.ground.executor(org) for _ in range(2)]
    await fleet.join(gateway, few, tools=[tool, hostile], toolProblems=[problem])
    await fleet.join(gateway, many, tools=[tool | {"id": f"skill.s{n}"} for n in range(200)])
    rows = await fleet.ground.sql.fetch("select id::text, capabilities from executors")
    kept = {name: msgspec.json.decode(can) for name, can in rows}
    assert kept[few.id]["tools"] == [tool, {"id": "skill.deep"}]
    assert kept[few.id]["toolProblems"] == [problem]
    assert [sorted(each) for each in kept[many.id]["tools"]] == [["description", "id"]] * 200


@pytest.mark.promise("P5")
async def test_no_organization_sees_anothers_executors(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    stranger = await fleet.ground.executor(await fleet.ground.organization())
    scripted = await fleet.join(gateway, stranger)
    answer = await gateway.dispatch_async(dispatch_body(org, executorSelector={"executorId": stranger.id}))
    assert (answer.status, answer.code) == (503, "PINNED_AGENT_OFFLINE")
    assert (await gateway.dispatch_async(dispatch_body(org))).body["details"]["reason"] == "NONE_CONNECTED"
    routes = (await gateway.call("GET", f"/internal/v1/executors/routes?organizationId={org}")).body
    assert routes == {"routes": []}
    theirs = await gateway.call("GET", f"/internal/v1/executors/routes?organizationId={stranger.org_id}")
    assert [route["executorId"] for route in theirs.body["routes"]] == [stranger.id]
    assert scripted.unread("execute") == []


# --- cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [False, True])
async def test_a_cancel_stops_what_waits_and_what_runs(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor, base: bool
) -> None:
    scripted = await fleet.join(gateway, executor, base=base, maxInFlight=1)
    wait = {"schedule": {"onUnavailable": "wait"}}
    running, waiting = dispatch_body(org), dispatch_body(org, **wait)
    await gateway.dispatch_async(running)
    execute = await scripted.next("execute")
    await gateway.dispatch_async(waiting)
    assert (await gateway.cancel(new_id())).status == 404
    for body in (waiting, running):
        assert (await gateway.cancel(request_id(body))).body == {"ok": True}
    assert await gateway.finished(request_id(waiting)) == {"status": "failed", "error": "NODE_EXECUTION_CANCELLED"}
    if not base:
        assert (await scripted.next("execute_cancel"))["requestId"] == request_id(running)
    # A base peer cannot be told: its slot is taken until it answers.
    assert await fleet.reserved(org) == 1
    await scripted.result(execute)
    await scripted.next("execute_ack")
    assert await gateway.finished(request_id(running)) == {"status": "failed", "error": "NODE_EXECUTION_CANCELLED"}
    assert (await gateway.cancel(request_id(running))).body == {"ok": True}
    await fleet.given_back(org)


async def test_a_synchronous_caller_hears_of_the_cancel(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor)
    body = dispatch_body(org)
    waiting = asyncio.create_task(gateway.dispatch(body))
    execute = await scripted.next("execute")
    await gateway.cancel(request_id(body))
    await scripted.fail(execute, "NODE_EXECUTION_CANCELLED")
    assert (await waiting).body == {"status": "failed", "error": "NODE_EXECUTION_CANCELLED"}


async def test_a_result_is_readable_for_its_time(fleet: Fleet, org: OrgId, executor: Executor) -> None:
    gateway = await fleet.gateway(results_ttl_sec=60)
    scripted = await fleet.join(gateway, executor)
    body = dispatch_body(org)
    await gateway.dispatch_async(body)
    await answering(scripted)
    await gateway.finished(request_id(body))
    await fleet.ground.sql.execute("update executions set finished_at = now() - interval '61 s'")
    assert (await gateway.result(request_id(body))).code == "RESULT_NOT_READY"


# --- placement gone wrong --------------------------------------------------------------------------------------------


async def test_a_decline_is_placed_elsewhere_and_uses_no_placement(fleet: Fleet, gateway: Gateway, org: OrgId) -> None:
    first, second = [await fleet.join(gateway, await fleet.ground.executor(org)) for _ in range(2)]
    body = dispatch_body(org, schedule={"onUnavailable": "wait"})
    await gateway.dispatch_async(body)
    tried: list[str] = []
    for _ in range(2):
        found = {asyncio.create_task(each.next("execute"), name=str(each is first)): each for each in (first, second)}
        done, others = await asyncio.wait(found, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        holder, execute = found[next(iter(done))], next(iter(done)).result()
        tried.append(holder.token)
        if len(tried) == 1:
            await holder.fail(execute, "EXECUTOR_OVER_CAPACITY")
            await holder.next("execute_ack")
        else:
            await holder.result(execute)
    assert len(set(tried)) == 2
    await gateway.finished(request_id(body))
    row = await fleet.ground.execution(request_id(body))
    assert (row["state"], row["placements"], row["lease_epoch"]) == ("succeeded", 1, 2)
    await fleet.given_back(org)


async def test_work_that_is_not_taken_closes_the_socket_and_the_third_time_pauses_the_executor(
    fleet: Fleet, org: OrgId, executor: Executor
) -> None:
    gateway = await fleet.gateway(accept_timeout_ms=100)
    scripted = await fleet.join(gateway, executor)
    body = dispatch_body(org)
    await gateway.dispatch_async(body)
    for _ in range(3):
        await scripted.next("execute")
        assert await scripted.closed() == 4408
        await scripted.connect()
    await fleet.routed(executor, is_routable=False)
    # What is leased to it is sent all the same.
    await answering(scripted)
    assert (await gateway.finished(request_id(body)))["status"] == "succeeded"


async def test_an_offer_whose_reservation_has_expired_is_not_taken_up_beyond_the_quota(
    fleet: Fleet, org: OrgId, executor: Executor
) -> None:
    gateway = await fleet.gateway(gateway_org_max_inflight=1)
    scripted = await fleet.join(gateway, executor)
    await gateway.dispatch_async(dispatch_body(org))
    await scripted.next("execute")
    late = dispatch_body(org, schedule={"onUnavailable": "wait"})
    await gateway.dispatch_async(late)
    house = gateway.service.house
    await house.mail.send(house.process_id, Offer(request_id(late), org, executor.id, 1, 1))  # type: ignore[arg-type]
    await scripted.settled()
    assert scripted.unread("execute") == []
    assert await fleet.ground.state(request_id(late)) == "pending"


async def test_a_lost_offer_is_made_to_another_executor(
    fleet: Fleet, gateway: Gateway, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "OFFER_ANSWER_S", 0.5)
    executors = [await fleet.ground.executor(org) for _ in range(2)]
    scripted = {executor.id: await fleet.join(gateway, executor) for executor in executors}
    mail = gateway.service.house.mail
    send = mail.send
    lost: asyncio.Future[Offer] = asyncio.get_running_loop().create_future()

    async def lose_first(to: ProcessId, message: AnyMessage) -> bool:
        if isinstance(message, Offer) and not lost.done():
            lost.set_result(message)
            return True
        return await send(to, message)

    monkeypatch.setattr(mail, "send", lose_first)
    waiting = asyncio.create_task(gateway.dispatch(dispatch_body(org)))
    del scripted[(await lost).executor_id]
    (other,) = scripted.values()
    await answering(other, "done")
    assert (await waiting).body["output"] == "done"
