"""Grouping without waiting: several callers' items go to Postgres as one call, with an outcome for each.

A few connections of our own take turns. What gathers while they are busy goes as the next batch; with one idle, an
item leaves at the end of the loop's turn. There is no timer, so an idle system adds no delay and a busy one fills its
batches by itself.

Three rules keep batches from hurting each other. Items of equal key are never in two batches at once, and a batch is
sorted by key, so that two of them take their row locks in one order. A batch that loses a deadlock or a serialization
conflict is sent again. A batch that fails for another reason is split, until only the item to blame sees the error.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import asyncpg
import structlog

from vespid.store.pool import LOST_CONNECTION, Database, DatabaseUnavailable

log = structlog.get_logger("vespid.store.group")

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# How often a batch is sent again after a conflict with another transaction, and the first pause before that.
CONFLICT_TRIES = 8
CONFLICT_PAUSE_S = 0.002

# The transaction is known to have been rolled back, and the same call may succeed.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.AdminShutdownError)

# Splitting a batch that ran into its time limit would only multiply the wait.
_WHOLE_BATCH = (asyncpg.QueryCanceledError,)


class OutcomeUnknown(Exception):
    """The connection was lost in the middle of a call: read the rows by their own ids to learn whether it was done."""


class GroupStopped(Exception):
    """Submitted after `stop`; nothing was done."""


class GroupCommit(Generic[Item, Outcome]):
    """Several callers' items as one call of one SQL function, with an outcome per item; idle, none waits for another.

    `call` is given items sorted by key (equal keys in the order of their submission) and answers an outcome for each,
    in that order. It must be one autocommit statement: what it raises must mean that nothing was done.
    """

    def __init__(
        self,
        db: Database,
        call: Callable[[Any, Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        key: Callable[[Item], str],
        connections: int = 2,
        max_batch: int = 128,
        name: str = "group",
    ) -> None:
        self._db = db
        self._call = call
        self._key = key
        self._connections = connections
        self._max_batch = max_batch
        self._name = name
        # Submitted and not yet taken, oldest first.
        self._waiting: list[_Submitted[Item, Outcome]] = []
        # Keys in a batch that is under way.
        self._busy_keys: set[str] = set()
        # What idle senders wait on, and the tasks of all senders.
        self._idle: list[asyncio.Future[None]] = []
        self._senders: list[asyncio.Task[None]] = []
        self._accepting = False
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the connections. Raises DatabaseUnavailable."""
        if self._senders:
            return
        lines = [_Line(self._db) for _ in range(self._connections)]
        try:
            for line in lines:
                await line.opened()
        except BaseException:
            for line in lines:
                line.terminate()
            raise
        self._accepting, self._stopping = True, None
        self._senders = [
            _owned(self._send_batches(line), f"{self._name}-sender-{number}") for number, line in enumerate(lines)
        ]

    async def stop(self) -> None:
        """Refuse new items, send those that wait, and close the connections."""
        self._accepting = False
        if self._stopping is None:
            self._stopping = _owned(self._drain(), f"{self._name}-drain")
        # Whoever calls a second time waits for the same end; one caller's cancellation does not interrupt it.
        await asyncio.shield(self._stopping)

    async def submit(self, item: Item) -> Outcome:
        """Answer the outcome of this item.

        Raises what Postgres raised for this item alone; DatabaseUnavailable or GroupStopped when nothing was done;
        OutcomeUnknown when the connection was lost on the way. A caller that is cancelled while its item waits takes
        it back; once sent, the item is carried out.
        """
        if not self._accepting:
            raise GroupStopped(f"{self._name} is not running")
        submitted: _Submitted[Item, Outcome] = _Submitted(
            item, self._key(item), asyncio.get_running_loop().create_future()
        )
        self._waiting.append(submitted)
        self._wake_one()
        return await submitted.outcome

    def _wake_one(self) -> None:
        while self._idle:
            sender = self._idle.pop()
            if not sender.done():
                sender.set_result(None)
                return

    async def _send_batches(self, line: "_Line") -> None:
        try:
            while True:
                batch = self._take_batch()
                if batch:
                    keys = {submitted.key for submitted in batch}
                    self._busy_keys |= keys
                    # Another idle sender may take what did not fit, or what this batch's keys do not hold back.
                    if self._waiting:
                        self._wake_one()
                    try:
                        await self._send(line, batch)
                    except asyncio.CancelledError:
                        for submitted in batch:
                            submitted.fail(OutcomeUnknown(f"{self._name} was interrupted"))
                        raise
                    finally:
                        self._busy_keys -= keys
                elif self._accepting or self._waiting:
                    await self._wait_for_items()
                else:
                    return
        finally:
            # The others may wait for keys that were held here.
            while self._idle:
                self._wake_one()
            await line.close()

    async def _wait_for_items(self) -> None:
        wake = asyncio.get_running_loop().create_future()
        self._idle.append(wake)
        try:
            await wake
        finally:
            if wake in self._idle:
                self._idle.remove(wake)

    def _take_batch(self) -> list["_Submitted[Item, Outcome]"]:
        """Take the oldest items whose keys are free, sorted by key; forget those whose callers have gone."""
        taken: list[_Submitted[Item, Outcome]] = []
        left: list[_Submitted[Item, Outcome]] = []
        for submitted in self._waiting:
            if submitted.outcome.done():
                continue
            if len(taken) < self._max_batch and submitted.key not in self._busy_keys:
                taken.append(submitted)
            else:
                left.append(submitted)
        self._waiting = left
        taken.sort(key=lambda submitted: submitted.key)
        return taken

    async def _send(self, line: "_Line", batch: list["_Submitted[Item, Outcome]"]) -> None:
        """Send a batch and tell its callers."""
        try:
            outcomes = await self._call_through_conflicts(line, batch)
        except (DatabaseUnavailable, OutcomeUnknown, *_WHOLE_BATCH) as error:
            for submitted in batch:
                submitted.fail(error)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                batch[0].fail(error)
            else:
                middle = len(batch) // 2
                await self._send(line, batch[:middle])
                await self._send(line, batch[middle:])
        except Exception as error:
            # Not an error of Postgres: a bug of ours in the call. It may have been committed, so nothing is repeated.
            log.exception("group_call_failed", group=self._name, items=len(batch))
            for submitted in batch:
                submitted.fail(error)
        else:
            for submitted, outcome in zip(batch, outcomes, strict=True):
                submitted.succeed(outcome)

    async def _call_through_conflicts(
        self, line: "_Line", batch: list["_Submitted[Item, Outcome]"]
    ) -> Sequence[Outcome]:
        items = [submitted.item for submitted in batch]
        for attempt in range(CONFLICT_TRIES):
            connection = await line.opened()
            try:
                outcomes = await self._call(connection, items)
            except _CONFLICTS:
                if attempt == CONFLICT_TRIES - 1:
                    raise
                await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_S * 2**attempt))  # noqa: S311
            except LOST_CONNECTION as error:
                connection.terminate()
                raise OutcomeUnknown(f"the connection was lost: {error}") from error
            else:
                if len(outcomes) != len(items):
                    raise RuntimeError(f"{self._name}: {len(items)} items, {len(outcomes)} outcomes")
                return outcomes
        raise AssertionError("unreachable: the last conflict is raised")

    async def _drain(self) -> None:
        while self._idle:
            self._wake_one()
        # A sender that died (it should not) must not keep the others from being awaited.
        ends = await asyncio.gather(*self._senders, return_exceptions=True)
        self._senders = []
        for end in ends:
            if isinstance(end, BaseException):
                log.error("group_sender_died", group=self._name, error=repr(end))
        for submitted in self._waiting:
            submitted.fail(GroupStopped(f"{self._name} has stopped"))
        self._waiting = []


class _Line:
    """A connection of a sender's own, opened again after it was lost."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: asyncpg.Connection | None = None

    async def opened(self) -> "asyncpg.Connection":
        """Answer the connection, opening it if need be. Raises DatabaseUnavailable."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._db.connect()
        return self._connection

    def terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=5)


class _Submitted(Generic[Item, Outcome]):
    """An item on its way, and the future its caller waits on."""

    __slots__ = ("item", "key", "outcome")

    def __init__(self, item: Item, key: str, outcome: "asyncio.Future[Outcome]") -> None:
        self.item = item
        self.key = key
        self.outcome = outcome

    def succeed(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Tell the caller; an error that nobody waits for any more is logged instead of lost."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
        elif self.outcome.cancelled():
            log.warning("group_error_unclaimed", key=self.key, error=repr(error))


def _owned(coroutine: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """A task that its group keeps and awaits in `stop`."""
    return asyncio.get_running_loop().create_task(coroutine, name=name)
