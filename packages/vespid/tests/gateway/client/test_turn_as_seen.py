"""One turn as a joined client sees it, and what is told when it goes wrong."""

from tests.support.control import Caller
from tests.support.session_scene import SessionScene


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
