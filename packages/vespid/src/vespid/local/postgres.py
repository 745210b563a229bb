"""The embedded Postgres: our own data folder, reached through a Unix socket in a folder nobody else can enter."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import asyncpg
import structlog

from vespid.local.account import becoming
from vespid.local.binaries import POSTGRES_MAJOR, Binaries
from vespid.local.child import Child, StartFailed
from vespid.local.folder import DataFolder

log = structlog.get_logger("vespid.local.postgres")

SUPERUSER = "postgres"
DATABASE = "vespid"
# With no TCP address, the number only names the socket's file.
PORT = 5432

INITIALISE_WITHIN_S = 120.0
# A start after a crash replays the log first.
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 30.0
ORPHAN_STOP_WITHIN_S = 30.0

# The longest path of a Unix socket that every system takes.
SOCKET_PATH_MAX = 100

_SOCKET_FILE = f".s.PGSQL.{PORT}"


class EmbeddedPostgres:
    """A Postgres of our own on a data folder, whose lock the caller holds."""

    def __init__(self, folder: DataFolder, binaries: Binaries, options: Mapping[str, str] | None = None) -> None:
        """`options` are further settings of the server, by name."""
        self._folder = folder
        self._bin = binaries.postgres_bin
        self._options = {
            "listen_addresses": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "logging_collector": "off",
            "log_min_messages": "warning",
            **(options or {}),
        }
        self._socket_folder = folder.run
        self._child: Child | None = None

    def url(self, database: str = DATABASE) -> str:
        """The URL of a database, as the superuser."""
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self._socket_folder), safe='')}&port={PORT}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Make the data folder if there is none, recover after a crash, start, and make our database."""
        if self._child is not None:
            return
        if not (self._folder.postgres / "PG_VERSION").exists():
            await self._initialise()
        self._check_version()
        await self._end_orphan()
        self._choose_socket_folder()
        child = self._describe_child()
        await child.start()
        self._child = child
        try:
            await self._make_database(DATABASE)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut down in the fast way: open transactions are rolled back, everything committed is on disk."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()
        if self._socket_folder != self._folder.run:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = self._folder.run

    def _describe_child(self) -> Child:
        argv: list[str | Path] = [self._bin / "postgres", "-D", self._folder.postgres, "-k", self._socket_folder]
        argv += ["-p", str(PORT)]
        for name, value in self._options.items():
            argv += ["-c", f"{name}={value}"]
        return Child(
            "postgres",
            argv,
            account=self._folder.account,
            log_file=self._folder.log / "postgres.log",
            is_ready=self._answers,
            stop_signal=signal.SIGINT,
            ready_within_s=READY_WITHIN_S,
            stop_within_s=STOP_WITHIN_S,
        )

    async def _initialise(self) -> None:
        log.info("making_database", folder=str(self._folder.postgres))
        # Made aside and renamed, so that a data folder is whole or not there.
        parent = self._folder.run
        for left_over in parent.glob("initialising-*"):
            shutil.rmtree(left_over)
        aside = parent / f"initialising-{os.getpid()}"
        initdb = await asyncio.create_subprocess_exec(
            str(self._bin / "initdb"),
            *("-D", str(aside), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "TZ": "UTC"},
            start_new_session=True,
            preexec_fn=becoming(self._folder.account, when_orphaned=signal.SIGTERM),
        )
        try:
            async with asyncio.timeout(INITIALISE_WITHIN_S):
                output, _ = await initdb.communicate()
        except BaseException:
            if initdb.returncode is None:
                initdb.kill()
                await initdb.wait()
            raise
        if initdb.returncode != 0:
            raise StartFailed(f"initdb ended with status {initdb.returncode}:\n{output.decode(errors='replace')}")
        aside.rename(self._folder.postgres)

    def _check_version(self) -> None:
        version = (self._folder.postgres / "PG_VERSION").read_text().strip()
        if version != str(POSTGRES_MAJOR):
            raise StartFailed(
                f"{self._folder.postgres} was made by PostgreSQL {version}, and this is {POSTGRES_MAJOR}: "
                f"dump it with that version, move the folder away, and restore"
            )

    async def _end_orphan(self) -> None:
        """End a server that a killed process of ours left behind, and forget the pid file of one that is gone.

        We hold the folder's lock, so whatever runs on it has no owner. Postgres itself refuses to start where the pid
        in that file is alive, even when it is another program's by now.
        """
        pid_file = self._folder.postgres / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except (FileNotFoundError, ValueError, IndexError):
            pid = 0
        if pid and _is_postgres_of(pid, self._folder.postgres):
            log.warning("ending_orphaned_postgres", pid=pid)
            os.kill(pid, signal.SIGINT)
            async with asyncio.timeout(ORPHAN_STOP_WITHIN_S):
                # Not a child of ours: nothing tells us of its end.
                while _is_postgres_of(pid, self._folder.postgres):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        pid_file.unlink(missing_ok=True)

    def _choose_socket_folder(self) -> None:
        if len(str(self._folder.run / _SOCKET_FILE)) <= SOCKET_PATH_MAX:
            return
        self._socket_folder = Path(tempfile.mkdtemp(prefix="vespid-"))
        if (account := self._folder.account) is not None:
            os.chown(self._socket_folder, account.uid, account.gid)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    async def _make_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"), timeout=10)
        try:
            if not await connection.fetchval("select true from pg_database where datname = $1", name):
                await connection.execute(f'create database "{name}"')
        finally:
            await connection.close()


def _is_postgres_of(pid: int, data: Path) -> bool:
    """Whether this process is a postmaster on that data folder."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(argv[0]) == b"postgres" and os.fsencode(data) in argv
