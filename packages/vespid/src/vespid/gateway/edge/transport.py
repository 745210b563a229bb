"""Text frames to one WebSocket, those of one loop turn as one write.

The server's frames are unmasked and, without compression, a header of two to ten bytes before the text; that much is
written here, so that a burst costs one system call. Control frames, and everything on a compressed socket, go through
aiohttp, which writes to the same transport in the same order.
"""

import asyncio
import struct

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_FINAL_TEXT = 0x81
# More than this unread by the peer, for longer than SLOW_S: it is cut off.
BACKLOG_MAX_BYTES = 8 * 1024 * 1024
SLOW_S = 10.0
# For the peer to read the close frame and to answer it.
CLOSE_S = 10.0


def text_frame_header(length: int) -> bytes:
    """The header of one final, unmasked text frame (RFC 6455 §5.2)."""
    if length < 126:
        return bytes((_FINAL_TEXT, length))
    if length < 65_536:
        return struct.pack("!BBH", _FINAL_TEXT, 126, length)
    return struct.pack("!BBQ", _FINAL_TEXT, 127, length)


class Transport:
    """Where a connection's frames go."""

    __slots__ = ("_loop", "_pending", "_slow_since", "_socket", "_stream", "_writer")

    def __init__(self, socket: web.WebSocketResponse, stream: asyncio.Transport, writer: AbstractStreamWriter) -> None:
        self._socket = socket
        self._stream = stream
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        # Loop time since when more than BACKLOG_MAX_BYTES are unread; None: it keeps up.
        self._slow_since: float | None = None

    def send(self, text: bytes) -> None:
        """Write one text frame at the end of this loop turn."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(text_frame_header(len(text)))
        self._pending.append(text)

    def is_slow(self) -> bool:
        """Whether the peer has been too far behind for too long."""
        if self._stream.is_closing() or self._stream.get_write_buffer_size() < BACKLOG_MAX_BYTES:
            self._slow_since = None
            return False
        now = self._loop.time()
        if self._slow_since is None:
            self._slow_since = now
        return now - self._slow_since > SLOW_S

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken, because the peer does not read them."""
        return sum(map(len, self._pending)) + self._stream.get_write_buffer_size()

    async def drained(self) -> None:
        """Return when the peer has read nearly everything, or is gone."""
        self._flush()
        await self._writer.drain()

    async def ping(self) -> None:
        await self._socket.ping()

    async def close(self, code: int, reason: str) -> None:
        """Send what is pending, then the close frame; waits CLOSE_S at most for it to be read and answered."""
        self._flush()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code=code, message=reason.encode()[:120])
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut the line without a word."""
        self._stream.abort()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and not self._stream.is_closing():
            self._stream.write(b"".join(pending))
