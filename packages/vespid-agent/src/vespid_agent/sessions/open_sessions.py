"""The sessions that are open on this agent: in memory only, and only so many.

After a restart there are none, and the `hello` says so; the gateway opens them again as their turns come. The same
happens to those that had to go for want of room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from vespid_agent.sessions.session import Session
from vespid_agent.sessions.tools import ToolPolicy
from vespid_protocol.frames import HistoryEntry, MemoryDocument, OpenSession, SessionOpen
from vespid_runtime.engines.config import SessionConfig, decode_config
from vespid_runtime.redaction import Redactor

SESSIONS_MAX = 1_000
# Over all histories.
HISTORY_MAX_CHARS = 128 * 1024 * 1024
# Of opens that have not come whole.
_PARTS_MAX = 64


@dataclass(slots=True)
class _Part:
    """The frames so far of one `session_open`."""

    request_id: str
    history_from: int
    history: list[HistoryEntry] = field(default_factory=list)
    memory: list[MemoryDocument] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened, or brought up to date."""

    session: Session
    # To be brought into its memory. None: nothing was said of that.
    memory: tuple[MemoryDocument, ...] | None
    # It was not here under this generation, so `memory` is all there is.
    is_new: bool


class OpenSessions:
    """By session id, the least recently used first."""

    def __init__(self, redactor: Redactor, tools: ToolPolicy) -> None:
        """`redactor`: knows the agent's own secrets. `tools`: what engines may be allowed here."""
        self._redactor = redactor
        self._tools = tools
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._parts: OrderedDict[str, _Part] = OrderedDict()

    def get(self, session_id: str) -> Session | None:
        session = self._sessions.get(session_id)
        if session is not None:
            self._sessions.move_to_end(session_id)
        return session

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def redactor(self, session_id: str) -> Redactor:
        """What masks what leaves for a session, open or not."""
        session = self._sessions.get(session_id)
        return self._redactor if session is None else session.redactor

    def states(self) -> tuple[OpenSession, ...]:
        """For the hello."""
        return tuple(session.state() for session in self._sessions.values())

    def disconnected(self) -> None:
        """The rest of an open never comes on another socket."""
        self._parts.clear()

    def open(self, frame: SessionOpen) -> Opened | None:
        """None while more of it follows. Raises msgspec.ValidationError for a config that is none."""
        part = self._parts.get(frame.session_id)
        if part is None or part.request_id != frame.request_id:
            part = _Part(frame.request_id, frame.history_from)
            self._parts[frame.session_id] = part
            while len(self._parts) > _PARTS_MAX:
                self._parts.popitem(last=False)
        part.history += frame.history
        if frame.memory is not None:
            part.memory = [*(part.memory or ()), *frame.memory]
        if frame.more:
            return None
        del self._parts[frame.session_id]
        return self._opened(frame, part)

    def make_room(self, busy: set[str]) -> bool:
        """Drops what was not used for longest and does nothing now; whether anything had to go."""
        held = sum(session.chars for session in self._sessions.values())
        dropped = False
        for session_id in list(self._sessions):
            if len(self._sessions) <= SESSIONS_MAX and held <= HISTORY_MAX_CHARS:
                break
            if session_id not in busy:
                held -= self._sessions.pop(session_id).chars
                dropped = True
        return dropped

    def _opened(self, frame: SessionOpen, part: _Part) -> Opened:
        config = self._config(frame.session_config)
        redactor = self._redactor.also(config.secrets) if config.secrets else self._redactor
        held = self._sessions.get(frame.session_id)
        if held is not None and frame.generation is not None and held.generation == frame.generation:
            held.config, held.redactor = config, redactor
            session, is_new = held, False
        else:
            session, is_new = self._anew(frame, config, redactor, held), True
        session.add_history(part.history, part.history_from, frame.history_seq)
        memory = None if part.memory is None else tuple(part.memory)
        versions = [document.version or 0 for document in memory or ()]
        session.memory_version = max([session.memory_version, *versions])
        self._sessions[frame.session_id] = session
        self._sessions.move_to_end(frame.session_id)
        return Opened(session, memory, is_new)

    def _anew(self, frame: SessionOpen, config: SessionConfig, redactor: Redactor, held: Session | None) -> Session:
        session = Session(
            session_id=frame.session_id,
            organization_id=frame.organization_id,
            session_key=frame.session_key,
            config=config,
            redactor=redactor,
            generation=frame.generation,
        )
        if held is not None:
            session.lock = held.lock
        return session

    def _config(self, document: msgspec.Raw) -> SessionConfig:
        config = decode_config(document)
        return msgspec.structs.replace(config, tools_allow=self._tools.narrow(config.tools_allow))
