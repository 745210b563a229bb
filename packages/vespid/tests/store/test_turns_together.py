"""Turns when several processes ask at the same time, and when somebody asks about what is not theirs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio
from tests.support.ground import Ground
from tests.support.hosted_talk import Talk

from vespid.store import sessions
from vespid.store.pool import Database
from vespid.store.session_reads import SessionReader
from vespid.store.sessions import MessageSender
from vespid.store.turns import Attach, LeasedTurn, LeaseTurn, NotLeased, TurnStore
from vespid_protocol.ids import SessionId, new_id, turn_request_id

pytestmark = pytest.mark.promise("P8")


@pytest_asyncio.fixture
async def stores(database: Database) -> AsyncIterator[tuple[TurnStore, TurnStore]]:
    """Two processes' stores: nothing but Postgres keeps them apart."""
    pair = TurnStore(database), TurnStore(database)
    for store in pair:
        await store.start()
    yield pair
    for store in pair:
        await store.stop()


@pytest_asyncio.fixture
async def talk(ground: Ground, database: Database, stores: tuple[TurnStore, TurnStore]) -> AsyncIterator[Talk]:
    sender = MessageSender(database)
    await sender.start()
    org = await ground.organization()
    host = await ground.connected(await ground.executor(org), await ground.process())
    talk = Talk(ground, database, stores[0], sender, org, host)
    await talk.create()
    yield talk
    await sender.stop()


def lease_of(talk: Talk, seq: int, epoch: int = 1) -> LeaseTurn:
    host = talk.host
    return LeaseTurn(
        org=talk.org,
        session=talk.id,
        seq=seq,
        epoch=epoch,
        executor=host.executor,
        connection_epoch=host.epoch,
        edge=host.edge,
    )


async def test_of_two_leases_at_once_one_stands(talk: Talk, stores: tuple[TurnStore, TurnStore]) -> None:
    for _ in range(10):
        seq = (await talk.send()).seq
        assert seq is not None
        answers = await asyncio.gather(*(store.lease(lease_of(talk, seq)) for store in stores))
        assert Counter(type(answer) for answer in answers) == {LeasedTurn: 1, NotLeased: 1}
        await talk.finish(seq)


async def test_of_two_ends_at_once_one_is_applied(talk: Talk, stores: tuple[TurnStore, TurnStore]) -> None:
    for _ in range(10):
        seq = (await talk.send()).seq
        assert seq is not None
        await talk.leased(seq)
        other = Talk(talk.ground, talk.db, stores[1], talk.sender, talk.org, talk.host)
        other.id = talk.id
        ends = await asyncio.gather(talk.finish(seq, text="one"), other.finish(seq, text="other"))
        assert Counter(end.outcome for end in ends) == {"applied": 1, "duplicate": 1}


async def test_everything_at_once_leaves_every_message_with_one_end(
    talk: Talk, stores: tuple[TurnStore, TurnStore]
) -> None:
    """Senders, leases, ends, losses, cancels, hellos and sweeps of several sessions, with no order between them."""
    talks = []
    for number in range(4):
        one = Talk(talk.ground, talk.db, stores[number % 2], talk.sender, talk.org, talk.host)
        await one.create(session_key=f"k{number}", on_busy="interrupt" if number == 3 else "queue")
        talks.append(one)

    async def chat(one: Talk) -> None:
        for number in range(15):
            await one.send(f"message {number}")

    async def answer(one: Talk, store: TurnStore) -> None:
        for number in range(60):
            wanted = await store.look(one.org, one.id)
            if wanted is None:
                continue
            leased = await store.lease(lease_of(one, wanted.user_seq, wanted.turn_epoch + 1))
            if isinstance(leased, LeasedTurn) and number % 5 == 4:
                await one.lose(wanted.user_seq, wanted.turn_epoch + 1)
            elif isinstance(leased, LeasedTurn):
                await one.finish(wanted.user_seq, wanted.turn_epoch + 1)

    async def disturb(one: Talk) -> None:
        for _ in range(5):
            async with one.db.tenant(one.org) as connection:
                await sessions.cancel_turn(connection, UUID(one.org), UUID(one.id))
            await one.turns.sweep()
            said = Attach(connection_epoch=one.host.epoch, edge=one.host.edge, is_base=False, same_journal=True)
            await one.turns.attach(one.host.executor, said)

    work = [part for one in talks for part in (chat(one), answer(one, stores[0]), answer(one, stores[1]), disturb(one))]
    await asyncio.gather(*work)
    for one in talks:
        # What is left is answered in peace; a turn that is being cancelled is ended by its host.
        while live := await talk.ground.sql.fetchrow(
            "select * from session_turns where session_id = $1 and finished_at is null order by user_seq", UUID(one.id)
        ):
            if live["executor_id"] is None:
                await one.leased(live["user_seq"], live["turn_epoch"] + 1)
            await one.finish(live["user_seq"], live["turn_epoch"] + (live["executor_id"] is None))
        rows = await talk.ground.sql.fetch(
            "select * from session_events where session_id = $1 order by seq", UUID(one.id)
        )
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        messages = [row["seq"] for row in rows if row["event_type"] == "user_message"]
        ends = [row["turn_seq"] for row in rows if row["event_type"] in ("agent_final", "error")]
        assert ends == messages
        assert len(messages) == 15


async def test_a_hello_sees_the_lease_that_is_being_committed(talk: Talk, database: Database) -> None:
    """Else the turn would be with a connection that is no more, until its time is over."""
    await talk.send()
    leasing = await database.connect()
    transaction = leasing.transaction()
    await transaction.start()
    await leasing.fetch("select * from vespid_x_lease_turns($1)", [msgspec.json.encode(lease_of(talk, 2))])
    executor = UUID(talk.host.executor)
    row = await talk.ground.sql.fetchrow(
        "select connection_epoch from vespid_x_connect_executor($1, $2)", executor, UUID(talk.host.edge)
    )
    said = Attach(connection_epoch=row["connection_epoch"], edge=talk.host.edge, is_base=False, same_journal=True)
    hello = asyncio.ensure_future(talk.turns.attach(talk.host.executor, said))
    done, _ = await asyncio.wait({hello}, timeout=0.3)
    await transaction.commit()
    await leasing.close()
    assert not done
    assert [(found.action, found.user_seq) for found in await hello] == [("place", 2)]


async def _rows(ground: Ground) -> list[object]:
    tables = ("sessions", "session_turns", "session_events", "memory_docs")
    return [await ground.sql.fetch(f"select * from {table} order by 1, 2") for table in tables]


async def test_another_organization_changes_and_sees_nothing(talk: Talk, ground: Ground) -> None:
    await talk.send()
    await talk.leased(2)
    await talk.send()
    before = await _rows(ground)
    other = await ground.organization()
    stranger = Talk(ground, talk.db, talk.turns, talk.sender, other, talk.host)
    stranger.id = talk.id
    assert (await stranger.send()).outcome == "not_found"
    assert await talk.turns.look(other, talk.id) is None
    assert await talk.turns.note_waiting(other, talk.id, 3, 0, "ALL_FULL", None) is None
    assert await talk.turns.fail_unplaced(other, talk.id, 3, 0, "NO_AGENT_AVAILABLE", "none", None) is None
    assert await stranger.lease(3) == NotLeased("gone")
    assert await stranger.lose(2) == "gone"
    assert await talk.turns.put_memory(other, talk.id, talk.host.executor, ()) is None
    async with talk.db.tenant(other) as connection:
        for mine in (UUID(other), UUID(talk.org)):
            assert await sessions.read_session(connection, mine, UUID(talk.id)) is None
            assert await sessions.read_standing(connection, mine, UUID(talk.id)) is None
            assert await sessions.list_sessions(connection, mine, None, 10) == []
            assert await sessions.find_session(connection, mine, f"agent:main:org:{talk.org}:scope:main") is None
            assert await sessions.retitle_session(connection, mine, UUID(talk.id), "stolen") is None
        assert await sessions.list_events(connection, UUID(talk.id), 0, 10, max_bytes=1 << 20) == []
        assert await sessions.cancel_turn(connection, UUID(other), UUID(talk.id)) is None
        assert await sessions.reset_session(connection, UUID(other), UUID(talk.id), clear=True) is None
    foreign_host = await ground.connected(await ground.executor(other), talk.host.edge)
    assert (await talk.finish(2, by=foreign_host)).outcome == "unknown"
    assert await _rows(ground) == before


async def test_sessions_are_listed_newest_first_and_found_by_their_key(talk: Talk) -> None:
    made = [talk.id]
    for number in range(3):
        one = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
        await one.create(session_key=f"k{number}")
        made.append(one.id)
    org = UUID(talk.org)
    async with talk.db.tenant(talk.org) as connection:
        first = await sessions.list_sessions(connection, org, None, 3)
        assert [str(row.id) for row in first] == made[:0:-1]
        rest = await sessions.list_sessions(connection, org, first[-1].id, 3)
        assert [str(row.id) for row in rest] == made[:1]
        found = await sessions.find_session(connection, org, "k1")
        assert found is not None
        assert str(found.id) == made[2]
        renamed = await sessions.retitle_session(connection, org, found.id, "a title")
        assert renamed is not None
        assert renamed.title == "a title"
        page = await sessions.list_events(connection, UUID(talk.id), 0, 1, max_bytes=1 << 20)
        assert [row.event_type for row in page] == ["session_created"]


async def test_a_page_of_events_is_bounded_by_bytes_and_has_at_least_one(talk: Talk) -> None:
    for size in (10, 5_000, 10, 10):
        await talk.send("x" * size)
    async with talk.db.tenant(talk.org) as connection:

        async def page(after: int, limit: int, max_bytes: int) -> list[int]:
            found = await sessions.list_events(connection, UUID(talk.id), after, limit, max_bytes=max_bytes)
            return [row.seq for row in found]

        assert await page(0, 10, 1 << 20) == [1, 2, 3, 4, 5]
        assert await page(0, 2, 1 << 20) == [1, 2]
        # The third is larger than a page: it ends the page before it, and has one of its own.
        assert await page(0, 10, 1_000) == [1, 2]
        assert await page(2, 10, 1_000) == [3]
        assert await page(3, 10, 1_000) == [4, 5]
        assert [await page(after, 10, 0) for after in range(5)] == [[1], [2], [3], [4], [5]]
        assert await page(5, 10, 1_000) == []


async def test_how_a_session_stands(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    async with talk.db.tenant(talk.org) as connection:
        standing = await sessions.read_standing(connection, UUID(talk.org), UUID(talk.id))
    assert standing is not None
    assert standing.turn is not None
    assert standing.turn.request_id == turn_request_id(talk.id, 2, 1)
    assert str(standing.pinned_executor_id) == talk.host.executor


async def test_a_message_that_is_next_says_what_a_look_would_find(talk: Talk) -> None:
    sent = await talk.send()
    looked = await talk.turns.look(talk.org, talk.id)
    assert sent.wanted is not None
    assert looked is not None
    # The event's time, not its turn's.
    assert abs((sent.wanted.created_at - looked.created_at).total_seconds()) < 1
    assert sent.wanted == msgspec.structs.replace(looked, created_at=sent.wanted.created_at)
    assert (await talk.send()).wanted is None


async def test_sessions_are_read_together_each_with_its_own_news(talk: Talk) -> None:
    await talk.send("one")
    await talk.leased(2)
    other = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
    await other.create(session_key="other")
    stranger = await talk.ground.organization()
    reader = SessionReader(talk.db, connections=1)
    await reader.start()
    news, quiet, foreign, nothing = await asyncio.gather(
        reader.read(talk.org, talk.id, 1),
        reader.read(talk.org, other.id, 1),
        reader.read(stranger, talk.id, 0),
        reader.read(talk.org, SessionId(new_id()), 0),
    )
    await reader.stop()
    async with talk.db.tenant(talk.org) as connection:
        standing = await sessions.read_standing(connection, UUID(talk.org), UUID(talk.id))
        events = await sessions.list_events(connection, UUID(talk.id), 1, 10, max_bytes=1 << 20)
    assert news is not None
    assert (news.standing, news.events) == (standing, events)
    assert quiet is not None
    assert (quiet.standing.event_seq, quiet.standing.turn, quiet.events) == (1, None, [])
    assert foreign is None
    assert nothing is None
