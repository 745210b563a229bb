"""`GET /ws/executor`: who it is, before the upgrade; then the loop that reads its frames."""

import asyncio
import contextlib
import random

import structlog
from aiohttp import WSMsgType, web

from vespid.dispatch.house import House
from vespid.errors import ApiError
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.desk import EdgeDesk, server_time
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.tokens import Tokens
from vespid.gateway.edge.transport import Transport
from vespid.gateway.edge.wheel import Wheel
from vespid.settings import GatewaySettings
from vespid.store.connections import KnownExecutor, authenticate, connect
from vespid.store.failure import STORE_AWAY
from vespid_protocol.codes import CloseCode
from vespid_protocol.connection import Event
from vespid_protocol.frames import PROTOCOL_VERSION
from vespid_protocol.gateway_peer import GatewayPeer
from vespid_protocol.ids import ExecutorId, IdInvalid, OrgId, parse_token

log = structlog.get_logger("vespid.gateway.edge.socket")

# A frame between the agreed and the hard limit is still parsed; beyond, the socket closes with 1009.
HARD_LIMIT_FACTOR = 4
# After a reconnect is asked for: within this, so that a fleet does not come back in lock-step.
DRAIN_SPREAD_MS = 2_000
DRAIN_S = 5.0


class ExecutorSockets:
    """The route, and the end of all its sockets."""

    def __init__(
        self, house: House, settings: GatewaySettings, registry: Registry, desk: EdgeDesk, tokens: Tokens, wheel: Wheel
    ) -> None:
        self._house = house
        self._settings = settings
        self._registry = registry
        self._desk = desk
        self._tokens = tokens
        self._wheel = wheel
        self._open: set[Connection] = set()
        self._draining = False
        # No socket is open.
        self._empty = asyncio.Event()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """One executor, from the upgrade to its end."""
        rotations = self._tokens.rotations
        known = await self._authenticate(request)
        socket = web.WebSocketResponse(
            autoping=False,
            autoclose=True,
            compress=self._settings.ws_compression,
            max_msg_size=self._settings.max_frame_bytes * HARD_LIMIT_FACTOR,
            decode_text=False,
        )
        await socket.prepare(request)
        connection = await self._connect(request, socket, known)
        if connection is None:
            return socket
        self._open.add(connection)
        self._registry.opened(connection)
        if rotations != self._tokens.rotations:
            self._tokens.judge(connection)
        try:
            await self._read(socket, connection)
        finally:
            self._open.discard(connection)
            self._registry.closed(connection)
            if not self._open:
                self._empty.set()
            connection.gone()
            await connection.closed()
        return socket

    def begin_drain(self) -> None:
        """Take no new sockets, and ask those that are here to connect elsewhere."""
        self._draining = True
        for connection in tuple(self._open):
            connection.drain(random.randrange(DRAIN_SPREAD_MS), "this gateway is stopping")  # noqa: S311

    async def end_all(self) -> None:
        """Wait a little for them to leave, then close those that stay."""
        if self._open:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._empty.wait()
        for connection in tuple(self._open):
            connection.end(Event.SHUT_DOWN, "this gateway is stopping")
        await asyncio.gather(*(connection.closed() for connection in tuple(self._open)))

    def drop_all(self) -> None:
        """Others may have taken this process for dead: let go of every socket, they come back under a new epoch."""
        for connection in tuple(self._open):
            connection.end(Event.SHUT_DOWN, "this gateway was cut off")

    # --- inner -------------------------------------------------------------------------------------------------------

    async def _authenticate(self, request: web.Request) -> KnownExecutor:
        if self._draining:
            raise ApiError(503, "GATEWAY_DRAINING", "This gateway is stopping.", headers={"Retry-After": "1"})
        version = request.query.get("protocol")
        if version is not None and version != str(PROTOCOL_VERSION):
            raise ApiError(426, "PROTOCOL_UNSUPPORTED", f"Only protocol version {PROTOCOL_VERSION} is spoken here.")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        refused = ApiError(401, "EXECUTOR_TOKEN_INVALID", "The executor token is not known.")
        if scheme.lower() != "bearer":
            raise refused
        try:
            parsed = parse_token(token.strip())
        except IdInvalid:
            raise refused from None
        try:
            known = await authenticate(self._house.db, parsed.sha256)
        except STORE_AWAY as error:
            log.warning("authentication_postponed", error=repr(error))
            raise ApiError(
                503, "GATEWAY_UNAVAILABLE", "The gateway cannot look up executors now.", headers={"Retry-After": "2"}
            ) from error
        if known is None:
            raise refused
        subject = known.executor_id if known.organization_id is None else known.organization_id
        if parsed.subject != str(subject):
            raise refused
        if known.revoked:
            raise ApiError(403, "EXECUTOR_REVOKED", "This executor was revoked.")
        return known

    async def _connect(
        self, request: web.Request, socket: web.WebSocketResponse, known: KnownExecutor
    ) -> Connection | None:
        executor_id = ExecutorId(str(known.executor_id))
        try:
            begun = await connect(self._house.db, executor_id, self._house.process_id)
        except STORE_AWAY as error:
            log.warning("connection_postponed", error=repr(error))
            await socket.close(code=CloseCode.GOING_AWAY, message=b"try again")
            return None
        stream = request.transport
        if begun is None or stream is None:
            await socket.close(code=CloseCode.REVOKED, message=b"revoked")
            return None
        settings = self._settings
        loop = asyncio.get_running_loop()
        peer = GatewayPeer(
            int(loop.time() * 1000),
            heartbeat_ms=settings.heartbeat_ms,
            stale_ms=settings.gateway_agent_stale_ms,
            max_frame_bytes=settings.max_frame_bytes,
            accept_ms=settings.accept_timeout_ms,
            server_time=server_time,
        )
        peer.connection_epoch = begun.connection_epoch
        connection = Connection(
            executor_id,
            None if begun.organization_id is None else OrgId(str(begun.organization_id)),
            known.name,
            begun.connection_epoch,
            tuple(begun.tags),
            begun.max_in_flight,
            peer,
            Transport(socket, stream, request.writer),
            self._wheel,
            self._desk,
            cordoned=begun.cordoned,
        )
        connection.journal_id = begun.journal_id
        connection.token_sha256 = known.token_sha256
        connection.token_lasts(known.token_left_ms)
        connection.paused_until_ms = self._desk.paused_until(executor_id)
        return connection

    @staticmethod
    async def _read(socket: web.WebSocketResponse, connection: Connection) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                connection.receive(message.data)
            elif message.type is WSMsgType.PING:
                connection.heard()
                await socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                connection.heard()
            elif message.type is WSMsgType.BINARY:
                # Frames are JSON text; a binary one is a bad frame like any other.
                connection.receive(b"\x00")
