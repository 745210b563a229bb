"""Random lives of a capacity book, held against a plain account of who holds and who waits.

The account follows the answers and judges each: was there room, quota and a match; was nobody older passed over; does
nobody wait for what is free; and at the end, is everything given back.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from vespid.bus.capacity import RedisCapacity
from vespid.bus.choice import (
    EXCLUDED_MS,
    UNCONFIRMED_MS,
    Ask,
    ExecutorPresence,
    Held,
    LeasedRow,
    Next,
    Reserved,
    Waiting,
)
from vespid.bus.connection import Connection
from vespid.domain.selector import Capabilities, Pool, Requirement, matches
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

START_MS = 1_790_000_000_000
EXECUTORS = [ExecutorId(f"x{i}") for i in range(3)]
REQUESTS = [RequestId(f"r{i}") for i in range(8)]
WANTED = [Requirement(kind="agent.execute"), Requirement(kind="agent.execute", tags=("west",))]
OFFERED = [Capabilities(), Capabilities.of(tags=["west"])]


class Held_(msgspec.Struct):
    """A reservation in the account."""

    ask: Ask
    executor: ExecutorId
    at: int
    confirmed: bool = False


class Waiter(msgspec.Struct):
    """A waiter in the account; `avoids`: executor -> until when."""

    ask: Ask
    avoids: dict[ExecutorId, int]

    def place(self) -> tuple[int, int, str]:
        return (-self.ask.priority, self.ask.since_ms, self.ask.request_id)

    def queue(self) -> tuple[str, str | None]:
        return (self.ask.requirement.signature, self.ask.pin)


class Book(RuleBasedStateMachine):
    """BYON: one organization, one partition; every step is judged exactly."""

    url = ""
    pool: Pool = "byon"
    orgs: tuple[OrgId, ...] = (OrgId("a"),)

    def __init__(self) -> None:
        super().__init__()
        self.now = START_MS
        self.runner = asyncio.Runner()
        self.connection = Connection(self.url)
        self.runner.run(self.connection.start())
        self.book = RedisCapacity(self.connection, clock=lambda: self.now)
        self.connected: dict[ExecutorId, ExecutorPresence] = {}
        self.epochs: dict[ExecutorId, int] = {}
        self.held: dict[RequestId, Held_] = {}
        self.waiting: dict[RequestId, Waiter] = {}
        # What the next ask says, and what the book was told last.
        self.quota = 3
        self.known_quota = 3

    @initialize()
    def begin(self) -> None:
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        await self.connection.call("FLUSHDB")
        await self._rebuild()

    async def _rebuild(self) -> None:
        rows = [
            LeasedRow(request, held.ask.org_id, held.executor, self.pool)
            for request, held in self.held.items()
            if held.confirmed
        ]
        for org in (*self.orgs, None):
            mine = [row for row in rows if org is None or row.org_id == org]
            self.follow(await self.book.rebuild(org, mine, self.now, life=await self.book.prepare(org)))

    @property
    def fleet(self) -> OrgId | None:
        return self.orgs[0] if self.pool == "byon" else None

    # --- the account ---

    def load(self, x: ExecutorId) -> int:
        return sum(held.executor == x for held in self.held.values())

    def inflight(self, org: OrgId) -> int:
        return sum(held.ask.org_id == org for held in self.held.values())

    def suits(self, waiter: Waiter, x: ExecutorId) -> bool:
        presence = self.connected.get(x)
        return (
            presence is not None
            and presence.routable
            and waiter.ask.pin in (None, x)
            and matches(presence.capabilities, waiter.ask.requirement)
            and waiter.avoids.get(x, 0) <= self.now
        )

    def servable(self, waiter: Waiter) -> ExecutorId | None:
        if self.inflight(waiter.ask.org_id) >= self.known_quota:
            return None
        for x in self.connected:
            if self.suits(waiter, x) and self.load(x) < self.connected[x].capacity:
                return x
        return None

    def reserve(self, waiter: Waiter, x: ExecutorId) -> None:
        self.judge_match(waiter, x)
        self.judge_order(waiter, x)
        self.held[waiter.ask.request_id] = Held_(waiter.ask, x, self.now)
        self.judge_limits(waiter.ask.org_id, x)

    def judge_match(self, waiter: Waiter, x: ExecutorId) -> None:
        assert self.suits(waiter, x), f"{waiter.ask.request_id} does not suit {x}"

    def judge_order(self, waiter: Waiter, x: ExecutorId) -> None:
        for other in self.waiting.values():
            if other.queue() == waiter.queue() and other.ask.org_id == waiter.ask.org_id and self.suits(other, x):
                assert waiter.place() < other.place(), f"{waiter.ask.request_id} overtook {other.ask.request_id}"

    def judge_limits(self, org: OrgId, x: ExecutorId) -> None:
        assert self.load(x) <= self.connected[x].capacity
        assert self.inflight(org) <= self.known_quota

    def follow(self, nexts: Sequence[Next]) -> None:
        for turn in nexts:
            presence = self.connected[turn.executor_id]
            assert (turn.connection_epoch, turn.edge_id) == (presence.connection_epoch, presence.edge_id)
            waiter = self.waiting.pop(turn.request_id)
            self.reserve(waiter, turn.executor_id)

    # --- what happens ---

    @rule(
        x=st.sampled_from(EXECUTORS),
        capacity=st.integers(1, 3),
        offered=st.sampled_from(OFFERED),
        routable=st.booleans() | st.just(True),
        again=st.booleans(),
    )
    def connect(self, x: ExecutorId, capacity: int, offered: Capabilities, routable: bool, again: bool) -> None:
        if again or x not in self.epochs:
            self.epochs[x] = self.epochs.get(x, 0) + 1
        epoch = self.epochs[x]
        presence = ExecutorPresence(
            executor_id=x,
            org_id=self.fleet,
            connection_epoch=epoch,
            edge_id=ProcessId(f"edge-{epoch}"),
            capacity=capacity,
            routable=routable,
            capabilities=offered,
        )
        self.connected[x] = presence
        self.follow(self.runner.run(self.book.upsert(presence)))

    @rule(x=st.sampled_from(EXECUTORS), late=st.booleans())
    def disconnect(self, x: ExecutorId, late: bool) -> None:
        epoch = self.epochs.get(x, 0)
        if not late:
            self.connected.pop(x, None)
            for request, held in list(self.held.items()):
                if held.executor == x and not held.confirmed:
                    del self.held[request]
                    if held.ask.wait:
                        self.waiting[request] = Waiter(held.ask, self.still_avoided(held))
        self.follow(self.runner.run(self.book.remove(x, self.fleet, epoch - late)))
        if not late:
            # seen as never connected at this epoch again
            self.epochs[x] = epoch + 1

    def still_avoided(self, held: Held_) -> dict[ExecutorId, int]:
        return {x: self.excluded_until.get((held.ask.request_id, x), 0) for x in EXECUTORS}

    @rule(
        request=st.sampled_from(REQUESTS),
        wanted=st.sampled_from(WANTED),
        wait=st.booleans() | st.just(True),
        priority=st.integers(0, 1),
        since=st.integers(1, 4),
        pin=st.none() | st.none() | st.sampled_from(EXECUTORS),
        exclude=st.just(frozenset[ExecutorId]()) | st.sets(st.sampled_from(EXECUTORS), max_size=1).map(frozenset),
        org=st.integers(0, 1),
    )
    def ask(
        self,
        request: RequestId,
        wanted: Requirement,
        wait: bool,
        priority: int,
        since: int,
        pin: ExecutorId | None,
        exclude: frozenset[ExecutorId],
        org: int,
    ) -> None:
        mine = self.held.get(request)
        queued = self.waiting.get(request)
        known = mine.ask if mine else queued.ask if queued else None
        ask = Ask(
            request_id=request,
            org_id=known.org_id if known else self.orgs[org % len(self.orgs)],
            pool=self.pool,
            requirement=wanted,
            org_quota=self.quota,
            pin=pin,
            exclude=exclude,
            wait=wait,
            priority=priority,
            since_ms=START_MS + since,
        )
        self.known_quota = self.quota
        choice = self.runner.run(self.book.choose(ask))
        if mine is not None and (mine.confirmed or mine.executor not in exclude):
            assert isinstance(choice, Held)
            assert (choice.executor_id, choice.confirmed) == (mine.executor, mine.confirmed)
            self.follow(choice.handed)
            return
        avoids = queued.avoids if queued else self.still_avoided(mine) if mine else {}
        avoids = avoids | dict.fromkeys(exclude, self.now + EXCLUDED_MS)
        for x in EXECUTORS:
            self.excluded_until[request, x] = avoids.get(x, 0)
        self.held.pop(request, None)
        self.waiting.pop(request, None)
        self.follow(choice.handed)
        waiter = Waiter(ask, avoids)
        if isinstance(choice, Reserved | Held):
            self.reserve(waiter, choice.executor_id)
            return
        passed_by = [other for other in self.waiting.values() if other.queue() == waiter.queue()]
        assert self.servable(waiter) is None or passed_by, "turned away although there is room"
        if isinstance(choice, Waiting):
            assert wait
            self.waiting[request] = waiter
        else:
            assert not wait

    excluded_until: dict[tuple[RequestId, ExecutorId], int]

    @initialize()
    def forget(self) -> None:
        self.excluded_until = {}

    @rule(request=st.sampled_from(REQUESTS))
    def confirm(self, request: RequestId) -> None:
        held = self.held.get(request)
        if held is not None:
            held.confirmed = True
            self.follow(self.runner.run(self.book.confirm(request, held.ask.org_id, held.executor, self.pool)))

    @rule(request=st.sampled_from(REQUESTS), pool_known=st.booleans())
    def release(self, request: RequestId, pool_known: bool) -> None:
        held, waiter = self.held.pop(request, None), self.waiting.pop(request, None)
        org = held.ask.org_id if held else waiter.ask.org_id if waiter else self.orgs[0]
        self.follow(self.runner.run(self.book.release(request, org, pool=self.pool if pool_known else None)))

    @rule(request=st.sampled_from(REQUESTS), x=st.sampled_from(EXECUTORS))
    def release_by_another(self, request: RequestId, x: ExecutorId) -> None:
        held = self.held.get(request)
        if held is not None and held.executor != x:
            self.follow(self.runner.run(self.book.release(request, held.ask.org_id, pool=self.pool, executor_id=x)))

    @rule(quota=st.integers(3, 6))
    def raise_quota(self, quota: int) -> None:
        self.quota = max(self.quota, quota)

    @rule(ms=st.sampled_from([1_000, UNCONFIRMED_MS, EXCLUDED_MS + 1]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        for request, held in list(self.held.items()):
            if not held.confirmed and held.at + UNCONFIRMED_MS <= self.now:
                del self.held[request]
                if held.ask.wait:
                    avoids = self.still_avoided(held) | {held.executor: self.now + EXCLUDED_MS}
                    self.waiting[request] = Waiter(held.ask, avoids)
                    self.excluded_until[request, held.executor] = self.now + EXCLUDED_MS
        self.sweep()

    def sweep(self) -> None:
        for org in (self.fleet, *self.orgs):
            self.follow(self.runner.run(self.book.sweep(org)))

    @rule()
    def emptied(self) -> None:
        self.runner.run(self._emptied())

    async def _emptied(self) -> None:
        await self.connection.call("FLUSHDB")
        self.waiting.clear()
        self.held = {request: held for request, held in self.held.items() if held.confirmed}
        for presence in self.connected.values():
            self.follow(await self.book.upsert(presence))
        await self._rebuild()

    # --- what always holds ---

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        for waiter in self.waiting.values():
            x = self.servable(waiter)
            assert x is None, f"{waiter.ask.request_id} waits although {x} has room"

    @invariant()
    def counts_agree(self) -> None:
        for org in self.orgs:
            assert self.runner.run(self.book.inflight(org)) == self.inflight(org)

    def teardown(self) -> None:
        try:
            self.runner.run(self._given_back())
        finally:
            self.runner.run(self.connection.stop())
            self.runner.close()

    async def _given_back(self) -> None:
        for request in REQUESTS:
            for org in self.orgs:
                await self.book.release(request, org)
        client = redis.Redis.from_url(self.url, decode_responses=True)
        left = [
            key
            for key in client.scan_iter()
            if not key.endswith((":meta", ":sigs", ":xs")) and key.split(":")[2] not in ("x", "m", "room")
        ]
        client.close()
        assert left == []


class ManagedBook(Book):
    """Managed: two organizations share the fleet; a request has two halves, so a step may need a sweep to settle."""

    pool = "managed"
    orgs = (OrgId("a"), OrgId("b"))

    def raise_quota(self, quota: int) -> None:
        """Each partition is told by its own organization's asks; the account keeps one for both."""

    def judge_order(self, waiter: Waiter, x: ExecutorId) -> None:
        """Within a step the halves of several requests move past each other."""

    def judge_match(self, waiter: Waiter, x: ExecutorId) -> None:
        # One that was parked for quota no longer knows whom it avoided.
        super().judge_match(Waiter(waiter.ask, {}), x)

    def judge_limits(self, org: OrgId, x: ExecutorId) -> None:
        """Judged when the step is over."""

    def follow(self, nexts: Sequence[Next]) -> None:
        for turn in nexts:
            held = self.held.get(turn.request_id)
            if held is not None:
                # the other half's expiry may offer the same once more
                assert held.executor == turn.executor_id
                continue
            super().follow((turn,))

    @invariant()
    def limits_hold(self) -> None:
        for x, presence in self.connected.items():
            bound = max(presence.capacity, sum(held.confirmed for held in self.held.values() if held.executor == x))
            assert self.load(x) <= bound or self.load(x) <= 3
        for org in self.orgs:
            assert self.inflight(org) <= self.known_quota


@pytest.mark.promise("P9")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", [Book, ManagedBook])
def test_random_lives_agree_with_the_account(machine: type[Book], redis_url: str) -> None:
    here = type(machine.__name__, (machine,), {"url": redis_url})
    run_state_machine_as_test(
        here,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
