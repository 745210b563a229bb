"""Runs that are created with their first step: one commit, and nothing lost where it cannot be."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.support.ground import Ground

from vespid.bus.channels import CLOUD_QUEUE
from vespid.dispatch import stepper as stepper_module
from vespid.dispatch.house import House
from vespid.dispatch.starter import RunStarter
from vespid.store.runs import Created, NewRun
from vespid_protocol.ids import OrgId, RunId, new_id

HTTP = {"id": "n1", "type": "http.request", "config": {"method": "GET", "url": "http://127.0.0.1:1/"}}


def new_run(org: OrgId, workflow: str, given: object = None) -> NewRun:
    return NewRun(
        org=org,
        id=RunId(new_id()),
        workflow_id=workflow,
        trigger_type="manual",
        max_attempts=3,
        user_id=None,
        input=msgspec.Raw(msgspec.json.encode(given)),
    )


async def create(house: House, run: NewRun) -> Created:
    starter = RunStarter(house)
    await starter.start()
    try:
        return await starter.create(run)
    finally:
        await starter.stop()


async def history(ground: Ground, run: NewRun) -> list[str]:
    """The run's events, without what the scheduler says in its own time."""
    return [event["event_type"] for event in await ground.events(run.id) if event["event_type"] != "node_waiting"]


async def test_a_run_and_its_first_step_are_one_statement(house: House, ground: Ground, org: OrgId) -> None:
    run = new_run(org, await ground.workflow(org), {"x": 1})
    created = await create(house, run)
    assert created.outcome == "created"
    assert created.step is not None
    assert (created.step.version, created.step.seq) == (1, 3)
    row = await ground.run_row(run.id)
    assert (row["status"], row["version"], row["attempt_count"]) == ("running", 1, 1)
    assert row["started_at"] is not None
    assert not await ground.is_due(run.id)
    assert await history(ground, run) == ["run_started", "node_started", "node_dispatched"]
    stepped = await ground.run(org, await ground.workflow(org), given={"x": 1})
    await house.stepper.step(org, stepped)
    # The same cursor, whichever way it came to be.
    cursors = [msgspec.json.decode((await ground.run_row(id))["cursor"]) for id in (run.id, stepped)]
    assert _undated(cursors[0]) == _undated(cursors[1])


async def test_a_run_that_is_over_in_its_first_step_is_written_so(house: House, ground: Ground, org: OrgId) -> None:
    condition = {"id": "c", "type": "condition", "config": {"path": "input.x", "op": "eq", "value": 1}}
    workflow = await ground.workflow(org, condition)
    run = new_run(org, workflow, {"x": 1})
    await create(house, run)
    row = await ground.run_row(run.id)
    assert (row["status"], row["error"]) == ("succeeded", None)
    assert row["finished_at"] is not None
    assert not await ground.is_due(run.id)


@pytest.mark.promise("P1", "P2")
async def test_a_run_created_twice_is_one_run_with_one_first_step(house: House, ground: Ground, org: OrgId) -> None:
    run = new_run(org, await ground.workflow(org))
    first, second = await create(house, run), await create(house, run)
    assert first.step is not None
    assert (second.outcome, second.step) == ("created", None)
    assert not await ground.is_due(run.id)
    assert await history(ground, run) == ["run_started", "node_started", "node_dispatched"]


@pytest.mark.promise("P1")
async def test_what_cannot_be_stepped_at_once_is_left_due(
    house: House, ground: Ground, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_known: object) -> None:
        raise KeyError("of ours")

    workflow = await ground.workflow(org)
    with monkeypatch.context() as patched:
        patched.setattr(stepper_module, "step", broken)
        run = new_run(org, workflow)
        assert (await create(house, run)).step is None
    assert (await ground.run_row(run.id))["status"] == "queued"
    assert await ground.is_due(run.id)
    await house.stepper.step(org, run.id)
    assert await history(ground, run) == ["run_started", "node_started", "node_dispatched"]


@pytest.mark.promise("P1")
async def test_a_first_step_that_postgres_refuses_leaves_the_run_to_a_worker(
    house: House, ground: Ground, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_row = stepper_module.execution_row

    def unwritable(*args: Any) -> Any:
        return msgspec.structs.replace(execution_row(*args), timeout_ms=2**40)

    monkeypatch.setattr(stepper_module, "execution_row", unwritable)
    run = new_run(org, await ground.workflow(org))
    created = await create(house, run)
    assert (created.outcome, created.step) == ("created", None)
    assert await ground.is_due(run.id)
    assert await ground.sql.fetchval("select count(*) from executions") == 0


@pytest.mark.promise("P9")
async def test_a_foreign_workflow_is_not_found(house: House, ground: Ground, org: OrgId) -> None:
    foreign = await ground.workflow(await ground.organization())
    created = await create(house, new_run(org, foreign))
    assert (created.outcome, created.step) == ("not_found", None)
    assert await ground.sql.fetchval("select count(*) from workflow_runs") == 0


async def test_only_a_published_workflow_runs(house: House, ground: Ground, org: OrgId) -> None:
    published = await ground.workflow(org)
    draft = new_id()
    await ground.sql.execute(
        """insert into workflows (id, organization_id, family_id, revision, name, status, dsl)
           select $1, organization_id, family_id, 2, name, 'draft', dsl from workflows where id = $2""",
        UUID(draft),
        UUID(published),
    )
    assert (await create(house, new_run(org, draft))).outcome == "not_published"
    # It may still change, so nobody may remember it.
    await ground.sql.execute(
        "update workflows set dsl = jsonb_set(dsl, '{nodes,0,id}', '\"other\"') where id = $1", UUID(draft)
    )
    await ground.sql.execute(
        "update workflows set status = 'published', published_at = now() where id = $1", UUID(draft)
    )
    run = new_run(org, draft)
    await create(house, run)
    assert await ground.state(f"{run.id}:other:1") == "pending"


async def test_work_of_the_cloud_is_put_down_for_whoever_has_room(house: House, ground: Ground, org: OrgId) -> None:
    run = new_run(org, await ground.workflow(org, HTTP))
    woken: list[str] = []
    house.mail.wake = lambda queue, _item: woken.append(queue)  # type: ignore[method-assign]
    await create(house, run)
    assert await ground.state(f"{run.id}:n1:1") == "pending"
    assert CLOUD_QUEUE in woken


def _undated(cursor: dict[str, Any]) -> dict[str, Any]:
    """Without its times."""
    return {
        key: _undated(value) if isinstance(value, dict) else None if key.endswith("At") else value
        for key, value in cursor.items()
    }
