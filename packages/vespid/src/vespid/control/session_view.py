"""A session and its events as they are answered: rows, spelled as the contract has them."""

from typing import Any
from uuid import UUID

import msgspec

from vespid.control.wire import iso
from vespid.domain.session_options import EngineChoice
from vespid.store.sessions import SessionEventRow, SessionRow

_decode_engine = msgspec.json.Decoder(EngineChoice).decode


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """A conversation with an agent that lives on a host; `pinnedAgentId` is another spelling of `pinnedExecutorId`."""

    id: UUID
    organization_id: UUID
    created_by_user_id: UUID | None
    session_key: str
    scope: str
    title: str | None
    status: str
    pinned_executor_id: UUID | None
    pinned_executor_pool: str | None
    pinned_agent_id: UUID | None
    routed_agent_id: str | None
    binding_id: UUID | None
    execution_mode: str
    executor_selector: Any
    engine_id: str
    llm_provider: str | None
    llm_model: str | None
    tools_allow: list[str]
    limits: Any
    prompt_system: str | None
    prompt_instructions: str | None
    on_message_while_busy: str
    on_host_lost: str
    pin_policy: str
    created_at: str
    updated_at: str
    last_activity_at: str


class SessionEvent(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that happened; `seq` counts from 1 per session, without gaps."""

    id: UUID
    organization_id: UUID
    session_id: UUID
    seq: int
    event_type: str
    level: str
    idempotency_key: str | None
    payload: Any
    created_at: str


def shown_session(session: SessionRow) -> Session:
    engine = _decode_engine(session.engine)
    selector = session.executor_selector
    return Session(
        id=session.id,
        organization_id=session.organization_id,
        created_by_user_id=session.created_by_user_id,
        session_key=session.session_key,
        scope=session.scope,
        title=session.title,
        status=session.status,
        pinned_executor_id=session.pinned_executor_id,
        pinned_executor_pool=session.pinned_pool,
        pinned_agent_id=session.pinned_executor_id,
        routed_agent_id=session.routed_agent_id,
        binding_id=session.binding_id,
        execution_mode="pinned-node-host",
        executor_selector=None if selector is None else msgspec.Raw(selector),
        engine_id=session.engine_id,
        llm_provider=engine.provider,
        llm_model=engine.model,
        tools_allow=session.tools_allow,
        limits=msgspec.Raw(session.limits),
        prompt_system=session.prompt_system,
        prompt_instructions=session.prompt_instructions,
        on_message_while_busy=session.on_busy,
        on_host_lost=session.on_host_lost,
        pin_policy=session.pin_policy,
        created_at=iso(session.created_at),
        updated_at=iso(session.updated_at),
        last_activity_at=iso(session.last_activity_at),
    )


def shown_event(event: SessionEventRow) -> SessionEvent:
    """Its payload goes through undecoded."""
    return SessionEvent(
        id=event.id,
        organization_id=event.organization_id,
        session_id=event.session_id,
        seq=event.seq,
        event_type=event.event_type,
        level=event.level,
        idempotency_key=event.idempotency_key,
        payload=None if event.payload is None else msgspec.Raw(event.payload),
        created_at=iso(event.created_at),
    )
