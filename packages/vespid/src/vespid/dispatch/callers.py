"""Who calls: from the credential that a request shows to a principal. One code for the API and the client socket.

A credential is, in this order: `Authorization: Bearer` with an access token or an API key, or the session cookie; one
that is not good never falls back to the next. The cookie is sent by browsers without anybody asking, so what could do
harm and rests on it needs an `Origin` that is allowed.
"""

from collections.abc import Callable, Collection
from typing import Literal
from uuid import UUID

import msgspec

from vespid.errors import forbidden, unauthorized
from vespid.security.access_tokens import AccessTokenInvalid, AccessTokens
from vespid.security.refresh_tokens import ROTATION_GRACE_S, is_well_formed
from vespid.store import auth_sessions
from vespid.store.auth_sessions import Authorizer
from vespid.store.pool import Database
from vespid_protocol.ids import IdInvalid, OrgId, UserId, hash_token, parse_token

SESSION_COOKIE = "vespid_session"
API_KEY_PREFIX = "vak"
_REFUSED = "The credential is not valid, or no longer."


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
    api_key_sha256: bytes | None = None


class Standing(msgspec.Struct, frozen=True):
    """A principal, and its role in the organization that was asked about (None: not a member, or not asked)."""

    principal: Principal
    role: str | None


class Shown(msgspec.Struct, frozen=True):
    """What a request shows of who sent it; None: it does not have that header or cookie."""

    authorization: str | None
    cookie: str | None
    origin: str | None
    # Whether a cookie alone is not enough.
    needs_origin: bool


class Callers:
    """Tells who calls, at the moment of asking: nothing is remembered."""

    def __init__(
        self,
        database: Database,
        authorizer: Authorizer,
        access_tokens: AccessTokens,
        allowed_origins: Collection[str],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._authorizer = authorizer
        self._access_tokens = access_tokens
        self._allowed_origins = allowed_origins
        self._now_ms = now_ms

    async def identify(self, shown: Shown, org_id: OrgId | None) -> Standing:
        """Who calls, and what they are in this organization. Raises ApiError 401, or 403 for a foreign Origin."""
        if shown.authorization is not None:
            scheme, _, credential = shown.authorization.partition(" ")
            credential = credential.strip()
            if scheme.lower() != "bearer" or not credential:
                raise unauthorized("The Authorization header is not a bearer credential.")
            if f".{API_KEY_PREFIX}_" in credential:
                return await self._by_api_key(credential, org_id)
            return await self._by_access_token(credential, org_id)
        if shown.cookie is None:
            raise unauthorized()
        if shown.needs_origin:
            require_allowed_origin(shown.origin, self._allowed_origins)
        return await self._by_cookie(shown.cookie, org_id)

    async def of_key(self, authorization: str | None) -> Standing:
        """Whose API key this is, and what it is in its own organization. Raises ApiError 401 for anything else."""
        if authorization is None:
            raise unauthorized("This takes an API key: `Authorization: Bearer <key>`.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or f".{API_KEY_PREFIX}_" not in key:
            raise unauthorized("The Authorization header is not an API key.")
        return await self._by_api_key(key.strip(), None, in_own=True)

    async def may_stay(self, principal: Principal, org_id: OrgId) -> bool:
        """Whether somebody who was let in still belongs there. Raises what the store raises.

        It is the login and not its token that counts: the one that let them in may have expired or been rotated since.
        """
        if principal.session_id is not None:
            standing = await self._authorizer.standing(UUID(principal.session_id), UUID(principal.user_id), org_id)
            return standing.session_live and standing.role is not None
        if principal.api_key_sha256 is None or principal.api_key_org_id != org_id:
            return False
        return await auth_sessions.authorize_api_key(self._database, UUID(org_id), principal.api_key_sha256) is not None

    async def _by_access_token(self, token: str, org_id: OrgId | None) -> Standing:
        try:
            claims = self._access_tokens.verify(token, self._now_ms() // 1000)
        except AccessTokenInvalid:
            raise unauthorized(_REFUSED) from None
        standing = await self._authorizer.standing(UUID(claims.session_id), UUID(claims.user_id), org_id)
        if not standing.session_live:
            raise unauthorized(_REFUSED)
        principal = Principal(claims.user_id, claims.email, "access_token", session_id=claims.session_id)
        return Standing(principal, standing.role)

    async def _by_cookie(self, cookie: str, org_id: OrgId | None) -> Standing:
        if not is_well_formed(cookie):
            raise unauthorized(_REFUSED)
        login = await auth_sessions.find_by_refresh_token(self._database, hash_token(cookie))
        # A rotated cookie may still be on its way in another tab.
        if login is None or not login.is_usable(ROTATION_GRACE_S):
            raise unauthorized(_REFUSED)
        standing = await self._authorizer.standing(login.session_id, login.user_id, org_id)
        if not standing.session_live:
            raise unauthorized(_REFUSED)
        principal = Principal(UserId(str(login.user_id)), login.email, "cookie", session_id=str(login.session_id))
        return Standing(principal, standing.role)

    async def _by_api_key(self, key: str, org_id: OrgId | None, *, in_own: bool = False) -> Standing:
        try:
            parsed = parse_token(key)
        except IdInvalid:
            raise unauthorized(_REFUSED) from None
        found = await auth_sessions.authorize_api_key(self._database, UUID(parsed.subject), parsed.sha256)
        if found is None:
            raise unauthorized(_REFUSED)
        principal = Principal(
            UserId(str(found.user_id)),
            found.email,
            "api_key",
            api_key_id=str(found.id),
            api_key_org_id=OrgId(parsed.subject),
            api_key_sha256=parsed.sha256,
        )
        # A key means nothing outside its own organization.
        return Standing(principal, found.role if in_own or parsed.subject == org_id else None)


def require_allowed_origin(origin: str | None, allowed: Collection[str]) -> None:
    """Raises ApiError 403 where the `Origin` is missing or is not one of ours."""
    if origin is None or origin.rstrip("/") not in allowed:
        raise forbidden("What rests on the session cookie needs an allowed Origin here.")
