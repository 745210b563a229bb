"""Which sandbox backends this machine has. One that is configured and missing is said so at start, and at each task."""

from __future__ import annotations

from vespid_agent.logs import Logger
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.cgroup import Limits
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.task import Backend
from vespid_agent.settings import AgentSettings


async def available_backends(settings: AgentSettings, log: Logger) -> dict[str, Backend]:
    """By name, those that can run tasks here."""
    found: dict[str, Backend] = {}
    for backend in _known(settings):
        state = await backend.available()
        if state.ok:
            found[backend.name] = backend
            log.info("backend", name=backend.name, notes=list(state.notes))
        elif backend.name == settings.exec_backend:
            log.error("backend_unavailable", name=backend.name, reason=state.reason)
    if settings.exec_backend not in found:
        log.error("exec_backend_missing", name=settings.exec_backend)
    return found


def _known(settings: AgentSettings) -> list[Backend]:
    grace_ms = settings.host_kill_grace_ms
    limits = Limits(memory_mb=settings.docker_memory_mb, cpus=settings.docker_cpus, pids=settings.docker_pids)
    return [
        HostBackend(kill_grace_ms=grace_ms),
        BubblewrapBackend(limits=limits, network_default=settings.docker_network_default, kill_grace_ms=grace_ms),
    ]
