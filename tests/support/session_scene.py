"""Sessions over real gateways: people who come in by the control plane, and a host whose turns a test plays."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest_asyncio
from tests.support.control import ORIGIN, Caller, Control
from tests.support.gateways import Fleet, Gateway
from tests.support.ground import Lease
from tests.support.session_client import SessionClient

from vespid.bus import session_news
from vespid.bus.channels import session_channel
from vespid.bus.session_news import Delta, Moved, SessionNews
from vespid.store.pool import Database
from vespid.store.turns import (
    AppendTurnEvents,
    FinishTurn,
    LeasedTurn,
    LeaseTurn,
    LoseTurn,
    SessionEventItem,
    TurnStore,
)
from vespid_protocol.ids import OrgId, ProcessId, SessionId, turn_request_id


class SessionScene:
    """See the module. What a host says is published by the gateway `edge`.

    The gateways are edges alone: whom a turn goes to is the test's to say.
    """

    def __init__(self, control: Control, fleet: Fleet, turns: TurnStore, edge: Gateway) -> None:
        self.control = control
        self.fleet = fleet
        self.turns = turns
        self.edge = edge
        self._clients: list[SessionClient] = []
        self._hosts: dict[str, Lease] = {}

    async def gateway(self, **settings: Any) -> Gateway:
        secret = self.control.plane.deps.settings.auth_token_secret
        return await self.fleet.gateway(auth_token_secret=secret, web_base_url=(ORIGIN,), role="edge", **settings)

    def client(self, caller: Caller, gateway: Gateway | None = None, http: Any = None, **headers: str) -> SessionClient:
        sent = {"Authorization": f"Bearer {caller.token}", "X-Org-Id": str(caller.org_id)}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value}
        client = SessionClient(http or self.control.http, (gateway or self.edge).url, **sent)
        self._clients.append(client)
        return client

    async def joined(
        self, caller: Caller, session_id: str, gateway: Gateway | None = None, after_seq: int | None = None
    ) -> SessionClient:
        client = await self.client(caller, gateway).open()
        await client.join(session_id, after_seq)
        return client

    async def session(self, caller: Caller, **body: Any) -> str:
        answer = await caller.post("/v1/orgs/{org}/sessions", body)
        assert answer.status in (200, 201), answer.body
        return str(answer.body["session"]["id"])

    async def say(self, caller: Caller, session_id: str, text: str = "hello", **body: Any) -> int:
        """A message over HTTP; answers its seq."""
        path = f"/v1/orgs/{{org}}/sessions/{session_id}/messages"
        answer = await caller.post(path, {"message": text, **body})
        assert answer.status == 202, answer.body
        return int(answer.body["event"]["seq"])

    async def host(self, caller: Caller, name: str = "one") -> Lease:
        """A connected host, by that name."""
        if name not in self._hosts:
            executor = await self.fleet.ground.executor(OrgId(str(caller.org_id)), name=name)
            self._hosts[name] = await self.fleet.ground.connected(executor, self.edge_id)
        return self._hosts[name]

    @property
    def edge_id(self) -> ProcessId:
        return self.edge.service.house.process_id

    async def lease(self, caller: Caller, session_id: str, seq: int, epoch: int = 1, host: str = "one") -> None:
        """The turn of message `seq` is that host's."""
        to = await self.host(caller, host)
        leased = await self.turns.lease(
            LeaseTurn(
                org=OrgId(str(caller.org_id)),
                session=SessionId(session_id),
                seq=seq,
                epoch=epoch,
                executor=to.executor,
                connection_epoch=to.epoch,
                edge=to.edge,
            )
        )
        assert isinstance(leased, LeasedTurn), leased
        self.moved(session_id)

    async def tool(
        self, caller: Caller, session_id: str, seq: int, *kinds: str, epoch: int = 1, tell: bool = True
    ) -> None:
        host = await self.host(caller)
        events = tuple(SessionEventItem(t=kind, p={"tool": "x"}) for kind in kinds)
        appended = await self.turns.append_events(
            AppendTurnEvents(
                org=OrgId(str(caller.org_id)),
                session=SessionId(session_id),
                seq=seq,
                epoch=epoch,
                executor=host.executor,
                events=events,
            )
        )
        assert appended.outcome == "appended"
        if tell:
            self.moved(session_id)

    async def restarted(self, caller: Caller, session_id: str, seq: int) -> None:
        """The turn's host has come back, and tells the text anew."""
        event = msgspec.json.encode([{"t": "system", "p": {"action": "turn_restarted"}}]).decode()
        await self.fleet.ground.sql.execute(
            "select vespid_i_tell_session($1, $2, $3, $4)", UUID(str(caller.org_id)), UUID(session_id), seq, event
        )
        self.moved(session_id)

    async def finish(
        self,
        caller: Caller,
        session_id: str,
        seq: int,
        text: str = "done",
        *,
        epoch: int = 1,
        host: str = "one",
        tell: bool = True,
        **how: Any,
    ) -> None:
        by = await self.host(caller, host)
        fields = {
            "org": OrgId(str(caller.org_id)),
            "session": SessionId(session_id),
            "seq": seq,
            "epoch": epoch,
            "executor": by.executor,
            "connection_epoch": by.epoch,
            "status": "answered",
            "answer": msgspec.Raw(msgspec.json.encode({"message": text, "output": {"n": seq}})),
        }
        finished = await self.turns.finish(FinishTurn(**(fields | how)))
        assert finished.outcome == "applied", finished
        if tell:
            self.moved(session_id)

    async def lose(self, caller: Caller, session_id: str, seq: int, epoch: int = 1, host: str = "one") -> None:
        lost = await self.turns.lose(
            LoseTurn(
                org=OrgId(str(caller.org_id)),
                session=SessionId(session_id),
                seq=seq,
                epoch=epoch,
                executor=(await self.host(caller, host)).executor,
                reason="closed",
            )
        )
        assert lost.outcome != "fenced", lost
        self.moved(session_id)

    def moved(self, session_id: str) -> None:
        self.publish(session_id, Moved(0))

    def delta(self, session_id: str, seq: int, offset: int, content: str, epoch: int = 1) -> None:
        self.publish(session_id, Delta(turn_request_id(session_id, seq, epoch), seq, epoch, offset, content))

    def publish(self, session_id: str, news: SessionNews) -> None:
        self.edge.service.house.fanout.publish(session_channel(session_id), session_news.encode(news))

    async def event_count(self, session_id: str) -> int:
        return int(
            await self.fleet.ground.sql.fetchval("select event_seq from sessions where id = $1", UUID(session_id))
        )

    async def close(self) -> None:
        for client in self._clients:
            await client.drop()


@pytest_asyncio.fixture
async def scene(control: Control, fleet: Fleet, database: Database) -> AsyncIterator[SessionScene]:
    turns = TurnStore(database)
    await turns.start()
    secret = control.plane.deps.settings.auth_token_secret
    edge = await fleet.gateway(auth_token_secret=secret, web_base_url=(ORIGIN,), role="edge")
    scene = SessionScene(control, fleet, turns, edge)
    try:
        yield scene
    finally:
        await scene.close()
        await turns.stop()
