"""The whole system in one process and one event loop.

The databases are embedded unless DATABASE_URL and REDIS_URL say otherwise; secrets are made at the first start and
kept. Everything else is what the processes are when they run alone, with the same settings from the same names.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from vespid.local.account import server_account
from vespid.local.binaries import Binaries, find_binaries
from vespid.local.downloads import offered
from vespid.local.folder import DataFolder
from vespid.local.keys import kept_secrets
from vespid.local.postgres import EmbeddedPostgres
from vespid.local.valkey import EmbeddedValkey
from vespid.service import Service, Stack
from vespid.settings import ApiSettings, EngineRunnerSettings, GatewaySettings, WorkerSettings
from vespid.store.migrate import MigrationFailed, migrate

LOOPBACK = "127.0.0.1"

_DEFAULTS = {
    "VESPID_ENV": "local",
    "API_HOST": LOOPBACK,
    "API_PORT": "3001",
    "GATEWAY_HOST": LOOPBACK,
    "GATEWAY_PORT": "3002",
    "ENGINE_RUNNER_HOST": LOOPBACK,
    "ENGINE_RUNNER_PORT": "3003",
}


class LocalStack:
    """Databases, api, gateway, worker and engine-runner: started in that order, stopped in reverse."""

    def __init__(self, folder: Path, env: Mapping[str, str], *, tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` is given a line for people before each step that takes time."""
        self._env = {**_DEFAULTS, **{name: value for name, value in env.items() if value}}
        self._tell = tell
        self._account = server_account()
        self._folder = DataFolder(folder, self._account)
        self._running: Stack | None = None
        self._turn = asyncio.Lock()
        self._databases: list[Service] = []

    @property
    def folder(self) -> DataFolder:
        """Where the data is."""
        return self._folder

    @property
    def api_url(self) -> str:
        """Where people and agents find the API."""
        return f"http://{_reachable(self._env['API_HOST'])}:{self._env['API_PORT']}"

    @property
    def gateway_url(self) -> str:
        """Where the gateway listens."""
        return f"http://{_reachable(self._env['GATEWAY_HOST'])}:{self._env['GATEWAY_PORT']}"

    async def start(self) -> None:
        """Start everything. What had been started is stopped again when a later step fails."""
        async with self._turn:
            if self._running is not None:
                return
            try:
                await self._folder.start()
                env = {**self._env, **await asyncio.to_thread(kept_secrets, self._folder.keys, self._env)}
                env |= await self._start_databases(env)
                self._tell("Bringing the schema up to date")
                await self._migrate(env["DATABASE_URL"])
                self._tell("Starting api, gateway, worker and engine-runner")
                running = Stack(self._make_processes(self._with_addresses(env)))
                await running.start()
                self._running = running
            except BaseException:
                await self._stop_databases()
                await self._folder.stop()
                raise

    async def stop(self) -> None:
        """Stop everything, the databases last."""
        async with self._turn:
            try:
                if self._running is not None:
                    running, self._running = self._running, None
                    await running.stop()
            finally:
                await self._stop_databases()
                await self._folder.stop()

    async def _start_databases(self, env: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        if "DATABASE_URL" in env and "REDIS_URL" in env:
            return found
        binaries = await asyncio.to_thread(self._find_binaries)
        if "DATABASE_URL" not in env:
            is_new = not self._folder.postgres.exists()
            self._tell("Making a PostgreSQL database (once)" if is_new else "Starting PostgreSQL")
            postgres = EmbeddedPostgres(self._folder, binaries)
            self._databases.append(postgres)
            await postgres.start()
            found["DATABASE_URL"] = postgres.url()
        if "REDIS_URL" not in env:
            self._tell("Starting Valkey")
            valkey = EmbeddedValkey(self._folder, binaries)
            self._databases.append(valkey)
            await valkey.start()
            found["REDIS_URL"] = valkey.url
        return found

    async def _migrate(self, url: str) -> None:
        try:
            await migrate(url)
        except MigrationFailed as failed:
            if "DATABASE_URL" in self._env:
                raise
            raise MigrationFailed(f"{failed} (this one is {self._folder.path})") from failed

    async def _stop_databases(self) -> None:
        while self._databases:
            await self._databases.pop().stop()

    def _find_binaries(self) -> Binaries:
        return find_binaries(self._account)

    def _with_addresses(self, env: Mapping[str, str]) -> dict[str, str]:
        gateway = f"{_reachable(env['GATEWAY_HOST'])}:{env['GATEWAY_PORT']}"
        engine_runner = f"{_reachable(env['ENGINE_RUNNER_HOST'])}:{env['ENGINE_RUNNER_PORT']}"
        return {
            "GATEWAY_HTTP_URL": f"http://{gateway}",
            "GATEWAY_WS_URL": f"ws://{gateway}/ws/executor",
            "ENGINE_RUNNER_BASE_URL": f"http://{engine_runner}",
            "WEB_BASE_URL": self.api_url,
            **offered(env),
            **env,
        }

    def _make_processes(self, env: Mapping[str, str]) -> list[Service]:
        from vespid.control.app import create_service
        from vespid.dispatch.house import House
        from vespid.dispatch.starter import RunStarter
        from vespid.engine_runner.service import EngineRunnerService
        from vespid.gateway.service import GatewayService, own_address
        from vespid.web import pages
        from vespid.worker.service import WorkerService

        gateway_settings = GatewaySettings.from_env({**env, "GATEWAY_ROLE": "all"})
        # One for all of them: what they say to each other stays in this process.
        house = House(gateway_settings, "gateway", address=own_address(gateway_settings))
        # Made first: the worker gives the house its cloud, and whoever is made after it finds that.
        worker = WorkerService(WorkerSettings.from_env(env), house)
        runs = RunStarter(house)
        return [
            house,
            EngineRunnerService(EngineRunnerSettings.from_env(env)),
            runs,
            create_service(ApiSettings.from_env(env), mail=house.mail, fanout=house.fanout, runs=runs, pages=pages()),
            GatewayService(gateway_settings, house),
            worker,
        ]


def _reachable(host: str) -> str:
    """The address to call for an address to listen on."""
    return LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104
