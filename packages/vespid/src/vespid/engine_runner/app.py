"""The engine-runner's HTTP: health, metrics, and inference for who holds the token.

No provider is built in yet: a well-formed request is told so with 503, and `/readyz` stands for the process alone.
"""

import hmac
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import web

from vespid.observe.metrics import CONTENT_TYPE, metrics_text

MAX_BODY_BYTES = 4 * 1024 * 1024


class InferRequest(msgspec.Struct, frozen=True, rename="camel"):
    """What is asked of a model; providers give the open fields their meaning."""

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None
    max_output_chars: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stream: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """The answer of every refusal."""

    error: str
    message: str
    ok: bool = False


def create_app(token: str) -> web.Application:
    """The routes; `token` is what callers must present."""
    expected = f"Bearer {token}".encode()

    async def infer(request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected):
            return _refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "the token is missing or wrong")
        try:
            asked = msgspec.json.decode(await request.read(), type=InferRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _refuse(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", str(error))
        return _refuse(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "ENGINE_UNAVAILABLE",
            f"this engine-runner has no provider {asked.provider[:64]!r}",
        )

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refusals_as_json])
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _healthz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_post("/internal/v1/llm/infer", infer)
    return app


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=metrics_text(), headers={"Content-Type": CONTENT_TYPE})


@web.middleware
async def _refusals_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BODY_TOO_LARGE", f"the limit is {MAX_BODY_BYTES} bytes")
    except web.HTTPNotFound:
        return _refuse(HTTPStatus.NOT_FOUND, "NOT_FOUND", "there is no such route")
    except web.HTTPMethodNotAllowed:
        return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "this route does not take that method")
    return response


def _refuse(status: HTTPStatus, code: str, message: str) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(Refusal(error=code, message=message)), content_type="application/json"
    )
