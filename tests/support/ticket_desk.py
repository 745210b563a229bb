"""GitHub as far as one ticket goes, on loopback: it can be read and commented on, and it counts what was done to it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

REPO = "acme/shop"
NUMBER = 7
PATH = f"/repos/{REPO}/issues/{NUMBER}"


@dataclass
class TicketDesk:
    """A request that comes while its method is held waits, already done, for `release`."""

    title: str = "The cart is empty after login"
    body: str = "Since yesterday."
    comments: list[dict[str, Any]] = field(default_factory=list)
    # (method, path) as they came.
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)
    _free: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def hold(self, method: str) -> None:
        self._held.add(method)
        self._free.clear()

    def release(self) -> None:
        self._held.clear()
        self._free.set()

    def count(self, method: str, path: str) -> int:
        return sum(asked == (method, path) for asked in self.requests)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(PATH, self._issue)
        app.router.add_get(f"{PATH}/comments", self._list)
        app.router.add_post(f"{PATH}/comments", self._comment)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self.release()
        await self._runner.cleanup()

    async def _came(self, request: web.Request) -> None:
        self.requests.append((request.method, request.path))
        self.tokens.add(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if request.method in self._held:
            await self._free.wait()

    async def _issue(self, request: web.Request) -> web.Response:
        await self._came(request)
        issue = {"id": 1, "number": NUMBER, "html_url": f"{self.url}/{NUMBER}", "state": "open"}
        return web.json_response(issue | {"title": self.title, "body": self.body, "comments": len(self.comments)})

    async def _list(self, request: web.Request) -> web.Response:
        await self._came(request)
        return web.json_response(self.comments)

    async def _comment(self, request: web.Request) -> web.Response:
        comment = {"id": 100 + len(self.comments), "html_url": f"{self.url}/c", **await request.json()}
        self.comments.append(comment)
        await self._came(request)
        return web.json_response(comment, status=201)
