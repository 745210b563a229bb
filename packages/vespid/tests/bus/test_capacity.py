"""The capacity book, through real servers: who gets a slot, who waits, and what comes back."""

from collections.abc import Callable, Sequence

import pytest

from vespid.bus.capacity import RedisCapacity
from vespid.bus.choice import (
    Ask,
    Choice,
    Cold,
    ExecutorPresence,
    Held,
    LeasedRow,
    Next,
    NoneReason,
    Refused,
    Reserved,
    Waiting,
)
from vespid.bus.connection import Connection
from vespid.domain.selector import Capabilities, Pool, Requirement
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

ORG, OTHER = OrgId("org-a"), OrgId("org-b")
SHELL = Requirement(kind="agent.execute")
START_MS = 1_790_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = START_MS

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def book(connection: Connection, clock: Clock) -> RedisCapacity:
    """A warm book for two organizations and the managed pool."""
    book = RedisCapacity(connection, clock=clock)
    for org in (ORG, OTHER, None):
        await book.rebuild(org, [], clock(), life=await book.prepare(org))
    return book


def executor(name: str, *, org: OrgId | None = ORG, **changes: object) -> ExecutorPresence:
    fields: dict[str, object] = {
        "executor_id": ExecutorId(name),
        "org_id": org,
        "connection_epoch": 1,
        "edge_id": ProcessId("edge-1"),
        "capacity": 1,
        "routable": True,
        "capabilities": Capabilities(),
    }
    return ExecutorPresence(**(fields | changes))  # type: ignore[arg-type]


def ask(name: str, *, org: OrgId = ORG, pool: Pool = "byon", **changes: object) -> Ask:
    fields: dict[str, object] = {
        "request_id": RequestId(name),
        "org_id": org,
        "pool": pool,
        "requirement": SHELL,
        "org_quota": 100,
    }
    return Ask(**(fields | changes))  # type: ignore[arg-type]


def won(choice: Choice) -> str:
    assert isinstance(choice, Reserved), choice
    return choice.executor_id


def turns(nexts: Sequence[Next]) -> list[tuple[str, str]]:
    return [(turn.request_id, turn.executor_id) for turn in nexts]


@pytest.fixture(params=["byon", "managed"])
def pool(request: pytest.FixtureRequest) -> Pool:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def fleet_org(pool: Pool) -> OrgId | None:
    return ORG if pool == "byon" else None


async def test_reserves_the_least_loaded_then_the_least_recently_used(
    book: RedisCapacity, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org, capacity=2))
    await book.upsert(executor("x2", org=fleet_org, capacity=2))
    first = won(await book.choose(ask("r1", pool=pool)))
    second = won(await book.choose(ask("r2", pool=pool)))
    assert {first, second} == {"x1", "x2"}
    await book.release(RequestId("r1"), ORG, pool=pool)
    await book.release(RequestId("r2"), ORG, pool=pool)
    assert won(await book.choose(ask("r3", pool=pool))) == first


async def test_answer_carries_connection_and_edge(book: RedisCapacity, clock: Clock) -> None:
    await book.upsert(executor("x1", connection_epoch=7, edge_id=ProcessId("edge-9")))
    choice = await book.choose(ask("r1"))
    assert choice == Reserved(ExecutorId("x1"), 7, ProcessId("edge-9"), clock())


@pytest.mark.promise("P9")
async def test_capacity_is_never_exceeded(book: RedisCapacity, pool: Pool, fleet_org: OrgId | None) -> None:
    await book.upsert(executor("x1", org=fleet_org, capacity=2))
    choices = [await book.choose(ask(f"r{i}", pool=pool, wait=False)) for i in range(3)]
    assert [type(choice) for choice in choices] == [Reserved, Reserved, Refused]
    assert choices[2] == Refused(NoneReason.ALL_FULL)
    assert await book.inflight(ORG) == 2


@pytest.mark.promise("P9")
async def test_quota_counts_both_pools(book: RedisCapacity) -> None:
    await book.upsert(executor("own", capacity=5))
    await book.upsert(executor("shared", org=None, capacity=5))
    won(await book.choose(ask("r1", org_quota=2)))
    won(await book.choose(ask("r2", pool="managed", org_quota=2)))
    assert await book.choose(ask("r3", org_quota=2, wait=False)) == Refused(NoneReason.QUOTA)
    assert await book.choose(ask("r4", pool="managed", org_quota=2, wait=False)) == Refused(NoneReason.QUOTA)
    won(await book.choose(ask("r5", org=OTHER, pool="managed", org_quota=2)))


async def test_asked_for_a_backend_only_those_are_chosen_that_have_it_or_do_not_say(book: RedisCapacity) -> None:
    docker = Requirement(kind="agent.execute", backend="docker")
    await book.upsert(executor("bare", capacity=9, capabilities=Capabilities.of(backends=["host"])))
    assert await book.choose(ask("r1", requirement=docker, wait=False)) == Refused(NoneReason.NONE_MATCHES)
    assert won(await book.choose(ask("r2"))) == "bare"
    await book.upsert(executor("boxed", capabilities=Capabilities.of(backends=["host", "docker"])))
    assert won(await book.choose(ask("r3", requirement=docker))) == "boxed"
    await book.upsert(executor("boxed", capabilities=Capabilities.of(backends=["host"])))
    assert await book.choose(ask("r4", requirement=docker, wait=False)) == Refused(NoneReason.NONE_MATCHES)
    await book.upsert(executor("silent"))
    assert won(await book.choose(ask("r5", requirement=docker))) == "silent"


async def test_says_why_nobody(book: RedisCapacity) -> None:
    assert await book.choose(ask("r1", wait=False)) == Refused(NoneReason.NONE_CONNECTED)
    await book.upsert(executor("x1", capabilities=Capabilities.of(tags=["east"])))
    west = Requirement(kind="agent.execute", tags=("west",))
    assert await book.choose(ask("r1", requirement=west, wait=False)) == Refused(NoneReason.NONE_MATCHES)
    await book.upsert(executor("x1", routable=False))
    assert await book.choose(ask("r1", wait=False)) == Refused(NoneReason.ALL_FULL)
    assert await book.choose(ask("r1", pin=ExecutorId("x1"), wait=False)) == Refused(NoneReason.NOT_TAKING)
    assert await book.choose(ask("r1", pin=ExecutorId("gone"))) == Waiting(NoneReason.NONE_CONNECTED)


async def test_choose_again_answers_held(book: RedisCapacity, pool: Pool, fleet_org: OrgId | None) -> None:
    await book.upsert(executor("x1", org=fleet_org, capacity=3))
    won(await book.choose(ask("r1", pool=pool)))
    again = await book.choose(ask("r1", pool=pool))
    assert isinstance(again, Held)
    assert not again.confirmed
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), pool)
    again = await book.choose(ask("r1", pool=pool))
    assert isinstance(again, Held)
    assert again.confirmed
    assert await book.inflight(ORG) == 1


async def test_choose_without_the_one_that_refused_moves_the_reservation(book: RedisCapacity) -> None:
    await book.upsert(executor("x1"))
    await book.upsert(executor("x2"))
    first = won(await book.choose(ask("r1")))
    second = won(await book.choose(ask("r1", exclude=frozenset({ExecutorId(first)}))))
    assert {first, second} == {"x1", "x2"}
    assert won(await book.choose(ask("r2"))) == first


async def test_release_hands_the_slot_to_the_oldest_waiter(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    assert await book.choose(ask("r3", pool=pool, since_ms=3)) == Waiting(NoneReason.ALL_FULL)
    assert await book.choose(ask("r2", pool=pool, since_ms=2)) == Waiting(NoneReason.ALL_FULL)
    assert await book.choose(ask("r9", pool=pool, since_ms=9, priority=5)) == Waiting(NoneReason.ALL_FULL)
    order = []
    held = "r1"
    for _ in range(3):
        nexts = await book.release(RequestId(held), ORG, pool=pool)
        assert [turn.executor_id for turn in nexts] == ["x1"]
        held = nexts[0].request_id
        order.append(held)
    assert order == ["r9", "r2", "r3"]
    assert await book.release(RequestId("r3"), ORG, pool=pool) == ()
    assert await book.inflight(ORG) == 0


async def test_release_twice_gives_back_once(book: RedisCapacity, pool: Pool, fleet_org: OrgId | None) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await book.release(RequestId("r1"), ORG)
    won(await book.choose(ask("r2", pool=pool)))
    await book.release(RequestId("r1"), ORG)
    assert await book.choose(ask("r3", pool=pool, wait=False)) == Refused(NoneReason.ALL_FULL)


@pytest.mark.promise("P4")
async def test_release_by_an_old_holder_changes_nothing(
    book: RedisCapacity, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await book.release(RequestId("r1"), ORG, pool=pool, executor_id=ExecutorId("x0"))
    assert await book.inflight(ORG) == 1
    await book.release(RequestId("r1"), ORG, executor_id=ExecutorId("x0"))
    assert await book.inflight(ORG) == 1
    await book.release(RequestId("r1"), ORG, executor_id=ExecutorId("x1"))
    assert await book.inflight(ORG) == 0


async def test_refused_grant_does_not_release_somebody_elses(book: RedisCapacity) -> None:
    await book.upsert(executor("x1"))
    won(await book.choose(ask("r1")))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), "byon")
    await book.release(RequestId("r1"), ORG, executor_id=ExecutorId("x1"), only_unconfirmed=True)
    assert await book.inflight(ORG) == 1


async def test_cancelled_waiter_leaves_the_queue(book: RedisCapacity, pool: Pool, fleet_org: OrgId | None) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await book.choose(ask("r2", pool=pool, since_ms=2))
    await book.choose(ask("r3", pool=pool, since_ms=3))
    await book.release(RequestId("r2"), ORG)
    assert turns(await book.release(RequestId("r1"), ORG)) == [("r3", "x1")]


async def test_waiter_that_is_not_waiting_for_us_is_not_overtaken(book: RedisCapacity, clock: Clock) -> None:
    await book.upsert(executor("x1"))
    waiting = await book.choose(ask("r1", exclude=frozenset({ExecutorId("x1")}), since_ms=1))
    assert waiting == Waiting(NoneReason.ALL_FULL)
    clock.now += 5_001
    later = await book.choose(ask("r2", since_ms=2))
    assert isinstance(later, Waiting)
    assert turns(later.handed) == [("r1", "x1")]
    refused = await book.choose(ask("r3", wait=False))
    assert refused == Refused(NoneReason.BEHIND)


async def test_quota_that_comes_free_serves_another_signature(book: RedisCapacity) -> None:
    other = Requirement(kind="connector.action")
    await book.upsert(executor("x1", capacity=5, capabilities=Capabilities.of(kinds=["agent.execute"])))
    await book.upsert(executor("x2", capacity=5, capabilities=Capabilities.of(kinds=["connector.action"])))
    won(await book.choose(ask("r1", org_quota=1)))
    assert await book.choose(ask("r2", org_quota=1, requirement=other)) == Waiting(NoneReason.QUOTA)
    assert turns(await book.release(RequestId("r1"), ORG)) == [("r2", "x2")]


async def test_raised_quota_serves_who_waited_for_it(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", capacity=5))
    won(await book.choose(ask("r1", org_quota=1)))
    await book.choose(ask("r2", org_quota=1, since_ms=1))
    choice = await book.choose(ask("r3", org_quota=2, since_ms=2))
    assert isinstance(choice, Waiting)
    assert turns(choice.handed) == [("r2", "x1")]


async def test_parked_managed_request_runs_when_quota_comes_free(book: RedisCapacity) -> None:
    await book.upsert(executor("own", capacity=5))
    await book.upsert(executor("shared", org=None, capacity=5))
    won(await book.choose(ask("r1", org_quota=1)))
    assert await book.choose(ask("r2", pool="managed", org_quota=1)) == Waiting(NoneReason.QUOTA)
    assert turns(await book.release(RequestId("r1"), ORG, pool="byon")) == [("r2", "shared")]
    assert await book.inflight(ORG) == 1


async def test_managed_waiter_without_quota_lets_the_slot_pass(book: RedisCapacity) -> None:
    await book.upsert(executor("own", capacity=5))
    await book.upsert(executor("shared", org=None))
    won(await book.choose(ask("b1", org=OTHER, pool="managed")))
    assert isinstance(await book.choose(ask("a1", pool="managed", org_quota=1)), Waiting)
    won(await book.choose(ask("a2", org_quota=1)))
    await book.choose(ask("b2", org=OTHER, pool="managed"))
    assert turns(await book.release(RequestId("b1"), OTHER)) == [("b2", "shared")]
    await book.release(RequestId("b2"), OTHER)
    assert turns(await book.release(RequestId("a2"), ORG)) == [("a1", "shared")]


async def test_managed_waiters_are_served_in_turn_over_organizations(book: RedisCapacity) -> None:
    await book.upsert(executor("shared", org=None))
    held = ("r0", ORG)
    won(await book.choose(ask("r0", pool="managed")))
    for i in range(3):
        await book.choose(ask(f"a{i}", pool="managed", since_ms=i + 1))
    await book.choose(ask("b0", org=OTHER, pool="managed", since_ms=10))
    await book.choose(ask("b1", org=OTHER, pool="managed", since_ms=11))
    order = []
    for _ in range(5):
        (turn,) = await book.release(RequestId(held[0]), held[1], pool="managed")
        order.append(turn.request_id)
        held = (turn.request_id, turn.org_id)
    assert order == ["a0", "b0", "a1", "b1", "a2"]


async def test_pinned_request_waits_for_that_executor_only(book: RedisCapacity) -> None:
    await book.upsert(executor("x1"))
    await book.upsert(executor("x2"))
    pinned = ExecutorId("x1")
    assert won(await book.choose(ask("r1", pin=pinned))) == "x1"
    assert await book.choose(ask("r2", pin=pinned)) == Waiting(NoneReason.ALL_FULL)
    assert won(await book.choose(ask("r3"))) == "x2"
    assert await book.release(RequestId("r3"), ORG) == ()
    assert turns(await book.release(RequestId("r1"), ORG)) == [("r2", "x1")]


async def test_pinned_request_still_has_to_match(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", capabilities=Capabilities.of(tags=["east"])))
    west = Requirement(kind="agent.execute", tags=("west",))
    answer = await book.choose(ask("r1", requirement=west, pin=ExecutorId("x1"), wait=False))
    assert answer == Refused(NoneReason.NONE_MATCHES)


async def test_executor_that_connects_serves_who_waits(
    book: RedisCapacity, pool: Pool, fleet_org: OrgId | None
) -> None:
    for i in range(3):
        assert await book.choose(ask(f"r{i}", pool=pool, since_ms=i + 1)) == Waiting(NoneReason.NONE_CONNECTED)
    nexts = await book.upsert(executor("x1", org=fleet_org, capacity=2))
    assert turns(nexts) == [("r0", "x1"), ("r1", "x1")]


@pytest.mark.promise("P9")
async def test_executor_that_connects_serves_nobody_beyond_the_quota(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", capacity=1))
    won(await book.choose(ask("r1", org_quota=1)))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), "byon")
    assert isinstance(await book.choose(ask("r2", org_quota=1)), Waiting)
    assert await book.upsert(executor("x2", capacity=5)) == ()
    assert await book.inflight(ORG) == 1


async def test_load_is_what_is_taken_of_what_there_is(book: RedisCapacity) -> None:
    await book.upsert(executor("large", capacity=10))
    await book.upsert(executor("small", capacity=2))
    chosen = [won(await book.choose(ask(f"r{n}"))) for n in range(5)]
    assert (chosen.count("large"), chosen.count("small")) == (4, 1)


async def test_the_oldest_of_different_signatures_is_served_first(book: RedisCapacity, clock: Clock) -> None:
    await book.upsert(executor("x1", capacity=1))
    won(await book.choose(ask("r1")))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), "byon")
    await book.choose(ask("z", requirement=Requirement("agent.run")))
    clock.now += 1
    await book.choose(ask("a"))
    handed = await book.release(RequestId("r1"), ORG, pool="byon", executor_id=ExecutorId("x1"))
    assert turns(handed) == [("z", "x1")]


async def test_changed_tags_route_from_then_on(book: RedisCapacity) -> None:
    west = Requirement(kind="agent.execute", tags=("west",))
    await book.upsert(executor("x1"))
    assert await book.choose(ask("r1", requirement=west)) == Waiting(NoneReason.NONE_MATCHES)
    nexts = await book.upsert(executor("x1", capabilities=Capabilities.of(tags=["west"])))
    assert turns(nexts) == [("r1", "x1")]
    await book.release(RequestId("r1"), ORG)
    await book.upsert(executor("x1"))
    assert await book.choose(ask("r2", requirement=west, wait=False)) == Refused(NoneReason.NONE_MATCHES)


@pytest.mark.promise("P4")
async def test_late_close_of_old_socket_keeps_new_registration(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", connection_epoch=2, edge_id=ProcessId("edge-2")))
    await book.remove(ExecutorId("x1"), ORG, 1)
    choice = await book.choose(ask("r1"))
    assert isinstance(choice, Reserved)
    assert choice.edge_id == "edge-2"


@pytest.mark.promise("P4")
async def test_late_report_of_old_socket_does_not_come_back(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", connection_epoch=2))
    await book.upsert(executor("x1", connection_epoch=1, edge_id=ProcessId("old")))
    await book.remove(ExecutorId("x1"), ORG, 2)
    await book.upsert(executor("x1", connection_epoch=1))
    assert await book.choose(ask("r1", wait=False)) == Refused(NoneReason.NONE_CONNECTED)


@pytest.mark.promise("P9")
async def test_reconnected_executor_still_carries_what_it_holds(
    book: RedisCapacity, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), pool)
    await book.remove(ExecutorId("x1"), fleet_org, 1)
    await book.upsert(executor("x1", org=fleet_org, connection_epoch=2))
    assert await book.choose(ask("r2", pool=pool, wait=False)) == Refused(NoneReason.ALL_FULL)


@pytest.mark.promise("P9")
async def test_unconfirmed_reservation_comes_back(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool, wait=False)))
    clock.now += 5_001
    won(await book.choose(ask("r2", pool=pool)))
    assert await book.inflight(ORG) == 1


async def test_offer_that_was_lost_is_made_again(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    clock.now += 5_001
    # its executor's edge did not take it: for a while it goes elsewhere or waits
    assert turns([*await book.sweep(fleet_org), *await book.sweep(ORG)]) == []
    clock.now += 5_001
    # both halves of a managed one find each other again; the same offer may come twice
    assert set(turns([*await book.sweep(fleet_org), *await book.sweep(ORG)])) == {("r1", "x1")}


async def test_confirmed_reservation_does_not_expire(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), pool)
    clock.now += 60_000
    await book.sweep(fleet_org)
    assert await book.choose(ask("r2", pool=pool, wait=False)) == Refused(NoneReason.ALL_FULL)


async def test_late_confirm_puts_the_request_where_the_row_says(book: RedisCapacity, clock: Clock) -> None:
    await book.upsert(executor("x1"))
    won(await book.choose(ask("r1", wait=False)))
    clock.now += 5_001
    await book.sweep(ORG)
    await book.upsert(executor("x2"))
    await book.choose(ask("r1", exclude=frozenset({ExecutorId("x1")})))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), "byon")
    assert won(await book.choose(ask("r2"))) == "x2"
    assert await book.inflight(ORG) == 2


async def test_offers_of_a_closed_connection_go_elsewhere(book: RedisCapacity) -> None:
    await book.upsert(executor("x1"))
    won(await book.choose(ask("r1", since_ms=1)))
    await book.upsert(executor("x2", routable=False))
    await book.remove(ExecutorId("x1"), ORG, 1)
    assert await book.inflight(ORG) == 0
    assert turns(await book.upsert(executor("x2"))) == [("r1", "x2")]


@pytest.mark.promise("P9")
async def test_emptied_redis_grants_nothing_until_rebuilt(
    book: RedisCapacity, connection: Connection, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org))
    won(await book.choose(ask("r1", pool=pool)))
    await connection.call("FLUSHDB")
    assert isinstance(await book.choose(ask("r2", pool=pool)), Cold)
    await book.upsert(executor("x1", org=fleet_org))
    assert isinstance(await book.choose(ask("r2", pool=pool)), Cold)
    rows = [LeasedRow(RequestId("r1"), ORG, ExecutorId("x1"), pool)]
    for partition in (ORG, None):
        await book.rebuild(partition, rows, clock(), life=await book.prepare(partition))
    assert await book.choose(ask("r2", pool=pool, wait=False)) == Refused(NoneReason.ALL_FULL)
    assert await book.inflight(ORG) == 1
    await book.release(RequestId("r1"), ORG)
    won(await book.choose(ask("r2", pool=pool)))


@pytest.mark.promise("P9")
async def test_rebuild_gives_back_what_no_row_holds(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org, capacity=2))
    for name in ("leak", "r1"):
        won(await book.choose(ask(name, pool=pool)))
        await book.confirm(RequestId(name), ORG, ExecutorId("x1"), pool)
    await book.choose(ask("r2", pool=pool))
    rows = [LeasedRow(RequestId("r1"), ORG, ExecutorId("x1"), pool)]
    await book.rebuild(ORG, rows, clock())
    assert await book.inflight(ORG) == 2, "a confirm younger than the read is not a leak"
    clock.now += 3_000
    handed = [*await book.rebuild(None, rows, clock()), *await book.rebuild(ORG, rows, clock())]
    assert ("r2", "x1") in turns(handed)
    assert await book.inflight(ORG) == 2


async def test_rebuild_without_any_row_gives_everything_back(
    book: RedisCapacity, clock: Clock, pool: Pool, fleet_org: OrgId | None
) -> None:
    await book.upsert(executor("x1", org=fleet_org, capacity=1))
    won(await book.choose(ask("r1", pool=pool)))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), pool)
    clock.now += 3_000
    for partition in (None, ORG):
        await book.rebuild(partition, [], clock())
    assert await book.inflight(ORG) == 0
    assert won(await book.choose(ask("r2", pool=pool))) == "x1"


@pytest.mark.promise("P9")
async def test_a_rebuilt_managed_lease_counts_and_is_given_back_in_both_partitions(
    book: RedisCapacity, connection: Connection, clock: Clock
) -> None:
    await connection.call("FLUSHDB")
    await book.upsert(executor("x1", org=None, capacity=1))
    rows = [LeasedRow(RequestId("r1"), ORG, ExecutorId("x1"), "managed")]
    for partition in (None, ORG):
        await book.rebuild(partition, rows, clock(), life=await book.prepare(partition))
    assert await book.inflight(ORG) == 1
    assert isinstance(await book.choose(ask("r2", pool="managed", wait=False)), Refused)
    await book.release(RequestId("r1"), ORG, pool="managed", executor_id=ExecutorId("x1"))
    assert await book.inflight(ORG) == 0
    assert won(await book.choose(ask("r2", pool="managed"))) == "x1"


async def test_the_managed_partition_holds_no_leases_of_organizations_own_executors(
    book: RedisCapacity, clock: Clock
) -> None:
    await book.upsert(executor("x1", org=None, capacity=1))
    await book.rebuild(None, [LeasedRow(RequestId("r1"), ORG, ExecutorId("x1"), "byon")], clock())
    assert won(await book.choose(ask("r2", pool="managed"))) == "x1"


async def test_a_parked_managed_request_does_not_avoid_anybody_anew_when_its_turn_comes(
    book: RedisCapacity, clock: Clock
) -> None:
    await book.upsert(executor("x1", org=None, capacity=2))
    won(await book.choose(ask("r1", pool="managed", org_quota=1)))
    await book.confirm(RequestId("r1"), ORG, ExecutorId("x1"), "managed")
    refused_there = frozenset({ExecutorId("x1")})
    await book.choose(ask("r2", pool="managed", org_quota=1, exclude=refused_there))
    clock.now += 6_000
    handed = await book.release(RequestId("r1"), ORG, pool="managed", executor_id=ExecutorId("x1"))
    assert turns(handed) == [("r2", "x1")]


async def test_generation_changes_with_a_new_life(book: RedisCapacity, connection: Connection, clock: Clock) -> None:
    first = await book.generation(ORG)
    await book.rebuild(ORG, [], clock())
    assert await book.generation(ORG) == first
    await connection.call("FLUSHDB")
    assert await book.generation(ORG) is None
    await book.rebuild(ORG, [], clock(), life=await book.prepare(ORG))
    assert await book.generation(ORG) not in (None, first)


@pytest.mark.promise("P1")
async def test_a_partition_emptied_after_the_edges_reported_does_not_begin_a_life_without_them(
    book: RedisCapacity, connection: Connection, clock: Clock
) -> None:
    await connection.call("FLUSHDB")
    lost = await book.prepare(ORG)
    await book.upsert(executor("x1"))
    await connection.call("FLUSHDB")
    await book.rebuild(ORG, [], clock(), life=lost)
    await book.rebuild(ORG, [], clock())
    assert await book.generation(ORG) is None
    life = await book.prepare(ORG)
    assert await book.prepare(ORG) == life, "two who warm it at once begin one life"
    await book.rebuild(ORG, [], clock(), life=lost)
    assert await book.generation(ORG) is None
    await book.upsert(executor("x1"))
    await book.rebuild(ORG, [], clock(), life=life)
    assert won(await book.choose(ask("r1"))) == "x1"


@pytest.mark.promise("P5")
async def test_organizations_do_not_see_each_other(book: RedisCapacity) -> None:
    await book.upsert(executor("x1", org=OTHER, capacity=10))
    assert await book.choose(ask("r1", wait=False)) == Refused(NoneReason.NONE_CONNECTED)
    won(await book.choose(ask("r1", org=OTHER)))
    await book.release(RequestId("r1"), ORG)
    assert await book.inflight(OTHER) == 1


async def test_many_signatures_learnt_while_executors_connect(book: RedisCapacity) -> None:
    import asyncio

    wanted = [Requirement(kind="agent.execute", tags=(f"t{i}",)) for i in range(8)]
    fleet = [executor(f"x{i}", capabilities=Capabilities.of(tags=[f"t{i}"])) for i in range(8)]
    outcomes: list[object] = await asyncio.gather(
        *(book.choose(ask(f"r{i}", requirement=wanted[i])) for i in range(8)), *(book.upsert(x) for x in fleet)
    )
    placed = {won(choice) for choice in outcomes if isinstance(choice, Reserved)}
    for outcome in outcomes:
        handed: Sequence[Next] = outcome if isinstance(outcome, tuple) else getattr(outcome, "handed", ())
        placed |= {turn.executor_id for turn in handed}
    assert placed == {f"x{i}" for i in range(8)}


def test_every_script_stays_in_its_partition() -> None:
    from importlib.resources import files

    for script in files("vespid.bus.scripts").iterdir():
        if script.name.endswith(".lua"):
            for line in script.read_text().splitlines():
                assert "call('" not in line or "KEYS[1]" in line or "P .." in line or _local_key(line), line


def _local_key(line: str) -> bool:
    held: Callable[[str], bool] = line.__contains__
    return any(held(name) for name in ("'TIME'", ", q", ", key", "(q"))
