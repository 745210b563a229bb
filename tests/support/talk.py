"""One session, written to and read through the store, as the API would."""

import json
from typing import Any
from uuid import UUID

import msgspec

from vespid.bus.channels import TURN_QUEUE, session_item
from vespid.bus.ports import Mail
from vespid.domain.session_options import EngineChoice
from vespid.store import sessions
from vespid.store.pool import Database
from vespid.store.sessions import MessageSender, NewMessage, NewSession, Sent, SessionEventRow, SessionRow
from vespid_protocol.ids import OrgId, SessionId, new_id

REQUIREMENT = msgspec.Raw(b'{"kind":"agent.run","engine":"vespid.echo.v1"}')


class Talk:
    """`mail`: whom a message wakes; without it nobody is told."""

    def __init__(self, db: Database, sender: MessageSender, org: OrgId, mail: Mail | None = None) -> None:
        self.db = db
        self.sender = sender
        self.org = org
        self.mail = mail
        self.id = SessionId(new_id())

    async def create(self, **others: Any) -> SessionRow:
        fields = {
            "org": self.org,
            "id": self.id,
            "user_id": None,
            "session_key": f"agent:main:org:{self.org}:scope:main:{self.id}",
            "scope": "main",
            "requirement": REQUIREMENT,
            "engine": EngineChoice(id="vespid.echo.v1"),
            "turn_timeout_ms": 60_000,
        }
        async with self.db.tenant(self.org) as connection:
            row, _ = await sessions.create_session(connection, NewSession(**{**fields, **others}))
        self.id = SessionId(str(row.id))
        return row

    async def send(self, text: str = "hello", **others: Any) -> Sent:
        payload = msgspec.Raw(json.dumps({"message": text}).encode())
        sent = await self.sender.send(
            NewMessage(**{"org": self.org, "session": self.id, "user": None, "payload": payload, **others})
        )
        if self.mail is not None and sent.is_next:
            self.mail.wake(TURN_QUEUE, session_item(self.org, self.id))
        return sent

    async def rows(self) -> list[SessionEventRow]:
        async with self.db.tenant(self.org) as connection:
            return await sessions.list_events(connection, UUID(self.id), 0, 1000, max_bytes=1 << 30)

    async def events(self) -> list[tuple[int, str]]:
        return [(row.seq, row.event_type) for row in await self.rows()]

    async def kinds(self) -> list[str]:
        """What happened, `system` events by their action."""
        return [
            json.loads(row.payload or b"{}")["action"] if row.event_type == "system" else row.event_type
            for row in await self.rows()
        ]

    async def answers(self) -> dict[int, Any]:
        """By message: the payload of the event that answers it."""
        ends = [row for row in await self.rows() if row.event_type in ("agent_final", "error")]
        return {row.turn_seq or 0: json.loads(row.payload or b"{}") for row in ends}
