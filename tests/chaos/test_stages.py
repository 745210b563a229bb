"""One remote node, and a kill -9 at each stage of it: nothing is lost, nothing is done twice."""

import contextlib
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator
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

SERVERS = ("api", "gateway", "worker")


@contextlib.asynccontextmanager
async def installed(processes: Processes, env: dict[str, str]) -> AsyncIterator[Organization]:
    """An organization in an installation of its own."""
    processes.env |= env
    for command in SERVERS:
        await processes.start(command)
    async with aiohttp.ClientSession() as http:
        yield await Organization.sign_up(processes, http)


@pytest_asyncio.fixture
async def quick(processes: Processes) -> AsyncIterator[Organization]:
    """An organization in an installation whose leases pass within seconds."""
    async with installed(processes, QUICK) as organization:
        yield organization


@pytest_asyncio.fixture
async def patient(processes: Processes) -> AsyncIterator[Organization]:
    """The same, but for the leases of agents: however long a restart takes here, nobody takes them for lost."""
    async with installed(processes, QUICK | {"GATEWAY_LEASE_MS": "60000"}) as organization:
        yield organization


@pytest_asyncio.fixture
async def mourned(processes: Processes) -> AsyncIterator[Organization]:
    """The same, but for the leases of servers: one that has died is believed in for as long as a test takes."""
    async with installed(processes, QUICK | {"VESPID_PROCESS_LEASE_MS": "60000"}) as organization:
        yield organization


async def kill_and_restart(organization: Organization, command: str) -> None:
    for process in organization.processes.running(command):
        await process.kill()
    await organization.processes.start(command)


@pytest.mark.promise("P1")
@pytest.mark.promise("P2")
@pytest.mark.parametrize("victim", SERVERS)
async def test_killed_while_the_node_waits_for_an_agent(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection, victim: str
) -> None:
    marks = Marks(tmp_path)
    workflow = (await quick.publish(shell(marks.script())))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await quick.has_event(workflow["id"], run_id, "node_waiting")
    await kill_and_restart(quick, victim)
    await quick.pair()
    assert (await quick.finished(workflow["id"], run_id))["status"] == "succeeded"
    await check_history(superuser, {run_id}, marks)


@pytest.mark.promise("P1")
@pytest.mark.promise("P2")
@pytest.mark.promise("P3")
@pytest.mark.parametrize("victim", SERVERS)
async def test_killed_while_the_node_runs(
    patient: Organization, tmp_path: Path, superuser: asyncpg.Connection, redis_url: str, victim: str
) -> None:
    await patient.pair()
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await patient.publish(shell(script)))["workflow"]
    run_id = await patient.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    await kill_and_restart(patient, victim)
    go.touch()
    run = await patient.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    await check_history(superuser, {run_id}, marks)

    async def nothing_reserved() -> bool:
        return await reserved(redis_url, patient.id) == 0

    await until(nothing_reserved, "what was reserved is given back", within_s=20)


@pytest.mark.promise("P3")
async def test_a_result_made_while_no_gateway_is_there_is_applied_when_one_is(
    patient: Organization, tmp_path: Path, superuser: asyncpg.Connection
) -> None:
    await patient.pair()
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await patient.publish(shell(script)))["workflow"]
    run_id = await patient.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    (gateway,) = patient.processes.running("gateway")
    await gateway.kill()
    go.touch()
    await until(lambda: len(marks.lines()) == 2, "the task has ended")
    await patient.processes.start("gateway")
    run = await patient.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    await check_history(superuser, {run_id}, marks)


@pytest.mark.promise("P3")
async def test_a_result_that_was_never_acknowledged_survives_the_agent(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection
) -> None:
    agent, _ = await quick.pair()
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    # `wait`: the server gives the agent until the deadline, whatever becomes of its connection.
    workflow = (await quick.publish(shell(script, onLost="wait")))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    (gateway,) = quick.processes.running("gateway")
    await gateway.kill()
    go.touch()
    await until(lambda: len(marks.lines()) == 2, "the task has ended")
    await until(lambda: ended_in_journal(quick, "agent"), "it is journaled")
    await agent.kill()
    await quick.processes.start("gateway")
    await quick.restart_agent()
    run = await quick.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    await check_history(superuser, {run_id}, marks)


@pytest.mark.promise("P1")
@pytest.mark.promise("P2")
async def test_an_agent_killed_in_mid_task_fails_the_attempt_and_the_next_one_succeeds(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection
) -> None:
    agent, _ = await quick.pair()
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await quick.publish(shell(script)))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    await agent.kill()
    go.touch()
    await quick.restart_agent()
    run = await quick.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 2)
    failed = [e for e in await quick.events(workflow["id"], run_id) if e["eventType"] == "node_failed"]
    assert [event["message"] for event in failed] == ["AGENT_DISCONNECTED"]
    await check_history(superuser, {run_id}, marks)


@pytest.mark.promise("P2")
async def test_resend_goes_to_another_executor_only_after_the_lease(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection
) -> None:
    first, first_id = await quick.pair("first")
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await quick.publish(shell(script, onLost="resend")))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    _, second_id = await quick.pair("second")
    await first.kill()
    lost_at = await until(
        lambda: superuser.fetchval("select lost_at from executors where id = $1::text::uuid", first_id), "it is lost"
    )
    await until(lambda: len(marks.starts()) == 2, "the second has started it")
    granted = await superuser.fetchrow("select executor_id::text, granted_at, lease_epoch, attempt from executions")
    assert (granted["executor_id"], granted["lease_epoch"], granted["attempt"]) == (second_id, 2, 1)
    assert (granted["granted_at"] - lost_at).total_seconds() >= int(QUICK["GATEWAY_LEASE_MS"]) / 1000
    go.touch()
    run = await quick.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    await check_history(superuser, {run_id}, marks)


@pytest.mark.promise("P1")
@pytest.mark.promise("P9")
async def test_an_emptied_redis_stops_nothing(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection, redis_url: str
) -> None:
    await quick.pair()
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await quick.publish(shell(script, "a"), shell(marks.script(), "b")))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
    go.touch()
    assert (await quick.finished(workflow["id"], run_id))["status"] == "succeeded"
    await check_history(superuser, {run_id}, marks)

    async def nothing_reserved() -> bool:
        return await reserved(redis_url, quick.id) == 0

    await until(nothing_reserved, "what was reserved is given back", within_s=20)


@pytest.mark.promise("P1")
async def test_a_redis_emptied_again_while_it_is_being_filled_stops_nothing(
    mourned: Organization, tmp_path: Path, redis_url: str
) -> None:
    """A gateway that has died is waited for (2 s): time between the others' reports and the new life."""
    await mourned.pair("east")
    workflow = (await mourned.publish(shell(Marks(tmp_path).script(), "a")))["workflow"]
    book = f"{{o:{mourned.id}}}"
    async with Redis.from_url(redis_url) as client:

        async def reports() -> int:
            """How many there were of the one agent: each is a version of its entry."""
            (agent,) = await client.smembers(f"{book}:xs") or [b""]
            return int(await client.hget(f"{book}:x:{agent.decode()}", "v") or 0)

        async def reported_for_the_next_life() -> bool:
            # The first came with its connection, the second was asked for.
            return await client.hexists(f"{book}:meta", "next") and await reports() >= 2

        async def has_begun() -> bool:
            return bool(await client.hexists(f"{book}:meta", "gen"))

        await until(reports, "the agent is in the book")
        for process in mourned.processes.running("gateway"):
            await process.kill()
        await client.flushdb()
        await mourned.processes.start("gateway")
        await until(reported_for_the_next_life, "the edge has said again who is connected")
        await client.flushdb()
        # Whoever asked before would have the edges report once more.
        await until(has_begun, "the next life has begun")
    run_id = await mourned.start_run(workflow["id"])
    assert (await mourned.finished(workflow["id"], run_id))["status"] == "succeeded"


@pytest.mark.promise("P4")
@pytest.mark.promise("P2")
async def test_an_agent_stopped_past_its_lease_changes_nothing_when_it_wakes(
    quick: Organization, tmp_path: Path, superuser: asyncpg.Connection
) -> None:
    first, _ = await quick.pair("first")
    marks = Marks(tmp_path)
    go = tmp_path / "go"
    script = marks.script(f"until [ -e {go} ]; do sleep 0.05; done")
    workflow = (await quick.publish(shell(script, onLost="resend", timeoutMs=120_000)))["workflow"]
    run_id = await quick.start_run(workflow["id"])
    await until(marks.starts, "the task has started")
    _, second_id = await quick.pair("second")
    first.signal(signal.SIGSTOP)
    await until(lambda: len(marks.starts()) == 2, "the second has started it", within_s=75)
    first.signal(signal.SIGCONT)
    await until(lambda: ended_in_journal(quick, "first"), "the first has stopped its work")
    go.touch()
    run = await quick.finished(workflow["id"], run_id)
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    winner = await superuser.fetchrow("select executor_id::text, lease_epoch, state from executions")
    assert tuple(winner) == (second_id, 2, "succeeded")
    # The first one stopped its work when it woke: only the second's task went on to its end.
    assert [word for _, word in marks.lines()].count("end") == 1
    await check_history(superuser, {run_id}, marks)


def ended_in_journal(organization: Organization, agent: str) -> bool:
    """Whether an agent's journal on disk holds the end of something; read from a copy, for the agent has it locked."""
    home = organization.processes.folder / f"{agent}-home"
    (file,) = home.rglob("journal-*.sqlite")
    with tempfile.TemporaryDirectory() as folder:
        for part in file.parent.glob(f"{file.name}*"):
            shutil.copy(part, folder)
        with contextlib.closing(sqlite3.connect(Path(folder) / file.name)) as journal:
            return bool(journal.execute("select count(*) from entries where result is not null").fetchone()[0])
