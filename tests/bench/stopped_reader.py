"""A client that joins sessions and never reads: a bare socket, for a library would read on into memory of its own."""

import asyncio
import base64
import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Mapping

import msgspec

_MASKED_TEXT = (0x81, 0x80)
READ_S = 2.0


class StoppedReader:
    """What it is sent piles up at the gateway."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        # Both systems keep little for it; the sender's buffer grows with its segments, and loopback's are 64 KiB.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self._socket.setblocking(False)
        self._port = port

    async def join(self, headers: Mapping[str, str], session_ids: Iterable[str]) -> None:
        """Open the socket and ask for these sessions; what is answered is not read."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        asked = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **headers,
        }
        lines = ["GET /ws/client HTTP/1.1", *(f"{name}: {value}" for name, value in asked.items()), "", ""]
        await loop.sock_sendall(self._socket, "\r\n".join(lines).encode())
        if b" 101 " not in await loop.sock_recv(self._socket, 32):
            raise RuntimeError("the socket of the reader that is to stop was not opened")
        for session_id in session_ids:
            await loop.sock_sendall(self._socket, _frame({"type": "session_join", "sessionId": session_id}))

    async def told_of(self, session_id: str) -> int:
        """Read what was kept after all, for READ_S: how many deltas of that session are in it."""
        loop = asyncio.get_running_loop()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        read = bytearray()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(READ_S):
                while data := await loop.sock_recv(self._socket, 1 << 20):
                    read += data
        return read.count(b'{"type":"agent_delta","sessionId":"%s"' % session_id.encode())

    def close(self) -> None:
        self._socket.close()


def _frame(said: object) -> bytes:
    """One text frame, masked with zeroes."""
    text = msgspec.json.encode(said)
    return bytes((_MASKED_TEXT[0], _MASKED_TEXT[1] | 126)) + struct.pack("!HI", len(text), 0) + text
