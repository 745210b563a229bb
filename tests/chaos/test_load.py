"""Load while things die: every accepted run ends once, whatever was killed, and what was reserved is given back."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tests.support.history import check_history, reserved
from tests.support.installed import QUICK
from tests.support.organization import Marks, Organization, shell, until
from tests.support.processes import Processes

# A longer soak: VESPID_CHAOS_KILLS=200 make test ARGS="tests/chaos -k random".
KILLS = int(os.environ.get("VESPID_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("VESPID_CHAOS_SEED", "20261123"))
RUNS = 24
AGENTS = ("north", "south")

Strike = Callable[[], Awaitable[None]]


@pytest_asyncio.fixture
async def loaded(processes: Processes) -> AsyncIterator[Organization]:
    """Two agents in an installation whose leases pass within seconds."""
    processes.env |= QUICK
    for command in ("api", "gateway", "worker"):
        await processes.start(command)
    async with aiohttp.ClientSession() as http:
        organization = await Organization.sign_up(processes, http)
        for name in AGENTS:
            await organization.pair(name)
        yield organization


async def workflows(organization: Organization, marks: Marks) -> list[str]:
    """One per way to take the loss of an agent; two nodes each, and room for retries."""
    found = []
    for on_lost in ("fail", "resend", "wait"):
        nodes = [
            shell(
                marks.script("sleep 0.2"),
                node_id,
                onLost=on_lost,
                timeoutMs=20_000,
                retry={"maxAttempts": 20, "backoffMs": 100},
            )
            for node_id in ("a", "b")
        ]
        found.append((await organization.publish(*nodes))["workflow"]["id"])
    return found


async def accept(organization: Organization, workflow_ids: list[str], accepted: dict[str, str]) -> None:
    """Start RUNS runs one after another, through outages of the API; only what was answered 201 counts."""
    for number in range(RUNS):
        workflow_id = workflow_ids[number % len(workflow_ids)]

        async def started(workflow_id: str = workflow_id) -> str | None:
            try:
                answer = await organization.call(
                    "POST", f"/v1/orgs/{{org}}/workflows/{workflow_id}/runs", {"input": {}}
                )
            except aiohttp.ClientError:
                return None
            return str(answer.body["run"]["id"]) if answer.status == 201 else None

        accepted[str(await until(started, "a run is accepted"))] = workflow_id


async def settle(organization: Organization, accepted: dict[str, str], redis_url: str) -> dict[str, str]:
    """Wait for every run's end and for the capacity book to be empty; answers the status of each."""
    ended = {}
    for run_id, workflow_id in accepted.items():
        ended[run_id] = (await organization.finished(workflow_id, run_id, within_s=120))["status"]

    async def nothing_reserved() -> bool:
        return await reserved(redis_url, organization.id) == 0

    await until(nothing_reserved, "what was reserved is given back", within_s=30)
    return ended


@pytest.mark.promise("P1")
@pytest.mark.promise("P2")
@pytest.mark.promise("P3")
@pytest.mark.promise("P9")
async def test_random_kills_lose_nothing_and_complete_nothing_twice(
    loaded: Organization, tmp_path: Path, superuser: asyncpg.Connection, redis_url: str
) -> None:
    chance = random.Random(SEED)
    marks = Marks(tmp_path)
    processes = loaded.processes
    accepted: dict[str, str] = {}

    async def kill_server(command: str) -> None:
        for process in processes.running(command):
            await process.kill()
        await processes.start(command)

    async def kill_agent() -> None:
        name = chance.choice(AGENTS)
        for process in processes.running(name):
            await process.kill()
        await loaded.restart_agent(name)

    async def empty_redis() -> None:
        async with Redis.from_url(redis_url) as client:
            await client.flushdb()

    strikes: list[Strike] = [
        lambda: kill_server("api"),
        lambda: kill_server("gateway"),
        lambda: kill_server("worker"),
        kill_agent,
        empty_redis,
    ]
    ids = await workflows(loaded, marks)
    load = asyncio.create_task(accept(loaded, ids, accepted))
    for number in range(KILLS):
        # Strike in the middle of something: after a few more tasks have begun.
        begun = len(marks.starts())
        await until(lambda begun=begun: load.done() or len(marks.starts()) >= begun + 2, "tasks go on")
        await strikes[number % len(strikes) if number < len(strikes) else chance.randrange(len(strikes))]()
    await load
    ended = await settle(loaded, accepted, redis_url)
    await check_history(superuser, set(accepted), marks)
    assert set(ended.values()) == {"succeeded"}


@pytest.mark.promise("P12")
async def test_a_rolling_restart_fails_no_run_and_no_attempt(
    loaded: Organization, tmp_path: Path, superuser: asyncpg.Connection, redis_url: str
) -> None:
    marks = Marks(tmp_path)
    processes = loaded.processes
    accepted: dict[str, str] = {}
    ids = await workflows(loaded, marks)
    load = asyncio.create_task(accept(loaded, ids, accepted))
    for command in ("worker", "gateway", "api"):
        begun = len(marks.starts())
        await until(lambda begun=begun: load.done() or len(marks.starts()) >= begun + 2, "tasks go on")
        for process in processes.running(command):
            assert await process.terminate() == 0, process.log()
        await processes.start(command)
    for name in AGENTS:
        (agent,) = processes.running(name)
        assert await agent.terminate() == 0, agent.log()
        await loaded.restart_agent(name)
    await load
    ended = await settle(loaded, accepted, redis_url)
    await check_history(superuser, set(accepted), marks)
    assert set(ended.values()) == {"succeeded"}
    assert await superuser.fetchval("select count(*) from executions where attempt > 1") == 0
