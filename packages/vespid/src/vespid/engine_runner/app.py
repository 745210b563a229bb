"""The engine-runner's HTTP: health, metrics, and inference for who holds the token.

A request is authenticated before its body is read. `/readyz` stands for the process alone: providers are not asked.
"""

from __future__ import annotations

import asyncio
import hmac
import traceback
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from vespid.engine_runner.asked import Answer, InferRequest, Refusal, decode_request, status_of
from vespid.engine_runner.calls import Calls
from vespid.observe.log import get_logger
from vespid.observe.metrics import CONTENT_TYPE, metrics_text
from vespid_protocol.codes import Code
from vespid_runtime.models.types import Done, ModelError, Piece, TextDelta, ToolCall, ToolCallDelta

log = get_logger("vespid.engine_runner")

MAX_BODY_BYTES = 16 * 1024 * 1024
# Who does not read for so long has gone, or holds a place that others wait for.
WRITE_TIMEOUT_S = 30

_EVENTS: dict[type[Piece], str] = {
    TextDelta: "text",
    ToolCallDelta: "tool_call_delta",
    ToolCall: "tool_call",
    Done: "done",
}


def create_app(token: str, calls: Calls) -> web.Application:
    """The routes; `token` is what callers must present."""
    expected = f"Bearer {token}".encode()

    async def infer(request: web.Request) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode("utf-8", "replace"), expected):
            return _refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", "the token is missing or wrong")
        try:
            asked = decode_request(await request.read())
            if asked.stream:
                return await _streamed(request, calls, asked)
            return _json(HTTPStatus.OK, Answer.of(await calls.infer(asked)))
        except ModelError as failed:
            return _json(status_of(failed), Refusal.of(failed))

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refusals_as_json])
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _healthz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_post("/internal/v1/llm/infer", infer)
    return app


async def _streamed(request: web.Request, calls: Calls, asked: InferRequest) -> web.StreamResponse:
    """Server-sent events. Raises ModelError where nothing was sent yet, so that it is answered as any refusal is."""
    async with aclosing(calls.stream(asked)) as pieces:
        first = await anext(pieces)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            await _write(response, first)
            async for piece in pieces:
                await _write(response, piece)
        except ModelError as failed:
            await _send(response, "error", Refusal.of(failed))
        except (TimeoutError, ConnectionError):
            log.info("stream_not_read", org_id=asked.organization_id)
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, piece: Piece) -> None:
    await _send(response, _EVENTS[type(piece)], Answer.of(piece.reply) if isinstance(piece, Done) else piece)


async def _send(response: web.StreamResponse, event: str, data: msgspec.Struct) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n")


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
    except web.HTTPException:
        raise
    except Exception as unforeseen:  # noqa: BLE001
        # Not its text, nor what it came from: either may quote the key.
        log.error("unforeseen", kind=type(unforeseen).__name__, at=_place(unforeseen))
        return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR, Code.INTERNAL_ERROR, "a fault of the engine-runner's own")
    return response


def _place(error: BaseException) -> str:
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{last.filename}:{last.lineno}"


def _refuse(status: HTTPStatus, code: str, message: str) -> web.Response:
    return _json(status, Refusal(error=code, message=message))


def _json(status: HTTPStatus, body: msgspec.Struct) -> web.Response:
    headers: dict[str, str] = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE and isinstance(body, Refusal) and body.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-body.retry_after_ms // 1000))
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers)
