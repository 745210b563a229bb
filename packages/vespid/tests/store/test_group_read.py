"""Grouped reads, against a real Postgres: many questions are one statement, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.support.ground import Ground

from vespid.store.group_read import GroupRead
from vespid.store.pool import Database, DatabaseUnavailable
from vespid.store.steps import StepStore


class Doubling:
    """Answers twice each question, and remembers what was asked together; loses its connection where told to."""

    def __init__(self, broken: int = 0) -> None:
        self.asked: list[list[int]] = []
        self._broken = broken

    async def __call__(self, connection: Any, numbers: Sequence[int]) -> Sequence[int]:
        self.asked.append(list(numbers))
        if len(self.asked) <= self._broken:
            raise ConnectionResetError("lost on the way")
        rows = await connection.fetch("select 2 * n as twice from unnest($1::int[]) n", list(numbers))
        return [row["twice"] for row in rows]


async def started(db: Database, ask: Doubling) -> GroupRead[int, int]:
    reads: GroupRead[int, int] = GroupRead(db, ask, connections=1, name="doubling")
    await reads.start()
    return reads


@pytest_asyncio.fixture
async def doubling(database: Database) -> AsyncIterator[tuple[GroupRead[int, int], Doubling]]:
    ask = Doubling()
    reads = await started(database, ask)
    yield reads, ask
    await reads.stop()


async def test_questions_asked_together_are_one_statement_with_an_answer_each(
    doubling: tuple[GroupRead[int, int], Doubling],
) -> None:
    reads, ask = doubling
    answers = await asyncio.gather(*(reads.answer(n) for n in range(20)))
    assert answers == [2 * n for n in range(20)]
    assert [sorted(batch) for batch in ask.asked] == [list(range(20))]


async def test_equal_questions_do_not_wait_for_each_other(doubling: tuple[GroupRead[int, int], Doubling]) -> None:
    reads, ask = doubling
    assert await asyncio.gather(*(reads.answer(7) for _ in range(3))) == [14, 14, 14]
    assert ask.asked == [[7, 7, 7]]


async def test_a_question_is_asked_again_when_its_connection_was_lost(database: Database) -> None:
    ask = Doubling(broken=1)
    reads = await started(database, ask)
    assert await reads.answer(3) == 6
    assert ask.asked == [[3], [3]]
    await reads.stop()


async def test_a_connection_lost_twice_is_a_database_that_is_away(database: Database) -> None:
    reads = await started(database, Doubling(broken=2))
    with pytest.raises(DatabaseUnavailable):
        await reads.answer(3)
    await reads.stop()


async def test_an_error_of_one_question_is_not_the_others(database: Database) -> None:
    async def ask(connection: Any, numbers: Sequence[int]) -> Sequence[int]:
        rows = await connection.fetch("select 6 / n as part from unnest($1::int[]) n", list(numbers))
        return [row["part"] for row in rows]

    reads: GroupRead[int, int] = GroupRead(database, ask, connections=1, name="dividing")
    await reads.start()
    answers = await asyncio.gather(*(reads.answer(n) for n in (1, 0, 3)), return_exceptions=True)
    assert (answers[0], answers[2]) == (6, 2)
    assert isinstance(answers[1], asyncpg.DivisionByZeroError)
    await reads.stop()


async def test_runs_read_together_are_each_read_as_their_own_organization(ground: Ground, steps: StepStore) -> None:
    here, there = await ground.organization(), await ground.organization()
    own = await ground.run(here, await ground.workflow(here), given="here")
    foreign = await ground.run(there, await ground.workflow(there), given="there")
    loads = ((here, own), (here, foreign), (there, foreign), (there, own))
    found = await asyncio.gather(*(steps.load(org_id, run_id) for org_id, run_id in loads))
    assert [None if run is None else run.input for run in found] == [b'"here"', None, b'"there"', None]
