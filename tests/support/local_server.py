"""A server of this process that connectors in the cloud are let to call."""

import asyncio

from aiohttp import web
from tests.support.processes import free_port


class LocalServer:
    """Echoes, or answers when it is let."""

    def __init__(self) -> None:
        self.port = free_port()
        self.calls = 0
        self.called = asyncio.Event()
        self.let = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def echo(self, request: web.Request) -> web.Response:
        self.calls += 1
        return web.json_response({"authorization": request.headers.get("authorization"), "n": self.calls})

    async def slow(self, _request: web.Request) -> web.Response:
        self.calls += 1
        self.called.set()
        await self.let.wait()
        return web.json_response({})

    async def nul(self, _request: web.Request) -> web.Response:
        return web.Response(body=b"a\x00b", content_type="text/plain")
