from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import openai  # noqa: F401  (seconds that the first node would take otherwise)
import pytest
from aiohttp import web
from tests.support.model_server import ModelServer, Tool

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.running import AgentProcess, InProcessAgent

OWN_KEY = "sk-own-3f9a1c77d2"


class Desk:
    """An HTTP server that connectors call: it counts, and lets calls wait until the test says so."""

    def __init__(self) -> None:
        # Paths in the order in which they came, and the headers of each.
        self.calls: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.left: list[str] = []
        # Below /slow/.
        self.let = asyncio.Event()
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Desk:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self.let.set()
        await self._runner.cleanup()

    def get(self, path: str) -> Tool:
        """What a model says that wants it called."""
        assert self._runner is not None
        url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{path}"
        return Tool("connector_http_request", {"method": "GET", "url": url})

    async def until(self, *paths: str) -> None:
        """Returns once each of them was called, or left."""
        async with asyncio.timeout(20), self._came:
            await self._came.wait_for(lambda: {*paths} <= {*self.calls} | {f"left {path}" for path in self.left})

    async def until_called(self, path: str, times: int) -> None:
        async with asyncio.timeout(20), self._came:
            await self._came.wait_for(lambda: self.calls.count(path) >= times)

    async def _answer(self, request: web.Request) -> web.Response:
        async with self._came:
            self.calls.append(request.path)
            self.headers.append(dict(request.headers))
            self._came.notify_all()
        if request.path.startswith("/slow/"):
            try:
                await self.let.wait()
            except asyncio.CancelledError:
                self.left.append(request.path)
                asyncio.get_running_loop().create_task(self._told())
                raise
        return web.json_response({"path": request.path, "shown": request.headers.get("Authorization")})

    async def _told(self) -> None:
        async with self._came:
            self._came.notify_all()


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk() as server:
        yield server


@pytest.fixture
def settings(model: ModelServer) -> AgentSettings:
    """Of an agent with a key of its own."""
    return AgentSettings(drain_ms=0, openai_api_key=OWN_KEY, openai_base_url=model.openai_url)


@pytest.fixture
async def agent(gateway: FakeGateway, tmp_path: Path, settings: AgentSettings) -> AsyncIterator[InProcessAgent]:
    running = InProcessAgent(gateway, tmp_path, settings, {"OPENAI_API_KEY": OWN_KEY})
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def process(gateway: FakeGateway, tmp_path: Path, model: ModelServer) -> AsyncIterator[AgentProcess]:
    """A real process, not yet started."""
    environment = {"OPENAI_API_KEY": OWN_KEY, "OPENAI_BASE_URL": model.openai_url}
    prepared = AgentProcess(gateway, tmp_path / "agent", environment)
    yield prepared
    await prepared.stop()
