"""What hosts say in a turn beside its text, over a real gateway: memory that is taken or refused, events said twice,
and a session that a host has forgotten."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import Fleet, Gateway
from tests.support.organization import until
from tests.support.talk import Talk

from vespid.bus.memory_push import ROUTE, PushAsked
from vespid.store.sessions import MessageSender
from vespid_protocol.ids import ExecutorId, OrgId
from vespid_runtime.memory import content_sha256

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


@pytest_asyncio.fixture
async def host(fleet: Fleet, gateway: Gateway, org: OrgId) -> ScriptedExecutor:
    return await fleet.join(gateway, await fleet.ground.executor(org), **ECHO)


async def opened(host: ScriptedExecutor) -> Frame:
    """Answer `session_open`; the turn that follows."""
    frame = await host.next("session_open")
    await host.send({"type": "session_opened", "requestId": frame["requestId"], "sessionId": frame["sessionId"]})
    return await host.next("session_turn")


async def say(host: ScriptedExecutor, kind: str, turn: Frame, **what: Any) -> None:
    await host.send({"type": kind, "requestId": turn["requestId"], "sessionId": turn["sessionId"], **what})


async def final(host: ScriptedExecutor, turn: Frame, *memory: Frame) -> None:
    await say(host, "turn_final", turn, content="hi", **({"payload": {"memory": memory}} if memory else {}))
    await host.next("execute_ack")


async def call(host: ScriptedExecutor, turn: Frame, number: int) -> None:
    event = {"seq": number, "ts": 0, "kind": "tool_call", "level": "info", "payload": {"number": number}}
    await say(host, "turn_event", turn, event=event)


def told(path: str, content: str | None) -> Frame:
    return {"path": path, "sha256": "told falsely", "content": content}


async def kept(fleet: Fleet, talk: Talk) -> dict[str, tuple[str, str]]:
    rows = await fleet.ground.sql.fetch(
        "select path, sha256, content from memory_docs where organization_id = $1 and content is not null",
        UUID(talk.org),
    )
    return {row["path"]: (row["sha256"], row["content"]) for row in rows}


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_answer_stands_without_memory_that_cannot_be_kept_and_that_is_said(
    fleet: Fleet, host: ScriptedExecutor, talk: Talk
) -> None:
    await talk.send()
    await final(host, await opened(host), told("memory/a.md", "x"), told("memory/A.md", "y"), told("MEMORY.md", "z"))
    assert (await talk.answers())[2]["message"] == "hi"
    assert await talk.kinds() == ["session_created", "user_message", "memory_refused", "agent_final"]
    assert await kept(fleet, talk) == {}


async def test_memory_is_admitted_document_by_document_under_the_hash_of_what_it_holds(
    fleet: Fleet, host: ScriptedExecutor, talk: Talk
) -> None:
    await talk.send()
    await final(
        host,
        await opened(host),
        told("../../etc/passwd", "x"),
        told("memory/big.md", "x" * 300_000),
        told("memory/mended.md", "a\x00b"),
        told("MEMORY.md", "first"),
        told("MEMORY.md", "second"),
    )
    texts = {"memory/mended.md": "a\ufffdb", "MEMORY.md": "second"}
    assert await kept(fleet, talk) == {path: (content_sha256(text), text) for path, text in texts.items()}
    assert "memory_refused" not in await talk.kinds()


@pytest.mark.promise("P5")
async def test_host_of_one_organization_is_not_asked_for_another(
    fleet: Fleet, gateway: Gateway, host: ScriptedExecutor, talk: Talk
) -> None:
    await talk.send()
    await final(host, await opened(host))
    (executor,) = await fleet.ground.sql.fetch("select id from executors where organization_id = $1", UUID(talk.org))
    stranger = await fleet.ground.organization()
    asked = PushAsked(stranger, talk.id, "key", ExecutorId(str(executor["id"])), ())
    answer = await gateway.call("POST", ROUTE, msgspec.json.encode(asked))
    await host.settled()
    assert (answer.status, host.unread("memory_sync")) == (404, [])


# --- events ----------------------------------------------------------------------------------------------------------


async def test_event_that_is_said_twice_on_one_socket_is_taken_once(host: ScriptedExecutor, talk: Talk) -> None:
    def repeated() -> float:
        return REGISTRY.get_sample_value("vespid_turn_frames_total", {"outcome": "repeated"}) or 0.0

    before = repeated()
    await talk.send()
    turn = await opened(host)
    for number in (1, 2, 2, 1):
        await call(host, turn, number)
    await final(host, turn)
    assert (await talk.kinds()).count("tool_call") == 2
    assert repeated() - before == 2


@pytest.mark.promise("P8")
async def test_event_that_is_said_again_on_the_next_socket_is_taken_once(host: ScriptedExecutor, talk: Talk) -> None:
    async def has(kind: str) -> bool:
        return kind in await talk.kinds()

    await talk.send()
    turn = await opened(host)
    await call(host, turn, 1)
    await until(lambda: has("tool_call"), "the first event is there", 10.0)
    await host.drop()
    await until(lambda: has("waiting"), "the turn waits for its host", 10.0)
    await host.connect(in_flight=[{"requestId": turn["requestId"]}])
    await until(lambda: has("turn_restarted"), "its text begins anew", 10.0)
    for number in (1, 2):
        await call(host, turn, number)
    await final(host, turn)
    assert (await talk.kinds()).count("tool_call") == 2


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P8")
async def test_host_that_forgot_the_session_is_told_all_of_it_under_a_new_generation(
    fleet: Fleet, host: ScriptedExecutor, talk: Talk
) -> None:
    await talk.send("one")
    first = await host.next("session_open")
    await say(host, "session_opened", first)
    await final(host, await host.next("session_turn"), told("MEMORY.md", "likes tea"))
    await talk.send("two")
    turn = await host.next("session_turn")
    await say(host, "turn_error", turn, code="EXECUTOR_OVER_CAPACITY", message="it is not open here")
    await host.next("execute_ack")
    again = await host.next("session_open")
    # Not as one that had no room: that it was asked in vain is its own doing, and counts.
    lost = await fleet.ground.sql.fetchrow(
        "select lost_reason, tries from session_turns where session_id = $1 and user_seq = 4", UUID(talk.id)
    )
    assert tuple(lost) == ("omitted", 2)
    assert again["generation"] == first["generation"] + 1
    assert [entry["content"] for entry in again["history"]] == ["one", "hi"]
    assert [document["content"] for document in again["memory"]] == ["likes tea"]
    await say(host, "session_opened", again)
    await final(host, await host.next("session_turn"))
    assert len(await talk.answers()) == 2
