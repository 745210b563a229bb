"""The SDKs' way to the network: their httpx clients send through `GuardedHttp`, so the egress rules hold for them too.

What the SDKs read from the environment by themselves stays here: of what they want to send, only known headers leave,
proxies and redirects are not followed, and an answer has a largest size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import httpx2

from vespid_runtime.egress import EgressRefused
from vespid_runtime.models.provider import Call

MAX_REPLY_BYTES = 16 * 1024 * 1024

# OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS, ANTHROPIC_CUSTOM_HEADERS and their like are the operator's, while the address
# may be a tenant's: nothing travels that this call was not given.
_SENT = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "authorization",
        "content-type",
        "user-agent",
        "x-api-key",
        "x-goog-api-key",
    }
)


class ReplyTooLarge(httpx2.ReadError):
    """The answer is longer than any model's."""


def sdk_client(call: Call) -> httpx2.AsyncClient:
    """For one call of an SDK. Closing it closes what is still being answered; otherwise nothing is held."""
    return httpx2.AsyncClient(transport=_Guarded(call), trust_env=False, follow_redirects=False, timeout=None)


class _Guarded(httpx2.AsyncBaseTransport):
    def __init__(self, call: Call) -> None:
        self._call = call
        self._bodies: list[_Body] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() in _SENT}
        if not self._call.api_key:
            # The SDKs insist on sending something.
            headers.pop("authorization", None)
        headers["accept-encoding"] = "identity"
        body = await request.aread()
        try:
            response = await self._call.http.send(
                request.method, str(request.url), headers=headers, body=body, operator_base=self._call.operator_base
            )
        except EgressRefused as refused:
            raise httpx2.ConnectError(str(refused), request=request) from refused
        except (aiohttp.ClientError, OSError) as broken:
            # The text of these may quote the URL with its query: only the kind is told.
            raise httpx2.ConnectError(f"no connection ({type(broken).__name__})", request=request) from broken
        # aiohttp has undone the encoding, if there was one after all.
        answered = [(name, value) for name, value in response.headers.items() if name.lower() != "content-encoding"]
        answer = _Body(response)
        self._bodies.append(answer)
        return httpx2.Response(response.status, headers=answered, stream=answer, request=request)

    async def aclose(self) -> None:
        for body in self._bodies:
            await body.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        try:
            async for chunk in self._response.content.iter_any():
                received += len(chunk)
                if received > MAX_REPLY_BYTES:
                    raise ReplyTooLarge(f"the answer is longer than {MAX_REPLY_BYTES} bytes")
                yield chunk
        except (aiohttp.ClientError, OSError) as broken:
            raise httpx2.ReadError(f"the answer broke off ({type(broken).__name__})") from broken

    async def aclose(self) -> None:
        # Where not all was read this cuts the connection, which is how a provider learns that nobody listens.
        self._response.close()
