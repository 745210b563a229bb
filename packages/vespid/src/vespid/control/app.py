"""The control plane as one ASGI application, and as a service.

Routes come from the modules in `NOUNS`, each of which exports `routes`: handlers or controllers with their whole paths.
A route under `/v1/orgs/{org_id:str}` is guarded by `org_member`, `org_admin` or `org_owner`, any other one by
`signed_in` or, if it is open, by nothing.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import structlog
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import Message, Scope
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from vespid.bus.connection import Connection
from vespid.bus.fanout import RedisFanout
from vespid.bus.mail import RedisMail
from vespid.bus.ports import Fanout, Mail
from vespid.control.body import MAX_BODY_BYTES, StrictRequest
from vespid.control.context import provide_deps, provide_principal, provide_tenant
from vespid.control.deps import Deps, Runs, epoch_ms
from vespid.control.errors import exception_handlers
from vespid.control.gateways import Gateways
from vespid.control.housekeeping import Housekeeping
from vespid.control.http_service import HttpService
from vespid.control.idempotency import provide_once
from vespid.control.methods import allow_header
from vespid.control.observe import ObserveRequests
from vespid.control.openapi import openapi_config
from vespid.control.request_id import request_id_of, traceparent_of
from vespid.dispatch.callers import Callers
from vespid.dispatch.conversation import Conversation
from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.plans import Plans
from vespid.security.access_tokens import AccessTokens
from vespid.security.envelope import Keyring
from vespid.security.passwords import Passwords
from vespid.security.rate_limit import FailureLimiter, RateLimit
from vespid.security.refresh_tokens import RefreshTokens
from vespid.service import Service, Stack
from vespid.settings import ApiSettings
from vespid.store.auth_sessions import Authorizer
from vespid.store.pool import Database
from vespid.store.runs import RunCreator
from vespid.store.sessions import MessageSender
from vespid_protocol.ids import ProcessId, new_id

log = structlog.get_logger("vespid.control.app")

# Redis is asked for counters and whether it is there: an answer that takes longer is none.
REDIS_TIMEOUT_S = 0.5

# Modules of `vespid.control` with routes.
NOUNS = (
    "accounts",
    "agent_bindings",
    "agents",
    "api_keys",
    "approvals",
    "attempts",
    "audit",
    "downloads",
    "events",
    "health",
    "hooks",
    "installer",
    "invitations",
    "managed_executors",
    "mcp",
    "members",
    "memory",
    "meta",
    "org_runs",
    "org_stream",
    "orgs",
    "overview",
    "pairing",
    "retry",
    "runs",
    "secrets",
    "session_messages",
    "sessions",
    "settings",
    "stream",
    "usage",
    "webhooks",
    "workflow_graph",
    "workflows",
)


def create_service(
    settings: ApiSettings,
    *,
    mail: Mail | None = None,
    fanout: Fanout | None = None,
    runs: Runs | None = None,
    pages: Sequence[Any] = (),
) -> "ControlPlane":
    """The control plane; what is handed in is its owner's to start, without it it has its own.

    `pages`: routes for people, served beside the API.
    """
    return ControlPlane(settings, mail=mail, fanout=fanout, runs=runs, pages=pages)


class ControlPlane:
    """`vespid api`: listens from `start` on. A Service."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        mail: Mail | None = None,
        fanout: Fanout | None = None,
        runs: Runs | None = None,
        pages: Sequence[Any] = (),
    ) -> None:
        redis = _redis(settings.redis_url) if settings.redis_url else None
        bus: list[Service] = []
        if mail is None and fanout is None and settings.redis_url:
            # Nobody writes to this process, so its mail is not started: it only sends.
            connection = Connection(settings.redis_url, name="vespid-api", log=log)
            mail = RedisMail(connection, settings.redis_url, ProcessId(new_id()), log=log)
            own_fanout = RedisFanout(connection, settings.redis_url, log=log)
            bus, fanout = [connection, own_fanout], own_fanout
        database = Database(
            settings.database_url,
            max_size=settings.database_pool_size,
            statement_cache_size=settings.database_statement_cache,
            application_name="vespid-api",
        )
        authorizer = Authorizer(database)
        access_tokens = AccessTokens(settings.auth_token_secret)
        own_runs = RunCreator(database) if runs is None else None
        gateways = Gateways(database, settings.gateway_service_token)
        messages = MessageSender(database)
        conversation = Conversation(database, messages, mail, fanout)
        feed = ControlFeed(database, fanout)
        feed.listen(conversation.bindings.read)
        limit = RateLimit(settings.rate_limit_failures, settings.rate_limit_window_sec, settings.rate_limit_enabled)
        self._redis = redis
        self.deps = Deps(
            settings=settings,
            database=database,
            callers=Callers(database, authorizer, access_tokens, settings.allowed_origins, epoch_ms),
            passwords=Passwords(),
            access_tokens=access_tokens,
            refresh_tokens=RefreshTokens(settings.auth_token_secret),
            limiter=FailureLimiter(limit, redis),
            conversation=conversation,
            redis=redis,
            keyring=_keyring(settings),
            runs=runs or own_runs,
            plans=Plans(database),
            mail=mail,
            fanout=fanout,
            gateways=gateways,
            feed=feed,
        )
        self._http = HttpService(
            create_app(self.deps, pages),
            settings.host,
            settings.port,
            grace_s=settings.shutdown_grace_ms / 1000,
            trusted_proxies=settings.trusted_proxies,
        )
        own = (
            *bus,
            database,
            authorizer,
            own_runs,
            messages,
            gateways,
            feed,
            Housekeeping(database),
            self.deps.mcp,
            self._http,
        )
        self._stack = Stack([service for service in own if service is not None])

    @property
    def port(self) -> int:
        """Where it listens; with port 0 known once started."""
        return self._http.port

    async def start(self) -> None:
        """Return when requests are answered."""
        await self._stack.start()

    async def stop(self) -> None:
        """Tell those who stream, let requests end, and return when the last connection is closed."""
        self.deps.stopping.set()
        try:
            await self._stack.stop()
        finally:
            self.deps.passwords.close()
            if self._redis is not None:
                await self._redis.aclose()


def create_app(deps: Deps, pages: Sequence[Any] = ()) -> Litestar:
    """All routes, over these neighbours."""
    return Litestar(
        route_handlers=[*(route for noun in NOUNS for route in routes_of(noun)), *pages],
        dependencies={
            "deps": Provide(provide_deps, sync_to_thread=False),
            "tenant": Provide(provide_tenant, sync_to_thread=False),
            "principal": Provide(provide_principal, sync_to_thread=False),
            "once": Provide(provide_once),
        },
        exception_handlers=dict(exception_handlers()),
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY_BYTES,
        before_send=[_finish_headers],
        middleware=[ObserveRequests()],
        cors_config=CORSConfig(
            allow_origins=sorted(deps.settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "X-Org-Id",
                "X-Request-Id",
                "traceparent",
            ],
            expose_headers=["X-Request-Id", "Retry-After"],
        ),
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
        state=State({"deps": deps}, deep_copy=False),
    )


def routes_of(noun: str) -> list[Any]:
    """The routes that a module exports."""
    routes: list[Any] = import_module(f"vespid.control.{noun}").routes
    return routes


def _keyring(settings: ApiSettings) -> Keyring | None:
    if not settings.has_kek:
        return None
    return Keyring.parse(settings.secrets_kek_id, settings.secrets_kek_base64, settings.secrets_kek_previous)


def _redis(url: str) -> Redis:
    return Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


async def _finish_headers(message: Message, scope: Scope) -> None:
    """Put the request's id, and the trace it belongs to, on every answer, errors included; mend `Allow`."""
    if message["type"] != "http.response.start":
        return
    headers = list(message["headers"])
    if scope.get("method") == "OPTIONS" and any(name == b"allow" for name, _ in headers):
        headers = [(name, value) for name, value in headers if name != b"allow"]
        headers.append((b"allow", allow_header(scope["litestar_app"], scope["path"]).encode()))
    headers.append((b"x-request-id", request_id_of(scope).encode()))
    traceparent = traceparent_of(scope)
    if traceparent is not None:
        headers.append((b"traceparent", traceparent.encode()))
    message["headers"] = headers
