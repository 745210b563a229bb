"""`GET /ws/client`: who it is, before the upgrade; then the loop that reads its frames."""

import asyncio

from aiohttp import WSMsgType, web

from vespid.dispatch.audit import Doer, Origin
from vespid.dispatch.conversation import Conversation
from vespid.errors import ApiError
from vespid.gateway.client.admission import Admission
from vespid.gateway.client.member import Member
from vespid.gateway.client.views import SessionViews
from vespid.gateway.edge.transport import Transport
from vespid.gateway.edge.wheel import Wheel
from vespid.gateway.internal import REQUEST_ID
from vespid.settings import GatewaySettings
from vespid.tasks import Tasks
from vespid_protocol.codec import HARD_LIMIT_FACTOR
from vespid_protocol.codes import CloseCode


class ClientSockets:
    """The route, and the end of all its sockets."""

    def __init__(
        self,
        settings: GatewaySettings,
        admission: Admission,
        views: SessionViews,
        conversation: Conversation,
        wheel: Wheel,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._views = views
        self._conversation = conversation
        self._wheel = wheel
        self._tasks = tasks
        self._open: set[Member] = set()
        self._draining = False

    def __len__(self) -> int:
        """Those that are open, and that this gateway has not ended."""
        return sum(not member.is_over for member in self._open)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """One client, from the upgrade to its end."""
        if self._draining:
            raise ApiError(503, "GATEWAY_DRAINING", "This gateway is stopping.", headers={"Retry-After": "1"})
        news = self._admission.news
        principal, org_id = await self._admission.admit(request)
        socket = web.WebSocketResponse(
            autoping=False,
            autoclose=True,
            compress=self._settings.ws_compression,
            max_msg_size=self._settings.max_frame_bytes * HARD_LIMIT_FACTOR,
            decode_text=False,
        )
        socket.headers["x-request-id"] = request[REQUEST_ID]
        await socket.prepare(request)
        stream = request.transport
        if stream is None:
            return socket
        member = Member(
            Doer(principal, _origin_of(request)),
            org_id,
            Transport(socket, stream, request.writer),
            self._views,
            self._conversation,
            self._admission,
            self._wheel,
            self._tasks,
            max_frame_bytes=self._settings.max_frame_bytes,
            stale_ms=self._settings.gateway_agent_stale_ms,
        )
        self._open.add(member)
        self._admission.opened(member, news)
        if self._draining:
            # It came in while the others were told.
            member.end(CloseCode.GOING_AWAY, "this gateway is stopping")
        try:
            await self._read(socket, member)
        finally:
            self._open.discard(member)
            self._admission.closed(member)
            member.gone()
            await member.closed()
        return socket

    async def drain(self) -> None:
        """Take no new sockets and close those that are here: they join elsewhere, behind what they have seen."""
        self._draining = True
        members = tuple(self._open)
        for member in members:
            member.end(CloseCode.GOING_AWAY, "this gateway is stopping")
        await asyncio.gather(*(member.closed() for member in members))

    @staticmethod
    async def _read(socket: web.WebSocketResponse, member: Member) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await member.receive(message.data)
            elif message.type is WSMsgType.PING:
                member.heard()
                await socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                member.heard()
            elif message.type is WSMsgType.BINARY:
                # Frames are JSON text; a binary one is a bad frame like any other.
                await member.receive(b"\x00")


def _origin_of(request: web.Request) -> Origin:
    return Origin.of(request[REQUEST_ID], request.remote, request.headers.get("User-Agent"))
