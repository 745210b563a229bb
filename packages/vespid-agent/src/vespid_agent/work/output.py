"""A task's output as events: a few large ones instead of many small ones.

Text waits up to 50 ms or 8 KiB for company. How much there is of it at all is the sandbox's to limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from vespid_protocol.frames import Level

JOIN_S = 0.05
JOIN_CHARS = 8 * 1024

Emit = Callable[[str, Level, str | None, object], None]


class OutputEvents:
    """Belongs to one task; `add` while it runs, `close` when it has ended."""

    def __init__(self, emit: Emit, told: Mapping[str, object] | None = None) -> None:
        """`told` goes beside the text in every event."""
        self._emit = emit
        self._told = dict(told or {})
        self._texts: dict[str, list[str]] = {}
        self._offsets: dict[str, int] = {}
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: str, text: str, offset: int) -> None:
        """`offset`: where in its stream the text begins, in characters."""
        if not text:
            return
        held = self._texts.get(stream)
        if held is not None and offset != self._offsets[stream] + sum(map(len, held)):
            self._flush_stream(stream)  # output was cut here: the next event begins behind the gap
            held = None
        if held is None:
            self._texts[stream] = [text]
            self._offsets[stream] = offset
        else:
            held.append(text)
        self._waiting += len(text)
        if self._waiting >= JOIN_CHARS:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(JOIN_S, self._flush)

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for stream in list(self._texts):
            self._flush_stream(stream)
        self._waiting = 0

    def _flush_stream(self, stream: str) -> None:
        text = "".join(self._texts.pop(stream))
        offset = self._offsets[stream]
        level: Level = "info" if stream == "stdout" else "warn"
        for start in range(0, len(text), JOIN_CHARS):
            piece = text[start : start + JOIN_CHARS]
            self._emit(stream, level, None, {**self._told, "text": piece, "offset": offset + start})
