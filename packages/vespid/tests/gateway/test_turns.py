"""Turns of sessions over real gateways: placed, opened on a host, streamed, answered, and what becomes of them when
the host, its socket or the gateway goes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import Fleet, Gateway
from tests.support.ground import Executor
from tests.support.organization import until
from tests.support.processes import Processes
from tests.support.talk import Talk

from vespid.bus import session_news
from vespid.bus.channels import EDGES, session_channel
from vespid.bus.messages import CancelTurn, encode
from vespid.bus.session_news import Delta
from vespid.dispatch.conversation import Conversation
from vespid.domain.session_message import SessionMessage
from vespid.store import sessions
from vespid.store.sessions import MessageSender
from vespid.store.turns import TurnStore, TurnToPlace
from vespid_protocol.ids import ExecutorId, OrgId, SessionId, UserId, new_id

ECHO = {"engines": ["vespid.echo.v1"]}


@pytest_asyncio.fixture
async def talk(gateway: Gateway, org: OrgId) -> AsyncIterator[Talk]:
    house = gateway.service.house
    sender = MessageSender(house.db)
    await sender.start()
    talk = Talk(house.db, sender, org, house.mail)
    await talk.create()
    yield talk
    await sender.stop()


async def host(fleet: Fleet, gateway: Gateway, org: OrgId | None, **how: Any) -> ScriptedExecutor:
    """A connected host of its own credential."""
    return await fleet.join(gateway, await fleet.ground.executor(org), **ECHO, **how)


async def opened(scripted: ScriptedExecutor) -> Frame:
    """Answer `session_open` (all its frames); the `session_turn` that follows."""
    while (frame := await scripted.next("session_open")).get("more"):
        pass
    await scripted.send({"type": "session_opened", "requestId": frame["requestId"], "sessionId": frame["sessionId"]})
    return await scripted.next("session_turn")


async def final(scripted: ScriptedExecutor, turn: Frame, content: str = "hi", **others: Any) -> None:
    names = {"requestId": turn["requestId"], "sessionId": turn["sessionId"]}
    await scripted.send({"type": "turn_final", **names, "content": content, **others})
    await scripted.next("execute_ack")


async def answered(talk: Talk, seq: int) -> Any:
    """The event that answers a message, once it is there."""

    async def there() -> Any:
        return (await talk.answers()).get(seq)

    return await until(there, f"message {seq} is answered", 10.0)


@pytest.mark.promise("P8")
async def test_a_message_is_brought_to_a_host_and_its_answer_committed(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send("hello")
    turn = await opened(scripted)
    assert turn["message"] == "hello"
    assert turn["eventSeq"] == 2
    await final(scripted, turn, "hello yourself")
    assert await answered(talk, 2) == {"message": "hello yourself", "output": None, "userEventSeq": 2}
    await fleet.given_back(org)


async def test_the_second_turn_on_a_host_is_not_opened_again(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send("one")
    await final(scripted, await opened(scripted))
    await talk.send("two")
    turn = await scripted.next("session_turn")
    assert turn["message"] == "two"
    await final(scripted, turn)
    assert scripted.unread("session_open") == []


async def test_a_message_over_this_gateways_socket_is_placed_by_it_without_another_look(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = await host(fleet, gateway, org)
    looks = _note_looks(monkeypatch)
    await _conversation(gateway).send(org, talk.id, UserId(new_id()), SessionMessage("hello"))
    await final(scripted, await opened(scripted))
    assert await answered(talk, 2)
    assert looks == []


@pytest.mark.promise("P8")
async def test_an_old_word_of_what_a_turn_wants_changes_nothing(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    first = await host(fleet, gateway, org)
    sent = await talk.send("one")
    assert sent.wanted is not None
    turn = await opened(first)
    second = await host(fleet, gateway, org)
    place = _conversation(gateway)._place
    assert place is not None
    assert place(org, talk.id, sent.wanted)
    await final(first, turn, "once")
    assert place(org, talk.id, sent.wanted)
    await talk.send("two")
    assert (await first.next("session_turn"))["message"] == "two"
    assert [event for event in await talk.kinds() if event == "agent_final"] == ["agent_final"]
    assert second.unread("session_turn") == []
    assert second.unread("session_open") == []


def _conversation(gateway: Gateway) -> Conversation:
    clients = gateway.service._clients
    assert clients is not None
    return clients.sockets._conversation


def _note_looks(monkeypatch: pytest.MonkeyPatch) -> list[SessionId]:
    """The sessions whose turns are read, for placing, from now on."""
    looks: list[SessionId] = []
    look = TurnStore.look

    async def noted(store: TurnStore, org_id: OrgId, session_id: SessionId) -> TurnToPlace | None:
        looks.append(session_id)
        return await look(store, org_id, session_id)

    monkeypatch.setattr(TurnStore, "look", noted)
    return looks


async def test_deltas_go_to_the_channel_with_their_place_in_the_text(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    heard: asyncio.Queue[Delta] = asyncio.Queue()

    def hear(data: bytes | None) -> None:
        news = None if data is None else session_news.decode(data)
        if isinstance(news, Delta):
            heard.put_nowait(news)

    leave = await gateway.service.house.fanout.subscribe(session_channel(talk.id), hear)
    scripted = await host(fleet, gateway, org)
    await talk.send()
    turn = await opened(scripted)
    for piece in ("he", "llo"):
        names = {"requestId": turn["requestId"], "sessionId": talk.id}
        await scripted.send({"type": "turn_delta", **names, "content": piece})
    told = [await heard.get(), await heard.get()]
    assert [(delta.offset, delta.content, delta.user_seq) for delta in told] == [(0, "he", 2), (2, "llo", 2)]
    await leave()


async def test_tool_events_are_persisted_before_the_answer(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send()
    turn = await opened(scripted)
    for number, kind in enumerate(("tool_call", "tool_result", "thinking")):
        event = {"seq": number, "ts": 0, "kind": kind, "level": "info", "payload": {"n": number}}
        names = {"requestId": turn["requestId"], "sessionId": talk.id}
        await scripted.send({"type": "turn_event", **names, "event": event})
    await final(scripted, turn)
    await answered(talk, 2)
    assert await talk.kinds() == [
        "session_created",
        "user_message",
        "tool_call",
        "tool_result",
        "thinking",
        "agent_final",
    ]


@pytest.mark.promise("P8")
async def test_queued_messages_are_answered_one_after_another(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    scripted = await host(fleet, gateway, org)
    for text in ("one", "two", "three"):
        await talk.send(text)
    turn = await opened(scripted)
    for _ in range(2):
        assert scripted.unread("session_turn") == []
        await final(scripted, turn, f"re {turn['message']}")
        turn = await scripted.next("session_turn")
    await final(scripted, turn, f"re {turn['message']}")
    await answered(talk, 4)
    assert [answer["message"] for answer in (await talk.answers()).values()] == ["re one", "re two", "re three"]


@pytest.mark.promise("P8")
async def test_a_host_that_is_lost_in_mid_turn_is_replaced_and_told_everything(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    first = await host(fleet, gateway, org)
    await talk.send("one")
    memory = [{"path": "MEMORY.md", "sha256": "", "content": "likes tea"}]
    await final(first, await opened(first), "answer one", payload={"memory": memory})
    await talk.send("two")
    lost = await first.next("session_turn")
    second = await host(fleet, gateway, None)
    await first.drop()
    opening = await second.next("session_open")
    assert [entry["content"] for entry in opening["history"]] == ["one", "answer one"]
    assert [document["content"] for document in opening["memory"]] == ["likes tea"]
    names = {"requestId": opening["requestId"], "sessionId": talk.id}
    assert opening["requestId"] != lost["requestId"]
    await second.send({"type": "session_opened", **names})
    turn = await second.next("session_turn")
    assert turn["message"] == "two"
    await final(second, turn, "answer two")
    assert (await answered(talk, 4))["message"] == "answer two"
    assert "session_executor_failover" in await talk.kinds()
    await fleet.given_back(org)


@pytest.mark.promise("P4", "P8")
async def test_a_host_that_comes_back_after_its_turn_went_elsewhere_changes_nothing(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    first = await host(fleet, gateway, org)
    await talk.send("one")
    lost = await opened(first)
    second = await host(fleet, gateway, org)
    await first.drop()
    turn = await opened(second)
    await first.connect(in_flight=[{"requestId": lost["requestId"]}])
    assert (await first.next("session_cancel"))["sessionId"] == talk.id
    await final(first, lost, "too late")
    await final(second, turn, "in time")
    assert (await answered(talk, 2))["message"] == "in time"


@pytest.mark.promise("P3", "P8")
async def test_an_answer_made_while_the_link_was_away_is_taken(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    only = await host(fleet, gateway, org)
    await talk.send("one")
    turn = await opened(only)
    await only.drop()
    await until(lambda: _is(talk, "waiting"), "the turn waits for its host", 10.0)
    await only.connect(unacked=[turn["requestId"]])
    await final(only, turn, "made offline")
    assert (await answered(talk, 2))["message"] == "made offline"
    await fleet.given_back(org)


async def test_a_turn_that_still_runs_on_a_host_that_is_back_goes_on_there(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    only = await host(fleet, gateway, org)
    await talk.send("one")
    turn = await opened(only)
    await only.drop()
    await until(lambda: _is(talk, "waiting"), "the turn waits for its host", 10.0)
    await only.connect(in_flight=[{"requestId": turn["requestId"]}])
    await until(lambda: _is(talk, "turn_restarted"), "its text begins anew", 10.0)
    await final(only, turn, "whole")
    assert (await answered(talk, 2))["message"] == "whole"
    await fleet.given_back(org)


async def test_without_any_host_a_message_fails_at_once(gateway: Gateway, talk: Talk) -> None:
    await talk.send()
    assert (await answered(talk, 2))["code"] == "NO_AGENT_AVAILABLE"


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_pinned_host_that_went_with_its_gateway_is_waited_for(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk, processes: Processes, is_killed: bool
) -> None:
    """A restart of the gateway is no reason to fail what is said meanwhile."""
    leaving = await processes.start("gateway")
    executor = await fleet.ground.executor(org)
    scripted = ScriptedExecutor(fleet.http, leaving.url, executor.token)
    scripted.capabilities = ECHO
    await scripted.connect()
    await fleet.routed(executor)
    await talk.send("one")
    await final(scripted, await opened(scripted))
    await answered(talk, 2)
    await (leaving.kill() if is_killed else leaving.terminate())
    await talk.send("two")
    await until(lambda: _is(talk, "waiting"), "it waits", 10.0)
    again = await fleet.join(gateway, executor, **ECHO)
    await final(again, await opened(again), "back")
    assert (await answered(talk, 4))["message"] == "back"


async def test_a_pinned_host_that_left_by_itself_is_not_waited_for(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send("one")
    await final(scripted, await opened(scripted))
    await answered(talk, 2)
    await scripted.drop()

    async def has_left() -> bool:
        return bool(await fleet.ground.sql.fetchval("select bool_and(lost_at is not null) from executors"))

    await until(has_left, "it has left", 10.0)
    await talk.send("two")
    assert (await answered(talk, 4))["code"] == "NO_AGENT_AVAILABLE"
    assert not await _is(talk, "waiting")


async def test_the_session_works_again_as_soon_as_a_host_appears(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    await talk.send()
    await answered(talk, 2)
    scripted = await host(fleet, gateway, org)
    await talk.send("again")
    turn = await opened(scripted)
    await final(scripted, turn)
    assert (await answered(talk, 4))["message"] == "hi"


async def test_a_busy_pinned_host_is_waited_for_and_that_is_said(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    executor = await fleet.ground.executor(org, max_in_flight=1)
    only = await fleet.join(gateway, executor, maxInFlight=1, **ECHO)
    await talk.send("one")
    await final(only, await opened(only))
    other = Talk(talk.db, talk.sender, org, talk.mail)
    await other.create(session_key="other")
    await other.send("mine")
    held = await opened(only)
    await host(fleet, gateway, org)
    await talk.send("two")
    await until(lambda: _is(talk, "waiting"), "it waits", 10.0)
    await final(only, held)
    turn = await only.next("session_turn")
    assert turn["message"] == "two"
    await final(only, turn)
    await answered(talk, 4)


async def test_a_session_leaves_a_pinned_host_that_takes_nothing_new(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    cordoned = await fleet.ground.executor(org)
    first = await fleet.join(gateway, cordoned, **ECHO)
    await talk.send("one")
    await final(first, await opened(first))
    await answered(talk, 2)
    await fleet.ground.announce("executor_cordoned", cordoned.id, org)
    await fleet.routed(cordoned, is_routable=False)
    # Nobody else is there: it is waited for.
    await talk.send("two")
    await until(lambda: _is(talk, "waiting"), "it waits", 10.0)
    await final(second := await host(fleet, gateway, org), await opened(second), "elsewhere")
    assert (await answered(talk, 4))["message"] == "elsewhere"
    await talk.send("three")
    await final(second, await second.next("session_turn"), "still")
    await fleet.ground.announce("executor_uncordoned", cordoned.id, org)


async def test_byon_comes_first_and_managed_only_where_it_is_asked_for(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    managed = await host(fleet, gateway, None)
    own = await host(fleet, gateway, org)
    await talk.send()
    await final(own, await opened(own))
    asked = Talk(talk.db, talk.sender, org, talk.mail)
    await asked.create(session_key="managed", pool="managed")
    await asked.send()
    await final(managed, await opened(managed))
    await answered(asked, 2)


async def test_a_session_that_goes_home_leaves_the_managed_pool_when_its_own_host_returns(
    fleet: Fleet, gateway: Gateway, org: OrgId
) -> None:
    sender = MessageSender(gateway.service.house.db)
    await sender.start()
    talk = Talk(gateway.service.house.db, sender, org, gateway.service.house.mail)
    await talk.create(pin_policy="home")
    managed = await host(fleet, gateway, None)
    await talk.send()
    await final(managed, await opened(managed))
    own = await host(fleet, gateway, org)
    await talk.send("home now")
    await final(own, await opened(own))
    await answered(talk, 4)
    await sender.stop()


async def test_a_session_of_one_host_only_says_that_it_is_offline(
    fleet: Fleet, gateway: Gateway, org: OrgId, executor: Executor
) -> None:
    sender = MessageSender(gateway.service.house.db)
    await sender.start()
    talk = Talk(gateway.service.house.db, sender, org, gateway.service.house.mail)
    await talk.create(only_executor_id=executor.id)
    await host(fleet, gateway, org)
    await talk.send()
    assert (await answered(talk, 2))["code"] == "PINNED_AGENT_OFFLINE"
    await sender.stop()


async def test_a_cancelled_turn_is_stopped_on_its_host(fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send()
    turn = await opened(scripted)
    async with talk.db.tenant(org) as connection:
        ended = await sessions.cancel_turn(connection, UUID(org), UUID(talk.id))
    assert ended is not None
    (cancelled,) = ended.cancelled
    order = CancelTurn(cancelled.request_id, talk.id, org, ExecutorId(cancelled.executor_id))
    gateway.service.house.fanout.publish(EDGES, encode(order))
    assert (await scripted.next("session_cancel"))["sessionId"] == talk.id
    names = {"requestId": turn["requestId"], "sessionId": talk.id}
    await scripted.send({"type": "turn_error", **names, "code": "TURN_CANCELLED", "message": "stopped"})
    assert (await answered(talk, 2))["code"] == "TURN_CANCELLED"
    await fleet.given_back(org)


@pytest.mark.promise("P5")
async def test_a_stranger_cannot_speak_for_a_turn(fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk) -> None:
    scripted = await host(fleet, gateway, org)
    stranger = await host(fleet, gateway, await fleet.ground.organization())
    managed = await host(fleet, gateway, None)
    await talk.send()
    turn = await opened(scripted)
    for other in (stranger, managed):
        names = {"requestId": turn["requestId"], "sessionId": talk.id}
        await other.send({"type": "turn_delta", **names, "content": "x"})
        await final(other, turn, "from a stranger")
    await final(scripted, turn, "mine")
    assert (await answered(talk, 2))["message"] == "mine"


@pytest.mark.promise("P6")
async def test_a_revoked_host_has_no_say_any_more_and_its_turn_goes_elsewhere(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk, executor: Executor
) -> None:
    scripted = await fleet.join(gateway, executor, **ECHO)
    await talk.send()
    await opened(scripted)
    other = await host(fleet, gateway, org)
    await fleet.ground.revoke(executor)
    await final(other, await opened(other), "elsewhere")
    assert (await answered(talk, 2))["message"] == "elsewhere"
    assert await scripted.closed() == 4403


async def test_a_silent_host_is_given_up(fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk) -> None:
    scripted = await host(fleet, gateway, org)
    await talk.send()
    await opened(scripted)
    other = await host(fleet, gateway, org)
    scripted.is_mute = True
    async with asyncio.timeout(20):
        turn = await opened_within(other, 15.0)
    await final(other, turn)
    await answered(talk, 2)


async def opened_within(scripted: ScriptedExecutor, within_s: float) -> Frame:
    frame = await scripted.next("session_open", within_s)
    await scripted.send({"type": "session_opened", "requestId": frame["requestId"], "sessionId": frame["sessionId"]})
    return await scripted.next("session_turn")


async def test_a_long_history_comes_in_several_frames(fleet: Fleet, org: OrgId) -> None:
    gateway = await fleet.gateway(max_frame_bytes=262_144)
    sender = MessageSender(gateway.service.house.db)
    await sender.start()
    talk = Talk(gateway.service.house.db, sender, org, gateway.service.house.mail)
    await talk.create()
    scripted = await host(fleet, gateway, org)
    texts = [f"{number}" * 40_000 for number in range(4)]
    await talk.send(texts[0])
    turn = await opened(scripted)
    for text in texts[1:]:
        await talk.send(text)
        await final(scripted, turn, "ok")
        turn = await scripted.next("session_turn")
    other = await host(fleet, gateway, org)
    await scripted.drop()
    entries: list[Frame] = []
    while True:
        frame = await other.next("session_open")
        entries += frame["history"]
        if not frame.get("more"):
            break
    assert [entry["content"] for entry in entries if entry["role"] == "user"] == texts[:3]
    await sender.stop()


async def test_a_base_host_is_told_in_one_frame_and_answers(
    fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk
) -> None:
    base = await fleet.join(gateway, await fleet.ground.executor(org), base=True, **ECHO)
    await talk.send()
    opening = await base.next("session_open")
    assert not {"generation", "memory", "more"} & opening.keys()
    names = {"requestId": opening["requestId"], "sessionId": talk.id}
    await base.send({"type": "session_opened", **names})
    turn = await base.next("session_turn")
    await base.send({"type": "turn_final", **names, "content": "plain"})
    assert (await answered(talk, 2))["message"] == "plain"
    assert turn["message"] == "hello"


async def _is(talk: Talk, kind: str) -> bool:
    return kind in await talk.kinds()


@pytest.mark.promise("P9")
async def test_turns_and_executions_share_a_hosts_room(fleet: Fleet, gateway: Gateway, org: OrgId, talk: Talk) -> None:
    executor = await fleet.ground.executor(org, max_in_flight=1)
    only = await fleet.join(gateway, executor, maxInFlight=1, **ECHO)
    await talk.send()
    turn = await opened(only)
    assert await fleet.reserved(org) == 1
    await final(only, turn)
    await fleet.given_back(org)
