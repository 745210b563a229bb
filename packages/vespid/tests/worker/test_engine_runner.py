"""The worker's client of the engine-runner, against a real one in front of a stand-in for the providers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from tests.support.model_server import Fail, Midway, ModelServer, Say, Tool, Wait, call_tools
from tests.support.processes import free_port

from vespid.engine_runner.service import EngineRunnerService
from vespid.settings import EngineRunnerSettings
from vespid.worker.engine_runner import EngineRunner
from vespid_runtime.models.types import Done, ModelAuth, ModelError, ModelRequest, Piece, TextDelta, User

TOKEN = "engine-runner-token-of-this-test"
ORG = "0199a000-0000-7000-8000-00000000000a"


def request(**others: Any) -> ModelRequest:
    fields: dict[str, Any] = {"provider": "openai", "model": "m", "messages": (User(content="2 and 3?"),)}
    return ModelRequest(**(fields | {"timeout_ms": 20_000, "auth": ModelAuth(api_key="sk-of-a-tenant")} | others))


def runner(server: ModelServer, port: int = 0, **others: Any) -> EngineRunnerService:
    fields = {"env": "test", "host": "127.0.0.1", "port": port, "engine_runner_token": TOKEN, "max_concurrent": 1}
    return EngineRunnerService(EngineRunnerSettings(openai_base_url=server.openai_url, **(fields | others)))


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


class Clients:
    """Makes clients, and stops them."""

    def __init__(self) -> None:
        self._made: list[EngineRunner] = []

    async def client(self, url: str, *, token: str = TOKEN, max_timeout_ms: int = 20_000) -> EngineRunner:
        client = EngineRunner(url, token, max_timeout_ms=max_timeout_ms)
        await client.start()
        self._made.append(client)
        return client

    async def close(self) -> None:
        for client in self._made:
            await client.stop()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.close()


@pytest.fixture
async def client(server: ModelServer, clients: Clients) -> AsyncIterator[EngineRunner]:
    service = runner(server)
    await service.start()
    yield await clients.client(f"http://127.0.0.1:{service.port}/")
    server.go_on()
    await service.stop()


async def said(client: EngineRunner, **others: Any) -> list[Piece]:
    return [piece async for piece in client.of(ORG).stream(request(**others))]


async def test_an_answer_comes_in_pieces_and_whole(client: EngineRunner, server: ModelServer) -> None:
    server.will(call_tools(Tool("add", {"a": 2}), text="Let me add."))
    pieces = await said(client)
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    done = pieces[-1]
    assert isinstance(done, Done)
    assert (text, done.reply.content, done.reply.stop_reason) == ("Let me add.", "Let me add.", "tool_calls")
    assert [call.name for call in done.reply.tool_calls] == ["add"]
    assert done.reply.usage.total_tokens == 18
    assert server.requests[0].key == "sk-of-a-tenant"


async def test_an_answer_longer_than_any_line_comes_whole(client: EngineRunner, server: ModelServer) -> None:
    server.will(Say("x" * 300_000, pieces=1))
    assert (await client.of(ORG).infer(request())).content == "x" * 300_000


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Fail(400, "no such model"), "OPENAI_REQUEST_FAILED:400"),
        (Midway(Say("half an answer", pieces=9), "cut"), "OPENAI_REQUEST_FAILED:NETWORK"),
    ],
)
async def test_an_error_is_the_engine_runners_own(
    client: EngineRunner, server: ModelServer, step: Fail | Midway, code: str
) -> None:
    server.will(step)
    with pytest.raises(ModelError) as failed:
        await said(client)
    assert failed.value.code == code


async def test_one_that_is_too_busy_is_asked_again_when_it_says(client: EngineRunner, server: ModelServer) -> None:
    server.will(*(Wait(Say(f"{n}")) for n in range(7)))
    asked = [asyncio.ensure_future(client.of(ORG).infer(request())) for _ in range(6)]
    await server.got(1)
    server.go_on()
    assert len(await asyncio.gather(*asked)) == 6


async def test_a_call_ends_with_its_time(client: EngineRunner, server: ModelServer) -> None:
    server.will(Wait(Say("late")))
    with pytest.raises(ModelError) as failed:
        await said(client, timeout_ms=300)
    assert failed.value.code == "LLM_TIMEOUT"


async def test_who_stops_listening_ends_the_providers_call(client: EngineRunner, server: ModelServer) -> None:
    server.will(Midway(Say("one two three", pieces=3), "wait", after=2), Say("free again"))
    async with aclosing(client.of(ORG).stream(request())) as pieces:
        await anext(pieces)
    # The one place of the organization is free again.
    assert (await client.of(ORG).infer(request())).content == "free again"


async def test_a_wrong_token_is_no_passing_trouble(client: EngineRunner, server: ModelServer, clients: Clients) -> None:
    url = client.url
    with pytest.raises(ModelError, match="ENGINE_RUNNER_TOKEN") as failed:
        await said(await clients.client(url, token="wrong"))
    assert (failed.value.code, failed.value.retryable) == ("ENGINE_UNAVAILABLE", False)


async def test_one_that_is_starting_is_waited_for(server: ModelServer, clients: Clients) -> None:
    port = free_port()
    asked = asyncio.ensure_future(said(await clients.client(f"http://127.0.0.1:{port}")))
    await asyncio.sleep(0)
    service = runner(server, port)
    server.will(Say("here I am"))
    await service.start()
    try:
        assert isinstance((await asked)[-1], Done)
    finally:
        await service.stop()


async def test_one_that_is_not_there_is_unavailable(clients: Clients) -> None:
    client = await clients.client(f"http://127.0.0.1:{free_port()}", max_timeout_ms=1_000)
    with pytest.raises(ModelError) as failed:
        await said(client)
    assert (failed.value.code, failed.value.retryable) == ("ENGINE_UNAVAILABLE", True)


async def test_what_is_no_engine_runner_is_told_as_such(clients: Clients) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>", status=404)

    app = web.Application()
    app.router.add_post("/internal/v1/llm/infer", page)
    web_runner = web.AppRunner(app)
    await web_runner.setup()
    site = web.TCPSite(web_runner, "127.0.0.1", 0)
    await site.start()
    try:
        with pytest.raises(ModelError, match="answered 404"):
            await said(await clients.client(f"http://127.0.0.1:{web_runner.addresses[0][1]}"))
    finally:
        await web_runner.cleanup()
