"""What tests of models share: a provider on loopback, and models that the operator pointed at it."""

from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.model_server import ModelServer

from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.models.calls import Models
from vespid_runtime.models.registry import Configured, Providers
from vespid_runtime.models.types import Message, ModelAuth, ModelRequest, User

PROVIDERS = ("openai", "openai-compatible", "openrouter", "anthropic", "gemini")
KEY = "sk-canary-3e9b1c77a0d14f52"

MakeRequest = Callable[..., ModelRequest]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[GuardedHttp]:
    """As in the cloud: nothing but public addresses."""
    async with GuardedHttp(EgressGuard(EgressPolicy.cloud())) as started:
        yield started


@pytest.fixture
def waits() -> list[float]:
    """What the models waited for between attempts, in seconds; no time passes."""
    return []


@pytest.fixture
def models(server: ModelServer, http: GuardedHttp, waits: list[float]) -> Models:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    configured = {
        name: Configured(base_url=server.openai_url if name.startswith("open") else server.origin) for name in PROVIDERS
    }
    return Models(Providers(http, configured), sleep=sleep)


@pytest.fixture
def ask() -> MakeRequest:
    def make(provider: str, *messages: Message, **more: object) -> ModelRequest:
        said = messages or (User(content="What is 2 and 3?"),)
        fields: dict[str, object] = {"auth": ModelAuth(api_key=KEY), "timeout_ms": 60_000, **more}
        return ModelRequest(provider=provider, model="some-model", messages=said, **fields)  # type: ignore[arg-type]

    return make
