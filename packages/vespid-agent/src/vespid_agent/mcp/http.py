"""A server that is reached over HTTP (streamable HTTP), with a bound on what one answer may hold."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import httpx2
from mcp.client.streamable_http import streamable_http_client

from vespid_agent.mcp.config import ServerConfig
from vespid_agent.mcp.ends import MESSAGE_MAX_BYTES

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_S = 15.0
# A stream may be silent for long; each call has a time of its own.
_READ_S = 24 * 3600.0


@contextlib.asynccontextmanager
async def http_streams(server: ServerConfig, tls: ssl.SSLContext) -> AsyncGenerator[TransportStreams, None]:
    timeout = httpx2.Timeout(_CONNECT_S, read=_READ_S)
    async with (
        httpx2.AsyncClient(
            headers=dict(server.headers), timeout=timeout, verify=tls, event_hooks={"response": [_bound]}
        ) as client,
        streamable_http_client(
            server.url, http_client=client, max_sse_event_size=MESSAGE_MAX_BYTES, terminate_on_close=False
        ) as streams,
    ):
        yield streams


async def _bound(response: httpx2.Response) -> None:
    """Events of a stream are bounded one by one; every other body as a whole."""
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MESSAGE_MAX_BYTES
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise httpx2.StreamError(f"the answer has more than {MESSAGE_MAX_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
