"""Real processes for tests: each on a free port, awaited until it is ready, ended by its own id."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

BIN: Final = Path(sys.executable).parent
AGENT: Final = (str(BIN / "vespid-agent"),)
# The same with the engine `vespid.scripted.v1` beside its own.
SCRIPTED_AGENT: Final = (sys.executable, "-m", "vespid_agent.testing.scripted_agent")
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0
READY_POLL_S = 0.02

# The server processes, and the variable that names the port of each.
PORT_VARIABLES: dict[str, str] = {
    "api": "API_PORT",
    "gateway": "GATEWAY_PORT",
    "worker": "WORKER_PORT",
    "engine-runner": "ENGINE_RUNNER_PORT",
}


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningProcess:
    """A process that a test started."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log_file: Path, port: int | None) -> None:
        self.name = name
        self.port = port
        self._process = process
        self._log_file = log_file

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def log(self) -> str:
        """All that it has printed so far."""
        return self._log_file.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait for its end and answer its status."""
        async with asyncio.timeout(within_s):
            return await self._process.wait()

    async def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        await self.wait()

    async def terminate(self) -> int:
        """SIGTERM, and kill -9 when that does not end it in time."""
        self.signal(signal.SIGTERM)
        try:
            return await self.wait()
        except TimeoutError:
            await self.kill()
            raise

    async def has_printed(self, text: str, within_s: float = READY_WITHIN_S) -> None:
        """Wait until it has printed this."""
        try:
            async with asyncio.timeout(within_s):
                while text not in self.log():
                    if self.returncode is not None and text not in self.log():
                        pytest.fail(f"{self.name} ended with {self.returncode} before {text!r}:\n{self.log()}")
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            pytest.fail(f"{self.name} did not print {text!r}:\n{self.log()}")

    async def is_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until it answers 200 on /readyz."""
        said = ""
        try:
            async with asyncio.timeout(within_s), aiohttp.ClientSession() as http:
                while True:
                    if self.returncode is not None:
                        pytest.fail(f"{self.name} ended with status {self.returncode}:\n{self.log()}")
                    try:
                        async with http.get(f"{self.url}/readyz") as answer:
                            if answer.status == 200:
                                return
                            said = await answer.text()
                    except aiohttp.ClientError as error:
                        said = str(error)
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            pytest.fail(f"{self.name} was not ready in {within_s} s ({said}):\n{self.log()}")


class Processes:
    """Starts processes with one environment, and ends those that a test left running."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        # The environment of every process; a test may change it before it starts one.
        self.env = dict(env)
        self._started: list[RunningProcess] = []

    @property
    def api_url(self) -> str:
        """Where the API listens, or will."""
        return f"http://127.0.0.1:{self.env['API_PORT']}"

    @property
    def gateway_url(self) -> str:
        """Where the gateway listens, or will."""
        return f"http://127.0.0.1:{self.env['GATEWAY_PORT']}"

    async def start(self, command: str, *args: str, ready: bool = True, **env: str) -> RunningProcess:
        """Start `vespid <command>` and wait until it is ready. Further variables replace those of `env`."""
        merged = {**self.env, **env}
        variable = PORT_VARIABLES.get(command)
        port = int(merged[variable]) if variable else None
        process = await self.run([str(BIN / "vespid"), command, *args], command, merged, port=port)
        if ready and port is not None:
            await process.is_ready()
        return process

    def running(self, name: str) -> list[RunningProcess]:
        """Processes of that name that have not ended."""
        return [process for process in self._started if process.name == name and process.returncode is None]

    async def start_agent(
        self,
        *args: str,
        home: Path | None = None,
        name: str = "agent",
        program: Sequence[str] = AGENT,
        **env: str,
    ) -> RunningProcess:
        """Start `vespid-agent <args>` with a home folder of its own."""
        home = home or self.folder / f"{name}-home"
        home.mkdir(parents=True, exist_ok=True)
        merged = {"PATH": os.environ["PATH"], "HOME": str(home), "VESPID_ENV": "test", **env}
        return await self.run([*program, *args], name, merged)

    async def run(
        self, argv: list[str], name: str, env: Mapping[str, str], *, port: int | None = None
    ) -> RunningProcess:
        """Start any program; its output goes to a file of the test's folder."""
        log_file = self.folder / f"{name}-{len(self._started)}.log"
        with log_file.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env),
                cwd=self.folder,
                start_new_session=True,
            )
        process = RunningProcess(name, child, log_file, port)
        self._started.append(process)
        return process

    async def stop(self) -> None:
        """End what still runs, the last started first."""
        for process in reversed(self._started):
            if process.returncode is None:
                process.signal(signal.SIGTERM)
                try:
                    await process.wait(5)
                except TimeoutError:
                    await process.kill()


def server_env(database_url: str, redis_url: str) -> dict[str, str]:
    """The environment of a whole installation on free ports, with secrets of its own."""
    api, gateway, worker, engine_runner = (free_port() for _ in range(4))
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "VESPID_ENV": "test",
        "WORKFLOW_RETRY_BACKOFF_MS": "500",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "API_HOST": "127.0.0.1",
        "API_PORT": str(api),
        "WEB_BASE_URL": f"http://127.0.0.1:{api}",
        "AUTH_TOKEN_SECRET": secrets.token_urlsafe(32),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(gateway),
        "GATEWAY_HTTP_URL": f"http://127.0.0.1:{gateway}",
        "GATEWAY_WS_URL": f"ws://127.0.0.1:{gateway}/ws/executor",
        "GATEWAY_SERVICE_TOKEN": secrets.token_urlsafe(32),
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": str(worker),
        "ENGINE_RUNNER_HOST": "127.0.0.1",
        "ENGINE_RUNNER_PORT": str(engine_runner),
        "ENGINE_RUNNER_BASE_URL": f"http://127.0.0.1:{engine_runner}",
        "ENGINE_RUNNER_TOKEN": secrets.token_urlsafe(32),
        "SECRETS_KEK_ID": "test-1",
        "SECRETS_KEK_BASE64": b64encode(secrets.token_bytes(32)).decode(),
    }


@pytest_asyncio.fixture
async def processes(tmp_path: Path, database_url: str, redis_url: str) -> AsyncIterator[Processes]:
    """Starts server and agent processes on this test's database and Redis."""
    started = Processes(tmp_path, server_env(database_url, redis_url))
    yield started
    await started.stop()


@pytest_asyncio.fixture
async def installation(processes: Processes) -> Processes:
    """An API, a gateway and a worker, all ready, each a process of its own."""
    await asyncio.gather(processes.start("api"), processes.start("gateway"), processes.start("worker"))
    return processes
