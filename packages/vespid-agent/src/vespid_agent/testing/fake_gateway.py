"""A gateway in one file, for tests: real sockets, no database, and it misbehaves on request.

    async with FakeGateway() as gateway:            # v2; FakeGateway(v2=False) speaks the base layer only
        link = await gateway.link()                 # the newest connection, after its hello
        result = await gateway.run("agent.run", {...})
        gateway.faults.never_ack = True

Everything an agent sends is kept, decoded, in `Connection.frames`, and over all connections in `FakeGateway.results`
and, of sessions, in `turn_ends`. `testing/talk.py` holds a session's conversation with it.
Waiting is by condition, never by time: `until(...)` wakes at each frame, close and connect.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from vespid_protocol import frames as f

ORGANIZATION_ID = "0192a1b2-0000-7000-8000-000000000001"
EXECUTOR_ID = "0192a1b2-0000-7000-8000-000000000002"
RUN_ID = "0192a1b2-0000-7000-8000-000000000003"
TOKEN = f"{ORGANIZATION_ID}.vsp_test"
PAIRING_TOKEN = f"{ORGANIZATION_ID}.pair"

_DECODER = msgspec.json.Decoder(f.AgentFrame)
_FrameT = TypeVar("_FrameT", bound=f.Frame)


@dataclass
class Faults:
    """What goes wrong. All off at first; tests switch them at any moment."""

    # HTTP status for the upgrade (401, 403, 426, 503), and its Retry-After.
    refuse_status: int | None = None
    retry_after_s: int | None = None
    # The socket is cut, without a close frame, when a frame of one of these types arrives (before it is kept).
    drop_on: set[str] = field(default_factory=set)
    # Results are kept but never acknowledged.
    never_ack: bool = False
    # No pong is sent, and no WebSocket pong either: the connection is alive and silent.
    mute: bool = False
    # Every frame to the agent is sent this many times.
    copies: int = 1
    # Added to the lease epoch of each `execute`.
    epoch_offset: int = 0


class Connection:
    """One socket of an agent."""

    def __init__(self, gateway: FakeGateway, ws: web.WebSocketResponse, epoch: int) -> None:
        self.gateway = gateway
        self.epoch = epoch
        self.hello: f.Hello | None = None
        # In the order of arrival.
        self.frames: list[f.AgentFrame] = []
        # What could not be decoded.
        self.garbage: list[bytes] = []
        self.closed = False
        # As the agent sent it; None while open, or when the connection broke without one.
        self.close_code: int | None = None
        self._ws = ws

    def of(self, kind: type[_FrameT], request_id: str | None = None) -> list[_FrameT]:
        """The frames of one type, of one request if named."""
        return [
            frame
            for frame in self.frames
            if isinstance(frame, kind) and (request_id is None or getattr(frame, "request_id", None) == request_id)
        ]

    async def send(self, frame: f.GatewayFrame) -> None:
        """As often as `faults.copies` says."""
        await self.send_raw(msgspec.json.encode(frame))

    async def send_raw(self, content: bytes) -> None:
        """Any bytes, as a text frame."""
        for _ in range(self.gateway.faults.copies):
            if not self.closed:
                await self._ws.send_str(content.decode("utf-8", "surrogateescape"))

    async def close(self, code: int, reason: str = "") -> None:
        await self._ws.close(code=code, message=reason.encode())

    def cut(self) -> None:
        """Break the connection without a word."""
        transport = self._ws._req.transport if self._ws._req is not None else None
        if transport is not None:
            transport.abort()


class FakeGateway:
    """Serves `/ws/executor`, `/ws` and `/v1/agents/pair` on a port of its own."""

    def __init__(
        self,
        *,
        v2: bool = True,
        heartbeat_ms: int = 10_000,
        lease_ms: int = 45_000,
        stale_ms: int = 60_000,
        max_frame_bytes: int = 4 * 1024 * 1024,
        max_in_flight: int | None = None,
    ) -> None:
        self.v2 = v2
        self.heartbeat_ms = heartbeat_ms
        self.lease_ms = lease_ms
        self.stale_ms = stale_ms
        self.max_frame_bytes = max_frame_bytes
        self.max_in_flight = max_in_flight
        # The only one that is let in.
        self.token = TOKEN
        self.faults = Faults()
        self.connections: list[Connection] = []
        # Every result that ever arrived, by requestId, repeats included.
        self.results: dict[str, list[f.ExecuteResult]] = {}
        # The same of turns.
        self.turn_ends: dict[str, list[f.TurnFinal | f.TurnError]] = {}
        # Bodies of pairing requests.
        self.pairings: list[dict[str, object]] = []
        self.upgrades = 0
        self.port = 0
        self._epochs = itertools.count(1)
        self._requests = itertools.count(1)
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/executor"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        if self._runner is not None:
            return
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/ws/executor", self._serve),
                web.get("/ws", self._serve),
                web.post("/v1/agents/pair", self._pair),
                web.post("/v1/executors/pair", self._pair),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port or self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Cut every connection and free the port (which `start` takes again)."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for connection in self.connections:
                connection.cut()
            await runner.cleanup()

    async def __aenter__(self) -> FakeGateway:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Returns when the condition holds; it is looked at after every frame, connect and close."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def link(self, number: int | None = None) -> Connection:
        """The newest connection, or the n-th (from 1), once it has said hello."""
        wanted = number if number is not None else 1
        await self.until(lambda: sum(c.hello is not None for c in self.connections) >= wanted)
        greeted = [c for c in self.connections if c.hello is not None]
        return greeted[-1] if number is None else greeted[number - 1]

    async def dispatch(
        self,
        kind: str,
        payload: object,
        *,
        request_id: str | None = None,
        lease_epoch: int = 1,
        timeout_ms: int = 30_000,
        on_lost: f.OnLost = "fail",
        secret: str | None = None,
        secrets: dict[str, str] | None = None,
        link: Connection | None = None,
    ) -> str:
        """Send `execute` to the newest connection; its requestId."""
        request_id = request_id or f"{RUN_ID}:n{next(self._requests)}:1"
        frame = f.Execute(
            request_id=request_id,
            organization_id=ORGANIZATION_ID,
            user_id=ORGANIZATION_ID,
            kind=kind,
            payload=msgspec.Raw(msgspec.json.encode(payload)),
            secret=secret,
            lease_epoch=lease_epoch + self.faults.epoch_offset,
            timeout_ms=timeout_ms,
            on_lost=on_lost,
            secrets=secrets,
        )
        sent = frame if self.v2 else f.base_form(frame)
        assert sent is not None
        await (link or await self.link()).send(sent)
        return request_id

    async def result(self, request_id: str, count: int = 1) -> f.ExecuteResult:
        """The result, once it has arrived `count` times."""
        await self.until(lambda: len(self.results.get(request_id, ())) >= count)
        return self.results[request_id][-1]

    async def turn_end(self, request_id: str, count: int = 1) -> f.TurnFinal | f.TurnError:
        """How a turn ended, once that has arrived `count` times."""
        await self.until(lambda: len(self.turn_ends.get(request_id, ())) >= count)
        return self.turn_ends[request_id][-1]

    async def run(self, kind: str, payload: object, **options: object) -> f.ExecuteResult:
        """Dispatch and wait for the result."""
        return await self.result(await self.dispatch(kind, payload, **options))  # type: ignore[arg-type]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.upgrades += 1
        self._changed.set()
        if self.faults.refuse_status is not None or request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refusal(self.faults.refuse_status or 401)
        ws = web.WebSocketResponse(max_msg_size=4 * self.max_frame_bytes, autoping=False)
        try:
            await ws.prepare(request)
        except web.HTTPBadRequest as error:
            return web.json_response({"code": "BAD_REQUEST", "message": error.text}, status=400)
        connection = Connection(self, ws, next(self._epochs))
        self.connections.append(connection)
        try:
            await self._listen(connection, ws)
        finally:
            connection.closed = True
            connection.close_code = ws.close_code
            self._changed.set()
        return ws

    async def _listen(self, connection: Connection, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.PING and not self.faults.mute:
                await ws.pong(message.data)
            if message.type is not WSMsgType.TEXT:
                continue
            content = message.data.encode()
            if len(content) > 4 * self.max_frame_bytes:
                await connection.close(WSCloseCode.MESSAGE_TOO_BIG)
                return
            try:
                frame = _DECODER.decode(content)
            except msgspec.ValidationError:
                connection.garbage.append(content)
                continue
            if f.wire_type(frame) in self.faults.drop_on:
                connection.cut()
                return
            connection.frames.append(frame)
            await self._answer(connection, frame)
            self._changed.set()

    async def _answer(self, connection: Connection, frame: f.AgentFrame) -> None:
        if isinstance(frame, f.Hello):
            connection.hello = frame
            if self.v2 and frame.speaks_v2:
                await connection.send(self._welcome(connection, frame))
        elif isinstance(frame, f.Ping):
            if not self.faults.mute:
                await connection.send(f.Pong(ts=frame.ts, server_time=_now()))
        elif isinstance(frame, f.ExecuteResult):
            self.results.setdefault(frame.request_id, []).append(frame)
            if not self.faults.never_ack:
                await connection.send(f.ExecuteAck(request_id=frame.request_id))
        elif isinstance(frame, f.TurnFinal | f.TurnError):
            self.turn_ends.setdefault(frame.request_id, []).append(frame)
            if self.v2 and not self.faults.never_ack:
                await connection.send(f.ExecuteAck(request_id=frame.request_id))

    def _welcome(self, connection: Connection, hello: f.Hello) -> f.Welcome:
        return f.Welcome(
            protocol_version=f.PROTOCOL_VERSION,
            connection_epoch=connection.epoch,
            executor_id=EXECUTOR_ID,
            organization_id=ORGANIZATION_ID,
            server_time=_now(),
            heartbeat_ms=self.heartbeat_ms,
            stale_ms=self.stale_ms,
            lease_ms=self.lease_ms,
            max_frame_bytes=self.max_frame_bytes,
            max_in_flight=self.max_in_flight or hello.room,
            tags=(),
        )

    def _refusal(self, status: int) -> web.Response:
        headers = {"Retry-After": str(self.faults.retry_after_s)} if self.faults.retry_after_s is not None else {}
        return web.json_response({"code": "REFUSED", "message": "as told"}, status=status, headers=headers)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _pair(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.pairings.append(body)
        if body.get("pairingToken") != PAIRING_TOKEN:
            return web.json_response({"code": "PAIRING_TOKEN_INVALID", "message": "unknown token"}, status=401)
        names = {"agentId": EXECUTOR_ID, "agentToken": TOKEN, "executorId": EXECUTOR_ID, "executorToken": TOKEN}
        answer = {**names, "organizationId": ORGANIZATION_ID, "gatewayWsUrl": self.ws_url}
        return web.json_response(answer, status=201)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
