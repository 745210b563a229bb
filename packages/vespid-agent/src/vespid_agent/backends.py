"""Which sandbox backends this agent has. One that is configured and missing is said so at start, and at each task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence

from vespid_agent.config import AgentConfig
from vespid_agent.logs import Logger
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import Availability, Backend, SandboxError
from vespid_agent.sandbox.workdir import SLOTS
from vespid_agent.settings import AgentSettings

if sys.platform == "linux":
    from vespid_agent.sandbox.bubblewrap import BubblewrapBackend

# How long it takes at most to notice that an engine came or went.
LOOK_S = 15.0

_BLOCK_BYTES = 4096
# A managed agent runs the tasks of organizations that do not know each other, so each needs walls around it.
_ON_MANAGED = ("docker", "bubblewrap")
_NOT_ON_MANAGED = "a managed agent runs no task on the bare machine; use docker or bubblewrap"


class ManagedPoolUnsafe(Exception):
    """MANAGED_POOL_REQUIRES_CONTAINER_SANDBOX: a managed agent does not start without one."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"MANAGED_POOL_REQUIRES_CONTAINER_SANDBOX: {reason}")


class Backends:
    """Those of this machine: tried when the agent starts, and again now and then, for an engine may come and go."""

    def __init__(
        self, known: Sequence[Backend], log: Logger, *, defaults: Sequence[str], refused: Mapping[str, str]
    ) -> None:
        """`defaults`: what tasks get that name none, the first of them that is found. `refused`: why some are not used
        here, whatever they can."""
        self._known = known
        self._log = log
        self._defaults = tuple(defaults)
        self._refused = refused
        # By name, those that can run tasks.
        self.found: dict[str, Backend] = {}
        # By name of the others: why not and what to do.
        self._missing: dict[str, str] = {}
        # By name: what the last look at each said.
        self.states: dict[str, Availability] = {}

    @property
    def default(self) -> str:
        """What a task gets that names none; it may be missing."""
        return next((name for name in self._defaults if name in self.found), self._defaults[0])

    def why_missing(self, name: str) -> str:
        return f"this agent has no backend {name}: {self._missing.get(name, 'it is not known here')}"

    async def look(self) -> bool:
        """Try each. Whether others are found than before."""
        before = set(self.found)
        for backend in self._known:
            refused = self._refused.get(backend.name)
            state = Availability(False, refused) if refused else await backend.available()
            self.states[backend.name] = state
            if state.ok:
                self._have(backend, state)
            else:
                self._miss(backend, state.reason or "it does not say why")
        return before != set(self.found)

    async def sweep(self) -> None:
        """Have each that is found end what an earlier process of this agent left."""
        for backend in self.found.values():
            await self._sweep(backend)

    async def watch(self, changed: Callable[[], None]) -> None:
        """The task that looks again; `changed` is told when others are found."""
        while True:
            await asyncio.sleep(LOOK_S)
            before = set(self.found)
            if await self.look():
                for name in set(self.found) - before:
                    await self._sweep(self.found[name])
                changed()

    async def close(self) -> None:
        for backend in self._known:
            await backend.close()

    def _have(self, backend: Backend, state: Availability) -> None:
        self._missing.pop(backend.name, None)
        if backend.name not in self.found:
            self.found[backend.name] = backend
            self._log.info("backend", name=backend.name, notes=list(state.notes))

    def _miss(self, backend: Backend, reason: str) -> None:
        self.found.pop(backend.name, None)
        if self._missing.get(backend.name) != reason:
            self._missing[backend.name] = reason
            say = self._log.error if self._defaults == (backend.name,) else self._log.info
            say("backend_unavailable", name=backend.name, reason=reason)

    async def _sweep(self, backend: Backend) -> None:
        try:
            await backend.sweep()
        except SandboxError as error:
            self._log.error("sweep_failed", backend=backend.name, error=str(error))


def backends_of(settings: AgentSettings, config: AgentConfig, environment: Mapping[str, str], log: Logger) -> Backends:
    """Those this version knows; none is tried yet. Raises ManagedPoolUnsafe where `host` is asked for."""
    known = _known(settings, config.executor_id, environment)
    chosen = settings.exec_backend
    if config.pool != "managed":
        return Backends(known, log, defaults=(chosen or HostBackend.name,), refused={})
    if chosen == HostBackend.name:
        raise ManagedPoolUnsafe(f"VESPID_AGENT_EXEC_BACKEND is {chosen}, and {_NOT_ON_MANAGED}")
    defaults = (chosen,) if chosen else _ON_MANAGED
    return Backends(known, log, defaults=defaults, refused={HostBackend.name: _NOT_ON_MANAGED})


def require_walls(backends: Backends, config: AgentConfig) -> None:
    """Once they were tried. Raises ManagedPoolUnsafe for a managed agent that found none it may use."""
    if config.pool == "managed" and not backends.found:
        reasons = "; ".join(backends.why_missing(name) for name in _ON_MANAGED)
        raise ManagedPoolUnsafe(f"{_NOT_ON_MANAGED}. {reasons}")


def _known(settings: AgentSettings, owner: str, environment: Mapping[str, str]) -> list[Backend]:
    """`owner` names this agent where others share an engine."""
    grace_ms = settings.host_kill_grace_ms
    # A little more than the quota, so that a file which was stopped by it is seen to have gone beyond.
    file_bytes = settings.workdir_quota_mb * 1024 * 1024 + _BLOCK_BYTES if settings.workdir_quota_mb else 0
    limits = Limits(memory_mb=settings.docker_memory_mb, cpus=settings.docker_cpus, pids=settings.docker_pids)
    network = settings.docker_network_default
    known: list[Backend] = [HostBackend(kill_grace_ms=grace_ms, file_bytes=file_bytes)]
    if sys.platform == "linux":
        known.append(
            BubblewrapBackend(limits=limits, network_default=network, kill_grace_ms=grace_ms, file_bytes=file_bytes)
        )
    known.append(
        DockerBackend(
            image=settings.docker_image,
            owner=owner,
            slots=settings.workdir_root / SLOTS,
            environment=environment,
            limits=limits,
            network_default=network,
            runtime=settings.docker_runtime,
            kill_grace_ms=grace_ms,
            prepared=settings.docker_prepared,
            work_bytes=file_bytes,
        )
    )
    return known
