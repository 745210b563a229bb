"""Who calls, as a request to the API shows it; the rules are in `dispatch.callers`.

A write that rests on the session cookie needs an allowed `Origin`; a read does not.
"""

from collections.abc import Collection
from typing import Any

from litestar.connection import ASGIConnection

from vespid.control.deps import Deps
from vespid.dispatch import callers
from vespid.dispatch.callers import API_KEY_PREFIX, SESSION_COOKIE, Principal, Shown, Standing
from vespid_protocol.ids import OrgId

__all__ = ["API_KEY_PREFIX", "SESSION_COOKIE", "Principal", "Standing"]

Connection = ASGIConnection[Any, Any, Any, Any]

_PRINCIPAL = "vespid_principal"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def set_principal(scope: Any, principal: Principal) -> None:
    """Keep who calls with the request; guards do this."""
    scope["state"][_PRINCIPAL] = principal


def principal_of(scope: Any) -> Principal:
    """Who calls, on a route that a guard protects."""
    principal: Principal = scope["state"][_PRINCIPAL]
    return principal


async def authenticate(connection: Connection, deps: Deps, org_id: OrgId | None) -> Standing:
    """Who calls, and what they are in this organization. Raises ApiError 401, or 403 for a foreign Origin."""
    shown = Shown(
        authorization=connection.headers.get("authorization"),
        cookie=connection.cookies.get(SESSION_COOKIE),
        origin=connection.headers.get("origin"),
        needs_origin=_is_write(connection),
    )
    return await deps.callers.identify(shown, org_id)


def require_allowed_origin(connection: Connection, allowed: Collection[str]) -> None:
    """Raises ApiError 403 for a write whose `Origin` is missing or is not one of ours."""
    if _is_write(connection):
        callers.require_allowed_origin(connection.headers.get("origin"), allowed)


def _is_write(connection: Connection) -> bool:
    return connection.scope.get("method") not in _READS
