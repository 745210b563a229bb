"""What models took, in the statement that commits the result that told it: once, or not at all."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec
import pytest
from tests.support.ground import Ground, Lease, new_row

from vespid.store.executions import QUERIES, ExecutionStore, Finish, Finished, Grant, NewRow
from vespid.store.pool import Database
from vespid.store.usage import GroupBy, UsageItem, by_group, in_total, of_run
from vespid_protocol.ids import OrgId, new_id

USED = UsageItem(provider="openai", model="gpt-5", input_tokens=5, output_tokens=2, total_tokens=7, cost_micros=30)


class House:
    """An organization whose executor answers."""

    def __init__(self, ground: Ground, store: ExecutionStore, org: OrgId, lease: Lease) -> None:
        self.ground, self.store, self.org, self.lease = ground, store, org, lease

    async def leased(self, **others: object) -> NewRow:
        row = new_row(self.org, **({"kind": "agent.run", "node_type": "agent.run"} | others))  # type: ignore[arg-type]
        await self.store.create(row)
        await self.store.grant(Grant(row.request_id, self.lease.executor, self.lease.epoch, self.lease.edge))
        return row

    async def finish(self, row: NewRow, usage: UsageItem | None = USED, **others: object) -> Finished:
        fields = {"executor": self.lease.executor, "connection_epoch": self.lease.epoch, "status": "succeeded"}
        return await self.store.finish(Finish(request=row.request_id, usage=usage, **(fields | others)))  # type: ignore[arg-type]

    async def rows(self) -> list["asyncpg.Record"]:
        return list(await self.ground.sql.fetch("select * from model_usage order by recorded_at"))


@pytest.fixture
async def house(ground: Ground, executions: ExecutionStore) -> House:
    org = await ground.organization()
    lease = await ground.connected(await ground.executor(org), await ground.process())
    return House(ground, executions, org, lease)


@pytest.mark.promise("P2")
async def test_a_result_is_counted_once_however_often_it_comes(house: House) -> None:
    row = await house.leased()
    told = [await house.finish(row) for _ in range(3)]
    assert [(said.outcome, said.is_metered) for said in told] == [
        ("applied", True),
        ("duplicate", False),
        ("duplicate", False),
    ]
    (kept,) = await house.rows()
    assert (kept["request_id"], str(kept["organization_id"]), kept["node_id"], kept["attempt"]) == (
        row.request_id,
        house.org,
        "n1",
        1,
    )
    assert (kept["provider"], kept["model"], kept["input_tokens"], kept["output_tokens"], kept["cost_micros"]) == (
        "openai",
        "gpt-5",
        5,
        2,
        30,
    )
    assert str(kept["executor_id"]) == house.lease.executor


@pytest.mark.promise("P2")
async def test_what_is_fenced_off_is_not_counted(house: House) -> None:
    row = await house.leased()
    fenced = await house.finish(row, epoch=7)
    stale = await house.finish(row, connection_epoch=house.lease.epoch - 1)
    unknown = await house.finish(new_row(house.org))
    assert [said.outcome for said in (fenced, stale, unknown)] == ["fenced", "stale", "unknown"]
    # Also once another's result stands, which told of none.
    await house.finish(row, usage=None)
    late = [await house.finish(row, epoch=7), await house.finish(row)]
    assert [said.outcome for said in late] == ["fenced", "duplicate"]
    assert await house.rows() == []


async def test_a_failure_and_a_cancelled_try_are_counted_too(house: House) -> None:
    failed, cancelled = [await house.leased() for _ in range(2)]
    await house.finish(failed, status="failed", error="NODE_EXECUTION_FAILED")
    await house.store.cancel(cancelled.request_id)
    assert (await house.finish(cancelled)).outcome == "cancelled"
    assert [kept["total_tokens"] for kept in await house.rows()] == [7, 7]


async def test_only_an_agents_answer_is_counted(house: House) -> None:
    other = await house.leased(kind="connector.action")
    assert not (await house.finish(other)).is_metered
    assert not (await house.finish(await house.leased(), usage=None)).is_metered
    assert await house.rows() == []


async def test_many_results_of_one_commit_are_told_apart(house: House) -> None:
    rows = [await house.leased(kind="agent.run" if n % 2 else "agent.execute") for n in range(6)]
    items = [msgspec.structs.replace(USED, input_tokens=n, total_tokens=n + 2) for n in range(6)]
    finishes = [
        {
            "request": row.request_id,
            "executor": house.lease.executor,
            "connectionEpoch": house.lease.epoch,
            "status": "succeeded",
            **({} if n == 1 else {"usage": msgspec.to_builtins(items[n])}),
        }
        for n, row in enumerate(rows)
    ]
    told = await house.ground.sql.fetch(
        QUERIES.finish_executions, [msgspec.json.encode(finish).decode() for finish in finishes]
    )
    assert [said["is_metered"] for said in told] == [False, False, False, True, False, True]
    assert sorted(kept["input_tokens"] for kept in await house.rows()) == [3, 5]


@pytest.mark.promise("P5")
async def test_nobody_writes_it_and_another_organization_sees_none_of_it(house: House, database: Database) -> None:
    await house.finish(await house.leased())
    other = await house.ground.organization()
    since = datetime.now(UTC) - timedelta(hours=1)
    for org, tries in ((house.org, 1), (other, 0)):
        async with database.tenant(org) as connection:
            # Whatever organization it asks for, it is answered as its own.
            assert (await in_total(connection, UUID(house.org), since, since + timedelta(hours=2))).tries == tries
    async with database.tenant(house.org) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("update model_usage set cost_micros = 0")


async def test_a_run_tells_it_by_node_and_model(house: House, database: Database) -> None:
    run = await house.ground.run(house.org, await house.ground.workflow(house.org))
    unpriced = msgspec.structs.replace(USED, model="other", cost_micros=None)
    for node, attempt, usage in (("a", 1, USED), ("a", 2, USED), ("b", 1, unpriced), ("b", 2, USED)):
        row = await house.leased(run_id=run, in_run=True, node_id=node, attempt=attempt)
        assert (await house.finish(row, usage)).outcome == "deferred"
    async with database.tenant(house.org) as connection:
        found = await of_run(connection, UUID(house.org), UUID(run))
    assert [(n.node_id, n.model, n.tries, n.total_tokens, n.cost_micros, n.unpriced_tokens) for n in found] == [
        ("a", "gpt-5", 2, 14, 60, 0),
        ("b", "gpt-5", 1, 7, 30, 0),
        ("b", "other", 1, 7, None, 7),
    ]


@pytest.mark.parametrize("group_by", ["day", "model", "workflow", "session"])
async def test_groups_are_read_page_by_page_and_add_up(house: House, database: Database, group_by: GroupBy) -> None:
    sql, now = house.ground.sql, datetime(2026, 5, 20, 12, tzinfo=UTC)
    workflows = [await house.ground.workflow(house.org) for _ in range(5)]
    for n, workflow in enumerate(workflows):
        for _ in range(2):
            await sql.execute(
                """insert into model_usage (request_id, requested_at, organization_id, recorded_at, workflow_id,
                       session_id, provider, model, input_tokens, output_tokens, total_tokens)
                   values ($1, now(), $2, $3, $4, $5, 'p', $6, 1, 1, 2)""",
                new_id(),
                UUID(house.org),
                now + timedelta(days=n),
                UUID(workflow),
                UUID(workflow),
                f"m{n}",
            )
    pages: list[list[tuple[int, int]]] = []
    keys: list[str] = []
    async with database.tenant(house.org) as connection:
        while not pages or pages[-1]:
            found = await by_group(
                connection, UUID(house.org), now, now + timedelta(days=5), group_by, keys[-1] if keys else None, 2
            )
            keys += [group.key for group in found]
            pages.append([(group.tries, group.total_tokens) for group in found])
        total = await in_total(connection, UUID(house.org), now, now + timedelta(days=5))
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert {row for page in pages for row in page} == {(2, 4)}
    assert keys == sorted(set(keys))
    assert max(map(len, keys)) <= 64
    assert (total.tries, total.total_tokens, total.cost_micros, total.unpriced_tokens) == (10, 20, None, 20)
