"""Reads, grouped as commits are: what several callers ask at the same time goes to Postgres as one statement.

A question is always answered from after it was asked, so whoever has seen a commit reads it. Unlike a write, a read
whose connection was lost is simply asked again.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from vespid.store.group import GroupCommit, OutcomeUnknown
from vespid.store.pool import Database, DatabaseUnavailable

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class GroupRead(Generic[Question, Answer]):
    """Several callers' questions as one statement, with an answer per question; idle, none waits for another.

    A Service: `start` opens the connections. `ask` is given questions and answers one of each, in their order.
    """

    def __init__(
        self,
        db: Database,
        ask: Callable[[Any, Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        connections: int = 2,
        name: str,
    ) -> None:
        # No question holds back another, so each is its own key.
        numbers = itertools.count()
        self._group: GroupCommit[Question, Answer] = GroupCommit(
            db, ask, key=lambda _: str(next(numbers)), connections=connections, name=name
        )

    async def start(self) -> None:
        await self._group.start()

    async def stop(self) -> None:
        await self._group.stop()

    async def answer(self, question: Question) -> Answer:
        """Raises what Postgres raised for this question alone, DatabaseUnavailable or GroupStopped."""
        try:
            return await self._group.submit(question)
        except OutcomeUnknown:
            pass
        try:
            return await self._group.submit(question)
        except OutcomeUnknown as error:
            raise DatabaseUnavailable(str(error)) from error
