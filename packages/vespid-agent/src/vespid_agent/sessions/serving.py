"""What sessions are served with on this host."""

from __future__ import annotations

from dataclasses import dataclass

from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.sessions.open_sessions import OpenSessions
from vespid_agent.sessions.workspaces import Workspaces
from vespid_agent.tools.kit import Kit
from vespid_runtime.engines.registry import Engines


@dataclass(frozen=True, slots=True)
class Serving:
    """Of one agent."""

    engines: Engines
    kit: Kit
    workdirs: Workdirs
    workspaces: Workspaces
    open: OpenSessions
