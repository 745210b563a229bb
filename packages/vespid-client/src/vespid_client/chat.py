"""A session live, over the client socket: asked, and told what happens. A lost socket is opened again, and nothing is
missed or told twice.

What is said goes over HTTP, under a key: so it is known which message is ours, and it is said once whatever is lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from vespid_client.api import Api
from vespid_client.comeback import Comeback
from vespid_client.conversation import (
    ChatItem,
    Conversation,
    Delta,
    DeltaFrame,
    EventFrame,
    Failed,
    Final,
    Happened,
    Restarted,
    Standing,
)
from vespid_client.errors import AnswerNotUnderstood, ApiError, ConnectionFailed, Forbidden, SessionError, error_of
from vespid_client.models.meta import Capabilities
from vespid_client.models.sessions import SessionEvent
from vespid_client.route import Route

CAPABILITIES = Route("GET", "/v1/meta/capabilities", Capabilities, is_open=True)
PATIENCE_S = 120.0
HEARTBEAT_S = 15.0
# Close codes after which coming back is of no use: the login is over, or the caller is no longer a member.
_GONE = frozenset({4401, 4403})


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    code: str = ""
    message: str = ""


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_event = msgspec.json.Decoder(EventFrame).decode
_decode_delta = msgspec.json.Decoder(DeltaFrame).decode
_decode_standing = msgspec.json.Decoder(Standing).decode

_Queue = asyncio.Queue[ChatItem | BaseException]


class Chat:
    """`async with client.sessions.chat(session_id) as chat`."""

    def __init__(
        self,
        api: Api,
        session_id: str,
        send: Callable[..., Awaitable[SessionEvent]],
        *,
        after_seq: int | None,
        gateway_ws_url: str | None,
    ) -> None:
        self.session_id = session_id
        # Where the session lives; None until it was told.
        self.standing: Standing | None = None
        self._api = api
        self._send = send
        self._after_seq = after_seq
        self._url = gateway_ws_url
        self._conversation = Conversation(after_seq or 0)
        self._listeners: set[_Queue] = set()
        self._joined = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._over: BaseException | None = None

    async def __aenter__(self) -> Self:
        # What the join repeats is for whoever asks for `events` first.
        self._told: _Queue | None = self._listen()
        self._keeping = asyncio.create_task(self._keep(), name=f"chat-{self.session_id}")
        self._keeping.add_done_callback(self._ended)
        try:
            await self._joined.wait()
            if self._over is not None:
                raise self._over
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def ask(
        self, text: str, *, attachments: Sequence[Mapping[str, Any]] | None = None
    ) -> AsyncGenerator[Delta | Restarted | Happened | Final, None]:
        """Say something, and hear the answer as it is made; `Final` is the last.

        Its deltas are all of its text, whatever was lost on the way. Raises SessionError where the turn failed,
        ApiError where the message was refused, ConnectionFailed when the gateway was not reached for two minutes.
        """
        queue = self._listen()
        self._forget_told()
        try:
            asked = (await self._send(self.session_id, text, attachments=attachments)).seq
            async for item in self._items(queue):
                if isinstance(item, Standing) or item.turn != asked:
                    continue
                if isinstance(item, Failed):
                    raise SessionError(item.code, item.message)
                if isinstance(item, Happened) and item.event_type == "user_message":
                    continue
                yield item
                if isinstance(item, Final):
                    return
        finally:
            self._listeners.discard(queue)

    async def say(self, text: str, *, attachments: Sequence[Mapping[str, Any]] | None = None) -> Final:
        """Say something, and wait for the whole answer. Raises as `ask` does."""
        async for item in self.ask(text, attachments=attachments):
            if isinstance(item, Final):
                return item
        raise SessionError("BAD_REQUEST", "The conversation ended without an answer.")

    async def events(self) -> AsyncGenerator[ChatItem, None]:
        """All that is told, without end, for one that looks on: from the join on, or from now where something was
        asked before."""
        queue, self._told = self._told or self._listen(), None
        try:
            async for item in self._items(queue):
                yield item
        finally:
            self._listeners.discard(queue)

    def _listen(self) -> _Queue:
        queue: _Queue = asyncio.Queue()
        if self._over is not None:
            queue.put_nowait(self._over)
        self._listeners.add(queue)
        return queue

    def _forget_told(self) -> None:
        # Nobody looks on so far: what is kept for that would grow for as long as there is talk.
        if self._told is not None:
            self._listeners.discard(self._told)
            self._told = None

    async def _items(self, queue: _Queue) -> AsyncGenerator[ChatItem, None]:
        while True:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _tell(self, items: list[ChatItem]) -> None:
        for item in items:
            for queue in self._listeners:
                queue.put_nowait(item)

    async def _stop(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self) -> None:
        """Be joined, until something makes that impossible."""
        comeback = Comeback(PATIENCE_S, self._api.watch)
        while True:
            failure: ApiError | ConnectionFailed | None = None
            try:
                await self._connected(comeback)
            except (ApiError, ConnectionFailed) as error:
                failure = error
            except msgspec.DecodeError as error:
                raise AnswerNotUnderstood(f"The client socket: {error}") from error
            await comeback.wait(failure)

    def _ended(self, keeping: asyncio.Task[None]) -> None:
        """Tell everybody who waits, whatever it was."""
        error = None if keeping.cancelled() else keeping.exception()
        if error is None:
            return
        self._over = error
        for queue in self._listeners:
            queue.put_nowait(error)
        self._joined.set()

    async def _connected(self, comeback: Comeback) -> None:
        """One socket, from its opening to its loss."""
        url = await self._client_url()
        token = await self._api.credential.token()
        headers = {"Authorization": f"Bearer {token}", "X-Org-Id": await self._api.org_id()}
        try:
            async with self._api.http.websocket(url, headers, HEARTBEAT_S) as socket:
                await self._join(socket)
                async for message in socket:
                    comeback.heard()
                    if message.type is aiohttp.WSMsgType.TEXT:
                        self._hear(message.data)
                if socket.close_code in _GONE:
                    raise Forbidden(403, "ORG_ACCESS_DENIED", "The gateway ended it: you are no longer let in.")
        except aiohttp.WSServerHandshakeError as refused:
            if refused.status == 401 and await self._api.credential.renew(token):
                return
            raise error_of(refused.status, refused.headers or {}, b"") from refused

    async def _join(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        join: dict[str, Any] = {"type": "session_join", "sessionId": self.session_id}
        if self._conversation.seq or self._after_seq is not None:
            join["afterSeq"] = self._conversation.seq
        self._conversation.rejoined()
        await socket.send_str('{"type":"client_hello","clientVersion":"vespid-client"}')
        await socket.send_str(msgspec.json.encode(join).decode())

    def _hear(self, text: str) -> None:
        frame = _decode_kind(text)
        if frame.type == "session_event_v2":
            self._tell(self._conversation.event(_decode_event(text)))
        elif frame.type == "agent_delta":
            self._tell(self._conversation.delta(_decode_delta(text)))
        elif frame.type == "session_state":
            self.standing = _decode_standing(text)
            self._tell([self.standing])
        elif frame.type == "session_ack":
            self._joined.set()
        elif frame.type == "session_error" and not self._joined.is_set():
            raise SessionError(frame.code, frame.message)

    async def _client_url(self) -> str:
        if self._url is None:
            told = (await self._api.call(CAPABILITIES)).client_ws_url
            self._url = told or client_url_beside(self._api.http.base_url)
        return self._url


def client_url_beside(base_url: str) -> str:
    """Where the client socket is when nobody says: on port 3002 beside a control plane on 3001, else behind the same
    address."""
    parts = urlsplit(base_url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{host}:3002" if parts.port == 3001 else parts.netloc
    return urlunsplit((scheme, place, "/ws/client", "", ""))
