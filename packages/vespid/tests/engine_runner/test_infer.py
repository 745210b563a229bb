"""The engine-runner over real sockets, in front of a stand-in for the providers."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import REGISTRY
from tests.support.model_server import Fail, Midway, ModelServer, Say, Tool, Wait, call_tools

from vespid.engine_runner.service import EngineRunnerService
from vespid.observe.log import set_up_logging
from vespid.settings import EngineRunnerSettings

TOKEN = "engine-runner-token-of-this-test"
KEY = "sk-canary-7c21be9905d44e6a"

pytestmark = pytest.mark.usefixtures("server")


class Caller:
    """What the brain does: posts with the token."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{port}/internal/v1/llm/infer"
        self._session = session

    def post(self, *, token: str | None = TOKEN, data: bytes | None = None, **fields: Any) -> Any:
        body = {
            "provider": "openai",
            "model": "some-model",
            "messages": [{"role": "user", "content": "2 and 3?"}],
            "timeoutMs": 60_000,
            "maxOutputChars": 1_000,
            "auth": {"kind": "api_key", "apiKey": KEY},
            **fields,
        }
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return self._session.post(self.url, data=data or json.dumps(body), headers=headers)

    async def __call__(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        async with self.post(**fields) as response:
            return response.status, await response.json()

    async def stream(self, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
        async with self.post(stream=True, **fields) as response:
            assert response.content_type == "text/event-stream"
            return events(await response.text())


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    lines = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data in lines]


def settings(server: ModelServer, **more: str) -> EngineRunnerSettings:
    env = {
        "VESPID_ENV": "test",
        "ENGINE_RUNNER_HOST": "127.0.0.1",
        "ENGINE_RUNNER_PORT": "0",
        "ENGINE_RUNNER_TOKEN": TOKEN,
        "ENGINE_RUNNER_TIMEOUT_MS": "60000",
        "ENGINE_RUNNER_MAX_CONCURRENT": "2",
        "VESPID_SHUTDOWN_GRACE_MS": "30000",
        "OPENAI_BASE_URL": server.openai_url,
        "ANTHROPIC_BASE_URL": server.origin,
        "GEMINI_BASE_URL": server.origin,
        "OPENAI_COMPATIBLE_BASE_URL": server.openai_url,
        **more,
    }
    return EngineRunnerSettings.from_env(env)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def runner(server: ModelServer) -> AsyncIterator[EngineRunnerService]:
    service = EngineRunnerService(settings(server))
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def infer(runner: EngineRunnerService, session: aiohttp.ClientSession) -> Caller:
    return Caller(runner.port, session)


def counted(outcome: str, provider: str = "openai") -> float:
    labels = {"provider": provider, "outcome": outcome}
    return REGISTRY.get_sample_value("vespid_model_calls_total", labels) or 0.0


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "openai-compatible"])
async def test_answer_is_as_the_contract_says(provider: str, server: ModelServer, infer: Caller) -> None:
    server.will(call_tools(Tool("add", {"a": 2}), text="Let me see."))
    status, body = await infer(provider=provider, tools=[{"name": "add", "inputSchema": {"type": "object"}}])
    assert status == 200
    assert body["ok"] is True
    assert body["content"] == "Let me see."
    assert [(call["name"], call["arguments"]) for call in body["toolCalls"]] == [("add", '{"a": 2}')]
    assert body["stopReason"] == "tool_calls"
    assert body["usage"] == {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18}
    assert server.requests[0].key == KEY


async def test_stream_tells_pieces_and_ends_with_the_whole(server: ModelServer, infer: Caller) -> None:
    server.will(call_tools(Tool("add", {"a": 2}), text="Let me see."))
    told = await infer.stream()
    kinds = [kind for kind, _ in told]
    assert kinds[0] == "text"
    assert kinds[-2:] == ["tool_call", "done"]
    assert "tool_call_delta" in kinds
    assert "".join(data["text"] for kind, data in told if kind == "text") == "Let me see."
    assert told[-1][1]["usage"]["totalTokens"] == 18
    assert told[-1][1]["ok"] is True


async def test_text_travels_before_the_model_has_finished(server: ModelServer, infer: Caller) -> None:
    server.will(Midway(Say("one two three four", pieces=4), "wait", after=2))
    async with infer.post(stream=True) as response:
        assert await asyncio.wait_for(response.content.readline(), 30) == b"event: text\n"
        server.go_on()
        rest = await response.text()
    assert "event: done" in rest


async def test_stream_that_breaks_ends_with_an_error_event(server: ModelServer, infer: Caller) -> None:
    server.will(Midway(Say("one two three four", pieces=8), "cut", after=5))
    told = await infer.stream()
    assert told[-1][0] == "error"
    assert told[-1][1]["error"] == "OPENAI_REQUEST_FAILED:NETWORK"
    assert told[-1][1]["retryable"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_error_of_the_provider_is_told_with_its_status(stream: bool, server: ModelServer, infer: Caller) -> None:
    server.will(Fail(403, "not for you"))
    status, body = await infer(stream=stream)
    assert (status, body["ok"], body["error"]) == (200, False, "OPENAI_REQUEST_FAILED:403")
    assert body["retryable"] is False


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
async def test_without_the_token_nothing_is_asked(token: str | None, server: ModelServer, infer: Caller) -> None:
    status, body = await infer(token=token)
    assert (status, body["ok"], body["error"]) == (401, False, "UNAUTHORIZED")
    assert server.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"data": b"{"},
        {"data": b"\xff"},
        {"messages": []},
        {"messages": [{"role": "wizard", "content": ""}]},
        {"timeoutMs": 0},
        {"tools": [{"name": "a.b"}]},
        {"auth": {"kind": KEY}},
        {"auth": {"apiKey": 5}},
    ],
)
async def test_bad_shape_is_refused_naming_the_field_and_no_value(fields: dict[str, Any], infer: Caller) -> None:
    status, body = await infer(**fields)
    assert (status, body["ok"], body["error"]) == (400, False, "BAD_REQUEST")
    assert KEY not in body["message"]


async def test_without_a_key_the_call_is_refused(server: ModelServer, infer: Caller) -> None:
    for stream in (False, True):
        status, body = await infer(auth=None, stream=stream)
        assert (status, body["error"]) == (503, "LLM_AUTH_NOT_CONFIGURED")
    assert server.requests == []


async def test_unknown_provider_is_refused(infer: Caller) -> None:
    status, body = await infer(provider="skynet")
    assert (status, body["error"]) == (503, "ENGINE_UNAVAILABLE")


async def test_base_url_of_a_tenant_is_held_to_the_egress_rules(server: ModelServer, infer: Caller) -> None:
    async with ModelServer() as inside:
        status, body = await infer(baseUrl=inside.openai_url)
        assert (status, body["error"]) == (200, "EGRESS_DENIED")
        assert inside.requests == []


async def test_call_takes_no_longer_than_asked(server: ModelServer, infer: Caller) -> None:
    server.will(Say("The import is done."), Wait(Say("Too late.")))
    await infer()
    before = counted("LLM_TIMEOUT")
    _, body = await infer(timeoutMs=500)
    assert (body["ok"], body["error"]) == (False, "LLM_TIMEOUT")
    assert counted("LLM_TIMEOUT") == before + 1
    await asyncio.wait_for(server.left.wait(), 30)


async def test_call_takes_no_longer_than_the_operator_allows(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    service = EngineRunnerService(settings(server, ENGINE_RUNNER_TIMEOUT_MS="1000"))
    await service.start()
    try:
        server.will(Wait(Say("Too late.")))
        _, body = await Caller(service.port, session)(timeoutMs=600_000)
        assert body["error"] == "LLM_TIMEOUT"
        # What was granted is a little less where it waited for its turn.
        assert int(body["message"].split()[-2]) <= 1_000
    finally:
        await service.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_that_hangs_up_ends_the_providers_call(stream: bool, server: ModelServer, infer: Caller) -> None:
    server.will(Wait(Say("Nobody hears it.")))
    before = counted("cancelled")
    call = asyncio.create_task(infer(stream=stream))
    await asyncio.wait_for(server.waiting.wait(), 30)
    call.cancel()
    await asyncio.wait([call])
    await asyncio.wait_for(server.left.wait(), 30)
    async with asyncio.timeout(30):
        while counted("cancelled") == before:
            await asyncio.sleep(0)


async def test_organization_has_so_many_calls_at_once_and_others_have_theirs(
    server: ModelServer, infer: Caller
) -> None:
    server.will(*[Wait(Say("Done."))] * 5)
    ours = [asyncio.create_task(infer(organizationId="org-a")) for _ in range(4)]
    theirs = asyncio.create_task(infer(organizationId="org-b"))
    other = asyncio.create_task(infer(organizationId="org-a", provider="anthropic"))
    # Two of the four, the other organization's, and the other provider's.
    await asyncio.wait_for(server.got(4), 60)
    assert server.at_once == 4
    server.will(Wait(Say("Done.")))
    server.go_on()
    for call in (*ours, theirs, other):
        assert (await call)[1]["ok"] is True
    assert server.at_once == 4


async def test_calls_that_find_no_turn_in_time_are_told_to_come_again(server: ModelServer, infer: Caller) -> None:
    server.will(Wait(Say("Done.")), Wait(Say("Done.")))
    running = [asyncio.create_task(infer(organizationId="org-a")) for _ in range(2)]
    await asyncio.wait_for(server.got(2), 60)
    async with infer.post(organizationId="org-a", timeoutMs=50) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["error"] == "ENGINE_UNAVAILABLE"
    server.go_on()
    for call in running:
        assert (await call)[1]["ok"] is True


async def test_call_in_progress_finishes_when_the_runner_stops(
    server: ModelServer, runner: EngineRunnerService, infer: Caller
) -> None:
    server.will(Wait(Say("Finished.")))
    call = asyncio.create_task(infer())
    await asyncio.wait_for(server.waiting.wait(), 30)
    stopping = asyncio.create_task(runner.stop())
    ended, _ = await asyncio.wait([stopping], timeout=0.5)
    assert not ended
    server.go_on()
    assert (await call)[1]["content"] == "Finished."
    await stopping


async def test_tokens_and_outcomes_are_counted(
    server: ModelServer, infer: Caller, session: aiohttp.ClientSession
) -> None:
    def tokens(direction: str) -> float:
        labels = {"provider": "openai", "direction": direction}
        return REGISTRY.get_sample_value("vespid_model_tokens_total", labels) or 0.0

    before = (counted("ok"), counted("REQUEST_FAILED"), tokens("input"), tokens("output"))
    server.will(Say("Five."), Fail(400), Say("Five."))
    await infer()
    await infer()
    await infer.stream()
    after = (counted("ok"), counted("REQUEST_FAILED"), tokens("input"), tokens("output"))
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 22, 14]
    async with session.get(infer.url.replace("/internal/v1/llm/infer", "/metrics")) as response:
        assert "vespid_model_call_seconds_bucket" in await response.text()


@pytest.mark.promise("P7")
async def test_key_is_in_no_log_answer_or_metric(
    infer: Caller, server: ModelServer, session: aiohttp.ClientSession
) -> None:
    logs = io.StringIO()
    set_up_logging("debug", stream=logs, as_json=True)
    try:
        server.key = "another"
        answers = [await infer(provider=name) for name in ("openai", "anthropic", "gemini")]
        server.key = None
        server.will(Say("Five."), Midway(Say("one two three"), "cut"))
        answers.append(await infer())
        told = await infer.stream()
    finally:
        set_up_logging("info")
    async with session.get(infer.url.replace("/internal/v1/llm/infer", "/metrics")) as response:
        metrics = await response.text()
    assert [body["error"] for _, body in answers[:3]] == [
        f"{name}_REQUEST_FAILED:401" for name in ("OPENAI", "ANTHROPIC", "GEMINI")
    ]
    everything = logs.getvalue() + str(answers) + str(told) + metrics
    assert "model_call" in logs.getvalue()
    assert KEY not in everything
    assert KEY[:12] not in everything
    assert "2 and 3?" not in logs.getvalue()
