"""Pairing: a short-lived token from a person becomes this machine's own credential."""

from __future__ import annotations

import aiohttp
import msgspec

from vespid_agent import __version__
from vespid_agent.config import AgentConfig
from vespid_agent.network import proxy_for

_TIMEOUT_S = 30

# What a person can do about each answer.
_ADVICE = {
    "PAIRING_TOKEN_INVALID": "The token is unknown or was used already. Create a new one on the agents page; "
    "each token pairs one machine.",
    "PAIRING_TOKEN_EXPIRED": "Pairing tokens live 15 minutes. Create a new one on the agents page.",
    "RATE_LIMITED": "Too many failed attempts came from this address. Wait a little and try again.",
    "BAD_REQUEST": "Check --name (1 to 120 characters) and --pairing-token.",
    "NOT_FOUND": "Is --api-base the address of the Vespid API (port 3001 by default)?",
}


class PairingFailed(Exception):
    """`code` is the API's, or UNREACHABLE / UNEXPECTED_ANSWER; `advice` says what to do."""

    def __init__(self, code: str, message: str, advice: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.advice = advice


class _Paired(msgspec.Struct, rename="camel"):
    executor_id: str
    executor_token: str
    gateway_ws_url: str
    organization_id: str | None = None


class _Refused(msgspec.Struct):
    code: str = "UNEXPECTED_ANSWER"
    message: str = ""


class _Request(msgspec.Struct, rename="camel"):
    pairing_token: str
    name: str
    agent_version: str
    capabilities: dict[str, object]


async def pair(
    session: aiohttp.ClientSession,
    *,
    api_base: str,
    pairing_token: str,
    name: str,
    tags: tuple[str, ...],
    capabilities: dict[str, object],
    gateway_ws_url: str | None,
) -> AgentConfig:
    """Spend the token. Raises PairingFailed."""
    base = api_base.rstrip("/")
    body = msgspec.json.encode(_Request(pairing_token, name, __version__, capabilities))
    url = f"{base}/v1/agents/pair"
    try:
        proxy, proxy_auth = proxy_for(url)
        async with session.post(
            url,
            data=body,
            headers={"Content-Type": "application/json"},
            proxy=proxy,
            proxy_auth=proxy_auth,
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        ) as response:
            status, content = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise PairingFailed(
            "UNREACHABLE",
            f"{base} did not answer ({type(error).__name__}: {error})",
            "Check --api-base, the network, HTTPS_PROXY, and VESPID_AGENT_TLS_CA_FILE for a private CA. "
            "The token was probably not used.",
        ) from error
    if status != 201:
        raise _refusal(status, content)
    try:
        paired = msgspec.json.decode(content, type=_Paired)
    except msgspec.DecodeError as error:
        raise PairingFailed("UNEXPECTED_ANSWER", str(error), _ADVICE["NOT_FOUND"]) from None
    return AgentConfig(
        executor_id=paired.executor_id,
        executor_token=paired.executor_token,
        organization_id=paired.organization_id,
        gateway_ws_url=gateway_ws_url or paired.gateway_ws_url,
        api_base_url=base,
        name=name,
        tags=tags,
    )


def _refusal(status: int, content: bytes) -> PairingFailed:
    try:
        refused = msgspec.json.decode(content, type=_Refused)
    except msgspec.DecodeError:
        refused = _Refused()
    advice = _ADVICE.get(refused.code)
    if advice is None:
        advice = "Try again in a minute; if it stays so, tell the operator." if status >= 500 else _ADVICE["NOT_FOUND"]
    return PairingFailed(refused.code, refused.message or f"HTTP {status}", advice)
