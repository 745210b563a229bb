from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vespid_agent.journal import RETENTION_MS, EntryState, Journal, JournalError, Outcome

DIGEST = b"d" * 32


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal.open(tmp_path / "j.sqlite", "executor")
    await opened.start()
    yield opened
    await opened.stop()


async def begin(journal: Journal, request_id: str, epoch: int = 1) -> Outcome:
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    journal.begin(request_id, epoch, DIGEST, False, told.set_result)
    return await told


async def finish(journal: Journal, request_id: str, result: bytes = b"{}", epoch: int = 1) -> Outcome:
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    journal.finish(request_id, epoch, DIGEST, result, told.set_result)
    return await told


async def reopened(journal: Journal) -> Journal:
    await journal.stop()
    return Journal.open(journal.path, "executor")


@pytest.mark.promise("P2")
async def test_a_request_begins_once(journal: Journal) -> None:
    assert await begin(journal, "r") is None
    standing = await begin(journal, "r", epoch=2)
    assert not isinstance(standing, JournalError)
    assert standing is not None
    assert standing.state is EntryState.STARTED


@pytest.mark.promise("P2")
async def test_a_request_begins_once_across_a_restart_and_after_its_acknowledgement(journal: Journal) -> None:
    await begin(journal, "r")
    await finish(journal, "r", b'{"a":1}')
    journal.bury("r")
    again = await reopened(journal)
    await again.start()
    standing = await begin(again, "r")
    assert not isinstance(standing, JournalError)
    assert standing is not None
    assert (standing.state, standing.result) == (EntryState.TOMBSTONE, None)
    await again.stop()


async def test_the_first_outcome_stands(journal: Journal) -> None:
    await begin(journal, "r")
    assert await finish(journal, "r", b"first") is None
    standing = await finish(journal, "r", b"second")
    assert not isinstance(standing, JournalError)
    assert standing is not None
    assert standing.result == b"first"


@pytest.mark.promise("P3")
async def test_restart_knows_what_was_started_and_what_was_not_acknowledged(journal: Journal) -> None:
    await begin(journal, "left")
    await journal.mark("left", '{"pid":1}')
    await begin(journal, "done")
    await finish(journal, "done", b"result")
    await finish(journal, "acknowledged", b"result")
    journal.bury("acknowledged")
    again = await reopened(journal)
    assert [(e.request_id, e.mark) for e in again.leftovers] == [("left", '{"pid":1}')]
    assert [e.request_id for e in again.unacknowledged] == ["done"]
    assert again.journal_id == journal.journal_id
    await again.start()
    entry = await again.read("done")
    assert entry is not None
    assert entry.result == b"result"
    await again.stop()


async def test_what_is_kept_of_running_work_is_there_until_it_ends(journal: Journal) -> None:
    await begin(journal, "ended")
    await journal.keep("ended", b'{"loop":1}')
    await finish(journal, "ended")
    await begin(journal, "too large")
    await journal.keep("too large", b'{"loop":1}')
    await journal.keep("too large", None)
    await begin(journal, "left")
    await journal.keep("left", b'{"loop":1}')
    await journal.keep("left", b'{"loop":2}')
    again = await reopened(journal)
    assert {entry.request_id: entry.kept for entry in again.leftovers} == {"left": b'{"loop":2}', "too large": None}
    await again.start()
    entry = await again.read("ended")
    assert entry is not None
    assert entry.kept is None
    await again.stop()


async def test_file_of_an_earlier_version_is_taken_over(journal: Journal) -> None:
    await begin(journal, "left")
    await journal.stop()
    with contextlib.closing(sqlite3.connect(journal.path)) as file:
        file.execute("alter table entries drop column kept")
    again = Journal.open(journal.path, "executor")
    assert [(entry.request_id, entry.kept) for entry in again.leftovers] == [("left", None)]
    await again.start()
    await again.keep("left", b"{}")
    await again.stop()


async def test_operations_of_one_loop_turn_share_a_commit(journal: Journal) -> None:
    before = journal.commits
    outcomes = await asyncio.gather(*(begin(journal, f"r{n}") for n in range(100)))
    assert outcomes == [None] * 100
    assert journal.commits - before <= 2


async def test_acknowledgement_alone_is_written_without_being_asked_for(journal: Journal) -> None:
    await finish(journal, "r")
    journal.bury("r")
    again = await reopened(journal)
    assert again.unacknowledged == []


async def test_cancelled_before_it_came_never_begins(journal: Journal) -> None:
    journal.bury("r")
    standing = await begin(journal, "r")
    assert not isinstance(standing, JournalError)
    assert standing is not None
    assert standing.state is EntryState.TOMBSTONE


async def test_full_disk_is_told_to_every_writer_and_heals(journal: Journal) -> None:
    journal._connection.execute("pragma max_page_count = 1")
    big = b"x" * 100_000
    assert isinstance(await finish(journal, "r", big), JournalError)
    assert not journal.healthy
    journal._connection.execute("pragma max_page_count = 1000000")
    assert await finish(journal, "r", big) is None
    assert journal.healthy


def test_damaged_file_refuses_to_open_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"not a database, certainly not one " * 100)
    with pytest.raises(JournalError, match="move it away"):
        Journal.open(path, "executor")


def test_damage_within_the_file_refuses_to_open(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    Journal.open(path, "executor")._connection.close()
    connection = sqlite3.connect(path)
    rows = [(f"r{n}", 1, 2, 0, DIGEST, b"x" * 3000, 1 << 50) for n in range(50)]
    connection.executemany(
        "insert into entries (request_id, lease_epoch, state, moves, digest, result, changed_ms)"
        " values (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    connection.commit()
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096 * 8 : 4096 * 12] = b"\xff" * 4096 * 4
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        Journal.open(path, "executor")


def test_journal_of_another_executor_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j.sqlite", "one")._connection.close()
    with pytest.raises(JournalError, match="belongs to executor one"):
        Journal.open(tmp_path / "j.sqlite", "two")


def test_folder_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(blocker / "j.sqlite", "executor")


def test_a_new_journal_has_a_new_id(tmp_path: Path) -> None:
    first = Journal.open(tmp_path / "a.sqlite", "executor")
    second = Journal.open(tmp_path / "b.sqlite", "executor")
    assert first.journal_id != second.journal_id


async def abandon(journal: Journal, request_id: str, result: bytes = b"{}", epoch: int = 1) -> Outcome:
    told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    journal.abandon(request_id, epoch, DIGEST, result, told.set_result)
    return await told


@pytest.mark.promise("P3")
async def test_what_is_being_worked_on_is_not_buried(journal: Journal) -> None:
    await begin(journal, "r")
    await journal.mark("r", '{"pid":1}')
    journal.bury("r")
    again = await reopened(journal)
    assert [(e.request_id, e.mark) for e in again.leftovers] == [("r", '{"pid":1}')]
    await again.start()
    assert await finish(again, "r", b"made") is None
    entry = await again.read("r")
    assert entry is not None
    assert entry.result == b"made"
    await again.stop()


@pytest.mark.promise("P3")
async def test_abandoned_result_is_kept_and_sent_only_after_it_was_leased_anew(journal: Journal) -> None:
    await begin(journal, "r")
    await abandon(journal, "r", b"stopped", epoch=3)
    again = await reopened(journal)
    assert [e.request_id for e in again.abandoned] == ["r"]
    assert again.unacknowledged == []
    await again.start()
    again.revive("r", 2)
    third = await reopened(again)
    assert [(e.request_id, e.lease_epoch) for e in third.unacknowledged] == [("r", 3)]
    assert third.abandoned == []
    await third.start()
    entry = await third.read("r")
    assert entry is not None
    assert entry.result == b"stopped"
    await third.stop()


async def test_an_epoch_is_only_ever_raised(journal: Journal) -> None:
    await begin(journal, "r", epoch=2)
    for epoch, held in ((3, 3), (1, 3)):
        journal.adopt("r", epoch)
        entry = await journal.read("r")
        assert entry is not None
        assert entry.lease_epoch == held


async def test_the_largest_result_is_found_and_replaced(journal: Journal) -> None:
    await finish(journal, "small", b"1")
    await finish(journal, "large", b"1" * 100)
    await begin(journal, "running")
    largest = await journal.largest()
    assert largest is not None
    assert largest.request_id == "large"
    await journal.replace("large", b"less")
    await journal.replace("running", b"not made yet")
    for request_id, result in (("large", b"less"), ("running", None), ("small", b"1")):
        entry = await journal.read(request_id)
        assert entry is not None
        assert entry.result == result


async def test_unacknowledged_results_are_listed_oldest_first_and_forgotten_after_a_day(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_700_000_000_000
    monkeypatch.setattr("vespid_agent.journal.epoch_ms", lambda: now)
    await begin(journal, "running")
    await finish(journal, "b")
    now += 1
    await finish(journal, "a")
    again = await reopened(journal)
    assert [e.request_id for e in again.unacknowledged] == ["b", "a"]
    now += RETENTION_MS
    await again.start()
    again.purge()
    third = await reopened(again)
    assert [e.request_id for e in third.unacknowledged] == ["a"]
    await third.start()
    await third.stop()
    now += 1
    fourth = Journal.open(journal.path, "executor")
    assert fourth.unacknowledged == []
    # What was started is reaped and reported, however old it is.
    assert [e.request_id for e in fourth.leftovers] == ["running"]
    await fourth.start()
    await fourth.stop()


async def test_what_is_committed_is_on_the_disk_and_the_file_is_nobody_elses(journal: Journal) -> None:
    assert journal._connection.execute("pragma synchronous").fetchone() == (2,)
    assert journal.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(JournalError, match="locked"):
        Journal.open(journal.path, "executor")


async def test_journal_of_another_version_is_refused(journal: Journal) -> None:
    await journal.stop()
    with sqlite3.connect(journal.path) as connection:
        connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="another version"):
        Journal.open(journal.path, "executor")
