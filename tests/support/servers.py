"""A real Postgres and a real Redis for tests.

By default each test process starts the embedded ones once, and only when a test asks. `VESPID_TEST_DATABASE_URL`
(a superuser's) and `VESPID_TEST_REDIS_URL` replace them. Every test gets a database of its own, cloned from a migrated
template, and an empty Redis.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from vespid.local.account import server_account
from vespid.local.binaries import find_binaries
from vespid.local.folder import DataFolder
from vespid.local.postgres import EmbeddedPostgres
from vespid.local.valkey import EmbeddedValkey
from vespid.service import Service
from vespid.store.migrate import migrate
from vespid.store.pool import MIGRATIONS, Database

# Nothing of a test outlives it, so nothing needs to reach the disk.
FAST_AND_FORGETFUL = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "deadlock_timeout": "100ms",
    "shared_buffers": "64MB",
}
# Who owns the schema that tests work on.
OWNER = "vespid_test_owner"
# Redis databases of an external server that tests may empty, one per test process.
REDIS_DATABASES = 16

_TEMPLATE_LOCK = 0x7665_7370_7465


class PostgresServer:
    """A server on which tests make databases."""

    def __init__(self, superuser_url: str) -> None:
        self._superuser_url = superuser_url
        self._made = 0

    def url(self, database: str) -> str:
        """The superuser's URL of a database."""
        return urlunsplit(urlsplit(self._superuser_url)._replace(path=f"/{database}"))

    async def clone(self, template: str) -> str:
        """Make a database from a template and answer its name."""
        self._made += 1
        name = f"vespid_test_{os.getpid()}_{self._made}"
        async with self.connected() as connection:
            await connection.execute(f'drop database if exists "{name}" with (force)')
            await connection.execute(f'create database "{name}" template "{template}"')
        return name

    async def drop(self, name: str) -> None:
        async with self.connected() as connection:
            await connection.execute(f'drop database if exists "{name}" with (force)')

    async def ordinary_owner(self, database: str) -> str:
        """Give the database to a role without rights beyond it, and answer the URL of that role.

        So whatever tests show is shown of a schema that no superuser owns, as on a managed server.
        """
        async with self.connected(database) as connection:
            for role, attributes in (("vespid_service", ""), ("vespid_cross", "bypassrls"), (OWNER, "")):
                if not await connection.fetchval("select true from pg_roles where rolname = $1", role):
                    await connection.execute(f"create role {role} {attributes}")
            await connection.execute(f"grant vespid_service, vespid_cross to {OWNER}")
            await connection.execute(f'alter database "{database}" owner to {OWNER}')
        url = self.url(database)
        return f"{url}{'&' if '?' in url else '?'}options=-crole%3D{OWNER}"

    @contextlib.asynccontextmanager
    async def connected(self, database: str = "postgres") -> AsyncIterator["asyncpg.Connection"]:
        """A superuser's connection to a database."""
        connection = await asyncpg.connect(self.url(database), statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()


class EmbeddedServers:
    """The embedded servers of this test process, each started when first asked for."""

    def __init__(self) -> None:
        self._folder: DataFolder | None = None
        self._started: list[Service] = []

    async def postgres(self) -> EmbeddedPostgres:
        """Start a Postgres."""
        account = server_account()
        server = EmbeddedPostgres(await self._opened_folder(), find_binaries(account), FAST_AND_FORGETFUL)
        await self._start(server)
        return server

    async def valkey(self) -> EmbeddedValkey:
        """Start a Valkey."""
        server = EmbeddedValkey(await self._opened_folder(), find_binaries(server_account()))
        await self._start(server)
        return server

    async def stop(self) -> None:
        """Stop what was started and remove its data."""
        while self._started:
            await self._started.pop().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder.path, ignore_errors=True)

    async def _start(self, service: Service) -> None:
        self._started.append(service)
        await service.start()

    async def _opened_folder(self) -> DataFolder:
        if self._folder is None:
            # Not under pytest's own folder: that is closed to the account which the servers run as under root.
            path = Path(tempfile.mkdtemp(prefix="vespid-test-"))
            path.chmod(0o755)
            self._folder = DataFolder(path, server_account())
            await self._start(self._folder)
        return self._folder


def migrations_digest() -> str:
    """What names a template: the text of every migration."""
    digest = hashlib.sha256()
    for file in sorted((MIGRATIONS / "versions").glob("*.*")):
        if file.suffix in {".sql", ".py"}:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_servers() -> AsyncIterator[EmbeddedServers]:
    """Starts the embedded servers that the fixtures below ask for."""
    servers = EmbeddedServers()
    yield servers
    await servers.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(embedded_servers: EmbeddedServers) -> PostgresServer:
    """The Postgres of this test process: the embedded one, or that of VESPID_TEST_DATABASE_URL."""
    if url := os.environ.get("VESPID_TEST_DATABASE_URL"):
        return PostgresServer(url)
    return PostgresServer((await embedded_servers.postgres()).url("postgres"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a database that has every migration and nothing else, made once per server."""
    name = f"vespid_template_{migrations_digest()}"
    async with postgres_server.connected() as connection:
        # Several test processes may share an external server.
        await connection.execute(f"select pg_advisory_lock({_TEMPLATE_LOCK})")
        if not await connection.fetchval("select true from pg_database where datname = $1", name):
            unfinished = f"{name}_unfinished"
            await connection.execute(f'drop database if exists "{unfinished}" with (force)')
            await connection.execute(f'create database "{unfinished}"')
            await migrate(await postgres_server.ordinary_owner(unfinished))
            await connection.execute(f'alter database "{unfinished}" rename to "{name}"')
    return name


@pytest_asyncio.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The superuser's URL of a database that has never been migrated."""
    name = await postgres_server.clone("template1")
    yield postgres_server.url(name)
    await postgres_server.drop(name)


@pytest_asyncio.fixture
async def database_url(postgres_server: PostgresServer, migrated_template: str) -> AsyncIterator[str]:
    """The superuser's URL of this test's own migrated database."""
    name = await postgres_server.clone(migrated_template)
    yield postgres_server.url(name)
    await postgres_server.drop(name)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """This test's own migrated database, as the server sees it: through the service role."""
    opened = Database(database_url, min_size=1, application_name="vespid-test")
    await opened.start()
    yield opened
    await opened.stop()


@pytest_asyncio.fixture
async def superuser(database_url: str) -> AsyncIterator["asyncpg.Connection"]:
    """A superuser's connection to this test's database: to arrange rows and to look at all of them."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_server_url(embedded_servers: EmbeddedServers, worker_id: str) -> str:
    """The Redis of this test process: the embedded one, or a numbered database of VESPID_TEST_REDIS_URL."""
    if url := os.environ.get("VESPID_TEST_REDIS_URL"):
        number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
        return urlunsplit(urlsplit(url)._replace(path=f"/{REDIS_DATABASES - 1 - number % REDIS_DATABASES}"))
    return (await embedded_servers.valkey()).url


@pytest_asyncio.fixture
async def redis_url(redis_server_url: str) -> str:
    """The URL of an empty Redis, this test's own while it runs."""
    client = Redis.from_url(redis_server_url)
    await client.flushdb()
    await client.aclose()
    return redis_server_url


@pytest.fixture(scope="session", autouse=True)
def _terminated_like_interrupted() -> Iterator[None]:
    """A test run that is told to end by SIGTERM stops its servers, as it does at a Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
