"""What people have to allow, through the machine and the database: asked, decided, and gone on with."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from tests.support.ground import SHELL, Ground, Lease

from vespid.dispatch.house import House
from vespid.dispatch.rows import result_event
from vespid.store.approvals import ApprovalRow, decide_approval, list_approvals
from vespid.store.executions import CloudWork, Finish, Finished, Grant, Granted
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId

NewHouse = Callable[[], Awaitable[House]]
GATED = SHELL | {"approval": {"by": "member"}}
AGENT = {
    "id": "n1",
    "type": "agent.run",
    "config": {
        "engine": {"id": "vespid.loop.v1", "model": "m"},
        "prompt": {"instructions": "do it"},
        "execution": {"mode": "executor"},
        "tools": {"allow": ["memory.get"], "approval": {"memory.*": {"by": "member"}}},
    },
}
LOOP = {"state": "calling", "canary": "of the loop"}


class Walk:
    """One run, one person, one executor."""

    def __init__(self, ground: Ground, house: House, org: OrgId) -> None:
        self.ground, self.house, self.org = ground, house, org
        self.run = RunId("")
        self.person = uuid4()
        self.lease: Lease | None = None

    async def begin(self, node: dict[str, Any], **more: Any) -> None:
        sql = self.ground.sql
        await sql.execute("insert into users (id, email, password_hash) values ($1, 'p@x.test', 'x')", self.person)
        await sql.execute("insert into memberships values ($1, $2, 'owner')", UUID(self.org), self.person)
        self.lease = await self.ground.connected(await self.ground.executor(self.org), await self.ground.process())
        self.run = await self.ground.run(self.org, await self.ground.workflow(self.org, node), **more)
        await self.step()

    async def step(self, house: House | None = None) -> None:
        await (house or self.house).stepper.step(self.org, self.run)

    async def finish(self, attempt: int, output: object = None, error: str | None = None) -> Finished:
        """The executor takes an attempt and answers."""
        assert self.lease is not None
        request = RequestId(f"{self.run}:n1:{attempt}")
        grant = Grant(request, self.lease.executor, self.lease.epoch, self.lease.edge)
        assert isinstance(await self.house.executions.grant(grant), Granted)
        raw = msgspec.Raw(msgspec.json.encode(output))
        finish = Finish(
            request=request,
            executor=self.lease.executor,
            connection_epoch=self.lease.epoch,
            status="succeeded" if error is None else "failed",
            output=raw,
            error=error,
        )
        event = result_event("n1", attempt, output=raw, error=error)
        return await self.house.stepper.finish(self.org, self.run, event, finish)

    async def asked(self) -> list[ApprovalRow]:
        """What waits, in the order of the calls."""
        async with self.house.db.tenant(self.org) as connection:
            rows = await list_approvals(connection, UUID(self.org), None, UUID(self.run), True, 100)
        return sorted(rows, key=lambda row: row.n or 0)

    async def decide(self, row: ApprovalRow, verdict: Any = "approved", comment: str | None = None) -> str:
        async with self.house.db.tenant(self.org) as connection:
            return await decide_approval(
                connection, UUID(self.org), row.id, self.person, None, verdict, row.hash, comment
            )

    async def told(self, attempt: int) -> dict[str, Any]:
        """What is added to the payload where the attempt is sent."""
        request = RequestId(f"{self.run}:n1:{attempt}")
        assert (await self.ground.execution(request))["kind"] == "agent.run"
        so_far = await self.house.executions.read_resume(self.org, request)
        return {
            "resume": msgspec.json.decode(so_far.resume or "null"),
            "approvals": msgspec.json.decode(so_far.decided or b"[]"),
        }

    async def types(self) -> list[str]:
        return [event["event_type"] for event in await self.ground.events(self.run)]

    async def status(self) -> tuple[str, str | None]:
        row = await self.ground.run_row(self.run)
        return row["status"], row["error"]


@pytest.fixture
async def walk(ground: Ground, house: House, org: OrgId) -> Walk:
    return Walk(ground, house, org)


class Greedy:
    """A cloud runner that would take anything."""

    def __init__(self, process_id: ProcessId) -> None:
        self._process_id = process_id
        self.launched: list[CloudWork] = []

    def reserve(self) -> ProcessId | None:
        return self._process_id

    def give_back(self) -> None:
        pass

    def launch(self, work: CloudWork) -> None:
        self.launched.append(work)


def parked(*calls: int) -> dict[str, object]:
    approvals = [{"n": n, "tool": "memory.get", "arguments": {"n": n}, "digest": f"{n:064x}"} for n in calls]
    return {"loop": LOOP, "approvals": approvals}


async def test_a_node_runs_after_it_was_allowed(walk: Walk) -> None:
    await walk.begin(GATED)
    assert await walk.ground.state(f"{walk.run}:n1:1") == "pending"
    assert not await walk.ground.is_due(walk.run)
    (row,) = await walk.asked()
    assert await walk.decide(row) == "decided"
    await walk.step()
    assert (await walk.ground.execution(f"{walk.run}:n1:2"))["placement"] == "executor"
    assert (await walk.finish(2, {"ok": True})).outcome == "applied"
    assert await walk.status() == ("succeeded", None)
    seqs = [event["seq"] for event in await walk.ground.events(walk.run)]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_what_people_are_asked_is_held_by_no_process(walk: Walk) -> None:
    cloud = Greedy(walk.house.process_id)
    walk.house.run_cloud_with(cloud)
    await walk.begin(GATED)
    row = await walk.ground.execution(f"{walk.run}:n1:1")
    assert (row["state"], row["holder_process"], cloud.launched) == ("pending", None, [])


@pytest.mark.promise("P1")
async def test_a_run_that_nobody_allows_ends_by_the_time_of_its_question(walk: Walk) -> None:
    await walk.begin(GATED)
    request = f"{walk.run}:n1:1"
    await walk.ground.let_pass("executions", "request_id", request, "act_by", "sweep_at")
    await walk.house.executions.sweep()
    await walk.step()
    assert await walk.status() == ("failed", "APPROVAL_EXPIRED")


@pytest.mark.promise("P1")
async def test_of_a_decision_and_a_cancel_at_once_the_run_ends_once(new_house: NewHouse, walk: Walk) -> None:
    other = await new_house()
    await walk.begin(GATED)
    (row,) = await walk.asked()
    async with asyncio.timeout(30):
        await asyncio.gather(
            walk.decide(row),
            walk.ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(walk.org), UUID(walk.run)),
            walk.step(),
            walk.step(other),
        )
    for _ in range(3):
        await walk.step()
    assert await walk.status() == ("cancelled", None)
    assert (await walk.types())[-1] == "run_cancelled"
    assert await walk.ground.sql.fetchval("select count(*) from executions where finished_at is null") == 0
    assert await walk.asked() == []


async def test_a_parked_agent_goes_on_when_the_last_of_its_calls_is_decided(walk: Walk) -> None:
    await walk.begin(AGENT)
    assert (await walk.finish(1, parked(0, 1), "APPROVAL_REQUIRED")).outcome == "applied"
    first, second = await walk.asked()
    assert first.request_id == f"{walk.run}:n1:2"
    await walk.decide(first)
    await walk.step()
    assert await walk.ground.sql.fetchval("select count(*) from executions") == 2
    await walk.decide(second, "denied", "never")
    await walk.step()
    payload = await walk.told(3)
    assert payload["resume"] == LOOP
    assert payload["approvals"] == [
        {"n": 0, "tool": "memory.get", "digest": f"{0:064x}", "decision": "approved"},
        {"n": 1, "tool": "memory.get", "digest": f"{1:064x}", "decision": "denied", "comment": "never"},
    ]
    # The next round brings what was decided before, too.
    await walk.finish(3, parked(2), "APPROVAL_REQUIRED")
    (third,) = await walk.asked()
    await walk.decide(third)
    await walk.step()
    assert [each["n"] for each in (await walk.told(5))["approvals"]] == [0, 1, 2]
    await walk.finish(5, {"text": "done"})
    assert await walk.status() == ("succeeded", None)
    assert (await walk.ground.run_row(walk.run))["attempt_count"] == 1


async def test_calls_that_nobody_decided_in_time_are_told_to_the_agent(walk: Walk) -> None:
    await walk.begin(AGENT)
    await walk.finish(1, parked(0), "APPROVAL_REQUIRED")
    await walk.ground.let_pass("executions", "request_id", f"{walk.run}:n1:2", "act_by", "sweep_at")
    await walk.house.executions.sweep()
    await walk.step()
    assert (await walk.told(3))["approvals"][0]["decision"] == "expired"
    assert (await walk.told(3))["resume"] == LOOP


@pytest.mark.promise("P1", "P3")
async def test_what_a_process_parked_another_goes_on_with(new_house: NewHouse, walk: Walk) -> None:
    await walk.begin(AGENT)
    await walk.finish(1, parked(0), "APPROVAL_REQUIRED")
    (row,) = await walk.asked()
    await walk.decide(row)
    # It has seen nothing of the run so far.
    await walk.step(await new_house())
    assert (await walk.told(3))["resume"] == LOOP


async def test_a_result_that_is_only_kept_asks_when_a_worker_takes_it_up(walk: Walk) -> None:
    await walk.begin(AGENT)
    # Somebody moved the run on meanwhile.
    await walk.ground.sql.execute("update workflow_runs set version = version + 1")
    assert (await walk.finish(1, parked(0), "APPROVAL_REQUIRED")).outcome == "deferred"
    assert await walk.asked() == []
    await walk.step()
    assert len(await walk.asked()) == 1


async def test_a_loop_is_neither_in_the_runs_history_nor_in_its_cursor_nor_its_nodes_output(walk: Walk) -> None:
    await walk.begin(AGENT)
    await walk.finish(1, parked(0), "APPROVAL_REQUIRED")
    told = [event["payload"] or "" for event in await walk.ground.events(walk.run)]
    assert "of the loop" not in "".join(told)
    assert "of the loop" not in (await walk.ground.run_row(walk.run))["cursor"]


async def test_an_unreadable_question_fails_the_node(walk: Walk) -> None:
    await walk.begin(AGENT)
    await walk.finish(1, {"loop": LOOP, "approvals": [{"n": 0}]}, "APPROVAL_REQUIRED")
    assert await walk.status() == ("failed", "APPROVAL_REQUIRED")
    assert await walk.asked() == []


async def test_a_retry_after_a_lost_agent_goes_on_with_the_loop_it_left(walk: Walk) -> None:
    await walk.begin(AGENT | {"retry": {"maxAttempts": 2, "backoffMs": 0}})
    await walk.finish(1, {"loop": LOOP}, "AGENT_DISCONNECTED")
    await walk.step()
    assert (await walk.told(2))["resume"] == LOOP
    assert (await walk.told(2))["approvals"] == []
