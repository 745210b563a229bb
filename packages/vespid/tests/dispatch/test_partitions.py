"""Upkeep of partitions when Redis was emptied, is away, or a gateway is dead: the other ends are this test's own."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from uuid import UUID

import pytest

from vespid.bus import messages
from vespid.bus.choice import LeasedRow, Next
from vespid.bus.errors import BusUnavailable
from vespid.bus.messages import CapacityReported, ReportCapacity
from vespid.dispatch import partitions as module
from vespid.dispatch.partitions import Partitions
from vespid.domain.selector import Pool
from vespid.store.turns import LiveTurn
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId, new_id

ORG, OTHER = OrgId(new_id()), OrgId(new_id())
HERE, EDGE, DEAD = (ProcessId(new_id()) for _ in range(3))
TURN = Next(RequestId("r"), ORG, ExecutorId("x"), 1, EDGE, 0)


@dataclass
class World:
    """Redis, Postgres and the gateways, as far as partitions see them."""

    gateways: list[ProcessId] = field(default_factory=list)
    leases: list[SimpleNamespace] = field(default_factory=list)
    turns: list[LiveTurn] = field(default_factory=list)
    away: bool = False
    # How often Redis was emptied.
    emptied: int = 0
    cold: set[OrgId | None] = field(default_factory=set)
    rebuilt: list[tuple[OrgId | None, list[LeasedRow]]] = field(default_factory=list)
    swept: list[OrgId | None] = field(default_factory=list)
    asked: "asyncio.Queue[ReportCapacity]" = field(default_factory=asyncio.Queue)
    forwarded: list[Next] = field(default_factory=list)
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    # Capacity.
    async def generation(self, org_id: OrgId | None) -> str | None:
        self._up()
        return None if org_id in self.cold else "life"

    async def sweep(self, org_id: OrgId | None) -> Sequence[Next]:
        self._up()
        self.swept.append(org_id)
        self.happened.set()
        return ()

    async def prepare(self, org_id: OrgId | None) -> str:
        self._up()
        return f"life-{self.emptied}"

    async def rebuild(
        self, org_id: OrgId | None, rows: Sequence[LeasedRow], as_of_ms: int, *, life: str = ""
    ) -> Sequence[Next]:
        self._up()
        self.rebuilt.append((org_id, list(rows)))
        if life == f"life-{self.emptied}":
            self.cold.discard(org_id)
        self.happened.set()
        return (TURN,)

    # Executions.
    async def now_ms(self) -> int:
        return 1

    async def live_leases(self, after: str, limit: int) -> list[SimpleNamespace]:
        return [row for row in self.leases if row.request_id > after][:limit]

    # Fanout.
    def publish(self, channel: str, data: bytes) -> None:
        order = messages.decode(data)
        assert isinstance(order, ReportCapacity)
        self.asked.put_nowait(order)

    async def forward(self, handed: Iterable[Next]) -> None:
        self.forwarded += handed

    def _up(self) -> None:
        if self.away:
            self.happened.set()
            raise BusUnavailable("away")

    def lease(self, number: int, org: OrgId, pool: str = "byon") -> None:
        row = {"request_id": f"r{number:03}", "organization_id": UUID(org), "executor_id": "x", "pool": pool}
        self.leases.append(SimpleNamespace(**row))

    def turn(self, number: int, org: OrgId, pool: Pool = "byon") -> None:
        self.turns.append(LiveTurn(UUID(int=number), RequestId(f"t{number:03}"), UUID(org), pool, UUID(int=0)))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    async def live_gateways(_db: object) -> list[ProcessId]:
        return world.gateways

    async def live_turns(_db: object, after: UUID, most: int) -> list[LiveTurn]:
        return [row for row in world.turns if row.session_id > after][:most]

    monkeypatch.setattr(module, "live_gateways", live_gateways)
    monkeypatch.setattr(module, "live_turns", live_turns)
    # Longer than any test: nothing here goes on for want of patience.
    monkeypatch.setattr(module, "REPORTS_S", 1_000.0)
    return world


@pytest.fixture
async def partitions(world: World) -> AsyncIterator[Partitions]:
    made = Partitions(None, world, world, world, HERE)  # type: ignore[arg-type]
    made.forward_to(world.forward)
    yield made
    await made.stop()


def requests(rows: Iterable[LeasedRow]) -> list[str]:
    return [row.request_id for row in rows]


@pytest.mark.promise("P9")
async def test_a_cold_partition_lives_again_when_every_edge_has_said_what_it_holds(
    world: World, partitions: Partitions
) -> None:
    world.gateways, world.cold = [EDGE, DEAD], {ORG}
    world.lease(1, ORG)
    world.lease(2, OTHER)
    await partitions.warm_if_cold(ORG)
    order = await world.asked.get()
    assert (order.org_id, order.reply_to) == (ORG, HERE)
    partitions.reported(CapacityReported(EDGE, order.nonce))
    partitions.reported(CapacityReported(DEAD, "of another warming"))
    await asyncio.sleep(0)
    assert world.rebuilt == [], "one edge is missing"
    partitions.reported(CapacityReported(DEAD, order.nonce))
    await partitions.warm(ORG)
    assert [(org, requests(rows)) for org, rows in world.rebuilt] == [(ORG, ["r001"])]
    assert world.forwarded == [TURN]


@pytest.mark.promise("P1")
async def test_edges_are_asked_again_when_redis_is_emptied_once_more_after_they_reported(
    world: World, partitions: Partitions
) -> None:
    world.gateways, world.cold = [EDGE, DEAD], {ORG}
    await partitions.warm_if_cold(ORG)
    first = await world.asked.get()
    partitions.reported(CapacityReported(EDGE, first.nonce))
    world.emptied += 1
    partitions.reported(CapacityReported(DEAD, first.nonce))
    second = await world.asked.get()
    assert (second.org_id, world.cold) == (ORG, {ORG})
    for edge in (EDGE, DEAD):
        partitions.reported(CapacityReported(edge, second.nonce))
    await partitions.warm(ORG)
    assert (world.cold, world.asked.qsize()) == (set(), 0)


async def test_a_dead_edge_does_not_keep_a_partition_cold(
    world: World, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORTS_S", 0.05)
    world.gateways, world.cold = [DEAD], {None}
    world.lease(1, ORG, "managed")
    world.lease(2, ORG)
    await partitions.warm(None)
    assert [(org, requests(rows)) for org, rows in world.rebuilt] == [(None, ["r001"])]


async def test_whoever_meets_a_cold_partition_waits_for_the_same_warming(world: World, partitions: Partitions) -> None:
    world.gateways = [EDGE]
    assert partitions.warm(ORG) is partitions.warm(ORG)
    assert partitions.warm(ORG) is not partitions.warm(OTHER)
    for _ in range(2):
        partitions.reported(CapacityReported(EDGE, (await world.asked.get()).nonce))
    await asyncio.gather(partitions.warm(ORG), partitions.warm(OTHER))
    assert len(world.rebuilt) == 2


async def test_what_could_not_be_warmed_is_tried_again_by_the_next(world: World, partitions: Partitions) -> None:
    world.away = True
    await partitions.warm(ORG)
    assert world.rebuilt == []
    world.away = False
    await partitions.warm(ORG)
    assert len(world.rebuilt) == 1


async def test_leases_are_read_page_by_page(
    world: World, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_PAGE", 3)
    for number in range(9):
        world.lease(number, ORG)
    await partitions.warm(ORG)
    ((_, rows),) = world.rebuilt
    assert requests(rows) == [f"r{number:03}" for number in range(9)]


@pytest.mark.promise("P9")
async def test_turns_of_sessions_take_room_like_requests(
    world: World, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_PAGE", 2)
    world.lease(1, ORG)
    for number in (2, 3, 4):
        world.turn(number, ORG)
    world.turn(5, OTHER)
    world.turn(6, OTHER, "managed")
    await partitions.warm(ORG)
    await partitions.warm(None)
    assert [requests(rows) for _, rows in world.rebuilt] == [["r001", "t002", "t003", "t004"], ["t006"]]


@pytest.mark.promise("P9")
async def test_upkeep_goes_on_when_redis_comes_back_and_finds_it_emptied(
    world: World, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.001)
    monkeypatch.setattr(module, "COMPARE_S", 0.001)
    world.away = True
    partitions.used(ORG)
    await partitions.start()
    async with asyncio.timeout(10):
        await world.happened.wait()
        world.away, world.cold = False, {ORG}
        while not world.rebuilt:
            world.happened.clear()
            await world.happened.wait()
    assert world.rebuilt[0][0] == ORG
    assert set(world.swept) == {ORG}


async def test_a_partition_that_nobody_uses_is_left_to_others(
    world: World, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.001)
    monkeypatch.setattr(module, "ACTIVE_S", 5.0)
    loop = asyncio.get_running_loop()
    partitions.used(OTHER)
    partitions._used[OTHER] = loop.time() - 10
    partitions.used(ORG)
    await partitions.start()
    async with asyncio.timeout(10):
        await world.happened.wait()
    assert set(world.swept) == {ORG}
