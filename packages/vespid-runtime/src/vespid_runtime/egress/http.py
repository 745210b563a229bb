"""HTTP under the guard: the one aiohttp client of a process for everything that connectors send.

Redirects are followed here, one by one, because each hop is a new place: it is checked like the first, and what was
meant for the first (credentials) does not travel to another origin.
"""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from vespid_runtime.egress.errors import EgressInvalid
from vespid_runtime.egress.guard import EgressGuard

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_READ_CHUNK_BYTES = 64 * 1024
_USER_AGENT = "vespid-runtime"


class TooManyRedirects(Exception):
    """More hops than the caller allowed."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    # Lower-case names; repeated ones joined by ", ".
    headers: Mapping[str, str]
    body: bytes
    # The body was longer than the caller's cap and is cut there.
    truncated: bool
    charset: str | None

    @property
    def retry_after_ms(self) -> int | None:
        """The server's `Retry-After` in seconds form; the date form is rare and left to the caller's own backoff."""
        text = self.headers.get("retry-after", "").strip()
        return int(text) * 1000 if text.isdecimal() and len(text) < 8 else None


class _CheckedResolver(AbstractResolver):
    """Gives aiohttp the addresses that passed the guard; aiohttp connects to exactly those."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        wanted = {socket.AF_INET: (4,), socket.AF_INET6: (6,)}.get(family, (4, 6))
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._guard.addresses(host, port)
            if address.version in wanted
        ]

    async def close(self) -> None:
        """Nothing is held."""


class GuardedHttp:
    """A `Service`: start it once per process, stop it at the end; both may be called twice."""

    def __init__(self, guard: EgressGuard, *, tls: ssl.SSLContext | None = None, max_connections: int = 100) -> None:
        self.guard = guard
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._max_connections = max_connections
        self._guarded: aiohttp.ClientSession | None = None
        # Only for the origins of operator-set base URLs; apart, so that no pooled connection changes sides.
        self._exempt: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._guarded is None:
            self._guarded = self._session(_CheckedResolver(self.guard))
            self._exempt = self._session(None)

    async def stop(self) -> None:
        sessions, self._guarded, self._exempt = (self._guarded, self._exempt), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    async def __aenter__(self) -> "GuardedHttp":
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def _session(self, resolver: AbstractResolver | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=resolver, use_dns_cache=False, ssl=self._tls, limit=self._max_connections
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": _USER_AGENT},
        )

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int,
        max_redirects: int = 5,
        operator_base: str | None = None,
        private_headers: frozenset[str] = frozenset(),
    ) -> HttpReply:
        """One request with its redirects, its body read up to `max_bytes`. The caller bounds the time.

        `operator_base` is a base URL the operator set: requests to its origin, and to nothing else, pass the guard.
        `private_headers` (lower case) are dropped, with the usual credentials, when a redirect leaves the origin.
        Raises `EgressRefused`, `TooManyRedirects`, `aiohttp.ClientError` and `OSError`.
        """
        exempt = EgressGuard.parse_url(operator_base).origin() if operator_base is not None else None
        sent = dict(headers or {})
        target = EgressGuard.parse_url(url)
        for _ in range(max_redirects + 1):
            reply = await self._hop(method, target, sent, body, max_bytes, free=target.origin() == exempt)
            location = reply.headers.get("location")
            if reply.status not in _REDIRECTS or location is None:
                return reply
            following = _joined(target, location)
            if reply.status == 303 or (reply.status in (301, 302) and method == "POST"):
                method, body = "GET" if method != "HEAD" else method, None
                sent = {name: value for name, value in sent.items() if not name.lower().startswith("content-")}
            if following.origin() != target.origin():
                dropped = _CREDENTIALS | private_headers
                sent = {name: value for name, value in sent.items() if name.lower() not in dropped}
            target = following
        raise TooManyRedirects(f"more than {max_redirects} redirects")

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        operator_base: str | None = None,
    ) -> aiohttp.ClientResponse:
        """One request, its redirect not followed, its body still to be read: for answers that come bit by bit.

        Whoever asks closes the response. `operator_base` and what is raised: as of `fetch`.
        """
        target = EgressGuard.parse_url(url)
        free = operator_base is not None and target.origin() == EgressGuard.parse_url(operator_base).origin()
        return await self._request(method, target, headers, body, free=free)

    async def _request(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, *, free: bool
    ) -> aiohttp.ClientResponse:
        if not free:
            url = self.guard.check_url(str(url))
        session = self._exempt if free else self._guarded
        if session is None:
            raise RuntimeError("GuardedHttp is not started")
        return await session.request(method, url, headers=headers, data=body, allow_redirects=False)

    async def _hop(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, max_bytes: int, *, free: bool
    ) -> HttpReply:
        async with await self._request(method, url, headers, body, free=free) as response:
            content, truncated = await _read(response, max_bytes)
            return HttpReply(
                status=response.status,
                headers=_joined_headers(response),
                body=content,
                truncated=truncated,
                charset=response.charset,
            )


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_READ_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            response.close()
            return bytes(content[:max_bytes]), True
    return bytes(content), False


def _joined_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def _joined(base: URL, location: str) -> URL:
    try:
        return EgressGuard.parse_url(str(base.join(URL(location))))
    except ValueError:
        raise EgressInvalid("redirected to something that is not a URL") from None
