"""What an agent says of its sandboxes, and what a task meets that asks for another one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine
from tests.support.forward import forwarded

from vespid_agent import backends
from vespid_agent.logs import get_logger
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.task import Availability
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent, identity


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
        result = await gateway.run("agent.execute", shell(f"touch {ran}", backend="host"))
        assert result.error == "SANDBOX_UNAVAILABLE:host"
        assert result.error_message is not None
        assert "managed agent" in result.error_message
        walled = await gateway.run("agent.execute", shell(f"touch {ran} || echo walled"))
        assert decoded(walled.output)["backend"] in ("docker", "bubblewrap")
        assert not ran.exists()
    finally:
        await agent.stop()


@pytest.mark.parametrize("choice", ["host", None])
async def test_managed_agent_without_walls_does_not_start(
    gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Literal["host"] | None
) -> None:
    async def missing(self: object) -> Availability:
        return Availability(False, "not in this test")

    for backend in ("BubblewrapBackend", "DockerBackend"):
        monkeypatch.setattr(f"vespid_agent.backends.{backend}.available", missing)
    settings = AgentSettings(drain_ms=0, exec_backend=choice)
    agent = InProcessAgent(gateway, tmp_path, settings, pool="managed")
    await agent.start()
    with pytest.raises(backends.ManagedPoolUnsafe, match="MANAGED_POOL_REQUIRES_CONTAINER_SANDBOX"):
        await agent.ended()
    assert not gateway.connections


async def test_managed_agent_takes_docker_before_bubblewrap(gateway: FakeGateway, tmp_path: Path) -> None:
    chosen = backends.backends_of(AgentSettings(), identity(gateway, "managed"), {}, get_logger("test"))
    for found, default in (((), "docker"), (("bubblewrap",), "bubblewrap"), (("bubblewrap", "docker"), "docker")):
        chosen.found = dict.fromkeys(found, HostBackend(kill_grace_ms=0, file_bytes=0))
        assert chosen.default == default


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
