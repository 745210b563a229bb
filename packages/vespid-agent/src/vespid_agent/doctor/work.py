"""What work needs: the sandboxes, tried as the agent tries them, and the programs behind engines."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import structlog

from vespid_agent.backends import Backends, ManagedPoolUnsafe, backends_of, require_walls
from vespid_agent.config import AgentConfig
from vespid_agent.doctor.finding import Finding, fail, ok, warn
from vespid_agent.engines.programs import programs_of
from vespid_agent.settings import AgentSettings

# Nothing is logged: what is found is told.
_SILENT = structlog.wrap_logger(structlog.PrintLogger(file=sys.stderr), processors=[lambda *_: _dropped()])


def _dropped() -> dict[str, object]:
    raise structlog.DropEvent


async def sandboxes(
    settings: AgentSettings, who: AgentConfig, environment: Mapping[str, str]
) -> AsyncIterator[Finding]:
    """Each is asked whether it could run a task now; the exact cause where it could not."""
    try:
        backends = backends_of(settings, who, environment, _SILENT)
    except ManagedPoolUnsafe as error:
        yield fail("sandbox", str(error), "Unset VESPID_AGENT_EXEC_BACKEND.")
        return
    try:
        await backends.look()
        for name in backends.states:
            yield _sandbox(backends, name)
        require_walls(backends, who)
    except ManagedPoolUnsafe as error:
        yield fail("sandbox", str(error), "Make one of them work.")
    finally:
        await backends.close()


def _sandbox(backends: Backends, name: str) -> Finding:
    state, is_default = backends.states[name], name == backends.default
    check = f"sandbox {name}"
    if state.ok:
        notes = f": {'; '.join(state.notes)}" if state.notes else ""
        return ok(check, f"usable{', and the default' if is_default else ''}{notes}")
    found = state.reason or "it does not say why"
    if is_default:
        return fail(check, f"the default, and not usable: {found}", "Mend it, or set VESPID_AGENT_EXEC_BACKEND.")
    return warn(check, f"not usable: {found}")


async def engines(settings: AgentSettings, who: AgentConfig, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Claude Code and Codex: there, of a version that is good, and logged in."""
    with tempfile.TemporaryDirectory(prefix="vespid-doctor-") as folder:
        programs = programs_of(settings, who.pool, Path(folder), environment, _SILENT)
        await programs.look()
    for state in programs.states or ():
        check, version = f"engine {state.id}", "" if state.version is None else f"{state.version} "
        if not state.available:
            yield warn(check, f"{version}not offered: {state.problem}")
        elif state.logged_in is False:
            yield warn(check, f"{version}works, and is not logged in", state.problem)
        else:
            yield ok(check, f"{version}at {state.path}, logged in")
