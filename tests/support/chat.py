"""One session of a running installation, as people have it: over HTTP, and on the client socket."""

import json
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from tests.support.organization import Answer, Organization, until
from tests.support.session_client import SessionClient

ECHO = "vespid.echo.v1"
SCRIPTED = "vespid.scripted.v1"

_SCRIPTED = """
    update sessions set engine_id = $2, engine = jsonb_set(engine, '{id}', to_jsonb($2::text)),
           requirement = jsonb_set(requirement, '{engine}', to_jsonb($2::text))
    where id = $1
"""

Event = dict[str, Any]


def script(*steps: dict[str, object]) -> str:
    """The message that has the scripted engine do these steps."""
    return json.dumps(steps)


class Chat:
    """See the module; `organization` says who talks."""

    def __init__(self, organization: Organization, session: dict[str, Any]) -> None:
        self.organization = organization
        self.id = str(session["id"])
        self.key = str(session["sessionKey"])
        self.path = f"/v1/orgs/{{org}}/sessions/{self.id}"

    @classmethod
    async def begin(cls, organization: Organization, peer: str = "ann", **body: object) -> "Chat":
        """A new session with that peer; of the scripted engine, unless another is named."""
        given = {"scope": "per-peer", "peer": peer, "engineId": ECHO, **body}
        answer = await organization.call("POST", "/v1/orgs/{org}/sessions", given, status=201)
        chat = cls(organization, answer.body["session"])
        if "engineId" not in body:
            await chat._have_scripted()
        return chat

    async def _have_scripted(self) -> None:
        """People cannot ask for an engine that only tests have."""
        connection = await asyncpg.connect(self.organization.processes.env["DATABASE_URL"])
        try:
            await connection.execute(_SCRIPTED, UUID(self.id), SCRIPTED)
        finally:
            await connection.close()

    async def session(self) -> dict[str, Any]:
        return dict((await self.organization.call("GET", self.path, status=200)).body["session"])

    async def post(self, message: str, **body: object) -> Answer:
        """A message over HTTP, whatever is answered."""
        return await self.organization.call("POST", f"{self.path}/messages", {"message": message, **body})

    async def say(self, message: str, **body: object) -> int:
        """A message over HTTP that is accepted; answers its seq."""
        answer = await self.post(message, **body)
        assert answer.status == 202, answer.body
        return int(answer.body["event"]["seq"])

    async def do(self, *steps: dict[str, object], **body: object) -> int:
        """A message that has the scripted engine do these steps."""
        return await self.say(script(*steps), **body)

    async def cancel(self) -> None:
        await self.organization.call("POST", f"{self.path}/cancel", status=200)

    async def reset(self, mode: str) -> None:
        await self.organization.call("POST", f"{self.path}/reset", {"mode": mode}, status=200)

    async def events(self, after: int = 0) -> list[Event]:
        """Those behind `after`, in order."""
        found: list[Event] = []
        while True:
            path = f"{self.path}/events?limit=100&afterSeq={found[-1]['seq'] if found else after}"
            page = (await self.organization.call("GET", path, status=200)).body["events"]
            found += page
            if len(page) < 100:
                return found

    async def kinds(self, after: int = 0) -> list[str]:
        """What happened, `system` events by their action."""
        return [
            event["payload"]["action"] if event["eventType"] == "system" else event["eventType"]
            for event in await self.events(after)
        ]

    async def answer(self, seq: int, within_s: float = 60.0) -> Event:
        """The event that answers the message `seq`, once it is there."""

        async def answered() -> Event | None:
            return answers(await self.events()).get(seq)

        return dict(await until(answered, f"message {seq} of session {self.id} is answered", within_s))

    async def told(self, seq: int, within_s: float = 60.0) -> str:
        """The text of the answer to the message `seq`; fails where that is an error."""
        event = await self.answer(seq, within_s)
        assert event["eventType"] == "agent_final", event
        return str(event["payload"]["message"])

    async def ask(self, *steps: dict[str, object]) -> str:
        """Have the scripted engine do these steps, and answer what it said."""
        return await self.told(await self.do(*steps))

    async def ask_json(self, step: str) -> Any:
        """What the scripted engine says of `history`, `prior` or `config`."""
        return json.loads(await self.ask({step: True}))

    async def error(self, seq: int, within_s: float = 60.0) -> str:
        """The code of the error that answers the message `seq`."""
        event = await self.answer(seq, within_s)
        assert event["eventType"] == "error", event
        return str(event["payload"]["code"])

    async def has(self, kind: str, after: int = 0) -> Event:
        """The first event of that type, or with that action, once it is there."""

        async def there() -> Event | None:
            for event in await self.events(after):
                if kind in (event["eventType"], (event["payload"] or {}).get("action")):
                    return event
            return None

        return dict(await until(there, f"session {self.id} has {kind}"))

    async def joined(self, after_seq: int | None = None, *, url: str | None = None) -> SessionClient:
        """A client socket that has joined."""
        client = self.client(url)
        await client.open()
        await client.join(self.id, after_seq)
        return client

    def client(self, url: str | None = None) -> SessionClient:
        organization = self.organization
        return SessionClient(organization.http, url or organization.processes.gateway_url, **organization.headers)


def answers(events: list[Event]) -> dict[int, Event]:
    """By message: the event that answers it. Errors name their message; answers come in the order of the others."""
    failed = {e["payload"]["userEventSeq"]: e for e in events if e["eventType"] == "error"}
    others = [e["seq"] for e in events if e["eventType"] == "user_message" and e["seq"] not in failed]
    finals = [e for e in events if e["eventType"] == "agent_final"]
    return failed | dict(zip(others, finals, strict=False))


async def new_member(owner: Organization, http: aiohttp.ClientSession) -> tuple[Organization, str]:
    """Another person, a member of the same organization; and their user id."""
    member = await Organization.sign_up(owner.processes, http)
    email = (await member.call("GET", "/v1/me", status=200)).body["user"]
    invited = await owner.call(
        "POST", "/v1/orgs/{org}/invitations", {"email": email["email"], "roleKey": "member"}, status=201
    )
    await member.call("POST", f"/v1/invitations/{invited.body['invitation']['token']}/accept", status=200)
    member.id = owner.id
    member.headers["X-Org-Id"] = owner.id
    return member, str(email["id"])
