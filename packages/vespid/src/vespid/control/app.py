"""The control plane as one ASGI application, and as a service.

Routes come from the modules in `NOUNS`, each of which exports `routes`: handlers or controllers with their whole paths.
A route under `/v1/orgs/{org_id:str}` is guarded by `org_member`, `org_admin` or `org_owner`, any other one by `signed_in`
or, if it is open, by nothing.
"""

from importlib import import_module
from typing import Any

import structlog
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.types import Message, Scope

from vespid.control.body import MAX_BODY_BYTES, StrictRequest
from vespid.control.context import provide_deps, provide_principal, provide_tenant
from vespid.control.deps import Deps
from vespid.control.errors import exception_handlers
from vespid.control.idempotency import provide_once
from vespid.control.observe import ObserveRequests
from vespid.control.openapi import openapi_config
from vespid.control.request_id import request_id_of, traceparent_of

log = structlog.get_logger("vespid.control")

# Modules of `vespid.control` with routes.
NOUNS = (
    "accounts",
    "api_keys",
    "audit",
    "health",
    "invitations",
    "members",
    "meta",
    "orgs",
    "settings",
)


def create_app(deps: Deps) -> Litestar:
    """All routes, over these neighbours."""
    return Litestar(
        route_handlers=[route for noun in NOUNS for route in routes_of(noun)],
        dependencies={
            "deps": Provide(provide_deps, sync_to_thread=False),
            "tenant": Provide(provide_tenant, sync_to_thread=False),
            "principal": Provide(provide_principal, sync_to_thread=False),
            "once": Provide(provide_once),
        },
        exception_handlers=dict(exception_handlers()),
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY_BYTES,
        before_send=[_name_the_request],
        middleware=[ObserveRequests],
        cors_config=CORSConfig(
            allow_origins=sorted(deps.settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Org-Id", "X-Request-Id", "traceparent"],
            expose_headers=["X-Request-Id", "Retry-After"],
        ),
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
        state=_state(deps),
    )


def routes_of(noun: str) -> list[Any]:
    """The routes that a module exports."""
    routes: list[Any] = import_module(f"vespid.control.{noun}").routes
    return routes


def _state(deps: Deps) -> Any:
    from litestar.datastructures import State

    return State({"deps": deps}, deep_copy=False)


async def _name_the_request(message: Message, scope: Scope) -> None:
    """Put the request's id, and the trace it belongs to, on every answer, errors included."""
    if message["type"] != "http.response.start":
        return
    headers = list(message["headers"])
    headers.append((b"x-request-id", request_id_of(scope).encode()))
    traceparent = traceparent_of(scope)
    if traceparent is not None:
        headers.append((b"traceparent", traceparent.encode()))
    message["headers"] = headers
