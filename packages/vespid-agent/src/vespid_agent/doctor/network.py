"""The way to the gateway and to the API, step by step: proxy, name, connection, certificate, answer, upgrade, token.

The one thing to know: nothing here displaces the running agent. A connection is the executor's only once it is
upgraded, so the gateway is asked for an upgrade that it must refuse, of a WebSocket version that there is not. It says
first whether it knows us (401, 403), and then what is wrong with the upgrade: both are known, and none was made.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
from yarl import URL

from vespid_agent.doctor import certificates
from vespid_agent.doctor.finding import Finding, Level, fail, ok, warn
from vespid_agent.network import NetworkMisconfigured, http_session, proxy_for, tls_context
from vespid_agent.settings import AgentSettings

# For each step.
PATIENCE_S = 10.0
# The header says full seconds, and the answer takes a while.
SKEW_WARN_S = 10.0
# Certificates and logins of others begin to fail.
SKEW_FAIL_S = 300.0
_ANSWER_MAX_BYTES = 4096
_NO_VERSION = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "0",
    "Sec-WebSocket-Key": "dmVzcGlkLWRvY3Rvci4uLg==",
}
_PROXY_MEND = "Check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."
_IDENTITY_MEND = "Put the new one into the config, or pair again."
_TLS_MEND = "Where the authority is your own, name its certificate in VESPID_AGENT_TLS_CA_FILE."


@dataclass(frozen=True)
class Target:
    """An address that is tried. `level`: how bad it is when it does not work."""

    name: str
    url: str
    is_gateway: bool = False
    # None: not paired yet.
    token: str | None = None
    level: Level = "fail"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    date: str | None
    # Of the local clock, between question and answer.
    asked_s: float


async def findings(targets: list[Target], settings: AgentSettings) -> AsyncIterator[Finding]:
    """Line by line. A step that fails is the last of its target."""
    try:
        session, tls = http_session(settings.tls_ca_file), tls_context(settings.tls_ca_file)
    except NetworkMisconfigured:
        return  # the line of the CA file says so
    skews: list[Finding] = []
    async with session:
        for target in targets:
            async for finding in _Way(target, session, tls, skews).findings():
                yield finding
    if skews:
        yield skews[0]


class _Way:
    """To one target."""

    def __init__(
        self, target: Target, session: aiohttp.ClientSession, tls: ssl.SSLContext, skews: list[Finding]
    ) -> None:
        self._target = target
        self._session = session
        self._tls = tls
        self._skews = skews
        self._url = URL(target.url)

    async def findings(self) -> AsyncIterator[Finding]:
        name = self._target.name
        if self._url.scheme not in ("http", "https", "ws", "wss") or not self._url.host:
            yield self._bad(name, f"{self._target.url} is no address", "Pair again, or give --gateway-ws-url.")
            return
        try:
            proxy, auth = proxy_for(self._target.url)
        except NetworkMisconfigured as error:
            yield self._bad(f"{name} proxy", str(error), _PROXY_MEND)
            return
        said = "none: straight there" if proxy is None else f"{proxy}{' with a login' if auth else ''}"
        yield ok(f"{name} proxy", said)
        for step in (self._resolves(proxy or self._url), self._connects(proxy or self._url)):
            finding = await step
            yield finding
            if finding.level == self._target.level and finding.level != "ok":
                return
        async for finding in self._answers(proxy, auth):
            yield finding

    async def _resolves(self, url: URL) -> Finding:
        check, host = f"{self._target.name} dns", url.host or ""
        try:
            addresses = await self._addresses(url)
        except (OSError, TimeoutError) as error:
            cause = getattr(error, "strerror", None) or str(error) or f"no answer within {PATIENCE_S:g} s"
            return self._bad(check, f"{host}: {cause}", "Check the name, and the resolver of this machine.")
        return ok(check, f"{host} is {', '.join(addresses)}")

    async def _addresses(self, url: URL) -> list[str]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _connects(self, url: URL) -> Finding:
        """To every address: one that is dead costs each reconnect its time."""
        check, port = f"{self._target.name} tcp", url.port or 0
        addresses = await self._addresses(url)
        causes = await asyncio.gather(*(_try_connect(address, port) for address in addresses))
        dead = [f"{address}: {cause}" for address, cause in zip(addresses, causes, strict=True) if cause is not None]
        if len(dead) == len(addresses):
            mend = "Is it running, and does a firewall let this machine out to that port? It may want a proxy."
            return self._bad(check, f"port {port}: {'; '.join(dead)}", mend)
        if dead:
            return warn(check, f"port {port}: of {len(addresses)} addresses, {'; '.join(dead)}")
        return ok(check, f"port {port} answers")

    async def _answers(self, proxy: URL | None, auth: aiohttp.BasicAuth | None) -> AsyncIterator[Finding]:
        """Over the proxy where there is one: certificate, clock, and what is said there."""
        name = self._target.name
        try:
            answer = await self._ask(proxy, auth)
        except aiohttp.ClientConnectorCertificateError as error:
            yield self._bad(f"{name} tls", _tls_cause(error.certificate_error), _TLS_MEND)
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
            yield self._bad(f"{name} proxy", f"{proxy}: {_cause(error)}", _PROXY_MEND)
        except aiohttp.ClientSSLError as error:
            yield self._bad(f"{name} tls", _cause(error), "Does the other end speak TLS on that port?")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            yield self._bad(f"{name} http", _cause(error), "Something on the way ends the connection.")
        else:
            if self._url.scheme in ("https", "wss"):
                yield await self._certificate(proxied=proxy is not None)
            if (skew := _skew(answer)) is not None:
                self._skews.append(skew)
            yield self._upgrade(answer) if self._target.is_gateway else self._api(answer)

    async def _certificate(self, *, proxied: bool) -> Finding:
        """It was verified; until when it is good is seen where there is no proxy between."""
        check = f"{self._target.name} tls"
        if proxied:
            return ok(check, "verified")
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(self._url.host, self._url.port, ssl=self._tls)
        found = writer.get_extra_info("peercert")
        writer.close()
        return certificates.judge(check, found or {})

    async def _ask(self, proxy: URL | None, auth: aiohttp.BasicAuth | None) -> Answer:
        scheme = {"ws": "http", "wss": "https"}.get(self._url.scheme, self._url.scheme)
        url, headers = self._url.with_scheme(scheme), dict(_NO_VERSION if self._target.is_gateway else {})
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token}"
        asked = time.time()
        async with (
            asyncio.timeout(PATIENCE_S),
            self._session.get(url, headers=headers, proxy=proxy, proxy_auth=auth, allow_redirects=False) as response,
        ):
            body = await response.content.read(_ANSWER_MAX_BYTES)
            middle = (asked + time.time()) / 2
            return Answer(response.status, body, response.headers.get("Date"), middle)

    def _upgrade(self, answer: Answer) -> Finding:
        """What the gateway says of us, and of the upgrade that it had to refuse."""
        check, code = f"{self._target.name} upgrade", _code(answer.body)
        said = f"HTTP {answer.status} {code}".rstrip()
        if answer.status == 401 and code and self._target.token is None:
            return ok(check, f"{said}: it answers, and this machine is not paired yet")
        if answer.status == 401 and code:
            return fail(check, f"{said}: the token is not known there", _IDENTITY_MEND)
        if answer.status == 403 and code:
            return fail(check, f"{said}: this agent was revoked", "Pair this machine again if that was a mistake.")
        if answer.status == 426:
            return fail(check, f"{said}: this version is not spoken there", "Update the agent.")
        if answer.status == 503:
            return warn(check, f"{said}: the gateway is starting or stopping", "Try again in a minute.")
        if answer.status == 407:
            return fail(check, f"{said}: the proxy wants a login", _PROXY_MEND)
        if answer.status != 400 or not code:
            mend = "Is the path right (…/ws/executor), and does what stands before the gateway route it there?"
            return fail(check, f"{said}: that is not the gateway", mend)
        if b"UPGRADE hdr" in answer.body or b"upgrade hdr" in answer.body:
            mend = "Have the proxy before the gateway pass `Upgrade` and `Connection` on (docs/guide.md)."
            return fail(check, "the token is good, and something on the way takes the upgrade away", mend)
        return ok(check, "the token is good and the gateway was asked for an upgrade")

    def _api(self, answer: Answer) -> Finding:
        check = f"{self._target.name} http"
        if answer.status == 200:
            return ok(check, "it answers")
        mend = "Is --api-base the address of the Vespid API? Only pairing and downloads need it."
        return warn(check, f"it answers HTTP {answer.status} to {self._url.path}", mend)

    def _bad(self, check: str, found: str, mend: str | None) -> Finding:
        return Finding(check=check, level=self._target.level, found=found, mend=mend)


async def _try_connect(address: str, port: int) -> str | None:
    """Why not; None when it worked."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return f"no answer within {PATIENCE_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    writer.close()
    return None


def _skew(answer: Answer) -> Finding | None:
    try:
        there = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return None
    if there.tzinfo is None:
        there = there.replace(tzinfo=UTC)
    skew = answer.asked_s - (there.timestamp() + 0.5)
    said = f"this machine's is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    mend = "Let the machine keep its time by NTP."
    if abs(skew) > SKEW_FAIL_S:
        return fail("clock", said, mend)
    return warn("clock", said, mend) if abs(skew) > SKEW_WARN_S else ok("clock", "as the server's, to within seconds")


def _code(body: bytes) -> str:
    """Of the error envelope; empty where it is none."""
    try:
        return msgspec.json.decode(body, type=_Envelope).code
    except msgspec.DecodeError:
        return ""


class _Envelope(msgspec.Struct):
    code: str


def _tls_cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    return str(error)


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S:g} s"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"it answers HTTP {error.status} {error.message}".rstrip()
    return f"{type(error).__name__}: {error}".rstrip(": ")
