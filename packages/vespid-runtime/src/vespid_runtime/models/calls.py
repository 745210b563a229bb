"""Calls of models with all that providers have in common: one deadline, bounded retries, the limit of the answer.

A stream is tried again only as long as it has said nothing: what was heard cannot be taken back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import monotonic
from typing import TypeVar

import msgspec

from vespid_runtime.models.provider import Call
from vespid_runtime.models.registry import Providers
from vespid_runtime.models.types import (
    Done,
    ModelError,
    ModelReply,
    ModelRequest,
    Piece,
    TextDelta,
    request_failed,
    timed_out,
)

MAX_ATTEMPTS = 3
_BACKOFF_MS = 500

SaidT = TypeVar("SaidT", bound=ModelReply | Piece)

Sleep = Callable[[float], Awaitable[None]]


class Models:
    """A `Model` that calls the providers from this process."""

    def __init__(self, providers: Providers, *, sleep: Sleep = asyncio.sleep) -> None:
        self._providers = providers
        self._sleep = sleep

    async def infer(self, request: ModelRequest) -> ModelReply:
        """The whole answer. Raises ModelError."""
        deadline = _Deadline(request.timeout_ms)
        call = self._providers.call(request)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with deadline.kept():
                    provider = await self._providers.load(request.provider)
                    return _cut(_checked(await provider.infer(call), request), request.max_output_chars)
            except TimeoutError:
                raise deadline.missed(request) from None
            except ModelError as failed:
                await self._pause(failed, attempt, deadline)
        raise AssertionError("the last pause raises")

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece, `Done` last. Raises ModelError."""
        deadline = _Deadline(request.timeout_ms)
        call = self._providers.call(request)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            heard = False
            try:
                async with aclosing(self._attempt(call, deadline)) as pieces:
                    async for piece in pieces:
                        heard = True
                        yield piece
                return
            except ModelError as failed:
                if heard:
                    raise
                await self._pause(failed, attempt, deadline)

    async def _attempt(self, call: Call, deadline: _Deadline) -> AsyncGenerator[Piece, None]:
        try:
            async with deadline.kept():
                provider = await self._providers.load(call.request.provider)
            async with aclosing(_limited(provider.stream(call), call.request)) as pieces:
                while True:
                    # Piece by piece: what the listener does in between must not be interrupted by our deadline.
                    async with deadline.kept():
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield piece
        except TimeoutError:
            raise deadline.missed(call.request) from None

    async def _pause(self, failed: ModelError, attempt: int, deadline: _Deadline) -> None:
        """Before the next attempt, as long as the provider asked; raises where there will be none."""
        if not failed.retryable or attempt == MAX_ATTEMPTS:
            raise failed
        wait_ms = failed.retry_after_ms
        if wait_ms is None:
            wait_ms = int(_BACKOFF_MS * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))  # noqa: S311
        if wait_ms >= deadline.remaining_ms:
            raise failed
        await self._sleep(wait_ms / 1000)


class _Deadline:
    """Of one call with all its attempts."""

    def __init__(self, timeout_ms: int) -> None:
        self._at = monotonic() + timeout_ms / 1000

    @property
    def remaining_ms(self) -> float:
        return (self._at - monotonic()) * 1000

    def kept(self) -> asyncio.Timeout:
        return asyncio.timeout(max(0.0, self.remaining_ms / 1000))

    @staticmethod
    def missed(request: ModelRequest) -> ModelError:
        return timed_out(f"{request.provider} did not answer within {request.timeout_ms} ms")


async def _limited(pieces: AsyncGenerator[Piece, None], request: ModelRequest) -> AsyncGenerator[Piece, None]:
    """Ends the stream where its text is too long, and so the provider's work; tokens are then not known."""
    said: list[str] = []
    left = request.max_output_chars
    async with aclosing(pieces):
        async for unchecked in pieces:
            piece = _checked(unchecked, request)
            if left is not None and isinstance(piece, TextDelta):
                said.append(piece.text[:left])
                if len(piece.text) > left:
                    if said[-1]:
                        yield TextDelta(text=said[-1])
                    yield Done(reply=ModelReply(content="".join(said), stop_reason="length"))
                    return
                left -= len(piece.text)
            yield piece


def _checked(said: SaidT, request: ModelRequest) -> SaidT:
    """What has come through an SDK is typed in name only: they check no shapes. Raises ModelError."""
    try:
        return msgspec.convert(msgspec.to_builtins(said), type(said))
    except msgspec.ValidationError as odd:
        raise request_failed(
            request.provider, "INVALID_RESPONSE", f"the answer has other types than it should: {odd}", retryable=False
        ) from None


def _cut(reply: ModelReply, max_chars: int | None) -> ModelReply:
    if max_chars is None or len(reply.content) <= max_chars:
        return reply
    return msgspec.structs.replace(reply, content=reply.content[:max_chars], tool_calls=(), stop_reason="length")
