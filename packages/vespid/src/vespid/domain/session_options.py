"""What a session is made with: the body of POST …/sessions, read into one `SessionOptions` with every default in it.

The shapes below are the contract's, limits included; decoding is the first half of the check. `read_options` is the
second: other spellings become one, the organization's default model fills in, and what contradicts itself is told by
field. `null` is as good as left out, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from vespid.domain import engine as engines
from vespid.domain.binding import Facts
from vespid.domain.fields import FieldNotes
from vespid.domain.policy import LlmChoice
from vespid.domain.selector import Selector
from vespid.domain.session_key import Scope
from vespid.domain.tool_name import NO_SUCH_TOOL, connector_of, is_tool
from vespid_protocol.ids import is_uuid

OnBusy = Literal["queue", "reject", "interrupt"]
OnHostLost = Literal["rerun", "fail"]
PinPolicy = Literal["sticky", "home"]

TURN_TIMEOUT_MS = 300_000
TURN_TIMEOUT_MIN_MS = 1_000
TURN_TIMEOUT_MAX_MS = 3_600_000
CONTEXT_MAX_CHARS = 16_384
TITLE_MAX_CHARS = 200

# (connectorId, actionId, or None for any) → None where it exists, else a message that says what does.
ConnectorCheck = Callable[[str, str | None], str | None]

Title = Annotated[str, msgspec.Meta(max_length=TITLE_MAX_CHARS)]
Who = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
PromptText = Annotated[str, msgspec.Meta(max_length=100_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class _Shape(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """camelCase; keys that are not known are ignored."""


class EngineAuth(_Shape, frozen=True, rename="camel"):
    """The secret that pays."""

    secret_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class EngineOption(_Shape, frozen=True, rename="camel"):
    """The engine that answers."""

    id: Name
    model: Name | None = None
    provider: Name | None = None
    auth: EngineAuth | None = None


class LlmOption(_Shape, frozen=True, rename="camel"):
    """Another spelling of the engine's model; without an engine it means `vespid.loop.v1`."""

    provider: Name
    model: Name
    auth: EngineAuth | None = None


class PromptOption(_Shape, frozen=True, rename="camel"):
    """What the agent is told before everything else."""

    instructions: PromptText
    system: PromptText | None = None


class ToolsOption(_Shape, frozen=True, rename="camel"):
    """The tools that it may use."""

    allow: Annotated[list[Name], msgspec.Meta(max_length=256)] | None = None


class Limits(_Shape, frozen=True, rename="camel"):
    """How far one turn may go; `timeoutMs` is 300000 where it is not said."""

    max_turns: Count | None = None
    max_tool_calls: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=TURN_TIMEOUT_MIN_MS, le=TURN_TIMEOUT_MAX_MS)] | None = None
    max_output_chars: Count | None = None
    max_runtime_chars: Count | None = None


class SelectorOption(_Shape, frozen=True, rename="camel"):
    """Which hosts the session may live on."""

    pool: Literal["byon", "managed"] | None = None
    labels: Annotated[list[Tag], msgspec.Meta(max_length=64)] | None = None
    group: Tag | None = None
    tag: Tag | None = None
    executor_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None


class NewSessionBody(_Shape, frozen=True, rename="camel"):
    """A session to be. Everything may be left out."""

    title: Title | None = None
    scope: Scope | None = None
    peer: Who | None = None
    channel: Who | None = None
    actor: Who | None = None
    # `account`, `team` and `parentPeer` in it say more of where people talk; the rest is kept as it is.
    context: dict[str, Any] | None = None
    execution_mode: Literal["pinned-node-host"] | None = None
    engine: EngineOption | None = None
    engine_id: Name | None = None
    llm: LlmOption | None = None
    prompt: PromptOption | None = None
    tools: ToolsOption | None = None
    limits: Limits | None = None
    executor_selector: SelectorOption | None = None
    on_message_while_busy: OnBusy | None = None
    on_host_lost: OnHostLost | None = None
    pin_policy: PinPolicy | None = None


class EngineChoice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The engine as it is kept: one spelling, defaults filled in. The key is a reference, never itself here."""

    id: str
    model: str | None = None
    provider: str | None = None
    secret_id: str | None = None


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All that a session is made with."""

    title: str | None
    scope: Scope
    facts: Facts
    engine: EngineChoice
    # The caller named it (it must exist), and not the organization's settings.
    named_secret_id: str | None
    prompt_system: str | None
    prompt_instructions: str | None
    tools_allow: tuple[str, ...]
    limits: Limits
    turn_timeout_ms: int
    # None: any host of the organization, then managed ones.
    executor_selector: Selector | None
    on_busy: OnBusy
    on_host_lost: OnHostLost
    pin_policy: PinPolicy


def read_options(
    body: NewSessionBody, *, role: str, default_llm: LlmChoice, check_connector: ConnectorCheck | None = None
) -> SessionOptions:
    """The session that is asked for; `role` is the caller's. Raises FieldsInvalid with an entry per field at fault."""
    notes = FieldNotes()
    engine, named_secret_id = _read_engine(body, default_llm, notes)
    facts = _read_facts(body, role, notes)
    tools_allow = _read_tools(body.tools, notes, check_connector)
    selector = _read_selector(body.executor_selector, notes)
    notes.raise_any()
    limits = body.limits or Limits()
    return SessionOptions(
        title=_text_or_none(body.title),
        scope=body.scope or "main",
        facts=facts,
        engine=engine,
        named_secret_id=named_secret_id,
        prompt_system=body.prompt.system if body.prompt else None,
        prompt_instructions=body.prompt.instructions if body.prompt else None,
        tools_allow=tools_allow,
        limits=limits,
        turn_timeout_ms=limits.timeout_ms or TURN_TIMEOUT_MS,
        executor_selector=selector,
        on_busy=body.on_message_while_busy or "queue",
        on_host_lost=body.on_host_lost or "rerun",
        pin_policy=body.pin_policy or "sticky",
    )


# --- the engine ------------------------------------------------------------------------------------------------------


def _read_engine(body: NewSessionBody, default_llm: LlmChoice, notes: FieldNotes) -> tuple[EngineChoice, str | None]:
    """The engine, and the secret that the caller named for it."""
    engine, llm = _said_of(body.engine), _said_of(body.llm)
    provider, model, secret_id = (
        _one_of(engine[field], llm[field], field, notes) for field in ("provider", "model", "auth.secretId")
    )
    engine_id = _engine_id(body, default_llm, notes)
    if engine_id != engines.LOOP or (model is not None and provider is not None):
        return EngineChoice(engine_id, model, provider, secret_id), secret_id
    # Of the organization's default: what is not said, and its secret only for its own provider.
    pays = default_llm.secret_id if provider in (None, default_llm.provider) else None
    model = model or (default_llm.model if provider in (None, default_llm.provider) else None)
    return EngineChoice(engine_id, model, provider or default_llm.provider, secret_id or pays), secret_id


def _engine_id(body: NewSessionBody, default_llm: LlmChoice, notes: FieldNotes) -> str:
    by_field = {"engine.id": body.engine.id if body.engine else None, "engineId": body.engine_id}
    named: set[str] = set()
    for field, engine_id in by_field.items():
        if engine_id is None:
            continue
        known = engines.canonical_engine(engine_id)
        if known is None:
            notes.note(field, f"There is no such engine; use {', '.join(engines.ENGINES)}.")
        else:
            named.add(known)
    if len(named) > 1:
        notes.note("engineId", "Differs from engine.id, of which it is another spelling; drop one.")
    if named:
        return named.pop()
    return engines.LOOP if body.llm is not None or default_llm.provider is not None else engines.ECHO


def _said_of(option: EngineOption | LlmOption | None) -> dict[str, str | None]:
    if option is None:
        return {"provider": None, "model": None, "auth.secretId": None}
    secret_id = option.auth.secret_id if option.auth else None
    return {"provider": option.provider, "model": option.model, "auth.secretId": secret_id}


def _one_of(engine: str | None, llm: str | None, field: str, notes: FieldNotes) -> str | None:
    if engine is not None and llm is not None and engine != llm:
        notes.note(f"llm.{field}", f"Differs from engine.{field}, of which it is another spelling; drop one.")
    return engine if engine is not None else llm


# --- where people talk, tools, hosts ---------------------------------------------------------------------------------


def _read_facts(body: NewSessionBody, role: str, notes: FieldNotes) -> Facts:
    context = body.context or {}
    if len(msgspec.json.encode(context).decode()) > CONTEXT_MAX_CHARS:
        notes.note("context", f"Has more than {CONTEXT_MAX_CHARS} characters as JSON.")
    return Facts(
        peer=_text_or_none(body.peer),
        parent_peer=_from_context(context, "parentPeer", notes),
        channel=_text_or_none(body.channel),
        account=_from_context(context, "account", notes),
        team=_from_context(context, "team", notes),
        actor=_text_or_none(body.actor),
        org_roles=(role,),
        context=body.context,
    )


def _from_context(context: dict[str, Any], key: str, notes: FieldNotes) -> str | None:
    """A fact out of `context`, under its name or that name with `Id` behind it."""
    for name in (key, f"{key}Id"):
        value = context.get(name)
        if value is None:
            continue
        if isinstance(value, str) and 0 < len(value.strip()) <= 200:
            return value
        notes.note(f"context.{name}", "Expected a text of 1..200 characters.")
    return None


def _read_tools(
    tools: ToolsOption | None, notes: FieldNotes, check_connector: ConnectorCheck | None
) -> tuple[str, ...]:
    allow = (tools.allow if tools else None) or []
    for at, name in enumerate(allow):
        field = f"tools.allow[{at}]"
        if not is_tool(name):
            notes.note(field, f"There is {NO_SUCH_TOOL}.")
        elif check_connector is not None and (named := connector_of(name)):
            message = check_connector(*named)
            if message is not None:
                notes.note(field, message)
    return tuple(dict.fromkeys(allow))


def _read_selector(given: SelectorOption | None, notes: FieldNotes) -> Selector | None:
    if given is None:
        return None
    executor_id = given.executor_id.lower() if given.executor_id is not None else None
    if executor_id is not None and not is_uuid(executor_id):
        notes.note("executorSelector.executorId", "Expected a UUID.")
    selector = Selector(given.pool, tuple(given.labels or ()), given.group, given.tag, executor_id)
    return None if selector == Selector() else selector


def _text_or_none(text: str | None) -> str | None:
    """None where there is nothing but blanks."""
    return text if text is not None and text.strip() else None
