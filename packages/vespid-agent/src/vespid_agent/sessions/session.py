"""One session as this host has it: a copy of its history, which the gateway keeps up.

A turn reads what was said before its own message. Its answer joins the copy when it is told, but counts as here only
once it is acknowledged: the gateway may have had the turn answered elsewhere, or not have wanted the answer any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from vespid_protocol.frames import HistoryEntry, MemoryDocument, OpenSession
from vespid_runtime.engines.config import SessionConfig
from vespid_runtime.redaction import Redactor


@dataclass(frozen=True, slots=True)
class _Answered:
    """The last turn whose answer is in the copy."""

    request_id: str
    # Of its user message, and what `history_seq` was without it.
    event_seq: int
    seq_before: int
    # What takes back what the turn changed in memory.
    undo: tuple[MemoryDocument, ...]


@dataclass(slots=True, kw_only=True)
class Session:
    """Belongs to one generation; the next one's is another object."""

    session_id: str
    organization_id: str
    session_key: str
    config: SessionConfig
    redactor: Redactor
    # None: a base gateway's, which knows no generations.
    generation: int | None
    # In the order of `seq`. The seq of an answer made here is that of its user message.
    history: list[HistoryEntry] = field(default_factory=list)
    # Of the user message of the last turn that is in the copy.
    history_seq: int = 0
    memory_version: int = 0
    # Held by what runs: one turn at a time, and no change of memory meanwhile.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _answered: _Answered | None = None
    _is_confirmed: bool = True

    @property
    def chars(self) -> int:
        """What the copy takes."""
        undo = self._answered.undo if self._answered is not None else ()
        return sum(len(entry.content) for entry in self.history) + sum(len(each.content or "") for each in undo)

    def state(self) -> OpenSession:
        """For the hello. An answer that is not acknowledged counts as missing."""
        seq = self.history_seq
        if self._answered is not None and not self._is_confirmed:
            seq = self._answered.seq_before
        return OpenSession(
            session_id=self.session_id,
            generation=self.generation or 0,
            history_seq=seq,
            memory_version=self.memory_version,
        )

    def add_history(self, entries: list[HistoryEntry], history_from: int, history_seq: int) -> None:
        """What the gateway says was said from `history_from` on; what is here of that gives way."""
        if self._answered is not None and not self._is_confirmed:
            self._drop(self._answered)
        if entries:
            self._cut(min(history_from, entries[0].seq) if history_from else entries[0].seq)
            self.history += entries
        self.history_seq = max(history_seq, self.history_seq)

    def before(self, event_seq: int) -> tuple[HistoryEntry, ...]:
        """What a turn is to know. An answer to its message by an earlier try is no longer part of the copy."""
        if self._answered is not None and self._answered.event_seq >= event_seq:
            self._drop(self._answered)
        self._cut(event_seq)
        return tuple(self.history)

    def answered(
        self, request_id: str, event_seq: int, message: str, content: str, undo: tuple[MemoryDocument, ...] = ()
    ) -> None:
        """The turn has its answer, which is about to be told. `undo`: of what it changed in memory."""
        self._answered = _Answered(request_id, event_seq, self.history_seq, undo)
        self._is_confirmed = False
        self.history.append(HistoryEntry(seq=event_seq, role="user", content=message))
        self.history.append(HistoryEntry(seq=event_seq, role="assistant", content=content))
        self.history_seq = event_seq

    def acknowledged(self, request_id: str) -> None:
        """The gateway has the answer, or had no use for it; if it was cancelled, `unanswered` follows."""
        if self._answered is not None and self._answered.request_id == request_id:
            self._is_confirmed = True

    def unanswered(self, request_id: str) -> tuple[MemoryDocument, ...]:
        """The gateway did not want the answer any more; what takes its memory back."""
        answered = self._answered
        if answered is None or answered.request_id != request_id:
            return ()
        self._drop(answered)
        return answered.undo

    def _drop(self, answered: _Answered) -> None:
        self._cut(answered.event_seq)
        self.history_seq = answered.seq_before
        self._answered, self._is_confirmed = None, True

    def _cut(self, seq: int) -> None:
        """Nothing from `seq` on."""
        while self.history and self.history[-1].seq >= seq:
            self.history.pop()
