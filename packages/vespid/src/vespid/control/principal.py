"""Who calls: from the request's credential to a principal.

A credential is, in this order: `Authorization: Bearer` with an access token or an API key, or the session cookie. The
cookie is sent by browsers without anybody asking, so a write that rests on it needs an `Origin` that is allowed.
"""

from collections.abc import Collection
from typing import Any, Literal
from uuid import UUID

import msgspec
from litestar.connection import ASGIConnection

from vespid.control.deps import Deps
from vespid.errors import ApiError, forbidden, unauthorized
from vespid.security.access_tokens import AccessTokenInvalid
from vespid.security.refresh_tokens import ROTATION_GRACE_S, is_well_formed
from vespid.store import auth_sessions
from vespid_protocol.ids import IdInvalid, OrgId, UserId, hash_token, parse_token

Connection = ASGIConnection[Any, Any, Any, Any]

SESSION_COOKIE = "vespid_session"
API_KEY_PREFIX = "vak"
_PRINCIPAL = "vespid_principal"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller."""

    user_id: UserId
    email: str
    via: Literal["access_token", "cookie", "api_key"]
    # The login, for people; None for API keys.
    session_id: str | None = None
    # The key and its organization, for machines; None for people.
    api_key_id: str | None = None
    api_key_org_id: OrgId | None = None


class Standing(msgspec.Struct, frozen=True):
    """A principal, and its role in the organization that was asked about (None: not a member, or not asked)."""

    principal: Principal
    role: str | None


def set_principal(scope: Any, principal: Principal) -> None:
    """Keep who calls with the request; guards do this."""
    scope["state"][_PRINCIPAL] = principal


def principal_of(scope: Any) -> Principal:
    """Who calls, on a route that a guard protects."""
    principal: Principal = scope["state"][_PRINCIPAL]
    return principal


async def authenticate(connection: Connection, deps: Deps, org_id: OrgId | None) -> Standing:
    """Who calls, and what they are in this organization. Raises ApiError 401, or 403 for a foreign Origin."""
    header = connection.headers.get("authorization")
    if header is not None:
        scheme, _, credential = header.partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise unauthorized("The Authorization header is not a bearer credential.")
        if f".{API_KEY_PREFIX}_" in credential:
            return await _by_api_key(deps, credential, org_id)
        return await _by_access_token(deps, credential, org_id)
    cookie = connection.cookies.get(SESSION_COOKIE)
    if cookie is None:
        raise unauthorized()
    require_allowed_origin(connection, deps.settings.allowed_origins)
    return await _by_cookie(deps, cookie, org_id)


def require_allowed_origin(connection: Connection, allowed: Collection[str]) -> None:
    """Raises ApiError 403 for a write whose `Origin` is missing or is not one of ours."""
    if connection.scope.get("method") in _READS:
        return
    origin = connection.headers.get("origin")
    if origin is None or origin.rstrip("/") not in allowed:
        raise forbidden("A write that rests on the session cookie needs an allowed Origin.")


async def _by_access_token(deps: Deps, token: str, org_id: OrgId | None) -> Standing:
    try:
        claims = deps.access_tokens.verify(token, deps.now_ms() // 1000)
    except AccessTokenInvalid:
        raise _expired() from None
    standing = await deps.authorizer.standing(UUID(claims.session_id), UUID(claims.user_id), org_id)
    if not standing.session_live:
        raise _expired()
    principal = Principal(claims.user_id, claims.email, "access_token", session_id=claims.session_id)
    return Standing(principal, standing.role)


async def _by_cookie(deps: Deps, cookie: str, org_id: OrgId | None) -> Standing:
    if not is_well_formed(cookie):
        raise _expired()
    login = await auth_sessions.find_by_refresh_token(deps.database, hash_token(cookie))
    # A rotated cookie may still be on its way in another tab.
    if login is None or not login.is_usable(ROTATION_GRACE_S):
        raise _expired()
    standing = await deps.authorizer.standing(login.session_id, login.user_id, org_id)
    if not standing.session_live:
        raise _expired()
    principal = Principal(UserId(str(login.user_id)), login.email, "cookie", session_id=str(login.session_id))
    return Standing(principal, standing.role)


async def _by_api_key(deps: Deps, key: str, org_id: OrgId | None) -> Standing:
    try:
        parsed = parse_token(key)
    except IdInvalid:
        raise _expired() from None
    found = await auth_sessions.authorize_api_key(deps.database, UUID(parsed.subject), parsed.sha256)
    if found is None:
        raise _expired()
    principal = Principal(
        UserId(str(found.user_id)),
        found.email,
        "api_key",
        api_key_id=str(found.id),
        api_key_org_id=OrgId(parsed.subject),
    )
    # A key means nothing outside its own organization.
    return Standing(principal, found.role if parsed.subject == org_id else None)


def _expired() -> ApiError:
    return unauthorized("The credential is not valid, or no longer.")
