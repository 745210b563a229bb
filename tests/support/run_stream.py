"""A run's live events, as somebody reads them over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from tests.support.control import Caller, Control

PATIENCE_S = 20


class Frames:
    """Server-sent events, as they arrive."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._frames = self._read()

    async def _read(self) -> AsyncIterator[dict[str, str]]:
        frame: dict[str, str] = {}
        async for line in self.answer.content:
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                frame["comment"] = text
            elif text:
                name, _, value = text.partition(": ")
                frame[name] = value
            else:
                yield frame
                frame = {}

    async def next(self) -> dict[str, str]:
        """The next frame that is not a comment."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame = await anext(self._frames)
                if "comment" not in frame:
                    return frame

    async def rest(self) -> list[dict[str, str]]:
        """Everything up to the end."""
        async with asyncio.timeout(PATIENCE_S):
            return [frame async for frame in self._frames if "comment" not in frame]


class Opened:
    """A stream that a caller opened."""

    def __init__(self, control: Control, caller: Caller, path: str, **headers: str) -> None:
        sent = {"Authorization": f"Bearer {caller.token}", "X-Org-Id": str(caller.org_id)} | headers
        self._request = control.http.get(path.replace("{org}", str(caller.org_id)), headers=sent)

    async def __aenter__(self) -> Frames:
        return Frames(await self._request.__aenter__())

    async def __aexit__(self, *exc: Any) -> None:
        await self._request.__aexit__(*exc)
