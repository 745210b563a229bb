"""Every error of every route, in the flat envelope."""

import re
from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from vespid.control.methods import allow_header
from vespid.control.request_id import request_id_of
from vespid.errors import ApiError, unavailable
from vespid.store.pool import DatabaseUnavailable

log = structlog.get_logger("vespid.control")

# What the framework refuses by itself.
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "BODY_TOO_LARGE",
    429: "RATE_LIMITED",
}
_MESSAGES = {
    400: "The request is not valid.",
    404: "There is no such route.",
    405: "This route does not answer to that method.",
    413: "The body is larger than this route takes.",
}

# How the framework says that a parameter is not there.
_MISSING = re.compile(r"Missing required \w+ parameter '([^']+)'")

# The database is away or has no room: nothing was done, or it is not known; the request may be repeated.
DATABASE_AWAY = (
    DatabaseUnavailable,
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The envelope, as the OpenAPI document shows it."""

    code: str
    message: str
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def answer_api_error(request: Request[Any, Any, Any], error: ApiError) -> Response[Any]:
    """A refusal that a route meant."""
    return _respond(error)


def answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """A refusal by the framework: unknown route, wrong method, a parameter that is no number, a body too large."""
    status = error.status_code
    if status >= 500:
        return answer_unforeseen(request, error)
    details = {"fieldErrors": _field_errors(error)} if isinstance(error, ValidationException) else None
    allow = (error.headers or {}).get("Allow") or (error.headers or {}).get("allow")
    if status == 405:
        allow = allow_header(request.app, request.scope["path"])
    return _respond(
        ApiError(
            status,
            _CODES.get(status, "BAD_REQUEST"),
            _MESSAGES.get(status, error.detail),
            details,
            headers={"Allow": allow} if allow else None,
        )
    )


def answer_database_away(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Postgres (or another neighbour) cannot be reached."""
    log.warning("neighbour_unavailable", path=request.scope["path"], error=repr(error))
    return _respond(unavailable("A part of the system is away at the moment. Try again."))


def answer_unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Anything unforeseen: the caller gets the id under which the log has the rest."""
    request_id = request_id_of(request.scope)
    log.error("unforeseen_error", path=request.scope["path"], request_id=request_id, exc_info=error)
    return _respond(ApiError(500, "INTERNAL_ERROR", "Something went wrong on our side.", {"requestId": request_id}))


def exception_handlers() -> Mapping[int | type[Exception], Any]:
    """What the app is given; the framework looks at the most specific type first."""
    return {
        ApiError: answer_api_error,
        HTTPException: answer_http_exception,
        **dict.fromkeys(DATABASE_AWAY, answer_database_away),
        Exception: answer_unforeseen,
    }


def _respond(error: ApiError) -> Response[Any]:
    return Response(
        content=error.envelope(),
        status_code=error.status,
        media_type="application/json",
        headers=dict(error.headers),
    )


def _field_errors(error: ValidationException) -> dict[str, list[str]]:
    """The framework's list of messages, by the name of the parameter on the wire."""
    missing = _MISSING.match(error.detail)
    if missing is not None:
        return {missing[1]: ["This parameter is required."]}
    fields: dict[str, list[str]] = {}
    for entry in error.extra if isinstance(error.extra, list) else []:
        key = str(entry.get("key", "request"))
        if entry.get("source") in ("query", "header"):
            key = _wire_name(key)
        fields.setdefault(key, []).append(str(entry.get("message", "Not valid.")))
    return fields


def _wire_name(name: str) -> str:
    """The framework tells a parameter's name in the code."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
