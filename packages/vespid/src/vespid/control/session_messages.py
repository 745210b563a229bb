"""What is said in a session, and what stops it: messages, cancel, reset. `dispatch.conversation` does it.

202 means that the message is committed: it will be answered exactly once, or its answer is an error. Over HTTP the
answer is read from the session's events; live it is told on the client socket.
"""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody

from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.session_view import Session, SessionEvent, shown_event
from vespid.control.sessions import NOT_FOUND, read_session
from vespid.dispatch.audit import Doer
from vespid.domain.session_message import BODY_MAX_BYTES, SessionMessage
from vespid.errors import bad_request
from vespid_protocol.ids import SessionId

_KEY_MAX_CHARS = 255


class Accepted(msgspec.Struct, frozen=True):
    """The message is committed."""

    event: SessionEvent
    accepted: bool = True


class Reset(msgspec.Struct, frozen=True):
    """`clear_history` forgets what was said, `keep_history` (the default) does not. Memory stays."""

    mode: Literal["keep_history", "clear_history"] | None = None


class SessionDone(msgspec.Struct, frozen=True):
    """It is done; the session as it stands."""

    session: Session
    ok: bool = True


@post(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}/messages",
    guards=[org_member],
    status_code=202,
    request_max_body_size=BODY_MAX_BYTES,
    responses=errors(409),
    operation_id="sendSessionMessage",
    tags=["sessions"],
)
async def send_message(
    session_id: FromPath[str],
    data: JSONBody[SessionMessage],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(name="Idempotency-Key", description="As idempotencyKey in the body."),
    ] = None,
) -> Accepted:
    """Say something. With an idempotencyKey a repeat answers the first message's event and runs no second turn."""
    session = _session_id(session_id)
    message = _keyed(data, idempotency_key)
    event = await deps.conversation.send(tenant.org_id, session, tenant.user_id, message)
    return Accepted(shown_event(event))


@post(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}/cancel",
    guards=[org_member],
    status_code=200,
    operation_id="cancelSessionTurn",
    tags=["sessions"],
)
async def cancel_turn(
    session_id: FromPath[str], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> SessionDone:
    """Stop the running turn, or the next where none runs yet; with nothing to stop it changes nothing."""
    session = _session_id(session_id)
    await deps.conversation.cancel(tenant.org_id, session)
    return SessionDone((await read_session(tenant, UUID(session))).session)


@post(
    "/v1/orgs/{org_id:str}/sessions/{session_id:str}/reset",
    guards=[org_member],
    status_code=200,
    operation_id="resetSession",
    tags=["sessions"],
)
async def reset_session(
    session_id: FromPath[str],
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    data: JSONBody[Reset | None] = None,
) -> SessionDone:
    """Cancel what runs and what waits, and let the agent begin anew."""
    session = _session_id(session_id)
    mode = data.mode if data is not None else None
    by = Doer(tenant.principal, tenant.origin)
    await deps.conversation.reset(tenant.org_id, session, mode or "keep_history", by)
    return SessionDone((await read_session(tenant, UUID(session))).session)


def _session_id(text: str) -> SessionId:
    return SessionId(str(row_id(text, *NOT_FOUND)))


def _keyed(message: SessionMessage, header: str | None) -> SessionMessage:
    """The message with its key, wherever that was given. Raises ApiError 400."""
    if header is None:
        return message
    if not 0 < len(header) <= _KEY_MAX_CHARS or not header.isprintable():
        raise bad_request(f"Idempotency-Key is 1..{_KEY_MAX_CHARS} printable characters.", field="Idempotency-Key")
    if message.idempotency_key not in (None, header):
        raise bad_request("Differs from the header Idempotency-Key; give one of the two.", field="idempotencyKey")
    return msgspec.structs.replace(message, idempotency_key=header)


routes = [send_message, cancel_turn, reset_session]
