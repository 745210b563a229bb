"""Sessions: made, looked at, given another title. What is said in one is in `session_messages`."""

from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response, get, patch, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter

from vespid.bus.org_news import tell_org
from vespid.control.audit import AuditAction, audit
from vespid.control.body import fields_invalid
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.idempotency import IDEMPOTENT, Existing, Once
from vespid.control.openapi import created, errors
from vespid.control.pagination import Page, provide_page
from vespid.control.session_view import Session, SessionEvent, shown_event, shown_session
from vespid.control.workflows import why_no_action
from vespid.dispatch.conversation import session_not_found
from vespid.dispatch.organizations import settings_of
from vespid.domain.binding import Routed
from vespid.domain.fields import FieldsInvalid
from vespid.domain.selector import Requirement, Selector
from vespid.domain.session_key import session_key
from vespid.domain.session_options import NewSessionBody, SessionOptions, Title, read_options
from vespid.errors import bad_request, not_found
from vespid.store import orgs, secrets
from vespid.store import sessions as rows
from vespid_protocol.ids import ExecutorId, SessionId, is_uuid, new_id

# A session's turn is work of this kind to a host.
TURN_KIND = "agent.run"
NOT_FOUND = ("SESSION_NOT_FOUND", "There is no such session here.")
_MAX_SEQ = 2**62
# Payloads of one page of events; one event is shown however large it is.
PAGE_BYTES = 4 * 1024 * 1024


class SessionChange(msgspec.Struct, frozen=True):
    """What may change of a session: its title; null takes it away."""

    title: Title | msgspec.UnsetType | None = msgspec.UNSET


class SessionAnswer(msgspec.Struct, frozen=True):
    """One session."""

    session: Session


class SessionPage(msgspec.Struct, frozen=True, rename="camel"):
    """The newest first."""

    sessions: list[Session]
    next_cursor: str | None


class SessionEventPage(msgspec.Struct, frozen=True, rename="camel"):
    """The oldest first. On the last page so far `nextCursor` is null; go on from there with `afterSeq`."""

    events: list[SessionEvent]
    next_cursor: str | None


@post(
    "/v1/orgs/{org_id:str}/sessions",
    guards=[org_member],
    opt=IDEMPOTENT,
    responses=created(SessionAnswer, 200) | errors(404),
    operation_id="createSession",
    tags=["sessions"],
)
async def create_session(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    once: NamedDependency[Once],
    data: JSONBody[NewSessionBody | None] = None,
) -> Response[SessionAnswer]:
    """Begin a session, or answer the one that has the same session key (200)."""
    options = await _read_options(tenant, data or NewSessionBody())
    routed = await deps.conversation.bindings.route(tenant.org_id, options.facts)
    new = _new_session(tenant, options, routed)

    async def create(connection: asyncpg.Connection) -> msgspec.Struct:
        session, is_new = await rows.create_session(connection, new)
        shown = SessionAnswer(shown_session(session))
        if not is_new:
            return Existing(shown)
        await audit(connection, tenant, AuditAction.SESSION_CREATED, session.id, {"sessionKey": session.session_key})
        return shown

    answer = await once(create)
    tell_org(deps.fanout, tenant.org_id, "sessions")
    return answer


@get(
    "/v1/orgs/{org_id:str}/sessions",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listSessions",
    tags=["sessions"],
)
async def list_sessions(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    q: Annotated[
        str | None, QueryParameter(max_length=200, description="Only those whose title or key has it.")
    ] = None,
) -> SessionPage:
    """The organization's sessions, the newest first."""
    async with tenant.transaction() as connection:
        found = await rows.list_sessions(connection, UUID(tenant.org_id), page.after_id(), page.fetch, q or None)
    shown, next_cursor = page.cut(found, key=lambda session: session.id)
    return SessionPage([shown_session(session) for session in shown], next_cursor)


@get(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}",
    guards=[org_member],
    operation_id="getSession",
    tags=["sessions"],
)
async def get_session(session_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> SessionAnswer:
    """One session: what it was made with, and where it is pinned."""
    return await read_session(tenant, row_id(session_id, *NOT_FOUND))


@patch(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}",
    guards=[org_member],
    operation_id="changeSession",
    tags=["sessions"],
)
async def change_session(
    session_id: FromPath[str],
    data: JSONBody[SessionChange],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
) -> SessionAnswer:
    """Give it another title."""
    row = row_id(session_id, *NOT_FOUND)
    if data.title is msgspec.UNSET:
        return await read_session(tenant, row)
    async with tenant.transaction() as connection:
        session = await rows.retitle_session(connection, UUID(tenant.org_id), row, data.title or None)
    if session is None:
        raise session_not_found()
    tell_org(deps.fanout, tenant.org_id, "sessions", str(row))
    return SessionAnswer(shown_session(session))


@get(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}/events",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    operation_id="listSessionEvents",
    tags=["sessions"],
)
async def list_session_events(
    session_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    after_seq: Annotated[
        int | None, QueryParameter(name="afterSeq", ge=0, le=_MAX_SEQ, description="Events behind this one.")
    ] = None,
) -> SessionEventPage:
    """What happened in a session, in order. `cursor` or `afterSeq` says from where on."""
    from_cursor = page.after_seq()
    if from_cursor is not None and after_seq is not None:
        raise bad_request("Give either cursor or afterSeq.", field="afterSeq")
    after = from_cursor if from_cursor is not None else after_seq or 0
    row = row_id(session_id, *NOT_FOUND)
    async with tenant.transaction() as connection:
        session = await rows.read_session(connection, UUID(tenant.org_id), row)
        if session is None:
            raise session_not_found()
        found = await rows.list_events(connection, row, after, page.fetch, max_bytes=PAGE_BYTES)
    # Bytes may have ended the page before its rows did.
    is_more = bool(found) and found[-1].seq < session.event_seq
    shown, next_cursor = page.cut(found, key=lambda event: event.seq, is_more=is_more)
    return SessionEventPage([shown_event(event) for event in shown], next_cursor)


async def read_session(tenant: TenantContext, session_id: UUID) -> SessionAnswer:
    """The session as it stands. Raises ApiError 404."""
    async with tenant.transaction() as connection:
        session = await rows.read_session(connection, UUID(tenant.org_id), session_id)
    if session is None:
        raise session_not_found()
    return SessionAnswer(shown_session(session))


async def _read_options(tenant: TenantContext, body: NewSessionBody) -> SessionOptions:
    """What the body asks for. Raises ApiError 400 by field, 404 SECRET_NOT_FOUND."""
    async with tenant.transaction() as connection:
        stored = await orgs.read_settings(connection, UUID(tenant.org_id))
        default_llm = settings_of(stored).llm.defaults.primary
        try:
            options = read_options(body, role=tenant.role, default_llm=default_llm, check_connector=why_no_action)
        except FieldsInvalid as invalid:
            raise fields_invalid(invalid) from None
        named = options.named_secret_id
        if named is not None and not (is_uuid(named) and await secrets.secret_exists(connection, UUID(named))):
            raise not_found("SECRET_NOT_FOUND", "There is no such secret here.")
    return options


def _new_session(tenant: TenantContext, options: SessionOptions, routed: Routed) -> rows.NewSession:
    facts, engine = options.facts, options.engine
    selector = options.executor_selector or Selector()
    tags = selector.required_tags()
    return rows.NewSession(
        org=tenant.org_id,
        id=SessionId(new_id()),
        user_id=tenant.user_id,
        session_key=session_key(
            tenant.org_id,
            options.scope,
            agent_id=routed.agent_id,
            peer=facts.peer or facts.actor or tenant.user_id,
            channel=facts.channel,
            account=facts.account,
        ),
        scope=options.scope,
        title=options.title,
        routed_agent_id=routed.agent_id,
        binding_id=routed.binding_id,
        routing=_raw(facts),
        executor_selector=None if options.executor_selector is None else _raw(selector),
        pool=selector.pool if selector.pool == "managed" else None,
        only_executor_id=None if selector.executor_id is None else ExecutorId(selector.executor_id),
        required_tags=tags,
        requirement=_raw(Requirement(TURN_KIND, engine=engine.id, tags=tags)),
        engine=engine,
        tools_allow=options.tools_allow,
        limits=_raw(options.limits),
        prompt_system=options.prompt_system,
        prompt_instructions=options.prompt_instructions,
        on_busy=options.on_busy,
        on_host_lost=options.on_host_lost,
        pin_policy=options.pin_policy,
        turn_timeout_ms=options.turn_timeout_ms,
    )


def _raw(value: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


routes = [create_session, list_sessions, get_session, change_session, list_session_events]
