"""`python -m vespid_agent.testing.scripted_agent`: `vespid-agent`, with the scripted engine beside its own."""

from __future__ import annotations

from vespid_agent.cli import main
from vespid_agent.testing.scripted_engine import ScriptedEngine

if __name__ == "__main__":
    main([ScriptedEngine()])
