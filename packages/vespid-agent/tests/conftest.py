from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.running import AgentProcess, InProcessAgent


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as started:
        yield started


@pytest.fixture
async def agent(gateway: FakeGateway, tmp_path: Path) -> AsyncIterator[InProcessAgent]:
    """Connected to `gateway`, in this process."""
    running = InProcessAgent(gateway, tmp_path)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def process(gateway: FakeGateway, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """A real process, not yet started."""
    prepared = AgentProcess(gateway, tmp_path / "agent")
    yield prepared
    await prepared.stop()
