"""Models over the engine-runner: the loop's `Model`, as HTTP.

The one thing to know: keys of tenants travel in the body, to the engine-runner and nowhere else; it is called at the
one address that the operator set, and no proxy of the environment is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from time import monotonic

import aiohttp
import msgspec

from vespid_protocol.codes import Code
from vespid_runtime.models.types import (
    Done,
    ModelError,
    ModelReply,
    ModelRequest,
    Piece,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    timed_out,
)

ROUTE = "/internal/v1/llm/infer"
# How long one that does not listen is waited for: it may be starting anew. The sum bounds what a wrong address costs.
ABSENT_PAUSES_S = (0.1, 0.3, 0.6, 1.0, 2.0, 3.0)
# What the engine-runner has beyond the call's time to say itself that it is over.
ANSWER_GRACE_MS = 2_000
EVENT_MAX_BYTES = 32 * 1024 * 1024


class _Infer(ModelRequest, frozen=True, kw_only=True):
    """The body (`docs/models.md`)."""

    organization_id: str
    stream: bool = False


class _Refusal(msgspec.Struct, frozen=True, rename="camel"):
    """Every answer that is none."""

    error: str
    message: str = ""
    retryable: bool = False
    retry_after_ms: int | None = None

    @property
    def as_error(self) -> ModelError:
        return ModelError(self.error, self.message, retryable=self.retryable, retry_after_ms=self.retry_after_ms)


_PIECES: dict[
    str, msgspec.json.Decoder[TextDelta] | msgspec.json.Decoder[ToolCallDelta] | msgspec.json.Decoder[ToolCall]
]
_PIECES = {
    "text": msgspec.json.Decoder(TextDelta),
    "tool_call_delta": msgspec.json.Decoder(ToolCallDelta),
    "tool_call": msgspec.json.Decoder(ToolCall),
}
_decode_reply = msgspec.json.Decoder(ModelReply).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode


class EngineRunner:
    """A Service. `max_timeout_ms`: no call takes longer, whatever is asked."""

    def __init__(self, base_url: str, token: str, *, max_timeout_ms: int) -> None:
        self.url = base_url.rstrip("/")
        self._token = token
        self._max_timeout_ms = max_timeout_ms
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._http is None:
            # The turnstile of the engine-runner bounds how many calls go on, by organization.
            connector = aiohttp.TCPConnector(limit=0)
            self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))

    async def stop(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def of(self, organization_id: str) -> OrganizationModels:
        """The models of one organization."""
        return OrganizationModels(self, organization_id)

    async def stream(self, request: ModelRequest, organization_id: str) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece. What is not begun is tried again while it has time. Raises ModelError."""
        deadline = monotonic() + min(request.timeout_ms, self._max_timeout_ms) / 1000
        absent = iter(ABSENT_PAUSES_S)
        while True:
            try:
                async with aclosing(self._attempt(request, organization_id, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except _NotNow as busy:
                pause_s = next(absent, None) if busy.after_ms is None else busy.after_ms / 1000
                if pause_s is None or monotonic() + pause_s >= deadline:
                    raise busy.error from None
                await asyncio.sleep(pause_s)

    async def _attempt(
        self, request: ModelRequest, organization_id: str, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        assert self._http is not None, "started"
        left_ms = max(1, int((deadline - monotonic()) * 1000))
        body = msgspec.json.encode(_infer(request, organization_id, left_ms))
        until = asyncio.get_running_loop().time() + (left_ms + ANSWER_GRACE_MS) / 1000
        try:
            async with asyncio.timeout_at(until):
                response = await self._http.post(
                    self.url + ROUTE,
                    data=body,
                    headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
                    allow_redirects=False,
                )
            async with response:
                if response.content_type != "text/event-stream":
                    async with asyncio.timeout_at(until):
                        raise _refused(response, await response.read())
                async with aclosing(_events(response.content)) as events:
                    while True:
                        # Event by event: what the listener does in between must not be interrupted by our deadline.
                        async with asyncio.timeout_at(until):
                            said = await anext(events, None)
                        if said is None:
                            raise _broke_off()
                        piece = _piece(*said)
                        yield piece
                        if isinstance(piece, Done):
                            return
        except TimeoutError:
            raise timed_out(f"the engine-runner did not answer within {left_ms} ms") from None
        except aiohttp.ClientConnectorError as error:
            raise _NotNow(_away(error), None) from None
        except aiohttp.ClientError as error:
            raise _away(error) from None


class OrganizationModels:
    """A `Model`: the engine-runner, for one organization's share of it."""

    def __init__(self, runner: EngineRunner, organization_id: str) -> None:
        self._runner = runner
        self._organization_id = organization_id

    async def infer(self, request: ModelRequest) -> ModelReply:
        """The whole answer. Raises ModelError."""
        async with aclosing(self.stream(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Done):
                    return piece.reply
        raise _broke_off()

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece, `Done` last. Raises ModelError."""
        return self._runner.stream(request, self._organization_id)


class _NotNow(Exception):
    """The engine-runner asks to wait so long, or (None) does not listen. Nothing was begun."""

    def __init__(self, error: ModelError, after_ms: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_ms = after_ms


def _infer(request: ModelRequest, organization_id: str, timeout_ms: int) -> _Infer:
    said = {name: getattr(request, name) for name in ModelRequest.__struct_fields__}
    return _Infer(**(said | {"timeout_ms": timeout_ms}), organization_id=organization_id, stream=True)


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[tuple[str, bytes], None]:
    """Server-sent events: each with its data."""
    buffer = bytearray()
    async for chunk in content.iter_any():
        buffer += chunk
        if len(buffer) > EVENT_MAX_BYTES:
            raise ModelError(Code.ENGINE_UNAVAILABLE, "the engine-runner's answer is too long")
        while (end := buffer.find(b"\n\n")) >= 0:
            block = bytes(buffer[:end])
            del buffer[: end + 2]
            head, _, data = block.partition(b"\ndata: ")
            yield head.removeprefix(b"event: ").decode("utf-8", "replace"), data


def _piece(event: str, data: bytes) -> Piece:
    try:
        if event == "done":
            return Done(reply=_decode_reply(data))
        if event == "error":
            raise _decode_refusal(data).as_error
        return _PIECES[event].decode(data)
    except (KeyError, msgspec.DecodeError):
        raise ModelError(
            Code.ENGINE_UNAVAILABLE, "the engine-runner answered something else", retryable=False
        ) from None


def _refused(response: aiohttp.ClientResponse, body: bytes) -> ModelError | _NotNow:
    try:
        refusal = _decode_refusal(body)
    except msgspec.DecodeError:
        message = f"the engine-runner answered {response.status}"
        return ModelError(
            Code.ENGINE_UNAVAILABLE, message, retryable=response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
    if response.status == HTTPStatus.UNAUTHORIZED:
        return ModelError(
            Code.ENGINE_UNAVAILABLE, "the engine-runner does not take our ENGINE_RUNNER_TOKEN", retryable=False
        )
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE and refusal.retry_after_ms is not None:
        return _NotNow(refusal.as_error, refusal.retry_after_ms)
    return refusal.as_error


def _away(error: aiohttp.ClientError) -> ModelError:
    return ModelError(Code.ENGINE_UNAVAILABLE, f"the engine-runner cannot be reached: {type(error).__name__}")


def _broke_off() -> ModelError:
    return ModelError(Code.ENGINE_UNAVAILABLE, "the engine-runner's answer broke off")
