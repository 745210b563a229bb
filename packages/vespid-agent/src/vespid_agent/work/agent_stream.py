"""What an engine says while it answers a node: its text in pieces, its tool events between them, and what it keeps.

Text waits up to 50 ms or 8 KiB for company, never across an event. What may be the beginning of a secret is held back
until it is known not to be one. The one thing to know: what an engine keeps is redacted before it is on the disk, so an
engine that goes on from it knows no more than those who read its events.
"""

from __future__ import annotations

import asyncio

import msgspec

from vespid_agent.result import LOOP
from vespid_agent.work.job import Job
from vespid_protocol.frames import Level

TEXT_DELTA = "text_delta"
JOIN_S = 0.05
JOIN_CHARS = 8 * 1024
# What is larger is not kept: the next attempt then begins anew, with the events that were told.
KEPT_MAX_BYTES = 2 * 1024 * 1024


class AgentStream:
    """The output of one node; `TurnOutput` for its engine. `job` knows by now every secret that may be said."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._redacted = job.redactor.stream()
        self._text: list[str] = []
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def delta(self, text: str) -> None:
        if not self._is_closed:
            self._add(self._redacted.feed(text))

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        if self._is_closed:
            return
        self._flush()
        redactor = self._job.redactor
        told = None if payload is None else msgspec.Raw(redactor.redact_raw(msgspec.json.encode(payload)))
        self._job.emit(kind, level, None if message is None else redactor.redact(message), told)

    async def keep(self, state: bytes) -> None:
        output = self._job.redactor.redact_raw(msgspec.json.encode({LOOP: msgspec.Raw(state)}))
        await self._job.keep(output if len(output) <= KEPT_MAX_BYTES else None)

    def close(self) -> None:
        """The engine has ended; nothing more is said."""
        if not self._is_closed:
            self._is_closed = True
            self._add(self._redacted.finish())
            self._flush()

    def _add(self, text: str) -> None:
        if not text:
            return
        self._text.append(text)
        self._waiting += len(text)
        if self._waiting >= JOIN_CHARS:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(JOIN_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        text = "".join(self._text)
        self._text, self._waiting = [], 0
        for start in range(0, len(text), JOIN_CHARS):
            self._job.emit(TEXT_DELTA, "info", None, {"text": text[start : start + JOIN_CHARS]})
