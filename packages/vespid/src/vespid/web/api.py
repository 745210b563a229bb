"""The API as a page calls it: in this process, as the visitor, by the same routes as everybody else.

The visitor's cookie, `Origin` and address go along, so that rights, limits and the audit log are the API's own affair.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Litestar, Request

# What of the page's request the API is to see. The trace and the request's id make one story of both in the log.
_FORWARDED = ("cookie", "origin", "user-agent", "x-request-id", "traceparent")


class ApiRefused(Exception):
    """The API answered with an error; it is in the words and codes of its envelope."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}

    @property
    def fields(self) -> Mapping[str, list[str]]:
        """What is wrong with each field, by its name on the wire."""
        fields: Mapping[str, list[str]] = self.details.get("fieldErrors", {})
        return fields


class NoOrganization(Exception):
    """The page is of an organization, and the visitor is in none: not signed in, or a member of nothing."""


class Answer(msgspec.Struct, frozen=True):
    """A good answer: its JSON (None: without a body), and the cookies it sets, for pages that sign in or out."""

    body: Any
    cookies: list[str]


class Api:
    """The API as one visitor may use it. Every call may raise `ApiRefused` or `NoOrganization`."""

    def __init__(self, request: Request[Any, Any, Any], org_id: str | None = None) -> None:
        self._request = request
        self._org_id = org_id

    def within(self, org_id: str) -> "Api":
        """The same visitor in an organization: a path without a leading slash is below it from now on."""
        return Api(self._request, org_id)

    async def get(self, path: str, **query: str | int | None) -> Any:
        """The answer's JSON. Parameters that are None or empty are left out."""
        return (await self.call("GET", path, query=query)).body

    async def post(self, path: str, body: Any = None) -> Any:
        """The answer's JSON."""
        return (await self.call("POST", path, body)).body

    async def put(self, path: str, body: Any) -> Any:
        """The answer's JSON."""
        return (await self.call("PUT", path, body)).body

    async def patch(self, path: str, body: Any) -> Any:
        """The answer's JSON."""
        return (await self.call("PATCH", path, body)).body

    async def delete(self, path: str) -> Any:
        """The answer's JSON."""
        return (await self.call("DELETE", path)).body

    async def call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str | int | None] | None = None
    ) -> Answer:
        """One request to the API and its whole answer."""
        heads, chunks = await self._exchange(method, path, body, query or {})
        text = b"".join(chunks)
        read: Any = msgspec.json.decode(text) if text else None
        if heads["status"] >= 400:
            raise ApiRefused(heads["status"], read["code"], read["message"], read.get("details"))
        cookies = [value.decode() for name, value in heads["headers"] if name.lower() == b"set-cookie"]
        return Answer(read, cookies)

    async def _exchange(
        self, method: str, path: str, body: Any, query: Mapping[str, str | int | None]
    ) -> tuple[Any, list[bytes]]:
        app: Litestar = self._request.app
        content = b"" if body is None else msgspec.json.encode(body)
        heads: dict[str, Any] = {}
        chunks: list[bytes] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                heads.update(message)
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        await app(self._scope(method, path, content, query), receive, send)
        return heads, chunks

    def _scope(self, method: str, path: str, content: bytes, query: Mapping[str, str | int | None]) -> Any:
        page = self._request.scope
        is_of_org = not path.startswith("/")
        whole = f"/v1/orgs/{self._org_id}/{path}" if is_of_org else path
        headers = [(name.encode(), value.encode()) for name in _FORWARDED if (value := self._request.headers.get(name))]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if is_of_org:
            if self._org_id is None:
                raise NoOrganization
            headers.append((b"x-org-id", self._org_id.encode()))
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return {
            "type": "http",
            "asgi": page["asgi"],
            "http_version": page["http_version"],
            "method": method,
            "scheme": page["scheme"],
            "path": whole,
            "raw_path": quote(whole).encode(),
            "root_path": "",
            "query_string": urlencode(given).encode(),
            "headers": headers,
            "client": page["client"],
            "server": page["server"],
            "extensions": {},
        }
