"""The stores of the execution plane on this test's own database, and the ground they stand on."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from tests.support.ground import Ground

from vespid.store.executions import ExecutionStore
from vespid.store.pool import Database
from vespid.store.steps import StepStore


@pytest.fixture
def ground(superuser: "asyncpg.Connection") -> Ground:
    return Ground(superuser)


@pytest_asyncio.fixture
async def executions(database: Database) -> AsyncIterator[ExecutionStore]:
    store = ExecutionStore(database)
    await store.start()
    yield store
    await store.stop()


@pytest_asyncio.fixture
async def steps(database: Database) -> AsyncIterator[StepStore]:
    store = StepStore(database)
    await store.start()
    yield store
    await store.stop()
