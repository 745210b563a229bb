"""A caller of our own HTTP API, as any other: what `vespid up` and the demo do goes the way of a user's client."""

import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp

CALL_TIMEOUT_S = 30.0
LONGEST_STREAM_S = 300.0


class CallRefused(Exception):
    """The API answered with an error; `code` is that of the envelope."""

    def __init__(self, method: str, path: str, status: int, code: str, message: str) -> None:
        super().__init__(f"{method} {path} answered {status} {code}: {message}")
        self.status = status
        self.code = code


class ApiClient:
    """Calls with JSON, as one person once signed in, in one organization once chosen."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S))
        # Sent with every call.
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Answer the body of a success. Raises CallRefused."""
        async with self._http.request(method, self._base_url + path, json=body, headers=self.headers) as answer:
            text = await answer.text()
            try:
                decoded = json.loads(text) if text else {}
            except ValueError:
                decoded = {"message": text[:200]}
            if answer.status >= 400:
                raise CallRefused(method, path, answer.status, decoded.get("code", "?"), decoded.get("message", ""))
            found: dict[str, Any] = decoded
            return found

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream as they come, until the server ends it."""
        timeout = aiohttp.ClientTimeout(total=LONGEST_STREAM_S)
        async with self._http.get(self._base_url + path, headers=self.headers, timeout=timeout) as answer:
            if answer.status != 200:
                raise CallRefused("GET", path, answer.status, "?", (await answer.text())[:200])
            data: list[str] = []
            async for raw in answer.content:
                line = raw.decode().rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data = []

    async def sign_up(self, email: str, password: str, name: str) -> bool:
        """Make an account, or sign in where there is one; answers whether it was made."""
        body = {"email": email, "password": password, "displayName": name}
        try:
            session = await self.call("POST", "/v1/auth/signup", body)
            is_new = True
        except CallRefused as refused:
            if refused.status != 409:
                raise
            session = await self.call("POST", "/v1/auth/login", body)
            is_new = False
        self.headers["Authorization"] = f"Bearer {session['session']['token']}"
        return is_new

    async def choose_first_organization(self) -> str:
        """Act in the caller's first organization from now on, and answer its id."""
        orgs = (await self.call("GET", "/v1/me"))["orgs"]
        org_id = str(orgs[0]["id"])
        self.headers["X-Org-Id"] = org_id
        return org_id
