"""The Model Context Protocol, spoken by the official SDK, which is imported when somebody first speaks it.

Stateless: each POST is answered by itself, as JSON. So a client needs nothing of one process that another has not.
"""

import asyncio
from importlib import import_module
from typing import Protocol

from litestar.types import Receive, Scope, Send

from vespid.tasks import Tasks


class Speaker(Protocol):
    """Who answers, once it runs."""

    async def run(self, ready: asyncio.Event, ended: asyncio.Event) -> None:
        """Set `ready`, and answer until `ended`."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""


class McpEndpoint:
    """A Service; it takes up nothing until the first request."""

    def __init__(self) -> None:
        self._tasks = Tasks("mcp")
        self._starting = asyncio.Lock()
        self._ended = asyncio.Event()
        self._speaker: Speaker | None = None

    async def start(self) -> None:
        """Nothing yet: the SDK takes a second to import."""
        self._ended.clear()
        self._tasks.open()

    async def stop(self) -> None:
        """End what is under way."""
        self._ended.set()
        await self._tasks.close()
        self._speaker = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, its caller known already."""
        await (await self._running()).answer(scope, receive, send)

    async def _running(self) -> Speaker:
        async with self._starting:
            if self._speaker is None:
                module = await asyncio.to_thread(import_module, "vespid.control.mcp_speaker")
                speaker: Speaker = module.McpSpeaker()
                ready = asyncio.Event()
                self._tasks.start(speaker.run(ready, self._ended))
                await ready.wait()
                self._speaker = speaker
            return self._speaker
