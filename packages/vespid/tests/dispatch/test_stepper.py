"""Steps and results: nobody holds a run, whoever comes second makes his step again from what is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.support.ground import SHELL, Ground, Lease
from tests.support.organization import until

from vespid.bus.channels import org_channel
from vespid.bus.errors import BusUnavailable
from vespid.bus.org_news import OrgNews, decode
from vespid.dispatch import stepper as stepper_module
from vespid.dispatch.house import House
from vespid.dispatch.rows import result_event
from vespid.store.executions import CloudWork, Finish, Finished, Grant, Granted
from vespid.store.runs import cancel_run
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId

NewHouse = Callable[[], Awaitable[House]]
OK = msgspec.Raw(b'{"ok":true}')


async def types(ground: Ground, run: RunId) -> list[str]:
    """The run's history, without what the scheduler says in its own time."""
    return [event["event_type"] for event in await ground.events(run) if event["event_type"] != "node_waiting"]


class Held:
    """A node of a run, leased to an executor."""

    def __init__(self, org: OrgId, run: RunId, lease: Lease, node_id: str = "n1", attempt: int = 1) -> None:
        self.org, self.run, self.lease, self.node_id, self.attempt = org, run, lease, node_id, attempt
        self.request = RequestId(f"{run}:{node_id}:{attempt}")

    async def finish(self, house: House, error: str | None = None) -> Finished:
        finish = Finish(
            request=self.request,
            executor=self.lease.executor,
            connection_epoch=self.lease.epoch,
            status="succeeded" if error is None else "failed",
            output=OK if error is None else None,
            error=error,
        )
        event = result_event(self.node_id, self.attempt, output=OK, error=error)
        return await house.stepper.finish(self.org, self.run, event, finish)


async def lease_of(ground: Ground, org: OrgId) -> Lease:
    return await ground.connected(await ground.executor(org), await ground.process())


async def leased(house: House, ground: Ground, org: OrgId, run: RunId, lease: Lease, **node: Any) -> Held:
    held = Held(org, run, lease, **node)
    answer = await house.executions.grant(Grant(held.request, lease.executor, lease.epoch, lease.edge))
    assert isinstance(answer, Granted), answer
    return held


async def test_a_first_step_starts_the_run_and_puts_its_work_down(house: House, ground: Ground, org: OrgId) -> None:
    run = await ground.run(org, await ground.workflow(org))
    await house.stepper.step(org, run)
    assert await types(ground, run) == ["run_started", "node_started", "node_dispatched"]
    assert await ground.state(f"{run}:n1:1") == "pending"
    assert (await ground.run_row(run))["status"] == "running"
    # Only its work's end will bring anything new.
    assert not await ground.is_due(run)


async def test_an_organization_is_told_when_a_run_starts_and_when_it_ends_and_not_in_between(
    house: House, ground: Ground, org: OrgId
) -> None:
    told: list[OrgNews] = []
    leave = await house.fanout.subscribe(org_channel(org), lambda data: told.append(decode(data or b"")))
    run = await ground.run(org, await ground.workflow(org, SHELL, SHELL | {"id": "n2"}))
    await house.stepper.step(org, run)
    lease = await lease_of(ground, org)
    await (await leased(house, ground, org, run, lease)).finish(house)
    assert told == [OrgNews("runs", run)]
    await (await leased(house, ground, org, run, lease, node_id="n2")).finish(house)
    await until(lambda: len(told) > 1, "the end is told")
    assert told == [OrgNews("runs", run)] * 2
    await leave()


async def test_an_organization_is_told_when_people_are_asked(house: House, ground: Ground, org: OrgId) -> None:
    told: list[OrgNews] = []
    leave = await house.fanout.subscribe(org_channel(org), lambda data: told.append(decode(data or b"")))
    run = await ground.run(org, await ground.workflow(org, SHELL | {"approval": {"by": "admin"}}))
    await house.stepper.step(org, run)
    await until(lambda: OrgNews("approvals") in told, "that people are asked is told")
    told.clear()
    async with house.db.tenant(org) as connection:
        await cancel_run(connection, UUID(org), UUID(run))
    await house.stepper.step(org, run)
    await until(lambda: OrgNews("approvals") in told, "that nobody need answer is told")
    await leave()


@pytest.mark.promise("P1", "P2")
async def test_steppers_that_meet_write_each_step_once(new_house: NewHouse, ground: Ground, org: OrgId) -> None:
    houses = [await new_house() for _ in range(3)]
    workflow = await ground.workflow(org)
    runs = [await ground.run(org, workflow) for _ in range(5)]
    await asyncio.gather(*(house.stepper.step(org, run) for house in houses for run in runs for _ in range(3)))
    for run in runs:
        assert await types(ground, run) == ["run_started", "node_started", "node_dispatched"]


@pytest.mark.promise("P1", "P2")
async def test_a_result_is_applied_where_it_is_received(house: House, ground: Ground, org: OrgId) -> None:
    run = await ground.run(org, await ground.workflow(org, SHELL, SHELL | {"id": "n2"}))
    await house.stepper.step(org, run)
    lease = await lease_of(ground, org)
    held = await leased(house, ground, org, run, lease)
    assert (await held.finish(house)).outcome == "applied"
    assert await ground.state(f"{run}:n2:1") == "pending"
    assert (await held.finish(house)).outcome == "duplicate"
    assert (await types(ground, run)).count("node_succeeded") == 1


@pytest.mark.promise("P1", "P3")
async def test_a_process_that_remembers_an_older_run_keeps_the_result_for_whoever_reads_it_again(
    new_house: NewHouse, ground: Ground, org: OrgId
) -> None:
    stale, fresh = await new_house(), await new_house()
    run = await ground.run(org, await ground.workflow(org, SHELL, SHELL | {"id": "n2"}))
    await stale.stepper.step(org, run)
    lease = await lease_of(ground, org)
    held = await leased(stale, ground, org, run, lease)
    # Somebody else moves the run on, and the first has not heard of it.
    await ground.sql.execute("update workflow_runs set version = version + 1")
    assert (await held.finish(stale)).outcome == "deferred"
    assert await ground.is_due(run)
    await fresh.stepper.step(org, run)
    assert (await types(ground, run))[-3:] == ["node_succeeded", "node_started", "node_dispatched"]
    second = await leased(fresh, ground, org, run, lease, node_id="n2")
    assert (await second.finish(fresh)).outcome == "applied"
    assert (await ground.run_row(run))["status"] == "succeeded"
    # And the one that was wrong is right again.
    assert stale.stepper._remembered.get(run) is None


@pytest.mark.promise("P1")
async def test_a_machine_that_raises_defers_results_and_fails_the_run_after_the_fifth_step(
    house: House, ground: Ground, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await ground.run(org, await ground.workflow(org))
    await house.stepper.step(org, run)
    held = await leased(house, ground, org, run, await lease_of(ground, org))

    def broken(*_known: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr(stepper_module, "step", broken)
    assert (await held.finish(house)).outcome == "deferred"
    for _ in range(5):
        assert (await ground.run_row(run))["status"] == "running"
        await house.stepper.step(org, run)
    row = await ground.run_row(run)
    assert (row["status"], row["error"], row["error_message"]) == ("failed", "INTERNAL_ERROR", "KeyError")
    assert (await types(ground, run))[-1] == "run_failed"
    await house.stepper.step(org, run)


@pytest.mark.promise("P1")
async def test_a_run_that_is_cancelled_before_its_first_step_never_starts(
    house: House, ground: Ground, org: OrgId
) -> None:
    run = await ground.run(org, await ground.workflow(org))
    await ground.sql.fetchval("select vespid_cancel_run($1, $2)", UUID(org), UUID(run))
    await house.stepper.step(org, run)
    assert (await ground.run_row(run))["status"] == "cancelled"
    assert await ground.sql.fetchval("select count(*) from executions") == 0


@pytest.mark.promise("P5")
async def test_a_run_is_not_there_for_another_organization(house: House, ground: Ground, org: OrgId) -> None:
    run = await ground.run(org, await ground.workflow(org))
    other = await ground.organization()
    await house.stepper.step(other, run)
    assert await ground.events(run) == []
    assert await house.steps.load(other, run) is None


class CountedCloud:
    """A cloud runner with room for two, that runs nothing."""

    def __init__(self, process_id: ProcessId) -> None:
        self._process_id = process_id
        self.free = 2
        self.launched: list[CloudWork] = []

    def reserve(self) -> ProcessId | None:
        if self.free == 0:
            return None
        self.free -= 1
        return self._process_id

    def give_back(self) -> None:
        self.free += 1

    def launch(self, work: CloudWork) -> None:
        self.launched.append(work)


HTTP = {"type": "http.request", "config": {"method": "GET", "url": "http://x"}}


async def test_the_room_of_a_step_that_was_not_written_is_given_back(
    house: House, ground: Ground, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = CountedCloud(house.process_id)
    house.run_cloud_with(cloud)
    run = await ground.run(org, await ground.workflow(org, HTTP | {"id": "a"}))
    written = house.steps.apply

    async def too_late(item: Any) -> Any:
        await ground.sql.execute("update workflow_runs set version = version + 1")
        return await written(item)

    monkeypatch.setattr(house.steps, "apply", too_late)
    await house.stepper.step(org, run)
    assert (cloud.free, cloud.launched) == (2, [])
    monkeypatch.setattr(house.steps, "apply", written)
    await house.stepper.step(org, run)
    assert (cloud.free, len(cloud.launched)) == (1, 1)
    row = await ground.execution(f"{run}:a:1")
    assert (row["state"], str(row["holder_process"])) == ("dispatched", house.process_id)


async def test_work_for_which_no_process_has_room_stays_pending(house: House, ground: Ground, org: OrgId) -> None:
    cloud = CountedCloud(house.process_id)
    cloud.free = 0
    house.run_cloud_with(cloud)
    run = await ground.run(org, await ground.workflow(org, HTTP | {"id": "a"}))
    await house.stepper.step(org, run)
    assert await ground.state(f"{run}:a:1") == "pending"


@pytest.mark.promise("P1")
async def test_with_redis_away_work_is_put_down_and_offered_later(
    house: House, ground: Ground, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: object, **_others: object) -> None:
        raise BusUnavailable("away")

    choose = house.capacity.choose
    monkeypatch.setattr(house.capacity, "choose", away)
    run = await ground.run(org, await ground.workflow(org))
    await house.stepper.step(org, run)
    await house.scheduler.offer_pending([RequestId(f"{run}:n1:1")])
    assert await ground.state(f"{run}:n1:1") == "pending"
    monkeypatch.setattr(house.capacity, "choose", choose)
    await house.scheduler.offer_pending([RequestId(f"{run}:n1:1")])
    async with asyncio.timeout(10):
        while "node_waiting" not in [event["event_type"] for event in await ground.events(run)]:
            await asyncio.sleep(0.01)
