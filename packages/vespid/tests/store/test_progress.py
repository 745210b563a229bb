"""What the holder of a server's own work keeps of it: who may, what the next holder and the next attempt are given."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.support.ground import Ground, new_row

from vespid.store import connections
from vespid.store.executions import CloudWork, EventItem, ExecutionStore, Finish, Keep, NewRow
from vespid.store.pool import Database
from vespid_protocol.ids import OrgId, ProcessId, RunId, new_id


class Scene:
    """A run whose node an agent loop of one of two workers works on."""

    def __init__(self, ground: Ground, store: ExecutionStore, org: OrgId, run_id: RunId, worker: ProcessId) -> None:
        self.ground, self.store, self.org, self.run_id, self.worker = ground, store, org, run_id, worker
        self.seq = -1

    async def held(self, **others: Any) -> NewRow:
        fields = {"in_run": True, "placement": "gateway", "kind": "agent.run", "holder": self.worker}
        row = new_row(self.org, self.run_id, **({"on_lost": "resend"} | fields | others))
        await self.store.create(row)
        return row

    async def claimed(self, by: ProcessId) -> CloudWork:
        (work,) = await self.store.claim_cloud(by, ["gateway"], [], 10)
        return work

    async def keep(self, row: NewRow, *told: str, epoch: int = 1, by: ProcessId | None = None, **others: Any) -> str:
        events = [EventItem("remote_event", "info", "n1", "agent.run", kind, {"kind": kind}) for kind in told]
        self.seq += len(events)
        fields = {"request": row.request_id, "process": by or self.worker, "epoch": epoch, "last_event_seq": self.seq}
        return (await self.store.keep(Keep(events=events, **(fields | others)))).outcome

    async def told(self) -> list[str]:
        return [event["message"] for event in await self.ground.events(self.run_id)]

    async def resume(self, row: NewRow) -> str | None:
        return (await self.store.read_resume(self.org, row.request_id)).resume

    async def fail(self, row: NewRow, output: object = None) -> None:
        raw = None if output is None else msgspec.Raw(msgspec.json.encode(output))
        finish = Finish(request=row.request_id, process=self.worker, epoch=1, status="failed", error="X", output=raw)
        await self.store.finish(finish)


@pytest.fixture
async def scene(ground: Ground, executions: ExecutionStore) -> Scene:
    org = await ground.organization()
    run_id = await ground.run(org, await ground.workflow(org))
    return Scene(ground, executions, org, run_id, await ground.process("worker"))


@pytest.mark.promise("P2")
async def test_what_is_kept_and_what_is_told_are_one_commit(scene: Scene) -> None:
    row = await scene.held()
    assert await scene.keep(row, "tool_call", progress='{"turns":1}') == "kept"
    assert await scene.keep(row, "text_delta") == "kept"
    assert (await scene.told(), await scene.resume(row)) == (["tool_call", "text_delta"], '{"turns":1}')
    assert (await scene.ground.run_row(scene.run_id))["event_seq"] == 2


async def test_events_that_were_written_already_are_not_written_again(scene: Scene) -> None:
    row = await scene.held()
    await scene.keep(row, "tool_call", "tool_result")
    assert await scene.keep(row, "tool_result", last_event_seq=1, progress="{}") == "kept"
    assert (await scene.told(), await scene.resume(row)) == (["tool_call", "tool_result"], "{}")


@pytest.mark.promise("P4")
async def test_who_does_not_hold_it_keeps_nothing(scene: Scene) -> None:
    row = await scene.held()
    other = await scene.ground.process("worker")
    assert await scene.keep(row, "tool_call", by=other, progress="{}") == "fenced"
    assert await scene.keep(row, "tool_call", epoch=2, progress="{}") == "fenced"
    await scene.store.cancel(row.request_id)
    assert await scene.keep(row, "tool_call", progress="{}") == "fenced"
    assert (await scene.told(), await scene.resume(row)) == ([], None)


@pytest.mark.promise("P4")
async def test_the_next_holder_goes_on_and_the_last_one_is_out(scene: Scene, database: Database) -> None:
    row = await scene.held()
    await scene.keep(row, progress="first")
    await scene.ground.let_pass("processes", "id", UUID(scene.worker), "lease_until")
    await connections.sweep_processes(database, 1_000)
    other = await scene.ground.process("worker")
    assert (await scene.claimed(other)).lease_epoch == 2
    assert await scene.keep(row, progress="stale") == "fenced"
    assert await scene.resume(row) == "first"
    assert await scene.keep(row, epoch=2, by=other, progress="second") == "kept"
    assert await scene.resume(row) == "second"


@pytest.mark.promise("P12")
async def test_what_is_handed_over_is_free_at_once_and_counts_no_placement(scene: Scene) -> None:
    row = await scene.held()
    other = await scene.ground.process("worker")
    assert not await scene.store.hand_over(row.request_id, other, 1)
    assert await scene.store.hand_over(row.request_id, scene.worker, 1)
    assert not await scene.store.hand_over(row.request_id, scene.worker, 1)
    assert (await scene.claimed(other)).lease_epoch == 2
    assert (await scene.ground.execution(row.request_id))["placements"] == 1


async def test_only_what_comes_further_is_not_quarantined(scene: Scene) -> None:
    row = await scene.held()
    await scene.ground.sql.execute("update executions set placements = 3")
    await scene.keep(row, progress="{}")
    assert (await scene.ground.execution(row.request_id))["placements"] == 3
    await scene.keep(row, progress="{}", further=True)
    assert (await scene.ground.execution(row.request_id))["placements"] == 1


async def test_the_next_attempt_goes_on_from_the_newest_that_left_something(scene: Scene) -> None:
    first = await scene.held()
    await scene.keep(first, progress='{"of":"first"}')
    await scene.fail(first)
    second = await scene.held(attempt=2)
    assert await scene.resume(second) == '{"of":"first"}'
    await scene.keep(second, progress='{"of":"second"}')
    await scene.fail(second, {"loop": {"of": "parked"}})
    await scene.held(attempt=3, kind="approval")
    assert msgspec.json.decode(await scene.resume(await scene.held(attempt=4)) or "") == {"of": "parked"}
    assert await scene.resume(await scene.held(node_id="n2", attempt=2)) is None


async def test_what_succeeded_keeps_nothing(scene: Scene) -> None:
    row = await scene.held()
    await scene.keep(row, progress="{}")
    await scene.store.finish(Finish(request=row.request_id, process=scene.worker, epoch=1, status="succeeded"))
    assert await scene.resume(row) is None


async def test_tool_events_of_the_node_come_in_order_the_newest_where_there_are_many(scene: Scene) -> None:
    row = await scene.held()
    await scene.keep(row, "tool_call", "text_delta", "tool_result", "tool_call")
    prior = await scene.store.read_resume(scene.org, row.request_id, prior_max_chars=10_000)
    kinds = [event["kind"] for event in msgspec.json.decode(prior.prior or b"[]")]
    assert kinds == ["tool_call", "tool_result", "tool_call"]
    few = await scene.store.read_resume(scene.org, row.request_id, prior_max_chars=len('{"kind": "tool_call"}') + 1)
    assert [event["kind"] for event in msgspec.json.decode(few.prior or b"[]")] == ["tool_call"]


@pytest.mark.promise("P5")
async def test_another_organization_is_given_nothing(scene: Scene, ground: Ground) -> None:
    row = await scene.held()
    await scene.keep(row, "tool_call", progress="{}")
    found = await scene.store.read_resume(OrgId(new_id()), row.request_id, prior_max_chars=10_000)
    assert (found.resume, found.prior) == (None, None)
