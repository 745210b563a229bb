"""Sessions through the client: written to over HTTP, talked in over the client socket, over lines that are cut."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from tests.support.client_stack import Installed, talk_over_a_line

from vespid_client import (
    AsyncClient,
    Chat,
    ChatItem,
    Delta,
    Final,
    Forbidden,
    Happened,
    NotFound,
    Restarted,
    SessionError,
)
from vespid_client.models import Session

ECHO = {"id": "vespid.echo.v1"}
SCRIPTED = "vespid.scripted.v1"
_SCRIPTED = """
    update sessions set engine_id = $2, engine = jsonb_set(engine, '{id}', to_jsonb($2::text)),
           requirement = jsonb_set(requirement, '{engine}', to_jsonb($2::text))
    where id = $1
"""


@pytest_asyncio.fixture
async def scripted(client: AsyncClient, installed: Installed, tmp_path: Path) -> AsyncIterator[Session]:
    """A session whose messages are scripts of what its engine does."""
    session = await client.sessions.create(scope="per-peer", peer=tmp_path.name, engine=ECHO)
    connection = await asyncpg.connect(installed.processes.env["DATABASE_URL"])
    await connection.execute(_SCRIPTED, UUID(session.id), SCRIPTED)
    await connection.close()
    yield session


def script(*steps: dict[str, object]) -> str:
    return json.dumps(steps)


async def test_a_session_is_made_found_and_named(client: AsyncClient) -> None:
    made = await client.sessions.create(scope="per-peer", peer="named", engine=ECHO, on_message_while_busy="reject")
    assert made.on_message_while_busy == "reject"
    assert (await client.sessions.create(scope="per-peer", peer="named", engine=ECHO)).id == made.id
    renamed = await client.sessions.rename(made.id, "Ann")
    assert (renamed.title, (await client.sessions.get(made.id)).title) == ("Ann", "Ann")
    assert made.id in [session.id async for session in client.sessions.list()]


async def test_a_message_is_answered_as_an_event(client: AsyncClient) -> None:
    session = await client.sessions.create(scope="per-peer", peer="posted", engine=ECHO)
    sent = await client.sessions.send(session.id, "hello", idempotency_key="k")
    assert (await client.sessions.send(session.id, "hello", idempotency_key="k")).seq == sent.seq
    async with client.sessions.chat(session.id, after_seq=sent.seq) as chat:
        async for item in chat.events():
            if isinstance(item, Happened) and item.event_type == "agent_final":
                break
    kinds = [event.event_type async for event in client.sessions.events(session.id, after_seq=sent.seq)]
    assert "agent_final" in kinds
    await client.sessions.cancel(session.id)
    assert (await client.sessions.reset(session.id, "clear_history")).id == session.id


async def test_an_answer_is_heard_as_it_is_made(client: AsyncClient, scripted: Session) -> None:
    steps = ({"say": "one "}, {"tool": "t", "input": {}, "output": 1}, {"say": "two"})
    async with client.sessions.chat(scripted.id) as chat:
        items = [item async for item in chat.ask(script(*steps))]
        final = items[-1]
        assert isinstance(final, Final)
        assert "".join(item.text for item in items if isinstance(item, Delta)) in ("one two", final.text)
        assert chat.standing is not None
        assert chat.standing.pinned_executor_pool == "byon"
        again = await chat.say(script({"say": "three"}))
    assert (again.text, again.seq > final.seq) == ("three", True)


async def test_a_chat_over_a_cut_line_misses_nothing_and_repeats_nothing(
    client: AsyncClient, installed: Installed, scripted: Session, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with talk_over_a_line(installed, scripted.id) as (chat, line):
        text, restarts, finals, events = "", 0, [], []
        async for item in chat.ask(script({"say": "before "}, {"until": str(go)}, {"say": "after"})):
            if isinstance(item, Delta):
                text += item.text
                if text == "before ":
                    line.watch = lambda data: go.touch() if b"session_state" in data else None
                    line.cut()
            elif isinstance(item, Restarted):
                restarts += 1
            elif isinstance(item, Final):
                finals.append(item.text)
            else:
                events.append(item.seq)
        assert line.opened == 2
        assert (await chat.say(script({"say": "more"}))).text == "more"
    assert text == finals[0] == "before after"
    assert (len(finals), restarts) == (1, 0)
    assert events == sorted(set(events))


async def test_who_looks_on_is_told_each_event_once_over_a_cut_line(
    client: AsyncClient, installed: Installed, scripted: Session
) -> None:
    async with talk_over_a_line(installed, scripted.id, after_seq=0) as (chat, line):
        await client.sessions.send(scripted.id, script({"say": "one"}))
        seqs: list[int] = []
        async with asyncio.timeout(30):
            async for item in chat.events():
                if not isinstance(item, Happened):
                    continue
                seqs.append(item.seq)
                if item.event_type == "agent_final" and line.opened == 1:
                    line.cut()
                    await client.sessions.send(scripted.id, script({"say": "two"}))
                elif item.event_type == "agent_final":
                    break
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_turn_that_fails_raises_its_code(client: AsyncClient, scripted: Session) -> None:
    async with client.sessions.chat(scripted.id) as chat:
        with pytest.raises(SessionError) as failed:
            await chat.say(script({"fail": "LLM_TIMEOUT"}))
        assert failed.value.code == "LLM_TIMEOUT"
        assert (await chat.say(script({"say": "well"}))).text == "well"


async def test_an_answer_to_an_earlier_message_is_not_taken_for_ours(
    client: AsyncClient, scripted: Session, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await client.sessions.send(scripted.id, script({"until": str(go)}, {"say": "theirs"}))
    async with client.sessions.chat(scripted.id) as chat, asyncio.TaskGroup() as both:
        asked = both.create_task(chat.say(script({"say": "ours"})))
        go.touch()
        assert (await asked).text == "ours"


async def test_a_session_of_nobody_is_refused_at_the_join(client: AsyncClient) -> None:
    with pytest.raises(SessionError) as refused:
        async with client.sessions.chat("00000000-0000-4000-8000-000000000000"):
            pass
    assert refused.value.code == "SESSION_NOT_FOUND"
    with pytest.raises(NotFound):
        await client.sessions.get("00000000-0000-4000-8000-000000000000")


async def test_who_is_no_member_is_not_let_in(newcomer: AsyncClient, installed: Installed, scripted: Session) -> None:
    async with AsyncClient(
        installed.url, access_token=await newcomer.auth.access_token(), org=scripted.organization_id
    ) as stranger:
        with pytest.raises(Forbidden):
            async with stranger.sessions.chat(scripted.id):
                pass


async def test_a_chat_ends_when_its_login_does(installed: Installed, client: AsyncClient, scripted: Session) -> None:
    key = await client.api_keys.create("short", "member")
    async with AsyncClient(installed.url, api_key=key.value) as program, program.sessions.chat(scripted.id) as chat:
        await client.api_keys.revoke(key.api_key.id)
        async with asyncio.timeout(30):
            with pytest.raises(Forbidden):
                await all_of(chat)


async def all_of(chat: Chat) -> list[ChatItem]:
    return [item async for item in chat.events()]
