"""POST /internal/v1/sessions/send: have a session's next message placed now."""

import msgspec
import pytest
import pytest_asyncio
from tests.support.gateways import Fleet, Gateway

from vespid.bus.channels import TURN_QUEUE, session_item
from vespid.domain.session_options import EngineChoice
from vespid.store.pool import Database
from vespid.store.sessions import MessageSender, NewMessage, NewSession, create_session
from vespid_protocol.ids import OrgId, SessionId, new_id

SEND = "/internal/v1/sessions/send"


@pytest_asyncio.fixture
async def session_id(database: Database, org: OrgId) -> SessionId:
    """A session with a message in it (seq 2)."""
    new = NewSession(
        org=org,
        id=SessionId(new_id()),
        user_id=None,
        session_key="k",
        scope="main",
        requirement=msgspec.Raw(b'{"kind":"agent.run"}'),
        engine=EngineChoice(id="vespid.echo.v1"),
        turn_timeout_ms=60_000,
    )
    async with database.tenant(org) as connection:
        await create_session(connection, new)
    sender = MessageSender(database)
    await sender.start()
    await sender.send(NewMessage(org=org, session=new.id, user=None, payload=msgspec.Raw(b'{"message":"hi"}')))
    await sender.stop()
    return new.id


def said(org: str, session: str, **change: object) -> dict[str, object]:
    return {"organizationId": org, "userId": new_id(), "sessionId": session, "userEventSeq": 2} | change


async def test_a_session_with_a_message_is_looked_at(
    gateway: Gateway, org: OrgId, session_id: SessionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[tuple[str, str]] = []
    # Heard where it is said: this gateway may be the one that takes it from the queue.
    monkeypatch.setattr(gateway.service.house.mail, "wake", lambda queue, item: woken.append((queue, item)))
    answer = await gateway.call("POST", SEND, said(org.upper(), session_id))
    assert (answer.status, answer.body) == (202, {"accepted": True})
    assert (TURN_QUEUE, session_item(org, session_id)) in woken


@pytest.mark.promise("P5")
async def test_what_is_not_there_is_404(fleet: Fleet, gateway: Gateway, org: OrgId, session_id: SessionId) -> None:
    stranger = await fleet.ground.organization()
    for body in (said(stranger, session_id), said(org, new_id()), said(org, session_id, userEventSeq=3)):
        answer = await gateway.call("POST", SEND, body)
        assert (answer.status, answer.code) == (404, "SESSION_NOT_FOUND")


async def test_it_takes_the_service_token_and_a_whole_body(gateway: Gateway, org: OrgId, session_id: SessionId) -> None:
    assert (await gateway.call("POST", SEND, said(org, session_id), token=None)).code == "UNAUTHORIZED"
    for field, value in (("organizationId", "x"), ("sessionId", 3), ("userEventSeq", 0), ("userId", "me")):
        answer = await gateway.call("POST", SEND, said(org, session_id, **{field: value}))
        assert (answer.status, set(answer.body["details"]["fieldErrors"])) == (400, {field})
