"""The connections to Postgres.

Every connection acts as `vespid_service`, a role that owns nothing and that row-level security binds, whatever login
the URL names. `jsonb` goes in and comes out as the bytes of its JSON, undecoded: who wants the value decodes it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from vespid.store.tenant import begin_as
from vespid_protocol.ids import OrgId

MIGRATIONS = Path(__file__).parent / "migrations"

SERVICE_ROLE = "vespid_service"

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 10.0

# A jsonb value in the binary protocol is this byte and then the text of the JSON.
_JSONB_VERSION = b"\x01"

# asyncpg replaces a connection after so many queries; prepared statements are worth keeping.
_NEVER = 2**62

JsonText = bytes | str | msgspec.Raw


# What a call raises when its connection is lost. The last one: the server ended the session while it was idle, and the
# driver has read the farewell but not yet the end.
LOST_CONNECTION = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class DatabaseUnavailable(Exception):
    """Postgres could not be reached, or is not ready; nothing was done."""


class SchemaMissing(DatabaseUnavailable):
    """The database is not at the revision of this version: run `vespid migrate`."""


class Database:
    """A pool of connections that act for one tenant at a time, or for none."""

    def __init__(
        self,
        url: str,
        *,
        min_size: int = 2,
        max_size: int = 10,
        statement_cache_size: int = 1024,
        application_name: str = "vespid",
    ) -> None:
        """`statement_cache_size` is 0 behind a PgBouncer that pools transactions."""
        self._url = url
        self._min_size = min(min_size, max_size)
        self._max_size = max_size
        self._statement_cache_size = statement_cache_size
        self._application_name = application_name
        self._pool: asyncpg.Pool | None = None
        # Serialises start and stop.
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Open the pool. Raises DatabaseUnavailable, or SchemaMissing where this version's schema is not there."""
        async with self._turn:
            if self._pool is not None:
                return
            with _as_unavailable():
                pool = await asyncpg.create_pool(
                    min_size=self._min_size,
                    max_size=self._max_size,
                    max_queries=_NEVER,
                    max_inactive_connection_lifetime=0,
                    reset=_keep_session,
                    **self._connect_arguments(),
                    init=_use_raw_json,
                )
                try:
                    await _refuse_another_revision(pool)
                except BaseException:
                    await pool.close()
                    raise
            self._pool = pool

    async def stop(self) -> None:
        """Close the pool once what is in use has been given back."""
        async with self._turn:
            if self._pool is not None:
                pool, self._pool = self._pool, None
                await pool.close()

    @contextlib.asynccontextmanager
    async def tenant(self, org_id: OrgId) -> AsyncIterator["asyncpg.Connection"]:
        """A transaction in which the rows of this organization, and no others, exist.

        Begins in one round trip; commits at the end of the block, rolls back when it raises. Inside, take savepoints
        by statement where they are needed: `Connection.transaction()` is not for a transaction it did not begin.
        """
        begin = begin_as(org_id)
        async with self._opened().acquire() as connection:
            await connection.execute(begin)
            try:
                yield connection
            except BaseException:
                await _roll_back(connection)
                raise
            await connection.execute("commit")

    @contextlib.asynccontextmanager
    async def system(self) -> AsyncIterator["asyncpg.Connection"]:
        """A connection without a tenant, in autocommit: for the cross-tenant functions and tables of no tenant."""
        async with self._opened().acquire() as connection:
            yield connection

    async def fetch_system(self, sql: str, *args: object) -> list["asyncpg.Record"]:
        """The rows of one statement without a tenant, in autocommit."""
        rows: list[asyncpg.Record] = await self._opened().fetch(sql, *args)
        return rows

    async def fetchrow_system(self, sql: str, *args: object) -> "asyncpg.Record | None":
        """The first row of one statement without a tenant, in autocommit."""
        return await self._opened().fetchrow(sql, *args)

    async def fetchval_system(self, sql: str, *args: object) -> Any:
        """The first column of the first row of one statement without a tenant, in autocommit."""
        return await self._opened().fetchval(sql, *args)

    async def execute_system(self, sql: str, *args: object) -> str:
        """Run one statement without a tenant, in autocommit, and answer its command tag."""
        tag: str = await self._opened().execute(sql, *args)
        return tag

    async def connect(self) -> "asyncpg.Connection":
        """A connection of the caller's own, outside the pool, set up like the others; the caller closes it."""
        with _as_unavailable():
            connection = await asyncpg.connect(**self._connect_arguments())
            try:
                await _use_raw_json(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

    async def is_ready(self) -> bool:
        """Whether Postgres answers a statement now."""
        if self._pool is None:
            return False
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S / 5):
                await self._pool.fetchval("select 1")
        except (*LOST_CONNECTION, asyncpg.PostgresError):
            return False
        return True

    def _opened(self) -> "asyncpg.Pool":
        if self._pool is None:
            raise DatabaseUnavailable("the database is not started")
        return self._pool

    def _connect_arguments(self) -> dict[str, Any]:
        server_settings = {
            "application_name": self._application_name,
            "statement_timeout": str(STATEMENT_TIMEOUT_MS),
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
            # Our statements are short; compiling one costs more than running it.
            "jit": "off",
        }
        if login_of(self._url) != SERVICE_ROLE:
            server_settings["role"] = SERVICE_ROLE
        return {
            "dsn": self._url,
            "timeout": CONNECT_TIMEOUT_S,
            "statement_cache_size": self._statement_cache_size,
            # Statements are few and always the same; none goes stale.
            "max_cached_statement_lifetime": 0,
            "server_settings": server_settings,
        }


def newest_revision() -> str:
    """The revision that this version works with."""
    return max(step.name.partition("_")[0] for step in (MIGRATIONS / "versions").glob("*.up.sql"))


def login_of(url: str) -> str | None:
    """The user a database URL names, if it names one."""
    user = urlsplit(url).username
    return unquote(user) if user else None


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except asyncpg.InvalidParameterValueError as error:
        if SERVICE_ROLE in str(error):
            raise SchemaMissing("the role vespid_service does not exist: run `vespid migrate` first") from error
        raise
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error}") from error
    except asyncpg.PostgresError as error:
        raise DatabaseUnavailable(f"Postgres refused the connection: {error}") from error


async def _refuse_another_revision(pool: "asyncpg.Pool") -> None:
    needed = newest_revision()
    try:
        found = await pool.fetchval("select version_num from alembic_version")
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        # Without the table nobody has migrated; one that we may not read is another program's.
        found = None
    if found is None:
        raise SchemaMissing("the database has no schema of Vespid: run `vespid migrate` first")
    if found < needed:
        raise SchemaMissing(f"the database is at revision {found}, and {needed} is needed: run `vespid migrate` first")
    if found > needed:
        raise SchemaMissing(f"the database is at revision {found}, and this version knows {needed}: run the newer one")


async def _roll_back(connection: "asyncpg.Connection") -> None:
    """End a transaction that failed; where the connection was lost with it, that first error is the one to tell."""
    if connection.is_closed():
        return
    try:
        await connection.execute("rollback")
    except LOST_CONNECTION:
        connection.terminate()


async def _keep_session(_connection: "asyncpg.Connection") -> None:
    """Do nothing when a connection comes back: a tenant lasts one transaction, and RESET ALL costs a round trip."""


async def _use_raw_json(connection: "asyncpg.Connection") -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )


def _encode_jsonb(value: JsonText) -> bytes:
    return _JSONB_VERSION + (value.encode() if isinstance(value, str) else bytes(value))


def _decode_jsonb(value: bytes) -> bytes:
    return value[1:]
