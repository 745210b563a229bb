"""Sessions, what was said in them, and which agent answers whom."""

from typing import Any

from vespid_client.models.model import Model


class Session(Model, frozen=True, kw_only=True):
    """A conversation with an agent that lives on a host."""

    id: str
    organization_id: str
    created_by_user_id: str | None
    session_key: str
    scope: str
    title: str | None
    status: str
    pinned_executor_id: str | None
    pinned_executor_pool: str | None
    pinned_agent_id: str | None
    routed_agent_id: str | None
    binding_id: str | None
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


class SessionEvent(Model, frozen=True, kw_only=True):
    """One thing that happened; `seq` counts from 1 per session."""

    id: str
    organization_id: str
    session_id: str
    seq: int
    event_type: str
    level: str
    idempotency_key: str | None
    payload: Any
    created_at: str


class AgentBinding(Model, frozen=True, kw_only=True):
    """Which agent answers whom."""

    id: str
    organization_id: str
    agent_id: str
    priority: int
    dimension: str
    match: Any
    metadata: Any
    created_by_user_id: str | None
    created_at: str
    updated_at: str
