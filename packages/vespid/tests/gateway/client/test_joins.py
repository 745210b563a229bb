"""Joining: nothing is missed and nothing comes twice, wherever one joins and whatever is lost on the way."""

import asyncio
import random
from typing import Any
from uuid import UUID

import pytest
from tests.support.control import Caller
from tests.support.organization import until
from tests.support.session_scene import SessionScene

from vespid.bus.messages import TextSoFar, TextWanted
from vespid.gateway.client import session_view, views
from vespid.store import session_reads


async def test_a_join_replays_behind_after_seq_and_by_default_the_last(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert views.LAST_EVENTS == 200
    monkeypatch.setattr(views, "LAST_EVENTS", 3)
    session = await scene.session(owner)
    for _ in range(5):
        await scene.say(owner, session)
    for after, expected in ((None, [4, 5, 6]), (0, [1, 2, 3, 4, 5, 6]), (4, [5, 6]), (6, []), (99, [])):
        client = await scene.joined(owner, session, after_seq=after)
        await client.until(lambda c=client, e=expected: c.seqs() == e, f"{expected} after {after}")
        # A replay is events and nothing else: no message is acknowledged that was sent long ago.
        assert client.story()[:2] == ["joined", "state"]
        assert all(word[0].isdigit() for word in client.story()[2:])
        await client.drop()
    late = await scene.joined(owner, session, after_seq=99)
    await scene.say(owner, session)
    await late.event(7)
    assert late.seqs() == [7]


async def test_one_socket_joins_several_sessions_and_leaves_them(scene: SessionScene, owner: Caller) -> None:
    first, second = [await scene.session(owner, scope="per-peer", peer=peer) for peer in ("a", "b")]
    client = await scene.joined(owner, first)
    await client.join(second)
    await scene.say(owner, first)
    await scene.say(owner, second)
    await client.event(2, first)
    await client.event(2, second)
    await client.send("session_leave", first)
    await client.settled()
    await scene.say(owner, first)
    await scene.say(owner, second)
    await client.event(3, second)
    assert client.seqs(first) == [1, 2]
    # The second join of a session begins where it says.
    await client.join(second, after_seq=2)
    await client.until(lambda: client.seqs(second) == [1, 2, 3, 3], "told from there")
    # And it is joined once.
    await scene.say(owner, second)
    await client.event(4, second)
    await scene.say(owner, second)
    await client.event(5, second)
    assert client.seqs(second) == [1, 2, 3, 3, 4, 5]


async def test_a_view_ends_with_its_last_client(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    clients = [await scene.joined(owner, session) for _ in range(3)]
    shown = scene.edge.service._clients
    assert shown is not None
    assert len(shown.views) == 1
    for client in clients:
        await client.drop()
    await until(lambda: len(shown.views) == 0, "nobody follows it")


@pytest.mark.promise("P8")
async def test_no_event_is_missed_or_repeated_by_clients_that_join_while_many_are_written(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reads in (session_reads, session_view):
        monkeypatch.setattr(reads, "NEWS_MAX", 7)
    far = await scene.gateway()
    session = await scene.session(owner)
    chance = random.Random(4)
    clients = []
    senders = [await scene.joined(owner, session), await scene.joined(owner, session, far)]

    async def send(sender: int) -> None:
        for number in range(60):
            await senders[sender].send("session_send", session, message=f"{sender} says {number}")
            await senders[sender].next("session_ack", number + 2)

    async def come() -> None:
        for _ in range(12):
            after = chance.choice([None, 0, len(senders[0].seqs())])
            gateway = chance.choice([scene.edge, far])
            clients.append((0 if after is None else after, await scene.joined(owner, session, gateway, after)))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send(0))
        tasks.create_task(send(1))
        tasks.create_task(come())
    for after, client in [*clients, *((0, sender) for sender in senders)]:
        await client.event(121)
        assert client.seqs() == list(range(after + 1, 122))


async def test_events_larger_than_a_page_are_told_all_the_same(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (session_view, session_reads):
        monkeypatch.setattr(module, "NEWS_MAX_BYTES", 1)
    session = await scene.session(owner)
    first = await scene.joined(owner, session)
    for _ in range(4):
        await scene.say(owner, session)
    late = await scene.joined(owner, session)
    for client in (first, late):
        await client.event(5)
        assert client.seqs() == [1, 2, 3, 4, 5]


async def test_a_client_that_joins_while_a_turn_runs_is_given_the_text_so_far_first(
    scene: SessionScene, owner: Caller
) -> None:
    session = await scene.session(owner)
    first = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    for offset, piece in ((0, "Hel"), (3, "lo "), (6, "the")):
        scene.delta(session, seq, offset, piece)
    await first.next("agent_delta", 3)
    late = await scene.joined(owner, session)
    await late.next("agent_delta")
    scene.delta(session, seq, 9, "re")
    await late.next("agent_delta", 2)
    assert late.story() == ["joined", "state", "1:session_created", f"{seq}:user_message", "+Hello the", "+re"]
    await first.next("agent_delta", 4)
    assert first.story()[-4:] == ["+Hel", "+lo ", "+the", "+re"]


class TextDesk:
    """The edge with the host's socket, as far as the text so far goes."""

    def __init__(self, scene: SessionScene, text: str) -> None:
        self.scene = scene
        self.text = text
        self.asked: list[TextWanted] = []
        # It says nothing to the first so many.
        self.silent = 0
        scene.edge.service.house.inbox.handle(TextWanted, self.take)

    def take(self, wanted: TextWanted) -> None:
        self.asked.append(wanted)
        if len(self.asked) > self.silent:
            self.answering = asyncio.ensure_future(self.answer(wanted))

    async def answer(self, wanted: TextWanted) -> None:
        seq, epoch = (int(part) for part in wanted.request_id.split(":")[-2:])
        answer = TextSoFar(wanted.session_id, wanted.request_id, seq, epoch, self.text)
        await self.scene.edge.service.house.mail.send(wanted.reply_to, answer)


@pytest.mark.parametrize("silent", [0, 1])
async def test_a_gateway_that_has_heard_nothing_of_a_turn_asks_its_edge_for_the_text(
    scene: SessionScene, owner: Caller, silent: int
) -> None:
    session = await scene.session(owner)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    desk = TextDesk(scene, "Hello")
    desk.silent = silent
    far = await scene.gateway()
    client = await scene.joined(owner, session, far)
    # It may be told of what comes next before it hears what was before.
    await until(lambda: desk.asked, "the edge is asked")
    scene.delta(session, seq, 5, " there")
    await client.until(lambda: "".join(w[1:] for w in client.story() if w[0] == "+") == "Hello there", "all of it")
    assert len(desk.asked) == silent + 1


async def test_a_lost_delta_is_made_good(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    client = await scene.joined(owner, session)
    desk = TextDesk(scene, "Hello")
    scene.delta(session, seq, 0, "Hel")
    await client.next("agent_delta")
    scene.delta(session, seq, 5, " there")
    await client.until(lambda: "".join(w[1:] for w in client.story() if w[0] == "+") == "Hello there", "all of it")
    assert desk.asked


async def test_after_a_gap_in_the_channel_events_and_text_are_asked_for(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    client = await scene.joined(owner, session)
    TextDesk(scene, "Hello there")
    scene.delta(session, seq, 0, "Hello")
    await client.next("agent_delta")
    # Nobody publishes what happened meanwhile.
    await scene.tool(owner, session, seq, "tool_call", tell=False)
    fanout = scene.edge.service.house.fanout
    fanout._tell(f"session:{session}".encode(), None)
    await client.event(seq + 1)
    await client.until(lambda: "".join(w[1:] for w in client.story() if w[0] == "+") == "Hello there", "all of it")


async def test_with_redis_emptied_or_away_clients_see_everything_a_little_later(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOOK_ANYWAY_S", 0.5)
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await scene.fleet.redis.flushall()
    seq = await scene.say(owner, session)
    await client.event(seq)
    # What nobody is told of at all.
    await scene.lease(owner, session, seq)
    await scene.tool(owner, session, seq, "tool_call", tell=False)
    await client.event(seq + 1)


async def test_while_publications_are_not_heard_sessions_are_looked_at_often(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOOK_ANYWAY_S", 1e9)
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await client.event(1)
    fanout = scene.edge.service.house.fanout
    await fanout.stop()
    assert not fanout.connected
    for _ in range(2):
        seq = await scene.say(owner, session)
        await client.event(seq)


async def test_what_is_committed_while_the_first_client_joins_is_found(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOOK_ANYWAY_S", 1e9)
    session = await scene.session(owner)
    fanout = scene.edge.service.house.fanout
    subscribe, about_to, go_on = fanout.subscribe, asyncio.Event(), asyncio.Event()

    async def slowly(*what: Any) -> Any:
        about_to.set()
        await go_on.wait()
        return await subscribe(*what)

    monkeypatch.setattr(fanout, "subscribe", slowly)
    client = await scene.joined(owner, session)
    await about_to.wait()
    seq = await scene.say(owner, session)
    go_on.set()
    await client.event(seq)


async def test_a_join_brings_news_to_those_who_were_there(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LOOK_ANYWAY_S", 1e9)
    session = await scene.session(owner)
    first = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    await first.event(seq)
    await first.next("session_state", 2)
    # Nobody is told.
    await scene.tool(owner, session, seq, "tool_call", tell=False)
    late = await scene.joined(owner, session)
    for client in (first, late):
        await client.event(seq + 1)
        assert client.seqs() == list(range(1, seq + 2))


async def test_a_session_that_is_no_more_is_left(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await client.event(1)
    await scene.fleet.ground.sql.execute("delete from sessions where id = $1", UUID(session))
    scene.moved(session)
    error = await client.next("session_error")
    assert (error["sessionId"], error["code"]) == (session, "SESSION_NOT_FOUND")
    clients = scene.edge.service._clients
    assert clients is not None
    assert len(clients.views) == 0
