"""The other way to have databases: Debian's PostgreSQL 15 and Redis 7 by DATABASE_URL and REDIS_URL.

Every other test runs on the embedded PostgreSQL 18 and Valkey. Here a selection of them, small enough for every run of
the suite, is run once more by a pytest of its own on servers that are Debian's.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.support.processes import Processes, free_port

from vespid.local.account import give_to, server_account

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")
REDIS = shutil.which("redis-server")
ROOT = Path(__file__).parents[2]

READY_WITHIN_S = 30.0
READY_POLL_S = 0.02
SELECTION_WITHIN_S = 120.0

# What depends on the servers most: the schema and its policies, the tenants' walls, the way of a remote node, and
# what it costs: only Debian's Postgres counts statements.
SELECTION = (
    "packages/vespid/tests/store/test_catalogue.py",
    "packages/vespid/tests/store/test_migrate.py",
    "packages/vespid/tests/store/test_pool.py",
    "packages/vespid/tests/control/test_tenants.py",
    "tests/e2e/test_remote_execution.py::test_a_paired_agent_runs_a_workflow_and_its_events_tell",
    "tests/e2e/test_commits.py",
)


@pytest_asyncio.fixture
async def own_servers(processes: Processes) -> AsyncIterator[dict[str, str]]:
    """Debian's servers on free ports, as the variables by which tests are told of them."""
    if not (POSTGRES_BIN / "postgres").exists() or REDIS is None:
        pytest.skip("needs Debian's postgresql-15 and redis-server: `make test` installs them as root")
    folder = Path(tempfile.mkdtemp(prefix="vespid-test-"))
    folder.chmod(0o755)
    account = server_account()
    give_to(folder / "data", account)
    # Postgres refuses to be root.
    become = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"] if account else []
    env = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    data = str(folder / "data" / "postgres")
    initdb = [str(POSTGRES_BIN / "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
    made = await processes.run([*become, *initdb], "initdb", env)
    assert await made.wait(READY_WITHIN_S) == 0, made.log()
    postgres_port, redis_port = free_port(), free_port()
    postgres = [
        str(POSTGRES_BIN / "postgres"),
        "-D",
        data,
        "-p",
        str(postgres_port),
        "-c",
        "listen_addresses=127.0.0.1",
    ]
    postgres += ["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200"]
    postgres += ["-c", "shared_preload_libraries=pg_stat_statements", "-c", "pg_stat_statements.track=top"]
    redis = [REDIS, "--bind", "127.0.0.1", "--port", str(redis_port), "--save", "", "--appendonly", "no"]
    running = [
        await processes.run([*become, *postgres], "postgres-15", env),
        await processes.run([*become, *redis, "--dir", str(folder / "data")], "redis-7", env),
    ]
    urls = {
        "VESPID_TEST_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres_port}/postgres",
        "VESPID_TEST_REDIS_URL": f"redis://127.0.0.1:{redis_port}",
    }
    try:
        await _answer(urls)
        yield urls
    finally:
        for server in running:
            await server.kill()
        shutil.rmtree(folder)


async def _answer(urls: dict[str, str]) -> None:
    """Wait until both servers answer, and see that they are the versions this test is about."""
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                connection = await asyncpg.connect(urls["VESPID_TEST_DATABASE_URL"])
                break
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(READY_POLL_S)
        assert connection.get_server_version().major == 15
        await connection.close()
        client = Redis.from_url(urls["VESPID_TEST_REDIS_URL"])
        while True:
            try:
                assert (await client.info("server"))["redis_version"].startswith("7.")
                break
            except (OSError, RedisError):
                await asyncio.sleep(READY_POLL_S)
        await client.aclose()


@pytest.mark.timeout(SELECTION_WITHIN_S + 60)
async def test_a_selection_of_the_tests_passes_on_debians_own_servers(
    processes: Processes, own_servers: dict[str, str]
) -> None:
    env = {**os.environ, **own_servers}
    # Of the pytest that runs us; the one below is another.
    for name in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        env.pop(name, None)
    paths = [str(ROOT / path) for path in SELECTION]
    argv = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *paths]
    selection = await processes.run([*argv, "-p", "no:cacheprovider"], "selection", env)
    assert await selection.wait(SELECTION_WITHIN_S) == 0, selection.log()
    assert " passed" in selection.log()
    assert " skipped" not in selection.log()
