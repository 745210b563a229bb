"""What every engine is: something that answers one turn at a time, and says what it does meanwhile.

    answer = await engine.turn(request, output)

An engine keeps nothing between turns: the request brings the history. It is stopped by cancelling its task; it then
ends what it began and lets the cancellation through. What it says is redacted, journaled and sent by its host, so an
engine masks nothing and resends nothing. Whatever it does for the outside world it does under the idempotency key,
because a turn may be tried again on another host, with the tool events of the earlier try in `prior`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from vespid_protocol.frames import HistoryEntry, Level
from vespid_runtime.engines.config import SessionConfig
from vespid_runtime.memory.workspace import MemoryWorkspace

# Kinds of events that a session shows; each call is followed by its result.
TOOL_CALL = "tool_call"
TOOL_RESULT = "tool_result"


class EngineError(Exception):
    """The turn failed, with a code of the contract. The message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ToolEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier try of the same turn called, or was answered."""

    kind: str
    level: Level = "info"
    message: str | None = None
    # A JSON value.
    payload: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One user message, and all that is needed to answer it."""

    request_id: str
    session_id: str
    organization_id: str
    user_id: str
    message: str
    # JSON values.
    attachments: tuple[object, ...]
    # What was said before, oldest first; without this message.
    history: tuple[HistoryEntry, ...]
    # Of an earlier try of this turn, oldest first.
    prior: tuple[ToolEvent, ...]
    config: SessionConfig
    # The same in every try of this turn. A tool call adds `:tool:<n>`.
    idempotency_key: str
    # The session's documents. Blocks on the disk: call it from a thread.
    memory: MemoryWorkspace


class TurnOutput(Protocol):
    """Where an engine says what it does while it runs. Called on the loop; never waits."""

    def delta(self, text: str) -> None:
        """The next piece of the answer's text."""
        ...

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        """A tool is called, or has answered. `payload`: a JSON value."""
        ...


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """The whole text, and what else there is to say: a JSON object."""

    content: str
    payload: dict[str, object] | None = None


class Engine(Protocol):
    """One kind of answering."""

    # As in `names.py`.
    id: str

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        """Raises EngineError."""
        ...
