"""What an agent lets a task keep, in each of its sandboxes, for how long, and for whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.needs_root]

QUOTA_MB = 8
QUOTA = QUOTA_MB * 1024 * 1024
ENDLESS = "i=0; while :; do head -c 500000 /dev/zero > $i; i=$((i+1)); sleep 0.01; done"


def agent_of(
    gateway: FakeGateway, home: Path, environment: dict[str, str], backend: str, **more: int
) -> InProcessAgent:
    settings = AgentSettings(
        drain_ms=0,
        exec_backend=backend,  # type: ignore[arg-type]
        workdir_quota_mb=QUOTA_MB,
        docker_image=IMAGE,
        docker_prepared=2,
        docker_timeout_ms=60_000,
        **more,
    )
    return InProcessAgent(gateway, home, settings, environment)


@pytest.fixture(params=["host", "bubblewrap", "docker"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def agent(
    backend: str, gateway: FakeGateway, tmp_path: Path, container_engine: ContainerEngine
) -> AsyncIterator[InProcessAgent]:
    running = agent_of(gateway, tmp_path, container_engine.environment, backend)
    await running.start()
    yield running
    await running.stop()
    assert await container_engine.containers() == []


@pytest.mark.promise("P11")
async def test_disk_filling_task_is_ended_and_what_it_said_is_told(
    gateway: FakeGateway, agent: InProcessAgent, backend: str
) -> None:
    script = f"trap 'echo last; exit 9' TERM; echo begun; echo wrong >&2; {ENDLESS}"
    async with asyncio.timeout(30):
        result = await gateway.run("agent.execute", shell(script))
    assert (result.status, result.error) == ("failed", "WORKDIR_QUOTA_EXCEEDED")
    assert result.error_message is not None
    assert f"{QUOTA_MB} MB" in result.error_message
    told = decoded(result.output)
    assert isinstance(told.pop("durationMs"), int)
    # Its shell may add that what it waited for was ended.
    assert str(told.pop("stderr")).startswith("wrong\n")
    assert told == {
        "backend": backend,
        "exitCode": None,
        "timedOut": False,
        "stdout": "begun\nlast\n",
        "stdoutTruncated": False,
        "stderrTruncated": False,
    }
    folder = agent.home / "work" / RUN_ID / "n"
    count = len(os.listdir(folder))
    assert count > QUOTA // 500_000
    await gateway.run("agent.execute", shell("sleep 0.2"))
    assert len(os.listdir(folder)) == count


@pytest.mark.promise("P11")
async def test_disk_filled_without_a_name_is_seen(gateway: FakeGateway, agent: InProcessAgent) -> None:
    held = 'for n in 3 4 5; do eval "exec $n>x"; rm x; head -c 4000000 /dev/zero >&$n; done'
    async with asyncio.timeout(30):
        result = await gateway.run("agent.execute", shell(f"{held}; echo held; while :; do sleep 0.1; done"))
    assert result.error == "WORKDIR_QUOTA_EXCEEDED"
    assert decoded(result.output)["stdout"] == "held\n"
    assert os.listdir(agent.home / "work" / RUN_ID / "n") == []


@pytest.mark.promise("P11")
async def test_no_file_grows_beyond_the_quota(gateway: FakeGateway, agent: InProcessAgent) -> None:
    result = await gateway.run("agent.execute", shell("head -c 50000000 /dev/zero > big; echo over; exit 4"))
    assert result.error == "WORKDIR_QUOTA_EXCEEDED"
    told = decoded(result.output)
    # On a busy machine it is ended before it can end.
    assert (told["exitCode"], told["stdout"]) in ((4, "over\n"), (None, "over\n"), (None, ""))
    size = (agent.home / "work" / RUN_ID / "n" / "big").stat().st_size
    assert QUOTA < size <= QUOTA + 4096


async def test_task_that_tidies_up_in_time_is_none_the_worse(gateway: FakeGateway, agent: InProcessAgent) -> None:
    script = "for i in 1 2 3 4 5; do head -c 6000000 /dev/zero > x; rm x; done; echo fine"
    assert decoded((await gateway.run("agent.execute", shell(script))).output)["stdout"] == "fine\n"


def node(payload: dict[str, object], name: str) -> dict[str, object]:
    """The same for another node of the run."""
    return payload | {"nodeId": name, "node": {**payload["node"], "id": name}}  # type: ignore[dict-item]


async def test_later_nodes_see_what_earlier_ones_left_where_both_ask_for_it(
    gateway: FakeGateway, agent: InProcessAgent
) -> None:
    for name in ("first", "second"):
        await gateway.run("agent.execute", node(shell(f"echo {name} >> log", workdir="run"), name))
    alone = await gateway.run("agent.execute", node(shell("ls"), "third"))
    assert decoded(alone.output)["stdout"] == ""
    seen = await gateway.run("agent.execute", node(shell("cat log", workdir="run"), "fourth"))
    assert decoded(seen.output)["stdout"] == "first\nsecond\n"
    own = await gateway.run("agent.execute", node(shell("ls", workdir="node"), "first"))
    assert decoded(own.output)["stdout"] == ""


async def test_nodes_side_by_side_see_each_other(gateway: FakeGateway, agent: InProcessAgent) -> None:
    def meets(mine: str, other: str) -> dict[str, object]:
        script = f"echo hello > {mine}; while [ ! -e {other} ]; do sleep 0.02; done; cat {other}"
        return node(shell(script, workdir="run"), mine)

    async with asyncio.timeout(30):
        results = await asyncio.gather(
            gateway.run("agent.execute", meets("a", "b")), gateway.run("agent.execute", meets("b", "a"))
        )
    assert [decoded(result.output)["stdout"] for result in results] == ["hello\n"] * 2


async def test_old_folders_are_gone_after_the_start_and_new_ones_stay(
    gateway: FakeGateway, tmp_path: Path, container_engine: ContainerEngine
) -> None:
    old = tmp_path / "work" / "0192a1b2-0000-7000-8000-00000000000f"
    (old / "n").mkdir(parents=True)
    os.utime(old, (0, 0))
    agent = agent_of(gateway, tmp_path, container_engine.environment, "host")
    await agent.start()
    try:
        await gateway.run("agent.execute", shell("echo x > file"))
        async with asyncio.timeout(10):
            while old.exists():
                await asyncio.sleep(0.02)
        assert (tmp_path / "work" / RUN_ID / "n" / "file").exists()
    finally:
        await agent.stop()
