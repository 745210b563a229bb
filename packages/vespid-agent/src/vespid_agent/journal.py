"""What the agent must not forget: one SQLite file per executor, written by one thread.

    accepted ──▶ started ──▶ finished | abandoned ──▶ tombstone (24 h)

The machine is `vespid_protocol.journal`; this is its disk. `accepted` lives in memory only: a restart forgets
it, and the gateway sends it again. `started` is on disk before the first side effect, `finished` before the result is
sent, and the tombstone keeps a late duplicate from being run again. Work without side effects goes straight to
`finished`.

The file holds ids, epochs, states, digests of payloads, redacted results, and what running work has kept of itself,
redacted too; never a payload, never a secret.

Writers hand in operations; the thread commits whatever has gathered as one transaction, and one call back into the
loop tells them all. Idle, nobody waits for anybody. Acknowledgements are not worth a commit of their own (losing one
costs a repeated result), so they ride along with the next.
"""

from __future__ import annotations

import asyncio
import enum
import os
import queue
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vespid_agent.clock import epoch_ms

RETENTION_MS = 24 * 3600 * 1000
LAZY_FLUSH_S = 0.25
SCHEMA_VERSION = 1

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists entries (
    request_id text primary key,
    lease_epoch integer not null,
    state integer not null,
    moves integer not null,
    digest blob not null,
    mark text,
    result blob,
    changed_ms integer not null,
    kept blob
) without rowid;
create index if not exists entries_by_age on entries (changed_ms);
"""

# Never again `started` once it was anything; the conflict is answered with the row that stands.
_BEGIN = """
insert into entries (request_id, lease_epoch, state, moves, digest, result, changed_ms) values (?, ?, 1, ?, ?, ?, ?)
on conflict (request_id) do nothing
"""
# A request has one outcome: the first that was written.
_FINISH = """
insert into entries (request_id, lease_epoch, state, moves, digest, result, changed_ms) values (?, ?, ?, 0, ?, ?, ?)
on conflict (request_id) do update
   set lease_epoch = excluded.lease_epoch, state = excluded.state, result = excluded.result, mark = null, kept = null,
       changed_ms = excluded.changed_ms
 where state = 1
"""
_BURY = """
insert into entries (request_id, lease_epoch, state, moves, digest, changed_ms) values (?, 0, 3, 0, x'', ?)
on conflict (request_id) do update
   set state = 3, result = null, mark = null, changed_ms = excluded.changed_ms
 where state in (2, 4)
"""
# Leased to us again: what was abandoned is reported after all.
_REVIVE = "update entries set state = 2, lease_epoch = max(lease_epoch, ?) where request_id = ? and state = 4"
_MARK = "update entries set mark = ? where request_id = ? and state = 1"
_KEEP = "update entries set kept = ? where request_id = ? and state = 1"
# An earlier version of the agent made the file without it, and can still read one that has it.
_ADD_KEPT = "alter table entries add column kept blob"
_ADOPT = "update entries set lease_epoch = ? where request_id = ? and lease_epoch < ?"
_REPLACE = "update entries set result = ? where request_id = ? and state in (2, 4)"
# Results are read one by one: at start only those that are not the end yet.
_LEFT = """
select request_id, lease_epoch, state, moves, digest, mark, case when state = 1 then result end, changed_ms, kept
  from entries where state in (1, 2, 4) order by changed_ms, request_id
"""
_COLUMNS = "select request_id, lease_epoch, state, moves, digest, mark, result, changed_ms, kept from entries"
_READ = f"{_COLUMNS} where request_id = ?"
_LARGEST = f"{_COLUMNS} where state = 2 order by length(result) desc limit 1"


class EntryState(enum.IntEnum):
    STARTED = 1
    FINISHED = 2
    TOMBSTONE = 3
    ABANDONED = 4


class JournalError(Exception):
    """The journal cannot be used: the agent must not run work. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, as it stands on disk."""

    request_id: str
    lease_epoch: int
    state: EntryState
    # `onLost: resend`: losing it moves it elsewhere, so its failure is not ours to report.
    moves: bool
    digest: bytes
    mark: str | None
    # The frame that ends it; of a turn that is `started`, the one that ends it should its process die.
    result: bytes | None
    # Epoch ms of the last change.
    changed_ms: int
    # JSON: the output of the failure that ends a request that is `started`, should its process die.
    kept: bytes | None = None


# What a writer is told: None (written), the Entry that stood in the way, or the error that kept it from the disk.
Outcome = Entry | JournalError | None
Told = Callable[[Outcome], None]


@dataclass(slots=True)
class _Operation:
    sql: str
    values: tuple[object, ...]
    request_id: str
    told: Told | None
    outcome: Outcome = None
    read: str = _READ


class Journal:
    """Opened with `Journal.open`; `start` binds it to the running loop; `stop` writes what is left and closes."""

    def __init__(self, connection: sqlite3.Connection, path: Path, journal_id: str, entries: list[Entry]) -> None:
        self.path = path
        # Changes when the journal is new: the gateway then knows that nothing is remembered here.
        self.journal_id = journal_id
        # What the last process left `started`: to be reaped and failed before anything new is taken.
        self.leftovers = [entry for entry in entries if entry.state is EntryState.STARTED]
        # Finished and not acknowledged, oldest first; the results themselves stay on disk.
        self.unacknowledged = [entry for entry in entries if entry.state is EntryState.FINISHED]
        # Stopped when trust ended: kept for whoever asks, not sent.
        self.abandoned = [entry for entry in entries if entry.state is EntryState.ABANDONED]
        # False while the disk refuses: work is declined.
        self.healthy = True
        # Transactions committed, for figures and tests.
        self.commits = 0
        self._connection = connection
        self._batches: queue.SimpleQueue[list[_Operation] | None] = queue.SimpleQueue()
        self._urgent: list[_Operation] = []
        self._lazy: list[_Operation] = []
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = asyncio.Event()

    @classmethod
    def open(cls, path: Path, executor_id: str) -> Journal:
        """Open or create. Raises JournalError when the file is damaged, foreign, or cannot be written."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"the journal {path} cannot be opened: {error}") from error
        try:
            journal_id = _prepare(connection, executor_id)
            rows = connection.execute(_LEFT).fetchall()
        except sqlite3.DatabaseError as error:
            connection.close()
            raise JournalError(
                f"the journal {path} is damaged or cannot be written ({error}). Free space if the disk is full. "
                "If it is damaged, move it away and start again: results that were not yet delivered are lost then."
            ) from error
        except JournalError:
            connection.close()
            raise
        return cls(connection, path, journal_id, [_entry(row) for row in rows])

    async def start(self) -> None:
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_batches, name="journal", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Commit what was handed in and close the file."""
        thread, self._thread = self._thread, None
        if thread is None:
            await self._closed.wait() if self._loop is not None else None
            return
        self._flush()
        self._batches.put(None)
        await self._closed.wait()
        thread.join()

    def begin(self, request_id: str, lease_epoch: int, digest: bytes, moves: bool, told: Told) -> None:
        """`started`. Told the Entry that stands if this request was ever started or finished here: do not run it."""
        self._submit(_Operation(_BEGIN, (request_id, lease_epoch, moves, digest, None, epoch_ms()), request_id, told))

    def finish(self, request_id: str, lease_epoch: int, digest: bytes, result: bytes, told: Told) -> None:
        """`finished`, with the frame to send. Told the Entry that stands if an outcome was written before."""
        values = (request_id, lease_epoch, EntryState.FINISHED, digest, result, epoch_ms())
        self._submit(_Operation(_FINISH, values, request_id, told))

    def abandon(self, request_id: str, lease_epoch: int, digest: bytes, result: bytes, told: Told) -> None:
        """Stopped because trust in the lease ended; `result` is what is answered should it be leased to us again."""
        values = (request_id, lease_epoch, EntryState.ABANDONED, digest, result, epoch_ms())
        self._submit(_Operation(_FINISH, values, request_id, told))

    async def begin_turn(self, request_id: str, digest: bytes, interrupted: bytes) -> Outcome:
        """`started`, as `begin`. `interrupted`: the end it has should this process die; whoever asks is answered so."""
        values = (request_id, 0, True, digest, interrupted, epoch_ms())
        return await self._awaited(_Operation(_BEGIN, values, request_id, None))

    async def end_turn(self, request_id: str, digest: bytes, end: bytes, state: EntryState) -> Outcome:
        """`finished`, or `abandoned`, as `finish` and `abandon`."""
        values = (request_id, 0, state, digest, end, epoch_ms())
        return await self._awaited(_Operation(_FINISH, values, request_id, None))

    def revive(self, request_id: str, lease_epoch: int) -> None:
        """An abandoned request was leased to us again: its result is to be sent until it is acknowledged."""
        self._submit_lazily(_Operation(_REVIVE, (lease_epoch, request_id), request_id, None))

    def bury(self, request_id: str) -> None:
        """Acknowledged, or cancelled before it came: keep the id, drop the result, never start it."""
        self._submit_lazily(_Operation(_BURY, (request_id, epoch_ms()), request_id, None))

    def forget(self, request_id: str) -> None:
        """It was given back before it ran, or is too old to matter: it may come again."""
        self._submit_lazily(_Operation("delete from entries where request_id = ?", (request_id,), request_id, None))

    def adopt(self, request_id: str, lease_epoch: int) -> None:
        """The request is ours under a higher epoch."""
        self._submit_lazily(_Operation(_ADOPT, (lease_epoch, request_id, lease_epoch), request_id, None))

    async def mark(self, request_id: str, mark: str) -> None:
        """Remember what to reap should this process die. Raises JournalError when it could not be written."""
        await self._written(_Operation(_MARK, (mark, request_id), request_id, None))

    async def keep(self, request_id: str, output: bytes | None) -> None:
        """Remember what its failure is to say should this process die; None: nothing. Raises JournalError."""
        await self._written(_Operation(_KEEP, (output, request_id), request_id, None))

    async def read(self, request_id: str) -> Entry | None:
        """The row as it stands after everything handed in before."""
        return await self._written(_Operation("", (), request_id, None))

    async def largest(self) -> Entry | None:
        """The unacknowledged entry with the largest result."""
        return await self._written(_Operation("", (), "", None, read=_LARGEST))

    async def replace(self, request_id: str, result: bytes) -> None:
        """Another result for a finished request. Raises JournalError."""
        await self._written(_Operation(_REPLACE, (result, request_id), request_id, None))

    async def close_leftover(self, entry: Entry, result: bytes, state: EntryState) -> None:
        """`finished` or `abandoned` for what the last process left open. Raises JournalError."""
        values = (entry.request_id, entry.lease_epoch, state, entry.digest, result, epoch_ms())
        await self._written(_Operation(_FINISH, values, entry.request_id, None))

    def purge(self) -> None:
        """Forget what is older than a day: tombstones, and results that nobody acknowledged."""
        age = (epoch_ms() - RETENTION_MS,)
        self._submit_lazily(_Operation("delete from entries where changed_ms < ? and state > 1", age, "", None))

    def _submit(self, operation: _Operation) -> None:
        if not self._urgent and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._urgent.append(operation)

    def _submit_lazily(self, operation: _Operation) -> None:
        self._lazy.append(operation)
        if self._lazy_timer is None and self._loop is not None:
            self._lazy_timer = self._loop.call_later(LAZY_FLUSH_S, self._flush)

    async def _awaited(self, operation: _Operation) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def told(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        operation.told = told
        self._submit(operation)
        return await future

    async def _written(self, operation: _Operation) -> Entry | None:
        outcome = await self._awaited(operation)
        if isinstance(outcome, JournalError):
            raise outcome
        return outcome

    def _flush(self) -> None:
        if self._lazy_timer is not None:
            self._lazy_timer.cancel()
            self._lazy_timer = None
        batch = self._lazy + self._urgent
        if batch:
            self._lazy, self._urgent = [], []
            self._batches.put(batch)

    def _write_batches(self) -> None:
        assert self._loop is not None
        last = False
        while not last:
            batch = self._batches.get()
            operations: list[_Operation] = []
            while True:
                if batch is None:
                    last = True
                else:
                    operations += batch
                try:
                    batch = self._batches.get_nowait()
                except queue.Empty:
                    break
            if operations:
                self._write(operations)
                self._loop.call_soon_threadsafe(self._tell, operations)
        self._connection.close()
        self._loop.call_soon_threadsafe(self._closed.set)

    def _write(self, operations: list[_Operation]) -> None:
        execute = self._connection.execute
        try:
            execute("begin")
            for operation in operations:
                if operation.sql:
                    cursor = execute(operation.sql, operation.values)
                    if cursor.rowcount != 0 or operation.told is None:
                        continue
                row = execute(operation.read, (operation.request_id,) if operation.request_id else ()).fetchone()
                operation.outcome = _entry(row) if row is not None else None
            execute("commit")
            self.commits += 1
            self.healthy = True
        except sqlite3.Error as error:
            self._give_up(operations, error)

    def _give_up(self, operations: Iterable[_Operation], error: sqlite3.Error) -> None:
        self.healthy = False
        failure = JournalError(f"the journal {self.path} cannot be written: {error}")
        for operation in operations:
            operation.outcome = failure
        if self._connection.in_transaction:
            try:
                self._connection.execute("rollback")
            except sqlite3.Error as second:
                failure.add_note(f"nor rolled back: {second}")

    def _tell(self, operations: list[_Operation]) -> None:
        for operation in operations:
            if operation.told is not None:
                operation.told(operation.outcome)


def _prepare(connection: sqlite3.Connection, executor_id: str) -> str:
    """Settings, schema and identity of the file; its journalId."""
    execute = connection.execute
    execute("pragma locking_mode = exclusive")  # one process writes; spares the shared-memory file
    execute("pragma journal_mode = wal")
    execute("pragma synchronous = full")
    found = execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    execute("begin immediate")
    version = execute("pragma user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise JournalError(f"the journal was written by another version of the agent (schema {version})")
    for statement in _SCHEMA.split(";"):
        execute(statement)
    if "kept" not in {column[1] for column in execute("pragma table_info(entries)")}:
        execute(_ADD_KEPT)
    execute(f"pragma user_version = {SCHEMA_VERSION}")
    identity = dict(execute("select key, value from meta").fetchall())
    if not identity:
        identity = {"journal_id": str(uuid.uuid4()), "executor_id": executor_id}
        connection.executemany("insert into meta (key, value) values (?, ?)", identity.items())
    if identity["executor_id"] != executor_id:
        raise JournalError(f"the journal belongs to executor {identity['executor_id']}, not {executor_id}")
    execute("delete from entries where changed_ms < ? and state > 1", (epoch_ms() - RETENTION_MS,))
    execute("commit")
    return str(identity["journal_id"])


def _entry(row: tuple[str, int, int, int, bytes, str | None, bytes | None, int, bytes | None]) -> Entry:
    return Entry(row[0], row[1], EntryState(row[2]), bool(row[3]), row[4], row[5], row[6], row[7], row[8])
