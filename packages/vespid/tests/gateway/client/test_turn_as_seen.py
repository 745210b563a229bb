"""One turn as a joined client sees it, and what is told when it goes wrong."""

import pytest
from tests.support.control import Caller
from tests.support.organization import until
from tests.support.session_scene import SessionScene

from vespid.dispatch import bindings
from vespid.gateway.client import session_view
from vespid.gateway.client.turn_text import Key
from vespid.store import session_reads


async def test_a_turn_is_told_in_the_order_of_the_contract(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await client.event(1)
    await client.send("session_send", session, message="hello")
    await client.event(2)
    await scene.lease(owner, session, 2)
    scene.delta(session, 2, 0, "Hel")
    scene.delta(session, 2, 3, "lo")
    await client.next("agent_delta", 2)
    await scene.tool(owner, session, 2, "tool_call", "tool_result")
    await client.event(4)
    await scene.finish(owner, session, 2, "Hello")
    final = await client.next("agent_final")
    assert client.story() == [
        "joined",
        "state",
        "1:session_created",
        "ack:2",
        "2:user_message",
        "state",
        "+Hel",
        "+lo",
        "3:tool_call",
        "4:tool_result",
        "5:agent_final",
        "agent_final",
    ]
    host = await scene.host(owner)
    state = await client.next("session_state", 2)
    assert state == {
        "type": "session_state",
        "sessionId": session,
        "pinnedExecutorId": host.executor,
        "pinnedExecutorPool": "byon",
        "pinnedAgentId": host.executor,
        "routedAgentId": None,
        "scope": "main",
        "executionMode": "pinned-node-host",
    }
    assert (final["seq"], final["content"], final["payload"]) == (5, "Hello", {"n": 2})
    assert final["createdAt"] == (await client.event(5))["createdAt"]
    assert (await client.next("agent_delta"))["seq"] == 2
    shown = (await owner.get(f"/v1/orgs/{{org}}/sessions/{session}/events")).body["events"]
    for event in shown:
        told = await client.event(event["seq"])
        assert {name: told[name] for name in ("eventType", "level", "payload", "createdAt")} == {
            name: event[name] for name in ("eventType", "level", "payload", "createdAt")
        }


async def test_a_failed_turn_ends_with_its_error_event_and_then_the_error(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    scene.delta(session, seq, 0, "Hel")
    await client.next("agent_delta")
    await scene.finish(owner, session, seq, status="failed", answer=None, code="LLM_TIMEOUT", message="too slow")
    error = await client.next("session_error")
    assert (error["sessionId"], error["code"], error["message"]) == (session, "LLM_TIMEOUT", "too slow")
    assert client.story()[-3:] == ["+Hel", "3:error", "error"]
    # What is still on its way when a turn has ended is told to nobody.
    scene.delta(session, seq, 3, "lo")
    await scene.say(owner, session, "again")
    await client.event(4)
    assert client.count("agent_delta") == 1


async def test_after_a_failover_the_text_begins_anew_behind_the_new_place(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    scene.delta(session, seq, 0, "Hello fr")
    await client.next("agent_delta")
    await scene.lose(owner, session, seq)
    await scene.lease(owner, session, seq, epoch=2, host="two")
    # From the first host, late.
    scene.delta(session, seq, 8, "om one")
    scene.delta(session, seq, 0, "Hi", epoch=2)
    await client.until(lambda: "+Hi" in client.story(), "the second host's text")
    # What the first one said late may come before the failover, never behind it.
    told = [word for word in client.story() if word != "+om one"]
    assert told[told.index("+Hello fr") :] == ["+Hello fr", "state", "3:session_executor_failover", "+Hi"]
    assert "+om one" not in client.story()[client.story().index("3:session_executor_failover") :]
    assert (await client.next("session_state", 3))["pinnedExecutorId"] == (await scene.host(owner, "two")).executor


async def test_a_message_over_http_is_acknowledged_to_every_client_that_has_joined(
    scene: SessionScene, owner: Caller
) -> None:
    session = await scene.session(owner)
    far = await scene.gateway()
    clients = [await scene.joined(owner, session), await scene.joined(owner, session, far)]
    seq = await scene.say(owner, session)
    for client in clients:
        await client.event(seq)
        assert client.story()[-2:] == [f"ack:{seq}", f"{seq}:user_message"]


async def test_a_sender_hears_one_acknowledgement_before_the_event_and_one_for_each_repeat(
    scene: SessionScene, owner: Caller
) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    apart = await scene.client(owner).open()
    for number in range(20):
        await client.send("session_send", session, message=f"m{number}", idempotencyKey=f"k{number}")
    await client.event(21)
    assert [word for word in client.story() if word.startswith("ack")] == [f"ack:{seq}" for seq in range(2, 22)]
    for seq in range(2, 22):
        assert client.story().index(f"ack:{seq}") < client.story().index(f"{seq}:user_message")
    await client.send("session_send", session, message="m3", idempotencyKey="k3")
    await client.settled()
    assert client.story().count("ack:5") == 2
    assert await scene.event_count(session) == 21
    # Whoever has not joined is told of the commit and of nothing else.
    await apart.send("session_send", session, message="from afar")
    await apart.next("session_ack")
    assert apart.story() == ["ack:22"]


async def test_after_a_restart_the_text_begins_anew_and_nothing_of_before_is_mixed_in(
    scene: SessionScene, owner: Caller
) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    scene.delta(session, seq, 0, "Hello fr")
    await client.next("agent_delta")
    await scene.restarted(owner, session, seq)
    await client.event(seq + 1)
    scene.delta(session, seq, 0, "Hel")
    scene.delta(session, seq, 3, "lo, you")
    await client.next("agent_delta", 3)
    assert client.story()[-4:] == ["+Hello fr", f"{seq + 1}:turn_restarted", "+Hel", "+lo, you"]


async def test_text_waits_until_the_events_before_it_were_read_page_by_page(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (session_view, session_reads):
        monkeypatch.setattr(module, "NEWS_MAX", 1)
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await client.event(1)
    with monkeypatch.context() as deaf:
        deaf.setattr(session_view.SessionView, "look", lambda _: None)
        for _ in range(2):
            await scene.say(owner, session)
        await scene.lease(owner, session, 2)
        await scene.finish(owner, session, 2, "done")
        await scene.lease(owner, session, 3)
        clients = scene.edge.service._clients
        assert clients is not None
        text = clients.views._views[session]._text
        scene.delta(session, 3, 0, "Hi")
        await until(lambda: text.length == 2, "the text is heard")
    scene.moved(session)
    await client.next("agent_delta")
    story = ["2:user_message", "3:user_message", "4:agent_final", "agent_final", "+Hi"]
    assert [word for word in client.story() if word in story] == story


async def test_who_has_the_answer_is_not_given_its_text_any_more(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    first = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    scene.delta(session, seq, 0, "Hel")
    await first.next("agent_delta")
    # Committed, and this gateway has not heard of it.
    await scene.finish(owner, session, seq, "Hello", tell=False)
    late = await scene.joined(owner, session, after_seq=seq + 1)
    await first.event(seq + 1)
    await late.settled()
    assert late.count("agent_delta") == 0


async def test_text_of_a_turn_that_is_over_has_nothing_looked_up(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    await scene.finish(owner, session, seq)
    await client.next("agent_final")
    clients = scene.edge.service._clients
    assert clients is not None
    view = clients.views._views[session]
    scene.delta(session, seq, 0, "late")
    await until(lambda: view._over == Key(seq, 1), "that it is over is known")
    looks: list[object] = []
    look = session_view.SessionView.look
    monkeypatch.setattr(session_view.SessionView, "look", lambda self: (looks.append(self), look(self)))
    for offset in range(50):
        scene.delta(session, seq, offset, "x")
    await scene.say(owner, session)
    await client.event(seq + 2)
    assert len(looks) < 10


async def test_a_message_over_the_socket_is_the_message_that_http_knows(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    attachments = [{"name": "a", "mimeType": "text/plain", "contentText": "x", "metadata": {"n": 1}}]
    fields = {"message": "\U0001f600" * 50_000, "attachments": attachments, "idempotencyKey": "k"}
    await client.send("session_send", session, **fields)
    told = await client.event(2)
    assert told["payload"] == {"message": fields["message"], "attachments": attachments}
    (event,) = (await owner.get(f"/v1/orgs/{{org}}/sessions/{session}/events?afterSeq=1")).body["events"]
    assert (event["payload"], event["idempotencyKey"]) == (told["payload"], "k")
    path = f"/v1/orgs/{{org}}/sessions/{session}/messages"
    repeated = await owner.post(path, fields)
    assert (repeated.status, repeated.body) == (202, {"accepted": True, "event": event})
    await client.send("session_send", session, message="another", idempotencyKey="k")
    assert (await client.next("session_error"))["code"] == "CONFLICT"
    assert await scene.event_count(session) == 2


async def test_a_busy_session_refuses_over_the_socket_too(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner, onMessageWhileBusy="reject")
    client = await scene.joined(owner, session)
    await client.send("session_send", session, message="one")
    await client.event(2)
    await client.send("session_send", session, message="two")
    error = await client.next("session_error")
    assert (error["sessionId"], error["code"]) == (session, "SESSION_BUSY")
    assert client.count("session_ack") == 2
    assert await scene.event_count(session) == 2


async def test_a_gateway_routes_by_a_change_of_bindings_once_it_has_read_the_feed(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the feed tells it.
    monkeypatch.setattr(bindings, "KEPT_S", 1e9)
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    await client.send("session_send", session, message="one")
    await client.event(2)
    body = {"agentId": "support", "dimension": "default"}
    assert (await owner.post("/v1/orgs/{org}/agent-bindings", body)).status == 201

    async def handed_over() -> bool:
        await client.send("session_send", session, message="more")
        await client.next("session_ack", client.count("session_ack") + 1)
        return "agent_handoff" in [event["eventType"] for event in client.of("session_event_v2")]

    await until(handed_over, "the gateway has read the feed")
    states = client.of("session_state")
    assert [state["routedAgentId"] for state in states] == [None, "support"]
