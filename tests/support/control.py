"""The control plane over real HTTP, on a real Postgres and a real Redis, and callers of it."""

import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest_asyncio

from vespid.control.app import ControlPlane
from vespid.settings import ApiSettings

ORIGIN = "http://pages.test"
PASSWORD = "correct horse battery"


class Answer(msgspec.Struct):
    """What came back."""

    status: int
    body: Any
    headers: Any
    cookies: dict[str, str]

    @property
    def code(self) -> str:
        """The error's code."""
        return str(self.body["code"])


class Caller:
    """Somebody with a credential, in an organization or in none."""

    def __init__(self, http: aiohttp.ClientSession, token: str | None = None, org_id: str | None = None) -> None:
        self._http = http
        self.token = token
        self.org_id = org_id
        self.user_id = ""
        self.email = ""
        self.cookie: str | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        cookie: str | None = None,
    ) -> Answer:
        """One request; `{org}` in the path is the caller's organization."""
        sent: dict[str, str] = {}
        if self.token is not None and cookie is None:
            sent["Authorization"] = f"Bearer {self.token}"
        if self.org_id is not None:
            sent["X-Org-Id"] = self.org_id
        if cookie is not None:
            sent["Cookie"] = f"vespid_session={cookie}"
        if body is not None:
            data = msgspec.json.encode(body)
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        sent = {name: value for name, value in sent.items() if value != ""}
        async with self._http.request(method, path.replace("{org}", self.org_id or ""), data=data, headers=sent) as got:
            raw = await got.read()
            decoded = msgspec.json.decode(raw) if got.content_type == "application/json" and raw else raw
            return Answer(got.status, decoded, got.headers, {k: v.value for k, v in got.cookies.items()})

    async def get(self, path: str, **how: Any) -> Answer:
        return await self.call("GET", path, **how)

    async def post(self, path: str, body: object = None, **how: Any) -> Answer:
        return await self.call("POST", path, body, **how)

    async def put(self, path: str, body: object = None, **how: Any) -> Answer:
        return await self.call("PUT", path, body, **how)

    async def delete(self, path: str, **how: Any) -> Answer:
        return await self.call("DELETE", path, **how)


class Control:
    """A running control plane, and how people come to it."""

    def __init__(self, plane: ControlPlane, http: aiohttp.ClientSession) -> None:
        self.plane = plane
        self.http = http

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.plane.port}"

    def anonymous(self) -> Caller:
        """Nobody in particular."""
        return Caller(self.http)

    def with_token(self, token: str, org_id: str | None = None) -> Caller:
        """Whoever holds this credential."""
        return Caller(self.http, token, org_id)

    async def sign_up(self, email: str | None = None) -> Caller:
        """A new person, in the personal workspace that comes with the account."""
        email = email or f"{secrets.token_hex(6)}@people.test"
        answer = await self.anonymous().post("/v1/auth/signup", {"email": email, "password": PASSWORD})
        assert answer.status == 201, answer.body
        caller = Caller(self.http, answer.body["session"]["token"])
        caller.user_id, caller.email = answer.body["user"]["id"], email
        caller.cookie = answer.cookies["vespid_session"]
        caller.org_id = (await caller.get("/v1/me")).body["defaultOrgId"]
        return caller

    async def join(self, owner: Caller, role: str = "member") -> Caller:
        """A new person who is a member of the owner's organization."""
        person = await self.sign_up()
        invited = await owner.post("/v1/orgs/{org}/invitations", {"email": person.email, "roleKey": role})
        assert invited.status == 201, invited.body
        accepted = await person.post(f"/v1/invitations/{invited.body['invitation']['token']}/accept")
        assert accepted.status == 200, accepted.body
        person.org_id = owner.org_id
        return person


def api_settings(database_url: str, redis_url: str, **others: Any) -> ApiSettings:
    """Settings of a control plane on a free port."""
    return ApiSettings(
        env="test",
        database_url=database_url,
        redis_url=redis_url,
        host="127.0.0.1",
        port=0,
        web_base_url=(ORIGIN,),
        auth_token_secret=secrets.token_urlsafe(32),
        internal_api_service_token=secrets.token_urlsafe(16),
        agent_installer_enabled=True,
        secrets_kek_id="test",
        secrets_kek_base64=b64encode(secrets.token_bytes(32)).decode(),
        **{"rate_limit_failures": 1000, "shutdown_grace_ms": 2000} | others,
    )


@pytest_asyncio.fixture
async def control(database_url: str, redis_url: str) -> AsyncIterator[Control]:
    """A control plane of this test's own."""
    plane = ControlPlane(api_settings(database_url, redis_url))
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Control(plane, http)
    finally:
        await plane.stop()


@pytest_asyncio.fixture
async def owner(control: Control) -> Caller:
    """A person and the organization that is theirs."""
    return await control.sign_up()


@pytest_asyncio.fixture
async def stranger(control: Control) -> Caller:
    """Another person in another organization."""
    return await control.sign_up()
