"""What a running turn says: its text in pieces, and its tool events between them.

Pieces made in one turn of the loop leave as one, never across an event. Text is kept whole until the turn ends: what a
slow link did not take goes with the next piece, and a new v2 link gets all of it again. What may be the beginning of a
secret is held back until it is known not to be one, beyond an event too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from vespid_agent.clock import epoch_ms
from vespid_protocol.frames import EVENT_MESSAGE_MAX_CHARS, Event, Level
from vespid_runtime.redaction import Redactor

DELTA_MAX_CHARS = 64 * 1024


class TurnStream:
    """The output of one turn; `TurnOutput` for its engine."""

    def __init__(
        self, redactor: Redactor, max_chars: int, send: Callable[[str], bool], tell: Callable[[Event], None]
    ) -> None:
        """`send` puts a piece of text on the link, if there is room; whether there was. `tell` takes an event."""
        self._redactor = redactor
        self._redacted = redactor.stream()
        # How much more text is sent. Cut behind the redaction, or a secret at the edge would show its beginning.
        self._room = max_chars
        self._send = send
        self._tell = tell
        self._text: list[str] = []
        # What this link has not taken.
        self._unsent: list[str] = []
        self._seq = 0
        self._is_due = False
        self._is_closed = False

    def mask(self, redactor: Redactor) -> None:
        """What is said from here on goes by this one. Before anything was said."""
        self._redactor = redactor
        self._redacted = redactor.stream()

    def delta(self, text: str) -> None:
        if not self._is_closed:
            self._add(self._redacted.feed(text))

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        if self._is_closed:
            return
        self.flush()
        self._seq += 1
        raw: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if payload is not None:
            raw = msgspec.Raw(self._redactor.redact_raw(msgspec.json.encode(payload)))
        said = None if message is None else self._redactor.redact(message)[:EVENT_MESSAGE_MAX_CHARS]
        self._tell(Event(seq=self._seq, ts=epoch_ms(), kind=kind, level=level, message=said, payload=raw))

    async def keep(self, state: bytes) -> None:
        """Nothing: a turn that is tried again goes by its events, which the gateway has."""

    def flush(self) -> None:
        """Send what waits, as far as the link takes it."""
        self._is_due = False
        text = "".join(self._unsent)
        for start in range(0, len(text), DELTA_MAX_CHARS):
            if not self._send(text[start : start + DELTA_MAX_CHARS]):
                self._unsent = [text[start:]]
                return
        self._unsent = []

    def repeat(self) -> None:
        """There is a new link: all of the text, from its beginning."""
        self._unsent = ["".join(self._text)]
        self.flush()

    def close(self) -> None:
        """The engine has ended; nothing more is said."""
        if not self._is_closed:
            self._is_closed = True
            self._add(self._redacted.finish())
            self.flush()

    def _add(self, text: str) -> None:
        taken = text[: self._room]
        if not taken:
            return
        self._room -= len(taken)
        self._text.append(taken)
        self._unsent.append(taken)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.flush)
