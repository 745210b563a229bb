"""What people do to a session, over HTTP and over the client socket alike: say something, cancel, reset.

Each verb is one commit, and then tells who should know: the session's channel (`Moved`), whoever places turns
(`TURN_QUEUE`), and the edges of turns that end (`CancelTurn`). Telling may be lost; sweeps and re-reads find it all.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal
from uuid import UUID

import msgspec

from vespid.bus import messages, session_news
from vespid.bus.channels import EDGES, TURN_QUEUE, session_channel, session_item
from vespid.bus.messages import CancelTurn
from vespid.bus.org_news import tell_org
from vespid.bus.ports import Fanout, Mail
from vespid.bus.session_news import Moved
from vespid.dispatch.audit import AuditAction, Doer, audit_as
from vespid.dispatch.bindings import Bindings
from vespid.domain.binding import Facts
from vespid.domain.session_message import SessionMessage
from vespid.errors import ApiError, conflict, not_found, unavailable
from vespid.store import sessions as rows
from vespid.store.failure import STORE_AWAY
from vespid.store.group import OutcomeUnknown
from vespid.store.pool import Database
from vespid.store.sessions import CancelledTurn, Ended, MessageSender, NewMessage, Sent, SessionEventRow
from vespid.store.turns import TurnToPlace
from vespid_protocol.client_frames import Attachment
from vespid_protocol.ids import OrgId, SessionId, UserId

# Told what a turn wants of a host; False: it takes no more.
Place = Callable[[OrgId, SessionId, TurnToPlace], bool]
ResetMode = Literal["keep_history", "clear_history"]

# How long a commit of unknown outcome is tried to be settled, where the message has a key that makes a repeat harmless.
SETTLE_S = 2.0
_SETTLE_PAUSE_S = 0.1
SESSIONS_KEPT = 20_000

_encode = msgspec.json.Encoder().encode
_decode_facts = msgspec.json.Decoder(Facts).decode


class _Payload(msgspec.Struct, frozen=True):
    """Of `user_message`."""

    message: str
    attachments: list[Attachment]


class Conversation:
    """Sessions as people act on them. Whoever calls has checked that the caller is a member of the organization."""

    def __init__(
        self,
        database: Database,
        sender: MessageSender,
        mail: Mail | None,
        fanout: Fanout | None,
        place: Place | None = None,
    ) -> None:
        """`place`: whoever places turns in this very process; without one somebody is woken who looks."""
        self._database = database
        self._sender = sender
        self._mail = mail
        self._fanout = fanout
        self._place = place
        # Its `read` wants to hear the control feed.
        self.bindings = Bindings(database)
        # What each session is routed by; it never changes. Least recently used first.
        self._facts: OrderedDict[tuple[OrgId, SessionId], Facts] = OrderedDict()

    async def send(
        self, org_id: OrgId, session_id: SessionId, user_id: UserId, message: SessionMessage
    ) -> SessionEventRow:
        """The user message's event, committed; for a key that was used before the event of then.

        Raises ApiError: 404 SESSION_NOT_FOUND, 409 SESSION_BUSY, 409 CONFLICT (the key with another message),
        503 where it cannot be accepted.
        """
        routed = await self.bindings.route(org_id, await self._facts_of(org_id, session_id))
        payload = _encode(_Payload(message.message, message.attachments or []))
        new = NewMessage(
            org=org_id,
            session=session_id,
            user=user_id,
            payload=msgspec.Raw(payload),
            key=message.idempotency_key,
            routed=routed,
        )
        sent = await self._settled(new)
        if sent.outcome == "not_found":
            raise session_not_found()
        if sent.outcome == "busy":
            raise conflict("The session is answering another message.", "SESSION_BUSY")
        event = _event_of(new, sent)
        is_repeated = sent.outcome == "repeated"
        if is_repeated and not _is_same(event.payload, payload):
            raise conflict("This idempotencyKey was used with another message.")
        # The statement that put the message down has said what its turn wants: nobody has to read that again.
        is_placed = sent.wanted is not None and self._place is not None and self._place(org_id, session_id, sent.wanted)
        # Of a repeat too: whoever committed it may not have come to tell.
        has_next = is_repeated or (sent.is_next and not is_placed)
        self._tell(org_id, session_id, event.seq, sent.cancelled, has_next=has_next)
        return event

    async def cancel(self, org_id: OrgId, session_id: SessionId) -> None:
        """Stop the running turn; without one nothing happens. Raises ApiError 404 SESSION_NOT_FOUND."""
        async with self._database.tenant(org_id) as connection:
            ended = await rows.cancel_turn(connection, UUID(org_id), UUID(session_id))
        self._tell_end(org_id, session_id, ended)

    async def reset(self, org_id: OrgId, session_id: SessionId, mode: ResetMode, by: Doer) -> None:
        """End what runs and let the agent begin anew. Raises ApiError 404 SESSION_NOT_FOUND."""
        async with self._database.tenant(org_id) as connection:
            ended = await rows.reset_session(connection, UUID(org_id), UUID(session_id), clear=mode == "clear_history")
            if ended is not None:
                # What was said may be forgotten by it, on everybody's behalf.
                action, details = AuditAction.SESSION_RESET, {"mode": mode}
                await audit_as(connection, org_id, by.principal, by.origin, action, session_id, details)
        self._tell_end(org_id, session_id, ended)

    def wake(self, org_id: OrgId, session_id: SessionId) -> None:
        """Have somebody look now whether a message of this session wants a host."""
        if self._mail is not None:
            self._mail.wake(TURN_QUEUE, session_item(org_id, session_id))

    async def _settled(self, new: NewMessage) -> Sent:
        """The outcome. Of a commit that got lost it is known by its key, or not at all."""
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            try:
                return await self._sender.send(new)
            except OutcomeUnknown:
                if new.key is None or asyncio.get_running_loop().time() >= deadline:
                    raise _unaccepted({"unknown": True}) from None
            except STORE_AWAY:
                raise _unaccepted(None) from None
            await asyncio.sleep(_SETTLE_PAUSE_S)

    async def _facts_of(self, org_id: OrgId, session_id: SessionId) -> Facts:
        known = self._facts.get((org_id, session_id))
        if known is not None:
            self._facts.move_to_end((org_id, session_id))
            return known
        async with self._database.tenant(org_id) as connection:
            session = await rows.read_session(connection, UUID(org_id), UUID(session_id))
        if session is None:
            raise session_not_found()
        # Nothing is routed by the context as a whole, and it may be long.
        facts = msgspec.structs.replace(_decode_facts(session.routing), context=None)
        self._facts[(org_id, session_id)] = facts
        while len(self._facts) > SESSIONS_KEPT:
            self._facts.popitem(last=False)
        return facts

    def _tell_end(self, org_id: OrgId, session_id: SessionId, ended: Ended | None) -> None:
        if ended is None:
            raise session_not_found()
        tell_org(self._fanout, org_id, "sessions", session_id)
        self._tell(org_id, session_id, ended.seq, ended.cancelled, has_next=ended.has_next)

    def _tell(
        self, org_id: OrgId, session_id: SessionId, seq: int, cancelled: Iterable[CancelledTurn], *, has_next: bool
    ) -> None:
        if has_next:
            self.wake(org_id, session_id)
        if self._fanout is None:
            return
        self._fanout.publish(session_channel(session_id), session_news.encode(Moved(seq)))
        for turn in cancelled:
            order = CancelTurn(turn.request_id, session_id, org_id, turn.executor_id)
            self._fanout.publish(EDGES, messages.encode(order))


def session_not_found() -> ApiError:
    """There is none, or it is another organization's."""
    return not_found("SESSION_NOT_FOUND", "There is no such session here.")


def _event_of(new: NewMessage, sent: Sent) -> SessionEventRow:
    if sent.id is None or sent.seq is None or sent.created_at is None:
        raise RuntimeError("a message that was accepted has no event")
    return SessionEventRow(
        id=sent.id,
        organization_id=UUID(new.org),
        session_id=UUID(new.session),
        seq=sent.seq,
        turn_seq=sent.seq,
        event_type="user_message",
        level="info",
        idempotency_key=new.key,
        payload=sent.payload,
        created_at=sent.created_at,
    )


def _is_same(stored: bytes | None, given: bytes) -> bool:
    return stored is not None and msgspec.json.decode(stored) == msgspec.json.decode(given)


def _unaccepted(details: dict[str, object] | None) -> ApiError:
    refusal = unavailable("The message cannot be accepted at the moment. Try again with the same idempotencyKey.")
    return ApiError(refusal.status, refusal.code, refusal.message, details, headers=refusal.headers)
