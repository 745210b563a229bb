"""What is measured: the whole server in one process on an embedded PostgreSQL (fsync on) and Valkey, as `vespid up`."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from tests.bench.executor import Executor

from vespid.local.account import server_account
from vespid.local.binaries import find_binaries
from vespid.local.folder import DataFolder
from vespid.local.postgres import EmbeddedPostgres
from vespid.local.valkey import EmbeddedValkey, free_port

READY_S = 30.0


class Installation:
    """Databases, the server process, and an organization in it. An async context manager."""

    def __init__(self) -> None:
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.service_token = secrets.token_urlsafe(24)
        self.api_port, self.gateway_port, engine_port = free_port(), free_port(), free_port()
        self.api = f"http://127.0.0.1:{self.api_port}"
        self.gateway = f"http://127.0.0.1:{self.gateway_port}"
        self.org_id = ""
        self.headers: dict[str, str] = {}
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/tmp"),
            "VESPID_ENV": "local",
            "VESPID_LOG_LEVEL": "warning",
            "GATEWAY_LOG_LEVEL": "warning",
            "API_PORT": str(self.api_port),
            "GATEWAY_PORT": str(self.gateway_port),
            "ENGINE_RUNNER_PORT": str(engine_port),
            "GATEWAY_SERVICE_TOKEN": self.service_token,
            # The limits are not what is measured.
            "GATEWAY_ORG_MAX_INFLIGHT": "100000",
            "VESPID_RATE_LIMIT_ENABLED": "0",
        }
        self._folder = Path(tempfile.mkdtemp(prefix="vespid-bench-"))
        self._folder.chmod(0o755)
        self._server: asyncio.subprocess.Process | None = None
        account = server_account()
        self._data = DataFolder(self._folder / "databases", account)
        binaries = find_binaries(account)
        self._postgres = EmbeddedPostgres(self._data, binaries)
        self._valkey = EmbeddedValkey(self._data, binaries)

    @property
    def database_url(self) -> str:
        return self._env["DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        return self._env["REDIS_URL"]

    @property
    def server_pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    async def __aenter__(self) -> "Installation":
        await self._data.start()
        await self._postgres.start()
        await self._valkey.start()
        external = os.environ.get("VESPID_TEST_DATABASE_URL")
        self._env["DATABASE_URL"] = external or self._postgres.url()
        self._env["REDIS_URL"] = self._valkey.url
        self._server = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "vespid"), "up", "--data", str(self._folder / "server")),
            env=self._env,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await self._ready()
        await self._sign_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        if self._server is not None and self._server.returncode is None:
            self._server.terminate()
            await self._server.wait()
        await self._valkey.stop()
        await self._postgres.stop()
        await self._data.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def executor(self, count: int = 1) -> list[Executor]:
        """Paired executors, not connected yet."""
        return [Executor(self.executor_url, await self.pair()) for _ in range(count)]

    @property
    def executor_url(self) -> str:
        return f"ws://127.0.0.1:{self.gateway_port}/ws/executor"

    async def pair(self) -> str:
        """The token of a new agent."""
        token = (await self.call("POST", f"/v1/orgs/{self.org_id}/agents/pairing-tokens"))["token"]
        return str((await self.call("POST", "/v1/agents/pair", {"pairingToken": token, "name": "bench"}))["agentToken"])

    async def call(self, method: str, path: str, body: object = None) -> Any:
        async with self.http.request(method, self.api + path, json=body, headers=self.headers) as answer:
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def _ready(self) -> None:
        async with asyncio.timeout(READY_S):
            for url in (self.api, self.gateway):
                while True:
                    try:
                        async with self.http.get(url + "/readyz") as answer:
                            if answer.status == 200:
                                break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.05)

    async def _sign_up(self) -> None:
        body = {"email": f"{secrets.token_hex(6)}@example.com", "password": secrets.token_urlsafe(16)}
        signed = await self.call("POST", "/v1/auth/signup", body)
        self.headers = {"Authorization": f"Bearer {signed['session']['token']}"}
        self.org_id = (await self.call("GET", "/v1/me"))["defaultOrgId"]
        self.headers["X-Org-Id"] = self.org_id
