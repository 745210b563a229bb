"""What an agent says of its sandboxes, and what a task meets that asks for another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine
from tests.support.forward import forwarded

from vespid_agent import backends
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent


async def hello_backends(gateway: FakeGateway) -> tuple[str, ...]:
    hello = (await gateway.link()).hello
    assert hello is not None
    assert hello.capabilities is not None
    assert hello.capabilities.backends is not None
    return hello.capabilities.backends


async def test_hello_names_the_backends_that_work_here(gateway: FakeGateway, agent: InProcessAgent) -> None:
    offered = await hello_backends(gateway)
    assert "host" in offered
    for name in offered:
        result = await gateway.run("agent.execute", shell("echo here", backend=name))
        assert decoded(result.output)["backend"] == name


async def test_backend_that_is_not_there_is_refused_with_the_reason(gateway: FakeGateway, tmp_path: Path) -> None:
    agent = InProcessAgent(gateway, tmp_path, environment={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    await agent.start()
    try:
        assert "docker" not in await hello_backends(gateway)
        result = await gateway.run("agent.execute", shell("true", backend="docker"))
        assert result.error == "SANDBOX_UNAVAILABLE:docker"
        assert result.error_message is not None
        assert "none.sock" in result.error_message
    finally:
        await agent.stop()


async def test_managed_agent_offers_no_bare_machine_and_runs_nothing_on_it(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    agent = InProcessAgent(gateway, tmp_path, pool="managed")
    await agent.start()
    try:
        assert "host" not in await hello_backends(gateway)
        for payload in (shell(f"touch {ran}", backend="host"), shell(f"touch {ran}")):
            result = await gateway.run("agent.execute", payload)
            assert result.error == "SANDBOX_UNAVAILABLE:host"
            assert result.error_message is not None
            assert "managed agent" in result.error_message
        assert not ran.exists()
    finally:
        await agent.stop()


@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
async def test_an_engine_that_comes_and_goes_is_offered_and_withdrawn(
    gateway: FakeGateway, tmp_path: Path, container_engine: ContainerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "LOOK_S", 0.05)
    place = tmp_path / "docker.sock"
    settings = AgentSettings(drain_ms=0, docker_image=IMAGE, docker_prepared=0)
    agent = InProcessAgent(gateway, tmp_path, settings, environment={"DOCKER_HOST": f"unix://{place}"})
    await agent.start()

    async def offered(*, there: bool) -> None:
        async with asyncio.timeout(20):
            while ("docker" in await hello_backends(gateway)) != there:
                await asyncio.sleep(0.01)

    try:
        assert "docker" not in await hello_backends(gateway)
        async with forwarded(container_engine.socket, place):
            await offered(there=True)
            result = await gateway.run("agent.execute", shell("echo here", backend="docker"))
            assert decoded(result.output)["stdout"] == "here\n"
        await offered(there=False)
        refused = await gateway.run("agent.execute", shell("true", backend="docker"))
        assert refused.error == "SANDBOX_UNAVAILABLE:docker"
    finally:
        await agent.stop()
