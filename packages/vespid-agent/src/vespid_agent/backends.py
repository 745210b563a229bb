"""Which sandbox backends this agent has. One that is configured and missing is said so at start, and at each task."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from vespid_agent.config import AgentConfig
from vespid_agent.logs import Logger
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import Availability, Backend
from vespid_agent.sandbox.workdir import SLOTS
from vespid_agent.settings import AgentSettings

if sys.platform == "linux":
    from vespid_agent.sandbox.bubblewrap import BubblewrapBackend

_BLOCK_BYTES = 4096
# A managed agent runs the tasks of organizations that do not know each other, so each needs walls around it.
_NOT_ON_MANAGED = "a managed agent runs no task on the bare machine; use docker or bubblewrap"


@dataclass(frozen=True, slots=True)
class Backends:
    """What was found at the start of the process."""

    found: Mapping[str, Backend]
    # By name of those that are not there: why not and what to do.
    missing: Mapping[str, str]

    def why_missing(self, name: str) -> str:
        return f"this agent has no backend {name}: {self.missing.get(name, 'it is not known here')}"


async def available_backends(
    settings: AgentSettings, config: AgentConfig, environment: Mapping[str, str], log: Logger
) -> Backends:
    found: dict[str, Backend] = {}
    missing: dict[str, str] = {}
    for backend in _known(settings, config.executor_id, environment):
        refused = config.pool == "managed" and isinstance(backend, HostBackend)
        state = Availability(False, _NOT_ON_MANAGED) if refused else await backend.available()
        if state.ok:
            found[backend.name] = backend
            log.info("backend", name=backend.name, notes=list(state.notes))
            continue
        await backend.close()
        missing[backend.name] = state.reason or "it does not say why"
        say = log.error if backend.name == settings.exec_backend else log.info
        say("backend_unavailable", name=backend.name, reason=state.reason)
    return Backends(found, missing)


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
