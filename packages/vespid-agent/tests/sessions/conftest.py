from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.running import AgentProcess, InProcessAgent
from vespid_agent.testing.scripted_engine import ScriptedEngine
from vespid_agent.testing.talk import Talk


@pytest.fixture
async def agent(gateway: FakeGateway, tmp_path: Path) -> AsyncIterator[InProcessAgent]:
    """Connected to `gateway`, with the scripted engine."""
    running = InProcessAgent(gateway, tmp_path, engines=[ScriptedEngine()])
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def talk(gateway: FakeGateway, agent: InProcessAgent) -> Talk:
    return Talk(gateway)


@pytest.fixture
async def process(gateway: FakeGateway, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """A real process with the scripted engine, not yet started."""
    prepared = AgentProcess(gateway, tmp_path / "agent", scripted=True)
    yield prepared
    await prepared.stop()
