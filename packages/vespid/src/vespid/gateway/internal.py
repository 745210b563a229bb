"""The gateway's internal HTTP (`api.md` §8), for callers that hold the service token. Never expose it publicly."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from vespid.bus import memory_push
from vespid.bus.channels import TURN_QUEUE, session_item
from vespid.dispatch.house import House
from vespid.errors import ApiError
from vespid.gateway.brain.body import DispatchBody
from vespid.gateway.brain.dispatch import Dispatcher
from vespid.gateway.edge.handover import Handover
from vespid.gateway.edge.memory import HostMemory
from vespid.gateway.edge.registry import Registry
from vespid.security.envelope import SecretValue
from vespid.store.executors import routes_of
from vespid.store.sessions import read_standing
from vespid_protocol.ids import OrgId, RequestId, is_uuid, new_id
from vespid_protocol.text import clean_json

log = structlog.get_logger("vespid.gateway.internal")

Body = TypeVar("Body")

BODY_MAX_BYTES = 1024 * 1024
REQUEST_ID_MAX_CHARS = 128
# What names a request in its answer, in logs, and in the audit log.
REQUEST_ID = web.RequestKey("request_id", str)

_encode = msgspec.json.Encoder().encode
_decode_push_asked = msgspec.json.Decoder(memory_push.PushAsked).decode
_decode_dispatch = msgspec.json.Decoder(DispatchBody).decode


class _Handed(msgspec.Struct, frozen=True, rename="camel"):
    request_id: str
    secret: str


_decode_handed = msgspec.json.Decoder(_Handed).decode


class _Said(msgspec.Struct, frozen=True, rename="camel"):
    """A message of a session that is committed, and wants a host."""

    organization_id: UUID
    session_id: UUID
    user_event_seq: Annotated[int, msgspec.Meta(ge=1)]
    user_id: UUID | None = None


_decode_said = msgspec.json.Decoder(_Said).decode


class InternalHttp:
    """The routes."""

    def __init__(
        self,
        house: House,
        dispatcher: Dispatcher,
        handover: Handover,
        registry: Registry,
        memory: HostMemory,
        service_token: str,
    ) -> None:
        self._house = house
        self._dispatcher = dispatcher
        self._handover = handover
        self._registry = registry
        self._memory = memory
        self._token = service_token.encode()

    def add_routes(self, app: web.Application) -> None:
        router = app.router
        router.add_post("/internal/v1/dispatch", self._guarded(self._dispatch))
        router.add_post("/internal/v1/dispatch-async", self._guarded(self._dispatch_async))
        router.add_get("/internal/v1/results/{request_id}", self._guarded(self._result))
        router.add_post("/internal/v1/requests/{request_id}/cancel", self._guarded(self._cancel))
        router.add_get("/internal/v1/executors/routes", self._guarded(self._routes))
        router.add_post("/internal/v1/secret-handover", self._guarded(self._secret_handover))
        router.add_post(memory_push.ROUTE, self._guarded(self._memory_push))
        router.add_post("/internal/v1/sessions/send", self._guarded(self._session_send))
        router.add_get("/healthz", self._healthz)
        router.add_get("/readyz", self._readyz)
        router.add_get("/metrics", self._metrics)

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            headers = request.headers
            given = headers.get("X-Gateway-Token") or headers.get("X-Service-Token") or ""
            if not self._token or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
                raise ApiError(401, "UNAUTHORIZED", "The service token is missing or wrong.")
            return await handler(request)

        return guarded

    async def _dispatch(self, request: web.Request) -> web.Response:
        outcome = await self._dispatcher.dispatch(await _body(request, _decode_dispatch))
        return _json(outcome)

    async def _dispatch_async(self, request: web.Request) -> web.Response:
        dispatched = await self._dispatcher.dispatch_async(await _body(request, _decode_dispatch))
        return _json(dispatched, 200 if dispatched.cached is True else 201)

    async def _result(self, request: web.Request) -> web.Response:
        return _json(await self._dispatcher.result(RequestId(request.match_info["request_id"])))

    async def _cancel(self, request: web.Request) -> web.Response:
        await self._dispatcher.cancel(RequestId(request.match_info["request_id"]))
        return _json({"ok": True})

    async def _routes(self, request: web.Request) -> web.Response:
        org_id = request.query.get("organizationId", "")
        if not is_uuid(org_id):
            raise ApiError(
                400, "BAD_REQUEST", "organizationId must be a UUID.", {"fieldErrors": {"organizationId": ["a UUID"]}}
            )
        return _json({"routes": await routes_of(self._house.db, OrgId(org_id.lower()))})

    async def _secret_handover(self, request: web.Request) -> web.Response:
        try:
            handed = _decode_handed(await request.read())
        except msgspec.DecodeError as error:
            raise ApiError(400, "BAD_REQUEST", "The handover is not readable.") from error
        self._handover.keep(RequestId(handed.request_id), SecretValue(handed.secret))
        return _json({"ok": True})

    async def _memory_push(self, request: web.Request) -> web.Response:
        try:
            asked = _decode_push_asked(await request.read())
        except msgspec.DecodeError as error:
            raise ApiError(400, "BAD_REQUEST", f"The request is not readable: {error}") from error
        return _json(await self._memory.push(asked))

    async def _session_send(self, request: web.Request) -> web.Response:
        said = await _body(request, _decode_said)
        org_id = OrgId(str(said.organization_id))
        async with self._house.db.tenant(org_id) as connection:
            standing = await read_standing(connection, said.organization_id, said.session_id)
        if standing is None or standing.event_seq < said.user_event_seq:
            raise ApiError(404, "SESSION_NOT_FOUND", "There is no such session here, or no such message in it.")
        # Whoever takes it finds the message that is next; a sweep finds it too.
        self._house.mail.wake(TURN_QUEUE, session_item(org_id, str(said.session_id)))
        return _json({"accepted": True}, 202)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json({"ok": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not await self._house.is_ready():
            raise ApiError(503, "NOT_READY", "Postgres or Redis does not answer.")
        return _json({"ok": True, "executors": len(self._registry)})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


async def _body(request: web.Request, decode: Callable[[bytes], Body]) -> Body:
    data, _mended = clean_json(await request.read())
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        message = str(error)
        _, _, path = message.partition(" - at `$.")
        raise ApiError(
            400, "BAD_REQUEST", "The body is not valid.", {"fieldErrors": {path.rstrip("`") or "$": [message]}}
        ) from error
    except msgspec.DecodeError as error:
        raise ApiError(400, "BAD_REQUEST", f"The body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise ApiError(400, "BAD_REQUEST", "The body is not UTF-8.") from error


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json")


@web.middleware
async def envelope(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error of every route in the flat envelope; every answer with its request id."""
    given = request.headers.get("x-request-id", "")
    request_id = given if 0 < len(given) <= REQUEST_ID_MAX_CHARS and given.isprintable() else new_id()
    request[REQUEST_ID] = request_id
    try:
        response = await handler(request)
    except ApiError as error:
        response = _json(error.envelope(), error.status)
        response.headers.update(error.headers)
    except web.HTTPRequestEntityTooLarge:
        response = _json({"code": "BODY_TOO_LARGE", "message": f"At most {BODY_MAX_BYTES} bytes."}, 413)
    except web.HTTPException as error:
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status, "BAD_REQUEST")
        # Of an upgrade that is not one, what it lacks: a proxy may have taken it away (`vespid-agent doctor` reads it).
        said = (error.text if error.status == 400 else None) or error.reason
        response = _json({"code": code, "message": said}, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except (ConnectionResetError, ConnectionAbortedError):
        raise
    except Exception:
        log.exception("request_failed", request_id=request_id, path=request.path)
        details = {"requestId": request_id}
        response = _json({"code": "INTERNAL_ERROR", "message": "Something went wrong here.", "details": details}, 500)
    if not response.prepared:
        response.headers["x-request-id"] = request_id
    return response
