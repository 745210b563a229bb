"""The providers there are, and where a call of one goes, with which key.

The one thing to know: a base URL that came with the request may be a tenant's, so calls to it are held to the egress
rules, and the process's own key never goes there. What the operator configured is exempt from the rules.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vespid_protocol.codes import Code
from vespid_runtime.egress import EgressGuard, EgressInvalid, GuardedHttp
from vespid_runtime.models.provider import Call, Provider
from vespid_runtime.models.types import ModelError, ModelRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """One row of the table."""

    # Imported when first called: an SDK takes a second or two.
    module: str
    kind: str
    # The extra of the distribution that brings the SDK.
    extra: str
    # None: there is no such place, it must be told.
    base_url: str | None
    needs_key: bool = True


_OPENAI = ("vespid_runtime.models.openai", "OpenAiProvider", "openai")

PROVIDERS: Mapping[str, ProviderEntry] = MappingProxyType(
    {
        "openai": ProviderEntry(
            module=_OPENAI[0], kind=_OPENAI[1], extra=_OPENAI[2], base_url="https://api.openai.com/v1"
        ),
        "anthropic": ProviderEntry(
            module="vespid_runtime.models.anthropic",
            kind="AnthropicProvider",
            extra="anthropic",
            base_url="https://api.anthropic.com",
        ),
        "gemini": ProviderEntry(
            module="vespid_runtime.models.gemini",
            kind="GeminiProvider",
            extra="gemini",
            base_url="https://generativelanguage.googleapis.com",
        ),
        "openrouter": ProviderEntry(
            module=_OPENAI[0], kind=_OPENAI[1], extra=_OPENAI[2], base_url="https://openrouter.ai/api/v1"
        ),
        # vLLM, Ollama and the like, most of which take no key.
        "openai-compatible": ProviderEntry(
            module=_OPENAI[0], kind=_OPENAI[1], extra=_OPENAI[2], base_url=None, needs_key=False
        ),
    }
)

# They tell of whole conversations below this level.
_TALKATIVE = ("openai", "anthropic", "google_genai", "httpx2", "httpcore2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What the operator of this process says about one provider."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)


class Providers:
    """Of one process. `http` is started by its owner."""

    def __init__(self, http: GuardedHttp, configured: Mapping[str, Configured] | None = None) -> None:
        self._http = http
        self._configured = dict(configured or {})
        self._loaded: dict[tuple[str, str], Provider] = {}

    def call(self, request: ModelRequest) -> Call:
        """Where the request goes, and with which key. Raises ModelError; nothing is connected or imported yet."""
        entry = _entry(request.provider)
        configured = self._configured.get(request.provider, Configured())
        base_url = request.base_url or configured.base_url or entry.base_url
        if base_url is None:
            raise ModelError(Code.BAD_REQUEST, f"{request.provider} needs a base URL (baseUrl)")
        try:
            EgressGuard.parse_url(base_url)
        except EgressInvalid as invalid:
            raise ModelError(Code.BAD_REQUEST, f"the base URL of {request.provider}: {invalid}") from invalid
        operators = configured.base_url is not None and _same(base_url, configured.base_url)
        owned = operators or request.base_url is None
        key = request.auth.api_key if request.auth is not None else (configured.api_key if owned else None)
        if not key and entry.needs_key:
            raise ModelError(Code.LLM_AUTH_NOT_CONFIGURED, f"there is no key for {request.provider}")
        return Call(
            request=request,
            base_url=base_url,
            api_key=key or "",
            http=self._http,
            operator_base=configured.base_url if operators else None,
        )

    async def load(self, name: str) -> Provider:
        """The provider's code, with its SDK. Raises ModelError ENGINE_UNAVAILABLE where that is not installed."""
        entry = _entry(name)
        loaded = self._loaded.get((entry.module, entry.kind))
        if loaded is None:
            # From a thread: work of others goes on meanwhile.
            loaded = await asyncio.to_thread(_import, entry)
            self._loaded[entry.module, entry.kind] = loaded
        return loaded


def _entry(name: str) -> ProviderEntry:
    entry = PROVIDERS.get(name)
    if entry is None:
        known = ", ".join(PROVIDERS)
        raise ModelError(
            Code.ENGINE_UNAVAILABLE, f"there is no provider {name[:64]!r}; known are {known}", retryable=False
        )
    return entry


def _import(entry: ProviderEntry) -> Provider:
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        provider: Provider = getattr(importlib.import_module(entry.module), entry.kind)()
    except ModuleNotFoundError as missing:
        message = f"the SDK is not installed here: vespid-runtime[{entry.extra}] brings it ({missing.name})"
        raise ModelError(Code.ENGINE_UNAVAILABLE, message, retryable=False) from missing
    return provider


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
