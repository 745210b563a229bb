"""`vespid migrate` by an ordinary owner of a database, as managed servers give one: no superuser, each version."""

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from vespid.local.account import becoming, give_to, server_account
from vespid.local.binaries import find_binaries
from vespid.local.child import Child
from vespid.store.migrate import MigrationFailed, migrate
from vespid.store.pool import Database
from vespid_protocol.ids import OrgId

# The oldest version that is supported, where the system has it; membership in a role means something else since 16.
OLDEST = Path("/usr/lib/postgresql/15/bin")


class Cluster:
    """A Postgres of its own, on which nobody has made our roles."""

    def __init__(self, socket_folder: Path) -> None:
        self._socket_folder = socket_folder

    def url(self, login: str, database: str = "app") -> str:
        return f"postgresql://{login}@/{database}?host={self._socket_folder}"

    async def execute(self, *statements: str, database: str = "app") -> None:
        """As the administrator."""
        connection = await asyncpg.connect(self.url("postgres", database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def is_ready(self) -> bool:
        try:
            await self.execute("select 1", database="postgres")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True


def versions() -> list[Path | None]:
    """Where the programs are; None: the embedded ones."""
    return [None, OLDEST] if OLDEST.exists() else [None]


@pytest_asyncio.fixture(params=versions(), ids=lambda path: "embedded" if path is None else "oldest")
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    account = server_account()
    programs = request.param or find_binaries(account).postgres_bin
    root = Path(tempfile.mkdtemp(prefix="vespid-cluster-"))
    root.chmod(0o755)
    data, run = root / "data", root / "run"
    give_to(data, account)
    give_to(run, account)
    initdb = await asyncio.create_subprocess_exec(
        str(programs / "initdb"),
        *("-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
        stdout=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={"PATH": os.defpath, "TZ": "UTC"},
        preexec_fn=becoming(account, when_orphaned=signal.SIGTERM),
    )
    assert await initdb.wait() == 0
    cluster = Cluster(run)
    server = Child(
        "postgres",
        [programs / "postgres", "-D", data, "-k", run, "-c", "listen_addresses=", "-c", "fsync=off"],
        account=account,
        log_file=root / "postgres.log",
        is_ready=cluster.is_ready,
        stop_signal=signal.SIGINT,
        ready_within_s=60,
        stop_within_s=30,
    )
    await server.start()
    try:
        await cluster.execute("create role owner login", "create database app owner owner", database="postgres")
        yield cluster
    finally:
        await server.stop()
        shutil.rmtree(root, ignore_errors=True)


async def told(cluster: Cluster, login: str = "owner") -> list[str]:
    """The statements that the refusal of a migration asks an administrator for."""
    with pytest.raises(MigrationFailed, match="an administrator") as refused:
        await migrate(cluster.url(login))
    assert "CONTEXT" not in str(refused.value)
    return re.findall(r"^ +(.*);$", str(refused.value), re.MULTILINE)


async def serves(cluster: Cluster, login: str) -> bool:
    """Whether a server process can work with that login: bound to a tenant, and across tenants by the functions."""
    database = Database(cluster.url(login), min_size=1)
    await database.start()
    try:
        async with database.tenant(OrgId(str(uuid4()))) as connection:
            bound = await connection.fetchval("select count(*) from executors")
        crossed = await database.fetch_system("select * from vespid_x_list_managed_executors(null, 10)")
        return (bound, len(crossed)) == (0, 1)
    finally:
        await database.stop()


async def test_what_an_ordinary_owner_may_not_do_is_told_and_then_enough(cluster: Cluster) -> None:
    asked = await told(cluster)
    assert [statement.split(" nologin")[0] for statement in asked] == [
        "create role vespid_service",
        "grant vespid_service to owner",
        "create role vespid_cross",
        "grant vespid_cross to owner",
    ]
    await cluster.execute(*asked)
    revision = await migrate(cluster.url("owner"))
    await cluster.execute(
        "insert into executors (id, name, token_sha256) values (gen_random_uuid(), 'managed', 'x')",
        "create role server login",
        "grant vespid_service to server",
    )
    # A login that may act as the service role and nothing else is enough for the servers.
    assert await serves(cluster, "owner")
    assert await serves(cluster, "server")
    assert await migrate(cluster.url("owner"), "base") == "base"
    assert await migrate(cluster.url("owner")) == revision


async def test_roles_that_stand_are_put_right_by_whoever_may(cluster: Cluster) -> None:
    await cluster.execute("create role vespid_service bypassrls", "create role vespid_cross")
    asked = await told(cluster)
    assert asked == [
        "alter role vespid_service nosuperuser nobypassrls",
        "grant vespid_service to owner",
        "alter role vespid_cross nosuperuser bypassrls",
        "grant vespid_cross to owner",
    ]
    await cluster.execute(*asked[::2])
    assert await told(cluster) == asked[1::2]
    await migrate(cluster.url("postgres"))


async def test_an_owner_who_may_make_such_roles_makes_them(cluster: Cluster) -> None:
    await cluster.execute("create role vespid_cross bypassrls", "grant vespid_cross to owner")
    await cluster.execute("alter role owner createrole")
    await migrate(cluster.url("owner"))


async def test_a_schema_of_somebody_else_is_asked_for(cluster: Cluster) -> None:
    await cluster.execute(*await told(cluster))
    await cluster.execute("alter schema public owner to postgres", "grant create on schema public to owner")
    asked = await told(cluster)
    assert asked == ["grant usage, create on schema public to owner with grant option"]
    await cluster.execute(*asked)
    await migrate(cluster.url("owner"))
