"""Gathered calls: one script for a burst, an answer for each caller, and as much safety as one by one."""

import asyncio
from collections import Counter

import pytest

from vespid.bus import scripts
from vespid.bus.address import Argument
from vespid.bus.capacity import RedisCapacity
from vespid.bus.choice import Ask, ExecutorPresence, NoneReason, Refused, Reserved, Waiting
from vespid.bus.connection import Connection, Reply
from vespid.bus.errors import BusUnavailable
from vespid.bus.gather import CALLS_MAX, Gather
from vespid.domain.selector import Capabilities, Requirement
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

HERE, THERE = OrgId("org-gather-a"), OrgId("org-gather-b")


class Counting(Connection):
    """Counts the commands that leave."""

    def __init__(self, connection: Connection) -> None:
        self._inner = connection
        self.commands: Counter[Argument] = Counter()

    def call(self, *command: Argument) -> "asyncio.Future[Reply]":
        self.commands[command[0]] += 1
        return self._inner.call(*command)


@pytest.fixture
def counting(connection: Connection) -> Counting:
    return Counting(connection)


@pytest.fixture
async def book(counting: Counting) -> RedisCapacity:
    """Two warm organizations, each with one executor for three requests at once."""
    book = RedisCapacity(counting)
    for org in (HERE, THERE):
        await book.upsert(
            ExecutorPresence(
                executor_id=ExecutorId(f"x-{org}"),
                org_id=org,
                connection_epoch=1,
                edge_id=ProcessId("edge"),
                capacity=3,
                routable=True,
                capabilities=Capabilities(),
            )
        )
        await book.rebuild(org, [], 0, life=await book.prepare(org))
        # So that the signature is known.
        await book.choose(ask("first", org))
        await book.release(RequestId("first"), org, pool="byon")
    return book


def ask(name: str, org: OrgId = HERE, *, wait: bool = False) -> Ask:
    return Ask(
        request_id=RequestId(name),
        org_id=org,
        pool="byon",
        requirement=Requirement("agent.execute"),
        org_quota=100,
        wait=wait,
    )


async def test_a_burst_is_one_call_per_organization(book: RedisCapacity, counting: Counting) -> None:
    counting.commands.clear()
    choices = await asyncio.gather(
        *(book.choose(ask(f"r{n}", org)) for n in range(3) for org in (HERE, THERE)),
    )
    assert all(isinstance(choice, Reserved) for choice in choices)
    assert counting.commands == {"EVALSHA": 2}


async def test_a_burst_takes_no_more_than_there_is_room_for(book: RedisCapacity) -> None:
    choices = await asyncio.gather(*(book.choose(ask(f"r{n}")) for n in range(10)))
    assert [type(choice) for choice in choices] == [Reserved] * 3 + [Refused] * 7
    assert all(choice.reason is NoneReason.ALL_FULL for choice in choices if isinstance(choice, Refused))


async def test_a_request_twice_in_a_burst_holds_one_slot(book: RedisCapacity) -> None:
    await asyncio.gather(*(book.choose(ask("same")) for _ in range(5)))
    assert await book.inflight(HERE) == 1


async def test_a_burst_of_releases_hands_each_slot_on_once(book: RedisCapacity) -> None:
    await asyncio.gather(*(book.choose(ask(f"r{n}")) for n in range(3)))
    waiting = await asyncio.gather(*(book.choose(ask(f"w{n}", wait=True)) for n in range(5)))
    assert [type(choice) for choice in waiting] == [Waiting] * 5
    handed = await asyncio.gather(*(book.release(RequestId(f"r{n}"), HERE, pool="byon") for n in range(3)))
    assert sorted(turn.request_id for turns in handed for turn in turns) == ["w0", "w1", "w2"]


async def test_what_was_handed_out_reaches_who_is_still_there(book: RedisCapacity) -> None:
    await asyncio.gather(*(book.choose(ask(f"r{n}")) for n in range(3)))
    await book.choose(ask("w", wait=True))
    gone = asyncio.ensure_future(book.release(RequestId("r0"), HERE, pool="byon"))
    here = asyncio.ensure_future(book.release(RequestId("r1"), HERE, pool="byon"))
    await asyncio.sleep(0)
    gone.cancel()
    assert [turn.request_id for turn in await here] == ["w"]


async def test_a_burst_is_given_the_script_that_the_server_forgot(book: RedisCapacity, counting: Counting) -> None:
    await counting.call("SCRIPT", "FLUSH")
    counting.commands.clear()
    choices = await asyncio.gather(*(book.choose(ask(f"r{n}")) for n in range(3)))
    assert all(isinstance(choice, Reserved) for choice in choices)
    assert counting.commands == {"EVALSHA": 1, "EVAL": 1}


async def test_a_long_burst_lets_others_in_between(counting: Counting) -> None:
    release = Gather(counting, scripts.load("release"), lambda: 0)
    await asyncio.gather(*(release.call("{o:cold}:meta", f"r{n}", "", 0) for n in range(CALLS_MAX + 1)))
    # The script may be new to the server, and is given then.
    assert counting.commands["EVALSHA"] == 2


async def test_without_redis_every_caller_is_told() -> None:
    book = RedisCapacity(Connection("redis://127.0.0.1:1/0"))
    outcomes = await asyncio.gather(*(book.choose(ask(f"r{n}")) for n in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BusUnavailable] * 3
