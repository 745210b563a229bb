"""A session's turns, statement by statement: what each function does, and what each of its guards refuses."""

import json
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from tests.support.ground import Ground
from tests.support.hosted_talk import Talk

from vespid.store import sessions
from vespid.store.pool import Database
from vespid.store.sessions import MessageSender
from vespid.store.turns import (
    Attach,
    ChangedDocument,
    HostCopy,
    NotLeased,
    TurnStore,
)
from vespid_protocol.ids import turn_request_id

pytestmark = pytest.mark.promise("P8")


@pytest_asyncio.fixture
async def turns(database: Database) -> AsyncIterator[TurnStore]:
    store = TurnStore(database)
    await store.start()
    yield store
    await store.stop()


@pytest_asyncio.fixture
async def talk(ground: Ground, database: Database, turns: TurnStore) -> AsyncIterator[Talk]:
    sender = MessageSender(database)
    await sender.start()
    org = await ground.organization()
    host = await ground.connected(await ground.executor(org), await ground.process())
    talk = Talk(ground, database, turns, sender, org, host)
    await talk.create()
    yield talk
    await sender.stop()


async def test_a_message_is_sent_leased_and_answered(talk: Talk) -> None:
    sent = await talk.send()
    assert (sent.outcome, sent.seq, sent.is_next) == ("accepted", 2, True)
    wanted = await talk.turns.look(talk.org, talk.id)
    assert wanted is not None
    assert (wanted.user_seq, wanted.turn_epoch, wanted.tries) == (2, 0, 0)
    leased = await talk.leased(2)
    assert json.loads(leased.history or b"null") == []
    assert leased.is_pin_moved
    assert await talk.turns.look(talk.org, talk.id) is None
    done = await talk.finish(2)
    assert (done.outcome, done.event_seq, done.has_next, done.is_ours) == ("applied", 3, False, True)
    assert await talk.events() == [(1, "session_created"), (2, "user_message"), (3, "agent_final")]
    assert (await talk.finish(2)).outcome == "duplicate"


async def test_the_next_turn_on_the_same_host_needs_no_history(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    await talk.finish(2)
    await talk.send("again")
    row = json.loads((await talk.leased(4, have=HostCopy(2, 2, 0))).session)
    assert row["generation"] == 2
    await talk.finish(4)
    await talk.send("third")
    leased = await talk.leased(6, have=HostCopy(2, 4, 0))
    assert leased.history is None
    assert leased.memory is None


async def test_a_host_that_missed_a_turn_is_given_only_that(talk: Talk) -> None:
    for seq in (2, 4):
        await talk.send(f"message {seq}")
        await talk.leased(seq)
        await talk.finish(seq, text=f"answer {seq}")
    await talk.send("now")
    leased = await talk.leased(6, have=HostCopy(3, 2, 0))
    assert json.loads(leased.history or b"") == [
        {"seq": 4, "role": "user", "content": "message 4"},
        {"seq": 4, "role": "assistant", "content": "answer 4"},
    ]


async def test_history_is_by_turns_where_messages_came_while_one_ran(talk: Talk) -> None:
    await talk.send("one")
    await talk.leased(2)
    second = await talk.send("two")
    assert (second.seq, second.is_next) == (3, False)
    assert (await talk.finish(2, text="first answer")).has_next
    history = json.loads((await talk.leased(3)).history or b"")
    # Hosts go by the order of seq, and the answer's event stands behind the second message.
    assert [(entry["seq"], entry["content"]) for entry in history] == [(2, "one"), (2, "first answer")]


async def test_only_the_lowest_turn_is_leased_and_only_once(talk: Talk) -> None:
    await talk.send("one")
    await talk.send("two")
    assert await talk.lease(3) == NotLeased("gone")
    await talk.leased(2)
    assert await talk.lease(2, epoch=2) == NotLeased("gone")
    assert await talk.lease(3) == NotLeased("gone")


async def test_a_host_that_may_not_have_it_is_refused(
    talk: Talk, ground: Ground, superuser: "asyncpg.Connection"
) -> None:
    await talk.send()
    foreign = await ground.connected(await ground.executor(await ground.organization()), talk.host.edge)
    assert await talk.lease(2, to=foreign) == NotLeased("refused")
    await superuser.execute("update executors set cordoned = true where id = $1", UUID(talk.host.executor))
    assert await talk.lease(2) == NotLeased("refused")


async def test_a_lost_host_is_replaced_with_the_failover_told(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    other = await talk.another_host()
    assert await talk.lose(2) == "place"
    wanted = await talk.turns.look(talk.org, talk.id)
    assert wanted is not None
    assert (wanted.turn_epoch, wanted.tries, wanted.lost_reason) == (1, 1, "closed")
    await talk.leased(2, epoch=2, to=other)
    assert (await talk.finish(2, epoch=1)).outcome == "fenced"
    assert (await talk.finish(2, epoch=2, by=other)).outcome == "applied"
    assert [kind for _, kind in await talk.events()] == ["session_created", "user_message", "system", "agent_final"]


async def test_a_late_answer_is_good_until_somebody_else_has_it(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    assert await talk.lose(2) == "place"
    assert (await talk.finish(2)).outcome == "applied"
    assert await talk.turns.look(talk.org, talk.id) is None


async def test_the_fourth_host_is_not_tried(talk: Talk) -> None:
    await talk.send()
    for epoch in (1, 2):
        await talk.leased(2, epoch=epoch)
        assert await talk.lose(2, epoch=epoch) == "place"
    await talk.leased(2, epoch=3)
    assert await talk.lose(2, epoch=3) == "failed"
    assert (await talk.events())[-1][1] == "error"


async def test_a_late_loss_of_an_old_connection_changes_nothing(talk: Talk, superuser: "asyncpg.Connection") -> None:
    await talk.send()
    await talk.leased(2)
    assert await talk.lose(2, connection_epoch=talk.host.epoch - 1) == "gone"
    assert await talk.lose(2, connection_epoch=talk.host.epoch) == "place"


async def test_a_repeated_key_is_one_message(talk: Talk) -> None:
    first = await talk.send(key="k")
    again = await talk.send("other", key="k")
    assert (again.outcome, again.seq, again.id) == ("repeated", first.seq, first.id)
    assert len(await talk.events()) == 2


async def test_reject_and_interrupt(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    busy = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
    await busy.create(session_key="r", on_busy="reject")
    await busy.send()
    assert (await busy.send()).outcome == "busy"
    hasty = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
    await hasty.create(session_key="i", on_busy="interrupt")
    await hasty.send()
    await hasty.leased(2)
    second = await hasty.send("stop that")
    assert [cancelled.request_id for cancelled in second.cancelled] == [turn_request_id(hasty.id, 2, 1)]
    assert not second.is_next
    assert (await hasty.finish(2)).outcome == "cancelled"
    await hasty.leased(3)


async def test_memory_travels_with_the_answer(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    done = await talk.finish(2, memory=(ChangedDocument("MEMORY.md", "aa", "likes tea"),))
    assert done.memory_version == 1
    await talk.send()
    leased = await talk.leased(4)
    assert [doc["content"] for doc in json.loads(leased.memory or b"")] == ["likes tea"]
    await talk.finish(4, memory=(ChangedDocument("MEMORY.md", "", None),))
    await talk.send()
    assert json.loads((await talk.leased(6, have=HostCopy(3, 4, 1))).memory or b"")[0]["content"] is None


async def test_a_clear_reset_forgets_what_was_said(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    await talk.finish(2)
    async with talk.db.tenant(talk.org) as connection:
        ended = await sessions.reset_session(connection, UUID(talk.org), UUID(talk.id), clear=True)
    assert ended is not None
    assert ended.seq == 4
    await talk.send("anew")
    assert json.loads((await talk.leased(5, have=HostCopy(2, 2, 0))).history or b"") == []


async def test_a_hello_compares_turns(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    request = turn_request_id(talk.id, 2, 1)
    said = Attach(
        connection_epoch=talk.host.epoch, edge=talk.host.edge, running=(request,), is_base=False, same_journal=True
    )
    (row,) = await talk.turns.attach(talk.host.executor, said)
    assert (row.action, row.user_seq) == ("continues", 2)
    foreign = turn_request_id(talk.id, 9, 1)
    omitted = msgspec.structs.replace(said, running=(foreign,))
    assert [row.action for row in await talk.turns.attach(talk.host.executor, omitted)] == ["place", "foreign"]
    (row,) = await talk.turns.attach(talk.host.executor, said)
    assert row.action == "continues"


async def test_the_sweep_ends_what_takes_too_long(talk: Talk, superuser: "asyncpg.Connection") -> None:
    await talk.send()
    await talk.leased(2)
    await superuser.execute("update session_turns set act_by = now(), sweep_at = now()")
    (swept,) = await talk.turns.sweep()
    assert (swept.action, str(swept.executor_id)) == ("ended", talk.host.executor)
    assert (await talk.finish(2)).outcome == "duplicate"


async def test_a_turn_that_waits_says_so_once(talk: Talk) -> None:
    await talk.send()
    note = (talk.org, talk.id, 2, 0, "ALL_FULL", talk.host.executor)
    assert await talk.turns.note_waiting(*note) == 3
    assert await talk.turns.note_waiting(*note) is None
    (waiting,) = await talk.turns.of_executor(talk.host.executor)
    assert not waiting.is_held
    assert await talk.turns.fail_unplaced(talk.org, talk.id, 2, 0, "NO_AGENT_AVAILABLE", "none", b"{}") == 4


async def test_a_reset_ends_every_message_that_waits(talk: Talk) -> None:
    # More than a cursor fetches at a time.
    for number in range(60):
        await talk.send(f"message {number}")
    async with talk.db.tenant(talk.org) as connection:
        ended = await sessions.reset_session(connection, UUID(talk.org), UUID(talk.id), clear=False)
    assert ended is not None
    assert [kind for _, kind in await talk.events()].count("error") == 60
    assert await talk.turns.look(talk.org, talk.id) is None


async def test_a_host_that_declines_has_not_had_it_and_does_not_stretch_the_wait(
    talk: Talk, superuser: "asyncpg.Connection"
) -> None:
    one = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
    await one.create(session_key="d", on_host_lost="fail")
    await one.send()
    note = (one.org, one.id, 2)
    assert await one.turns.note_waiting(*note, 0, "ALL_FULL", one.host.executor) is not None
    passed = "update session_turns set act_by = act_by - interval '9 s', wait_until = wait_until - interval '9 s'"
    await superuser.execute(passed)
    until = await superuser.fetchval("select act_by from session_turns where session_id = $1", UUID(one.id))
    for epoch in (1, 2):
        await one.leased(2, epoch=epoch)
        assert await one.lose(2, epoch=epoch, reason="declined") == "place"
        assert await one.turns.note_waiting(*note, epoch, "ALL_FULL", one.host.executor) is None
    row = await superuser.fetchrow("select * from session_turns where session_id = $1", UUID(one.id))
    assert (row["act_by"], row["tries"]) == (until, 0)
    await one.leased(2, epoch=3)
    assert await one.lose(2, epoch=3) == "failed"


async def test_a_decision_about_an_earlier_try_changes_nothing(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    assert await talk.lose(2) == "place"
    before = await talk.events()
    assert await talk.turns.fail_unplaced(talk.org, talk.id, 2, 0, "NO_AGENT_AVAILABLE", "none", b"{}") is None
    assert await talk.turns.note_waiting(talk.org, talk.id, 2, 0, "ALL_FULL", talk.host.executor) is None
    assert await talk.events() == before


async def test_an_answer_to_a_turn_that_nobody_was_leased_is_fenced(talk: Talk) -> None:
    await talk.send()
    assert (await talk.finish(2, epoch=0)).outcome == "fenced"
    assert await talk.turns.look(talk.org, talk.id) is not None


async def test_a_second_cancel_does_not_put_the_end_off(talk: Talk, superuser: "asyncpg.Connection") -> None:
    await talk.send()
    await talk.leased(2)
    ends = []
    for _ in range(2):
        async with talk.db.tenant(talk.org) as connection:
            ended = await sessions.cancel_turn(connection, UUID(talk.org), UUID(talk.id))
        assert ended is not None
        assert [cancelled.request_id for cancelled in ended.cancelled] == [turn_request_id(talk.id, 2, 1)]
        ends.append(await superuser.fetchval("select act_by from session_turns where session_id = $1", UUID(talk.id)))
    assert ends[0] == ends[1]


async def test_interrupting_what_only_waits_stops_nobody(talk: Talk) -> None:
    one = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, talk.host)
    await one.create(session_key="i", on_busy="interrupt")
    await one.send()
    second = await one.send()
    assert (second.cancelled, second.is_next) == ((), True)


async def test_memory_that_is_the_same_makes_no_version_and_the_later_of_two_stands(talk: Talk) -> None:
    await talk.send()
    await talk.leased(2)
    await talk.finish(2, memory=(ChangedDocument("MEMORY.md", "aa", "tea"), ChangedDocument("MEMORY.md", "bb", "milk")))
    push = (talk.org, talk.id, talk.host.executor)
    assert await talk.turns.put_memory(*push, (ChangedDocument("MEMORY.md", "bb", "milk"),)) == 1
    assert await talk.turns.put_memory(*push, (ChangedDocument("MEMORY.md", "cc", "rum"),)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        "lost_at = now()",
        "revoked_at = now()",
        "cordoned = true",
        "draining = true",
        "enabled = false",
        "tags = '{}'",
        "kinds = '{connector.action}'",
        "engines = '{another}'",
        "connection_epoch = connection_epoch + 1",
        "edge_id = gen_random_uuid()",
    ],
)
async def test_each_thing_that_a_host_must_be(talk: Talk, superuser: "asyncpg.Connection", changed: str) -> None:
    one = Talk(talk.ground, talk.db, talk.turns, talk.sender, talk.org, await talk.another_host(tags=("gpu",)))
    await one.create(session_key="g", required_tags=("gpu",), pool="byon")
    await one.send()
    await superuser.execute(f"update executors set {changed} where id = $1", UUID(one.host.executor))
    assert await one.lease(2) == NotLeased("refused")


async def test_a_copy_of_another_generation_is_void(talk: Talk) -> None:
    await talk.send("one")
    await talk.leased(2)
    await talk.finish(2)
    async with talk.db.tenant(talk.org) as connection:
        await sessions.reset_session(connection, UUID(talk.org), UUID(talk.id), clear=False)
    await talk.send("two")
    leased = await talk.leased(5, have=HostCopy(2, 2, 0))
    assert json.loads(leased.session)["have_seq"] is None
    assert len(json.loads(leased.history or b"")) == 2


async def test_only_the_lowest_is_failed_or_told_to_wait_and_only_without_a_host(talk: Talk) -> None:
    await talk.send()
    await talk.send()
    await talk.leased(2)
    before = await talk.events()
    for seq, epoch in ((2, 1), (3, 0)):
        assert (
            await talk.turns.fail_unplaced(talk.org, talk.id, seq, epoch, "NO_AGENT_AVAILABLE", "none", b"{}") is None
        )
        assert await talk.turns.note_waiting(talk.org, talk.id, seq, epoch, "ALL_FULL", None) is None
    assert await talk.events() == before
