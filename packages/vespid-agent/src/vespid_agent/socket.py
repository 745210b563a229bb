"""The WebSocket to the gateway, behind the few verbs the link needs. The only file that knows aiohttp's socket.

Text goes and comes as bytes. Frames handed to one `send` leave in one write to the kernel: many small results cost as
many system calls as loop turns, not as frames.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp
from aiohttp import WSMsgType

from vespid_agent.network import proxy_for

_CLOSE_TIMEOUT_S = 2.0
_JOIN_MAX_BYTES = 256 * 1024
# What an upgrade that is refused means (contracts: the error envelope's code goes with the status).
_REFUSALS = {
    401: "EXECUTOR_TOKEN_INVALID",
    403: "EXECUTOR_REVOKED",
    426: "PROTOCOL_UNSUPPORTED",
    503: "GATEWAY_DRAINING",
}


class HandshakeRefused(Exception):
    """The gateway answered the upgrade with an HTTP status instead."""

    def __init__(self, status: int, retry_after_s: float | None) -> None:
        self.status = status
        self.code = _REFUSALS.get(status, f"HTTP_{status}")
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.code} (HTTP {status})")


class SocketFailed(Exception):
    """No connection could be made, or it broke while sending."""


class Closed(NamedTuple):
    """The end of a socket: the close code (1006 when none came) and its reason."""

    code: int
    reason: str


class Heard(NamedTuple):
    """A control frame: nothing to read, but the other end lives."""


HEARD = Heard()


class Socket:
    """An open connection. One task receives, one sends."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._ws = ws
        self._cork = _Cork.on(ws)

    @classmethod
    async def connect(cls, session: aiohttp.ClientSession, url: str, token: str, *, max_frame_bytes: int) -> Socket:
        """Raises HandshakeRefused, SocketFailed, or NetworkMisconfigured."""
        proxy, proxy_auth = proxy_for(url)
        try:
            ws = await session.ws_connect(
                url,
                headers={"Authorization": f"Bearer {token}"},
                proxy=proxy,
                proxy_auth=proxy_auth,
                autoping=False,
                max_msg_size=max_frame_bytes,
                decode_text=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
            )
        except aiohttp.WSServerHandshakeError as error:
            raise HandshakeRefused(error.status, _retry_after_s(error)) from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise SocketFailed(f"{type(error).__name__}: {error}") from error
        return cls(ws)

    async def receive(self) -> bytes | Heard | Closed:
        """The next text, a sign of life, or the end."""
        message = await self._ws.receive()
        kind = message.type
        if kind is WSMsgType.TEXT:
            return message.data  # type: ignore[no-any-return]
        if kind is WSMsgType.PING:
            await self._ws.pong(message.data)
            return HEARD
        if kind is WSMsgType.PONG or kind is WSMsgType.BINARY:
            return HEARD
        if kind is WSMsgType.CLOSE:
            return Closed(message.data or 1005, message.extra or "")
        code = self._ws.close_code
        return Closed(1006 if code is None else code, str(message.data or "connection lost"))

    async def send(self, frames: list[bytes]) -> None:
        """All of them, in order, in one write; waits while the peer does not read. Raises SocketFailed."""
        try:
            with self._cork:
                for frame in frames:
                    await self._ws.send_frame(frame, WSMsgType.TEXT)
        except (aiohttp.ClientError, OSError) as error:
            raise SocketFailed(f"{type(error).__name__}: {error}") from error

    async def ping(self) -> None:
        """Raises SocketFailed."""
        try:
            await self._ws.ping()
        except (aiohttp.ClientError, OSError) as error:
            raise SocketFailed(f"{type(error).__name__}: {error}") from error

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye and wait a little for the answer; never raises for a peer that is gone."""
        try:
            await self._ws.close(code=code, message=reason.encode()[:120])
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._cork.transport.abort()


class _Cork:
    """Stands in for the transport of one socket and holds its writes back while a `with` block runs."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._held: list[bytes] | None = None

    @classmethod
    def on(cls, ws: aiohttp.ClientWebSocketResponse[bool]) -> _Cork:
        writer = ws._writer
        cork = cls(writer.transport)
        # aiohttp's writer asks its transport for exactly two things: is_closing and write.
        writer.transport = cork  # type: ignore[assignment]
        return cork

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._held is None:
            self.transport.write(data)
        else:
            self._held.append(data)

    def __enter__(self) -> None:
        self._held = []

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if not held or self.transport.is_closing():
            return
        if len(held) == 1:
            self.transport.write(held[0])
        elif sum(map(len, held)) <= _JOIN_MAX_BYTES:
            self.transport.write(b"".join(held))
        else:
            self.transport.writelines(held)


def _retry_after_s(error: aiohttp.WSServerHandshakeError) -> float | None:
    text = error.headers.get("Retry-After", "").strip() if error.headers is not None else ""
    return float(text) if text.isdigit() else None
