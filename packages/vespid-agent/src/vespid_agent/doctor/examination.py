"""All of the doctor's checks, in the order in which one depends on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vespid_agent.config import AgentConfig
from vespid_agent.doctor import machine, network, work
from vespid_agent.doctor.finding import Finding, Level, fail
from vespid_agent.settings import AgentSettings, SettingInvalid
from vespid_agent.status.reading import read

# Stands for the agent that is not paired yet.
_NOBODY = AgentConfig(executor_id="doctor", executor_token="", gateway_ws_url="", api_base_url="")


@dataclass(frozen=True)
class Asked:
    """`api_base`, `gateway_ws_url`: tried instead of those in the config, which may be missing then."""

    config_file: Path
    environment: Mapping[str, str]
    api_base: str | None = None
    gateway_ws_url: str | None = None


async def examine(asked: Asked) -> AsyncIterator[Finding]:
    """Finding by finding, as soon as each is there."""
    yield machine.versions()
    try:
        settings = AgentSettings.from_env(asked.environment)
    except SettingInvalid as error:
        yield fail("settings", str(error), "Every other line is as if it were unset.")
        settings = AgentSettings.from_env({"HOME": str(Path.home())})
    identity, about = machine.identity(asked.config_file)
    for finding in about:
        yield finding
    reading = None if identity is None else await asyncio.to_thread(read, asked.config_file, identity.executor_id)
    if identity is not None and reading is not None:
        yield machine.process(reading)
        yield await asyncio.to_thread(machine.journal, asked.config_file, identity, reading)
    yield machine.disk("disk", asked.config_file.parent)
    yield machine.disk("workdir", settings.workdir_root)
    for finding in (*machine.descriptors(), *machine.ca_file(settings)):
        yield finding
    async for finding in network.findings(_targets(asked, identity), settings):
        yield finding
    async for finding in work.sandboxes(settings, identity or _NOBODY, asked.environment):
        yield finding
    async for finding in work.engines(settings, identity or _NOBODY, asked.environment):
        yield finding
    if reading is not None:
        for finding in machine.tools(reading):
            yield finding


def _targets(asked: Asked, identity: AgentConfig | None) -> list[network.Target]:
    found: list[network.Target] = []
    gateway = asked.gateway_ws_url or (identity.gateway_ws_url if identity else None)
    if gateway:
        found.append(network.Target("gateway", gateway, True, identity.executor_token if identity else None))
    api = asked.api_base or (identity.api_base_url if identity else None)
    if api:  # who is paired runs without it
        level: Level = "warn" if identity is not None else "fail"
        found.append(network.Target("api", f"{api.rstrip('/')}/healthz", level=level))
    return found
