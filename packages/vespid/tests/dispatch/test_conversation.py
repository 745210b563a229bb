"""What people do to sessions, where the database or the feed come in between."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from vespid.bus.channels import TURN_QUEUE, session_channel, session_item
from vespid.bus.session_news import Moved, decode
from vespid.dispatch import bindings as bindings_module
from vespid.dispatch.audit import Doer, Origin
from vespid.dispatch.bindings import Bindings
from vespid.dispatch.callers import Principal
from vespid.dispatch.conversation import Conversation
from vespid.domain.binding import MAIN, Facts
from vespid.domain.session_message import SessionMessage
from vespid.domain.session_options import EngineChoice
from vespid.errors import ApiError
from vespid.store import bindings as binding_rows
from vespid.store.group import OutcomeUnknown
from vespid.store.pool import Database
from vespid.store.sessions import MessageSender, NewMessage, NewSession, Sent, create_session
from vespid_protocol.ids import OrgId, SessionId, UserId, new_id

USER = UserId(new_id())
SOMEBODY = Doer(Principal(USER, "ann@people.test", "access_token"), Origin.of("r", None, None))


class Lossy(MessageSender):
    """Commits, and loses as many answers as it is told to."""

    losses = 0

    async def send(self, message: NewMessage) -> Sent:
        sent = await super().send(message)
        if self.losses > 0:
            self.losses -= 1
            raise OutcomeUnknown("the connection is gone")
        return sent


class Heard:
    """Mail and fanout that only listen."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, str]] = []
        self.published: list[tuple[str, bytes]] = []

    def wake(self, queue: str, item: str) -> None:
        self.woken.append((queue, item))

    def publish(self, channel: str, data: bytes) -> None:
        self.published.append((channel, data))


@pytest_asyncio.fixture
async def sender(database: Database) -> AsyncIterator[Lossy]:
    sender = Lossy(database)
    await sender.start()
    yield sender
    await sender.stop()


@pytest_asyncio.fixture
async def session_id(database: Database, org: OrgId) -> SessionId:
    new = NewSession(
        org=org,
        id=SessionId(new_id()),
        user_id=None,
        session_key="k",
        scope="main",
        routing=msgspec.Raw(msgspec.json.encode(Facts(channel="slack", context={"big": "x"}))),
        requirement=msgspec.Raw(b'{"kind":"agent.run"}'),
        engine=EngineChoice(id="vespid.echo.v1"),
        turn_timeout_ms=60_000,
    )
    async with database.tenant(org) as connection:
        await create_session(connection, new)
    return new.id


def conversation(database: Database, sender: MessageSender, heard: Any = None) -> Conversation:
    return Conversation(database, sender, heard, heard)


async def bind(database: Database, org: OrgId, agent_id: str) -> None:
    async with database.tenant(org) as connection:
        await binding_rows.create_binding(
            connection,
            binding_rows.NewBinding(
                UUID(new_id()), UUID(org), agent_id, 0, "channel", b'{"channel":"slack"}', b"{}", UUID(USER)
            ),
        )


@pytest.mark.promise("P8")
async def test_a_commit_of_unknown_outcome_is_settled_by_its_key(
    database: Database, sender: Lossy, org: OrgId, session_id: SessionId, superuser: "asyncpg.Connection"
) -> None:
    heard = Heard()
    sender.losses = 2
    event = await conversation(database, sender, heard).send(org, session_id, USER, SessionMessage("hi", None, "k"))
    assert event.seq == 2
    assert await superuser.fetchval("select count(*) from session_turns") == 1
    # Nobody was told when it was committed, so it is told now.
    assert [(channel, decode(data)) for channel, data in heard.published] == [(session_channel(session_id), Moved(2))]
    assert heard.woken == [(TURN_QUEUE, session_item(org, session_id))]


async def test_without_a_key_an_unknown_outcome_is_told_as_such(
    database: Database, sender: Lossy, org: OrgId, session_id: SessionId
) -> None:
    sender.losses = 1
    with pytest.raises(ApiError) as refused:
        await conversation(database, sender).send(org, session_id, USER, SessionMessage("hi"))
    assert (refused.value.status, refused.value.details) == (503, {"unknown": True})


async def test_only_the_first_message_of_a_session_reads_more_than_it_writes(
    database: Database, sender: Lossy, org: OrgId, session_id: SessionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = conversation(database, sender)
    await talk.send(org, session_id, USER, SessionMessage("one"))

    def no_more_reads(_org: OrgId) -> Any:
        raise AssertionError("a second message reads what is known")

    monkeypatch.setattr(database, "tenant", no_more_reads)
    assert (await talk.send(org, session_id, USER, SessionMessage("two"))).seq == 3


async def test_bindings_read_while_they_change_are_not_kept(
    database: Database, org: OrgId, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Bindings(database)
    read = binding_rows.all_bindings

    async def slow_read(connection: Any, org_id: UUID) -> Any:
        found = await read(connection, org_id)
        await bind(database, org, "support")
        kept.forget(org)
        return found

    monkeypatch.setattr(bindings_module, "all_bindings", slow_read)
    assert await kept.route(org, Facts(channel="slack")) == MAIN
    monkeypatch.setattr(bindings_module, "all_bindings", read)
    assert (await kept.route(org, Facts(channel="Slack"))).agent_id == "support"


@pytest.mark.promise("P5")
async def test_another_organizations_session_takes_no_message_cancel_or_reset(
    database: Database, sender: Lossy, org: OrgId, session_id: SessionId, ground: Any
) -> None:
    talk, stranger = conversation(database, sender), await ground.organization()
    await talk.send(org, session_id, USER, SessionMessage("mine"))
    for attempt in (
        talk.send(stranger, session_id, USER, SessionMessage("hi")),
        talk.cancel(stranger, session_id),
        talk.reset(stranger, session_id, "clear_history", SOMEBODY),
    ):
        with pytest.raises(ApiError) as refused:
            await attempt
        assert (refused.value.status, refused.value.code) == (404, "SESSION_NOT_FOUND")
