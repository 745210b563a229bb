"""What the parts alone reach: a bare HTTP round trip, a bare socket echo, a bare commit, and the three in a row.

`python -m tests.bench.floors <port> <database url>` is the server of them, a process of its own like ours: POST /bare
answers; POST /all asks the socket at /ws, waits for its echo, commits one row (grouped, as ours are), and answers.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop
from aiohttp import web
from tests.bench.installation import Installation
from tests.bench.timing import Call, Timing, timed

from vespid.local.valkey import free_port
from vespid.store.group import GroupCommit
from vespid.store.pool import Database

_INSERT = "insert into bench_floor (what) values ($1)"
_INSERT_MANY = "insert into bench_floor (what) select unnest($1::text[])"


class Floors:
    """The floor server and its client. An async context manager."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._port = free_port()
        self._server: asyncio.subprocess.Process | None = None
        self._echo: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Floors":
        url = self._installation.database_url
        connection = await asyncpg.connect(url)
        await connection.execute(
            "create table if not exists bench_floor (id bigserial primary key, what text);"
            "grant all on bench_floor to vespid_service; grant all on sequence bench_floor_id_seq to vespid_service"
        )
        await connection.close()
        self._server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.floors", str(self._port), url), cwd=Path(__file__).parents[2]
        )
        http = self._installation.http
        async with asyncio.timeout(20):
            while self._echo is None:
                try:
                    socket = await http.ws_connect(f"ws://127.0.0.1:{self._port}/ws")
                    self._echo = asyncio.create_task(_echo_back(socket))
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._echo is not None:
            self._echo.cancel()
            await asyncio.gather(self._echo, return_exceptions=True)
        if self._server is not None:
            self._server.terminate()
            await self._server.wait()

    async def http(self, *, at_once: int, count: int) -> Timing:
        return await timed(lambda: self._post("/bare"), at_once=at_once, count=count)

    @contextlib.asynccontextmanager
    async def echoing(self) -> AsyncIterator[Call]:
        """A call that sends one text frame there and back."""
        socket = await self._installation.http.ws_connect(f"ws://127.0.0.1:{self._port}/echo")

        async def there_and_back() -> None:
            await socket.send_str('{"type":"ping","ts":1}')
            await socket.receive()

        yield there_and_back
        await socket.close()

    async def echo(self, *, count: int) -> Timing:
        """One text frame there and back, one at a time."""
        async with self.echoing() as there_and_back:
            return await timed(there_and_back, at_once=1, count=count)

    async def commits(self, *, connections: int, count: int) -> Timing:
        """Single-row inserts in autocommit, each connection one at a time."""
        opened = [await asyncpg.connect(self._installation.database_url) for _ in range(connections)]
        free = asyncio.Queue[Any]()
        for connection in opened:
            free.put_nowait(connection)

        async def commit() -> None:
            connection = await free.get()
            await connection.execute(_INSERT, "x")
            free.put_nowait(connection)

        timing = await timed(commit, at_once=connections, count=count)
        for connection in opened:
            await connection.close()
        return timing

    async def combined(self, *, at_once: int, count: int) -> Timing:
        return await timed(lambda: self._post("/all"), at_once=at_once, count=count)

    async def _post(self, path: str) -> None:
        body = b'{"payload":{"x":1}}'
        async with self._installation.http.post(f"http://127.0.0.1:{self._port}{path}", data=body) as answer:
            await answer.read()


async def _echo_back(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for message in socket:
        await socket.send_str(message.data)


async def _insert(connection: Any, items: Sequence[str]) -> list[None]:
    await connection.execute(_INSERT_MANY, list(items))
    return [None] * len(items)


async def serve(port: int, database_url: str) -> None:
    """The floor server."""
    db = Database(database_url, min_size=1)
    await db.start()
    commits: GroupCommit[str, None] = GroupCommit(db, _insert, key=lambda item: item, name="floor")
    await commits.start()
    waiting: dict[str, asyncio.Future[None]] = {}
    numbers = itertools.count()
    sockets: list[web.WebSocketResponse] = []

    async def bare(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b'{"ok":true}')

    async def everything(request: web.Request) -> web.Response:
        await request.read()
        name = str(next(numbers))
        echoed = waiting[name] = asyncio.get_running_loop().create_future()
        await sockets[0].send_str(name)
        await echoed
        await commits.submit(name)
        return web.Response(body=b'{"ok":true}')

    async def socket(request: web.Request) -> web.WebSocketResponse:
        own = web.WebSocketResponse()
        await own.prepare(request)
        sockets.append(own)
        async for message in own:
            waiting.pop(message.data).set_result(None)
        return own

    async def echo(request: web.Request) -> web.WebSocketResponse:
        own = web.WebSocketResponse()
        await own.prepare(request)
        async for message in own:
            await own.send_str(message.data)
        return own

    app = web.Application()
    app.router.add_post("/bare", bare)
    app.router.add_post("/all", everything)
    app.router.add_get("/ws", socket)
    app.router.add_get("/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
