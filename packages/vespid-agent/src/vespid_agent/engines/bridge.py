"""Our tools for a program, as an MCP server on loopback that lives as long as one turn and knows its token.

    async with Bridge(calls) as bridge:
        …  bridge.url, bridge.token

Streamable HTTP without sessions: each request is answered for itself. A call's answer is a stream that says now and
then that it still works, so that no program loses patience with a slow tool. A program that goes away, or says
`notifications/cancelled`, ends its call.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import Self

import msgspec
from aiohttp import web

from vespid_agent import __version__
from vespid_agent.engines.calls import Calls

# What programs call the server; it is part of the names by which their models know our tools.
SERVER = "vespid"
# As a program finds its token in its environment.
TOKEN_VARIABLE = "MCP_BRIDGE_TOKEN"  # noqa: S105 - a name, not a secret

_PATH = "/mcp"
_REQUEST_MAX_BYTES = 4_000_000
_STILL_AT_IT_S = 10.0
# What is spoken where a program asks for nothing that we know.
_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
_METHOD_NOT_FOUND, _INVALID_PARAMS, _CANCELLED = -32601, -32602, -32800


class _Asked(msgspec.Struct, kw_only=True):
    """A request or a notification. `id`: of requests."""

    jsonrpc: str
    method: str
    id: int | str | None = None
    params: dict[str, object] | None = None


class Bridge:
    """One turn's. Listens while it is entered."""

    def __init__(self, calls: Calls) -> None:
        self.token = secrets.token_urlsafe(32)
        self._calls = calls
        # Calls under way, by the id of their request.
        self._running: dict[int | str, asyncio.Task[dict[str, object]]] = {}
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        assert self._runner is not None, "entered"
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}{_PATH}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_REQUEST_MAX_BYTES)
        app.router.add_post(_PATH, self._post)
        # A program that goes away ends its handler, and that its call.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(shown.encode(), self.token.encode()):
            return web.json_response({"error": "this is not the token of this turn"}, status=401)
        try:
            asked = msgspec.json.decode(await request.read(), type=_Asked)
        except (msgspec.DecodeError, RecursionError):
            return web.json_response({"error": "this is no request of JSON-RPC"}, status=400)
        if asked.id is None:
            self._notified(asked)
            return web.Response(status=202)
        if asked.method == "tools/call":
            return await self._stream(request, asked)
        return web.json_response({"jsonrpc": "2.0", "id": asked.id, **self._answer(asked)})

    def _answer(self, asked: _Asked) -> dict[str, object]:
        params = asked.params or {}
        if asked.method == "initialize":
            wanted = params.get("protocolVersion")
            return {
                "result": {
                    "protocolVersion": wanted if wanted in _VERSIONS else _VERSIONS[0],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": SERVER, "version": __version__},
                }
            }
        if asked.method == "tools/list":
            return {
                "result": {
                    "tools": [
                        {"name": name, "description": tool.description, "inputSchema": tool.input_schema}
                        for name, tool in self._calls.offered()
                    ]
                }
            }
        if asked.method == "ping":
            return {"result": {}}
        return _error(_METHOD_NOT_FOUND, f"there is no method {asked.method[:100]}")

    async def _stream(self, request: web.Request, asked: _Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        assert asked.id is not None
        task = asyncio.create_task(self._call(asked), name=f"bridge call {asked.id}")
        self._running[asked.id] = task
        try:
            while not (await asyncio.wait({task}, timeout=_STILL_AT_IT_S))[0]:
                await response.write(b": still at it\n\n")
            ended = _error(_CANCELLED, "the call was cancelled") if task.cancelled() else task.result()
            said = {"jsonrpc": "2.0", "id": asked.id, **ended}
            await response.write(b"event: message\ndata: " + msgspec.json.encode(said) + b"\n\n")
            await response.write_eof()
        finally:
            if self._running.get(asked.id) is task:
                del self._running[asked.id]
            task.cancel()
            await asyncio.wait({task})
        return response

    async def _call(self, asked: _Asked) -> dict[str, object]:
        params = asked.params or {}
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str):
            return _error(_INVALID_PARAMS, "params.name: the name of a tool is wanted")
        answer = await self._calls.call(name, {} if arguments is None else arguments, f"mcp_{asked.id}")
        content = [{"type": "text", "text": answer.content}]
        return {"result": {"content": content, "isError": answer.is_error}}

    def _notified(self, asked: _Asked) -> None:
        if asked.method != "notifications/cancelled":
            return
        request_id = (asked.params or {}).get("requestId")
        task = self._running.get(request_id) if isinstance(request_id, int | str) else None
        if task is not None:
            task.cancel()


def _error(code: int, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}
