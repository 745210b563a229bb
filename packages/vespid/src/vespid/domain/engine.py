"""The engines that a workflow or session may name. The table is the runtime's, for agents go by it too."""

from __future__ import annotations

from vespid_runtime.engines.names import CLAUDE, CODEX, ECHO, ENGINES, LOOP, SPELLINGS, canonical_engine

__all__ = ["CLAUDE", "CODEX", "ECHO", "ENGINES", "LOOP", "SPELLINGS", "canonical_engine"]
