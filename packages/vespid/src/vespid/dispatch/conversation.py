"""What people do to a session, over HTTP and over the client socket alike: say something, cancel, reset.

Each verb is one commit, and then tells who should know: the session's channel (`Moved`), whoever places turns
(`TURN_QUEUE`), and the edges of turns that end (`CancelTurn`). Telling may be lost; sweeps and re-reads find it all.
"""

from typing import Literal

from vespid.bus.ports import Fanout, Mail
from vespid.domain.session_message import SessionMessage
from vespid.store.pool import Database
from vespid.store.sessions import SessionEventRow
from vespid.store.turns import MessageSender
from vespid_protocol.ids import OrgId, SessionId, UserId

ResetMode = Literal["keep_history", "clear_history"]


class Conversation:
    """Sessions as people act on them. Whoever calls has checked that the caller is a member of the organization."""

    def __init__(self, database: Database, sender: MessageSender, mail: Mail | None, fanout: Fanout | None) -> None:
        self._database = database
        self._sender = sender
        self._mail = mail
        self._fanout = fanout

    async def send(
        self, org_id: OrgId, session_id: SessionId, user_id: UserId, message: SessionMessage
    ) -> SessionEventRow:
        """The user message's event, committed; for a key that was used before the event of then.

        Raises ApiError: 404 SESSION_NOT_FOUND, 409 SESSION_BUSY, 409 CONFLICT (the key with another message),
        503 where it cannot be accepted.
        """
        raise NotImplementedError

    async def cancel(self, org_id: OrgId, session_id: SessionId) -> None:
        """Stop the running turn; without one nothing happens. Raises ApiError 404 SESSION_NOT_FOUND."""
        raise NotImplementedError

    async def reset(self, org_id: OrgId, session_id: SessionId, mode: ResetMode) -> None:
        """End what runs and let the agent begin anew. Raises ApiError 404 SESSION_NOT_FOUND."""
        raise NotImplementedError
