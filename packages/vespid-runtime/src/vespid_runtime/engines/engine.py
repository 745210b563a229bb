"""What every engine is: something that answers one turn at a time, and says what it does meanwhile.

    answer = await engine.turn(request, output)

A turn is a message of a session, or a node of a run: then there is no history and no session. An engine keeps nothing
between turns: the request brings the history. It is stopped by cancelling its task; it then ends what it began and lets
the cancellation through. What it says is redacted, journaled and sent by its host, so an engine masks nothing and
resends nothing. Whatever it does for the outside world it does under the idempotency key, because a turn may be tried
again on another host, with the tool events of the earlier try in `prior`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from vespid_protocol.frames import HistoryEntry, Level
from vespid_runtime.engines.config import Output, SessionConfig
from vespid_runtime.memory.workspace import MemoryWorkspace
from vespid_runtime.models.types import Usage
from vespid_runtime.tools.approval import ApprovalAsked, Approvals
from vespid_runtime.tools.event import ToolEvent
from vespid_runtime.tools.toolbox import Toolbox


class EngineError(Exception):
    """The turn failed, with a code of the contract. The message is for people."""

    def __init__(self, code: str, message: str, usage: Usage | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        # What the model took all the same.
        self.usage = usage


class EngineParked(Exception):
    """The turn goes no further before people have decided; it goes on from `state` when they have."""

    def __init__(self, state: bytes, asked: Sequence[ApprovalAsked], usage: Usage | None = None) -> None:
        super().__init__(f"{len(asked)} tool calls wait for approval")
        # For `TurnRequest.resume`. A JSON document.
        self.state = state
        self.asked = tuple(asked)
        # What the model took in this try.
        self.usage = usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One message, and all that is needed to answer it."""

    request_id: str
    # None: a node of a run.
    session_id: str | None
    organization_id: str
    user_id: str
    message: str
    # JSON values.
    attachments: tuple[object, ...] = ()
    # What was said before, oldest first; without this message.
    history: tuple[HistoryEntry, ...] = ()
    # Of an earlier try of this turn, oldest first.
    prior: tuple[ToolEvent, ...] = ()
    config: SessionConfig
    # The same in every try of this turn: `<runId>:<nodeId>` of a node. A tool call adds `:tool:<n>`.
    idempotency_key: str
    # The session's documents, None where there is no session. Blocks on the disk: call it from a thread.
    memory: MemoryWorkspace | None = None
    # What the host lets be called; `config.tools_allow` says what of it this turn may call.
    tools: Toolbox = field(default_factory=Toolbox)
    approvals: Approvals = field(default_factory=Approvals)
    # What the answer has to be.
    output: Output = field(default_factory=Output)
    # A folder for what works with files: the node's own, or the session's. None: this host gives none.
    workdir: Path | None = None
    # What an earlier try kept last, or was parked with: the turn goes on from there.
    resume: bytes | None = None


class TurnOutput(Protocol):
    """Where an engine says what it does while it runs. Called on the loop."""

    def delta(self, text: str) -> None:
        """The next piece of the answer's text. Never waits."""
        ...

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        """A tool is called, or has answered. `payload`: a JSON value. Never waits."""
        ...

    async def keep(self, state: bytes) -> None:
        """Returns when the next try will find `state`, a JSON document, as far as the host has a place for it."""
        ...


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """The whole text, and what else there is to say: a JSON object."""

    content: str
    payload: dict[str, object] | None = None
    # Where JSON was asked for: the answer, decoded.
    value: object = msgspec.UNSET
    # What the model took, where the engine knows.
    usage: Usage | None = None


class Engine(Protocol):
    """One kind of answering."""

    # As in `names.py`.
    id: str

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        """Raises EngineError, and EngineParked where `request.approvals` asks for people."""
        ...
