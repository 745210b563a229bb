"""Which conversation of a program continues a session, as long as both know the same.

A program keeps its own record of what was said, by an id. It is used again only where it ends with the very exchange
that this session's history ends with. A turn takes the note away when it begins, and puts a new one when it has
answered: so a turn that failed or was cancelled midway, one that another host answered, and a session that was begun
anew are all told as text, in a conversation of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from vespid_agent.engines.folders import Folders, write_private
from vespid_protocol.frames import HistoryEntry
from vespid_runtime.models.types import Usage


class Conversation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """As the program has it."""

    id: str
    workdir: str
    # Of the last exchange, and the place in the session of what was said before it.
    exchange: str
    before: int
    # What all its turns took, where the program counts like that.
    usage: Usage | None = None


class Conversations:
    """Those of one engine. Blocks on the disk."""

    def __init__(self, engine_id: str, folders: Folders) -> None:
        self._engine_id = engine_id
        self._folders = folders

    def take(self, session_id: str, workdir: str, history: Sequence[HistoryEntry]) -> Conversation | None:
        """None where there is none that knows what was said. It is not found a second time."""
        path = self._folders.conversations() / self._name(session_id)
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=Conversation)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError):
            kept = None
        path.unlink(missing_ok=True)
        if kept is None or len(history) < 2 or kept.workdir != workdir:
            return None
        before, (asked, answered) = history[:-2], history[-2:]
        knows = (asked.role, answered.role) == ("user", "assistant") and kept.exchange == exchange(
            asked.content, answered.content
        )
        return kept if knows and kept.before == place(before) else None

    def put(self, session_id: str, conversation: Conversation) -> None:
        """Raises OSError."""
        write_private(
            self._folders.conversations() / self._name(session_id), msgspec.json.encode(conversation).decode()
        )

    def _name(self, session_id: str) -> str:
        return hashlib.sha256(f"{self._engine_id} {session_id}".encode()).hexdigest()[:40] + ".json"


def exchange(asked: str, answered: str) -> str:
    """The same for the same two messages."""
    return hashlib.sha256(msgspec.json.encode((asked, answered))).hexdigest()


def place(history: Sequence[HistoryEntry]) -> int:
    """Where a history ends; 0: nothing was said."""
    return history[-1].seq if history else 0
