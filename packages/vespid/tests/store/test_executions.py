"""One execution, statement by statement: what each function does, and what each of its guards refuses."""

import asyncio
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.support.ground import Executor, Ground, Lease, new_row

from vespid.store import connections
from vespid.store.executions import (
    Append,
    EventItem,
    ExecutionStore,
    Finish,
    GiveBack,
    Grant,
    Granted,
    NewRow,
    NotGranted,
    WaitNote,
)
from vespid.store.pool import Database
from vespid.store.steps import StepItem, StepStore
from vespid_protocol.ids import OrgId, ProcessId, RequestId, RunId

OK = msgspec.Raw(b'{"ok":true}')


class House:
    """An organization with one connected executor."""

    def __init__(self, ground: Ground, store: ExecutionStore, org: OrgId, executor: Executor, lease: Lease) -> None:
        self.ground, self.store, self.org, self.executor, self.lease = ground, store, org, executor, lease

    async def another(self, **how: object) -> Lease:
        """One more connected executor of the organization."""
        executor = await self.ground.executor(self.org, **how)  # type: ignore[arg-type]
        return await self.ground.connected(executor, self.lease.edge)

    async def grant(self, row: NewRow, to: Lease | None = None, **others: object) -> Granted | NotGranted:
        to = to or self.lease
        return await self.store.grant(Grant(row.request_id, to.executor, to.epoch, to.edge, **others))  # type: ignore[arg-type]

    async def granted(self, row: NewRow, to: Lease | None = None) -> Granted:
        answer = await self.grant(row, to)
        assert isinstance(answer, Granted), answer
        return answer

    async def leased(self, **others: object) -> NewRow:
        """A request that our executor holds."""
        row = new_row(self.org, **others)  # type: ignore[arg-type]
        await self.store.create(row)
        await self.granted(row)
        return row

    def finish(self, row: NewRow, by: Lease | None = None, **others: object) -> Finish:
        by = by or self.lease
        fields = {"request": row.request_id, "executor": by.executor, "connection_epoch": by.epoch, "output": OK}
        return Finish(**{"status": "succeeded", **fields, **others})  # type: ignore[arg-type]

    async def verdict(self, row: NewRow, by: Lease | None = None, **others: object) -> str:
        return (await self.store.finish(self.finish(row, by, **others))).outcome


@pytest.fixture
async def house(ground: Ground, executions: ExecutionStore) -> House:
    org = await ground.organization()
    executor = await ground.executor(org)
    return House(ground, executions, org, executor, await ground.connected(executor, await ground.process()))


@pytest.fixture
async def elsewhere(ground: Ground, executions: ExecutionStore) -> House:
    """Another organization."""
    org = await ground.organization()
    executor = await ground.executor(org)
    return House(ground, executions, org, executor, await ground.connected(executor, await ground.process()))


# --- dispatch --------------------------------------------------------------------------------------------------------


async def test_a_request_is_pending_once_however_often_it_is_dispatched(house: House) -> None:
    row = new_row(house.org)
    assert [(await house.store.create(row)).outcome for _ in range(2)] == ["created", "exists"]
    await house.granted(row)
    await house.verdict(row)
    standing = await house.store.create(row)
    assert (standing.outcome, standing.state, standing.output) == ("exists", "succeeded", b'{"ok": true}')


@pytest.mark.promise("P5")
async def test_another_payload_or_organization_under_the_same_id_is_a_conflict(house: House, elsewhere: House) -> None:
    row = new_row(house.org)
    await house.store.create(row)
    other = msgspec.structs.replace(row, payload_sha256="00" * 32)
    foreign = msgspec.structs.replace(row, org=elsewhere.org)
    for asked in (other, foreign):
        standing = await house.store.create(asked)
        assert (standing.outcome, standing.state, standing.output) == ("conflict", None, None)
        answer = await elsewhere.grant(asked, create=msgspec.Raw(msgspec.json.encode(asked)))
        assert isinstance(answer, NotGranted)
        assert answer.outcome in ("conflict", "refused")
    assert await house.ground.state(row.request_id) == "pending"


# --- grant -----------------------------------------------------------------------------------------------------------


async def test_a_grant_raises_the_epoch_and_answers_what_execute_needs(house: House) -> None:
    row = new_row(house.org, payload={"a": 1}, timeout_ms=1_000)
    await house.store.create(row)
    granted = await house.granted(row)
    assert (granted.lease_epoch, granted.payload, granted.timeout_ms) == (1, b'{"a": 1}', 1_000)
    stored = await house.ground.execution(row.request_id)
    assert (stored["state"], str(stored["executor_id"]), stored["placements"]) == ("dispatched", house.executor.id, 1)
    again = await house.grant(row)
    assert again == NotGranted("gone")


@pytest.mark.parametrize(
    "change",
    [
        "lost_at = now()",
        "revoked_at = now()",
        "cordoned = true",
        "draining = true",
        "enabled = false",
        "connection_epoch = connection_epoch + 1",
        "edge_id = gen_random_uuid()",
        "tags = '{other}'",
    ],
)
@pytest.mark.promise("P2", "P6")
async def test_an_executor_that_may_not_hold_it_is_refused(house: House, change: str) -> None:
    await house.ground.sql.execute("update executors set tags = '{gpu}'")
    stored = new_row(house.org, required_tags=("gpu",))
    await house.store.create(stored)
    fresh = new_row(house.org, required_tags=("gpu",))
    await house.ground.sql.execute(f"update executors set {change}")
    assert await house.grant(stored) == NotGranted("refused")
    assert await house.ground.state(stored.request_id) == "pending"
    answer = await house.grant(fresh, create=msgspec.Raw(msgspec.json.encode(fresh)))
    assert answer == NotGranted("refused")
    assert await house.store.read(fresh.request_id) is None


@pytest.mark.promise("P5")
@pytest.mark.parametrize("create", [False, True])
async def test_no_executor_gets_the_work_of_another_organization(house: House, elsewhere: House, create: bool) -> None:
    managed = await house.ground.connected(await house.ground.executor(None), house.lease.edge)
    asks = [
        (new_row(house.org), elsewhere.lease),
        (new_row(house.org), managed),
        (new_row(house.org, pool="managed"), house.lease),
        (new_row(house.org, pin_executor_id=elsewhere.executor.id), house.lease),
    ]
    for row, lease in asks:
        if not create:
            await house.store.create(row)
        others = {"create": msgspec.Raw(msgspec.json.encode(row))} if create else {}
        assert await house.grant(row, lease, **others) == NotGranted("refused")
    row = new_row(house.org, pool="managed")
    await house.store.create(row)
    assert isinstance(await house.grant(row, managed), Granted)


async def test_a_new_request_is_created_and_leased_by_one_statement(house: House) -> None:
    row = new_row(house.org)
    create = msgspec.Raw(msgspec.json.encode(row))
    assert isinstance(await house.grant(row, create=create), Granted)
    again = await house.grant(row, create=create)
    assert isinstance(again, NotGranted)
    assert again.outcome == "exists"
    assert again.standing is not None
    assert again.standing.state == "dispatched"


@pytest.mark.promise("P2")
async def test_of_two_grants_at_once_one_holds(house: House) -> None:
    for _ in range(20):
        row = new_row(house.org)
        await house.store.create(row)
        other = await house.another()
        answers = await asyncio.gather(house.grant(row), house.grant(row, other))
        assert sorted(type(answer).__name__ for answer in answers) == ["Granted", "NotGranted"]
        assert (await house.ground.execution(row.request_id))["lease_epoch"] == 1


# --- result ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P2", "P4")
async def test_only_the_holder_with_its_epoch_ends_a_request(house: House, elsewhere: House) -> None:
    row = await house.leased()
    other = await house.another()
    assert await house.verdict(row, other) == "fenced"
    assert await house.verdict(row, elsewhere.lease) == "fenced"
    assert await house.verdict(row, epoch=2) == "fenced"
    assert await house.verdict(row, Lease(house.executor.id, 99, house.lease.edge)) == "stale"
    assert await house.verdict(new_row(house.org)) == "unknown"
    process = Finish(request=row.request_id, process=house.lease.edge, status="succeeded", output=OK)
    assert (await house.store.finish(process)).outcome == "fenced"
    assert await house.ground.state(row.request_id) == "dispatched"
    assert await house.verdict(row, epoch=1) == "applied"
    assert await house.verdict(row, epoch=1, status="failed") == "duplicate"
    assert await house.ground.state(row.request_id) == "succeeded"


@pytest.mark.promise("P2")
async def test_of_many_results_at_once_one_is_applied(house: House) -> None:
    for _ in range(10):
        row = await house.leased()
        verdicts = await asyncio.gather(*(house.verdict(row) for _ in range(8)))
        assert sorted(verdicts) == ["applied", *["duplicate"] * 7]


@pytest.mark.promise("P4")
async def test_a_late_result_is_good_until_somebody_else_was_granted(house: House) -> None:
    for regranted in (False, True):
        row = await house.leased(on_lost="resend")
        await house.ground.sql.fetchval("select vespid_i_lose_lease($1, 1, false)", row.request_id)
        assert await house.ground.state(row.request_id) == "pending"
        if regranted:
            assert (await house.granted(row, await house.another())).lease_epoch == 2
        assert await house.verdict(row, epoch=1) == ("fenced" if regranted else "applied")


@pytest.mark.promise("P6")
async def test_nothing_of_a_revoked_executor_is_committed(house: House) -> None:
    ground = house.ground
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True)
    await ground.revoke(house.executor)
    assert await house.verdict(row) == "stale"
    appended = await house.store.append_events(_append(house, row, 0, "stdout"))
    assert appended.outcome == "fenced"
    assert await ground.state(row.request_id) == "dispatched"
    assert await ground.events(run) == []


@pytest.mark.promise("P6")
@pytest.mark.parametrize("call", ["vespid_x_finish_executions", "vespid_x_append_remote_events"])
async def test_a_revoke_waits_for_what_is_being_committed(house: House, database_url: str, call: str) -> None:
    row = await house.leased()
    item: Finish | Append = house.finish(row) if "finish" in call else _append(house, row, 0, "stdout")
    other = await asyncpg.connect(database_url)
    try:
        under_way = other.transaction()
        await under_way.start()
        answer = await other.fetchrow(f"select outcome from {call}($1::jsonb[])", [msgspec.json.encode(item).decode()])
        assert answer is not None
        assert answer["outcome"] in ("applied", "appended")
        await house.ground.sql.execute("set lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await house.ground.revoke(house.executor)
        await under_way.commit()
        await house.ground.revoke(house.executor)
    finally:
        await other.close()
    assert await house.verdict(await _fresh(house, row)) == "stale"


async def _fresh(house: House, row: NewRow) -> NewRow:
    """The same request, running again."""
    await house.ground.sql.execute("update executions set state = 'dispatched', finished_at = null")
    return row


async def test_the_result_of_what_is_being_cancelled_is_its_cancellation(house: House) -> None:
    row = await house.leased()
    assert (await house.store.cancel(row.request_id)).outcome == "cancelling"
    assert await house.verdict(row) == "cancelled"
    stored = await house.ground.execution(row.request_id)
    assert (stored["state"], stored["error"], stored["output"]) == ("cancelled", "NODE_EXECUTION_CANCELLED", None)


# --- cancel, refuse, decline -----------------------------------------------------------------------------------------


async def test_a_cancel_ends_what_waits_and_asks_for_the_end_of_what_runs(house: House) -> None:
    row = new_row(house.org)
    assert (await house.store.cancel(row.request_id)).outcome == "unknown"
    await house.store.create(row)
    assert (await house.store.cancel(row.request_id)).outcome == "cancelled"
    assert (await house.store.cancel(row.request_id)).outcome == "finished"
    running = await house.leased()
    asked = await house.store.cancel(running.request_id)
    assert (asked.outcome, str(asked.executor_id), asked.lease_epoch) == ("cancelling", house.executor.id, 1)
    assert str(asked.edge_id) == house.lease.edge


@pytest.mark.promise("P2")
async def test_a_cancel_or_refusal_that_meets_a_grant_does_not_end_what_runs(house: House) -> None:
    """Whoever comes second sees what the first has done, not what stood when it began to look."""
    for _ in range(15):
        row = new_row(house.org)
        await house.store.create(row)
        refused, granted = await asyncio.gather(
            house.store.refuse(row.request_id, "NO_AGENT_AVAILABLE"), house.grant(row)
        )
        assert (refused.outcome == "gone") == isinstance(granted, Granted)
        row = new_row(house.org)
        await house.store.create(row)
        asked, granted = await asyncio.gather(house.store.cancel(row.request_id), house.grant(row))
        assert asked.outcome == ("cancelling" if isinstance(granted, Granted) else "cancelled")
        assert await house.ground.state(row.request_id) == asked.outcome


async def test_work_given_back_uses_no_placement_and_goes_on_with_its_old_wait(house: House) -> None:
    row = new_row(house.org, timeout_ms=3_600_000, max_wait_ms=30_000)
    await house.store.create(row)
    before = await house.ground.execution(row.request_id)
    await house.granted(row)
    assert not await house.store.give_back(GiveBack(row.request_id, house.executor.id, 7))
    other = await house.another()
    assert not await house.store.give_back(GiveBack(row.request_id, other.executor))
    assert await house.store.give_back(GiveBack(row.request_id, house.executor.id, 1))
    after = await house.ground.execution(row.request_id)
    assert (after["state"], after["placements"], after["act_by"]) == ("pending", 0, before["act_by"])
    assert not await house.store.give_back(GiveBack(row.request_id, house.executor.id, 1))
    assert (await house.granted(row, other)).lease_epoch == 2


# --- events ----------------------------------------------------------------------------------------------------------


def _append(house: House, row: NewRow, first: int, *kinds: str, by: Lease | None = None, epoch: int = 1) -> Append:
    by = by or house.lease
    events = [EventItem("remote_event", m=kind) for kind in kinds]
    return Append(
        request=row.request_id,
        executor=by.executor,
        connection_epoch=by.epoch,
        epoch=epoch,
        first_event_seq=first,
        last_event_seq=first + len(kinds) - 1,
        events=events,
    )


@pytest.mark.promise("P4")
async def test_events_are_appended_once_and_only_from_the_holder(house: House, elsewhere: House) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True)
    first = await store.append_events(_append(house, row, 0, "a", "b"))
    assert (first.outcome, str(first.run_id), first.seq) == ("appended", run, 2)
    assert await ground.state(row.request_id) == "received"
    refused = [
        _append(house, row, 0, "a", "b"),
        _append(house, row, 5, "c", epoch=2),
        _append(house, row, 5, "c", by=elsewhere.lease),
        _append(house, row, 5, "c", by=Lease(house.executor.id, 9, house.lease.edge)),
    ]
    assert [(await store.append_events(item)).outcome for item in refused] == ["fenced"] * 4
    assert (await store.append_events(_append(house, row, 2, "c"))).seq == 3
    await house.verdict(row)
    assert (await store.append_events(_append(house, row, 3, "d"))).outcome == "fenced"
    assert [(event["seq"], event["message"]) for event in await ground.events(run)] == [(1, "a"), (2, "b"), (3, "c")]


async def test_whoever_gets_a_request_next_counts_its_events_anew(house: House) -> None:
    ground = house.ground
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True, on_lost="resend")
    await house.store.append_events(_append(house, row, 0, "a", "b"))
    await ground.sql.fetchval("select vespid_i_lose_lease($1, 1, false)", row.request_id)
    other = await house.another()
    await house.granted(row, other)
    again = await house.store.append_events(_append(house, row, 0, "a", by=other, epoch=2))
    assert again.outcome == "appended"


@pytest.mark.promise("P3")
async def test_event_seq_has_no_gaps_whoever_writes_at_once(house: House) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    rows = [await house.leased(run_id=run, node_id=f"n{n}", in_run=True) for n in range(6)]
    waiting = [new_row(house.org, run, node_id=f"w{n}", in_run=True) for n in range(4)]
    for row in waiting:
        await store.create(row)

    async def work(row: NewRow) -> None:
        for seq in range(0, 10, 2):
            await store.append_events(_append(house, row, seq, "a", "b"))
        tail = [EventItem("remote_event", m="tail")]
        assert (await store.finish(msgspec.structs.replace(house.finish(row), tail=tail))).outcome == "deferred"

    await asyncio.gather(*map(work, rows), *(store.note_waiting(WaitNote(row.request_id, "QUOTA")) for row in waiting))
    seqs = [event["seq"] for event in await ground.events(run)]
    assert seqs == list(range(1, 6 * 11 + 4 + 1))
    assert (await ground.run_row(run))["event_seq"] == len(seqs)


async def test_a_wait_is_noted_once_per_reason(house: House) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = new_row(house.org, run, in_run=True, selector=msgspec.Raw(b'{"tag":"gpu"}'))
    await store.create(row)
    notes = [await store.note_waiting(WaitNote(row.request_id, why)) for why in ("QUOTA", "QUOTA", "ALL_FULL")]
    assert [note.outcome for note in notes] == ["noted", "same", "noted"]
    payloads = [msgspec.json.decode(event["payload"]) for event in await ground.events(run)]
    assert payloads == [{"reason": why, "selector": {"tag": "gpu"}} for why in ("QUOTA", "ALL_FULL")]
    await house.granted(row)
    assert (await store.note_waiting(WaitNote(row.request_id, "QUOTA"))).outcome == "same"


# --- a result and its run --------------------------------------------------------------------------------------------


def _step(house: House, run: RunId, version: int, **others: object) -> StepItem:
    fields = {"org": house.org, "run": run, "version": version, "status": "running", "attempt": 1}
    return StepItem(**fields, cursor=msgspec.Raw(b"{}"), **others)  # type: ignore[arg-type]


@pytest.mark.promise("P1")
async def test_a_result_and_the_step_it_leads_to_are_one_commit(house: House) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True)
    following = new_row(house.org, run, node_id="n2", in_run=True)
    step = _step(house, run, 0, events=[EventItem("node_succeeded")], executions=[following])
    tail = [EventItem("remote_event", m="last words")]
    finished = await store.finish(msgspec.structs.replace(house.finish(row), step=step, tail=tail))
    assert finished.outcome == "applied"
    assert [event["event_type"] for event in await ground.events(run)] == ["remote_event", "node_succeeded"]
    assert (await ground.execution(row.request_id))["applied"]
    assert await ground.state(following.request_id) == "pending"
    assert not await ground.is_due(run)


@pytest.mark.promise("P1", "P2")
async def test_a_result_whose_run_has_moved_on_is_kept_and_makes_the_run_due(house: House) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True)
    await ground.sql.execute("delete from due_runs")
    step = _step(house, run, 7, events=[EventItem("node_succeeded")])
    assert (await store.finish(msgspec.structs.replace(house.finish(row), step=step))).outcome == "deferred"
    stored = await ground.execution(row.request_id)
    assert (stored["state"], stored["applied"]) == ("succeeded", False)
    assert await ground.is_due(run)
    assert await ground.events(run) == []
    assert (await ground.run_row(run))["version"] == 1


@pytest.mark.promise("P5")
async def test_a_step_for_another_organizations_run_is_not_written(house: House, elsewhere: House) -> None:
    ground = house.ground
    run = await ground.run(house.org, await ground.workflow(house.org))
    row = await house.leased(run_id=run, in_run=True)
    foreign = await ground.run(elsewhere.org, await ground.workflow(elsewhere.org))
    for step in (_step(elsewhere, foreign, 0), _step(elsewhere, run, 0), _step(house, foreign, 0)):
        finish = msgspec.structs.replace(house.finish(row), step=step)
        assert (await house.store.finish(finish)).outcome in ("deferred", "duplicate")
    assert (await ground.run_row(foreign))["version"] == 0


@pytest.mark.promise("P1")
async def test_of_two_steps_from_one_version_one_is_written(house: House, steps: StepStore) -> None:
    run = await house.ground.run(house.org, await house.ground.workflow(house.org))
    answers = await asyncio.gather(*(steps.apply(_step(house, run, 0)) for _ in range(6)))
    assert sorted(answer is None for answer in answers) == [False] + [True] * 5
    finished = await steps.apply(_step(house, run, 1, finished=True))
    assert finished is not None
    assert await steps.apply(_step(house, run, 2)) is None


async def test_a_step_cancels_what_waits_and_names_whom_to_tell_of_the_rest(house: House, steps: StepStore) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    running = await house.leased(run_id=run, node_id="a", in_run=True)
    waiting = new_row(house.org, run, node_id="b", in_run=True)
    await store.create(waiting)
    written = await steps.apply(_step(house, run, 0, cancels=[running.request_id, waiting.request_id]))
    assert written is not None
    assert written.cancelled == [waiting.request_id]
    assert [(told.request_id, told.executor_id) for told in written.cancelling] == [
        (running.request_id, house.executor.id)
    ]
    assert await ground.is_due(run)


async def test_a_run_whose_steps_raise_fails_after_the_fifth_and_stops_its_work(house: House, steps: StepStore) -> None:
    ground, store = house.ground, house.store
    run = await ground.run(house.org, await ground.workflow(house.org))
    running = await house.leased(run_id=run, node_id="a", in_run=True)
    waiting = new_row(house.org, run, node_id="b", in_run=True)
    await store.create(waiting)
    verdicts = [await steps.fail(house.org, run, version, "KeyError") for version in range(5)]
    assert verdicts == ["again"] * 4 + ["failed"]
    assert await steps.fail(house.org, run, 5, "KeyError") == "conflict"
    row = await ground.run_row(run)
    assert (row["status"], row["error"]) == ("failed", "INTERNAL_ERROR")
    assert [event["event_type"] for event in await ground.events(run)] == ["run_failed"]
    assert (await ground.state(running.request_id), await ground.state(waiting.request_id)) == (
        "cancelling",
        "cancelled",
    )
    assert not await ground.is_due(run)


# --- leases that are lost --------------------------------------------------------------------------------------------


@pytest.mark.promise("P4")
async def test_the_late_close_of_an_old_connection_changes_nothing(house: House, database: Database) -> None:
    newer = await house.ground.connected(house.executor, await house.ground.process())
    assert not await connections.disconnect(database, house.executor.id, house.lease.epoch, 1)
    assert not await connections.set_draining(database, house.executor.id, house.lease.epoch)
    assert await connections.disconnect(database, house.executor.id, newer.epoch, 1)
    assert not await connections.disconnect(database, house.executor.id, newer.epoch, 1)


@pytest.mark.promise("P2", "P4")
async def test_a_lease_that_was_lost_and_given_on_is_not_lost_again_for_its_first_holder(house: House) -> None:
    row = await house.leased(on_lost="resend")
    lose = "select vespid_i_lose_lease($1, $2, true)"
    assert await house.ground.sql.fetchval(lose, row.request_id, 1) == "reoffer"
    other = await house.another()
    await house.granted(row, other)
    assert await house.ground.sql.fetchval(lose, row.request_id, 1) == "kept"
    stored = await house.ground.execution(row.request_id)
    assert (stored["state"], str(stored["executor_id"])) == ("dispatched", other.executor)


async def _lost(house: House, database: Database, **others: object) -> str:
    """What the sweep does about the lease of an executor that stays away."""
    row = await house.leased(**others)
    await connections.disconnect(database, house.executor.id, house.lease.epoch, 60_000)
    assert await connections.sweep_leases(database) == []
    await house.ground.let_pass("executors", "id", UUID(house.executor.id), "leases_expire_at")
    lost = await connections.sweep_leases(database)
    assert [lease.request_id for lease in lost] == [row.request_id]
    assert await connections.sweep_leases(database) == []
    return lost[0].action + " " + await house.ground.state(row.request_id)


@pytest.mark.promise("P1", "P2")
@pytest.mark.parametrize(
    ("on_lost", "others", "expected"),
    [
        ("fail", {}, "concluded failed"),
        ("resend", {}, "reoffer pending"),
        ("wait", {}, "kept dispatched"),
        ("resend", {"pinned": True}, "concluded failed"),
    ],
)
async def test_what_becomes_of_a_lease_follows_the_node(
    house: House, database: Database, on_lost: str, others: dict[str, bool], expected: str
) -> None:
    pin = {"pin_executor_id": house.executor.id} if others else {}
    assert await _lost(house, database, on_lost=on_lost, **pin) == expected


async def test_what_waits_for_a_holder_does_not_wait_for_a_revoked_one(house: House, database: Database) -> None:
    row = await house.leased(on_lost="wait")
    await house.ground.revoke(house.executor)
    lost = await connections.revoke_leases(database, house.executor.id)
    assert [(lease.request_id, lease.action) for lease in lost] == [(row.request_id, "concluded")]


async def test_work_that_loses_its_third_holder_is_quarantined(house: House) -> None:
    row = new_row(house.org, on_lost="resend")
    await house.store.create(row)
    for epoch, expected in ((1, "reoffer"), (2, "reoffer"), (3, "concluded")):
        await house.granted(row)
        lose = "select vespid_i_lose_lease($1, $2, false)"
        assert await house.ground.sql.fetchval(lose, row.request_id, epoch) == expected
    stored = await house.ground.execution(row.request_id)
    assert (stored["error"], msgspec.json.decode(stored["error_details"])) == (
        "AGENT_DISCONNECTED",
        {"quarantined": True},
    )


@pytest.mark.promise("P1")
async def test_a_dead_process_loses_its_sockets_and_its_own_work(
    house: House, database: Database, ground: Ground
) -> None:
    worker = await ground.process("worker")
    held = new_row(house.org, node_id="c", placement="cloud", holder=worker)
    await house.store.create(held)
    assert await connections.sweep_processes(database, 1_000) == []
    for process in (worker, house.lease.edge):
        await ground.let_pass("processes", "id", UUID(process), "lease_until")
    found = await connections.sweep_processes(database, 1_000)
    assert {(row.action, str(row.process_id)) for row in found} == {
        ("dead", worker),
        ("dead", house.lease.edge),
        ("away", house.lease.edge),
        ("concluded", worker),
    }
    stored = await ground.execution(held.request_id)
    assert (stored["state"], stored["error"]) == ("failed", "AGENT_DISCONNECTED")
    executor = await ground.sql.fetchrow("select * from executors")
    assert executor is not None
    assert executor["lost_at"] is not None
    assert not await connections.renew_process(database, house.lease.edge, "gateway", None, 1_000)


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_a_deadline_ends_whatever_has_not_ended(house: House, database: Database) -> None:
    waiting, running, lost, cancelling = (new_row(house.org) for _ in range(4))
    for row in (waiting, running, lost, cancelling):
        await house.store.create(row)
    other = await house.another()
    await house.granted(running)
    await house.granted(lost, other)
    await house.granted(cancelling)
    await house.store.cancel(cancelling.request_id)
    await connections.disconnect(database, other.executor, other.epoch, 60_000)
    await house.store.note_waiting(WaitNote(waiting.request_id, "NONE_MATCHES"))
    assert await house.store.sweep() == []
    await house.ground.sql.execute("update executions set act_by = now(), sweep_at = now()")
    swept = await house.store.sweep()
    assert {row.action for row in swept} == {"concluded"}
    ends = {}
    for name, row in (("waiting", waiting), ("running", running), ("lost", lost), ("cancelling", cancelling)):
        stored = await house.ground.execution(row.request_id)
        ends[name] = (stored["state"], stored["error"])
    assert ends == {
        "waiting": ("failed", "NO_AGENT_AVAILABLE"),
        "running": ("failed", "NODE_EXECUTION_TIMEOUT"),
        "lost": ("failed", "AGENT_DISCONNECTED"),
        "cancelling": ("cancelled", "NODE_EXECUTION_CANCELLED"),
    }
    details = (await house.ground.execution(waiting.request_id))["error_details"]
    assert msgspec.json.decode(details) == {"reason": "NONE_MATCHES"}


async def test_a_short_wait_is_not_stretched_by_the_sweep(house: House) -> None:
    row = new_row(house.org, max_wait_ms=1_000)
    await house.store.create(row)
    stored = await house.ground.execution(row.request_id)
    assert stored["sweep_at"] == stored["act_by"]


async def test_a_result_without_a_run_is_kept_for_its_time_and_then_deleted(house: House) -> None:
    row = await house.leased()
    await house.verdict(row, keep_ms=60_000)
    assert await house.store.sweep() == []
    await house.ground.let_pass("executions", "request_id", row.request_id, "sweep_at")
    assert [swept.action for swept in await house.store.sweep()] == ["deleted"]
    assert await house.store.read(row.request_id) is None


# --- work of the server's own ----------------------------------------------------------------------------------------


@pytest.mark.promise("P2")
async def test_work_of_the_servers_own_is_claimed_by_one_process(house: House, ground: Ground) -> None:
    for n in range(10):
        await house.store.create(new_row(house.org, node_id=f"c{n}", placement="cloud"))
    workers = [await ground.process("worker") for _ in range(3)]
    claims = await asyncio.gather(*(house.store.claim_cloud(worker, ["cloud"], [], 10) for worker in workers))
    claimed = [work.request_id for works in claims for work in works]
    assert len(claimed) == len(set(claimed)) == 10


async def test_what_a_process_holds_without_running_it_is_taken_up_again(house: House, ground: Ground) -> None:
    worker = await ground.process("worker")
    row = new_row(house.org, placement="cloud", holder=worker)
    await house.store.create(row)
    assert await house.store.claim_cloud(worker, ["cloud"], [], 10) == []
    await ground.sql.execute("update executions set granted_at = now() - interval '1 minute'")
    assert await house.store.claim_cloud(worker, ["cloud"], [row.request_id], 10) == []
    claimed = await house.store.claim_cloud(worker, ["cloud"], [], 10)
    assert [(work.request_id, work.lease_epoch) for work in claimed] == [(row.request_id, 2)]
    stale = Finish(request=row.request_id, process=ProcessId(worker), epoch=1, status="succeeded", output=OK)
    assert (await house.store.finish(stale)).outcome == "fenced"


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_everybody_at_once_does_not_end_in_a_deadlock(house: House, steps: StepStore, database: Database) -> None:
    ground, store = house.ground, house.store
    workflow = await ground.workflow(house.org)
    runs = [await ground.run(house.org, workflow) for _ in range(4)]
    rows = [
        await house.leased(run_id=run, node_id=f"n{n}", in_run=True, on_lost="resend") for run in runs for n in range(6)
    ]
    await ground.sql.execute("update executions set sweep_at = now()")

    async def cancel(run: RunId, number: int) -> None:
        requests = [RequestId(f"{run}:n{n}:1") for n in reversed(range(6))]
        await steps.apply(_step(house, run, number, cancels=requests))

    work = [
        *(store.append_events(_append(house, row, 0, "a")) for row in rows),
        *(store.finish(house.finish(row)) for row in rows[::2]),
        *(store.cancel(row.request_id) for row in reversed(rows)),
        *(cancel(run, number) for run in runs for number in range(3)),
        *(store.sweep() for _ in range(3)),
        connections.revoke_leases(database, house.executor.id),
        connections.sweep_leases(database),
    ]
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*work, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []
    for run in runs:
        seqs = [event["seq"] for event in await ground.events(run)]
        assert seqs == list(range(1, len(seqs) + 1))
