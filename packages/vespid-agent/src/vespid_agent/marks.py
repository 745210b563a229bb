"""What one request has to have reaped, should this process die: a mark for each of its calls, several at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

_decoder = msgspec.json.Decoder(list[str])


class Marks:
    """Of one request. `write` puts them all on the disk, where they take the place of those before."""

    def __init__(self, write: Callable[[str], Awaitable[None]]) -> None:
        self._write = write
        self._marks: dict[str, str] = {}

    async def put(self, key: str, mark: str) -> None:
        """Returns when it is on disk. "" as `mark`: the call is over, which the next write tells."""
        if mark:
            self._marks[key] = mark
            await self._write(msgspec.json.encode(list(self._marks.values())).decode())
        else:
            self._marks.pop(key, None)


def read_marks(text: str) -> list[str]:
    """Those of one request, from its journal; an earlier version of the agent wrote one by itself."""
    return _decoder.decode(text) if text.startswith("[") else [text]
