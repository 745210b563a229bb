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
from vespid_runtime.models.types import Usage

TEXT_DELTA = "text_delta"
JOIN_S = 0.05
JOIN_CHARS = 8 * 1024
# What is larger is not kept: the next attempt then begins anew, with the events that were told.
KEPT_MAX_BYTES = 2 * 1024 * 1024


class AgentStream:
    """The output of one node; `TurnOutput` for its engine. `job` knows by now every secret that may be said."""

    def __init__(self, job: Job, resumed: bytes | None) -> None:
        """`resumed`: what the engine goes on from."""
        self._job = job
        self._before = usage_of(resumed)
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
        output = self._job.redactor.redact_raw(msgspec.json.encode(self.put_away(state)))
        await self._job.keep(output if len(output) <= KEPT_MAX_BYTES else None)

    def put_away(self, state: bytes) -> dict[str, object]:
        """What a failure says that the next attempt can go on from."""
        output: dict[str, object] = {LOOP: msgspec.Raw(state)}
        used = usage_of(state)
        if used is not None:
            output["usage"] = msgspec.to_builtins(_since(used, self._before))
        return output

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


class _Kept(msgspec.Struct, frozen=True):
    """Of what an engine keeps, the part that anybody understands."""

    usage: Usage | None = None


_decoder = msgspec.json.Decoder(_Kept)


def usage_of(state: bytes | None) -> Usage | None:
    """What the model took until then, as far as the engine kept that."""
    if state is None:
        return None
    try:
        return _decoder.decode(state).usage
    except msgspec.DecodeError:
        return None


def _since(used: Usage, before: Usage | None) -> Usage:
    """Of this attempt alone: what an earlier one took was told by it."""
    if before is None:
        return used
    return Usage(
        input_tokens=max(used.input_tokens - before.input_tokens, 0),
        output_tokens=max(used.output_tokens - before.output_tokens, 0),
        total_tokens=max(used.total_tokens - before.total_tokens, 0),
    )
