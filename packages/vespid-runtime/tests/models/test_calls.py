"""What holds for every provider: deadlines, retries, limits, where a call goes, what leaks nowhere."""

import asyncio
import io
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from tests.support.model_server import Fail, Midway, ModelServer, Raw, Say, Wait

from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.models.calls import MAX_ATTEMPTS, Models
from vespid_runtime.models.failures import retry_after_ms
from vespid_runtime.models.registry import Configured, Providers
from vespid_runtime.models.types import Done, ModelAuth, ModelError, ModelRequest, Piece, TextDelta

from .conftest import KEY, MakeRequest

every_wire = pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])


async def failure(models: Models, request: ModelRequest, *, streamed: bool = False) -> ModelError:
    with pytest.raises(ModelError) as failed:
        await (collect(models, request) if streamed else models.infer(request))
    return failed.value


async def collect(models: Models, request: ModelRequest) -> list[Piece]:
    return [piece async for piece in models.stream(request)]


@every_wire
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_what_can_pass_is_tried_again_after_the_time_asked_for(
    provider: str,
    streamed: bool,
    status: int,
    server: ModelServer,
    models: Models,
    ask: MakeRequest,
    waits: list[float],
) -> None:
    server.will(Fail(status, headers=(("Retry-After", "7"),)), Fail(status), Say("Five."))
    request = ask(provider)
    reply = (await collect(models, request))[-1].reply if streamed else await models.infer(request)  # type: ignore[union-attr]
    assert reply.content == "Five."
    assert waits[0] == 7.0
    assert 0 < waits[1] < 7
    assert len(server.requests) == 3


@every_wire
async def test_retries_end_after_a_number_of_attempts(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(*[Fail(503)] * (MAX_ATTEMPTS + 1))
    failed = await failure(models, ask(provider))
    assert failed.code == f"{provider.upper()}_REQUEST_FAILED:503"
    assert failed.retryable
    assert len(server.requests) == MAX_ATTEMPTS


@every_wire
async def test_wait_that_does_not_fit_into_the_time_is_handed_to_the_caller(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest, waits: list[float]
) -> None:
    server.will(Fail(429, headers=(("Retry-After", "120"),)))
    failed = await failure(models, ask(provider, timeout_ms=60_000))
    assert failed.code.endswith("_REQUEST_FAILED:429")
    assert failed.retry_after_ms == 120_000
    assert waits == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "3"}, 3_000),
        ({"Retry-After": "0.5"}, 500),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 250),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "9" * 400}, 24 * 3_600_000),
        ({"Retry-After": format_datetime(datetime(2000, 1, 1, tzinfo=UTC))}, 0),
        ({"Retry-After": format_datetime(datetime(9999, 1, 1, tzinfo=UTC))}, 24 * 3_600_000),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


def test_retry_after_as_a_date_counts_from_now() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(hours=1))
    assert 3_000_000 < (retry_after_ms({"Retry-After": at}) or 0) <= 3_600_000


@every_wire
@pytest.mark.parametrize("streamed", [False, True])
async def test_provider_that_does_not_answer_in_time_is_hung_up_on(
    provider: str, streamed: bool, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    await models._providers.load(provider)  # The import is not what must be in time here.
    server.will(Wait(Say("Too late.")))
    failed = await failure(models, ask(provider, timeout_ms=1_500), streamed=streamed)
    assert failed.code == "LLM_TIMEOUT"
    assert "1500 ms" in failed.message
    assert failed.retryable
    await asyncio.wait_for(server.left.wait(), 30)


@every_wire
async def test_stream_that_stalls_is_over_at_its_deadline(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    await models._providers.load(provider)
    server.will(Midway(Say("one two three four", pieces=8), "wait", after=5))
    failed = await failure(models, ask(provider, timeout_ms=2_000), streamed=True)
    assert failed.code == "LLM_TIMEOUT"
    await asyncio.wait_for(server.left.wait(), 30)
    assert len(server.requests) == 1


@every_wire
@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_ends_the_providers_call(
    provider: str, streamed: bool, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Wait(Say("Nobody hears it.")))
    request = ask(provider)
    call = asyncio.create_task(collect(models, request) if streamed else models.infer(request))  # type: ignore[arg-type]
    await asyncio.wait_for(server.waiting.wait(), 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.left.wait(), 30)


@every_wire
async def test_closing_a_stream_ends_the_providers_call(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Midway(Say("one two three four", pieces=8), "wait", after=5))
    pieces = models.stream(ask(provider))
    assert isinstance(await anext(pieces), TextDelta)
    await pieces.aclose()
    await asyncio.wait_for(server.left.wait(), 30)


@every_wire
async def test_text_beyond_the_limit_is_cut_and_said_to_be(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("one two three"), Say("one two three"))
    request = ask(provider, max_output_chars=5)
    assert (await models.infer(request)).content == "one t"
    *pieces, done = await collect(models, request)
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == "one t"
    assert isinstance(done, Done)
    assert (done.reply.content, done.reply.stop_reason) == ("one t", "length")


@every_wire
async def test_endless_answer_is_not_read_to_its_end(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vespid_runtime.models import transport

    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 10_000)
    server.will(Say("x" * 50_000))
    failed = await failure(models, ask(provider))
    assert failed.code.endswith("_REQUEST_FAILED:INVALID_RESPONSE")
    assert "10000 bytes" in failed.message


@every_wire
async def test_call_without_a_key_is_refused_before_anything_is_sent(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    failed = await failure(models, ask(provider, auth=None))
    assert failed.code == "LLM_AUTH_NOT_CONFIGURED"
    assert not failed.retryable
    assert server.requests == []


async def test_compatible_server_is_called_without_a_key_and_gets_none(
    server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    server.will(Say("Five."))
    assert (await models.infer(ask("openai-compatible", auth=None))).content == "Five."
    assert "authorization" not in server.requests[0].headers


async def test_compatible_server_must_be_named(http: GuardedHttp, ask: MakeRequest) -> None:
    assert (await failure(Models(Providers(http)), ask("openai-compatible"))).code == "BAD_REQUEST"


@every_wire
@pytest.mark.parametrize(
    "url", ["no url", "ftp://models.example", "http://[", "http://user:pw@models.example", "http://"]
)
async def test_base_url_that_is_none_is_told_as_such(
    provider: str, url: str, http: GuardedHttp, ask: MakeRequest
) -> None:
    assert (await failure(Models(Providers(http)), ask(provider, base_url=url))).code == "BAD_REQUEST"


@every_wire
async def test_base_url_of_a_tenant_reaches_no_private_address(
    provider: str, server: ModelServer, http: GuardedHttp, ask: MakeRequest
) -> None:
    request = ask(provider, base_url=server.openai_url)
    for streamed in (False, True):
        failed = await failure(Models(Providers(http)), request, streamed=streamed)
        assert failed.code == "EGRESS_DENIED"
        assert not failed.retryable
    assert server.requests == []


async def test_name_that_resolves_inside_is_refused_like_its_address(server: ModelServer, ask: MakeRequest) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with GuardedHttp(EgressGuard(EgressPolicy.cloud(), resolve)) as http:
        url = server.openai_url.replace("127.0.0.1", "models.example")
        assert (await failure(Models(Providers(http)), ask("openai", base_url=url))).code == "EGRESS_DENIED"
    assert server.requests == []


@every_wire
async def test_redirect_is_not_followed_so_that_no_key_travels_on(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest
) -> None:
    async with ModelServer() as elsewhere:
        elsewhere.will(*[Say("Give me the key.")] * 3)
        for status in (302, 307, 308):
            server.will(Raw(b"", status=status, headers=(("Location", f"{elsewhere.openai_url}/chat/completions"),)))
            assert (await failure(models, ask(provider))).code.endswith(f"_REQUEST_FAILED:{status}")
        assert elsewhere.requests == []


async def test_key_of_the_process_goes_only_where_the_operator_said(server: ModelServer, ask: MakeRequest) -> None:
    configured = {"openai": Configured(base_url=server.openai_url, api_key=KEY)}
    async with GuardedHttp(EgressGuard(EgressPolicy.cloud("127.0.0.1"))) as http, ModelServer() as tenants:
        models = Models(Providers(http, configured))
        server.will(Say("Mine."))
        assert (await models.infer(ask("openai", auth=None))).content == "Mine."
        assert server.requests[0].key == KEY
        failed = await failure(models, ask("openai", auth=None, base_url=tenants.openai_url))
        assert failed.code == "LLM_AUTH_NOT_CONFIGURED"
        assert tenants.requests == []


@every_wire
async def test_environment_of_the_process_does_not_travel(
    provider: str, server: ModelServer, models: Models, ask: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-of-the-environment"
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "GOOGLE"):
        monkeypatch.setenv(f"{name}_API_KEY", canary)
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", f"X-Secret: {canary}\nAuthorization: Bearer {canary}")
    for name in ("ANTHROPIC_AUTH_TOKEN", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, canary)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.will(Say("Five."))
    await models.infer(ask(provider))
    assert server.requests[0].key == KEY
    assert canary not in str(server.requests[0])


@pytest.fixture
def all_logs() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
async def logged(all_logs: io.StringIO) -> AsyncIterator[io.StringIO]:
    """Everything that any library logs, down to the last detail."""
    root, handler = logging.getLogger(), logging.StreamHandler(all_logs)
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield all_logs
    root.removeHandler(handler)
    root.setLevel(before)


@every_wire
async def test_key_and_conversation_are_in_no_log_error_or_repr(
    provider: str, models: Models, http: GuardedHttp, ask: MakeRequest, logged: io.StringIO
) -> None:
    async with ModelServer(key="another") as strict:
        url = strict.openai_url if provider == "openai" else strict.origin
        models = Models(Providers(http, {provider: Configured(base_url=url, api_key=KEY)}))
        request = ask(provider)
        failed = await failure(models, request)
        # The provider quotes the key in its answer, as they do.
        assert failed.code.endswith("_REQUEST_FAILED:401")
        told = "".join(traceback.format_exception(failed)) + repr(failed) + repr(request) + repr(request.auth)
        told += repr(models._providers._configured) + logged.getvalue()
        assert KEY not in told
        assert KEY[:12] not in told
        assert request.messages[0].content not in logged.getvalue()


def test_sdks_are_not_imported_before_a_model_is_called() -> None:
    code = (
        "import sys, vespid_runtime.models.calls, vespid_runtime.models.registry\n"
        "print([name for name in ('openai', 'anthropic', 'google.genai', 'httpx2') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"


async def test_sdk_that_is_not_installed_is_named(
    http: GuardedHttp, ask: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "vespid_runtime.models.openai", raising=False)
    failed = await failure(Models(Providers(http), sleep=_no_sleep), ask("openai"))
    assert failed.code == "ENGINE_UNAVAILABLE"
    assert "vespid-runtime[openai]" in failed.message


async def _no_sleep(_seconds: float) -> None:
    """No time passes."""


async def test_unknown_provider_is_told_which_there_are(http: GuardedHttp, ask: MakeRequest) -> None:
    failed = await failure(Models(Providers(http)), ask("skynet"))
    assert failed.code == "ENGINE_UNAVAILABLE"
    assert not failed.retryable
    assert "anthropic" in failed.message


def test_key_is_in_no_repr() -> None:
    assert KEY not in repr(ModelAuth(api_key=KEY))
    assert KEY not in repr(Configured(api_key=KEY))
