"""Which sandbox backends this machine has. One that is configured and missing is said so at start, and at each task."""

from __future__ import annotations

from collections.abc import Mapping

from vespid_agent.logs import Logger
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.cgroup import Limits
from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.task import Backend
from vespid_agent.sandbox.workdir import SLOTS
from vespid_agent.settings import AgentSettings


async def available_backends(
    settings: AgentSettings, owner: str, environment: Mapping[str, str], log: Logger
) -> dict[str, Backend]:
    """By name, those that can run tasks here. `owner` names this agent where others share an engine."""
    found: dict[str, Backend] = {}
    for backend in _known(settings, owner, environment):
        state = await backend.available()
        if state.ok:
            found[backend.name] = backend
            log.info("backend", name=backend.name, notes=list(state.notes))
            continue
        await backend.close()
        if backend.name == settings.exec_backend:
            log.error("backend_unavailable", name=backend.name, reason=state.reason)
        else:
            log.info("backend_unavailable", name=backend.name, reason=state.reason)
    if settings.exec_backend not in found:
        log.error("exec_backend_missing", name=settings.exec_backend)
    return found


def _known(settings: AgentSettings, owner: str, environment: Mapping[str, str]) -> list[Backend]:
    grace_ms = settings.host_kill_grace_ms
    limits = Limits(memory_mb=settings.docker_memory_mb, cpus=settings.docker_cpus, pids=settings.docker_pids)
    return [
        HostBackend(kill_grace_ms=grace_ms),
        BubblewrapBackend(limits=limits, network_default=settings.docker_network_default, kill_grace_ms=grace_ms),
        DockerBackend(
            image=settings.docker_image,
            owner=owner,
            slots=settings.workdir_root / SLOTS,
            environment=environment,
            limits=limits,
            network_default=settings.docker_network_default,
            runtime=settings.docker_runtime,
            kill_grace_ms=grace_ms,
            prepared=settings.docker_prepared,
        ),
    ]
