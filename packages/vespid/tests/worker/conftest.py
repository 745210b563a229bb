"""Every test here may ask for workers and gateways, an organization, and a local server that connectors call."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tests.support.gateways import Fleet, fleet
from tests.support.local_server import LocalServer

from vespid_protocol.ids import OrgId

__all__ = ["fleet"]


@pytest.fixture
async def org(fleet: Fleet) -> OrgId:
    return await fleet.ground.organization()


@pytest.fixture
async def local() -> AsyncIterator[LocalServer]:
    server = LocalServer()
    app = web.Application()
    app.router.add_get("/echo", server.echo)
    app.router.add_get("/slow", server.slow)
    app.router.add_get("/nul", server.nul)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.port).start()
    yield server
    server.let.set()
    await runner.cleanup()
