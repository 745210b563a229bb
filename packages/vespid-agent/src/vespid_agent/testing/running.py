"""Agents for tests: one inside the test's own process, and a real process for everything about kills and signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from vespid_agent import config
from vespid_agent.clock import MonotonicMs, suspend_aware_ms
from vespid_agent.config import AgentConfig, Pool
from vespid_agent.process import run_agent
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import EXECUTOR_ID, TOKEN, FakeGateway
from vespid_runtime.engines.engine import Engine


async def appears(path: Path) -> None:
    """Returns when a task, a process of its own, has made the file."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110  (a file tells nobody)
            await asyncio.sleep(0.02)


def identity(gateway: FakeGateway, pool: Pool = "byon") -> AgentConfig:
    """The identity that the fake gateway knows."""
    return AgentConfig(
        executor_id=EXECUTOR_ID,
        executor_token=TOKEN,
        gateway_ws_url=gateway.ws_url,
        api_base_url=gateway.http_url,
        name="under test",
        pool=pool,
    )


class InProcessAgent:
    """`run_agent` as a task that reconnects without delay. Its files are below `home`."""

    def __init__(
        self,
        gateway: FakeGateway,
        home: Path,
        settings: AgentSettings | None = None,
        environment: Mapping[str, str] | None = None,
        pool: Pool = "byon",
        engines: Sequence[Engine] = (),
        monotonic_ms: MonotonicMs = suspend_aware_ms,
    ) -> None:
        """`engines`: beside those of every agent."""
        self.gateway = gateway
        self.pool: Pool = pool
        self.home = home
        self.journal = home / "journal.sqlite"
        self.status = home / "status.json"
        self._settings = settings or AgentSettings(drain_ms=0)
        self._environment = environment or {}
        self._engines = tuple(engines)
        self._monotonic_ms = monotonic_ms
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        settings = msgspec.structs.replace(self._settings, workdir_root=self.home / "work")
        lock = self.journal.with_suffix(".lock")
        who = identity(self.gateway, self.pool)
        run = run_agent(
            who,
            settings,
            self.journal,
            lock,
            self.status,
            self._environment,
            monotonic_ms=self._monotonic_ms,
            jitter=lambda: 0.0,
            more_engines=self._engines,
        )
        self._task = asyncio.create_task(run, name="agent under test")

    async def stop(self) -> None:
        """Ends it as a crash of the loop would: no drain."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def ended(self) -> None:
        """Returns, or raises what ended it."""
        assert self._task is not None
        task, self._task = self._task, None
        await task


class AgentProcess:
    """`vespid-agent start` as a process of its own. Its files are below `home`; so is its log."""

    def __init__(
        self, gateway: FakeGateway, home: Path, environment: dict[str, str] | None = None, *, scripted: bool = False
    ) -> None:
        """`scripted`: with the scripted engine beside its own."""
        self.gateway = gateway
        self.home = home
        self.log = home / "agent.log"
        self.config = home / "agent.json"
        self.journal = home / f"journal-{EXECUTOR_ID}.sqlite"
        # Of its next start.
        self.environment = dict(environment or {})
        self._module = "vespid_agent.testing.scripted_agent" if scripted else "vespid_agent"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        config.save(self.config, identity(self.gateway))
        environment = {
            **os.environ,
            "VESPID_AGENT_WORKDIR_ROOT": str(self.home / "work"),
            "VESPID_AGENT_LOG_LEVEL": "debug",
            **self.environment,
        }
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                "start",
                "--config",
                str(self.config),
                env=environment,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """kill -9, and it is gone."""
        assert self._process is not None
        self._process.kill()
        await self.exit_code()

    async def exit_code(self) -> int:
        """Waits for the end."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Whatever state it is in, it is gone afterwards."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()
