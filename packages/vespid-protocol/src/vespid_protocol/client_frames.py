"""Every frame of the client socket, as a tagged Struct: what people's programs say to the gateway, and what they hear.

Named and shaped as the frames of the executor socket (`frames.py`). `ClientFrame` is what a client may send,
`ServerFrame` what it is sent. In the latter nothing is left out that the contract calls nullable: it is ``null``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, UnsetType

from vespid_protocol.frames import Count, Frame, Id, Part

MESSAGE_MAX_CHARS = 50_000
ATTACHMENTS_MAX = 32
ATTACHMENT_TEXT_MAX_CHARS = 100_000

IdempotencyKey: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]


class Attachment(Part, frozen=True, kw_only=True):
    """Something given along with a message: text, or where it can be fetched."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    mime_type: Annotated[str, Meta(min_length=1, max_length=120)]
    content_url: Annotated[str, Meta(max_length=2_048)] | None = None
    content_text: Annotated[str, Meta(max_length=ATTACHMENT_TEXT_MAX_CHARS)] | None = None
    metadata: dict[str, Any] | None = None


# --- client to gateway -----------------------------------------------------------------------------------------------


class ClientHello(Frame, frozen=True, kw_only=True, tag="client_hello"):
    """Who I am, for the log."""

    client_version: Annotated[str, Meta(max_length=256)] | None = None


class SessionJoin(Frame, frozen=True, kw_only=True, tag="session_join"):
    """Tell me what happened after `afterSeq` (without it: the last 200 events), and then what happens."""

    session_id: Id
    after_seq: Count | None = None


class SessionSend(Frame, frozen=True, kw_only=True, tag="session_send"):
    """Say something. The same `idempotencyKey` in one session is one message, however often it is sent."""

    session_id: Id
    message: Annotated[str, Meta(min_length=1, max_length=MESSAGE_MAX_CHARS)]
    attachments: Annotated[list[Attachment], Meta(max_length=ATTACHMENTS_MAX)] | None = None
    idempotency_key: IdempotencyKey | None = None


class SessionCancel(Frame, frozen=True, kw_only=True, tag="session_cancel"):
    """Stop the running turn."""

    session_id: Id


class SessionResetAgent(Frame, frozen=True, kw_only=True, tag="session_reset_agent"):
    """End what runs and let the agent begin anew; `clear_history` makes it forget."""

    session_id: Id
    mode: Literal["keep_history", "clear_history"] | None = None


class SessionLeave(Frame, frozen=True, kw_only=True, tag="session_leave"):
    """Tell me no more of it."""

    session_id: Id


# --- gateway to client -----------------------------------------------------------------------------------------------


class SessionAck(Frame, frozen=True, kw_only=True, tag="session_ack"):
    """You have joined; or, with `userEventSeq`, a message is committed as the event of that seq."""

    session_id: str
    user_event_seq: int | UnsetType = msgspec.UNSET


class SessionState(Frame, frozen=True, kw_only=True, tag="session_state"):
    """Where the session lives; sent at the join and whenever it moves."""

    session_id: str
    pinned_executor_id: str | None
    pinned_executor_pool: Literal["managed", "byon"] | None
    pinned_agent_id: str | None
    routed_agent_id: str | None
    scope: str
    execution_mode: Literal["pinned-node-host"]


class SessionEventV2(Frame, frozen=True, kw_only=True, tag="session_event_v2"):
    """A persisted event; in the order of `seq`, from 1, each once."""

    session_id: str
    seq: int
    event_type: str
    level: str
    payload: Raw
    created_at: str


class AgentDelta(Frame, frozen=True, kw_only=True, tag="agent_delta"):
    """More of the answer while the turn runs; `seq` is that of the message it answers."""

    session_id: str
    seq: int
    content: str
    created_at: str


class AgentFinal(Frame, frozen=True, kw_only=True, tag="agent_final"):
    """The whole answer, behind its event; `seq` is the event's."""

    session_id: str
    seq: int
    content: str
    payload: Raw
    created_at: str


class SessionErrorFrame(Frame, frozen=True, kw_only=True, tag="session_error"):
    """What you asked for was refused, or a turn failed."""

    code: str
    message: str
    session_id: str | None = None


ClientFrame: TypeAlias = ClientHello | SessionJoin | SessionSend | SessionCancel | SessionResetAgent | SessionLeave
ServerFrame: TypeAlias = SessionAck | SessionState | SessionEventV2 | AgentDelta | AgentFinal | SessionErrorFrame
