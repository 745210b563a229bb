"""What waits to be sent on one connection.

In order, except that a ping goes first. When the gateway reads slower than work talks, events are refused; results and
answers never are. The box belongs to one socket: when that breaks it is thrown away, because
everything in it that matters is in the journal and is sent again after the next `hello`.
"""

from __future__ import annotations

import asyncio
from collections import deque

EVENTS_MAX_BYTES = 1024 * 1024
ROOM_MAX_BYTES = 1024 * 1024


class Outbox:
    """`put*` from anywhere on the loop; one task takes."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._event_bytes = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._wanted: asyncio.Future[None] | None = None

    def put(self, frame: bytes) -> None:
        """Must be sent."""
        self._frames.append(frame)
        self._bytes += len(frame)
        if self._bytes > ROOM_MAX_BYTES:
            self._room.clear()
        self._wake()

    def put_first(self, frame: bytes) -> None:
        """Must be sent before everything else: a sign of life."""
        self._frames.appendleft(frame)
        self._wake()

    def put_event(self, frame: bytes) -> bool:
        """Sent if there is room; whether there was."""
        if self._event_bytes + len(frame) > EVENTS_MAX_BYTES:
            return False
        self._event_bytes += len(frame)
        self._frames.append(frame)
        self._wake()
        return True

    async def take(self) -> list[bytes]:
        """Everything that waits, once there is anything."""
        if not self._frames:
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        taken = list(self._frames)
        self._frames.clear()
        self._event_bytes = self._bytes = 0
        self._room.set()
        return taken

    async def room(self) -> None:
        """Returns when less than a large frame's worth of bytes waits: for who has much to send and can wait."""
        await self._room.wait()

    @property
    def size(self) -> int:
        """Bytes of results and answers that wait."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._frames)

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
