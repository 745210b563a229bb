"""Choosing costs the same among few and many: counted in commands that the server runs, which no load disturbs."""

import asyncio
from typing import Protocol

import pytest
import redis

from vespid.bus.capacity import RedisCapacity
from vespid.bus.choice import Ask, ExecutorPresence, Reserved
from vespid.bus.connection import Connection
from vespid.domain.selector import Capabilities, Requirement
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

ORG = OrgId("org")
SHELL = Requirement(kind="agent.execute")


class Server(Protocol):
    @property
    def url(self) -> str: ...


def presence(number: int) -> ExecutorPresence:
    return ExecutorPresence(
        executor_id=ExecutorId(f"x{number}"),
        org_id=ORG,
        connection_epoch=1,
        edge_id=ProcessId("edge"),
        capacity=4,
        routable=True,
        capabilities=Capabilities(),
    )


async def commands_per_life(url: str, fleet: int) -> dict[str, int]:
    """Commands that one choose, confirm and release make the server run among `fleet` executors."""
    connection = Connection(url)
    await connection.start()
    await connection.call("FLUSHDB")
    book = RedisCapacity(connection)

    async def life(name: str) -> None:
        request = RequestId(name)
        ask = Ask(request_id=request, org_id=ORG, pool="byon", requirement=SHELL, org_quota=10)
        choice = await book.choose(ask)
        assert isinstance(choice, Reserved)
        await book.confirm(request, ORG, choice.executor_id, "byon")
        await book.release(request, ORG, pool="byon")

    await book.rebuild(ORG, [], 0, life=await book.prepare(ORG))
    for start in range(0, fleet, 500):
        await asyncio.gather(*(book.upsert(presence(i)) for i in range(start, min(start + 500, fleet))))
    await life("warm")
    client = redis.Redis.from_url(url)
    client.config_resetstat()
    await life("measured")
    stats = client.info("commandstats")
    client.close()
    await connection.stop()
    return {name: stat["calls"] for name, stat in stats.items() if name != "cmdstat_config|resetstat"}


@pytest.mark.timeout(60)
async def test_commands_do_not_grow_with_the_fleet(own_server: Server) -> None:
    few = await commands_per_life(own_server.url, 10)
    many = await commands_per_life(own_server.url, 5_000)
    assert many == few
    assert sum(few.values()) < 70
