"""A task's output as events: a few large ones instead of many small ones, and not without end.

Text waits up to 50 ms or 8 KiB for company. Beyond the cap nothing more is streamed (the result still holds head and
tail); the last event says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vespid_protocol.frames import Level

JOIN_S = 0.05
JOIN_CHARS = 8 * 1024

Emit = Callable[[str, Level, str | None, object], None]


class OutputEvents:
    """Belongs to one task; `add` while it runs, `close` when it has ended."""

    def __init__(self, emit: Emit, max_chars: int) -> None:
        self._emit = emit
        self._max_chars = max_chars
        self._texts: dict[str, list[str]] = {}
        self._offsets: dict[str, int] = {}
        self._waiting = 0
        self._emitted = 0
        self._timer: asyncio.TimerHandle | None = None
        self._full = False

    def add(self, stream: str, text: str, offset: int) -> None:
        """`offset`: where in its stream the text begins, in characters."""
        if self._full or not text:
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
        room = self._max_chars - self._emitted
        if self._full or room <= 0:
            text = ""
        kept = text[:room]
        self._emitted += len(kept)
        for start in range(0, len(kept), JOIN_CHARS):
            piece = kept[start : start + JOIN_CHARS]
            self._emit(
                stream, "info" if stream == "stdout" else "warn", None, {"text": piece, "offset": offset + start}
            )
        if self._emitted >= self._max_chars and not self._full:
            self._full = True
            self._emit(
                "output_truncated", "warn", f"no more output is streamed after {self._max_chars} characters", None
            )
