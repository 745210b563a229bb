"""Houses of this test's own: processes that step runs, without a gateway or a worker around them."""

from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
import pytest_asyncio
from tests.support.ground import Ground

from vespid.dispatch.house import House
from vespid.settings import RunSettings
from vespid_protocol.ids import OrgId

NewHouse = Callable[[], Awaitable[House]]


@pytest.fixture
def ground(superuser: "asyncpg.Connection") -> Ground:
    return Ground(superuser)


@pytest.fixture
async def org(ground: Ground) -> OrgId:
    return await ground.organization()


@pytest_asyncio.fixture
async def new_house(database_url: str, redis_url: str) -> AsyncIterator[NewHouse]:
    houses: list[House] = []

    async def start() -> House:
        settings = RunSettings(
            env="test", database_url=database_url, redis_url=redis_url, database_pool_size=4, retry_backoff_ms=0
        )
        house = House(settings, "worker")
        await house.start()
        houses.append(house)
        return house

    yield start
    for house in houses:
        await house.stop()


@pytest_asyncio.fixture
async def house(new_house: NewHouse) -> House:
    return await new_house()
