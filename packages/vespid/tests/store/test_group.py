"""Grouped commits, against a real Postgres: who is grouped with whom, and who sees which error."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from vespid.store.group import GroupCommit, GroupStopped, OutcomeUnknown
from vespid.store.pool import Database, DatabaseUnavailable

TABLES = """
create table entries (id serial primary key, key text not null, value int not null check (value >= 0));
create table counters (key text primary key, n int not null);
insert into counters values ('a', 0), ('b', 0);
grant all on all tables in schema public to vespid_service;
grant all on all sequences in schema public to vespid_service;
"""
Insert = tuple[str, int]


@pytest_asyncio.fixture
async def entries(database: Database, superuser: asyncpg.Connection) -> Database:
    await superuser.execute(TABLES)
    return database


async def insert(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
    rows = await connection.fetch(
        "insert into entries (key, value) select * from unnest($1::text[], $2::int[]) returning value",
        [key for key, _ in items],
        [value for _, value in items],
    )
    return [row["value"] for row in rows]


class Gate:
    """A call that waits until it is let through, and remembers its batches."""

    def __init__(self, call: Callable[[Any, Sequence[Insert]], Any] = insert) -> None:
        self._call = call
        self.batches: list[list[Insert]] = []
        self._arrived = asyncio.Condition()
        self.opened = asyncio.Event()

    async def __call__(self, connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        async with self._arrived:
            self.batches.append(list(items))
            self._arrived.notify_all()
        await self.opened.wait()
        outcomes: Sequence[int] = await self._call(connection, items)
        return outcomes

    async def has_seen(self, batches: int) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.batches) >= batches)


@pytest_asyncio.fixture
async def started(entries: Database) -> AsyncIterator[Callable[..., Any]]:
    groups: list[GroupCommit[Any, Any]] = []

    async def start(call: Any = insert, **options: Any) -> GroupCommit[Insert, int]:
        group: GroupCommit[Insert, int] = GroupCommit(entries, call, key=lambda item: item[0], **options)
        groups.append(group)
        await group.start()
        return group

    yield start
    for group in groups:
        await group.stop()


async def test_items_of_one_loop_turn_go_as_one_call(started: Any) -> None:
    gate = Gate()
    gate.opened.set()
    group = await started(gate)
    assert await asyncio.gather(*(group.submit((f"k{n}", n)) for n in range(20))) == list(range(20))
    assert [len(batch) for batch in gate.batches] == [20]


async def test_what_gathers_while_the_connections_are_busy_is_the_next_batch(started: Any) -> None:
    gate = Gate()
    group = await started(gate, connections=1)
    first = asyncio.ensure_future(group.submit(("k0", 0)))
    await gate.has_seen(1)
    others = [asyncio.ensure_future(group.submit((f"k{n}", n))) for n in (1, 2, 3)]
    gate.opened.set()
    assert await asyncio.gather(first, *others) == [0, 1, 2, 3]
    assert gate.batches == [[("k0", 0)], [("k1", 1), ("k2", 2), ("k3", 3)]]


async def test_a_second_connection_takes_what_comes_while_the_first_is_busy(started: Any) -> None:
    gate = Gate()
    group = await started(gate, connections=2)
    first = asyncio.ensure_future(group.submit(("a", 1)))
    await gate.has_seen(1)
    second = asyncio.ensure_future(group.submit(("b", 2)))
    await gate.has_seen(2)
    gate.opened.set()
    assert await asyncio.gather(first, second) == [1, 2]


async def test_items_of_one_key_are_never_in_two_batches_at_once_and_keep_their_order(started: Any) -> None:
    gate = Gate()
    group = await started(gate, connections=2)
    first = asyncio.ensure_future(group.submit(("a", 1)))
    await gate.has_seen(1)
    rest = [asyncio.ensure_future(group.submit(item)) for item in (("a", 2), ("b", 9), ("a", 3))]
    await gate.has_seen(2)
    assert gate.batches == [[("a", 1)], [("b", 9)]]
    gate.opened.set()
    await asyncio.gather(first, *rest)
    assert gate.batches[2:] == [[("a", 2), ("a", 3)]]


async def test_a_batch_is_sorted_by_key_and_each_caller_gets_its_own_outcome(started: Any) -> None:
    gate = Gate()
    gate.opened.set()
    group = await started(gate)
    assert await asyncio.gather(*(group.submit(item) for item in (("c", 3), ("a", 1), ("b", 2)))) == [3, 1, 2]
    assert gate.batches == [[("a", 1), ("b", 2), ("c", 3)]]


async def test_no_batch_is_larger_than_allowed(started: Any) -> None:
    gate = Gate()
    gate.opened.set()
    group = await started(gate, max_batch=8)
    await asyncio.gather(*(group.submit((f"k{n}", n)) for n in range(50)))
    assert sum(len(batch) for batch in gate.batches) == 50
    assert max(len(batch) for batch in gate.batches) == 8


async def test_only_the_caller_of_a_bad_row_sees_its_error(started: Any, entries: Database) -> None:
    group = await started()
    values = [5, -1, 7, 8, -2, 10, 11]
    ends = await asyncio.gather(
        *(group.submit((f"k{n}", value)) for n, value in enumerate(values)), return_exceptions=True
    )
    assert [end if isinstance(end, int) else type(end) for end in ends] == [
        value if value >= 0 else asyncpg.CheckViolationError for value in values
    ]
    assert await entries.fetchval_system("select count(*) from entries") == 5


async def test_a_row_that_postgres_cannot_store_is_blamed_alone(started: Any) -> None:
    group = await started()
    good, bad = await asyncio.gather(group.submit(("a", 1)), group.submit(("nul\0", 2)), return_exceptions=True)
    assert good == 1
    assert isinstance(bad, asyncpg.PostgresError)


async def test_a_deadlock_is_retried_until_both_are_done(started: Any, entries: Database) -> None:
    both_hold_one = asyncio.Barrier(2)
    tries: list[str] = []

    async def cross(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        ((key, value),) = items
        other = "b" if key == "a" else "a"
        is_first_try = key not in tries
        tries.append(key)
        async with connection.transaction():
            await connection.execute("update counters set n = n + 1 where key = $1", key)
            if is_first_try:
                await both_hold_one.wait()
            await connection.execute("update counters set n = n + 1 where key = $1", other)
        return [value]

    group = await started(cross, connections=2, max_batch=1)
    assert await asyncio.gather(group.submit(("a", 1)), group.submit(("b", 2))) == [1, 2]
    assert len(tries) > 2
    assert [row["n"] for row in await entries.fetch_system("select n from counters")] == [2, 2]


async def test_a_conflict_that_never_ends_is_told_to_the_caller(started: Any) -> None:
    async def conflict(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        await connection.execute("do $$ begin raise exception 'again' using errcode = '40001'; end $$")
        return []

    group = await started(conflict)
    with pytest.raises(asyncpg.SerializationError):
        await group.submit(("a", 1))


async def test_a_caller_that_gives_up_while_waiting_takes_its_item_back(started: Any, entries: Database) -> None:
    gate = Gate()
    group = await started(gate, connections=1)
    first = asyncio.ensure_future(group.submit(("a", 1)))
    await gate.has_seen(1)
    gone = asyncio.ensure_future(group.submit(("b", 2)))
    stays = asyncio.ensure_future(group.submit(("c", 3)))
    await asyncio.sleep(0)
    gone.cancel()
    gate.opened.set()
    assert await asyncio.gather(first, stays) == [1, 3]
    assert gone.cancelled()
    assert await entries.fetchval_system("select array_agg(value order by value) from entries") == [1, 3]


async def test_an_item_that_was_sent_is_carried_out_though_its_caller_has_gone(started: Any, entries: Database) -> None:
    gate = Gate()
    group = await started(gate, connections=1)
    gone = asyncio.ensure_future(group.submit(("a", 1)))
    await gate.has_seen(1)
    gone.cancel()
    gate.opened.set()
    await group.stop()
    assert await entries.fetchval_system("select array_agg(value) from entries") == [1]


async def test_stop_sends_what_waits_and_refuses_what_comes(started: Any, entries: Database) -> None:
    gate = Gate()
    group = await started(gate, connections=2, max_batch=2)
    submitted = [asyncio.ensure_future(group.submit((key, n))) for n, key in enumerate("aabbaabb")]
    await gate.has_seen(1)
    stopping = asyncio.ensure_future(group.stop())
    await asyncio.sleep(0)
    with pytest.raises(GroupStopped):
        await group.submit(("z", 1))
    gate.opened.set()
    assert await asyncio.gather(*submitted) == list(range(8))
    await stopping
    await group.stop()
    assert await entries.fetchval_system("select count(*) from entries") == 8


async def test_a_connection_lost_in_mid_call_is_an_unknown_outcome_and_the_next_call_goes_on(
    started: Any, superuser: asyncpg.Connection
) -> None:
    async def lose_it(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        if items[0][1] == 13:
            connection.terminate()
        return await insert(connection, items)

    group = await started(lose_it, connections=1)
    with pytest.raises(OutcomeUnknown):
        await group.submit(("a", 13))
    assert await group.submit(("a", 1)) == 1


async def test_a_session_that_the_server_ended_while_idle_is_opened_again(
    started: Any, superuser: asyncpg.Connection
) -> None:
    pids: list[int] = []

    async def note(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        pids.append(connection.get_server_pid())
        return await insert(connection, items)

    group = await started(note, connections=1)
    await group.submit(("a", 1))
    await superuser.execute("select pg_terminate_backend($1, 5000)", pids[0])
    # Whether the loss was noticed before the call or during it, a second submission finds a new session.
    (end,) = await asyncio.gather(group.submit(("a", 2)), return_exceptions=True)
    assert end == 2 or isinstance(end, OutcomeUnknown)
    assert await group.submit(("a", 3)) == 3
    assert len(set(pids)) == 2


async def test_a_bug_in_the_call_reaches_every_caller_and_is_not_repeated(started: Any) -> None:
    calls: list[int] = []

    async def broken(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        calls.append(len(items))
        raise KeyError("oops")

    group = await started(broken)
    ends = await asyncio.gather(group.submit(("a", 1)), group.submit(("b", 2)), return_exceptions=True)
    assert [type(end) for end in ends] == [KeyError, KeyError]
    assert calls == [2]


async def test_a_call_that_answers_too_few_outcomes_fails_loudly(started: Any) -> None:
    async def short(connection: Any, items: Sequence[Insert]) -> Sequence[int]:
        return []

    group = await started(short)
    with pytest.raises(RuntimeError, match="1 items, 0 outcomes"):
        await group.submit(("a", 1))


async def test_start_without_a_server_says_that_nothing_was_done() -> None:
    group: GroupCommit[Insert, int] = GroupCommit(
        Database("postgresql://nobody@127.0.0.1:1/none"), insert, key=lambda item: item[0]
    )
    with pytest.raises(DatabaseUnavailable):
        await group.start()
