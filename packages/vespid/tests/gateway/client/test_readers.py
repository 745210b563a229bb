"""Readers that read slowly or not at all, and what clients may send: nobody else suffers."""

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest
from tests.support.control import Caller
from tests.support.session_client import narrow_http
from tests.support.session_scene import SessionScene

from vespid.gateway.client import member

# A message of half a megabyte.
BIG = [{"name": f"part {number}", "mimeType": "text/plain", "contentText": "x" * 100_000} for number in range(5)]


async def test_a_slow_reader_is_given_merged_text_and_every_event_once_it_reads(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "BEHIND_S", 60.0)
    monkeypatch.setattr(member, "BEHIND_BYTES", 1 << 30)
    session = await scene.session(owner)
    async with narrow_http() as http:
        slow = await scene.client(owner, http=http).open()
        await slow.join(session)
        quick = await scene.joined(owner, session)
        slow.stop_reading()
        for _ in range(16):
            last = await scene.say(owner, session, attachments=BIG)
        await scene.lease(owner, session, 2)
        pieces = [f"{number:05d} " for number in range(200)]
        for number, piece in enumerate(pieces):
            scene.delta(session, 2, 6 * number, piece)
        await quick.event(last)
        await quick.next("agent_delta", len(pieces))
        assert [word[1:] for word in quick.story() if word[0] == "+"] == pieces
        slow.read_on()
        await slow.event(last)
        await slow.until(lambda: "".join(w[1:] for w in slow.story() if w[0] == "+") == "".join(pieces), "all text")
        assert slow.seqs() == quick.seqs() == list(range(1, last + 1))
        assert slow.count("agent_delta") < len(pieces)
        assert [w for w in slow.story() if w[:3] == "ack"] == [w for w in quick.story() if w[:3] == "ack"]
        await slow.drop()


@pytest.mark.parametrize("why", ["time", "bytes"])
async def test_a_reader_that_stopped_is_closed_and_joins_again_where_it_was(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(member, "BEHIND_S", 0.5 if why == "time" else 60.0)
    monkeypatch.setattr(member, "BEHIND_BYTES", 1 << 30 if why == "time" else 100_000)
    session = await scene.session(owner)
    async with narrow_http() as http:
        slow = await scene.client(owner, http=http).open()
        await slow.join(session)
        quick = await scene.joined(owner, session)
        await slow.event(1)
        slow.stop_reading()
        clients = scene.edge.service._clients
        assert clients is not None
        async with asyncio.timeout(60):
            while len(clients.sockets) == 2:
                last = await scene.say(owner, session, attachments=BIG)
        await quick.event(last)
        slow.read_on()
        assert await slow.closed() == 1013
        seen = slow.seqs()
        assert seen == list(range(1, len(seen) + 1))
        again = await scene.joined(owner, session, after_seq=seen[-1])
        if seen[-1] < last:
            await again.event(last)
        assert seen + again.seqs() == list(range(1, last + 1))


async def test_text_that_is_not_read_counts_too(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "BEHIND_S", 60.0)
    monkeypatch.setattr(member, "BEHIND_BYTES", 100_000)
    session = await scene.session(owner)
    seq = await scene.say(owner, session)
    await scene.lease(owner, session, seq)
    clients = scene.edge.service._clients
    assert clients is not None
    async with narrow_http() as http:
        slow = await scene.client(owner, http=http).open()
        await slow.join(session)
        await slow.event(seq)
        quick = await scene.joined(owner, session)
        slow.stop_reading()
        length = deltas = 0
        async with asyncio.timeout(60):
            while len(clients.sockets) == 2:
                scene.delta(session, seq, length, "x" * 50_000)
                length, deltas = length + 50_000, deltas + 1
                await quick.next("agent_delta", deltas)
        slow.read_on()
        assert await slow.closed() == 1013


@pytest.mark.promise("P10")
async def test_odd_frames_are_refused_by_name_and_the_socket_lives(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.joined(owner, session)
    unknown = member.FRAMES_ODD.labels("unknown_frame")._value.get()
    await client.send("no_such_frame", session, x=1)
    await client.settled()
    assert member.FRAMES_ODD.labels("unknown_frame")._value.get() == unknown + 1
    client.heard.clear()
    odd = [
        ("nonsense", "$"),
        ("[]", "$"),
        ("{}", "type"),
        ('{"type":"session_join"}', "sessionId"),
        ('{"type":"session_join","sessionId":"a","afterSeq":-1}', "afterSeq"),
        ('{"type":"session_send","sessionId":"a","message":""}', "message"),
        (msgspec.json.encode({"type": "session_send", "sessionId": "a", "message": "x" * 50_001}).decode(), "message"),
        ('{"type":"session_reset_agent","sessionId":"a","mode":"gently"}', "mode"),
        ('{"type":"session_send","sessionId":"a","message":"x","attachments":[{"name":1}]}', "attachments[0].name"),
        ("[" * 100_000, "$"),
    ]
    for number, (text, field) in enumerate(odd):
        await client.send_text(text)
        error = await client.next("session_error", number + 1)
        assert error["code"] == "BAD_REQUEST"
        assert error["message"].startswith(f"{field}: "), text[:80]
    await client.send_text('{"type":"session_send","sessionId":"' + session + '","message":"a\\u0000b\\ud800"}')
    assert (await client.event(2))["payload"] == {"message": "a\ufffdb\ufffd", "attachments": []}


@pytest.mark.promise("P10")
async def test_a_binary_frame_is_a_bad_one_and_a_ping_is_answered(scene: SessionScene, owner: Caller) -> None:
    client = await scene.client(owner).open()
    await client.send_bytes(b'{"type":"client_hello"}')
    assert (await client.next("session_error"))["code"] == "BAD_REQUEST"
    await client.ping(b"there?")


@pytest.mark.promise("P10")
async def test_the_twentieth_bad_frame_of_a_minute_closes_with_1008(scene: SessionScene, owner: Caller) -> None:
    client = await scene.client(owner).open()
    for _ in range(20):
        await client.send_text("nonsense")
    assert await client.closed() == 1008
    assert client.count("session_error") == 19


@pytest.mark.promise("P10")
async def test_a_frame_beyond_the_hard_limit_closes_with_1009(scene: SessionScene, owner: Caller) -> None:
    gateway = await scene.gateway(max_frame_bytes=65_536)
    session = await scene.session(owner)
    client = await scene.joined(owner, session, gateway)
    await client.send("session_send", session, message="x", more="x" * 70_000)
    error = await client.next("session_error")
    assert (error["sessionId"], error["code"]) == (session, "BAD_REQUEST")
    await client.send_text("x" * 300_000)
    assert await client.closed() == 1009
    assert await scene.event_count(session) == 1


@pytest.mark.promise("P10")
async def test_whatever_one_client_sends_another_is_served(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    other = await scene.joined(owner, session)
    chance = random.Random(11)
    kinds = ["session_join", "session_send", "session_cancel", "session_reset_agent", "session_leave", "client_hello"]
    values: list[Any] = [None, -1, 1e300, "x", session, [], {"a": {}}, True, "\ud800", "x" * 60_000]
    names = ["sessionId", "afterSeq", "message", "mode", "attachments", "idempotencyKey", "clientVersion"]
    for _ in range(6):
        client = await scene.client(owner).open()
        for _ in range(40):
            frame = {name: chance.choice(values) for name in chance.sample(names, 3)} | {"type": chance.choice(kinds)}
            text = bytearray(json.dumps(frame).encode())
            if chance.random() < 0.2:
                text[chance.randrange(len(text))] = chance.randrange(32, 127)
            if client.close_code is None:
                await client.send_text(text.decode())
        await client.drop()
        assert client.close_code in (None, 1000, 1006, 1008)
    seq = await scene.say(owner, session)
    await other.event(seq)
    assert other.seqs() == list(range(1, seq + 1))


async def test_a_socket_joins_so_many_sessions_and_no_more(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "SESSIONS_MAX", 2)
    sessions = [await scene.session(owner, scope="per-peer", peer=peer) for peer in "abc"]
    client = await scene.joined(owner, sessions[0])
    await client.join(sessions[1])
    await client.send("session_join", sessions[2])
    assert (await client.next("session_error"))["code"] == "BAD_REQUEST"
    await client.join(sessions[1])
    await client.send("session_leave", sessions[0])
    await client.join(sessions[2])


async def test_a_silent_client_is_closed_as_stale(scene: SessionScene, owner: Caller) -> None:
    gateway = await scene.gateway(gateway_agent_stale_ms=900)
    alive = await scene.client(owner, gateway).open()
    mute = scene.client(owner, gateway)
    mute.is_mute = True
    await mute.open()
    assert await mute.closed() == 4408
    await alive.settled()


async def test_cancel_and_reset_are_carried_out(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    client = await scene.client(owner, User_Agent="pages/1").open()
    await client.join(session)
    await client.send("session_send", session, message="one")
    await client.event(2)
    await client.send("session_cancel", session)
    error = await client.next("session_error")
    assert error["code"] == "TURN_CANCELLED"
    before = await scene.event_count(session)
    await client.send("session_reset_agent", session, mode="clear_history")
    told = await client.event(before + 1)
    assert told["payload"] == {"action": "session_reset", "mode": "clear_history"}
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    (entry,) = [entry for entry in entries if entry["action"] == "session.reset"]
    assert entry["actor"] == {"userId": owner.user_id, "apiKeyId": None}
    assert (entry["objectId"], entry["details"]) == (session, {"mode": "clear_history"})
    assert (entry["ip"], entry["userAgent"], bool(entry["requestId"])) == ("127.0.0.1", "pages/1", True)
