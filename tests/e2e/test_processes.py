"""Each server process alone: it starts, says when it is ready, ends in order, and refuses what it cannot start with."""

import signal

import aiohttp
import pytest
from tests.support.processes import Processes


@pytest.mark.parametrize("command", ["api", "gateway", "worker", "engine-runner"])
async def test_a_process_becomes_ready_and_ends_with_0_at_sigterm(processes: Processes, command: str) -> None:
    process = await processes.start(command)
    async with aiohttp.ClientSession() as http, http.get(f"{process.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"ok": True})
    assert await process.terminate() == 0, process.log()


@pytest.mark.parametrize("command", ["api", "gateway", "worker", "engine-runner"])
async def test_the_log_of_a_process_holds_none_of_its_secrets(processes: Processes, command: str) -> None:
    process = await processes.start(command, VESPID_LOG_LEVEL="debug", GATEWAY_LOG_LEVEL="debug")
    await process.terminate()
    secrets = [processes.env[name] for name in processes.env if name.endswith(("_TOKEN", "_SECRET", "_BASE64"))]
    assert [secret for secret in secrets if secret in process.log()] == []


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("api", "AUTH_TOKEN_SECRET"),
        ("gateway", "GATEWAY_SERVICE_TOKEN"),
        ("gateway", "ENGINE_RUNNER_BASE_URL"),
        ("worker", "DATABASE_URL"),
        ("worker", "ENGINE_RUNNER_TOKEN"),
        ("engine-runner", "ENGINE_RUNNER_TOKEN"),
    ],
)
async def test_production_refuses_to_start_without_a_secret_and_names_it(
    processes: Processes, command: str, missing: str
) -> None:
    process = await processes.start(command, ready=False, VESPID_ENV="production", **{missing: ""})
    assert await process.wait() == 2
    assert f"{missing} is" in process.log()
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("command", ["api", "gateway", "worker"])
async def test_a_database_that_is_away_is_told_in_one_line(processes: Processes, command: str) -> None:
    process = await processes.start(command, ready=False, DATABASE_URL="postgresql://me:canary@127.0.0.1:1/x")
    assert await process.wait() == 1
    assert "Postgres cannot be reached" in process.log()
    assert "Traceback" not in process.log()
    assert "canary" not in process.log()


@pytest.mark.parametrize("command", ["api", "gateway", "worker"])
async def test_a_database_that_was_not_migrated_is_told_in_one_line(
    processes: Processes, command: str, empty_database_url: str
) -> None:
    # In a cluster where another database was, so that the roles are there.
    process = await processes.start(command, ready=False, DATABASE_URL=empty_database_url)
    assert await process.wait() == 1
    assert "run `vespid migrate` first" in process.log()
    assert "Traceback" not in process.log()


async def test_a_taken_port_is_told_in_one_line(processes: Processes) -> None:
    await processes.start("engine-runner")
    second = await processes.start("engine-runner", ready=False)
    assert await second.wait() == 1
    assert "address already in use" in second.log()
    assert "Traceback" not in second.log()


async def test_migrate_goes_up_and_down(processes: Processes, empty_database_url: str) -> None:
    for revision in ("head", "base"):
        process = await processes.start("migrate", "--to", revision, ready=False, DATABASE_URL=empty_database_url)
        assert await process.wait(60) == 0, process.log()
    assert "The database is at base." in process.log()


async def test_a_process_told_to_stop_before_it_is_ready_stops(processes: Processes) -> None:
    process = await processes.start("engine-runner", ready=False)
    process.signal(signal.SIGINT)
    assert await process.wait() in (0, -signal.SIGINT, 130)
